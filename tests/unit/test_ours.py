"""Which containers are volferry's own: what has its labels only is somebody's, uses what it mounts, and is never removed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import docker.errors
import pytest

from volferry.engine import container_labels
from volferry.engine.carry import containers_of
from volferry.engine.containers import writers
from volferry.engine.engine_lock import abandoned
from volferry.engine.labels import OWNER, ROLE, RUN, STANDSTILL, is_ours
from volferry.engine.others import others
from volferry.engine.reap import reap
from volferry.engine.volumes import list_volumes
from volferry.run import begin_run

if TYPE_CHECKING:
    from pathlib import Path

    from volferry.engine.client import Engine

LABELS = {ROLE: "helper", RUN: "0123456789ab", OWNER: "0123456789abcdef"}
SPOOL = {"Type": "bind", "Source": "/x", "Destination": "/spool", "RW": True}


def mount(volume: str, destination: str) -> dict[str, Any]:
    return {"Type": "volume", "Name": volume, "Destination": destination, "RW": True}


def listed(role: str = "helper", **more: Any) -> dict[str, Any]:
    """One of ours, as the engine lists it."""
    helper = role == "helper"
    return {
        "Id": "a" * 64,
        "Names": ["/quiet_name"],
        "ImageID": "sha256:image",
        "State": "running" if helper else "created",
        "Created": 0,
        "Command": "sh /spool/control" if helper else "volferry true",
        "HostConfig": {"NetworkMode": "none"},
        "Labels": {**LABELS, ROLE: role},
        "Mounts": [mount("data", "/volumes/data"), *([SPOOL] if helper else [])],
        **more,
    }


FORGED = {
    "role alone": listed(Labels={ROLE: "helper"}),
    "without its owner": listed(Labels={ROLE: "helper", RUN: LABELS[RUN]}),
    "of a run that is none": listed(Labels={**LABELS, RUN: "x"}),
    "of an owner that is none": listed(Labels={**LABELS, OWNER: ""}),
    "of no kind of ours": listed(Labels={**LABELS, ROLE: "database"}),
    "with its data elsewhere": listed(Mounts=[mount("data", "/var/lib/data"), SPOOL]),
    "with a network": listed(HostConfig={"NetworkMode": "bridge"}),
    "with a program of its own": listed(Command="postgres"),
    "without what all helpers have": listed(Mounts=[mount("data", "/volumes/data")]),
    "a carrier that runs": listed("carrier", State="running"),
    "a carrier with a program": listed("carrier", Command="postgres"),
}


@pytest.fixture(autouse=True)
def images_of_no_other_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container_labels, "_of_images", {})


class Api:
    """An engine with one container."""

    api_version = "1.41"

    def __init__(self, container: dict[str, Any], image_labels: dict[str, str] | None = None) -> None:
        self._container = container
        self._image_labels = image_labels
        self.removed: list[str] = []

    def containers(self, **_: Any) -> list[dict[str, Any]]:
        return [self._container]

    def inspect_container(self, name: str) -> dict[str, Any]:
        return {"Id": name, "Name": "/quiet_name", "State": {"Status": self._container["State"]}}

    def inspect_image(self, _: str) -> dict[str, Any]:
        if self._image_labels is None:
            raise docker.errors.ImageNotFound("no such image")
        return {"Config": {"Labels": self._image_labels}}

    def inspect_volume(self, name: str) -> dict[str, Any]:
        return {"Name": name, "Driver": "local"}

    def volumes(self) -> dict[str, Any]:
        return {"Volumes": [{"Name": "data"}]}

    def remove_container(self, name: str, **_: Any) -> None:
        self.removed.append(name)


class FakeEngine:
    def __init__(self, container: dict[str, Any], image_labels: dict[str, str] | None = None) -> None:
        self.api = Api(container, image_labels)

    @staticmethod
    def now() -> datetime:
        return datetime.now(UTC)


def engine_with(container: dict[str, Any], image_labels: dict[str, str] | None = None) -> tuple[Engine, Api]:
    engine = FakeEngine(container, image_labels)
    return cast("Engine", engine), engine.api


def reaped(container: dict[str, Any], state: Path, image_labels: dict[str, str] | None = None) -> list[str]:
    if container["Labels"][ROLE] == "helper":
        container = {**container, "State": "exited"}
    engine, api = engine_with(container, image_labels)
    with begin_run(state) as run:
        assert reap(engine, state, run.owner) == len(api.removed)
    return api.removed


@pytest.mark.parametrize("role", ["carrier", "helper"])
def test_ours_use_nothing_and_go_when_their_run_is_dead(tmp_path: Path, role: str) -> None:
    engine, _ = engine_with(listed(role))
    assert is_ours(listed(role))
    assert writers(engine, "data") == []
    assert [each.uses for each in list_volumes(engine)] == [()]
    assert reaped(listed(role), tmp_path, {}) == ["a" * 64]
    assert reaped(listed(role), tmp_path) == ["a" * 64]


@pytest.mark.parametrize("role", ["carrier", "helper"])
def test_ours_of_an_image_that_declares_volumes(role: str) -> None:
    """As a configured one may. The data may be in an anonymous volume, too, and so is the spool of the stream channel."""
    plain = listed(role)
    assert is_ours({**plain, "Mounts": [*plain["Mounts"], mount("e" * 64, "/var/cache")]})
    spool = [mount("f" * 64, "/spool")] if role == "helper" else []
    assert is_ours({**plain, "Mounts": [mount("d" * 64, "/volumes/data"), *spool]})


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_what_has_our_labels_only_is_a_container_as_any_other(tmp_path: Path, forged: dict[str, Any]) -> None:
    """It writes, so it is stopped; it uses its volume; and it is not ours to remove, however old it is."""
    running, _ = engine_with({**forged, "State": "running"})
    assert [each.id for each in writers(running, "data")] == ["a" * 64]
    (volume,) = list_volumes(running)
    assert [use.container for use in volume.uses] == ["quiet_name"]
    assert reaped(forged, tmp_path, {}) == []


@pytest.mark.parametrize("role", ["carrier", "helper"])
def test_what_has_them_from_its_image_is_a_container_as_any_other(tmp_path: Path, role: str) -> None:
    """Whatever it looks like: everybody may have made an image of one of ours."""
    labels = {**LABELS, ROLE: role}
    assert reaped(listed(role), tmp_path, labels) == []
    engine, _ = engine_with(listed(role), labels)
    (volume,) = list_volumes(engine)
    assert [use.container for use in volume.uses] == ["quiet_name"]
    assert len(containers_of(engine, ["data"], None)) == 1
    if role == "helper":
        assert [each.id for each in writers(engine, "data")] == ["a" * 64]
        assert others(engine, "f" * 16, []) == []


def test_an_image_leaves_no_lock_behind_by_which_something_is_started() -> None:
    lock = listed("lock", Mounts=[], Labels={**LABELS, ROLE: "lock", STANDSTILL: "[]"})
    engine, _ = engine_with(lock, {})
    assert abandoned(engine, "f" * 16) is not None
    engine, _ = engine_with({**lock, "ImageID": "sha256:other"}, lock["Labels"])
    assert abandoned(engine, "f" * 16) is None
