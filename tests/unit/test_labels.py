"""Labels of volumes and containers: their values, and who may say what."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import docker.errors
import pytest

from volferry.checked import value_of
from volferry.config import Config, contradictions
from volferry.engine.exec import run_in_container
from volferry.engine.volumes import list_volumes
from volferry.errors import ConfigError, EngineError
from volferry.host_command import run_on_host
from volferry.label_rights import LabelsConfig, doubtful, labels_of_retention
from volferry.labels import ContainerCommand, dumps_of, hooks_of, settings_of_labels
from volferry.model import Volume, VolumeUse
from volferry.retention import Keep
from volferry.scheduler.agenda import scheduled_of
from volferry.store_config import StoreConfig
from volferry.volume_settings import VolumeSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

STORE = StoreConfig(url="/store")
ONE_OFF = {"com.docker.compose.oneoff": "True"}
GRABBING = {
    "volferry.keep.last": "1",
    "volferry.keep.daily": "0",
    "volferry.keep.monthly": "0",
    "volferry.exclude": "*",
    "volferry.enable": "false",
    "volferry.one-file-system": "true",
    "volferry.suspicious": "false",
}
CONFIG = Config(
    defaults=value_of(
        {"schedule": "0 2 * * *", "keep": {"daily": 30, "monthly": 12}, "exclude": ["*.tmp"]}, VolumeSettings
    )
)


def volume(*uses: VolumeUse, **labels: str) -> Volume:
    own = {f"volferry.{key}": value for key, value in labels.items()}
    return Volume("pgdata", "local", {}, own, "local", "", uses)


def use(
    labels: Mapping[str, str],
    state: str = "running",
    *,
    name: str = "db",
    read_write: bool = True,
    image_known: bool = True,
    lately: bool = False,
) -> VolumeUse:
    return VolumeUse(
        name,
        name * 3,
        "image",
        state,
        "/data",
        read_write,
        labels=labels,
        image_known=image_known,
        lately=lately,
    )


def test_a_container_that_writes_and_runs_rules_its_volume() -> None:
    found = volume(use(GRABBING))
    assert CONFIG.settings_of(found).exclude == ("*",)
    assert CONFIG.keep_of(found, STORE) == Keep(last=1)
    assert scheduled_of([found], CONFIG) == ([], {})


class TestOthersDecideNothingAboutWhatIsKeptEnabledAndExcluded:
    @pytest.mark.parametrize(
        "who",
        [
            use(GRABBING, read_write=False),
            use(GRABBING, "exited"),
            use(GRABBING, "dead"),
            use(GRABBING, "exited", read_write=False),
            use({**GRABBING, **ONE_OFF}),
            use(GRABBING, image_known=False),
        ],
        ids=["read-only", "exited", "dead", "exited, read-only", "one-off", "image gone"],
    )
    def test_they_do_not(self, who: VolumeUse) -> None:
        found = volume(who)
        settings = CONFIG.settings_of(found)
        assert (settings.exclude, settings.enable, settings.one_file_system) == (("*.tmp",), None, None)
        assert settings.suspicious is None
        keep = CONFIG.keep_of(found, STORE)
        assert (keep.daily, keep.monthly) == (30, 12)
        scheduled, wrong = scheduled_of([found], CONFIG)
        assert ([each.volume for each in scheduled], wrong) == (["pgdata"], {})

    @pytest.mark.parametrize("who", [use({}, read_write=False), use(ONE_OFF)], ids=["read-only", "one-off"])
    def test_nor_do_some_about_anything_else(self, who: VolumeUse) -> None:
        said = {
            "volferry.quiesce": "stop",
            "volferry.schedule": "@yearly",
            "volferry.ping": "http://169.254.169.254/",
            "volferry.keep.last": "9",
            "volferry.quiese": "typo",
        }
        other = use({**said, **who.labels}, read_write=who.read_write)
        assert CONFIG.settings_of(volume(other)) == CONFIG.settings_of(volume())
        assert CONFIG.keep_of(volume(other), STORE) == CONFIG.keep_of(volume(), STORE)


class TestAServiceThatIsOff:
    def test_it_keeps_its_schedule_and_what_it_keeps(self) -> None:
        said = {
            "volferry.schedule": "every 1h",
            "volferry.quiesce": "stop",
            "volferry.keep.daily": "90",
            "volferry.keep.monthly": "1",
            "volferry.ping": "https://hc.example/1",
        }
        found = volume(use(said, "exited"))
        settings = CONFIG.settings_of(found)
        assert (settings.schedule, settings.quiesce, settings.ping) == (
            "every 1h",
            "stop",
            said["volferry.ping"],
        )
        assert CONFIG.keep_of(found, STORE) == Keep(daily=90, monthly=12)
        assert Config().keep_of(found, STORE).is_empty

    def test_one_that_runs_comes_before_it(self) -> None:
        old = use({"volferry.schedule": "@yearly", "volferry.quiesce": "none"}, "exited", name="a")
        new = use({"volferry.schedule": "@hourly", "volferry.quiesce": "stop"}, name="b")
        settings = CONFIG.settings_of(volume(old, new))
        assert (settings.schedule, settings.quiesce) == ("@hourly", "stop")

    def test_it_is_not_off_while_it_is_made_anew(self) -> None:
        assert (
            scheduled_of([volume(use({"volferry.enable": "false"}, "exited", lately=True))], CONFIG)[0] == []
        )

    def test_its_mistakes_are_the_volumes(self) -> None:
        with pytest.raises(ConfigError, match="container db: there is no label"):
            CONFIG.settings_of(volume(use({"volferry.quiese": "stop"}, "exited")))

    def test_what_the_volume_says_counts(self) -> None:
        assert scheduled_of([volume(use({}, "exited"), enable="false")], CONFIG)[0] == []


class TestAnImageThatIsGone:
    def test_its_mistakes_are_nobodys(self) -> None:
        assert CONFIG.settings_of(volume(use({"volferry.x": "y"}, image_known=False))).exclude == ("*.tmp",)

    def test_it_is_told_of_whom_that_has_labels(self) -> None:
        gone = {"image_known": False}
        said = {"volferry.quiesce": "stop"}
        found = volume(use(said, name="a"), use(said, name="b", **gone), use(ONE_OFF, name="c", **gone))  # type: ignore[arg-type]
        assert [each.container for each in doubtful(found)] == ["b"]

    def test_hooks_and_dumps_are_still_the_containers(self) -> None:
        who = use({"volferry.dump": "pg_dump", "volferry.hook.pre": "true"}, image_known=False)
        assert dumps_of("pgdata", [who])
        assert hooks_of([who], "pre")


class TestCommandsAreNotTold:
    SECRET = "mysqldump -psecret app"

    def command(self, text: str) -> ContainerCommand:
        (found,) = dumps_of("pgdata", [use({"volferry.dump.app": text})])
        return found.command

    @pytest.mark.parametrize("text", [SECRET, '["mysqldump", "--password=very-secret-indeed"]'])
    def test_by_what_a_program_prints_of_it(self, text: str) -> None:
        command = self.command(text)
        assert "secret" not in repr(command)
        said = command.hidden_in(f"sh: -c: line 1: `{command.arguments[-1]}': syntax error")
        assert said == "sh: -c: line 1: `…': syntax error"
        assert command.hidden_in("mysqldump: no such database app") == "mysqldump: no such database app"

    def test_by_what_goes_wrong_when_it_is_run(self) -> None:
        def gone(*_: Any, **__: Any) -> Any:
            raise docker.errors.APIError("bad", SimpleNamespace(status_code=500), "no such user")  # type: ignore[arg-type]

        engine: Any = SimpleNamespace(api=SimpleNamespace(exec_create=gone))
        nothing: Any = lambda _: None  # noqa: E731
        with pytest.raises(EngineError) as raised:
            run_in_container(
                engine, self.command(self.SECRET), environment={}, on_stdout=nothing, on_stderr=nothing
            )
        assert str(raised.value) == "running volferry.dump.app in container db: no such user"


class TestCommandsOnTheMachine:
    @pytest.fixture(autouse=True)
    def secrets(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
        monkeypatch.setenv("VOLFERRY_STORES__MAIN__SECRET_ACCESS_KEY", "hunter2")
        monkeypatch.setenv("volferry_notify__urls", "hunter2")
        monkeypatch.setenv("OTHER", "kept")

    def run(self, line: str) -> tuple[int | None, str]:
        return run_on_host(line, timeout=timedelta(seconds=20), environment={"VOLFERRY_VOLUME": "pgdata"})

    def test_they_do_not_inherit_secrets(self) -> None:
        assert self.run("env | grep -c hunter2") == (1, "0")
        assert self.run('[ "$VOLFERRY_VOLUME $OTHER" = "pgdata kept" ]') == (0, "")

    def test_nor_is_their_line_told(self) -> None:
        line = "tool --password=secret; exit 3"
        assert self.run(f"echo '{line}'; {line}")[0] == 3
        status, said = self.run(
            "printf '%s: bad' \"$(tr '\\0' '\\n' </proc/$$/cmdline | tail -n 1)\"; # secret"
        )
        assert (status, said) == (0, "…: bad")


def test_no_hook_runs_in_what_compose_run_has_made() -> None:
    labels = {"volferry.hook.pre": "maintenance on"}
    service, one_off = use(labels, name="web"), use({**labels, **ONE_OFF}, name="web-run-1")
    assert [each.container for each in hooks_of([service, one_off], "pre")] == ["web"]


class TestTheConfigurationSaysWhichLabelsCount:
    def test_those_that_are_allowed(self) -> None:
        config = Config(
            defaults=CONFIG.defaults, labels=LabelsConfig(allow=("volferry.quiesce*", "volferry.keep.daily"))
        )
        said = {**GRABBING, "volferry.quiesce": "stop", "volferry.keep.daily": "2", "volferry.typo": "x"}
        for found in (volume(use(said)), Volume("pgdata", "local", {}, said, "local", "")):
            settings = config.settings_of(found)
            assert (settings.quiesce, settings.exclude, settings.enable) == ("stop", ("*.tmp",), None)
            assert config.keep_of(found, STORE) == Keep(daily=2, monthly=12)

    def test_none(self) -> None:
        config = Config(defaults=CONFIG.defaults, labels=LabelsConfig(use=False))
        found = volume(use({**GRABBING, "volferry.typo": "x"}), enable="false", typo="x")
        assert config.settings_of(found) == CONFIG.defaults
        assert config.keep_of(found, STORE) == Keep(daily=30, monthly=12)

    def test_hooks_dumps_and_those_of_other_tools_too(self) -> None:
        theirs = {"docker-volume-backup.archive-pre": "a", "volferry.dump": "b", "tier": "gold", **ONE_OFF}
        who = LabelsConfig(allow=("volferry.dump*",)).heard_of(use(theirs))
        assert who.labels == {"volferry.dump": "b", "tier": "gold", **ONE_OFF}

    @pytest.mark.parametrize(
        "pattern",
        [
            "*",
            "volferry.*",
            "volferry.hook.pre.user",
            "volferry.dump.globals",
            "docker-volume-backup.*",
            "*.enable",
        ],
    )
    def test_a_pattern_that_fits_a_label_is_taken(self, pattern: str) -> None:
        assert list(contradictions(Config(labels=LabelsConfig(allow=(pattern,))))) == []

    def test_one_that_fits_none_is_a_mistake(self) -> None:
        (message,) = contradictions(Config(labels=LabelsConfig(allow=("volferry.enabel",))))
        assert (
            message == "labels.allow.0: there is no label 'volferry.enabel': did you mean 'volferry.enable'?"
        )


@pytest.mark.parametrize("value", ["ftp://x", "hc-ping.com/uuid", "https://", "/etc/passwd"])
def test_a_ping_of_a_label_is_looked_at_as_the_configurations_is(value: str) -> None:
    with pytest.raises(ConfigError, match=r"volume x: label volferry\.ping: .* is no URL"):
        settings_of_labels({"volferry.ping": value}, of="volume x")


def test_a_manifest_holds_no_command() -> None:
    labels = {"volferry.keep.daily": "7", "volferry.dump": "pg_dump -W secret", "volferry.hook.pre": "x"}
    assert labels_of_retention(use(labels)) == {"volferry.keep.daily": "7"}
    assert labels_of_retention(use(labels, read_write=False)) == {}
    assert labels_of_retention(use({**labels, **ONE_OFF})) == {}


class _Api:
    """An engine that has one volume and some containers, and counts what it is asked."""

    def __init__(self, *containers: dict[str, Any], images: Any = (), services: Any = ()) -> None:
        self._containers, self._images, self._services = containers, dict(images), dict(services)
        self.manager = True
        self.asked: list[str] = []

    def volumes(self) -> Any:
        return {"Volumes": [{"Name": "pgdata", "Labels": {}}]}

    def containers(self, **_: object) -> Any:
        return list(self._containers)

    def inspect_image(self, image: str) -> Any:
        self.asked.append(image)
        if image not in self._images:
            raise docker.errors.ImageNotFound(image)
        return {"Config": {"Labels": self._images[image]}}

    def inspect_service(self, service: str) -> Any:
        self.asked.append(service)
        if not self.manager:
            raise docker.errors.APIError("no manager", SimpleNamespace(status_code=503))  # type: ignore[arg-type]
        return {"Spec": {"Labels": self._services[service]}}


def container(labels: Mapping[str, str], image: str, status: str = "Up 2 hours") -> dict[str, Any]:
    return {
        "Id": "c" * 64,
        "Names": ["/db"],
        "State": "exited" if status.startswith("Exited") else "running",
        "Status": status,
        "ImageID": image,
        "Labels": dict(labels),
        "Mounts": [{"Type": "volume", "Name": "pgdata", "Destination": "/data", "RW": True}],
    }


def seen(api: _Api) -> tuple[VolumeUse, ...]:
    (found,) = list_volumes(SimpleNamespace(api=api))  # type: ignore[arg-type]
    return found.uses


class TestTheEnginesContainers:
    def test_labels_of_an_image_are_not_the_containers(self) -> None:
        image = {"volferry.keep.last": "1", "volferry.x": "y", "volferry.quiesce": "none", "vendor": "x"}
        own = {"volferry.quiesce": "stop", "volferry.schedule": "@daily"}
        api = _Api(*[container({**image, **own}, "sha256:a1")] * 2, images={"sha256:a1": image})

        for _ in range(2):  # also when it is asked again
            for found in seen(api):
                assert found.labels == {**own, "vendor": "x"}
                assert found.image_known
        assert api.asked == ["sha256:a1"]

    def test_nothing_is_asked_for_containers_without_such_labels(self) -> None:
        api = _Api(container({"tier": "gold"}, "sha256:a2"))
        assert seen(api)[0].labels == {"tier": "gold"}
        assert api.asked == []

    def test_of_an_image_that_is_gone_they_cannot_be_told_apart(self) -> None:
        api = _Api(*[container({"volferry.quiesce": "stop"}, "sha256:a3")] * 2)
        assert [(each.labels, each.image_known) for each in seen(api)] == [
            ({"volferry.quiesce": "stop"}, False)
        ] * 2
        assert api.asked == ["sha256:a3"]

    def test_labels_of_a_swarm_service_count_as_those_of_its_containers(self) -> None:
        task = {
            "com.docker.swarm.service.id": "s1",
            "com.docker.stack.namespace": "shop",
            "volferry.warm": "true",
        }
        said = {"volferry.quiesce": "stop", "volferry.warm": "false", "traefik.port": "80"}
        api = _Api(*[container(task, "sha256:a4")] * 2, images={"sha256:a4": {}}, services={"s1": said})
        for found in seen(api):
            assert found.labels == {**task, "volferry.quiesce": "stop"}
            assert found.project == "shop"
        assert api.asked == ["sha256:a4", "s1"]

    def test_a_node_that_is_no_manager_does_not_know_them(self) -> None:
        tasks = [container({"com.docker.swarm.service.id": f"s{each}"}, "sha256:a5") for each in range(3)]
        api = _Api(*tasks)
        api.manager = False
        assert all("volferry.quiesce" not in each.labels for each in seen(api))
        assert api.asked == ["s0"]

    @pytest.mark.parametrize(
        ("status", "off"),
        [
            ("Up 3 minutes", False),
            ("Exited (0) Less than a second ago", False),
            ("Exited (137) 59 seconds ago", False),
            ("Exited (0) About a minute ago", False),
            ("Exited (0) 46 minutes ago", False),
            ("Exited (0) About an hour ago", True),
            ("Exited (0) 3 weeks ago", True),
            ("Exited (0)", True),
        ],
    )
    def test_which_is_off(self, status: str, off: bool) -> None:
        assert seen(_Api(container({}, "sha256:a6", status)))[0].off is off


class TestLimitsOfStandingStill:
    def test_labels_come_before_the_configuration(self) -> None:
        config = Config(defaults=value_of({"quiesce_after": "10m", "max_downtime": "2h"}, VolumeSettings))
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


@pytest.mark.parametrize(
    ("label", "value", "said"),
    [
        ("keep.dayly", "3", "keep.dayly"),
        ("keep.daily", "x", "keep.daily"),
        ("keep.daily", "-5", "keep.daily"),
        ("hook.pre", "true", "label volferry.hook.pre is for a container"),
        ("dump", "pg_dump", "label volferry.dump is for a container"),
        ("dump.all.user", "postgres", "is for a container"),
        ("schedule", "0 0 31 2 *", "never comes"),
    ],
)
def test_a_label_of_a_volume_that_can_mean_nothing_is_an_error(label: str, value: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        CONFIG.settings_of(volume(**{label: value}))
