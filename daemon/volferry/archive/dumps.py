"""Dumps: files of a backup that are not in its volume, but were made by commands in containers (docs/format.md, "Dumps").

They lie in `.volferry/dumps/` of the tar stream, each entry in a group of its own.
"""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import zstandard

from volferry.archive.alignment import align
from volferry.archive.listing import (
    NANOSECONDS,
    RESERVED,
    UNTRUSTED,
    Entry,
    is_reserved,
    nanoseconds,
    path_of,
    time_text,
    walk_key,
)
from volferry.archive.streambuffer import SEGMENT_BYTES
from volferry.archive.tarstream import BLOCK, END_OF_ARCHIVE, TarReader, reading

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

DIRECTORY = b".volferry/dumps"
_DIRECTORY_MODE, _FILE_MODE = 0o700, 0o600
_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class DumpFile:
    """A dump that was taken: its bytes, compressed, in a local file."""

    name: str
    path: Path
    source_bytes: int
    taken_at: int  # nanoseconds since the epoch

    @property
    def entry(self) -> Entry:
        return _entry(
            DIRECTORY + b"/" + self.name.encode(), b"f", _FILE_MODE, self.source_bytes, self.taken_at
        )


def dump_path(name: str) -> bytes:
    return DIRECTORY + b"/" + name.encode()


def with_dumps(records: Iterable[bytes], dumps: Sequence[DumpFile]) -> Iterator[bytes]:
    """A listing, with the entries of the dumps in their places. What the volume itself has there is left out."""
    records = iter(records)
    if dumps:
        place = walk_key(RESERVED)
        for record in records:
            if walk_key(path_of(record)) >= place:
                records = chain((record,), records)
                break
            yield record
        yield from (entry.record for entry in _entries(dumps))
        for record in records:
            if not is_reserved(path_of(record)):
                yield record
                break
    yield from records


def dump_frames(dumps: Sequence[DumpFile], path: bytes, group: int) -> Iterator[tuple[int, memoryview]]:
    """The raw frames of one entry of `with_dumps`, with its group's number."""
    (entry,) = (entry for entry in _entries(dumps) if entry.path == path)
    dump = next((each for each in dumps if each.entry.path == path), None)
    reader = TarReader(reading(_member(entry, dump)), segment_bytes=SEGMENT_BYTES)
    yield from align(reader, iter([(group, entry)]), stored=lambda *_: None, missing=lambda *_: None)


def _entries(dumps: Sequence[DumpFile]) -> Iterator[Entry]:
    """In walk order."""
    newest = max(dump.taken_at for dump in dumps)
    yield _entry(RESERVED, b"d", _DIRECTORY_MODE, 0, newest)
    yield _entry(DIRECTORY, b"d", _DIRECTORY_MODE, 0, newest)
    yield from sorted((dump.entry for dump in dumps), key=lambda each: walk_key(each.path))


def _entry(path: bytes, kind: bytes, mode: int, size: int, taken_at: int) -> Entry:
    # No inode, and no change time: it is another one each time.
    return Entry(path, b"%s %o 0 0 %d %s %s 0 1 " % (kind, mode, size, time_text(taken_at), UNTRUSTED))


def _member(entry: Entry, dump: DumpFile | None) -> Iterator[bytes]:
    """As a tar stream of its own."""
    info = tarfile.TarInfo(entry.path.decode())
    info.type = tarfile.REGTYPE if dump else tarfile.DIRTYPE
    info.mode = int(entry.stat.mode, 8)
    info.size = entry.size
    seconds, fraction = divmod(nanoseconds(entry.stat.mtime), NANOSECONDS)
    info.mtime = seconds
    info.pax_headers = {"mtime": f"{seconds}.{fraction:09}"}
    yield info.tobuf(tarfile.PAX_FORMAT)
    if dump is not None:
        with dump.path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as content:
            while data := content.read(_READ_BYTES):
                yield data
        yield bytes(-dump.source_bytes % BLOCK)
    yield END_OF_ARCHIVE
