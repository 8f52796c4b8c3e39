"""The listing of one side of a transfer, in a local file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volferry.archive.commands import HALF_TREE, OWN_TREES, RESTORE_MARK, list_command
from volferry.archive.findlog import FindLog
from volferry.archive.listing import ListingReader, path_of
from volferry.errors import CommandFailed, HiddenNames, RestoreMismatch
from volferry.model import printable
from volferry.operations.broken_off import NamesListed
from volferry.operations.changes import ListingFile
from volferry.operations.names import Names
from volferry.operations.volume_listing import any_data

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from volferry.observer import Observer
    from volferry.operations.places import Place

_READ_BYTES = 1 << 20
# The mark, and what an exchange has on its way.
_BELOW_MARK = RESTORE_MARK.encode() + b"/"
_RESTS = (RESTORE_MARK.encode() + b"//", HALF_TREE.encode() + b"//d ")


def list_source(
    place: Place, path: Path, observer: Observer, is_half: Callable[[], bool] = lambda: True
) -> ListingFile:
    """Raises CommandFailed, also if it holds half of something: `is_half` is asked of what looks like that."""
    found = list_place(place, path, marked=False, written_back=True, is_half=is_half)
    observer.advance(done_bytes=0, done_entries=found.entries)
    return found


def list_place(
    place: Place,
    path: Path,
    *,
    marked: bool,
    written_back: bool = False,
    is_half: Callable[[], bool] = lambda: True,
) -> ListingFile:
    """As it is, `marked` if it is the target, where the mark of what has begun may be, and a socket is an entry too many. With `written_back`, as
    in `list_command`, and files that are said to have no blocks are looked at.
    """
    try:
        return _list_place(
            place, path, marked=marked, written_back=written_back, distrusted=False, is_half=is_half
        )
    except HiddenNames:
        return _list_place(
            place, path, marked=marked, written_back=written_back, distrusted=True, is_half=is_half
        )


def _list_place(
    place: Place,
    path: Path,
    *,
    marked: bool,
    written_back: bool,
    distrusted: bool,
    is_half: Callable[[], bool],
) -> ListingFile:
    log = FindLog()
    at = place.helper.now().timestamp()
    process = place.helper.start(
        list_command(place.directory, place.helper.spool, written_back=written_back, distrusted=distrusted),
        on_stderr=log.line,
        bulk="stdout",
    )
    blocks = iter(lambda: process.read(_READ_BYTES), b"")
    unallocated = path.with_name(f"{path.name}.unallocated")
    names = Names(lambda: reader.file_system) if written_back else None
    try:
        with unallocated.open("wb") as found:
            reader = ListingReader(
                blocks,
                listed_at=at,
                unallocated=lambda record: found.write(path_of(record) + b"\0"),
                sparse=names.add_holes if names is not None else lambda _: None,
            )
            names_listed = NamesListed(path.with_name(f"{path.name}.names"), reader)
            entries, source_bytes = _kept(names_listed.records(), path, names, marked=marked, is_half=is_half)
            any_unallocated = found.tell() > 0
    except CommandFailed as error:
        for _ in blocks:  # what nobody reads would never end
            pass
        process.wait()
        raise CommandFailed(f"{error}{': ' + log.unexplained[0] if log.unexplained else ''}") from error
    status = process.wait()
    names_listed.note_missing(place.helper, place.directory, log, is_last=distrusted)
    why = log.why_failed(status)
    if why is None and not entries:
        why = "it has no root directory"
    if why is not None:
        raise CommandFailed(f"listing the volume failed: {why}")
    # A volume that is to go on elsewhere goes there whole, or stays. The kernel says once what it could not write.
    for finding in log.of_all:
        raise CommandFailed(f"listing the volume failed: {finding.detail}")
    for finding in log.findings.values():
        if finding.kind != "vanished":
            raise CommandFailed(f"listing the volume failed: {printable(finding.path)!r} {finding.detail}")
        if not written_back:
            raise RestoreMismatch(f"{printable(finding.path)!r} {finding.detail}")
    holes = not (written_back and any_unallocated) or not any_data(
        place.helper, place.directory, unallocated, reader.file_system
    )
    if names is None:
        return ListingFile(path, reader.trusted_seconds, entries, source_bytes, holes)
    names.end(holes=holes)
    return ListingFile(path, reader.trusted_seconds, entries, source_bytes, holes, names)


def _kept(
    records: Iterator[bytes], path: Path, names: Names | None, *, marked: bool, is_half: Callable[[], bool]
) -> tuple[int, int]:
    """Writes those of entries that can be moved to a local file. Returns how many there are, and the sum of the sizes of regular files."""
    entries = source_bytes = 0
    firsts: dict[bytes, bytes] = {}  # inode -> record of its first name, of what has more than one
    with path.open("wb") as out:
        for record in records:
            if record.startswith(_RESTS):
                if not marked and is_half():
                    raise CommandFailed(
                        "it holds the rest of an interrupted restore, import or migration: the same command, run again, completes it"
                    )
                continue
            name, _, meta = record.partition(b"//")
            if name in OWN_TREES or name.startswith(_BELOW_MARK):
                continue
            if meta.startswith(b"s ") and not marked:
                continue  # a socket means nothing without the process that made it
            out.write(record + b"\0")
            entries += 1
            if names is not None:
                names.meet((record,))
            kind, _, _, _, size, _, _, inode, links, _ = meta.split(b" ", 9)
            if kind == b"f":
                source_bytes += int(size)
            if names is not None and links != b"1" and kind != b"d":
                names.add(inode, record, firsts.setdefault(inode, record))
    return entries, source_bytes
