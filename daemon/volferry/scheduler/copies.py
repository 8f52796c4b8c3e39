"""Copies that are still to be made: of backups whose copy failed, or was interrupted. Time is given to it."""

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
    from volferry.upkeep import Upkeep

_AT_ONCE = 100  # volumes of one command
_PAUSE = timedelta(minutes=1)

Log = Any  # of structlog, which has no type for what it makes


@dataclass(frozen=True, slots=True)
class CopyEnding:
    """How a copy of several volumes ended."""

    store: str  # its name
    volumes: Collection[str]
    began: datetime
    interrupted: bool = False
    error: str = ""


class CopyRuns(Protocol):
    """Where copies are made. Each that ends must be told (`ended`)."""

    def start_copy(self, store: str, volumes: list[str], now: datetime) -> None: ...
    @property
    def copy_goes_on(self) -> bool: ...
    def going_on(self) -> Mapping[str, datetime]:
        """Backups that are: each makes its own copies."""


class CopyMemory(Protocol):
    """What outlives the process."""

    def due_copies(
        self, busy: Collection[str], now: datetime
    ) -> tuple[dict[str, list[Upkeep]], datetime | None]:
        """What is to be copied now, by the store's name, without volumes that are `busy`; and when the next copies are due."""

    def copy_ended(self, ending: CopyEnding, now: datetime) -> int:
        """Keeps how it went, where the copy has not; returns how often in a row one of these volumes has failed, at most."""


@dataclass(slots=True)
class Copies:
    """One at a time, beside backups."""

    runs: CopyRuns
    memory: CopyMemory
    tell: Callable[[Event], None]
    log: Log
    _failed: set[str] = field(default_factory=set)  # stores
    _last: tuple[str, list[str]] | None = None
    _ended: timedelta = timedelta()

    def step(self, now: Moment) -> timedelta | None:
        """Starts one if it is due; returns when to be called again, by the clock that only goes on, None if that is not known before something
        happens.
        """
        if self.runs.copy_goes_on:
            return None
        due, following = self.memory.due_copies(self.runs.going_on().keys(), now.wall)
        if not due:
            return now.when(following) if following is not None else None
        store, owed = next(iter(due.items()))
        volumes = [each.volume for each in owed[:_AT_ONCE]]
        if self._last == (store, volumes) and now.mono - self._ended < _PAUSE:
            return self._ended + _PAUSE  # how it ended could not be kept, as on a full disk
        self._last = store, volumes
        if any(each.failures for each in owed):
            self._failed.add(store)
        self.log.info("a copy is made up for", store=store, volumes=volumes)
        try:
            self.runs.start_copy(store, volumes, now.wall)
        except Exception as error:  # noqa: BLE001 -- it must not end the daemon: backups go on
            return self._could_not_begin(store, described(error), now)
        return None

    def _could_not_begin(self, store: str, error: str, now: Moment) -> timedelta:
        self.log.error("a copy could not be begun", store=store, error=error)
        self._ended = now.mono
        return now.mono + _PAUSE

    def ended(self, ending: CopyEnding, now: Moment) -> None:
        self._ended = now.mono
        if ending.interrupted:
            return
        failures = self.memory.copy_ended(ending, now.wall)
        if failures:
            self._failed.add(ending.store)
            self.log.error("a copy failed", store=ending.store, error=ending.error, failures=failures)
            if failures == 1:  # else a run or an earlier copy has told
                self._tell("failure", f"copying to {ending.store} failed", now, ending.error)
        elif ending.store in self._failed:
            self._failed.discard(ending.store)
            self.log.info("copying works again", store=ending.store)
            self._tell("recovery", f"copying to {ending.store} works again", now)

    def _tell(self, kind: Any, what: str, now: Moment, error: str = "") -> None:
        self.tell(Event(kind, "", what, now, Ending(not error, error=error)))
