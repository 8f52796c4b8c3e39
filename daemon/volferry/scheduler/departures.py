"""Volumes that are no longer backed up though they are still there: the label is gone, or the container that had it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from volferry.scheduler.agenda import Scheduled

# A container that is made anew is away for a moment, and with it its labels.
_AWAY = timedelta(hours=1)


@dataclass(slots=True)
class Departures:
    """Times are those of a clock that only goes on."""

    _left: dict[str, tuple[Scheduled, timedelta]] = field(default_factory=dict)
    _empty_since: timedelta | None = None
    _empty_told: bool = False

    @property
    def unsettled(self) -> list[Scheduled]:
        """Those that may come back, or of which nobody was told yet: after a restart, they have just left."""
        return [scheduled for scheduled, _ in self._left.values()]

    def look(
        self, before: Iterable[Scheduled], scheduled: Collection[str], there: Collection[str], now: timedelta
    ) -> tuple[list[str], list[str]]:
        """Which have left just now, and of which it is time to tell. One that the engine does not have any longer has not left."""
        new = {each.volume: each for each in before if each.volume in there and each.volume not in scheduled}
        self._left = {
            volume: found
            for volume, found in self._left.items()
            if volume in there and volume not in scheduled
        }
        just_now = [volume for volume in new if volume not in self._left]
        self._left |= {volume: (new[volume], now) for volume in just_now}
        to_tell = [volume for volume, (_, since) in self._left.items() if now - since >= _AWAY]
        for volume in to_tell:
            del self._left[volume]
        return just_now, sorted(to_tell)

    def nothing_is_scheduled(self, scheduled: Collection[str], now: timedelta) -> bool:
        """Whether it is time to tell that no volume is."""
        if scheduled:
            self._empty_since, self._empty_told = None, False
            return False
        if self._empty_since is None:
            self._empty_since = now
        if self._empty_told or now - self._empty_since < _AWAY:
            return False
        self._empty_told = True
        return True
