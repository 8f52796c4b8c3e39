"""The parts of the daemon's loop: what goes wrong in one, whatever that is, keeps no other from its turn. Time is given to them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from volferry.errors import described
from volferry.scheduler.events import Event
from volferry.scheduler.loop import Ending
from volferry.scheduler.moments import Moment

if TYPE_CHECKING:
    from collections.abc import Callable

_FIRST_RETRY = timedelta(seconds=10)
_LAST_RETRY = timedelta(minutes=10)
_MOST_SAID = 1000

Log = Any  # of structlog, which has no type for what it makes


@dataclass(slots=True)
class Guard:
    """Of what is done once, and not tried again. Called from any thread."""

    tell: Callable[[Event], None]
    log: Log
    _said: set[tuple[str, str]] = field(default_factory=set)

    def attempt(self, name: str, step: Callable[[], object]) -> None:
        """Whatever it raises is said, and each error told once."""
        try:
            step()
        except Exception as error:  # noqa: BLE001 -- whatever it is, it must not end the daemon
            self.failed(name, error)

    def failed(self, name: str, error: Exception) -> None:
        said = described(error)
        if (name, said) in self._said:
            return
        if len(self._said) >= _MOST_SAID:  # errors that name something else each time
            self._said.clear()
        self._said.add((name, said))
        self.say("error", f"{name} failed", error=said)
        self.inform("failure", f"the daemon: {name} failed", Moment.now(), said)

    def say(self, method: str, event: str, **more: str) -> None:
        with suppress(Exception):  # it may be the log that has failed
            getattr(self.log, method)(event, **more)

    def inform(self, kind: Any, what: str, now: Moment, error: str = "") -> None:
        with suppress(Exception):
            self.tell(Event(kind, "", what, now, Ending(not error, error=error), urgent=True))


@dataclass(slots=True)
class Turn:
    """Of the part of that name. It is tried again later and later, and told of once until it works again."""

    name: str
    step: Callable[[Moment], timedelta | None]  # returns when to be called again
    guard: Guard
    _failures: int = 0
    _again: timedelta | None = None  # by the clock that only goes on
    _said: str = ""

    def take(self, now: Moment) -> timedelta | None:
        """Returns when to be called again, by the clock that only goes on, None if that is not known before something happens."""
        if self._again is not None and now.mono < self._again:
            return self._again
        try:
            found = self.step(now)
        except Exception as error:  # noqa: BLE001 -- as above
            return self._failed(error, now)
        if self._failures:
            self._failures, self._again, self._said = 0, None, ""
            self.guard.say("info", f"{self.name} works again")
            self.guard.inform("recovery", f"the daemon: {self.name} works again", now)
        return found

    @property
    def rests(self) -> bool:
        """After a failure: it does nothing before its time."""
        return self._again is not None

    @property
    def trouble(self) -> str:
        """Why it rests; empty if it does not."""
        return f"{self.name} failed: {self._said}" if self._said else ""

    def at_once(self) -> None:
        """It rests no longer: there may be no reason to."""
        if self._again is not None:
            self._again = timedelta()

    def _failed(self, error: Exception, now: Moment) -> timedelta:
        self._failures += 1
        self._again = now.mono + min(_LAST_RETRY, _FIRST_RETRY * (1 << min(self._failures - 1, 10)))
        said = described(error)
        if said != self._said:
            self._said = said
            self.guard.say("error", f"{self.name} failed", error=said)
        if self._failures == 1:
            self.guard.inform("failure", f"the daemon: {self.name} failed", now, said)
        return self._again
