"""Cron expressions as crontab(5) has them, and when they come next, by our own arithmetic over instants.

The fields say which minutes of the local clock fit. Each of these comes once, whatever the clock does: one that a change of the clock leaves out comes at the first instant
after the gap, and one that is there twice comes at the first of both. So the times of an expression always rise, and on each date that fits it has all of its times.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NICKNAMES = {
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
_PART = re.compile(r"(\*|[a-z0-9]+(?:-[a-z0-9]+)?)(?:/(\d+))?")
_FIELDS = ("minute", "hour", "day of the month", "month", "day of the week")
_LIMITS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
# A 29 February is on a given day of the week within 40 years, where a year of a new century has none.
_MOST_DAYS = 366 * 41
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True)
class Cron:
    """The minutes that fit."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]  # 0 is Sunday
    either_day: bool  # whether a date fits by its day of the month or of the week, or by both

    @staticmethod
    def parse(text: str) -> Cron:
        """Raises ValueError with what is wrong."""
        fields = NICKNAMES.get(text.lower(), text.lower()).split()
        if len(fields) != len(_FIELDS):
            raise ValueError(
                f"{text!r} has {len(fields)} fields: a cron expression has five "
                '(minute, hour, day of the month, month, day of the week), an interval is such as "every 6h"'
            )
        minutes, hours, days, months, weekdays = (
            frozenset(_field(field, number, text)) for number, field in enumerate(fields)
        )
        # crontab(5): a field that begins with a star does not limit.
        either = not (fields[2].startswith("*") or fields[4].startswith("*"))
        return Cron(minutes, hours, days, months, frozenset(each % 7 for each in weekdays), either)

    def after(self, instant: datetime, zone: tzinfo) -> datetime | None:
        """The first instant after `instant`, in UTC, at which the clock of `zone` shows a minute that fits, or leaves one out; None where there
        will be none, as of 30 February.
        """
        for each in self._dates(instant.astimezone(zone).date()):
            at = bisect_right(self._times, instant, key=lambda at: _instant(datetime.combine(each, at), zone))
            if at < len(self._times):
                return _instant(datetime.combine(each, self._times[at]), zone)
        return None

    @cached_property
    def _times(self) -> list[time]:
        """Of each date that fits."""
        return [time(hour, minute) for hour in sorted(self.hours) for minute in sorted(self.minutes)]

    def _dates(self, first: date) -> Iterator[date]:
        """Those that fit."""
        for number in range(_MOST_DAYS):
            try:
                each = first + timedelta(days=number)
            except OverflowError:
                return
            if each.month in self.months and self._is_day(each):
                yield each

    def _is_day(self, each: date) -> bool:
        found = each.day in self.days, each.isoweekday() % 7 in self.weekdays
        return any(found) if self.either_day else all(found)


def _instant(local: datetime, zone: tzinfo) -> datetime:
    """When a local clock shows that: for the first time, or the first instant after a gap in which it is."""
    after = local.replace(tzinfo=zone).astimezone(UTC)
    if after.astimezone(zone).replace(tzinfo=None) == local:
        return after
    # Of what is in a gap, PEP 495 counts with the offset from before it, which leads behind the gap, or with `fold` with the one from after it.
    before = local.replace(tzinfo=zone, fold=1).astimezone(UTC)
    offset = after.astimezone(zone).utcoffset()
    while after - before > _SECOND:
        middle = before + (after - before) // (2 * _SECOND) * _SECOND
        if middle.astimezone(zone).utcoffset() == offset:
            after = middle
        else:
            before = middle
    return after


def _field(text: str, number: int, expression: str) -> Iterator[int]:
    """Raises ValueError."""
    for piece in text.split(","):
        yield from _values(piece, number, expression)


def _values(piece: str, number: int, expression: str) -> Iterable[int]:
    low, high = _LIMITS[number]
    match = _PART.fullmatch(piece)
    if not match:
        raise ValueError(f"{expression!r}: {piece!r} cannot be the {_FIELDS[number]}")
    span, step = match[1], int(match[2] or 1)
    if span == "*":
        first, last = low, high - (number == 4)
    else:
        start, dash, end = span.partition("-")
        first = _number(start, number, expression)
        last = _number(end, number, expression) if dash else (high if match[2] else first)
        if last < first and number == 4 and last == 0:
            last = 7
    if not low <= first <= last <= high:
        raise ValueError(
            f"{expression!r}: the {_FIELDS[number]} is from {low} to {high}, and {piece!r} is not"
        )
    if step < 1:
        raise ValueError(f"{expression!r}: {piece!r} has no step")
    return range(first, last + 1, step)


def _number(text: str, number: int, expression: str) -> int:
    if text.isdigit():
        return int(text)
    if number == 3 and text in _MONTHS:
        return _MONTHS.index(text) + 1
    if number == 4 and text in _WEEKDAYS:
        return _WEEKDAYS.index(text)
    raise ValueError(f"{expression!r}: {text!r} cannot be the {_FIELDS[number]}")
