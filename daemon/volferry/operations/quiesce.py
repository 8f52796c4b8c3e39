"""Keeps the applications that write to a volume still for as long as it is read, and brings them back.

What is about to be stopped is in the journal first. Whether it stood still is looked at before it comes back, and whether it is up afterwards.
"""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from volferry.engine.company import go_along
from volferry.engine.containers import Container, find_container, in_order, writers
from volferry.engine.doors import doors
from volferry.engine.starts import Starts
from volferry.errors import Disturbed, DowntimeExceeded, EngineError, EngineUnreachable
from volferry.interrupts import Deadline, Impatience, held_back
from volferry.journal import Halt, Journal, text_of
from volferry.model import Finding
from volferry.operations.coming_back import ComingBack
from volferry.operations.halting import halt_of, halted, has_moved, refused
from volferry.operations.retrying import quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from contextlib import AbstractContextManager

    from volferry.engine.client import Engine
    from volferry.operations.not_back import NotBack

Mode = Literal["none", "pause", "stop"]

BRING_BACK = timedelta(hours=1)
_TURN_SECONDS = 60  # so long is waited for another run that has something stopped, only to look whether what was started is up
_LOOK_SECONDS = 1.0
_YOUNG_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Of standing still."""

    young: timedelta = (
        timedelta()
    )  # a container that runs for less is not stopped: it is waited for, and then left running
    downtime: timedelta | None = None  # after so long, services are brought back, whatever goes on
    bring_back: timedelta = BRING_BACK  # so long is tried to


@dataclass(slots=True)
class Quiesced:
    """The containers that write to some volumes. `end` must be called, whatever happens after `begin` was; then `await_up`."""

    engine: Engine
    volumes: Sequence[str]
    wanted: Mode
    warm: bool
    journal: Journal
    own: Collection[str]  # ids of containers that are never touched: volferry's own
    note: Callable[[str], None]
    also: Collection[str] = ()  # ids of containers that stand still as well, whatever they mount
    limits: Limits = field(default_factory=Limits)
    recover: Callable[[], object] = lambda: None  # brings back what runs that died have left down
    # No volferry of another state directory has anything stopped then. It is given what says what is about to be.
    turn: Callable[[Callable[[], str]], AbstractContextManager[object]] = nullcontext
    before: Callable[[], object] = lambda: None  # raises VolferryError where nothing is to be stopped
    downtime_seconds: float = 0.0
    unstopped: str = ""  # why nothing was stopped
    disturbed: str = ""  # who did not stand still
    overdue: bool = False  # brought back by the limit of the downtime
    down: list[NotBack] = field(default_factory=list)  # what is not up afterwards
    further_problems: list[str] = field(default_factory=list)
    _has_engine: bool = False  # nobody else has anything of it stopped
    _coming: ComingBack | None = None
    _stack: ExitStack = field(default_factory=ExitStack)  # until all was started again
    _watching: ExitStack = field(default_factory=ExitStack)  # while all stands still
    _starts: Starts | None = None
    _since: float | None = None
    _ended: bool = False
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.note = quiet(self.note)

    @property
    def mode(self) -> Mode:
        """What it came to: `pause` if one of them could only be paused, `none` if one of them did not stand still."""
        if self.unstopped or self.disturbed:
            return "none"
        paused = any(halt.action == "pause" for halt in self._halts)
        return "pause" if self.wanted == "stop" and paused else self.wanted

    @property
    def problems(self) -> list[str]:
        """What is not up afterwards, each in a line."""
        return [*(each.text for each in self.down), *self.further_problems]

    @property
    def stopped(self) -> list[str]:
        """Names of what `begin` has stopped, paused or scaled."""
        return [halt.name for halt in self._halts if halt.state == "done"]

    @property
    def too_long(self) -> str:
        limit = _span_text(self.limits.downtime or timedelta())
        return f"services stood still for {limit} (max_downtime): they are brought back before the volume was read"

    @property
    def has_stopped(self) -> bool:
        """Whether anything was, or may have been."""
        return self._since is not None

    def take_turn(self) -> None:
        """Waits until it may stop what it is to stop, however long that takes: before the hooks and dumps that come before a stop. Raises
        VolferryError.
        """
        if self.wanted == "none" or self._is_young():
            return
        self.journal.alone()
        # What one that died while this one waited has left down would be taken for what does not run.
        self.recover()
        if self._to_halt() and not self._has_engine:
            self._stack.enter_context(self.turn(lambda: text_of(self._planned(self._to_halt()))))
            self._has_engine = True
            self.before()

    def begin(self) -> None:
        """Stops or pauses all that writes to the volumes, once it is its turn. Raises VolferryError."""
        if not self._has_engine:
            self.take_turn()
        if self.wanted == "none" or self.unstopped:
            return
        starts = self._watching.enter_context(Starts(self.engine))
        found = self._to_halt()
        if self._is_young(found):
            return
        self._starts = starts  # also where nothing runs: something may be started
        if not found:
            starts.forget()
            return
        halts = self._planned(found, self.note)
        self.journal.write(*halts)
        self._coming = ComingBack(self.engine, halts, self.journal, self.note, sure=True)
        for halt in reversed(halts):
            # A container that is being stopped cannot be left half-way.
            with held_back(), Impatience():
                self._stop(halt)
        self._starts.forget()

    def _stop(self, halt: Halt) -> None:
        """Or pauses or scales. Without the lock for as long as the engine takes for it: what was stopped before comes back meanwhile where the limit
        passes.
        """
        with self._lock:
            if self._ended:
                raise DowntimeExceeded(self.too_long)
            if self._since is None:
                self._since = time.monotonic()
                self._limit()
            self._record(replace(halt, state="under way"))
        try:
            stopped = halted(self.engine, halt)
        except Exception as error:
            answered = isinstance(error, EngineError) and not isinstance(error, EngineUnreachable)
            was_refused = answered and refused(self.engine, halt)
            self._settle(replace(halt, state="planned" if was_refused else "under way"))
            raise
        self._settle(stopped)

    def _settle(self, halt: Halt) -> None:
        """As it is once the engine has answered. Raises DowntimeExceeded where the limit has passed meanwhile: it may have been stopped after it was
        seen running.
        """
        with self._lock:
            if not self._ended or self._coming is None:
                self._record(halt)
                return
            self._coming.start_again(halt, self.limits.bring_back.total_seconds())
        raise DowntimeExceeded(self.too_long)

    def writers(self) -> list[Container]:
        """Those that run now."""
        found = {
            each.id: each for volume in self.volumes for each in writers(self.engine, volume, but=self.own)
        }
        further = (find_container(self.engine, each) for each in self.also if each not in {*found, *self.own})
        found |= {each.id: each for each in further if each is not None and each.runs}
        return list(found.values())

    def check(self) -> None:
        """Raises Disturbed where one of them did not stand still until now."""
        if self._starts is not None and not self._ended:
            self.disturbed = self.disturbed or self._disturbances()
        if self.disturbed:
            raise Disturbed(f"not all stood still: {self.disturbed}")

    def findings(self) -> list[Finding]:
        """What kept it from standing still, once it has ended. Raises DowntimeExceeded where the volume was not read by then."""
        if self.overdue:
            raise DowntimeExceeded(self.too_long)
        found = [Finding("unstopped", b"", self.unstopped)] if self.unstopped else []
        return [*found, Finding("disturbed", b"", self.disturbed)] if self.disturbed else found

    def restarted_by_engine(self, engine: Engine) -> list[str]:
        """Names of containers that the engine itself starts again when it restarts, whoever has stopped them."""
        found = (find_container(engine, halt.id) for halt in self._halts if halt.action == "stop")
        return [each.name for each in found if each is not None and each.restart_policy == "always"]

    def hand_over(self, to: str) -> None:
        """Before something else, on the engine `to`, is started to do their work: whoever finds the journal starts nothing here, or both would run.
        `leave` or `end` follows.
        """
        with held_back(), Impatience(), self._lock:
            if self._ended:
                return
            for halt in self._halts:
                if halt.state == "done":
                    error = f"it was being handed over to {to} when the run was killed: see on which of both it runs"
                    self._record(replace(halt, state="handed", error=error))
            self._stack.close()

    def leave(self) -> None:
        """In place of `end`: what was stopped stays so, for something else does its work now."""
        with held_back(), Impatience(), self._lock:
            if self._ended:
                return
            self._over()
            self._measure()
            self._stack.close()
            for halt in self._halts:
                self._record(replace(halt, state="over"))
            self.journal.end(over=True)

    def end(self) -> None:
        """Looks whether all stood still, and brings back what `begin` has stopped. It tries that for long; what is left then is the next
        run's to try again.
        """
        # The limit's thread may have the lock, for as long as it brings back.
        with held_back(), Impatience(), self._lock:
            if self._ended:
                return
            if self._starts is not None:
                self.disturbed = self.disturbed or self._disturbances()
            self._over()
            if self._coming is None:
                self._stack.close()
                self.journal.end(over=True)
                return
            for halt in self._halts:
                if halt.state == "handed":
                    self._record(replace(halt, state="done", error=""))
            self._coming.start(self.limits.bring_back.total_seconds())
            self._measure()
            self._stack.close()
            self.journal.let_others()

    def await_up(self) -> list[str]:
        """Looks whether what `end` has started is up. Returns what is not."""
        with held_back(), Impatience() as impatience, self._lock:
            if self._coming is None:
                return []
            if not self._coming.is_over and self._has_turn(impatience):
                self._coming.await_up()
                self.down = self._coming.left
            else:  # what is started is another run's to look at
                self.down = self._coming.not_started
            self.journal.end(over=self._coming.is_over)
            self._coming = None
            return self.problems

    @property
    def _halts(self) -> list[Halt]:
        return self._coming.halts if self._coming is not None else []

    def _over(self) -> None:
        self._ended = True
        self._watching.close()

    def _measure(self) -> None:
        if self._since is not None:
            self.downtime_seconds = round(time.monotonic() - self._since, 3)

    def _has_turn(self, impatience: Impatience) -> bool:
        """A run that has stopped the same container since would be taken for its end."""
        end = time.monotonic() + _TURN_SECONDS
        while not self.journal.alone(wait=False):
            if time.monotonic() > end or impatience.sleeps(_LOOK_SECONDS):
                self.note(
                    "another run has services stopped: whether all is up is looked at by `volferry recover`"
                )
                return False
        return True

    def _limit(self) -> None:
        if self.limits.downtime is not None:
            self._watching.enter_context(Deadline(self.limits.downtime.total_seconds(), self._too_long))

    def _too_long(self) -> bool:
        """In a thread of its own: the one that reads may wait for something that never comes."""
        with self._lock:
            if self._ended:
                return False
            self.overdue = True
            self.end()
            self.note(self.too_long)
            return True

    def _to_halt(self) -> list[Container]:
        """In the order of starting. Raises EngineError for what volferry itself cannot do without."""
        found = self.writers()
        if self.wanted == "stop":
            found += go_along(self.engine, found, but=self.own)
        for each in found:
            if why := doors(self.engine, self.own).get(each.id):
                raise EngineError(
                    f"container {each.name} cannot be stopped or paused: {why}: use quiesce = none"
                )
        return in_order(found)

    def _planned(
        self, found: Sequence[Container], note: Callable[[str], object] = lambda _: None
    ) -> list[Halt]:
        halts = [halt_of(self.engine, each, self.wanted, number, note) for number, each in enumerate(found)]
        return list({halt.id: halt for halt in halts}.values())  # of a service, once

    def _is_young(self, found: Sequence[Container] | None = None) -> bool:
        """Whether one of them has run for too short a time to be stopped, as in the middle of its first start. Without `found`, waits for that to
        pass.
        """
        young = self.limits.young
        if not young:
            return False
        # However long it is to be: others wait for this run, and one that starts again all the time is never old enough.
        end = time.monotonic() + min(young.total_seconds(), _YOUNG_SECONDS)
        said = False
        while True:
            ages = [
                (each, self.engine.now() - each.started)
                for each in (self.writers() if found is None else found)
            ]
            new = [each for each, age in ages if timedelta() <= age < young or each.health == "starting"]
            if not new:
                return False
            names = ", ".join(sorted(each.name for each in new))
            if found is not None or time.monotonic() > end:
                self.unstopped = f"{names} had run for less than {_span_text(young)}, or was still starting"
                self.note(f"nothing is stopped: {self.unstopped}")
                return True
            if not said:
                self.note(f"waiting until {names} has run for {_span_text(young)}")
                said = True
            time.sleep(_LOOK_SECONDS)

    def _disturbances(self) -> str:
        """Who has run since all stood still; empty if nobody has."""
        try:
            names = {
                halt.name for halt in self._halts if halt.state == "done" and has_moved(self.engine, halt)
            }
            names |= {each.name for each in self.writers()}
            if self._starts is not None:
                ours = {halt.id for halt in self._halts if halt.state == "planned"}
                names |= set(self._starts.writers(self.volumes, but={*self.own, *ours}))
        except EngineError as error:
            return f"whether all did cannot be found out: {error}"
        return f"{', '.join(sorted(names))} ran while it was read" if names else ""

    def _record(self, halt: Halt) -> None:
        self.journal.write(halt)
        if self._coming is not None:
            self._coming.halts = [halt if each.id == halt.id else each for each in self._coming.halts]


def _span_text(span: timedelta) -> str:
    seconds = int(span.total_seconds())
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min"
