"""How fast a store is written and read: one limit for all that a process does with it, which may change meanwhile."""

from __future__ import annotations

import threading
import time
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from volferry.sizes import Limit
    from volferry.store_config import StoreConfig

_LARGEST_PIECE = 256 << 10
_SMALLEST_PIECE = 4 << 10
_PIECES_A_SECOND = 8  # so that nothing waits for long at once, and a change is soon in force
_CREDIT_SECONDS = 0.25
_LOOK_SECONDS = 2.0  # between looks for a change


class Direction:
    """Up or down. What one takes, the others wait for, each in its turn."""

    def __init__(
        self, clock: Callable[[], float], sleep: Callable[[float], None], now: Callable[[], datetime]
    ) -> None:
        self._clock, self._sleep, self._now = clock, sleep, now
        self._lock = threading.Lock()
        self._free_at = 0.0
        self.limit: Limit | None = None
        self.look: Callable[[], None] = lambda: None  # for a change

    @property
    def rate(self) -> int | None:
        limit = self.limit
        return limit.rate(self._now().time()) if limit is not None else None

    @property
    def piece_bytes(self) -> int:
        """How much to send or ask for at once."""
        rate = self.rate
        if rate is None:
            return _LARGEST_PIECE
        return max(_SMALLEST_PIECE, min(_LARGEST_PIECE, rate // _PIECES_A_SECOND))

    @property
    def is_limited(self) -> bool:
        return self.limit is not None

    def take(self, size: int) -> None:
        """Returns when so many bytes may go."""
        self.look()
        while size > 0 and (rate := self.rate) is not None:
            piece = min(size, self.piece_bytes)
            size -= piece
            with self._lock:
                now = self._clock()
                # What was not used before is made good for a moment only: sleep takes longer than it is told.
                begins = max(self._free_at, now - _CREDIT_SECONDS)
                self._free_at = begins + piece / rate
            if begins > now:
                self._sleep(begins - now)
            self.look()


class Throttle:
    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self.up = Direction(clock, sleep, now)
        self.down = Direction(clock, sleep, now)
        self._clock = clock
        self._looked = 0.0
        self._source: Callable[[], StoreConfig | None] | None = None

    def set(self, settings: StoreConfig) -> None:
        self.up.limit, self.down.limit = settings.limit, settings.limit_down

    def follow(self, source: Callable[[], StoreConfig | None]) -> None:
        """From here on, asks it now and then for settings that have changed; None where they have not."""
        self._source = source
        self.up.look = self.down.look = self._look

    def _look(self) -> None:
        now = self._clock()
        if self._source is None or now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        if (settings := self._source()) is not None:
            self.set(settings)


_throttles: dict[str, Throttle] = {}


def throttle_of(settings: StoreConfig) -> Throttle:
    """Of a store: one in this process, however often it is opened."""
    found = _throttles.setdefault(settings.place, Throttle())
    found.set(settings)
    return found
