"""Copies and prunes that are still to be made: of backups whose copy or prune failed, or whose copy was interrupted. Time is given to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

from volferry.errors import described
from volferry.scheduler.events import Event
from volferry.scheduler.loop import Ending

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from datetime import datetime

    from volferry.scheduler.moments import Moment
    from volferry.upkeep import Upkeep, Work

_AT_ONCE = 100  # volumes of one command
_PAUSE = timedelta(minutes=1)
_DOING: dict[Work, str] = {"copy": "copying to", "prune": "pruning"}

Log = Any  # of structlog, which has no type for what it makes


@dataclass(frozen=True, slots=True)
class CopyEnding:
    """How a copy, or a prune, of several volumes ended."""

    store: str  # its name
    volumes: Collection[str]
    began: datetime
    work: Work = "copy"
    interrupted: bool = False
    error: str = ""


class CopyRuns(Protocol):
    """Where they are made. Each that ends must be told (`ended`)."""

    def start_upkeep(self, work: Work, store: str, volumes: list[str], now: datetime) -> None: ...
    def upkeep_goes_on(self, work: Work) -> bool: ...
    def going_on(self) -> Mapping[str, datetime]:
        """Backups that are: each is copied and pruned by its own run."""


class CopyMemory(Protocol):
    """What outlives the process."""

    def due(
        self, work: Work, busy: Collection[str], now: datetime
    ) -> tuple[dict[str, list[Upkeep]], datetime | None]:
        """What is to be done now, by the store's name, without volumes that are `busy`; and when the next of it is due."""

    def has_ended(self, ending: CopyEnding, now: datetime) -> int:
        """Keeps how it went, where the command has not; returns how often in a row one of these volumes has failed, at most."""


@dataclass(slots=True)
class Copies:
    """Of one kind: one at a time, beside backups."""

    runs: CopyRuns
    memory: CopyMemory
    tell: Callable[[Event], None]
    log: Log
    work: Work = "copy"
    _failed: set[str] = field(default_factory=set)  # stores
    _last: tuple[str, list[str]] | None = None
    _ended: timedelta = timedelta()

    def step(self, now: Moment) -> timedelta | None:
        """Starts one if it is due; returns when to be called again, by the clock that only goes on, None if that is not known before something
        happens.
        """
        if self.runs.upkeep_goes_on(self.work):
            return None
        due, following = self.memory.due(self.work, self.runs.going_on().keys(), now.wall)
        if not due:
            return now.when(following) if following is not None else None
        store, owed = next(iter(due.items()))
        volumes = [each.volume for each in owed[:_AT_ONCE]]
        if self._last == (store, volumes) and now.mono - self._ended < _PAUSE:
            return self._ended + _PAUSE  # how it ended could not be kept, as on a full disk
        self._last = store, volumes
        if any(each.failures for each in owed):
            self._failed.add(store)
        event = f"a {self.work} is made up for"
        self.log.info(event, store=store, volumes=volumes)
        try:
            self.runs.start_upkeep(self.work, store, volumes, now.wall)
        except Exception as error:  # noqa: BLE001 -- it must not end the daemon: backups go on
            return self._could_not_begin(store, described(error), now)
        return None

    def _could_not_begin(self, store: str, error: str, now: Moment) -> timedelta:
        event = f"a {self.work} could not be begun"
        self.log.error(event, store=store, error=error)
        self._ended = now.mono
        return now.mono + _PAUSE

    def ended(self, ending: CopyEnding, now: Moment) -> None:
        self._ended = now.mono
        if ending.interrupted:
            return
        failures = self.memory.has_ended(ending, now.wall)
        if failures:
            self._failed.add(ending.store)
            event = f"a {self.work} failed"
            self.log.error(event, store=ending.store, error=ending.error, failures=failures)
            if failures == 1:  # else a run or an earlier copy has told
                self._tell("failure", f"{_DOING[self.work]} {ending.store} failed", now, ending.error)
        elif ending.store in self._failed:
            self._failed.discard(ending.store)
            event = f"{_DOING[self.work]} {ending.store} works again"
            self.log.info(event)
            self._tell("recovery", event, now)

    def _tell(self, kind: Any, what: str, now: Moment, error: str = "") -> None:
        self.tell(Event(kind, "", what, now, Ending(not error, error=error)))
