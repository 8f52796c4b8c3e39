"""Reads one volume through a helper: first the listing, then the tar stream of what is not reused."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from volferry.archive.alignment import ANCHOR, align
from volferry.archive.commands import RESTORE_MARK, create_command, find_command, list_command
from volferry.archive.dumps import DumpFile, dump_frames, with_dumps
from volferry.archive.excludes import CACHE_SIGNATURE, CACHE_TAG, Excludes, LeftOut, without_excluded
from volferry.archive.frames import ReusedGroup
from volferry.archive.groups import split_groups
from volferry.archive.index import file_blocks, group_bytes, parse_groups
from volferry.archive.listing import (
    CHANGED_WITHIN_SECONDS,
    NANOSECONDS,
    UNTRUSTED,
    Entry,
    is_reserved,
    listing_records,
    nanoseconds,
    parse_record,
    path_of,
    split_records,
)
from volferry.archive.manifest import MOST_FINDINGS
from volferry.archive.streambuffer import SEGMENT_BYTES
from volferry.archive.tarlog import TarLog
from volferry.archive.tarstream import END_OF_ARCHIVE, TarReader
from volferry.errors import CommandFailed
from volferry.interrupts import held_back
from volferry.model import Finding, Volume, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from pathlib import Path

    from volferry.checkpoint import CheckpointWriter
    from volferry.engine.channel import Process
    from volferry.engine.helper import Helper
    from volferry.observer import Observer
    from volferry.operations.plan import Plan, Planner

_READ_BYTES = 1 << 20
_PROGRESS_ENTRIES = 256
_LISTING_PROGRESS_GROUPS = 256
_MOST_ERRORS = 100
_MARK_RECORD = RESTORE_MARK.encode() + b"//"
_FEED_ENTRIES = 512  # some 16 KiB of paths


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

    def groups(self) -> Iterator[tuple[int, list[bytes]]]:
        return parse_groups(file_blocks(self.path))

    def asked(self) -> Iterator[tuple[int, Entry]]:
        """What `tar` is asked for, in order, with its group's number or ANCHOR."""
        for line in split_records(file_blocks(self.to_read)):
            number, _, record = line.partition(b" ")
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
    listing = Listing(spool / "listing", spool / "to-read", datetime.now(UTC), planner.plan)
    process = helper.start(
        list_command(helper.directory(volume.name), helper.spool),
        on_stderr=lambda line: errors.append(printable(line)) if len(errors) < _MOST_ERRORS else None,
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


class VolumeReading:
    """Reads what is to be read, and keeps account of all entries in the checkpoint."""

    def __init__(
        self, listing: Listing, checkpoint: CheckpointWriter, dumps: Sequence[DumpFile], observer: Observer
    ) -> None:
        self._listing = listing
        self._dumps = dumps
        self._checkpoint = checkpoint
        self._observer = observer
        self._log = TarLog()
        self._newest_trusted = int(listing.at.timestamp() - CHANGED_WITHIN_SECONDS) * NANOSECONDS
        self._groups = listing.groups()
        self._recorded = -1  # the entries of groups up to this one are in the checkpoint, if they are reused
        self._ready: deque[int] = deque()  # of those, and of dumps, the groups that have not been passed on
        self._dump_paths: dict[int, bytes] = {}
        self._read = Totals()
        self.read_bytes = 0
        self.findings: list[Finding] = []
        self.findings_total = 0

    @property
    def totals(self) -> Totals:
        totals = Totals()
        for part in (self._read, self._listing.reused):
            totals.add(part.entries, part.source_bytes, part.kinds)
        return totals

    @property
    def torn(self) -> set[bytes]:
        """Paths of entries that changed while they were read."""
        return set(self._log.torn)

    def frames(
        self, helper: Helper, volume: Volume, *, on_end: Callable[[], object]
    ) -> Generator[tuple[int, bytes | memoryview] | ReusedGroup, None, None]:
        """The raw frames of what is read and, in their places, the groups that are reused; last, in a group of its
        own, the end-of-archive marker. `on_end` is called once the last byte of the volume has been read.

        Raises CommandFailed if anything but a finding was in the way.
        """
        if self._listing.read.entries:
            for group, raw in self._frames_read(helper, volume):
                yield from self._others_before(group)
                yield group, raw
        on_end()
        last = len(self._listing.plan.sources)
        yield from self._others_before(last)
        yield last, END_OF_ARCHIVE
        for finding in self._log.torn.values():
            self._found(finding)

    def _frames_read(self, helper: Helper, volume: Volume) -> Iterator[tuple[int, memoryview]]:
        process = helper.start(
            create_command(helper.directory(volume.name)), stdin=True, on_stderr=self._log.line
        )
        with _feeding(process, self._listing):
            reader = TarReader(process.read_into, segment_bytes=SEGMENT_BYTES)
            try:
                yield from align(
                    reader,
                    self._listing.asked(),
                    entry_asked=self._listing.entry_asked,
                    stored=self._stored,
                    vanished=self._vanished,
                )
            except CommandFailed:
                # Why the stream broke off is in tar's own words, if it had any. One that did not end is not waited
                # for: nobody reads it any longer.
                if reader.at_end:
                    self._check(process.wait())
                raise
            self.read_bytes = reader.bytes_read
            self._check(process.wait())

    def _others_before(self, group: int) -> Iterator[tuple[int, memoryview] | ReusedGroup]:
        """Reused groups and dumps that come before `group` and have not been passed on."""
        self._record_others_before(group)
        while self._ready and self._ready[0] < group:
            number = self._ready.popleft()
            if number in self._listing.dumped:
                yield from dump_frames(self._dumps, self._dump_paths.pop(number), number)
            else:
                yield ReusedGroup(number)

    def _record_others_before(self, group: int) -> None:
        """Their entries: those of `group` come next."""
        while self._recorded < group - 1:
            self._recorded, records = next(self._groups, (group - 1, []))
            if not records:
                continue
            if self._recorded in self._listing.dumped:
                (entry,) = (parse_record(record) for record in records)
                self._dump_paths[self._recorded] = entry.path
                self._read.add(1, entry.size, {entry.kind: 1})
            elif self._listing.plan.is_read(self._recorded):
                continue
            self._checkpoint.group(self._recorded, records)
            self._ready.append(self._recorded)

    def _stored(self, group: int, entry: Entry) -> None:
        stat = entry.stat
        if stat.ctime != UNTRUSTED and (
            nanoseconds(stat.ctime) >= self._newest_trusted or nanoseconds(stat.mtime) >= self._newest_trusted
        ):
            # It could change again within the same tick of the clock, and look as if it had not.
            entry = Entry(entry.path, b" ".join(stat._replace(ctime=UNTRUSTED)))
        self._record_others_before(group)
        self._checkpoint.entry(group, entry.record)
        size = int(stat.size) if stat.kind == b"f" else 0
        self._read.add(1, size, {stat.kind: 1})
        if self._read.entries % _PROGRESS_ENTRIES == 0 or size > _READ_BYTES:
            self._observer.advance(done_bytes=self._read.source_bytes, done_entries=self._read.entries)

    def _vanished(self, entry: Entry) -> None:
        self._found(Finding("vanished", entry.path, "was listed, and gone when it was to be read"))

    def _found(self, finding: Finding) -> None:
        self.findings_total += 1
        if len(self.findings) < MOST_FINDINGS:
            self.findings.append(finding)
            self._observer.finding(finding)

    def _check(self, status: int) -> None:
        """0: all read. 1: some files changed. 2: some files failed, which is fine if all of them had vanished."""
        unexplained = self._log.unexplained
        if status in {0, 1} or (status == 2 and not unexplained):
            for line in unexplained:
                self._observer.note(line)
            return
        why = unexplained[0] if unexplained else "without a word"
        raise CommandFailed(f"reading the volume failed: tar exited with status {status}: {why}")


@contextmanager
def _feeding(process: Process, listing: Listing) -> Iterator[None]:
    """Feeds the paths of the listing to `process` from a thread of its own."""
    failure: list[BaseException] = []

    def feed() -> None:
        try:
            batch: list[bytes] = []
            for _, entry in listing.asked():
                batch.append(entry.path or b".")
                if len(batch) == _FEED_ENTRIES:
                    process.write(b"\0".join([*batch, b""]))
                    batch.clear()
            if batch:
                process.write(b"\0".join([*batch, b""]))
            process.close_stdin()
        except BrokenPipeError:
            pass  # its exit status says why
        except BaseException as error:  # noqa: BLE001 -- raised below, in the thread that can handle it
            failure.append(error)

    thread = threading.Thread(target=feed, daemon=True, name="feed")
    with held_back():
        thread.start()
    yield
    thread.join()
    if failure:
        raise failure[0]
