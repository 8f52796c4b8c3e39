"""Digests of the same entries in two places, beside each other."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from volferry.archive.index import file_blocks
from volferry.archive.listing import path_of, split_records
from volferry.archive.tree_scripts import DIGEST_BYTES, UNREADABLE, digest_command
from volferry.operations.streams import Lines, checked, feeding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from volferry.observer import Observer
    from volferry.operations.places import Place

_READ_BYTES = 1 << 20
_PROGRESS_ENTRIES = 4096


def compared(
    source: Place,
    target: Place,
    records: Iterator[bytes],
    path: Path,
    observer: Observer,
    *,
    total: int,
    content: bool,
) -> Iterator[tuple[bytes, bool]]:
    """Each record, and whether its attributes, and with `content` that too, can be read and are the same on both sides. `path` is for a temporary file."""
    with path.open("wb") as out:
        for record in records:
            out.write(record + b"\0")
    observer.phase("comparing contents" if content else "comparing attributes", total_entries=total)
    with _digests(source, path, content=content) as here, _digests(target, path, content=content) as there:
        for done, record in enumerate(split_records(file_blocks(path))):
            one, other = here(), there()
            yield record, one == other and one[:1] != UNREADABLE
            if done % _PROGRESS_ENTRIES == 0:
                observer.advance(done_bytes=0, done_entries=done)


@contextmanager
def _digests(place: Place, records: Path, *, content: bool) -> Iterator[Callable[[], bytes]]:
    """Gives the digest of one entry after another."""
    lines = Lines()
    process = place.helper.start(
        digest_command(place.directory, content=content), stdin=True, on_stderr=lines.add, bulk="stdout"
    )
    rest = bytearray()

    def take() -> bytes:
        while len(rest) < DIGEST_BYTES:
            more = process.read(_READ_BYTES)
            if not more:
                checked(process.wait() or 1, lines, "reading the volume")
            rest.extend(more)
        found = bytes(rest[:DIGEST_BYTES])
        del rest[:DIGEST_BYTES]
        return found

    paths = (path_of(record) or b"." for record in split_records(file_blocks(records)))
    with feeding(process, paths):
        yield take
    while process.read(_READ_BYTES):
        pass
    checked(process.wait(), lines, "reading the volume")
