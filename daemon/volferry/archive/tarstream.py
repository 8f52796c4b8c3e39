"""Reads the tar stream as it comes out of the helper: where each member starts and ends, and what it is.

Knows the one dialect that `create_command` writes: POSIX.1-2001 (pax) headers, GNU sparse format 1.0
(https://www.gnu.org/software/tar/manual/html_section/Sparse-Formats.html).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from volferry.archive.listing import NANOSECONDS
from volferry.archive.streambuffer import SMALL_SEGMENT_BYTES, EndOfStream, StreamBuffer
from volferry.errors import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BLOCK = 512
END_OF_ARCHIVE = bytes(2 * BLOCK)
LARGEST_EXTENDED_HEADER = 64 << 20

# Type flags of POSIX.1-2001 as `find -printf %y` names the same things; "1" is a hard link to an earlier member.
HARD_LINK = b"1"
DIRECTORY = b"5"
KIND_OF_TYPEFLAG = {b"0": b"f", b"\0": b"f", b"2": b"l", b"3": b"c", b"4": b"b", b"5": b"d", b"6": b"p"}


@dataclass(frozen=True, slots=True)
class Member:
    """One member: its header blocks as they are stored, and what they say."""

    path: bytes  # as in the listing: no trailing slash, empty for the root
    typeflag: bytes
    mode: int
    uid: int
    gid: int
    size: int  # of the file, holes included; 0 of anything that is not a regular file
    mtime_ns: int
    target: bytes  # of a symbolic or hard link
    header: bytes
    payload_bytes: int  # what follows the header in the stream, padding included
    sparse: bool  # whether the payload begins with a map of what is in it


class TarReader:
    """Iterates over the members of a stream; the payload of each must be taken before the next one.

    `read_into(view)` puts bytes there and returns how many, 0 at the end. A stream that stops short or is not tar
    raises CommandFailed.
    """

    def __init__(
        self, read_into: Callable[[memoryview], int], *, segment_bytes: int = SMALL_SEGMENT_BYTES
    ) -> None:
        self.buffer = StreamBuffer(read_into, segment_bytes=segment_bytes)
        self._payload_left = 0
        self.at_end = False

    def __iter__(self) -> Iterator[Member]:
        while (member := self._checked_member()) is not None:
            yield member
            if self._payload_left:
                raise RuntimeError("the payload of a member was not taken")

    @property
    def bytes_read(self) -> int:
        return self.buffer.bytes_read

    def payload(self) -> Iterator[memoryview]:
        """The current member's payload in pieces; each is valid until the next one is asked for."""
        while self._payload_left:
            try:
                piece = self.buffer.take_piece(self._payload_left)
            except EndOfStream as error:
                raise self._cut_off() from error
            self._payload_left -= len(piece)
            yield piece

    def _cut_off(self) -> CommandFailed:
        self.at_end = True
        return CommandFailed("reading the volume failed: the tar stream is cut off")

    def _checked_member(self) -> Member | None:
        try:
            return self._next_member()
        except EndOfStream as error:
            raise self._cut_off() from error
        except ValueError as error:
            raise CommandFailed("reading the volume failed: a header of the tar stream is damaged") from error

    def _next_member(self) -> Member | None:
        take = self.buffer.take
        block = take(BLOCK)
        if block[:1] == b"\0" and not block.strip(b"\0"):
            if not self.buffer.drain():  # `tar` pads its last record, and would fail if nobody read that
                raise CommandFailed("reading the volume failed: the tar stream goes on after its end")
            return None
        pax: dict[bytes, bytes] = {}
        extended = b""
        if block[156:157] == b"x":
            size = _octal(block, 124, 136)
            if not 0 <= size <= LARGEST_EXTENDED_HEADER:
                raise ValueError("an extended header of a size that none has")
            data = take(_padded(size))
            pax = parse_pax(data[:size])
            extended = block + data
            block = take(BLOCK)
        if block[257:262] != b"ustar":
            raise CommandFailed("reading the volume failed: what arrived is not a tar stream")
        if b"GNU.sparse.major" in pax:
            block = _without_process_id(block)
            self.buffer.replace_last(block)
        typeflag = block[156:157]
        stored = int(pax[b"size"]) if b"size" in pax else _octal(block, 124, 136)
        if stored < 0:
            raise ValueError("a negative size")
        path = pax.get(b"GNU.sparse.name") or pax.get(b"path") or _name(block)
        mtime = pax.get(b"mtime")
        self._payload_left = _padded(stored)
        return Member(
            path=b"" if path in (b"./", b".") else path.rstrip(b"/"),
            typeflag=typeflag,
            mode=_octal(block, 100, 108),
            uid=int(pax[b"uid"]) if b"uid" in pax else _octal(block, 108, 116),
            gid=int(pax[b"gid"]) if b"gid" in pax else _octal(block, 116, 124),
            size=int(pax.get(b"GNU.sparse.realsize", stored)),
            mtime_ns=_decimal_ns(mtime) if mtime else _octal(block, 136, 148) * NANOSECONDS,
            target=pax.get(b"linkpath") or block[157:257].rstrip(b"\0"),
            header=extended + block,
            payload_bytes=self._payload_left,
            sparse=b"GNU.sparse.major" in pax,
        )


def reading(pieces: Iterator[bytes]) -> Callable[[memoryview], int]:
    """As the `readinto` of a file. An empty piece is not the end."""
    rest = memoryview(b"")

    def read_into(buffer: memoryview) -> int:
        nonlocal rest
        while not rest and (piece := next(pieces, None)) is not None:
            rest = memoryview(piece)
        size = min(len(rest), len(buffer))
        buffer[:size] = rest[:size]
        rest = rest[size:]
        return size

    return read_into


def parse_pax(data: bytes) -> dict[bytes, bytes]:
    r"""Records `LENGTH KEY=VALUE\n` of an extended header (POSIX.1-2001, pax); values may hold any byte.

    Raises ValueError.
    """
    records: dict[bytes, bytes] = {}
    position = 0
    while position < len(data):
        space = data.index(b" ", position)
        end = position + int(data[position:space])
        if end <= position or end > len(data):
            raise ValueError("the length of a record")
        key, _, value = data[space + 1 : end - 1].partition(b"=")
        records[key] = value
        position = end
    return records


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _octal(block: bytes, start: int, end: int) -> int:
    """A number field: octal digits, or GNU's base-256 when the first bit is set."""
    field = block[start:end]
    if field[0] & 0x80:
        return int.from_bytes(field, "big", signed=False) & ((1 << (8 * len(field) - 1)) - 1)
    return int(field.strip(b"\0 ") or b"0", 8)


def _name(block: bytes) -> bytes:
    name = block[:100].rstrip(b"\0")
    prefix = block[345:500].rstrip(b"\0")
    return prefix + b"/" + name if prefix else name


def _decimal_ns(text: bytes) -> int:
    """A pax time, such as `-1.5` or `1700000000.123456789`, in nanoseconds."""
    negative = text.startswith(b"-")
    whole, _, fraction = text.lstrip(b"-").partition(b".")
    ns = int(whole) * NANOSECONDS + int(fraction[:9].ljust(9, b"0"))
    return -ns if negative else ns


def _without_process_id(block: bytes) -> bytes:
    """GNU tar names a sparse member `DIR/GNUSparseFile.PID/NAME` (its true name is in GNU.sparse.name): the process
    id goes, or no frame with a sparse file would be the same twice.
    """
    directory, marker, rest = block[:100].rstrip(b"\0").partition(b"/GNUSparseFile.")
    name = (directory + marker + b"0/" + rest.partition(b"/")[2] if marker else directory)[:100].ljust(
        100, b"\0"
    )
    unsummed = name + block[100:148] + b" " * 8 + block[156:]
    return name + block[100:148] + b"%06o\0 " % sum(unsummed) + block[156:]
