"""A stream in large segments of memory: what was read of it can be kept and handed on without being copied."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SEGMENT_BYTES = 16 << 20  # for what is kept
_READ_BYTES = 1 << 20
SMALL_SEGMENT_BYTES = 256 << 10  # for what is only looked at
_DRAIN_BYTES = 64 << 10
_LITTLE_ROOM_BYTES = 2 << 20


class EndOfStream(Exception):
    """The stream ended before the bytes that were asked for."""


class _Segment:
    """Memory, and the views of it that were handed out. It is used again once nobody holds any of them."""

    def __init__(self, size: int) -> None:
        self.view = memoryview(bytearray(size))
        self._handed_out: list[weakref.ref[memoryview]] = []

    @property
    def is_free(self) -> bool:
        self._handed_out = [view for view in self._handed_out if view() is not None]
        return not self._handed_out

    def hand_out(self, start: int, end: int) -> memoryview:
        view = self.view[start:end]
        self._handed_out.append(weakref.ref(view))
        return view


class StreamBuffer:
    """Reads a stream with `read_into(view)`, which returns how many bytes it put there, 0 at the end.

    From `keep` on, the bytes that are taken stay until they are handed out or dropped.
    """

    def __init__(
        self, read_into: Callable[[memoryview], int], *, segment_bytes: int = SMALL_SEGMENT_BYTES
    ) -> None:
        self._read_into = read_into
        self._segment_bytes = segment_bytes
        self._segments = [_Segment(segment_bytes)]
        self._segment = self._segments[0]
        self._view = self._segment.view
        self._kept: int | None = None
        self._position = 0
        self._end = 0
        self.bytes_read = 0

    def take(self, size: int) -> bytes:
        """The next `size` bytes. Raises EndOfStream."""
        start = self._position
        if self._end - start < size:
            self._fill(size)
            start = self._position
        self._position = start + size
        return bytes(self._view[start : start + size])

    def take_piece(self, limit: int) -> memoryview:
        """Up to `limit` bytes, at least one; valid until the next bytes are taken. Raises EndOfStream."""
        if self._position == self._end:
            self._fill(1)
        start = self._position
        self._position = min(start + limit, self._end)
        return self._view[start : self._position]

    def drain(self) -> bool:
        """Reads the stream to its end. Returns whether there was nothing but zeros. What was taken stays what it is."""
        empty = not bytes(self._view[self._position : self._end]).strip(b"\0")
        rest = memoryview(bytearray(_DRAIN_BYTES))
        while size := self._read_into(rest):
            self.bytes_read += size
            empty = empty and not bytes(rest[:size]).strip(b"\0")
        return empty

    def replace_last(self, data: bytes) -> None:
        """Puts `data` in place of the bytes that were taken last."""
        self._view[self._position - len(data) : self._position] = data

    def keep(self, *, last: int) -> None:
        """Drops what was kept, and keeps from here on, the `last` bytes that were taken included."""
        self._kept = self._position - last

    def kept(self, *, but_last: int = 0) -> memoryview:
        """All that is kept, for a look; the `but_last` bytes that were taken last are not part of it."""
        return self._view[self._kept : self._position - but_last]

    def hand_out(self, size: int) -> memoryview:
        """The first `size` bytes of what is kept; they are nobody else's from now on."""
        if self._kept is None:
            raise RuntimeError("nothing is kept")
        start = self._kept
        self._kept = start + size
        return self._segment.hand_out(start, self._kept)

    @property
    def is_nearly_full(self) -> bool:
        """Time to hand out what can be."""
        return len(self._view) - self._end < min(_LITTLE_ROOM_BYTES, len(self._view) // 8)

    def renew(self, *, room: int = 0) -> None:
        """Goes on in a segment that has room; what is kept, and what was not taken yet, moves there."""
        start = self._position if self._kept is None else self._kept
        rest = self._view[start : self._end]
        needed = len(rest) + room
        segment = self._segment
        if self._kept is not None or needed > len(self._view):
            segment = self._free_segment(needed)
        segment.view[: len(rest)] = rest
        self._segment, self._view = segment, segment.view
        self._position -= start
        self._end -= start
        if self._kept is not None:
            self._kept = 0

    def _free_segment(self, size: int) -> _Segment:
        if size > self._segment_bytes:
            return _Segment(2 * size)  # it will not be the last that is too small
        for segment in self._segments:
            if segment is not self._segment and segment.is_free:
                return segment
        self._segments.append(_Segment(self._segment_bytes))
        return self._segments[-1]

    def _fill(self, wanted: int) -> None:
        """Makes at least `wanted` bytes available."""
        if len(self._view) - self._position < wanted:
            self.renew(room=wanted)
        while self._end - self._position < wanted:
            size = self._read_into(self._view[self._end : self._end + _READ_BYTES])
            if not size:
                raise EndOfStream
            self._end += size
            self.bytes_read += size
