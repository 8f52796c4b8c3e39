"""When a volume is to be backed up: cron expressions and intervals, as people write them.

APScheduler's triggers do the counting. What it reads of a cron expression differs from crontab(5) in two ways, which are put right
here: days of the week are counted from Sunday, and where both days are limited, either will do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from apscheduler.triggers.cron import CronTrigger

_NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SPAN = re.compile(r"(\d+)([smhdw])")
_INTERVAL = re.compile(r"(?:@every\s+|every\s+)((?:\d+[mhdw])+)")
_PART = re.compile(r"(\*|[a-z0-9]+(?:-[a-z0-9]+)?)(?:/(\d+))?")
_FIELDS = ("minute", "hour", "day of the month", "month", "day of the week")
_CLOCKS_DIFFER = timedelta(minutes=5)  # of machines that set theirs by a server's
_LIMITS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


class Schedule(str):
    """One or several times, separated by `;`: `30 2 * * *`, `@daily`, `every 6h`, `0 2 * * 1-5; 0 4 * * sat,sun`."""

    __slots__ = ()

    @classmethod
    def of_document(cls, value: object) -> Schedule:
        """Raises ValueError with what is wrong."""
        parts = [str(each).strip().rstrip(";") for each in (value if isinstance(value, list) else [value])]
        if not parts or not all(parts) or isinstance(value, bool | int | float):
            raise ValueError(
                'a schedule is text, such as "30 2 * * *", "@daily" or "every 6h", or a list of those'
            )
        schedule = cls("; ".join(parts))
        for each in schedule.parts:
            _checked(each)
        return schedule

    @property
    def parts(self) -> list[str]:
        return [part.strip() for part in self.split(";") if part.strip()]

    def after(self, time: datetime, zone: tzinfo) -> datetime | None:
        """The first time after `time`, which has a time zone, by the clock of `zone`; None where there will be none, as for
        30 February. An interval counts from `time`.
        """
        found = [_next(part, time, zone) for part in self.parts]
        return min((each for each in found if each is not None), default=None)


@dataclass(frozen=True, slots=True)
class Due:
    """Of one volume: when it is to be backed up next, and whether it should have been long ago."""

    at: datetime  # in the past if it is due already
    late: bool  # the time after that has passed too


def is_believed(time: datetime, now: datetime) -> bool:
    """Whether something can have been done at that time: if it lies in the future, a clock was wrong."""
    return time <= now + _CLOCKS_DIFFER


def due(
    schedule: Schedule, newest: datetime | None, now: datetime, zone: tzinfo, *, seen: datetime | None = None
) -> Due | None:
    """By the newest backup, not by what is remembered: what was due while the machine was off is due once, now. A volume
    without a backup is due at once, and late once a time of its schedule has passed since it was `seen` first. None where
    nothing will ever be due.
    """
    if newest is None:
        first = schedule.after(seen or now, zone)
        return Due(now, late=first is not None and first <= now)
    first, second = _next_two(schedule, newest, zone)
    if first is None:
        return None
    return Due(first, late=second is not None and second <= now)


class Span(str):
    """`90s`, `10m`, `1h30m`."""

    __slots__ = ()

    @classmethod
    def of_document(cls, value: object) -> Span:
        """Raises ValueError."""
        parse_span(str(value))
        return cls(value)

    @property
    def delta(self) -> timedelta:
        return parse_span(self)


class Zone(str):
    """A time zone of the IANA database."""

    __slots__ = ()

    @classmethod
    def of_document(cls, value: object) -> Zone:
        """Raises ValueError."""
        try:
            ZoneInfo(str(value))
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"there is no time zone {value!r}: use one such as Europe/Berlin") from error
        return cls(value)


def parse_span(text: str) -> timedelta:
    """`90s`, `10m`, `1h30m`. Raises ValueError."""
    text = text.strip().lower()
    if not text or _SPAN.sub("", text):
        raise ValueError("a span has weeks, days, hours, minutes and seconds, such as 90s, 10m or 1h30m")
    units = {**_UNITS, "s": "seconds"}
    return sum((timedelta(**{units[unit]: int(number)}) for number, unit in _SPAN.findall(text)), timedelta())


# The daemon asks for the same few times again and again.
@lru_cache(maxsize=4096)
def _next_two(
    schedule: Schedule, time: datetime, zone: tzinfo
) -> tuple[datetime, datetime | None] | tuple[None, None]:
    first = schedule.after(time, zone)
    return (first, schedule.after(first, zone)) if first is not None else (None, None)


@lru_cache(maxsize=4096)
def _next(part: str, time: datetime, zone: tzinfo) -> datetime | None:
    if match := _INTERVAL.fullmatch(part.lower()):
        return (time + parse_span(match[1])).astimezone(zone)
    start = (time + timedelta(microseconds=1)).astimezone(zone)
    found = [trigger.get_next_fire_time(None, start) for trigger in _cron_triggers(part, zone)]
    return min((each for each in found if each is not None), default=None)


@lru_cache(maxsize=1024)
def _cron_triggers(part: str, zone: tzinfo) -> list[CronTrigger]:
    from apscheduler.triggers.cron import CronTrigger  # noqa: PLC0415 -- slow to import, and only for this

    return [CronTrigger(**fields, second=0, timezone=zone) for fields in _triggers(part)]


@lru_cache(maxsize=1024)  # of what is right: a label is read at each look
def _checked(part: str) -> None:
    """Raises ValueError."""
    lower = part.lower()
    if match := _INTERVAL.fullmatch(lower):
        if not parse_span(match[1]):
            raise ValueError(f"{part!r} is no time at all")
        return
    if lower.startswith("@") and lower not in _NICKNAMES:
        raise ValueError(f"{part!r} is not one of {', '.join(_NICKNAMES)}, or @every 6h")
    _triggers(part)


def _triggers(part: str) -> list[dict[str, Any]]:
    """The fields of one trigger, or of two where either day will do. Raises ValueError."""
    fields = _NICKNAMES.get(part.lower(), part.lower()).split()
    if len(fields) != len(_FIELDS):
        raise ValueError(
            f"{part!r} has {len(fields)} fields: a cron expression has five "
            '(minute, hour, day of the month, month, day of the week), an interval is such as "every 6h"'
        )
    minute, hour, day, month, weekday = (_field(field, number, part) for number, field in enumerate(fields))
    common = {"minute": minute, "hour": hour, "month": month}
    # crontab(5): a field that begins with a star does not limit.
    if fields[2].startswith("*") or fields[4].startswith("*"):
        return [{**common, "day": day, "day_of_week": weekday}]
    return [{**common, "day": day}, {**common, "day_of_week": weekday}]


def _field(text: str, number: int, part: str) -> str:
    """As APScheduler has it: a list of numbers, or names of weekdays."""
    values: set[int] = set()
    for piece in text.split(","):
        values.update(_values(piece, number, part))
    if number == 4:
        return ",".join(dict.fromkeys(_WEEKDAYS[value] for value in sorted(values)))
    return ",".join(str(value) for value in sorted(values))


def _values(piece: str, number: int, part: str) -> Iterable[int]:
    low, high = _LIMITS[number]
    match = _PART.fullmatch(piece)
    if not match:
        raise ValueError(f"{part!r}: {piece!r} cannot be the {_FIELDS[number]}")
    span, step = match[1], int(match[2] or 1)
    if span == "*":
        first, last = low, high - (number == 4)
    else:
        start, dash, end = span.partition("-")
        first = _number(start, number, part)
        last = _number(end, number, part) if dash else (high if match[2] else first)
        if last < first and number == 4 and last == 0:
            last = 7
    if not low <= first <= last <= high:
        raise ValueError(f"{part!r}: the {_FIELDS[number]} is from {low} to {high}, and {piece!r} is not")
    if step < 1:
        raise ValueError(f"{part!r}: {piece!r} has no step")
    return range(first, last + 1, step)


def _number(text: str, number: int, part: str) -> int:
    if text.isdigit():
        return int(text)
    if number == 3 and text in _MONTHS:
        return _MONTHS.index(text) + 1
    if number == 4 and text in _WEEKDAYS:
        return _WEEKDAYS.index(text)
    raise ValueError(f"{part!r}: {text!r} cannot be the {_FIELDS[number]}")
