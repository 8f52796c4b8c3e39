"""When what runs that died had stopped is brought back, and what people are told of what is down. Time is given to it.

The work is a process of its own: what takes long, or hangs, holds nothing else up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

from volferry.errors import described
from volferry.scheduler.events import Event
from volferry.scheduler.loop import Ending

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from volferry.config import Config
    from volferry.scheduler.loop import Down
    from volferry.scheduler.moments import Moment

_FIRST_RETRY = timedelta(seconds=10)
_LAST_RETRY = timedelta(minutes=5)
# What happens in the engine while something is brought back, and just after, comes of that.
_ECHO = timedelta(seconds=5)
# What happens later may be why it works now; where much happens, it is not tried each time.
_AFTER_EVENT = timedelta(seconds=30)
_LONG = timedelta(minutes=10)  # an attempt may wait for another run that has something stopped
_UNKNOWN = "what an interrupted run had stopped"

Log = Any  # of structlog, which has no type for what it makes


@dataclass(frozen=True, slots=True)
class RecoveryEnding:
    """How one attempt ended."""

    left: Sequence[Down] = ()
    brought_back: Sequence[str] = ()
    interrupted: bool = False
    error: str = ""  # nothing is known of what is down


class Recoveries(Protocol):
    """Where attempts are made. Each that ends must be told (`ended`)."""

    def start_recovery(self) -> None: ...
    @property
    def recovery_goes_on(self) -> bool: ...


@dataclass(slots=True)
class Recovering:
    config: Callable[[], Config]
    journals: Callable[[], Collection[str]]  # of the dead, by the ids of their runs
    recoveries: Recoveries
    tell: Callable[[Event], None]
    log: Log
    forgotten: Callable[[], Collection[str]] = (
        tuple  # runs of which a person has said that what they left is left as it is
    )
    down: dict[str, str] = field(default_factory=dict)  # what is known to be down, and why
    _runs: dict[str, str] = field(default_factory=dict)  # by what is down: of whom it is known
    _told: dict[str, timedelta] = field(default_factory=dict)  # by the clock that only goes on
    _tried: frozenset[str] = frozenset()  # journals that the last attempt knew
    _attempts: int = 0
    _began: timedelta | None = None
    _ended: timedelta | None = None
    _due: timedelta | None = None
    _trouble: str = ""

    def step(self, now: Moment) -> timedelta | None:
        """Starts an attempt if one is due; returns when to be called again, by the clock that only goes on, None if that is not known before
        something happens.
        """
        self._forget(now)
        told_at = self._tell_down(now)
        if self.recoveries.recovery_goes_on:
            if not self.down and self._began is not None and now.mono - self._began >= _LONG:
                self.down = {
                    _UNKNOWN: f"it is still being brought back, since {now.at(self._began).astimezone():%H:%M}"
                }
                told_at = self._tell_down(now)
            return told_at if self.down or self._began is None else self._began + _LONG
        try:
            found = frozenset(self.journals())
        except Exception as error:  # noqa: BLE001 -- it must not end the daemon: backups go on
            self._cannot_read(described(error), now)
            return now.mono + _LAST_RETRY
        self._trouble = ""
        if not found:
            self._attempts, self._due, self._tried = 0, None, frozenset()
            self._is_up(set(self.down), now)
            return None
        if found - self._tried:  # of what has just died: at once
            self._attempts, self._due = 0, None
        if self._due is not None and self._due > now.mono:
            return self._due if told_at is None else min(self._due, told_at)
        self._tried, self._began = found, now.mono
        self.recoveries.start_recovery()
        return now.mono + _LONG if told_at is None else min(told_at, now.mono + _LONG)

    def is_wanted(self) -> bool:
        """Whether a run has died since the last attempt, and left something. Cheap: to be asked every few seconds."""
        try:
            return not self.recoveries.recovery_goes_on and bool(frozenset(self.journals()) - self._tried)
        except Exception:  # noqa: BLE001 -- `step` says so
            return False

    def found(self, down: Sequence[Down], now: Moment) -> None:
        """A run that has ended says so itself."""
        self.down |= {each.name: each.error for each in down}
        self._runs |= {each.name: each.run for each in down}
        self._tell_down(now)

    def changed(self, now: Moment) -> None:
        """Something has, in the engine: it may be why it works now."""
        if self.recoveries.recovery_goes_on or self._due is None or self._ended is None:
            return
        if now.mono - self._ended > _ECHO:
            self._due = min(self._due, max(now.mono, self._ended + _AFTER_EVENT))

    def ended(self, ending: RecoveryEnding, now: Moment) -> None:
        if ending.interrupted:
            return
        self._attempts += 1
        self._ended = now.mono
        self._due = now.mono + min(_LAST_RETRY, _FIRST_RETRY * (1 << min(self._attempts - 1, 10)))
        for name in ending.brought_back:
            self.log.info("brought back", name=name)
        if ending.error and not ending.left:
            left = {**self.down, **({} if self.down else {_UNKNOWN: ending.error})}
        else:
            left = {each.name: each.error for each in ending.left}
            self._runs |= {each.name: each.run for each in ending.left}
        self._forget(now)
        up = self.down.keys() - left.keys()
        for name, error in left.items():
            if self.down.get(name) != error or name not in self._told:
                self.log.error("a service is down", name=name, error=error)
        self._is_up(up, now)
        self.down = left
        self._tell_down(now)

    def _tell_down(self, now: Moment) -> timedelta | None:
        """Until it is up: whoever missed one message gets another. Returns when that is."""
        again = self.config().notify.down_again.delta
        for name, error in self.down.items():
            if name not in self._told or now.mono - self._told[name] >= again:
                self._told[name] = now.mono
                self._tell("failure", f"a service is down: {name}", now, error)
        return min((self._told[name] + again for name in self.down), default=None)

    def _is_up(self, names: Collection[str], now: Moment) -> None:
        for name in sorted(names):
            self.down.pop(name, None)
            self._runs.pop(name, None)
            if self._told.pop(name, None) is not None:
                self.log.info("a service is up again", name=name)
                self._tell("recovery", f"the service is up again: {name}", now)

    def _forget(self, now: Moment) -> None:
        """What nobody waits for any longer is not up for that."""
        if not self.down:
            return
        forgotten = set(self.forgotten())
        for name in sorted(self.down):
            # Of whom it is may not be known, as while it was still being brought back.
            if not forgotten & ({run} if (run := self._runs.get(name)) else self._tried):
                continue
            self.down.pop(name)
            self._runs.pop(name, None)
            if self._told.pop(name, None) is not None:
                why = "it is left as it is: `volferry recover --forget`"
                self.log.warning("a service is no longer waited for", name=name, error=why)
                self._tell("recovery", f"a service is no longer waited for: {name}", now, why)

    def _cannot_read(self, error: str, now: Moment) -> None:
        if error != self._trouble:
            self.log.error("what interrupted runs have left cannot be read", error=error)
            if not self._trouble:
                self._tell("failure", "what interrupted runs have left cannot be read", now, error)
        self._trouble = error

    def _tell(self, kind: Any, what: str, now: Moment, error: str = "") -> None:
        self.tell(Event(kind, "", what, now, Ending(not error, error=error), urgent=True))
