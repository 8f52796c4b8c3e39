"""Reads groups of a backup, each as a tar stream of its own, and compares their members with the records of the index."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from volferry.archive.agreement import difference
from volferry.archive.sparse_map import SparseMap, sparse_size
from volferry.archive.stream_check import placing_records
from volferry.archive.tarstream import BLOCK, END_OF_ARCHIVE, HARD_LINK, TarReader, reading
from volferry.errors import CommandFailed, DamagedObject, StoreError
from volferry.layout import files_key, frames_key
from volferry.model import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from volferry.archive.index import FrameLocation
    from volferry.archive.listing import Entry
    from volferry.archive.tarstream import Member
    from volferry.observer import Observer
    from volferry.operations.backup_reader import BackupReader


class GroupCheck:
    """Groups must be asked for in order; after one in which something was found, it goes on with the next."""

    def __init__(
        self,
        backup: BackupReader,
        wanted: set[int],
        on_stored: Callable[[FrameLocation, bytes], object],
        observer: Observer,
    ) -> None:
        """`wanted` are those that will be asked for; `on_stored` gets what was fetched of them."""
        self._backup = backup
        self._wanted = wanted
        self._on_stored = on_stored
        self._observer = observer
        self._groups: Iterator[tuple[int, Iterator[tuple[FrameLocation, Callable[[], bytes]]]]] | None = None
        self._behind = -1
        self._done_bytes = 0

    def links_of(self, group: int, entries: Sequence[Entry]) -> dict[bytes, bytes]:
        """Which of a group's members are hard links, and to where.

        Raises StoreError, or DamagedObject: for a frame, or for an index that says something else than the members.
        """
        ref = self._backup.ref
        links: dict[bytes, bytes] = {}
        pieces = _Counted(self._raw(group))
        reader = TarReader(reading(pieces.with_end()))
        expected = iter(entries)
        read_bytes = 0
        try:
            for member in reader:
                entry = next(expected, None)
                if entry is None or member.path != entry.path:
                    raise DamagedObject(files_key(ref), f"its frames hold {_name(member.path)} out of order")
                if wrong := self._difference(entry, member):
                    raise DamagedObject(files_key(ref), f"{_name(entry.path)} {wrong}")
                if member.typeflag == HARD_LINK:
                    links[member.path] = member.target
                read_bytes += len(member.header) + member.payload_bytes
                if wrong := _wrong_map(member, reader):
                    raise DamagedObject(files_key(ref), f"{_name(entry.path)} {wrong}")
        except (CommandFailed, ValueError) as error:
            raise DamagedObject(frames_key(ref), f"what its frames hold is no tar stream: {error}") from error
        if (left := next(expected, None)) is not None:
            raise DamagedObject(files_key(ref), f"its frames do not hold {_name(left.path)}")
        if read_bytes != pieces.bytes:
            raise DamagedObject(frames_key(ref), f"group {group} has an end of the tar stream in it")
        return links

    @staticmethod
    def _difference(entry: Entry, member: Member) -> str:
        try:
            return difference(entry.stat, member)
        except (ValueError, TypeError):
            return "has a record with numbers that are none"

    def end(self, group: int) -> None:
        """The last group has no entries, and is the end of the stream. Raises as `links_of` does."""
        if b"".join(self._raw(group)) != END_OF_ARCHIVE:
            raise DamagedObject(frames_key(self._backup.ref), "its tar stream does not end as it should")

    def wrong_frames(self, group: int) -> list[DamagedObject | StoreError]:
        """All frames of a group that cannot be read; it is not asked for again."""
        self._behind = group
        self._groups = None
        found: list[DamagedObject | StoreError] = []
        for location in self._backup.locations():
            if location.group == group:
                try:
                    self._backup.frame(location)
                except DamagedObject as error:
                    found.append(DamagedObject(error.key, f"{error.reason} at offset {location.offset}"))
                except StoreError as error:
                    found.append(error)
        return found

    def _raw(self, group: int) -> Iterator[bytes]:
        if self._groups is None:
            frames = self._backup.frames(self._is_wanted, self._on_stored)
            self._groups = groupby(frames, key=lambda frame: frame[0].group)
        for number, frames_of_it in self._groups:
            if number != group:
                raise RuntimeError(f"group {group} was asked for out of order")
            for _, raw in frames_of_it:
                data = raw()
                self._done_bytes += len(data)
                self._observer.advance(done_bytes=self._done_bytes, done_entries=0)
                yield data
            return

    def _is_wanted(self, group: int) -> bool:
        return group > self._behind and group in self._wanted


def _wrong_map(member: Member, reader: TarReader) -> str:
    """Takes the payload. If the member is a sparse file, and its map does not fit to it: how; else empty."""
    extended_bytes = int(member.header[124:135], 8) if len(member.header) > BLOCK else 0
    pax = placing_records(member.header[BLOCK : BLOCK + extended_bytes])
    sparse: SparseMap | None = None
    wrong = ""
    try:
        if (real_size := sparse_size(pax, member.typeflag)) is not None:
            sparse = SparseMap(member.payload_bytes, real_size)
            for piece in reader.payload():
                if not sparse.is_whole:
                    sparse.feed(bytes(piece))
    except ValueError as error:
        wrong = str(error)
    for _ in reader.payload():
        pass
    if wrong or sparse is None:
        return wrong
    if not sparse.is_whole:
        return "has a map of holes that is cut off"
    if sparse.size != member.size:
        return f"has a map of holes for {sparse.size} bytes, and its record has size {member.size}"
    return ""


class _Counted:
    """Passes pieces on, and knows how many bytes they were."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self.bytes = 0

    def with_end(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self.bytes += len(piece)
            yield piece
        yield END_OF_ARCHIVE


def _name(path: bytes) -> str:
    return repr(printable(path) or "the root directory")
