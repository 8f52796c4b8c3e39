"""Messages that are still to be delivered: each is tried again until it is, and none waits for another. Time is given to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from volferry.telling.messages import Message

# A mail server that is being restarted is no reason to lose an alarm; nor is one that is repaired on Monday.
_AGAIN = tuple(timedelta(seconds=seconds) for seconds in (5, 60, 300, 900, 3600))
_KEPT = timedelta(days=4)
_MOST = 1000


@dataclass(slots=True)
class Letter:
    """A message, and where it still has to go."""

    message: Message
    since: timedelta
    due: timedelta
    urls: list[str] | None = None  # all of them, where it was not tried yet
    tries: int = 0


@dataclass(slots=True)
class Outbox:
    """Times are those of a clock that only goes on."""

    _letters: list[Letter] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._letters)

    def put(self, message: Message, now: timedelta) -> list[Message]:
        """In place of one that says the same and was not delivered. Returns what is given up for it."""
        self._letters = [each for each in self._letters if not message.key or each.message.key != message.key]
        self._letters.append(Letter(message, now, now))
        lost = []
        while len(self._letters) > _MOST:
            # The last of those that may be lost: the first failures say more than the hundredth.
            found = next(
                (each for each in reversed(self._letters) if not each.message.urgent), self._letters[0]
            )
            self._letters.remove(found)
            lost.append(found.message)
        return lost

    def due(self, now: timedelta, *, untried: bool = False) -> Letter | None:
        """The one that is due first; with `untried`, of those that were never tried."""
        found = min(
            (each for each in self._letters if not (untried and each.tries)),
            key=lambda each: each.due,
            default=None,
        )
        return found if found is not None and found.due <= now else None

    def tried(self, letter: Letter, failed: list[str] | None, now: timedelta) -> timedelta | None:
        """`failed` are URLs at which it was not delivered, None if that is all of them, whichever they are. Returns in how long these are tried
        again; None if that is not done.
        """
        letter.urls, letter.tries = failed, letter.tries + 1
        if failed == [] or now - letter.since >= _KEPT:
            self._letters = [each for each in self._letters if each is not letter]
            return None
        wait = _AGAIN[min(letter.tries, len(_AGAIN)) - 1]
        letter.due = now + wait
        return wait
