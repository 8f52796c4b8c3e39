"""Which backups of one volume a policy keeps, and why: the rules of `restic forget`
(https://restic.readthedocs.io/en/stable/060_forget.html, "Removing snapshots according to a policy").
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from volferry.checked import Section

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_WITHIN = re.compile(r"(?:(\d+)y)?(?:(\d+)m)?(?:(\d+)d)?(?:(\d+)h)?")

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

    def before(self, time: datetime) -> datetime:
        match = _WITHIN.fullmatch(self)
        years, months, days, hours = (int(part or 0) for part in match.groups()) if match else (0, 0, 0, 0)
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
        return [Verdict(each, ("no policy",)) for each, _ in ordered]
    left = {name: getattr(keep, name) for name in _PERIODS}
    seen: dict[str, Any] = {}
    verdicts = []
    for number, (backup, time) in enumerate(ordered):
        reasons = []
        if keep.within is not None and time > keep.within.before(ordered[0][1]):
            reasons.append(f"within {keep.within}")
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


def _back(time: datetime, months: int) -> datetime:
    """As Go's AddDate, which restic counts with: 31 March less a month is 3 March (or 2 March in a leap year)."""
    whole = time.year * 12 + time.month - 1 - months
    return time.replace(year=whole // 12, month=whole % 12 + 1, day=1) + timedelta(days=time.day - 1)
