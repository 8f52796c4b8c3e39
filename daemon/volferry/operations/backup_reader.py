"""What is in a backup: its index, and the tar stream that its frames make."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

from volferry.archive.frames import StoredFrame, decode_frames
from volferry.archive.index import file_blocks, read_files, read_frames
from volferry.archive.listing import is_reserved
from volferry.archive.tarstream import END_OF_ARCHIVE
from volferry.errors import DamagedObject, StoreError
from volferry.layout import files_key, frames_key, pack_key
from volferry.stores.ahead import ObjectRange, open_ahead

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Generator, Iterator
    from pathlib import Path

    from volferry.archive.index import FrameLocation
    from volferry.archive.listing import Entry
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
        self.fetched_bytes = 0
        self.fetched_bytes += repository.fetch(
            files_key(ref), self._files_path, expected=self.manifest.index.files
        )

    def groups(self) -> Iterator[tuple[int, list[Entry]]]:
        """Entries by group, in the order of the listing."""
        try:
            yield from read_files(file_blocks(self._files_path))
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
        """The whole tar stream, in pieces of up to 4 MiB, each checked against its digest before it is given out.

        Raises DamagedObject, StoreError.
        """
        total = 0
        for raw in self._raw_frames(self.locations()):
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
            frozenset(number for number, entries in self.groups() if not is_reserved(entries[0].path))
        )

    def group_stream(self, groups: Container[int]) -> Iterator[bytes]:
        """The members of some groups as a tar stream of their own, in order, with its end; no other frame is read.

        Raises DamagedObject, StoreError.
        """
        yield from self._raw_frames(location for location in self.locations() if location.group in groups)
        yield END_OF_ARCHIVE

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

    def locations(self) -> Iterator[FrameLocation]:
        try:
            yield from read_frames(file_blocks(self._frames_path))
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
