"""When a volume is to be backed up: cron expressions and intervals, as people write them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from volferry.cron import NICKNAMES, Cron

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SPAN = re.compile(r"(\d+)([smhdw])")
_INTERVAL = re.compile(r"(?:@every\s+|every\s+)((?:\d+[mhdw])+)")
_CLOCKS_DIFFER = timedelta(minutes=5)  # of machines that set theirs by a server's


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

    @property
    def is_interval(self) -> bool:
        """Whether all of it counts from the newest backup."""
        return all(_INTERVAL.fullmatch(part.lower()) for part in self.parts)

    def after(self, time: datetime, zone: tzinfo) -> datetime | None:
        """The first instant after `time`, which has a time zone, by the clock of `zone`, in UTC; None where there will be none, as for
        30 February. An interval counts from `time`.
        """
        time = time.astimezone(UTC)  # of two times of one zone, Python compares what the clock shows
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
    try:
        return sum(
            (timedelta(**{units[unit]: int(number)}) for number, unit in _SPAN.findall(text)), timedelta()
        )
    except (OverflowError, ValueError) as error:  # int() takes no more than 4300 digits
        raise ValueError("that span is too long") from error


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
        return time + parse_span(match[1])
    return _cron(part).after(time, zone)


@lru_cache(maxsize=1024)  # of what is right: a label is read at each look
def _checked(part: str) -> None:
    """Raises ValueError."""
    lower = part.lower()
    if match := _INTERVAL.fullmatch(lower):
        if not parse_span(match[1]):
            raise ValueError(f"{part!r} is no time at all")
        return
    if re.match(r"@?every\s+[-+\d]", lower):
        raise ValueError(
            f'{part!r} is no interval: use a span of minutes, hours, days or weeks, such as "every 6h"'
        )
    if lower.startswith("@") and lower not in NICKNAMES:
        raise ValueError(f"{part!r} is not one of {', '.join(NICKNAMES)}, or @every 6h")
    _cron(part)


@lru_cache(maxsize=1024)
def _cron(part: str) -> Cron:
    """Raises ValueError."""
    return Cron.parse(part)
