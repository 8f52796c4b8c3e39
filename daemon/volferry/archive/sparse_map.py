"""The map that a sparse member of GNU format 1.0 begins with: where in the file the bytes that follow it go.

Decimal numbers, each ended by a line feed: how many regions there are, then offset and length of each; NULs up to the next block. `tar`
goes by the map, not by the size in the header, to find the next member: one that says more or less than is stored makes it take contents
for headers (https://www.gnu.org/software/tar/manual/html_section/Sparse-Formats.html).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_BLOCK = 512
_STEP = 1 << 16
_KEYS = frozenset({b"GNU.sparse.major", b"GNU.sparse.minor", b"GNU.sparse.name", b"GNU.sparse.realsize"})
_NUMBER = re.compile(rb"0|[1-9][0-9]{0,17}")  # two of them are less than 2^63
_LONGEST = 18


def sparse_size(pax: Mapping[bytes, bytes], typeflag: bytes) -> int | None:
    """How long the file of a member with these extended records is, holes included; None if it is not a sparse one.

    Raises ValueError if it is one that GNU tar does not write with `--format=posix`.
    """
    keys = {key for key in pax if key.startswith(b"GNU.")}
    if not keys:
        return None
    if keys != _KEYS or (pax[b"GNU.sparse.major"], pax[b"GNU.sparse.minor"]) != (b"1", b"0"):
        raise ValueError("has extended records of GNU tar that are not those of a sparse file")
    size = pax[b"GNU.sparse.realsize"]
    if typeflag != b"0" or _NUMBER.fullmatch(size) is None:
        raise ValueError("is a sparse file of a kind or a size that none has")
    return int(size)


class SparseMap:
    """Takes the payload of a sparse member until its map is whole. Memory does not grow with the map."""

    def __init__(
        self,
        payload_bytes: int,
        real_size: int,
        on_region: Callable[[int, int], object] = lambda _offset, _length: None,
    ) -> None:
        """`payload_bytes` is what is stored of the member, map and padding included, `real_size` what its header says of the file;
        `on_region` gets offset and length of each region.
        """
        self._payload_bytes = payload_bytes
        self._real_size = real_size
        self._on_region = on_region
        self._begun = b""  # a number
        self._numbers_left = 1
        self._is_counted = False
        self._regions_left = 0
        self._offset: int | None = None
        self._end = 0  # of the region before
        self._is_behind = False  # a region, at least in part, the end of the file
        self._data_bytes = 0  # of all regions, with their padding
        self.map_bytes = 0  # taken so far, and in the end its length, padding included
        self.is_whole = False
        self.size = 0  # of the file that `tar` leaves, which is another one than its header says if it grew or shrank meanwhile

    def feed(self, data: bytes, at: int = 0) -> int:
        """Takes what belongs to the map of what is in `data` from there on, and returns how many bytes that is: all, as long as the map is
        not whole. Raises ValueError for a map that `tar` would not write, or that says more or less than is stored.
        """
        start = at
        while at < len(data) and not self.is_whole:
            step = data[at : at + min(_STEP, self._payload_bytes - self.map_bytes)]
            if not step:
                raise ValueError("has a map of holes that is longer than what is stored of it")
            taken = self._take_numbers(step) if self._numbers_left else self._take_padding(step)
            at += taken
            self.map_bytes += taken
            if not self._numbers_left and self.map_bytes % _BLOCK == 0:
                self._end_map()
        return at - start

    def _take_numbers(self, step: bytes) -> int:
        lines = (self._begun + step).split(b"\n", self._numbers_left)
        rest = lines.pop()
        self._numbers_left -= len(lines)
        self._begun = b"" if lines and not self._numbers_left else rest
        if len(self._begun) > _LONGEST or not all(map(_NUMBER.fullmatch, lines)):
            raise ValueError("has a map of holes with numbers that are none")
        # What follows the last number that was asked for is not taken.
        taken = len(step) - len(rest) if lines and not self._numbers_left else len(step)
        for line in lines:
            self._take_number(int(line))
        return taken

    def _take_number(self, number: int) -> None:
        if not self._is_counted:
            # Each region takes two numbers, and a number two bytes.
            if not 0 < number <= self._payload_bytes // 4:
                raise ValueError("has a map of holes with a number of regions that cannot be")
            self._is_counted = True
            self._regions_left = number
            self._numbers_left = 2 * number
        elif self._offset is None:
            self._offset = number
        else:
            self._take_region(self._offset, number)
            self._offset = None

    def _take_region(self, offset: int, length: int) -> None:
        self._regions_left -= 1
        self._is_behind |= offset + length > self._real_size
        if length:
            if offset < self._end:
                raise ValueError("has a map of holes that goes back")
            self._end = offset + length
            self._data_bytes += -(-length // _BLOCK) * _BLOCK
            self.size = self._end
        elif self._regions_left:
            raise ValueError("has a map of holes with an empty region that is not the last one")
        else:
            # `tar` cuts the file off there. Of one that grew while it was read, that is before the end of the regions.
            self.size = offset
        self._on_region(offset, length)

    def _take_padding(self, step: bytes) -> int:
        padding = step[: -self.map_bytes % _BLOCK]
        if padding.strip(b"\0"):
            raise ValueError("has a map of holes with something behind it")
        return len(padding)

    def _end_map(self) -> None:
        if self.map_bytes + self._data_bytes != self._payload_bytes:
            raise ValueError("has a map of holes that says more or less than is stored of it")
        if self._is_behind and self.map_bytes > _BLOCK:
            # GNU tar 1.34 writes such regions, and takes them. 1.35 gives the file up there, and passes over as many bytes as are stored
            # of it: from the first block of its map on, or too far from a later one.
            raise ValueError("has a long map of holes with data behind the end of the file")
        self.is_whole = True
