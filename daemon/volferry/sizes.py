"""Sizes and rates, as people write them."""

from __future__ import annotations

import re
from datetime import time
from typing import NamedTuple

_SIZE = re.compile(r"(\d+)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_WINDOW = re.compile(r"(\d\d?):(\d\d)\s*-\s*(\d\d?):(\d\d)\s+(\S.*)")
_LEAST_RATE = 16 << 10  # below, a server takes the silence between two packets for the end of it


class Size(int):
    """A number of bytes: `512M`, `1 GiB`, or the number itself. Units are powers of 1024, as Docker's are."""

    @classmethod
    def of_document(cls, value: object) -> Size:
        """Raises ValueError."""
        if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
            return cls(int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}[match[2].upper()])
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError("a size is a number of bytes, or one such as 512M or 2G")
        return cls(value)

    def __str__(self) -> str:
        """As `of_document` takes it, with the largest unit that is exact."""
        units = [(unit, 1 << bits) for unit, bits in (("T", 40), ("G", 30), ("M", 20), ("K", 10))]
        return next(
            (f"{int(self) // size}{unit}" for unit, size in units if self and not self % size), f"{int(self)}"
        )


class _Window(NamedTuple):
    """Of a day, without its end; one whose end comes first goes on past midnight."""

    start: time
    end: time
    rate: int | None

    def holds(self, now: time) -> bool:
        if self.start < self.end:
            return self.start <= now < self.end
        return now >= self.start or now < self.end


class Limit(str):
    """Bytes a second, by the hour: `20M`, or `20M; 08:00-18:00 2M; 01:00-05:00 none`. The first window that holds counts."""

    __slots__ = ()

    @classmethod
    def of_document(cls, value: object) -> Limit:
        """Raises ValueError."""
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError(_EXPECTED)
        found = cls(str(value).strip())
        _parts_of(found)
        return found

    def rate(self, now: time) -> int | None:
        """Bytes a second at a time of the day; None is no limit."""
        usual, windows = _parts_of(self)
        return next((each.rate for each in windows if each.holds(now)), usual)


_EXPECTED = "a limit is a number of bytes a second such as 20M, of 16K at least, or by the hour, such as '20M; 08:00-18:00 2M; 01:00-05:00 none'"


def _parts_of(text: str) -> tuple[int | None, list[_Window]]:
    """What holds usually, and the windows. Raises ValueError."""
    usual: list[int | None] = []
    windows = []
    for part in text.split(";"):
        if match := _WINDOW.fullmatch(part.strip()):
            try:
                start, end = time(int(match[1]), int(match[2])), time(int(match[3]) % 24, int(match[4]))
            except ValueError:
                raise ValueError(f"{_EXPECTED}: there is no time in {part.strip()!r}") from None
            windows.append(_Window(start, end, _rate(match[5])))
        else:
            usual.append(_rate(part))
    if len(usual) > 1:
        raise ValueError(f"{_EXPECTED}: only one of its parts has no hours")
    return (usual[0] if usual else None), windows


def _rate(text: str) -> int | None:
    if text.strip() == "none":
        return None
    try:
        found = Size.of_document(text)
    except ValueError:
        raise ValueError(f"{_EXPECTED}, and not {text.strip()!r}") from None
    if found < _LEAST_RATE:
        raise ValueError(f"{_EXPECTED}, and not {text.strip()!r}")
    return found
