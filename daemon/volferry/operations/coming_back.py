"""Brings back what was stopped, paused or scaled, and looks whether it is up, for as long as that takes.

What comes back is only what was stopped here: a container that a person started or stopped meanwhile is left as it is.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from volferry.engine.containers import (
    ENGINE_DIED,
    HealthWaits,
    await_end,
    depends_on,
    find_container,
    find_successor,
    start,
    stop,
    unpause,
)
from volferry.engine.swarm import replicas_of, running_tasks, scale
from volferry.errors import EngineError, EngineUnreachable, NotUp, VolferryError, described
from volferry.interrupts import Impatience
from volferry.operations.not_back import NotBack, why_down
from volferry.operations.retrying import pauses

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from volferry.engine.client import Engine
    from volferry.engine.containers import Container
    from volferry.journal import Halt, Journal

HEALTHY_SECONDS = 60
STEADY_SECONDS = 3.0  # so long must one without a health check run before it is taken for up
LONGER_SECONDS = 2
_SUCCESSOR_SECONDS = 30  # so long is waited for what takes the place of a container that is gone
_LOOK_SECONDS = 0.2
_STOPPED_SECONDS = 5.0
_REFUSED_SECONDS = 60
_MOST_STARTS = 3  # of one that ends again by itself


@dataclass(slots=True)
class ComingBack:
    """What one journal has stopped, and its way back. Each step is in the journal."""

    engine: Engine
    halts: list[Halt]
    journal: Journal
    note: Callable[[str], None]
    sure: bool  # whether what is "under way" was asked for; of a run that died, it may not have been
    _started: dict[str, Container] = field(
        default_factory=dict
    )  # by the id of what was stopped, what runs now
    _since: dict[str, float] = field(default_factory=dict)  # when each was seen running as it runs now
    _starts: dict[str, int] = field(default_factory=dict)
    _asked: dict[str, float] = field(default_factory=dict)  # since when one that is "under way" is waited for
    _waits: HealthWaits = field(default_factory=lambda: HealthWaits(HEALTHY_SECONDS))
    _said: set[str] = field(default_factory=set)
    _hopeless: set[str] = field(default_factory=set)  # what is gone, and had its time to come back

    def start(self, patience_seconds: float) -> None:
        """Asks the engine for each, in the order of starting, once what it depends on is healthy; again and again, whatever goes wrong, until
        it has done so. What is left after that long is in the journal.
        """
        began = time.monotonic()
        with Impatience() as impatience:
            for pause in pauses():
                self._start_each(time.monotonic() - began)
                waits = [
                    halt
                    for halt in self._left()
                    if halt.state not in {"started", "handed"} and halt.id not in self._hopeless
                ]
                passed = time.monotonic() - began
                if not waits or passed >= patience_seconds:
                    return
                if passed > 1:
                    self._say(waits, patience_seconds)
                if impatience.sleeps(min(pause, patience_seconds - passed)):
                    self._say_given_up()
                    return

    def start_again(self, halt: Halt, patience_seconds: float) -> None:
        """What the engine has done with one only when others were on their way back already, and that one perhaps taken for up."""
        self._hopeless.discard(halt.id)
        self._asked.pop(halt.id, None)
        if halt.state != "under way" or halt.id not in self._since:  # it has ended, and was started
            self._write(halt)
        self.start(patience_seconds)

    def await_up(self) -> list[NotBack]:
        """Looks until each runs, and is healthy if it says; what has ended by itself is started again a few times. Returns what is not up."""
        end = time.monotonic() + HEALTHY_SECONDS
        with Impatience() as impatience:
            while True:
                waits = [self._look(halt) for halt in self._left() if halt.state == "started"]
                again = [
                    halt
                    for halt in self._left()
                    if halt.state == "done" and 0 < self._starts.get(halt.id, 0) < _MOST_STARTS
                ]
                if again and time.monotonic() < end:
                    impatience.sleeps(2.0 ** self._starts[again[0].id] / 2)
                    self._start_each(_SUCCESSOR_SECONDS)
                elif not any(waits) or time.monotonic() > end:
                    break
                elif impatience.sleeps(_LOOK_SECONDS):
                    self._say_given_up()
                    break
        for halt in self._left():
            if halt.state == "started" and not halt.error:
                self.note(f"{halt.name} runs, and is not healthy yet after {HEALTHY_SECONDS} s")
                self._over(halt)
        return self.left

    @property
    def left(self) -> list[NotBack]:
        return [
            NotBack(
                self.journal.run_id,
                halt.name,
                why_down(halt, self.journal.run_id) or "it was not started yet",
            )
            for halt in self._left()
        ]

    @property
    def not_started(self) -> list[NotBack]:
        """Of `left`, what the engine could not be made to start."""
        started = {halt.name for halt in self._left() if halt.state == "started"}
        return [each for each in self.left if each.name not in started]

    @property
    def is_over(self) -> bool:
        return not self._left()

    def _left(self) -> list[Halt]:
        waits = (halt for halt in self.halts if halt.state not in {"planned", "over"})
        return sorted(waits, key=lambda each: each.order)

    def _start_each(self, passed_seconds: float) -> None:
        # What is still being stopped is waited for last: it may have minutes for that, or hang.
        for halt in sorted(self._left(), key=self._is_being_stopped):
            if halt.state == "started":
                continue
            try:
                if halt.state == "handed":
                    self._settle_handed(halt)
                    continue
                self._start(halt, passed_seconds)
            except Exception as error:  # noqa: BLE001 -- whatever it is: the others are to be started, too
                if isinstance(error, NotUp) and not error.may_pass:
                    self._hopeless.add(halt.id)
                self._write(replace(self._now(halt), error=described(error)))

    def _is_being_stopped(self, halt: Halt) -> bool:
        """Or may be."""
        if halt.state != "under way" or halt.action != "stop":
            return halt.state == "under way"
        try:
            container = find_container(self.engine, halt.id)
        except Exception:  # noqa: BLE001 -- it is said where it is started
            return True
        return container is not None and container.runs

    def _settle_handed(self, halt: Halt) -> None:
        """Somebody may have started it here again, which settles it. Raises EngineError."""
        now = replicas_of(self.engine, halt.id) if halt.action == "scale" else None
        container = find_container(self.engine, halt.id) if halt.action != "scale" else None
        if (now is not None and now[1] > 0) or (container is not None and container.runs):
            self._over(halt)

    def _start(self, halt: Halt, passed_seconds: float) -> None:
        """Raises EngineError."""
        if halt.action == "scale":
            self._scale_back(halt)
            return
        container = find_container(self.engine, halt.id)
        if container is not None and (
            container.stopping or (halt.action == "stop" and halt.state == "under way")
        ):
            container = self._stopped(container)
        if container is None:
            self._succeed(halt, passed_seconds)
        elif halt.action == "pause":
            self._go_on(halt, self._paused(halt, container))
        elif container.stopping:
            raise EngineError("it is still being stopped")
        elif container.runs:
            if halt.state == "under way":  # the engine may still be about to stop it: then it is started
                self._starts.setdefault(halt.id, 1)
            self._write(replace(halt, state="started", error=""))
            self._started[halt.id] = container
        elif container.state != "exited":
            raise EngineError(f"it is {container.state}")
        elif halt.after in {"", container.finished_at}:
            self._start_container(halt, container)
        elif (
            0 < self._starts.get(halt.id, 0) < _MOST_STARTS
        ):  # an answer was lost, and it has ended by itself
            self._start_container(replace(halt, after=container.finished_at), container)
        elif halt.id in self._starts:
            self._write(replace(halt, after=container.finished_at))
            raise NotUp(_ended(container), may_pass=False)
        else:
            self._over(halt)  # a person has started it, and stopped it again

    def _start_container(self, halt: Halt, container: Container) -> None:
        for other in [*self._started.values()]:
            if depends_on(container, other) and other.health is not None:
                self._waits.await_healthy(self.engine, other)
        # First: the answer may be lost, and the container end by itself, which is not as if a person had stopped it.
        self._starts[halt.id] = self._starts.get(halt.id, 0) + 1
        self._write(replace(halt, state="started", error=""))
        try:
            start(self.engine, container)
        except EngineError:
            self._write(halt)
            raise
        self._since[halt.id] = time.monotonic()
        self._started[halt.id] = find_container(self.engine, container.id) or container

    def _succeed(self, halt: Halt, passed_seconds: float) -> None:
        """Of a container that is gone: another one may have taken its place, as when Compose recreates it, or soon will."""
        other = find_successor(self.engine, halt.id, halt.name, halt.service)
        if other is not None and other.runs:
            self.note(f"container {halt.name} was replaced while it was stopped: the new one runs")
            self._write(replace(halt, state="started", error=""))
            self._started[halt.id] = other
            return
        doing = "was paused" if halt.action == "pause" else "was stopped"
        what = (
            f"the one in its place is {other.state}" if other is not None else "nothing has taken its place"
        )
        raise NotUp(
            f"container {halt.name} was removed while it {doing}, and {what}",
            may_pass=passed_seconds < _SUCCESSOR_SECONDS,
        )

    def _go_on(self, halt: Halt, container: Container) -> None:
        if container.state == "paused":
            unpause(self.engine, container)
        elif container.state == "exited" and container.exit_code == ENGINE_DIED:
            self._start_container(halt, container)  # it ran when the machine went down
            return
        self._over(halt)

    def _scale_back(self, halt: Halt) -> None:
        now = replicas_of(self.engine, halt.id)
        while now is not None and now[1] > 0 and not self._is_settled(halt):
            time.sleep(_LOOK_SECONDS)
            now = replicas_of(self.engine, halt.id)
        if now is None:
            raise NotUp(f"Swarm service {halt.name} was removed while it was scaled to 0", may_pass=False)
        if now[1] == 0:
            scale(self.engine, halt.id, int(halt.before))
        self._write(replace(halt, state="started", error=""))

    def _look(self, halt: Halt) -> bool:
        """Whether it is to be looked at again."""
        try:
            return self._looked_at_service(halt) if halt.action == "scale" else self._looked_at(halt)
        except EngineUnreachable as error:
            self._write(replace(halt, error=str(error)))
            return True
        except EngineError as error:
            self._write(replace(halt, error=str(error)))
            return False

    def _looked_at_service(self, halt: Halt) -> bool:
        count = running_tasks(self.engine, halt.id)
        if count >= int(halt.before):
            self._over(halt)
            return False
        self._write(replace(halt, error=f"{count} of {halt.before} tasks of the service run"))
        return True

    def _looked_at(self, halt: Halt) -> bool:
        before = self._started.get(halt.id)
        container = find_container(self.engine, before.id if before is not None else halt.id)
        if container is None:
            container = find_successor(self.engine, halt.id, halt.name, halt.service)
        if container is None:
            self._write(replace(halt, error="it was removed after it was started"))
            return False
        if before is None or container.started_at != before.started_at:
            self._started[halt.id] = container
            self._since[halt.id] = time.monotonic()
        if container.state == "restarting":
            if not halt.unhealthy:
                self._write(replace(halt, error="it is restarting: it ends again and again"))
                return True
            self._over(halt)
        elif container.stopping or (not container.runs and container.state != "paused"):
            # Once more, as long as nobody else touches it: whoever wrote that it is started may have died before he asked.
            self._starts.setdefault(halt.id, 1)
            self._write(
                replace(
                    halt,
                    state="done" if container.id == halt.id else "started",
                    after=container.finished_at,
                    error="it is being stopped" if container.stopping else _ended(container),
                )
            )
            return False
        elif container.health == "unhealthy" and not halt.unhealthy:
            self._write(replace(halt, error="it is unhealthy"))
            return True
        elif container.health == "starting":
            self._write(replace(halt, error=""))
            return True
        else:
            steady = time.monotonic() - self._since.setdefault(halt.id, time.monotonic())
            if container.health is None and self._starts.get(halt.id) and steady < STEADY_SECONDS:
                return True
            self._over(halt)
        return False

    def _stopped(self, container: Container) -> Container | None:
        """As it is once it has stopped: the engine goes on with what it was asked for, whatever became of who asked. Podman does not if
        it died meanwhile: then it is asked once more.
        """
        seconds = container.stop_seconds if container.stop_seconds >= 0 else HEALTHY_SECONDS
        asked = self._asked.setdefault(container.id, time.monotonic())
        # In between, what else is not up yet is tried again.
        wait = min(seconds + LONGER_SECONDS, _STOPPED_SECONDS) if self.sure else seconds + LONGER_SECONDS
        found = await_end(self.engine, container, seconds=wait)
        if found is not None and found.stopping and time.monotonic() - asked >= seconds + LONGER_SECONDS:
            stop(self.engine, found)
            return find_container(self.engine, found.id)
        # Where it runs for much longer than that, the engine was never asked, or has refused: it is up.
        late = time.monotonic() - asked > seconds + _REFUSED_SECONDS
        if self.sure and found is not None and found.runs and not late:
            raise EngineError("it is still being stopped")
        return found

    def _paused(self, halt: Halt, container: Container) -> Container:
        """As `_stopped`. That takes the engine no time of the container's."""
        while container.state == "running" and not self._is_settled(halt):
            time.sleep(_LOOK_SECONDS)
            found = find_container(self.engine, halt.id)
            if found is None:
                raise EngineError("it was removed while it was being paused")
            container = found
        return container

    def _is_settled(self, halt: Halt) -> bool:
        """Whether the engine would have done by now what was under way."""
        asked = self._asked.setdefault(halt.id, time.monotonic())
        return halt.state != "under way" or time.monotonic() - asked >= STEADY_SECONDS

    def _now(self, halt: Halt) -> Halt:
        return next(each for each in self.halts if each.id == halt.id)

    def _over(self, halt: Halt) -> None:
        self._write(replace(halt, state="over", error=""))

    def _write(self, halt: Halt) -> None:
        if halt == self._now(halt):
            return
        self.halts = [halt if each.id == halt.id else each for each in self.halts]
        try:
            self.journal.write(halt)
        except VolferryError:
            pass  # it is as it is, which is what a replay finds

    def _say_given_up(self) -> None:
        names = ", ".join(halt.name for halt in self._left())
        if names and names not in self._said:
            self._said.add(names)
            self.note(
                f"{names}: no longer waited for: `volferry recover`, or the next backup, brings back what is not up"
            )

    def _say(self, waits: Sequence[Halt], patience_seconds: float) -> None:
        for halt in waits:
            if halt.error and halt.error not in self._said:
                self._said.add(halt.error)
                self.note(
                    f"{halt.name} could not be brought back yet: {halt.error}; it is tried again, for up to {_span_text(patience_seconds)}"
                )


def _ended(container: Container) -> str:
    return f"it has ended with status {container.exit_code} after it was started"


def _span_text(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
