"""Trying for long what must be done: the pauses in between, and notes that never fail."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 30.0


def quiet(note: Callable[[str], object]) -> Callable[[str], None]:
    """A `note` that never fails: a full disk or a terminal that is gone must keep nothing down."""

    def quiet_note(line: str) -> None:
        with suppress(Exception):
            note(line)

    return quiet_note


def pauses() -> Iterator[float]:
    pause = _FIRST_PAUSE_SECONDS
    while True:
        yield pause
        pause = min(_LONGEST_PAUSE_SECONDS, pause * 2)
