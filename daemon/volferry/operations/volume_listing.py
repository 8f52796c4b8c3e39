"""Lists one volume through a helper, and plans what of it is read."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from volferry.archive.alignment import ANCHOR
from volferry.archive.commands import RESTORE_MARK, create_command, find_command, list_command
from volferry.archive.dumps import DumpFile, with_dumps
from volferry.archive.excludes import CACHE_SIGNATURE, CACHE_TAG, Excludes, LeftOut, without_excluded
from volferry.archive.groups import split_groups
from volferry.archive.index import file_blocks, group_bytes, parse_groups
from volferry.archive.listing import Entry, is_reserved, listing_records, parse_record, path_of, split_records
from volferry.archive.tarstream import TarReader
from volferry.errors import CommandFailed
from volferry.interrupts import held_back
from volferry.model import Volume, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from volferry.engine.channel import Process
    from volferry.engine.helper import Helper
    from volferry.observer import Observer
    from volferry.operations.patches import Patch
    from volferry.operations.plan import Plan, Planner

_READ_BYTES = 1 << 20
_LISTING_PROGRESS_GROUPS = 256
_MOST_ERRORS = 100
_MARK_RECORD = RESTORE_MARK.encode() + b"//"


@dataclass(slots=True)
class Totals:
    """Sums over entries."""

    entries: int = 0
    source_bytes: int = 0
    kinds: dict[bytes, int] = field(default_factory=dict)

    def add(self, entries: int, source_bytes: int, kinds: dict[bytes, int]) -> None:
        self.entries += entries
        self.source_bytes += source_bytes
        for kind, count in kinds.items():
            self.kinds[kind] = self.kinds.get(kind, 0) + count


@dataclass(slots=True)
class Listing:
    """The listing of a volume, in files, and what is to be done with each group of it."""

    path: Path  # all groups, as in a `files` object
    to_read: Path  # entries that are to be read, and anchors, each with its group's number
    at: datetime
    plan: Plan
    reused: Totals = field(default_factory=Totals)
    read: Totals = field(default_factory=Totals)
    sockets: int = 0
    left_out: LeftOut = field(default_factory=LeftOut)
    dumped: set[int] = field(default_factory=set)  # groups of what is not in the volume
    patched: dict[int, Patch] = field(default_factory=dict)  # groups of what `tar` is not asked for

    def groups(self) -> Iterator[tuple[int, list[bytes]]]:
        return parse_groups(file_blocks(self.path))

    def asked(self) -> Iterator[tuple[int, Entry]]:
        """What `tar` is asked for, in order, with its group's number or ANCHOR."""
        for line in split_records(file_blocks(self.to_read)):
            number, _, record = line.partition(b" ")
            if int(number) not in self.patched:
                yield int(number), parse_record(record)

    def entry_asked(self, path: bytes) -> Entry | None:
        """One of them, found by looking through all: for what hardly ever happens."""
        return next((entry for _, entry in self.asked() if entry.path == path), None)


def list_volume(
    helper: Helper,
    volume: Volume,
    spool: Path,
    planner: Planner,
    excludes: Excludes,
    dumps: Sequence[DumpFile],
    observer: Observer,
) -> Listing:
    """Lists the volume, and plans what is to be read. Raises CommandFailed if the listing is not whole."""
    errors: list[str] = []
    caches = _cache_directories(helper, volume) if excludes.caches else set()
    listing = Listing(spool / "listing", spool / "to-read", helper.now(), planner.plan)
    process = helper.start(
        list_command(helper.directory(volume.name), helper.spool),
        on_stderr=lambda line: errors.append(printable(line)) if len(errors) < _MOST_ERRORS else None,
        bulk="stdout",
    )
    blocks = iter(lambda: process.read(_READ_BYTES), b"")
    try:
        with listing.path.open("wb") as everything, listing.to_read.open("wb") as to_read:
            records = _of_interest(listing_records(blocks), listing)
            if excludes:
                records = without_excluded(
                    records, excludes, cache_directories=caches, left_out=listing.left_out
                )
            for group in split_groups(with_dumps(records, dumps)):
                everything.write(group_bytes(group.number, group.records))
                is_read = planner.add(group)
                if dumps and is_reserved(path_of(group.records[0])):
                    listing.dumped.add(group.number)
                elif is_read:
                    listing.read.add(len(group.records), group.source_bytes, group.kinds)
                    for record in planner.plan.anchors.get(group.number, ()):
                        to_read.write(b"%d %s\0" % (ANCHOR, record))
                    prefix = b"%d " % group.number
                    to_read.writelines(prefix + record + b"\0" for record in group.records)
                else:
                    listing.reused.add(len(group.records), group.source_bytes, group.kinds)
                if group.number % _LISTING_PROGRESS_GROUPS == 0:
                    observer.advance(done_bytes=0, done_entries=listing.read.entries + listing.reused.entries)
    except CommandFailed as error:
        for _ in blocks:  # what nobody reads would never end
            pass
        process.wait()
        raise CommandFailed(f"{error}{': ' + errors[0] if errors else ''}") from error
    status = process.wait()
    # What vanished while `find` looked is as if it had never been; nothing else may be missing.
    other = [line for line in errors if not line.endswith(("No such file or directory", "Not a directory"))]
    if status or other or not (listing.read.entries or listing.reused.entries):
        raise CommandFailed(f"listing the volume failed: {(other or errors or [f'status {status}'])[0]}")
    return listing


def _cache_directories(helper: Helper, volume: Volume) -> set[bytes]:
    """Directories with a tag that begins as it should."""
    directory = helper.directory(volume.name)
    process = helper.start(find_command(directory, CACHE_TAG.decode()), on_stderr=lambda _: None)
    tags = b"".join(iter(lambda: process.read(_READ_BYTES), b""))
    process.wait()
    found: set[bytes] = set()
    if not tags:
        return found
    process = helper.start(create_command(directory), stdin=True, on_stderr=lambda _: None)
    feeder = threading.Thread(target=_feed_all, args=(process, tags), daemon=True, name="feed")
    with held_back():
        feeder.start()
    reader = TarReader(process.read_into)
    for member in reader:
        if b"".join(reader.payload()).startswith(CACHE_SIGNATURE):
            found.add(member.path.rpartition(b"/")[0])
    feeder.join()
    process.wait()
    return found


def _feed_all(process: Process, data: bytes) -> None:
    try:
        process.write(data)
        process.close_stdin()
    except BrokenPipeError:  # it ended: what it had not read has no tag
        pass


def _of_interest(records: Iterable[bytes], listing: Listing) -> Iterator[bytes]:
    """Raises CommandFailed if the volume holds half of a backup."""
    for record in records:
        if b"//s " in record and record.partition(b"//")[2].startswith(b"s "):
            # A socket means nothing without the process that made it, and tar stores none.
            listing.sockets += 1
        elif record.startswith(_MARK_RECORD):
            raise CommandFailed(
                "it holds the rest of an interrupted restore: the same `volferry restore`, with --replace, completes it"
            )
        else:
            yield record
