"""Health checks that the target of a migration may not run are said in its plan, and where one is waited for in vain."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from volferry.cli.migration_containers import await_health_on_target, note_unchecked
from volferry.operations.carried import Carried, CarriedContainer
from volferry.operations.migration_plan import MigrationPlan

CHECK = {"Test": ["CMD", "true"]}


def engine(*, podman: bool, driver: str) -> Any:
    return SimpleNamespace(is_podman=podman, info={"CgroupDriver": driver})


def carried(name: str, check: object, *, ran: bool = True) -> CarriedContainer:
    return CarriedContainer(name, name, ran, {"Healthcheck": check} if check else {}, {})


def notes(target: Any) -> list[str]:
    plan = MigrationPlan([])
    plan.carried = Carried(
        [
            carried("db", CHECK),
            carried("web", None),
            carried("off", CHECK, ran=False),
            carried("none", {"Test": ["NONE"]}),
        ]
    )
    note_unchecked(plan, target)
    return plan.notes


def test_podman_without_systemd() -> None:
    (note,) = notes(engine(podman=True, driver="cgroupfs"))
    assert note.startswith("Podman runs no health checks on a machine without systemd")
    assert 'the health of db stays "starting"' in note
    assert "60 s later" in note


@pytest.mark.parametrize(("podman", "driver"), [(True, "systemd"), (False, "cgroupfs")])
def test_engines_that_run_them(podman: bool, driver: str) -> None:
    assert notes(engine(podman=podman, driver=driver)) == []


@pytest.mark.parametrize(
    ("podman", "why"), [(True, "Podman runs no health checks"), (False, "`docker inspect`")]
)
def test_one_that_stays_starting(monkeypatch: pytest.MonkeyPatch, podman: bool, why: str) -> None:
    said: list[str] = []
    monkeypatch.setattr("volferry.engine.containers.find_container", lambda *_: object())
    monkeypatch.setattr("volferry.engine.containers.await_healthy", lambda *_, **__: "starting")
    observer: Any = SimpleNamespace(note=said.append)
    await_health_on_target(engine(podman=podman, driver="cgroupfs"), ["db"], observer)
    (line,) = said
    assert line.startswith("container db on the target is starting, not healthy: ")
    assert why in line
