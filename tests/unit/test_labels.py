"""Labels of volumes and containers: their values, and who may say what."""

from __future__ import annotations

import pytest

from volferry.config import Config
from volferry.errors import ConfigError
from volferry.labels import settings_of_labels
from volferry.model import Volume
from volferry.volume_settings import VolumeSettings


def volume(**labels: str) -> Volume:
    return Volume(
        "pgdata", "local", {}, {f"volferry.{key}": value for key, value in labels.items()}, "local", ""
    )


class TestLimitsOfStandingStill:
    def test_labels_come_before_the_configuration(self) -> None:
        config = Config(defaults=VolumeSettings(quiesce_after="10m", max_downtime="2h"))  # type: ignore[arg-type]
        labels = {"quiesce-after": "0s", "quiesce-window": "1h30m"}

        settings = config.settings_of(volume(**labels))

        assert (settings.quiesce_after, settings.quiesce_window) == ("0s", "1h30m")
        assert settings.max_downtime == "2h"

    @pytest.mark.parametrize("name", ["quiesce-after", "quiesce-window", "max-downtime"])
    @pytest.mark.parametrize("value", ["soon", "-1h", "1y", "", f"{'9' * 40}w", f"{'9' * 5000}w"])
    def test_what_is_no_span_is_refused_with_its_label(self, name: str, value: str) -> None:
        with pytest.raises(ConfigError, match=rf"volume x: label volferry\.{name}: .*span"):
            settings_of_labels({f"volferry.{name}": value}, of="volume x")

    def test_a_service_may_stand_still_for_a_second_at_least(self) -> None:
        with pytest.raises(ConfigError, match=r"volferry\.max-downtime: it should be 1s at least"):
            settings_of_labels({"volferry.max-downtime": "0s"}, of="volume x")
