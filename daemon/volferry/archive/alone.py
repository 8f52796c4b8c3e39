"""Reads single files from tar streams of their own: one with holes from a stream that holds nothing else, or any from one of files only.

GNU tar writes the data of such a file region by region, by a map that it has made before. If the file is cut or grows meanwhile, or a read gives less
than was asked for, its member has fewer or more bytes than the header says, and `tar` does not say so. In a common stream, whoever writes to the file would
decide where the next header is. Here, what is too much is dropped, what is missing is filled with zeros, and both make the file torn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from volferry.archive.frames import FrameCutter
from volferry.archive.listing import walk_key
from volferry.archive.sparse_map import SparseMap
from volferry.archive.streambuffer import SEGMENT_BYTES, EndOfStream
from volferry.archive.tarstream import HARD_LINK, Member, TarReader
from volferry.errors import CommandFailed
from volferry.model import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LOOK_BYTES = 1 << 20
TOO_LONG = "changed while it was read: what was read is not its content"
TOO_SHORT = "shrank while it was read; its end is filled with zeros"


class AloneStream:
    """The stream of one file. `read_into` as TarReader's."""

    def __init__(self, read_into: Callable[[memoryview], int]) -> None:
        self._read_into = read_into
        self._zeros = 0  # that may be given once there is nothing more
        self.ran_out = False
        self.reader = TarReader(self._padded, segment_bytes=SEGMENT_BYTES)

    def _padded(self, view: memoryview) -> int:
        if size := self._read_into(view):
            return size
        size = min(self._zeros, len(view))
        if size:
            self.ran_out = True
            self._zeros -= size
            view[:size] = bytes(size)
        return size

    def member(self, path: bytes) -> Member | None:
        """Its only one, of that path; None if there is none. Raises CommandFailed if it is another one."""
        member = next(iter(self.reader), None)
        if member is None:
            return None
        if member.path != path or member.typeflag == HARD_LINK:
            raise CommandFailed(
                f"reading the volume failed: tar sent {printable(member.path)!r} in place of {printable(path)!r}"
            )
        self._zeros = member.payload_bytes
        return member

    def frames(
        self, member: Member, group: int, begun: Callable[[], object], torn: Callable[[str], object]
    ) -> Iterator[tuple[int, memoryview]]:
        """Frames of the member, and of nothing else. `begun` is called before the first one, once the map is known to be right; `torn` at the
        end, with the reason. Raises ValueError for a wrong map, and then gives out no frame.
        """
        buffer = self.reader.buffer
        cutter = FrameCutter(buffer)
        yield from cutter.begin(group, last=len(member.header))
        mapped = SparseMap(member.payload_bytes, member.size) if member.sparse else None
        if mapped is None:
            begun()
        for piece in self.reader.payload():
            if mapped is not None:
                if not _is_whole(mapped, piece, member):
                    if buffer.is_nearly_full:
                        raise ValueError("has a map of its holes that is longer than any can be")
                    continue
                mapped = None
                begun()
            if buffer.is_nearly_full:
                yield from cutter.certain()
        if mapped is not None:
            raise ValueError("has a map of its holes that is cut off")
        yield from cutter.begin(None, last=0)
        self._zeros = 0
        if self.ran_out:
            torn(TOO_SHORT)
        elif not self._is_over():
            torn(TOO_LONG)

    def _is_over(self) -> bool:
        """Reads to the end. Whether there is nothing but zeros."""
        buffer = self.reader.buffer
        empty = True
        try:
            while True:
                empty = not bytes(buffer.take_piece(_LOOK_BYTES)).strip(b"\0") and empty
                buffer.keep(last=0)
        except EndOfStream:
            return empty


class SeriesStream:
    """The stream of many files without holes, each of which is asked for once, in the order of a tree walk."""

    def __init__(self, read_into: Callable[[memoryview], int]) -> None:
        self.reader = TarReader(read_into, segment_bytes=SEGMENT_BYTES)
        self._cutter = FrameCutter(self.reader.buffer)
        self._members = iter(self.reader)
        self._next: Member | None = None

    def member(self, path: bytes) -> Member | None:
        """That of the path; None if there is none. Raises CommandFailed for one that this `tar` cannot write."""
        while (member := self._ahead()) is not None and walk_key(member.path) < walk_key(path):
            for _ in self._frames(member, None):
                pass
        if member is None or member.path != path:
            return None
        if member.typeflag == HARD_LINK or member.sparse:
            raise CommandFailed(
                f"reading the volume failed: tar did not send {printable(path)!r} as a file of its own"
            )
        return member

    def frames(
        self, member: Member, group: int, begun: Callable[[], object], _torn: Callable[[str], object]
    ) -> Iterator[tuple[int, memoryview]]:
        """As AloneStream's, of the member that was asked for last."""
        begun()
        yield from self._frames(member, group)

    def _ahead(self) -> Member | None:
        if self._next is None:
            self._next = next(self._members, None)
        return self._next

    def _frames(self, member: Member, group: int | None) -> Iterator[tuple[int, memoryview]]:
        self._next = None
        yield from self._cutter.begin(group, last=len(member.header))
        for _ in self.reader.payload():
            if self.reader.buffer.is_nearly_full:
                yield from self._cutter.certain()
        yield from self._cutter.begin(None, last=0)


def _is_whole(mapped: SparseMap, piece: memoryview, member: Member) -> bool:
    """Whether the map is, with that piece of the payload. Raises ValueError."""
    mapped.feed(bytes(piece))
    if mapped.is_whole and mapped.size != member.size:
        raise ValueError("changed while its holes were looked for")
    return mapped.is_whole
