"""Tar archives that others have made: decompressed, looked through while they go by, and passed on in part or whole."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import zstandard

from volferry.errors import DamagedArchive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_READ_BYTES = 1 << 20
_BLOCK = 512
_DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError, zstandard.ZstdError, tarfile.TarError)


def decompressed(stream: io.BufferedReader[Any]) -> BinaryIO:
    """By how it begins: gzip, bzip2, xz, zstd, or as it is. Several compressed streams one after another are one."""
    head = stream.peek(6)[:6]
    if head.startswith(b"\x1f\x8b"):
        return cast("BinaryIO", gzip.GzipFile(fileobj=stream))
    if head.startswith(b"BZh"):
        return cast("BinaryIO", bz2.BZ2File(stream))
    if head.startswith(b"\xfd7zXZ\0"):
        return cast("BinaryIO", lzma.LZMAFile(stream))
    if head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and head[:1] in _SKIPPABLE):
        return cast("BinaryIO", zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True))
    return cast("BinaryIO", stream)


_SKIPPABLE = frozenset(bytes([0x50 + number]) for number in range(16))


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
        self.seen = Seen()
        try:
            self._tar = tarfile.open(  # noqa: SIM115 -- there is nothing in it to be closed
                fileobj=self._tee, mode="r|", bufsize=_READ_BYTES, errorlevel=2, errors="surrogateescape"
            )
            self._first = self._tar.next()
        except _DAMAGED as error:
            raise DamagedArchive(f"it is not a tar, or a damaged one: {_words(error)}") from error

    def pieces(self) -> Iterator[bytes]:
        """Raises DamagedArchive where it breaks off or is no tar any longer, or where `strip` would make one of several trees."""
        member = self._first
        try:
            while member is not None:
                wanted = self._look_at(member)
                self._tee.decide(self._tar.offset, keep=wanted)
                yield from self._tee.decided()
                member = self._tar.next()
                self._tar.members.clear()  # type: ignore[attr-defined]  # it would keep all of them
                yield from self._tee.decided()
            if not self._tee.is_at_end:
                raise EOFError("it has no end")
            self._tee.drain()
        except _DAMAGED as error:
            raise DamagedArchive(f"the archive is damaged or cut off: {_words(error)}") from error
        yield from self._tee.decided()
        yield bytes(2 * _BLOCK)

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
            # At the end once more: what is done in the directory until then changes its time.
            self.seen.root = _root_member(member)
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
    member.name = "."
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape") + bytes(2 * _BLOCK)


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

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(_READ_BYTES if size < 0 else size)
        self._pending += data
        self._sort_out()
        return data

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

    def drain(self) -> None:
        """To the end of the stream, which must be one: what decompresses it checks its checksum there."""
        while self._stream.read(_READ_BYTES):
            pass

    def _sort_out(self) -> None:
        count = min(self._end - self._offset, len(self._pending))
        if count > 0:
            if self._keep:
                self._out.append(bytes(self._pending[:count]))
            del self._pending[:count]
            self._offset += count
