"""Which backups of one volume a policy keeps, and why: the rules of `restic forget`
(https://restic.readthedocs.io/en/stable/060_forget.html, "Removing snapshots according to a policy").
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import inf
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from volferry.checked import Section

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_WITHIN = re.compile(r"(?:(\d+)y)?(?:(\d+)m)?(?:(\d+)d)?(?:(\d+)h)?")

NO_POLICY = "no policy"
BEFORE_GAP = "before a gap"  # ends the reason of what stays only because a clock may have been wrong
_DAYS_OF_A_MONTH = 365.2425 / 12
_GAP = timedelta(days=2)  # of less, no clock is suspected, however short a span is

Number = Annotated[int, Meta(ge=-1)]


class Within(str):
    """A span such as `2y5m7d3h`: years, months, days, hours, counted back from the newest backup."""

    __slots__ = ()

    @classmethod
    def of_document(cls, value: object) -> Within:
        """Raises ValueError."""
        if not isinstance(value, str) or not value or not _WITHIN.fullmatch(value):
            raise ValueError("a span has years, months, days and hours, such as 1y6m, 30d or 12h")
        return cls(value)

    @property
    def parts(self) -> tuple[int, int, int, int]:
        """Years, months, days, hours."""
        match = _WITHIN.fullmatch(self)
        years, months, days, hours = (int(part or 0) for part in match.groups()) if match else (0, 0, 0, 0)
        return years, months, days, hours

    def before(self, time: datetime) -> datetime:
        years, months, days, hours = self.parts
        return _back(time, 12 * years + months) - timedelta(days=days, hours=hours)


class Keep(Section, frozen=True):
    """How many of the newest hours, days … a backup is kept of; -1 is all of them."""

    last: Annotated[Number, Meta(description="The newest ones.")] = 0
    hourly: Annotated[Number, Meta(description="The newest of each hour, for so many hours.")] = 0
    daily: Annotated[Number, Meta(description="The newest of each day.")] = 0
    weekly: Annotated[Number, Meta(description="The newest of each week, Monday to Sunday.")] = 0
    monthly: Annotated[Number, Meta(description="The newest of each month.")] = 0
    yearly: Annotated[Number, Meta(description="The newest of each year.")] = 0
    within: Annotated[Within | None, Meta(description="All of a span before the newest: 1y6m, 30d, 12h.")] = (
        None
    )

    @property
    def is_empty(self) -> bool:
        """Says nothing: then all is kept."""
        return self == Keep()

    def with_more(self, other: Keep) -> Keep:
        """What keeps all that either of the two keeps; of spans, a month counts as a twelfth of a year."""
        if self.is_empty or other.is_empty:
            return Keep()
        numbers = {name: max(getattr(self, name), getattr(other, name), key=_count) for name in _PERIODS}
        return Keep(within=max(self.within, other.within, key=_length), **numbers)

    def keeps_all_of(self, other: Keep) -> bool:
        """Whether it keeps all that the other one keeps, whatever there is."""
        if self.is_empty or other.is_empty:
            return self.is_empty
        return _length(self.within) >= _length(other.within) and all(
            _count(getattr(self, name)) >= _count(getattr(other, name)) for name in _PERIODS
        )


def _count(number: int) -> float:
    return inf if number < 0 else number


def _length(span: Within | None) -> float:
    """For comparing spans."""
    if span is None:
        return -1
    years, months, days, hours = span.parts
    return ((years * 12 + months) * _DAYS_OF_A_MONTH + days) * 24 + hours


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one backup. Without a reason, it is let go."""

    id: str
    reasons: tuple[str, ...]

    @property
    def kept(self) -> bool:
        return bool(self.reasons)


_PERIODS: dict[str, Callable[[datetime, int], Any]] = {
    "last": lambda _, number: number,
    "hourly": lambda time, _: (time.date(), time.hour),
    "daily": lambda time, _: time.date(),
    "weekly": lambda time, _: time.isocalendar()[:2],
    "monthly": lambda time, _: (time.year, time.month),
    "yearly": lambda time, _: time.year,
}


def judge(backups: Sequence[tuple[str, datetime]], keep: Keep) -> list[Verdict]:
    """Verdicts on the backups of one volume, given with their times in the machine's time zone, newest first.

    The newest stays, whatever the policy says; the oldest stays as long as a rule has not kept as many as it may.
    """
    ordered = sorted(backups, key=lambda each: each[0], reverse=True)
    if keep.is_empty:
        return [Verdict(each, (NO_POLICY,)) for each, _ in ordered]
    within = {} if keep.within is None or not ordered else _within(ordered, keep.within)
    left = {name: getattr(keep, name) for name in _PERIODS}
    seen: dict[str, Any] = {}
    verdicts = []
    for number, (backup, time) in enumerate(ordered):
        reasons = [within[backup]] if backup in within else []
        for name, period in _PERIODS.items():
            value = period(time, number)
            if left[name] and (seen.get(name) != value or number == len(ordered) - 1):
                seen[name] = value
                left[name] -= left[name] > 0
                reasons.append(name)
        if number == 0 and not reasons:
            reasons.append("the newest")
        verdicts.append(Verdict(backup, tuple(reasons)))
    return verdicts


def _within(ordered: Sequence[tuple[str, datetime]], span: Within) -> dict[str, str]:
    """Why each stays that is less than a span older than the newest; given newest first.

    Clocks may have been wrong, once or for a while, and no backup goes because of that alone. A time that does not fit between the
    others is taken to be that of the next backup. After a gap that is longer than the span, that counts from before the
    gap as well, until what came after it goes back by a span: one look at a clock in 2099 lets nothing go, and a machine
    that was off for a year lets go of what it had before when it has as much again.
    """
    believed = _believed([time for _, time in reversed(ordered)])
    fitting = [time for (_, time), fits in zip(ordered, reversed(believed), strict=True) if fits]
    newest = start = end = fitting[0]
    for older in fitting[1:]:
        if start - older > _GAP and older <= span.before(start):
            end = older if start > span.before(newest) else newest
            break
        start = older
    found: dict[str, str] = {}
    time = newest
    for (backup, own), fits in zip(ordered, reversed(believed), strict=True):
        time = own if fits else time
        if time > span.before(newest):
            found[backup] = f"within {span}"
        elif time > span.before(end):
            found[backup] = f"within {span} {BEFORE_GAP}"
    return found


def _believed(times: Sequence[datetime]) -> list[bool]:
    """Of times in the order in which they were noted, the most that are in order (a longest run that does not fall)."""
    ends: list[datetime] = []  # the earliest end of a run of each length
    lengths = []
    for time in times:
        length = bisect_right(ends, time)
        ends[length : length + 1] = [time]
        lengths.append(length)
    fits = [False] * len(times)
    wanted = len(ends) - 1
    for number in reversed(range(len(times))):
        if lengths[number] == wanted:
            fits[number] = True
            wanted -= 1
    return fits


def _back(time: datetime, months: int) -> datetime:
    """As Go's AddDate, which restic counts with: 31 March less a month is 3 March (or 2 March in a leap year)."""
    whole = time.year * 12 + time.month - 1 - months
    return time.replace(year=whole // 12, month=whole % 12 + 1, day=1) + timedelta(days=time.day - 1)
