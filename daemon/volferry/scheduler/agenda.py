"""Which volumes are due when, and which are late: by what there is in the store, not by what is remembered."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from volferry.errors import ConfigError
from volferry.schedule import Due, due, is_believed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from volferry.config import Config
    from volferry.model import Volume
    from volferry.schedule import Schedule
    from volferry.scheduler.moments import Moment
    from volferry.volume_settings import VolumeSettings

_FIRST_RETRY = timedelta(minutes=1)
_LAST_RETRY = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Appointment:
    """When a volume is to be backed up next."""

    volume: str
    at: datetime
    late: bool  # it has had no good backup for longer than its schedule allows


class Scheduled(NamedTuple):
    """A volume that is to be backed up, and when."""

    volume: str
    schedule: Schedule


def scheduled_of(volumes: Iterable[Volume], config: Config) -> tuple[list[Scheduled], dict[str, str]]:
    """Of all volumes, those that are selected and have a schedule; and what is wrong with settings, by volume."""
    found = []
    wrong: dict[str, str] = {}
    for volume in volumes:
        try:
            settings = config.settings_of(volume)
        except ConfigError as error:
            wrong[volume.name] = str(error)
            continue
        if is_selected(volume, settings, config.daemon.select) and settings.schedule is not None:
            found.append(Scheduled(volume.name, settings.schedule))
    return found, wrong


@dataclass(slots=True)
class Agenda:
    """It remembers failures, refusals, and when runs ended; a restart forgets those."""

    zone: tzinfo
    # How many in a row, and when the last was, by the clock that only goes on.
    _failures: dict[str, tuple[int, timedelta]] = field(default_factory=dict)
    _refused: dict[str, timedelta] = field(default_factory=dict)  # another run had the volume
    _ended: dict[str, datetime] = field(default_factory=dict)  # the last good run of each

    def failed(self, volume: str, now: Moment) -> timedelta:
        """In how long it is tried again: a minute, then two, four, up to an hour."""
        count = self._failures.get(volume, (0, now.mono))[0] + 1
        self._failures[volume] = (count, now.mono)
        return _retry(count)

    def refused(self, volume: str, now: Moment) -> timedelta:
        """In how long it is tried again: a minute, unless the other run has made a backup by then. It is no failure."""
        self._refused[volume] = now.mono
        return _FIRST_RETRY

    def succeeded(self, volume: str, now: Moment) -> bool:
        """Whether it had failed before. What came due while it ran is done with."""
        self._ended[volume] = now.wall
        return self._failures.pop(volume, None) is not None

    def clock_was_put(self) -> None:
        """What it knows by the wall's clock is worth nothing any longer, and a wrong clock is why many a run fails."""
        self._ended.clear()
        self._failures.clear()
        self._refused.clear()

    def appointments(
        self,
        scheduled: Iterable[Scheduled],
        newest: Mapping[str, datetime],
        seen: Mapping[str, datetime],
        moment: Moment,
        *,
        jitter: timedelta = timedelta(),
    ) -> list[Appointment]:
        """The first one first. `newest` is when the newest backup of each volume began, `seen` when it was seen first."""
        found = []
        now = moment.wall
        for volume, schedule in scheduled:
            last, ended = newest.get(volume), self._ended.get(volume)
            if ended is not None and ended > now:  # the clock was put back since
                ended = None
            if last is not None and not is_believed(last, now):
                last = ended
            by_store = due(schedule, last, now, self.zone, seen=seen.get(volume, now))
            next_due = by_store
            if ended is not None and (last is None or last < ended):
                next_due = self._after(schedule, by_store, ended)
            if next_due is not None and by_store is not None:
                at = self._time_of(volume, next_due, jitter, moment)
                found.append(Appointment(volume, at, by_store.late))
        return sorted(found, key=lambda each: (each.at, each.volume))

    def _after(self, schedule: Schedule, first: Due | None, ended: datetime) -> Due | None:
        """The first of its times that is after the end of a run; intervals count from the beginning of that run, and do not
        move with what it takes.
        """
        at = first.at if first is not None else None
        while at is not None and at <= ended:
            at = schedule.after(at, self.zone)
        return Due(at, late=False) if at is not None else None

    def _time_of(self, volume: str, next_due: Due, jitter: timedelta, now: Moment) -> datetime:
        at = next_due.at
        if next_due.at != now.wall:  # of a volume without a backup, it would be another one at each look
            at += _share(volume, next_due.at, jitter)
        if volume in self._failures:
            count, last = self._failures[volume]
            at = max(at, now.at(last + _retry(count)))
        if volume in self._refused:
            at = max(at, now.at(self._refused[volume] + _FIRST_RETRY))
        return at


def is_selected(volume: Volume, settings: VolumeSettings, select: str) -> bool:
    if volume.anonymous or select == "labelled":
        return bool(settings.enable)
    return settings.enable is not False


def _retry(count: int) -> timedelta:
    return min(_LAST_RETRY, _FIRST_RETRY * (1 << min(count - 1, 10)))


@lru_cache(maxsize=4096)
def _share(volume: str, at: datetime, jitter: timedelta) -> timedelta:
    """The same each time that it is asked for, and different from volume to volume, and from time to time."""
    of = f"{volume} {at.isoformat()}"
    return jitter * (int.from_bytes(sha256(of.encode()).digest()[:4], "big") / 2**32)
