"""Keeps the applications that write to a volume still for as long as it is read, and brings them back.

What is about to be stopped is in the journal first. What comes back is only what was stopped here: a container that a person
started or stopped meanwhile is left as it is.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from volferry.engine.containers import (
    ENGINE_DIED,
    await_end,
    await_healthy,
    depends_on,
    find_container,
    in_order,
    pause,
    start,
    stop,
    unpause,
    writers,
)
from volferry.engine.swarm import await_running, replicas_of, scale
from volferry.errors import EngineError, EngineUnreachable, VolferryError
from volferry.interrupts import held_back
from volferry.journal import Action, Halt, Journal, journals_of_the_dead
from volferry.operations.hooks import run_journaled

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from pathlib import Path

    from volferry.engine.client import Engine
    from volferry.engine.containers import Container

Mode = Literal["none", "pause", "stop"]

_HEALTHY_SECONDS = 60
_WAITS = "what an interrupted run had stopped is brought back once another run, which has services stopped too, is over"
_LONGER_SECONDS = 2
_AGAIN_SECONDS = (0.2, 1.0)


@dataclass(slots=True)
class Quiesced:
    """The containers that write to some volumes. `end` must be called, whatever happens after `begin` was."""

    engine: Engine
    volumes: Sequence[str]
    wanted: Mode
    warm: bool
    journal: Journal
    own: Collection[str]  # ids of containers that are never touched: volferry's own
    note: Callable[[str], None]
    also: Collection[str] = ()  # ids of containers that stand still as well, whatever they mount
    downtime_seconds: float = 0.0
    problems: list[str] = field(default_factory=list)  # what could not be brought back
    _halts: list[Halt] = field(default_factory=list)
    _since: float | None = None
    _ended: bool = False

    @property
    def mode(self) -> Mode:
        """What it came to: `pause` if one of them could only be paused."""
        paused = any(halt.action == "pause" for halt in self._halts)
        return "pause" if self.wanted == "stop" and paused else self.wanted

    def begin(self) -> None:
        """Stops or pauses all that writes to the volumes. Raises VolferryError."""
        if self.wanted == "none":
            return
        self.journal.alone()
        # What one that died while this one waited has left down would be taken for what does not run.
        self.problems += _replay(self.engine, self.journal.state_directory, self.note)
        self._halts = [
            _halt(self.engine, each, self.wanted, order, self.note)
            for order, each in enumerate(in_order(self.writers()))
        ]
        self._halts = list({halt.id: halt for halt in self._halts}.values())  # of a service, once
        if not self._halts:
            return
        self.journal.write(*self._halts)
        for halt in reversed(self._halts[:]):
            # A container that is being stopped cannot be left half-way.
            with held_back():
                self._since = self._since or time.monotonic()
                self._record(replace(halt, state="under way"))
                self._record(_halted(self.engine, halt))

    def writers(self) -> list[Container]:
        """Those that run now."""
        found = {
            each.id: each for volume in self.volumes for each in writers(self.engine, volume, but=self.own)
        }
        further = (find_container(self.engine, each) for each in self.also if each not in {*found, *self.own})
        found |= {each.id: each for each in further if each is not None and each.runs}
        return list(found.values())

    @property
    def stopped(self) -> list[str]:
        """Names of what `begin` has stopped, paused or scaled."""
        return [halt.name for halt in self._halts if halt.state == "done"]

    def restarted_by_engine(self, engine: Engine) -> list[str]:
        """Names of containers that the engine itself starts again when it restarts, whoever has stopped them."""
        found = (find_container(engine, halt.id) for halt in self._halts if halt.action == "stop")
        return [each.name for each in found if each is not None and each.restart_policy == "always"]

    def leave(self) -> None:
        """In place of `end`: what was stopped stays so, for something else does its work now."""
        with held_back():
            if self._ended:
                return
            self._ended = True
            if self._since is not None:
                self.downtime_seconds = round(time.monotonic() - self._since, 3)
            for halt in self._halts:
                self.journal.write(replace(halt, state="over"))
            self.journal.end(over=True)

    def end(self) -> None:
        """Brings back what `begin` has stopped; what cannot be is a problem, and the next run's to try again."""
        with held_back():
            if self._ended:
                return
            self._ended = True
            left = bring_back(self.engine, self._halts, self.journal, self.note, sure=True)
            if self._since is not None:
                self.downtime_seconds = round(time.monotonic() - self._since, 3)
            self.journal.end(over=not left)
            self.problems += left

    def await_health(self) -> None:
        """Says what is not healthy again."""
        for halt in self._halts:
            try:
                if halt.action == "scale" and halt.state == "done":
                    count = int(halt.before)
                    if not await_running(self.engine, halt.id, count, seconds=_HEALTHY_SECONDS):
                        self.note(f"Swarm service {halt.name} does not have {count} tasks that run again")
                container = find_container(self.engine, halt.id) if halt.action == "stop" else None
                if container is None or halt.state != "done":
                    continue
                health = await_healthy(self.engine, container, seconds=_HEALTHY_SECONDS)
            except EngineError as error:
                self.note(f"how container {halt.name} is cannot be found out: {error}")
                continue
            if health not in {"healthy", "running"}:
                self.note(f"container {halt.name} is {health}, not healthy, after it was started again")

    def _record(self, halt: Halt) -> None:
        self.journal.write(halt)
        self._halts = [halt if each.id == halt.id else each for each in self._halts]


def replay(
    engine: Engine, state_directory: Path, note: Callable[[str], None], *, wait: bool = True
) -> list[str]:
    """Brings back what runs that died had stopped on that engine. Returns what could not be. A run that lives and has something
    stopped is waited for, or else it is the one that brings back the rest.
    """
    if not any(True for _ in journals_of_the_dead(state_directory, engine.id)):
        return []
    turn = Journal(state_directory, "replay")
    # A run that lives may have paused the same container again.
    free = turn.alone(wait=wait)
    try:
        return _replay(engine, state_directory, note) if free else [_WAITS]
    finally:
        turn.end(over=False)


def stopped_elsewhere(state_directory: Path, engine: Engine) -> list[str]:
    """How the other engines are reached on which runs that died had stopped something."""
    found = [journal.engine for journal, _ in journals_of_the_dead(state_directory)]
    return sorted({url for engine_id, url in found if engine_id not in {"", engine.id}})


def _replay(engine: Engine, state_directory: Path, note: Callable[[str], None]) -> list[str]:
    problems: list[str] = []
    for journal, halts in journals_of_the_dead(state_directory, engine.id):
        touched = [halt for halt in halts if halt.state != "planned"]
        if stopped := [halt.name for halt in touched if halt.action != "hook"]:
            note(f"bringing back what an interrupted run had stopped: {', '.join(stopped)}")
        if hooks := [halt.name for halt in touched if halt.action == "hook"]:
            note(f"running what an interrupted run had left to be run after it: {', '.join(hooks)}")
        left = bring_back(engine, halts, journal, note, sure=False)
        journal.end(over=not left)
        problems += left
    return problems


def bring_back(
    engine: Engine, halts: Iterable[Halt], journal: Journal, note: Callable[[str], None], *, sure: bool
) -> list[str]:
    """Each in the order of starting, once what it depends on is healthy. Returns what could not be.

    `sure` if what is "under way" was asked for; what a run that died has left may not have been.
    """
    problems = []
    started: list[Container] = []
    for halt in sorted(halts, key=lambda each: each.order):
        try:
            if halt.action == "hook":
                run_journaled(engine, halt, note)
            else:
                _persistently(partial(_bring_back, engine, halt, note, started, sure=sure))
        except (EngineError, KeyError) as error:
            problems.append(f"{halt.name} could not be brought back: {error}")
            continue
        try:
            journal.write(replace(halt, state="over"))
        except VolferryError:
            continue  # it is as it was, which is what a replay finds
    return problems


def _persistently(job: Callable[[], None]) -> None:
    """A connection that broke is no reason to leave a service down: each of these can be asked for twice."""
    for seconds in _AGAIN_SECONDS:
        try:
            return job()
        except EngineUnreachable:
            time.sleep(seconds)
    return job()


def _halt(engine: Engine, container: Container, mode: Mode, order: int, note: Callable[[str], None]) -> Halt:
    if mode == "stop" and container.swarm_service is not None:
        found = replicas_of(engine, container.swarm_service)
        if found is not None:
            return Halt("scale", container.swarm_service, found[0], order, str(found[1]))
    if mode == "stop" and container.auto_remove:
        note(f"container {container.name} would be removed when it stops (--rm): it is paused instead")
        return Halt("pause", container.id, container.name, order, container.started_at)
    # One that is being restarted cannot be paused.
    action: Action = "pause" if mode == "pause" and container.state == "running" else "stop"
    return Halt(action, container.id, container.name, order, container.started_at)


def _halted(engine: Engine, halt: Halt) -> Halt:
    """Does it. Raises EngineError."""
    if halt.action == "scale":
        scale(engine, halt.id, 0)
        return replace(halt, state="done")
    container = find_container(engine, halt.id)
    if container is None or not container.runs:
        return replace(halt, state="planned")  # somebody was faster
    if halt.action == "pause":
        pause(engine, container)
        return replace(halt, state="done")
    stop(engine, container)
    now = find_container(engine, halt.id)
    return replace(halt, state="done", after=now.finished_at if now is not None else "")


def _stopped(engine: Engine, container: Container, *, sure: bool) -> Container | None:
    """As it is once it has stopped: the engine goes on with what it was asked for, whatever became of who asked."""
    seconds = container.stop_seconds if container.stop_seconds >= 0 else _HEALTHY_SECONDS
    found = await_end(engine, container, seconds=seconds + _LONGER_SECONDS)
    if sure and found is not None and found.runs:
        raise EngineError("it is still being stopped")
    return found


def _bring_back(
    engine: Engine, halt: Halt, note: Callable[[str], None], started: list[Container], *, sure: bool
) -> None:
    if halt.state in {"planned", "over"}:
        return
    if halt.action == "scale":
        _scale_back(engine, halt, note)
        return
    container = find_container(engine, halt.id)
    if halt.action == "stop" and halt.state == "under way" and container is not None:
        container = _stopped(engine, container, sure=sure)
    if container is None:
        note(f"container {halt.name} was removed while it was stopped")
    elif halt.action == "pause":
        _go_on(engine, container)
    elif container.state == "exited" and halt.after in {"", container.finished_at}:
        for other in started:
            if depends_on(container, other) and other.health is not None:
                await_healthy(engine, other, seconds=_HEALTHY_SECONDS)
        start(engine, container)
        started.append(container)


def _scale_back(engine: Engine, halt: Halt, note: Callable[[str], None]) -> None:
    now = replicas_of(engine, halt.id)
    if now is None:
        note(f"Swarm service {halt.name} was removed while it was stopped")
    elif now[1] == 0:
        scale(engine, halt.id, int(halt.before))


def _go_on(engine: Engine, container: Container) -> None:
    if container.state == "paused":
        unpause(engine, container)
    elif (
        container.state == "exited" and container.exit_code == ENGINE_DIED
    ):  # it ran when the machine went down
        start(engine, container)
