"""When a share of the store is to be read, and what people are told of what comes of it. Time is given to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from volferry.errors import described
from volferry.schedule import due, is_believed
from volferry.scheduler.events import Event
from volferry.scheduler.loop import Ending
from volferry.scheduler.moments import Moment, Pace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import tzinfo

    from volferry.config import Config

_BUSY = timedelta(minutes=1)  # a backup goes first
_FIRST_RETRY = timedelta(minutes=1)
_LAST_RETRY = timedelta(hours=1)

Log = Any  # of structlog, which has no type for what it makes


@dataclass(frozen=True, slots=True)
class ShareEnding:
    """How a share ended."""

    done: bool  # it was read, whatever was found
    interrupted: bool = False
    error: str = ""
    news: Mapping[str, str] = field(default_factory=dict)  # what is wrong since the last one, by volume
    hurt: int = 0  # backups that cannot be restored as a whole, new or not
    objects: int = 0
    read_bytes: int = 0


class Shares(Protocol):
    """Where they are read. Each that ends must be told (`ended`)."""

    def start_share(self) -> None: ...
    @property
    def share_goes_on(self) -> bool: ...
    def going_on(self) -> Mapping[str, datetime]:
        """Backups that are."""


class ShareMemory(Protocol):
    """What outlives the process."""

    def last_share(self) -> datetime | None:
        """When the last one ended that was read."""

    def shares_since(self, now: datetime) -> datetime:
        """When one was wanted first."""


@dataclass(slots=True)
class Verifying:
    config: Callable[[], Config]
    zone: Callable[[], tzinfo]
    shares: Shares
    memory: ShareMemory
    tell: Callable[[Event], None]
    log: Log
    started: Moment
    late: bool = False
    pace: Pace = field(init=False)
    _told_late: bool = False
    _failures: int = 0
    _again: timedelta | None = None  # by the clock that only goes on
    _looks_again: timedelta | None = None  # after a step that failed
    _hurt: bool = False
    _began: datetime | None = None
    _ended: datetime | None = None

    def __post_init__(self) -> None:
        self.pace = Pace(self.started.mono)

    def step(self, now: Moment) -> timedelta | None:
        """Starts one if it is due; returns when to be called again, by the clock that only goes on, None if that is not known before something
        happens.
        """
        self.pace.change(now)
        if self._looks_again is not None and self._looks_again > now.mono:
            return self._looks_again
        try:
            found = self._start_due(now)
        except Exception as error:  # noqa: BLE001 -- it must not end the daemon: backups go on
            self.ended(ShareEnding(done=False, error=described(error)), now)
            self._looks_again = self._again
            return self._again
        self._looks_again = None
        return found

    def _start_due(self, now: Moment) -> timedelta | None:
        schedule = self.config().verify.schedule
        if schedule is None:
            self.late = False
            return None
        # One that takes long is not late for that before it should have been followed by another.
        last = self._began if self.shares.share_goes_on else self._last(now.wall)
        found = due(schedule, last, now.wall, self.zone(), seen=self.memory.shares_since(now.wall))
        if found is None:
            return None
        self.late = found.late
        self._judge(now)
        if self.shares.share_goes_on:
            return None
        at = max(now.when(found.at), self._again or timedelta())
        if at > now.mono:
            return at
        # It waits for a moment without a backup, and not for ever.
        if self.shares.going_on() and not found.late:
            return now.mono + _BUSY
        self.log.info("a share of the store is verified")
        self._began = now.wall
        self.shares.start_share()
        return None

    def ended(self, ending: ShareEnding, now: Moment) -> None:
        if ending.interrupted:
            return
        if not ending.done:
            self._failures += 1
            self._again = now.mono + min(_LAST_RETRY, _FIRST_RETRY * (1 << min(self._failures - 1, 10)))
            again = now.at(self._again).astimezone()
            self.log.error("verifying failed", error=ending.error, again=f"{again:%Y-%m-%d %H:%M:%S}")
            if self._failures == 1:
                self._tell("failure", "", "verifying failed", now, ending.error)
            return
        self._ended = now.wall
        had_failed, self._failures, self._again = bool(self._failures or self._told_late), 0, None
        self._told_late = False
        self.log.info(
            "a share of the store was verified",
            objects=ending.objects,
            read_bytes=ending.read_bytes,
            hurt=ending.hurt,
        )
        for volume, error in ending.news.items():
            self.log.error("a backup is damaged", volume=volume, error=error)
            self._tell("failure", volume, "backups cannot be restored", now, error)
        if had_failed or (self._hurt and not ending.hurt):
            self._tell("recovery", "", "verifying goes well again", now)
        self._hurt = bool(ending.hurt)

    def _last(self, now: datetime) -> datetime | None:
        """Also where it could not be remembered: it is not read again and again for that."""
        times = [time for time in (self.memory.last_share(), self._ended) if time is not None]
        return max((time for time in times if is_believed(time, now)), default=None)

    def _judge(self, now: Moment) -> None:
        if not self.late or self._told_late or (self.pace.is_catching_up(now) and not self._failures):
            return
        self._told_late = True
        error = "no share of the store was read for longer than verify.schedule allows"
        self.log.error("verifying is late", error=error)
        self._tell("late", "", "verifying is late", now, error)

    def _tell(self, kind: Any, volume: str, what: str, now: Moment, error: str = "") -> None:
        text = f"{volume}: {what}" if volume else what
        self.tell(Event(kind, volume, text, now, Ending(not error, error=error)))
