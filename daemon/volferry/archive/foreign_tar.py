"""Tar archives that others have made: decompressed, looked through while they go by, and passed on in part or whole."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from dataclasses import dataclass, field
from decimal import ROUND_FLOOR, Decimal
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import zstandard

from volferry.archive.listing import NANOSECONDS, Entry, time_text
from volferry.archive.made_members import directory_member
from volferry.archive.tarstream import LARGEST_EXTENDED_HEADER
from volferry.archive.widened import widened_headers
from volferry.errors import DamagedArchive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_READ_BYTES = 1 << 20
_FRAME_BYTES = 4096  # of a zstd frame: its decompressor takes no limit of what becomes of them
_BLOCK = 512
_SYMLINK_MODE = 0o777
_ATTRIBUTES = ("SCHILY.xattr.", "SCHILY.acl.", "RHT.security.")
_DAMAGED = (
    *(EOFError, OSError, zlib.error, lzma.LZMAError, zstandard.ZstdError, tarfile.TarError),
    *(ValueError, OverflowError, RecursionError),  # of tarfile, where a header says what none does
)
# Both that and `tar` keep the headers of a member in memory, which is not to follow from what an archive says.
_MOST_UNDECIDED = LARGEST_EXTENDED_HEADER + (8 << 20)
# tarfile goes on to where a member ends by its header, a mebibyte at a time, whether there is anything or not.
_MOST_EMPTY_READS = 100


def decompressed(stream: io.BufferedReader[Any]) -> BinaryIO:
    """By how it begins: gzip, bzip2, xz, zstd, or as it is. Several compressed streams one after another are one."""
    head = stream.peek(6)[:6]
    if head.startswith(b"\x1f\x8b"):
        return cast("BinaryIO", gzip.GzipFile(fileobj=stream))
    if head.startswith(b"BZh"):
        return cast("BinaryIO", _Streams(stream, bz2.BZ2Decompressor))
    if head.startswith(b"\xfd7zXZ\0"):
        return cast("BinaryIO", _Streams(stream, lzma.LZMADecompressor))
    if head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and head[:1] in _SKIPPABLE):
        return cast("BinaryIO", _Streams(stream, _ZstandardFrame))
    return cast("BinaryIO", stream)


_SKIPPABLE = frozenset(bytes([0x50 + number]) for number in range(16))


class _Streams(io.RawIOBase):
    """Compressed streams one after another, and zeros after the last. Where anything else follows, or one breaks off, that is an error:
    Python's own files of these kinds drop the one or the other.
    """

    def __init__(
        self,
        stream: BinaryIO,
        decompressor: Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor | _ZstandardFrame],
    ) -> None:
        self._stream = stream
        self._new = decompressor
        self._current = decompressor()
        self._begin = b""  # of the next one, that came with the end of the one before

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        most = _READ_BYTES if size < 0 else size
        while most:
            if self._current.eof:
                if not self._next():
                    return b""
            elif data := self._current.decompress(self._wanted(), most):
                return data
        return b""

    def _wanted(self) -> bytes:
        if not self._current.needs_input:
            return b""
        begin, self._begin = self._begin, b""
        data = begin or self._stream.read(_READ_BYTES)
        if not data:
            raise EOFError("the compressed stream has no end")
        return data

    def _next(self) -> bool:
        """Begins with the stream that follows, if there is one."""
        rest = self._current.unused_data.lstrip(b"\0")
        while not rest:
            data = self._stream.read(_READ_BYTES)
            if not data:
                return False
            rest = data.lstrip(b"\0")
        self._current, self._begin = self._new(), rest
        return True


class _ZstandardFrame:
    """In the form of `bz2.BZ2Decompressor`."""

    def __init__(self) -> None:
        self._inner = zstandard.ZstdDecompressor().decompressobj()
        self._in = memoryview(b"")
        self._out = memoryview(b"")

    @property
    def eof(self) -> bool:
        return self._inner.eof and not self._out

    @property
    def needs_input(self) -> bool:
        return not self._in and not self._out

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data + bytes(self._in)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        if data:
            self._in = memoryview(data)
        if not self._out:
            self._out = memoryview(self._inner.decompress(self._in[:_FRAME_BYTES]))
            self._in = self._in[_FRAME_BYTES:]
        piece, self._out = bytes(self._out[:max_length]), self._out[max_length:]
        return piece


@dataclass(frozen=True, slots=True)
class Strip:
    """The part of each name that is left out: so many leading parts; or those of one path, and with them everything not below it."""

    parts: int = 0
    below: tuple[str, ...] | None = None

    @property
    def count(self) -> int:
        return self.parts if self.below is None else len(self.below)


@dataclass(slots=True)
class Seen:
    """Counts of members that went by, and the parts of their names that matter."""

    entries: int = 0
    source_bytes: int = 0
    root: bytes = b""  # a member `./` with the attributes of the root, or of the directory that the last part left out names
    tops: set[tuple[str, ...]] = field(
        default_factory=set
    )  # what was left out of the names, at most two of them
    first_parts: set[str] = field(default_factory=set)  # of what is not left out, at most two


class ForeignTar:
    """One archive. `pieces` gives a tar stream of what is wanted of it; `seen` is known at its end."""

    def __init__(
        self,
        stream: BinaryIO,
        strip: Strip,
        taken: Callable[[tuple[str, ...], tarfile.TarInfo], object] = lambda _parts, _member: None,
    ) -> None:
        """`taken` gets each member that is wanted, with the parts of its name that are left. Raises DamagedArchive if it does not begin
        as a tar does.
        """
        self._strip = strip
        self._taken = taken
        self._tee = _Tee(stream)
        self._widened = False
        self.seen = Seen()
        try:
            self._tar = self._opened()
            self._first = self._tar.next()
        except _DAMAGED as error:
            raise DamagedArchive(
                f"it is not a tar, or a damaged one: {_words(error)}; `tar -c FILE | volferry import - --into NAME` brings in a single file"
            ) from error

    @property
    def is_empty(self) -> bool:
        """Whether it begins with its end."""
        return self._first is None

    def _opened(self) -> tarfile.TarFile:
        return tarfile.open(
            fileobj=self._tee, mode="r|", bufsize=_READ_BYTES, errorlevel=2, errors="surrogateescape"
        )

    def pieces(self, *, widened: bool = False) -> Iterator[bytes]:
        """An archive that follows the end of this one is read as its continuation. Directories are as in it, or `widened` (widened.py). Raises DamagedArchive where it breaks off or is no tar
        any longer, or where `strip` would make one of several trees.
        """
        member = self._first
        self._widened = widened
        try:
            yield from self._pieces_of_one(member)
            while self._tee.another_follows():
                self._tar = self._next_one()
                yield from self._pieces_of_one(self._tar.next())
        except _DAMAGED as error:
            raise DamagedArchive(f"the archive is damaged or cut off: {_words(error)}") from error
        yield bytes(2 * _BLOCK)

    def _pieces_of_one(self, member: tarfile.TarInfo | None) -> Iterator[bytes]:
        while member is not None:
            wanted = self._look_at(member)
            if self._widened and member.isdir():
                self._tee.change(member.offset, member.offset_data, widened_headers)
            self._tee.decide(self._tar.offset, keep=wanted)
            yield from self._tee.decided()
            member = self._tar.next()
            self._tar.members.clear()  # type: ignore[attr-defined]  # it would keep all of them
            yield from self._tee.decided()
        if not self._tee.is_at_end:
            raise EOFError("it has no end")

    def _next_one(self) -> tarfile.TarFile:
        try:
            return self._opened()
        except tarfile.TarError as error:
            raise DamagedArchive(
                "what follows the end of the archive is neither another one nor zeros: import the archive without it"
            ) from error

    def _look_at(self, member: tarfile.TarInfo) -> bool:
        parts = _parts(member.name)
        strip = self._strip
        if strip.below is not None and parts[: len(strip.below)] != strip.below:
            return False
        top = parts[: strip.count]
        if len(parts) < strip.count or (len(parts) == strip.count and not member.isdir()):
            return False  # nothing is left of its name
        if len(self.seen.tops) < 2:
            self.seen.tops.add(top)
        if len(self.seen.tops) > 1:
            names = sorted("/".join(each) for each in self.seen.tops)
            raise DamagedArchive(
                f"it holds more than one tree ({', '.join(names)}): --strip {names[0]} takes one of them"
            )
        if len(parts) == strip.count:
            if ".." in parts:
                return False  # `tar` takes such names for others
            # At the end once more: what is done in the directory until then changes its time.
            self.seen.root = _root_member(member)
            self._taken((), member)
            return not strip.count
        if len(self.seen.first_parts) < 2:
            self.seen.first_parts.add(parts[strip.count])
        self.seen.entries += 1
        self.seen.source_bytes += member.size if member.isreg() else 0
        self._taken(parts[strip.count :], member)
        return True

    @property
    def only_directory(self) -> str | None:
        """The one directory that everything is in, which a user may want to leave out."""
        first = self.seen.first_parts
        return next(iter(first)) if len(first) == 1 and self.seen.entries > 1 else None


def _parts(name: str) -> tuple[str, ...]:
    return tuple(part for part in name.split("/") if part not in {"", "."})


def _root_member(member: tarfile.TarInfo) -> bytes:
    """As a member `./`, whatever it is called: of its headers, only what is about the directory itself."""
    attributes = {
        name.encode("utf-8", "surrogateescape"): value.encode("utf-8", "surrogateescape")
        for name, value in member.pax_headers.items()
        if name.startswith(_ATTRIBUTES)
    }
    return directory_member(Entry(b"", member_record(b"d", member)), attributes) + bytes(2 * _BLOCK)


def member_record(kind: bytes, member: tarfile.TarInfo) -> bytes:
    """As in a record of a listing, without a target."""
    mode = _SYMLINK_MODE if kind == b"l" else member.mode & 0o7777
    size = member.size if kind == b"f" else 0
    owner = (max(member.uid, 0), max(member.gid, 0))
    return b"%s %o %d %d %d %s 0.0 0 1 " % (kind, mode, *owner, size, time_text(_time_ns(member)))


def _time_ns(member: tarfile.TarInfo) -> int:
    """To the nanosecond: the one that tarfile gives is a float."""
    text = member.pax_headers.get("mtime")
    try:
        seconds = Decimal(text if text is not None else member.mtime)
        return int((seconds * NANOSECONDS).to_integral_value(ROUND_FLOOR))
    except (ArithmeticError, ValueError):  # `tar` takes none of it, either
        return 0


def _words(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


class _Tee(io.RawIOBase):
    """Keeps the bytes that are read through it until `decide` says, up to an offset, whether they are passed on."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._pending = bytearray()
        self._offset = 0  # of what is pending
        self._end = 0  # up to which is decided
        self._keep = False
        self._out: list[bytes] = []
        self._again = b""  # what is to be read once more, as the begin of another archive
        self._empty_reads = 0  # one after another

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        again, self._again = self._again, b""
        data = again or self._stream.read(_READ_BYTES if size < 0 else size)
        self._empty_reads = 0 if data else self._empty_reads + 1
        if self._empty_reads > _MOST_EMPTY_READS:
            raise EOFError("it has no end")
        self._pending += data
        self._sort_out()
        if len(self._pending) > _MOST_UNDECIDED:
            raise DamagedArchive(
                f"a member has headers of more than {LARGEST_EXTENDED_HEADER >> 20} MiB, which no file has: nothing of it is imported"
            )
        return data

    def change(self, begin: int, end: int, change: Callable[[bytes], bytes]) -> None:
        """Changes the bytes from one offset to the other, which were read and not yet decided on; `change` must keep their number."""
        part = slice(begin - self._offset, end - self._offset)
        self._pending[part] = change(bytes(self._pending[part]))

    def decide(self, end: int, *, keep: bool) -> None:
        self._end, self._keep = end, keep
        self._sort_out()

    def decided(self) -> Iterator[bytes]:
        while self._out:
            yield self._out.pop(0)

    @property
    def is_at_end(self) -> bool:
        """Whether an empty block follows on what was decided. tarfile takes the end of the stream for the archive's, too."""
        return self._pending.startswith(bytes(_BLOCK))

    def another_follows(self) -> bool:
        """Whether anything but zeros comes until the end of the stream, which must be one: what decompresses it checks its checksum there.
        What comes is read again, from its first block on.
        """
        rest: bytes | bytearray = self._pending
        while (zeros := len(rest) - len(rest.lstrip(b"\0"))) == len(rest):
            more = self._stream.read(_READ_BYTES)
            if not more:
                return False
            rest = bytes(zeros % _BLOCK) + more
        self._again = bytes(rest[zeros - zeros % _BLOCK :])
        self._pending = bytearray()
        self._offset = self._end = 0
        return True

    def _sort_out(self) -> None:
        count = min(self._end - self._offset, len(self._pending))
        if count > 0:
            if self._keep:
                self._out.append(bytes(self._pending[:count]))
            del self._pending[:count]
            self._offset += count
