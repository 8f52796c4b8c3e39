"""What is in a backup: its index, and the tar stream that its frames make."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from volferry.archive.frames import StoredFrame, decode_frames
from volferry.archive.index import decompress, file_blocks, files_of, frames_of, parse_groups
from volferry.archive.listing import Entry, is_reserved, path_of
from volferry.archive.stream_check import checked_stream
from volferry.archive.tarstream import END_OF_ARCHIVE
from volferry.errors import DamagedObject, StoreError
from volferry.layout import files_key, frames_key, pack_key
from volferry.stores.ahead import ObjectRange, open_ahead

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Generator, Iterator
    from pathlib import Path

    from volferry.archive.index import FrameLocation
    from volferry.archive.manifest import Manifest
    from volferry.model import BackupRef
    from volferry.repository import Repository
    from volferry.stores.base import ObjectReader

_MOST_FRAMES = 4096


class BackupIndex:
    """The entries of one backup, from its index alone: packs are neither read nor looked for.

    Raises DamagedObject, NewerFormat or NoSuchObject at once; what it gives out was checked. `spool` is a directory
    for a copy of the index, which `discard` removes.
    """

    def __init__(self, repository: Repository, ref: BackupRef, *, spool: Path) -> None:
        self.ref = ref
        self.manifest: Manifest = repository.manifest(ref)
        self._repository = repository
        self._check()
        self._files_path = spool / f"{ref.id}.files"
        self._keeps_rules = False  # whether it is known that the index does
        self.fetched_bytes = 0
        self.fetched_bytes += repository.fetch(
            files_key(ref), self._files_path, expected=self.manifest.index.files
        )

    @property
    def store_id(self) -> str:
        return self._repository.id

    def groups(self) -> Iterator[tuple[int, list[Entry]]]:
        """Entries by group, in the order of the listing."""
        for number, records in self.records():
            yield (
                number,
                [Entry(path, meta) for path, _, meta in (record.partition(b"//") for record in records)],
            )

    def records(self) -> Iterator[tuple[int, list[bytes]]]:
        """As `groups`, without parsing. What was looked at once, from its first to its last entry, is not looked at again."""
        blocks = file_blocks(self._files_path)
        try:
            if self._keeps_rules:
                yield from parse_groups(decompress(blocks))
            else:
                yield from files_of(self.manifest, blocks)
                self._keeps_rules = True
        except ValueError as error:
            raise DamagedObject(files_key(self.ref), str(error)) from error

    def entries(self) -> Iterator[Entry]:
        """All entries, in the order of the listing."""
        for _, entries in self.groups():
            yield from entries

    def volume_entries(self) -> Iterator[Entry]:
        """Those of the volume alone, without dumps."""
        if not self.manifest.dumps:
            return self.entries()
        return (entry for entry in self.entries() if not is_reserved(entry.path))

    def discard(self) -> None:
        self._files_path.unlink(missing_ok=True)

    def _check(self) -> None:
        """What must hold before anything is fetched."""


class BackupReader(BackupIndex):
    """One backup, all of whose objects were found and whose index was checked.

    Raises DamagedObject, NewerFormat or NoSuchObject before anything is done with it.
    """

    def __init__(self, repository: Repository, ref: BackupRef, *, spool: Path) -> None:
        super().__init__(repository, ref, spool=spool)
        self._frames_path = spool / f"{ref.id}.frames"
        self.fetched_bytes += repository.fetch(
            frames_key(ref), self._frames_path, expected=self.manifest.index.frames
        )

    def _check(self) -> None:
        self._repository.check_objects(self.ref, self.manifest)

    def tar_stream(self) -> Iterator[bytes]:
        """The whole tar stream, in pieces of up to 4 MiB, each checked before it is given out: against its digest, and its members
        against the index.

        Raises DamagedObject, StoreError.
        """
        total = 0
        for raw in self._checked(self._raw_frames(self.locations()), self.records()):
            total += len(raw)
            yield raw
        if total != self.manifest.counts.tar_bytes:
            raise DamagedObject(
                frames_key(self.ref),
                f"its frames make {total} bytes instead of {self.manifest.counts.tar_bytes}",
            )

    def volume_stream(self) -> Iterator[bytes]:
        """As `tar_stream`, of the volume alone, without dumps."""
        if not self.manifest.dumps:
            return self.tar_stream()
        # Each entry of theirs is a group of its own.
        return self.group_stream(
            frozenset(number for number, records in self.records() if not is_reserved(path_of(records[0])))
        )

    def group_stream(self, groups: Container[int]) -> Iterator[bytes]:
        """The members of some groups as a tar stream of their own, in order, with its end; no other frame is read.

        Raises DamagedObject, StoreError.
        """
        chosen = (location for location in self.locations() if location.group in groups)
        pieces = chain(self._raw_frames(chosen), (END_OF_ARCHIVE,))
        yield from self._checked(pieces, (group for group in self.records() if group[0] in groups))

    def frames(
        self, wanted: Callable[[int], bool], on_stored: Callable[[FrameLocation, bytes], object]
    ) -> Iterator[tuple[FrameLocation, Callable[[], bytes]]]:
        """The frames of wanted groups, in order, each with what gives its raw bytes, or raises DamagedObject or
        StoreError; that must be called before the next one is asked for. `on_stored` gets what was fetched.
        """
        chosen = (location for location in self.locations() if wanted(location.group))
        with closing(self._raw_frames(chosen, on_stored)) as decoded:
            for location in self.locations():
                if wanted(location.group):
                    yield location, partial(next, decoded)

    def frame(self, location: FrameLocation) -> bytes:
        """The raw bytes of one. Raises DamagedObject, StoreError."""
        (raw,) = self._raw_frames(iter([location]))
        return raw

    def _raw_frames(
        self,
        locations: Iterator[FrameLocation],
        on_stored: Callable[[FrameLocation, bytes], object] = lambda _location, _stored: None,
    ) -> Generator[bytes, None, None]:
        with (
            closing(self._stored_frames(locations, on_stored)) as stored_frames,
            closing(decode_frames(stored_frames, damaged=DamagedObject)) as decoded,
        ):
            yield from decoded

    def _checked(self, pieces: Iterator[bytes], groups: Iterator[tuple[int, list[bytes]]]) -> Iterator[bytes]:
        """The tar stream of some groups, once its members were compared with their entries."""
        directories = _Directories(self)
        try:
            yield from checked_stream(
                pieces, (record for _, records in groups for record in records), directories.has
            )
        except ValueError as error:
            raise DamagedObject(files_key(self.ref), str(error)) from error

    def locations(self) -> Iterator[FrameLocation]:
        try:
            yield from frames_of(self.manifest, file_blocks(self._frames_path))
        except ValueError as error:
            raise DamagedObject(frames_key(self.ref), str(error)) from error

    def _stored_frames(
        self, locations: Iterator[FrameLocation], on_stored: Callable[[FrameLocation, bytes], object]
    ) -> Generator[StoredFrame | Exception, None, None]:
        """Frames in order, and at their end what was in the way of more; those that lie one after another are one range."""
        try:
            ranges = ((run, self._range(run)) for run in _runs(locations))
            with closing(open_ahead(self._repository.store, ranges)) as opened:
                for run, reader in opened:
                    key = pack_key(self.ref, run[0].pack)
                    for location in run:
                        stored = _exactly(reader, location.stored_bytes)
                        if len(stored) != location.stored_bytes:
                            raise DamagedObject(key, "it is cut off")
                        self.fetched_bytes += len(stored)
                        on_stored(location, stored)
                        again = partial(self._fetched_again, key, location)
                        yield StoredFrame(key, location.digest, location.raw_bytes, stored, again)
        except (StoreError, DamagedObject) as error:
            yield error  # in its turn: the frames before it are good

    def _range(self, run: list[FrameLocation]) -> ObjectRange:
        return ObjectRange(
            pack_key(self.ref, run[0].pack), run[0].offset, sum(location.stored_bytes for location in run)
        )

    def _fetched_again(self, key: str, location: FrameLocation) -> bytes:
        with self._repository.store.open(key, offset=location.offset, length=location.stored_bytes) as reader:
            return _exactly(reader, location.stored_bytes)


class _Directories:
    """In which directories the entries of an index are. Only what was known to have one name when it was listed, and has
    hard links all the same, makes anybody ask.
    """

    def __init__(self, index: BackupIndex) -> None:
        self._index = index
        self._known: set[int] | None = None  # hashes: so that memory hardly follows the size of a volume

    def has(self, path: bytes) -> bool:
        if self._known is None:
            self._known = {
                hash(path_of(record).rpartition(b"/")[0])
                for _, records in self._index.records()
                for record in records
            }
        return hash(path) in self._known


def _runs(locations: Iterator[FrameLocation]) -> Iterator[list[FrameLocation]]:
    """Frames that lie one after another in one pack; a run ends where it becomes a matter of memory."""
    run: list[FrameLocation] = []
    for location in locations:
        if run and (
            location.pack != run[-1].pack
            or location.offset != run[-1].offset + run[-1].stored_bytes
            or len(run) == _MOST_FRAMES
        ):
            yield run
            run = []
        run.append(location)
    if run:
        yield run


def _exactly(reader: ObjectReader, size: int) -> bytes:
    """`size` bytes, or fewer at the end of the object."""
    first = reader.read(size)
    if len(first) == size:
        return first
    parts: list[bytes] = [first]
    have = len(first)
    while have < size and (more := reader.read(size - have)):
        parts.append(more)
        have += len(more)
    return b"".join(parts)
