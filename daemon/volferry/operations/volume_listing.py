"""Lists one volume through a helper, and plans what of it is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, BinaryIO

from volferry.archive.alignment import ANCHOR
from volferry.archive.commands import HALF_TREE, OWN_TREES, RESTORE_MARK, list_command
from volferry.archive.dumps import DumpFile, with_dumps
from volferry.archive.excludes import Excludes, LeftOut, without_excluded
from volferry.archive.findlog import FindLog
from volferry.archive.groups import split_groups
from volferry.archive.index import file_blocks, group_bytes, parse_groups
from volferry.archive.listing import Entry, ListingReader, is_reserved, parse_record, path_of, split_records
from volferry.archive.tree_scripts import NO_DATA, any_data_command
from volferry.errors import CommandFailed, Unfinished
from volferry.operations.broken_off import NamesListed
from volferry.operations.cache_directories import cache_directories
from volferry.operations.names import Names
from volferry.operations.restore_rests import LONGEST_PATH, HalfRestored, Rests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from volferry.archive.groups import Group
    from volferry.archive.restore_mark import KnownMarks
    from volferry.engine.helper import Helper
    from volferry.model import Finding, Volume
    from volferry.observer import Observer
    from volferry.operations.patches import Patch
    from volferry.operations.plan import Plan, Planner

_READ_BYTES = 1 << 20
_LISTING_PROGRESS_GROUPS = 256
_MOST_MET = 1 << 14
_MARK_RECORD = RESTORE_MARK.encode() + b"//"
_BELOW_MARK = RESTORE_MARK.encode() + b"/"
_OWN_PREFIX = b".volferry-"
_HALF_RECORD = HALF_TREE.encode() + b"//d "


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
    has_dumps: bool = False
    trusted_seconds: int = 0  # an entry that changed at this second or later may have changed once more
    findings: dict[bytes, Finding] = field(default_factory=dict)  # by path, of what could not be looked at
    of_all: list[Finding] = field(default_factory=list)  # of the volume as a whole
    holes: bool = True  # whether the file system's word is taken for what is a hole
    names: Names = field(default_factory=Names)
    unread_anchors: set[bytes] = field(default_factory=set)  # paths of those that `tar` need not have seen
    endless: set[bytes] = field(default_factory=set)  # paths of files that no `tar` comes to the end of
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

    @property
    def apart(self) -> set[bytes]:
        """Paths of those of them that are not in the common stream, and have a member elsewhere, or need none."""
        return (self.names.holes | self.names.later.keys()) - self.endless | self.unread_anchors

    def paths_asked(self, *, in_series: bool = False) -> Iterator[bytes]:
        """The same as `tar` takes them, in the common stream, or in that of what is read in series."""
        left_out = self.apart | self.endless
        return (
            entry.path or b"."
            for _, entry in self.asked()
            if entry.path not in left_out
            and not self.is_broken(entry)
            and self.names.in_series(entry) == in_series
        )

    def is_broken(self, entry: Entry) -> bool:
        """Whether it is a directory whose names could not all be read: `tar`, which reads them too, has nothing of it."""
        finding = self.findings.get(entry.path) if entry.kind == b"d" else None
        return finding is not None and finding.kind == "unreadable"

    def asked_apart(self) -> Iterator[tuple[int, Entry]]:
        """Those that have no member there."""
        apart = self.apart - self.unread_anchors
        return (each for each in self.asked() if each[1].path in apart) if apart else iter(())

    def add_holes(self, records: Iterable[bytes]) -> None:
        for record in records:
            self.names.add_holes(record)

    def add_names(self, group: Group, planner: Planner) -> None:
        """Those of a group that is read, after its files with holes were added."""
        needed: set[bytes] = set()
        for inode, record in group.linked:
            first = planner.first_name(inode)
            if self.names.add(inode, record, first):
                needed.add(first)
        anchors = self.plan.anchors.get(group.number, ())
        self.unread_anchors.update(path_of(each) for each in anchors if each not in needed)

    def reuses_below(self, number: int, directory: bytes) -> bool:
        """Whether an entry below a directory, whose own group has that number, is of a group that is reused. For what hardly ever
        happens: it looks through all groups up to there.
        """
        if not self.reused.entries:
            return False
        prefix = directory + b"/" if directory else b""
        for other, records in self.groups():
            if other <= number:
                continue
            first = path_of(records[0])
            if not first.startswith(prefix):
                return False
            if not self.plan.is_read(other) and other not in self.dumped:
                return True
        return False

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
    *,
    one_file_system: bool = False,
    distrusted: bool = False,
    marks: KnownMarks,
) -> Listing:
    """Lists the volume, and plans what is to be read. Raises CommandFailed if the listing is not whole but for what its findings name; HiddenNames if it can only be
    had whole as `distrusted`, which is as `list_command` has it.
    """
    log = FindLog()
    walk = _Walk(one_file_system, excludes.not_walked)
    caches = (
        cache_directories(
            helper,
            helper.directory(volume.name),
            one_file_system=walk.one_file_system,
            not_walked=walk.not_walked,
        )
        if excludes.caches
        else set()
    )
    listing = Listing(spool / "listing", spool / "to-read", helper.now(), planner.plan, bool(dumps))
    process = helper.start(
        list_command(
            helper.directory(volume.name),
            helper.spool,
            written_back=True,
            one_file_system=walk.one_file_system,
            not_walked=walk.not_walked,
            distrusted=distrusted,
        ),
        on_stderr=log.line,
        bulk="stdout",
    )
    blocks = iter(lambda: process.read(_READ_BYTES), b"")
    unallocated = _Unallocated(spool / "unallocated")
    # Too many files with holes are read as others are, which only takes longer.
    pointed_out = _PointedOut(unallocated.write, unallocated.write), _PointedOut(listing.add_holes)
    reader = ListingReader(
        blocks, listed_at=listing.at.timestamp(), unallocated=pointed_out[0].add, sparse=pointed_out[1].add
    )
    listing.names = Names(lambda: reader.file_system)
    names_listed = NamesListed(spool / "names", reader)
    rests = Rests(helper, helper.directory(volume.name), marks)
    try:
        records = _of_interest(names_listed.records(listing.left_out), listing, rests, observer)
        if excludes:
            records = without_excluded(records, excludes, cache_directories=caches, left_out=listing.left_out)
        with unallocated.path.open("wb") as unallocated.file:
            _plan_groups(with_dumps(records, dumps), listing, planner, pointed_out, observer)
    except (CommandFailed, HalfRestored) as error:
        for _ in blocks:  # what nobody reads would never end
            pass
        process.wait()
        if isinstance(error, HalfRestored):
            from volferry.operations.unfinished_paths import half_restored  # noqa: PLC0415 -- rare

            raise Unfinished(half_restored(helper, volume.name)) from None
        raise CommandFailed(f"{error}{': ' + log.unexplained[0] if log.unexplained else ''}") from error
    status = process.wait()
    names_listed.note_missing(
        helper, helper.directory(volume.name), log, one_file_system=one_file_system, is_last=distrusted
    )
    _check(log, status, reader, listing)
    for note in log.notes:
        observer.note(note)
    listing.findings, listing.of_all = rests.too_deep | log.findings, log.of_all + rests.findings
    listing.trusted_seconds = reader.trusted_seconds
    if unallocated.count:
        listing.holes = not any_data(
            helper, helper.directory(volume.name), unallocated.path, reader.file_system
        )
    listing.names.end(holes=listing.holes)
    return listing


def _check(log: FindLog, status: int, reader: ListingReader, listing: Listing) -> None:
    """Raises CommandFailed if the listing lacks anything that is no finding."""
    entries = listing.read.entries + listing.reused.entries
    why = log.why_failed(status, entries=entries)
    if why is None and not entries:
        why = "it has no root directory"
    if why is None and reader.find_status and not log.findings:
        why = "`find` missed something, and gave no reason"
    if why is not None:
        raise CommandFailed(f"listing the volume failed: {why}")


def _plan_groups(
    records: Iterable[bytes],
    listing: Listing,
    planner: Planner,
    pointed_out: Sequence[_PointedOut],
    observer: Observer,
) -> None:
    """Writes the two files of the listing."""
    with listing.path.open("wb") as everything, listing.to_read.open("wb") as to_read:
        for group in split_groups(records):
            everything.write(group_bytes(group.number, group.records))
            is_read = planner.add(group)
            for each in pointed_out:
                each.end_group(group.records, is_read=is_read)
            if listing.has_dumps and is_reserved(path_of(group.records[0])):
                listing.dumped.add(group.number)
            elif is_read:
                if group.linked:
                    listing.add_names(group, planner)
                anchors = planner.plan.anchors.get(group.number, ())
                listing.names.meet(chain(anchors, group.records))
                listing.read.add(len(group.records), group.source_bytes, group.kinds)
                for record in anchors:
                    to_read.write(b"%d %s\0" % (ANCHOR, record))
                prefix = b"%d " % group.number
                to_read.writelines(prefix + record + b"\0" for record in group.records)
            else:
                listing.reused.add(len(group.records), group.source_bytes, group.kinds)
            if group.number % _LISTING_PROGRESS_GROUPS == 0:
                observer.advance(done_bytes=0, done_entries=listing.read.entries + listing.reused.entries)


@dataclass(frozen=True, slots=True)
class _Walk:
    """Where `find` does not go."""

    one_file_system: bool
    not_walked: list[str]


class _PointedOut:
    """Records that the listing points out: once their group tells that they are to be read, `found` gets them. `too_many` gets those of which
    no group tells for long, as of what is excluded.
    """

    def __init__(
        self,
        found: Callable[[Iterable[bytes]], object],
        too_many: Callable[[Iterable[bytes]], object] = lambda _: None,
    ) -> None:
        self._found = found
        self._too_many = too_many
        self._met: set[bytes] = set()  # records of groups that have not ended yet

    def add(self, record: bytes) -> None:
        self._met.add(record)
        if len(self._met) > _MOST_MET:
            self._too_many(self._met)
            self._met.clear()

    def end_group(self, records: Sequence[bytes], *, is_read: bool) -> None:
        if self._met:
            found = self._met.intersection(records)
            self._met -= found
            if is_read:
                self._found(found)


class _Unallocated:
    """Files that are to be read, have a size and, if the file system is to be believed, no block: their paths, in a local file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: BinaryIO
        self.count = 0

    def write(self, records: Iterable[bytes]) -> None:
        for record in records:
            self.file.write(path_of(record) + b"\0")
            self.count += 1


def any_data(helper: Helper, directory: str, paths: Path, file_system: str) -> bool:
    """Whether one of the files in a local file of NUL-ended paths holds data. If that cannot be found out, it does."""
    process = helper.start(any_data_command(directory, file_system), stdin=True, on_stderr=lambda _: None)
    try:
        for block in file_blocks(paths):
            process.write(block)
        process.close_stdin()
    except BrokenPipeError:  # it has found one
        pass
    answer = b"".join(iter(lambda: process.read(_READ_BYTES), b""))
    return process.wait() != 0 or answer != NO_DATA


def _of_interest(
    records: Iterable[bytes], listing: Listing, rests: Rests, observer: Observer
) -> Iterator[bytes]:
    """Raises HalfRestored if the volume holds half of a backup."""
    for record in records:
        if record.startswith(_MARK_RECORD):
            rests.look(RESTORE_MARK)
            listing.left_out.add(path_of(record), top=True, source_bytes=0)
            continue
        if len(record) > LONGEST_PATH and rests.is_too_deep(record):
            continue
        if record.startswith(_BELOW_MARK):  # as listed by what prunes nothing
            continue
        if record.startswith(_HALF_RECORD):
            rests.look(HALF_TREE)
        if record.startswith(_OWN_PREFIX) and path_of(record) in OWN_TREES:
            listing.left_out.add(path_of(record), top=True, source_bytes=0)
            observer.note(
                f"{path_of(record).decode()} is left out: it is the rest of an interrupted restore, and the next one deletes it"
            )
            continue
        if b"//s " in record and record.partition(b"//")[2].startswith(b"s "):
            # A socket means nothing without the process that made it, and tar stores none.
            listing.sockets += 1
        else:
            yield record
