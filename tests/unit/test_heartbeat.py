"""By which `status --health` judges a daemon that does not listen."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from volferry.cli.heartbeat import Heartbeat, why_not_well
from volferry.daemon_lock import daemon_lock

if TYPE_CHECKING:
    from pathlib import Path


def test_a_daemon_that_beats_is_well_and_one_that_is_gone_is_not(tmp_path: Path) -> None:
    assert "no daemon works with" in why_not_well(tmp_path)
    with daemon_lock(tmp_path):
        Heartbeat(tmp_path).beat()
        assert why_not_well(tmp_path) == ""
    assert "no daemon works with" in why_not_well(tmp_path)


@pytest.mark.parametrize("seconds", [601, -5])
def test_one_that_was_silent_for_long_or_beat_before_the_machine_started_is_not_well(
    tmp_path: Path, seconds: float
) -> None:
    with daemon_lock(tmp_path):
        Heartbeat(tmp_path).beat()
        (beat,) = tmp_path.glob("daemon.beat")
        beat.write_text(f"{time.clock_gettime(time.CLOCK_BOOTTIME) - seconds}\n")
        assert "nothing was done for" in why_not_well(tmp_path)


def test_a_link_in_place_of_its_file_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("mine")
    (tmp_path / "daemon.beat").symlink_to(target)
    Heartbeat(tmp_path).beat()
    assert target.read_text() == "mine"
