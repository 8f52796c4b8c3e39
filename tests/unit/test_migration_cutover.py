"""The end of a migration that fails: which side runs, whatever else goes wrong."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from volferry.cli import migration_containers, migration_cutover
from volferry.cli.migration_containers import start_on_target
from volferry.cli.migration_cutover import _give_back
from volferry.cli.migration_report import MigrationReport
from volferry.errors import EngineError, Interrupted
from volferry.interrupts import held_back
from volferry.operations.migration_plan import MigrationPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Sides:
    """What is done, in order; what is in `fails` raises."""

    def __init__(self, *fails: str, error: type[Exception] = OSError) -> None:
        self.done: list[str] = []
        self.problems = ["a problem"]
        self._fails = fails
        self._error = error

    def step(self, name: str) -> Callable[..., None]:
        def take(*_: object) -> None:
            self.done.append(name)
            if name in self._fails:
                raise self._error(name)

        return take

    def await_up(self) -> None:
        """Nothing of it is down."""

    @property
    def end(self) -> Callable[[], None]:
        return self.step("source runs")

    @property
    def remove(self) -> Callable[[], None]:
        return self.step("target is removed")


def given_back(
    sides: Sides, *, running: list[str], took_over: bool = False, complete: bool = False
) -> list[str]:
    report = MigrationReport("", "", MigrationPlan([]), [], checksum=False, took_over=took_over)
    both = cast("Any", sides)
    _give_back(both, both, running, report, complete=complete)
    return sides.done


@pytest.fixture(params=["a terminal", "no terminal"])
def _terminal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_: str) -> None:
        raise OSError(5, "Input/output error")

    if request.param == "no terminal":
        for module in (migration_cutover, migration_containers):
            monkeypatch.setattr(module, "say", gone)


@pytest.mark.usefixtures("_terminal")
@pytest.mark.parametrize("error", [OSError, EngineError, KeyError])
@pytest.mark.parametrize(
    "fails", [(), ("source runs",), ("target is removed",), ("source runs", "target is removed")]
)
def test_the_source_runs_first_whatever_fails(fails: tuple[str, ...], error: type[Exception]) -> None:
    assert given_back(Sides(*fails, error=error), running=[]) == ["source runs", "target is removed"]


@pytest.mark.usefixtures("_terminal")
def test_what_runs_on_the_target_is_removed_first_and_the_source_runs_nonetheless() -> None:
    sides = Sides("target is removed")
    assert given_back(sides, running=["web"]) == ["target is removed", "source runs"]


@pytest.mark.usefixtures("_terminal")
def test_nothing_is_removed_of_what_has_taken_over() -> None:
    assert given_back(Sides(), running=["web"], took_over=True) == ["source runs"]


class Engine:
    """With containers that are started and stopped; what is in `fails` raises."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *fails: str) -> None:
        self.running: list[str] = []
        self._fails = fails
        monkeypatch.setattr(migration_containers, "_SETTLE_SECONDS", 0.0)
        for name in ("start", "stop", "find_container"):
            monkeypatch.setattr(f"volferry.engine.containers.{name}", getattr(self, name))
        monkeypatch.setattr("volferry.engine.containers.depends_on", lambda *_: False)

    def start(self, _: object, container: Any) -> None:
        if f"start {container.name}" in self._fails:
            raise EngineError("no such image")
        self.running.append(container.name)

    def stop(self, _: object, container: Any) -> None:
        if f"stop {container.name}" in self._fails:
            raise EngineError("it does not stop")
        self.running.remove(container.name)

    def find_container(self, _: object, name: str) -> Any:
        ended = f"{name} ends" in self._fails
        runs = name in self.running and not ended
        return SimpleNamespace(id=name, name=name, runs=runs, health=None, exit_code=1 if ended else 0)


def started(engine: Engine, take_over: Callable[[list[str]], None]) -> list[str]:
    """What may run then."""
    running: list[str] = []
    try:
        start_on_target(cast("Any", engine), ["db", "web"], take_over, running=running, in_this_order=True)
    except (EngineError, Interrupted):
        pass
    return running


def test_all_run_and_take_over(monkeypatch: pytest.MonkeyPatch) -> None:
    took: list[list[str]] = []
    assert started(engine := Engine(monkeypatch), took.append) == ["db", "web"] == engine.running
    assert took == [["db", "web"]]


@pytest.mark.parametrize("fails", ["start web", "start db", "web ends"])
def test_if_one_cannot_run_none_does(monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    took: list[list[str]] = []
    engine = Engine(monkeypatch, fails)
    assert started(engine, took.append) == []
    assert (took, set(engine.running) - {"web"}) == ([], set())


@pytest.mark.usefixtures("_terminal")
def test_what_does_not_stop_is_known_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(monkeypatch, "start web", "stop db")
    assert started(engine, lambda _: None) == ["db"]


def test_a_signal_once_they_have_taken_over_stops_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is held back until then, and raised at the end of what holds it back."""
    engine = Engine(monkeypatch)
    took: list[list[str]] = []

    @contextmanager
    def ending() -> Iterator[None]:
        with held_back():
            yield
        if took:
            raise Interrupted

    monkeypatch.setattr(migration_containers, "held_back", ending)
    assert started(engine, took.append) == ["db", "web"] == engine.running
