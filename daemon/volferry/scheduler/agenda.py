"""Which volumes are due when, and which are late: by what there is in the store, not by what is remembered."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta, tzinfo
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from volferry.errors import ConfigError
from volferry.labels import WHEN, hooks_of
from volferry.schedule import Due, due, is_believed
from volferry.units import Candidate, units_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from volferry.config import Config
    from volferry.model import Volume
    from volferry.schedule import Schedule
    from volferry.scheduler.moments import Moment
    from volferry.volume_settings import VolumeSettings

_FIRST_RETRY = timedelta(minutes=1)
_LAST_RETRY = timedelta(hours=1)
# What stops services is not tried more often than this before its next scheduled time: each try is an outage.
_STOPPING_TRIES = 2
_ON_TIME = timedelta(minutes=10)  # what begins later is outside of its schedule
_NEAR = timedelta(minutes=2)  # so far apart, those of a unit wait for each other


@dataclass(frozen=True, slots=True)
class Appointment:
    """When a volume is to be backed up next."""

    volume: str
    at: datetime
    late: bool  # it has had no good backup for longer than its schedule allows
    moving: str = ""  # why a run that begins now must stop nothing; empty where it may
    unit: str = ""  # as of Scheduled


class Scheduled(NamedTuple):
    """A volume that is to be backed up, and when."""

    volume: str
    schedule: Schedule
    quiesces: bool = False  # its runs stop or pause what writes to it
    window: timedelta | None = None  # for how long after its time they may
    unit: str = (
        ""  # the first of the volumes that it is backed up together with when they are due at one time
    )


@dataclass(frozen=True, slots=True)
class _Failures:
    """In a row."""

    count: int
    last: Moment
    stopped: int  # how many of them had stopped something


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
            window = settings.quiesce_window.delta if settings.quiesce_window is not None else None
            quiesces = settings.quiesce in {"pause", "stop"}
            found.append(Scheduled(volume.name, settings.schedule, quiesces, window))
    return found, wrong


def candidate_of(volume: Volume, config: Config) -> Candidate:
    """For `units_of`, by the settings in force. Raises ConfigError where those are wrong."""
    settings = config.settings_of(volume)
    hooked: set[str] = set()
    with suppress(ConfigError):  # the run says so
        running = [config.labels.heard_of(use) for use in volume.uses if use.state == "running"]
        commands = [each for when in WHEN for each in hooks_of(running, when)]
        hooked = {command.container_id for command in commands}
    return Candidate(
        volume,
        quiesces=settings.quiesce in {"pause", "stop"},
        hooked=frozenset(hooked),
        by_project=settings.group == "project",
    )


@dataclass(slots=True)
class Selection:
    """As `scheduled_of`, from look to look: of a volume that is as it was, nothing is read again."""

    _config: Config | None = None
    _known: dict[str, tuple[Volume, list[Scheduled], dict[str, str], list[Candidate]]] = field(
        default_factory=dict
    )

    def of(self, volumes: Iterable[Volume], config: Config) -> tuple[list[Scheduled], dict[str, str]]:
        before, self._known = self._known if config is self._config else {}, {}
        self._config = config
        found: list[Scheduled] = []
        wrong: dict[str, str] = {}
        candidates: list[Candidate] = []
        for volume in volumes:
            known = before.get(volume.name)
            if known is None or known[0] != volume:
                scheduled, mistakes = scheduled_of([volume], config)
                candidate = [candidate_of(volume, config)] if scheduled else []
                known = (volume, scheduled, mistakes, candidate)
            self._known[volume.name] = known
            found += known[1]
            wrong |= known[2]
            candidates += known[3]
        first = {each.name: unit[0].name for unit in units_of(candidates) if len(unit) > 1 for each in unit}
        return [each._replace(unit=first.get(each.volume, "")) for each in found], wrong


@dataclass(slots=True)
class Agenda:
    """It remembers failures, refusals, and when runs ended; a restart forgets those."""

    zone: tzinfo
    _failures: dict[str, _Failures] = field(default_factory=dict)
    # When another run had the volume, by the clock that only goes on.
    _refused: dict[str, timedelta] = field(default_factory=dict)
    _ended: dict[str, datetime] = field(default_factory=dict)  # the last good run of each

    def failed(self, volume: str, now: Moment, *, stopped: bool = False) -> timedelta | None:
        """In how long it is tried again: a minute, then two, four, up to an hour; None where that is at its next scheduled time, for runs that had
        `stopped` something have failed too often.
        """
        before = self._failures.get(volume, _Failures(0, now, 0))
        failures = _Failures(before.count + 1, now, before.stopped + stopped)
        self._failures[volume] = failures
        return None if failures.stopped >= _STOPPING_TRIES else _retry(failures.count)

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
        dues: list[tuple[Scheduled, datetime | None, Due, Due]] = []
        earliest: dict[tuple[str, str], datetime] = {}  # of a unit with one interval
        now = moment.wall
        for each in scheduled:
            volume, schedule = each.volume, each.schedule
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
                dues.append((each, last, by_store, next_due))
                if each.unit and last is not None and schedule.is_interval:
                    key = each.unit, str(schedule)
                    earliest[key] = min(next_due.at, earliest.get(key, next_due.at))
        found = []
        for each, last, by_store, next_due in dues:
            at = earliest.get((each.unit, str(each.schedule))) if last is not None else None
            # Those that have come apart come together again, unless it was backed up since the other one was due.
            begins = Due(at, by_store.late) if at is not None and last is not None and last < at else next_due
            planned = self._planned(each, begins, jitter, now)
            moving = self._why_moving(each, planned, now, first=last is None) if each.quiesces else ""
            at = self._time_of(each.volume, planned, moment)
            found.append(Appointment(each.volume, at, by_store.late, moving, each.unit or each.volume))
        return sorted(_together(found), key=lambda each: (each.at, each.volume))

    def _after(self, schedule: Schedule, first: Due | None, ended: datetime) -> Due | None:
        """The first of its times that is after the end of a run; intervals count from the beginning of that run, and do not
        move with what it takes.
        """
        at = first.at if first is not None else None
        while at is not None and at <= ended:
            at = schedule.after(at, self.zone)
        return Due(at, late=False) if at is not None else None

    def _planned(self, each: Scheduled, next_due: Due, jitter: timedelta, now: datetime) -> datetime:
        """When it should begin, by its schedule."""
        at = next_due.at
        failures = self._failures.get(each.volume)
        if failures is not None and failures.stopped >= _STOPPING_TRIES:
            following = each.schedule.after(failures.last.wall, self.zone)
            at = max(at, following) if following is not None else at
        if at != now:  # of a volume without a backup, it would be another one at each look
            # Of a unit, one share a day: a second more or less is no reason to begin apart.
            at += _share(each.unit, at.date(), jitter) if each.unit else _share(each.volume, at, jitter)
        return at

    def _why_moving(self, each: Scheduled, planned: datetime, now: datetime, *, first: bool) -> str:
        window = each.window
        if first:
            # Due at once, whatever the schedule says: what has only just come may be in the middle of its first start.
            at = each.schedule.after(now - (window or _ON_TIME), self.zone)
            return (
                "" if at is not None and at <= now else "it is the first backup, and outside of the schedule"
            )
        if window is not None and now - planned > window:
            return "it begins later after its scheduled time than quiesce_window says"
        return ""

    def _time_of(self, volume: str, at: datetime, now: Moment) -> datetime:
        failures = self._failures.get(volume)
        if failures is not None:
            at = max(at, now.at(failures.last.mono + _retry(failures.count)))
        if volume in self._refused:
            at = max(at, now.at(self._refused[volume] + _FIRST_RETRY))
        return at


def _together(appointments: Iterable[Appointment]) -> list[Appointment]:
    """Those of a unit that are due within minutes begin together, with the last of them: intervals count from each one's newest backup, and failures are not all of one
    moment.
    """
    groups: dict[tuple[str, bool], list[Appointment]] = {}
    for each in sorted(appointments, key=lambda each: each.at):
        groups.setdefault((each.unit, bool(each.moving)), []).append(each)
    found: list[Appointment] = []
    for group in groups.values():
        left = group
        while left:
            near = [each for each in left if each.at - left[0].at <= _NEAR]
            found += [replace(each, at=near[-1].at) for each in near]
            left = left[len(near) :]
    return found


def is_selected(volume: Volume, settings: VolumeSettings, select: str) -> bool:
    if volume.anonymous or select == "labelled":
        return bool(settings.enable)
    return settings.enable is not False


def _retry(count: int) -> timedelta:
    return min(_LAST_RETRY, _FIRST_RETRY * (1 << min(count - 1, 10)))


@lru_cache(maxsize=4096)
def _share(volume: str, at: date, jitter: timedelta) -> timedelta:
    """The same each time that it is asked for, and different from volume to volume, and from time to time."""
    of = f"{volume} {at.isoformat()}"
    return jitter * (int.from_bytes(sha256(of.encode()).digest()[:4], "big") / 2**32)
