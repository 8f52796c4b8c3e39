"""Now, by two clocks: the wall's, by which schedules go and which can be put, and one that only goes on, by which everything else is timed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

_STEP = timedelta(seconds=5)  # what no slewing of a clock comes to between two looks at it
# What is due since a clock went forward, or while the machine was off or asleep, is being done: late only if that fails or takes long.
_CATCHING_UP = timedelta(minutes=10)

Change = Literal["", "put forward", "put back", "suspended"]


@dataclass(frozen=True, slots=True)
class Moment:
    wall: datetime  # it may be wrong, and put right
    mono: timedelta  # since the machine started, asleep or not
    asleep: timedelta = timedelta()  # how long of that the machine was suspended

    @classmethod
    def now(cls) -> Moment:
        since_boot, awake = time.clock_gettime(time.CLOCK_BOOTTIME), time.clock_gettime(time.CLOCK_MONOTONIC)
        return cls(datetime.now(UTC), timedelta(seconds=since_boot), timedelta(seconds=since_boot - awake))

    def when(self, wall: datetime) -> timedelta:
        """When the wall's clock shows that, by the other clock, if nobody puts it."""
        return self.mono + (wall - self.wall)

    def at(self, mono: timedelta) -> datetime:
        """What the wall's clock shows then, if nobody puts it."""
        return self.wall + (mono - self.mono)

    def change_since(self, before: Moment) -> Change:
        """What became of the wall's clock, or of the machine; empty if both went on as they should."""
        put = (self.wall - self.mono) - (before.wall - before.mono)
        if abs(put) > _STEP:
            return "put forward" if put > timedelta() else "put back"
        return "suspended" if self.asleep - before.asleep > _STEP else ""


@dataclass(slots=True)
class Pace:
    """Since when time has passed as it should."""

    since: timedelta  # by the clock that only goes on
    _last: Moment | None = None

    def change(self, now: Moment) -> Change:
        """As `change_since`, from call to call."""
        change: Change = now.change_since(self._last) if self._last is not None else ""
        if change in {"put forward", "suspended"}:
            self.since = now.mono
        self._last = now
        return change

    def is_catching_up(self, now: Moment) -> bool:
        """Whether what came due meanwhile, or before the start, may still be on its way."""
        return now.mono - self.since < _CATCHING_UP
