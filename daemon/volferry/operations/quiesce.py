"""Keeps the applications that write to a volume still for as long as it is read, and brings them back.

What is about to be stopped is in the journal first. What comes back is only what was stopped here: a container that a person
started or stopped meanwhile is left as it is.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from volferry.engine.containers import (
    await_end,
    await_healthy,
    find_container,
    in_order,
    pause,
    start,
    stop,
    unpause,
    writers,
)
from volferry.engine.swarm import replicas_of, scale
from volferry.errors import EngineError, VolferryError
from volferry.interrupts import held_back
from volferry.journal import Halt, Journal, journals_of_the_dead

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from pathlib import Path

    from volferry.engine.client import Engine
    from volferry.engine.containers import Container

Mode = Literal["none", "pause", "stop"]

_HEALTHY_SECONDS = 60
_LONGER_SECONDS = 2


@dataclass(slots=True)
class Quiesced:
    """The containers that write to one volume. `end` must be called, whatever happens after `begin` was."""

    engine: Engine
    volume: str
    mode: Mode
    warm: bool
    journal: Journal
    own: Collection[str]  # ids of containers that are never touched: volferry's own
    note: Callable[[str], None]
    downtime_seconds: float = 0.0
    problems: list[str] = field(default_factory=list)  # what could not be brought back
    _halts: list[Halt] = field(default_factory=list)
    _since: float | None = None
    _ended: bool = False

    def begin(self) -> None:
        """Stops or pauses all that writes to the volume. Raises VolferryError."""
        if self.mode == "none":
            return
        self.journal.alone()
        self._halts = [
            _halt(self.engine, each, self.mode, order, self.note)
            for order, each in enumerate(in_order(writers(self.engine, self.volume, but=self.own)))
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

    def end(self) -> None:
        """Brings back what `begin` has stopped; what cannot be is a problem, and the next run's to try again."""
        if self._ended:
            return
        self._ended = True
        with held_back():
            self.problems += bring_back(self.engine, self._halts, self.journal, self.note)
            if self._since is not None:
                self.downtime_seconds = round(time.monotonic() - self._since, 3)
            self.journal.end(over=not self.problems)

    def await_health(self) -> None:
        """Says what is not healthy again."""
        for halt in self._halts:
            container = find_container(self.engine, halt.id) if halt.action == "stop" else None
            if container is not None and container.health is not None:
                health = await_healthy(self.engine, container, seconds=_HEALTHY_SECONDS)
                if health != "healthy":
                    self.note(
                        f"container {halt.name} is {health}, not healthy, after it was started again for the backup"
                    )

    def _record(self, halt: Halt) -> None:
        self.journal.write(halt)
        self._halts = [halt if each.id == halt.id else each for each in self._halts]


def replay(engine: Engine, state_directory: Path, note: Callable[[str], None]) -> list[str]:
    """Brings back what runs that died had stopped. Returns what could not be."""
    problems: list[str] = []
    for journal, halts in journals_of_the_dead(state_directory):
        if touched := [halt for halt in halts if halt.state != "planned"]:
            note(
                f"bringing back what an interrupted run had stopped: {', '.join(halt.name for halt in touched)}"
            )
        left = bring_back(engine, halts, journal, note)
        journal.end(over=not left)
        problems += left
    return problems


def bring_back(
    engine: Engine, halts: Iterable[Halt], journal: Journal, note: Callable[[str], None]
) -> list[str]:
    """Each in the order of starting; those that others wait for until they are healthy. Returns what could not be."""
    problems = []
    for halt in sorted(halts, key=lambda each: each.order):
        try:
            _bring_back(engine, halt, note)
        except EngineError as error:
            problems.append(f"{halt.name} could not be brought back: {error}")
            continue
        try:
            journal.write(replace(halt, state="over"))
        except VolferryError:
            continue  # it is as it was, which is what a replay finds
    return problems


def _halt(engine: Engine, container: Container, mode: Mode, order: int, note: Callable[[str], None]) -> Halt:
    if mode == "stop" and container.swarm_service is not None:
        name, replicas = replicas_of(engine, container.swarm_service)
        return Halt("scale", container.swarm_service, name, order, str(replicas))
    if mode == "stop" and container.auto_remove:
        note(f"container {container.name} would be removed when it stops (--rm): it is paused instead")
        return Halt("pause", container.id, container.name, order, container.started_at)
    return Halt(mode, container.id, container.name, order, container.started_at)  # type: ignore[arg-type]


def _halted(engine: Engine, halt: Halt) -> Halt:
    """Does it. Raises EngineError."""
    if halt.action == "scale":
        scale(engine, halt.id, 0)
        return replace(halt, state="done")
    container = find_container(engine, halt.id)
    if container is None or not container.runs or container.started_at != halt.before:
        return replace(halt, state="planned")  # somebody was faster
    if halt.action == "pause":
        pause(engine, container)
        return replace(halt, state="done")
    stop(engine, container)
    now = find_container(engine, halt.id)
    return replace(halt, state="done", after=now.finished_at if now is not None else "")


def _bring_back(engine: Engine, halt: Halt, note: Callable[[str], None]) -> None:
    if halt.state in {"planned", "over"}:
        return
    if halt.action == "scale":
        if replicas_of(engine, halt.id)[1] == 0:
            scale(engine, halt.id, int(halt.before))
        return
    container = find_container(engine, halt.id)
    if halt.action == "stop" and halt.state == "under way" and container is not None:
        # The engine goes on stopping what it was asked to stop, whatever became of who asked.
        container = await_end(engine, container, seconds=container.stop_seconds + _LONGER_SECONDS)
    if container is None:
        note(f"container {halt.name} was removed while it was stopped for a backup")
    elif halt.action == "pause":
        if container.state == "paused":
            unpause(engine, container)
    elif container.state == "exited" and halt.after in {"", container.finished_at}:
        start(engine, container)
