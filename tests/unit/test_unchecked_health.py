"""Health checks that the target of a migration may not run are said in its plan, and where one is waited for in vain."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from volferry.cli.migration_containers import await_health_on_target, note_unchecked
from volferry.operations.carried import Carried, CarriedContainer
from volferry.operations.migration_plan import MigrationPlan

if TYPE_CHECKING:
    import pytest

CHECK = {"Test": ["CMD", "true"]}


def engine(*, checks_health: bool) -> Any:
    return SimpleNamespace(checks_health=checks_health)


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


def test_an_engine_that_runs_none() -> None:
    (note,) = notes(engine(checks_health=False))
    assert note.startswith("Podman runs no health checks on a machine without systemd")
    assert 'the health of db stays "starting"' in note


def test_one_that_runs_them() -> None:
    assert notes(engine(checks_health=True)) == []


def test_one_that_stays_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("volferry.engine.containers.find_container", lambda *_: object())
    monkeypatch.setattr("volferry.engine.containers.await_healthy", lambda *_, **__: "starting")
    observer: Any = SimpleNamespace(note=said.append)
    await_health_on_target(engine(checks_health=True), ["db"], observer)
    (line,) = said
    assert line.startswith("container db on the target is starting, not healthy: ")
    assert "`docker inspect`" in line
