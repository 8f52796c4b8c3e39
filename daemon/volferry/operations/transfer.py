"""From a volume of one engine into one of another: passes that each send what has changed since the one before, and the comparison of
both at the end.
"""

from __future__ import annotations

import filecmp
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volferry.archive.alignment import names_of_one
from volferry.archive.commands import OWN_TREES, sync_command
from volferry.archive.exchange_scripts import delete_tree_command
from volferry.archive.extractlog import AccessLists, ExtractLog
from volferry.archive.index import file_blocks
from volferry.archive.listing import Entry, paired, parse_record, path_of, split_records
from volferry.archive.scripts import delete_paths_script
from volferry.archive.tree_scripts import clear_command
from volferry.errors import CommandFailed, RestoreMismatch
from volferry.interrupts import held_back
from volferry.model import printable
from volferry.operations.block_transfer import BlockTransfer
from volferry.operations.changes import Changes, Known, ListingFile, changes_between, paired_records
from volferry.operations.comparison import MIGRATED, check_held, check_same, has_inherited_bit
from volferry.operations.directory_modes import modes_in
from volferry.operations.ends import ENDLESS_BYTES, odd_ends
from volferry.operations.place_digests import compared
from volferry.operations.place_listing import list_place, list_source
from volferry.operations.restore import is_half
from volferry.operations.squashed import USUAL_GROUND, Ground
from volferry.operations.streams import Lines, checked, feeding, run, run_script, send, send_alone, send_links

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from volferry.archive.restore_mark import KnownMarks
    from volferry.observer import Observer
    from volferry.operations.names import Names
    from volferry.operations.places import Place
    from volferry.operations.streams import Stream

_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Sent:
    """What one pass did."""

    entries: int
    deleted: int  # subtrees
    sent_bytes: int  # of the tar stream


class Transfer:
    """One volume's way. Its target holds anything between the first pass and a comparison that found no difference."""

    def __init__(
        self,
        source: Place,
        target: Place,
        spool: Path,
        observer: Observer,
        *,
        lesser: bool = False,
        ground: Ground = USUAL_GROUND,
        marks: KnownMarks | None = None,
    ) -> None:
        """Without `marks`, any mark in the source is that of a restore that has not ended. `lesser`: what the target's file system cannot hold is counted, in `log` and `differing`, and no reason to fail. On another
        `ground` than the usual one, directories get their own modes by `set_modes`.
        """
        self._ground = ground
        self._marks = marks
        self.log = ExtractLog() if lesser else None
        self.differing: dict[str, str] = {}
        self._lists = AccessLists()
        self._source = source
        self._target = target
        self._spool = spool
        self._observer = observer
        self._known: Known | None = None
        self._doubted: dict[
            bytes, str
        ] = {}  # by the last pass: paths of what may not be in the target as it is in the source
        self._number = 0
        self._is_remote = False  # the source's file system
        self._blocks = BlockTransfer(source, target, observer, self.log)
        spool.mkdir(mode=0o700, exist_ok=True)

    def compare_first(self) -> None:
        """For a target that holds something: what of it is as in the source, content and attributes, need not be sent. Raises
        VolferryError.
        """
        for name in OWN_TREES:
            command = delete_tree_command(self._target.directory, name.decode())
            run(self._target.helper, command, "deleting the rest of an interrupted restore")
        self._observer.phase("comparing what is there")
        now = list_source(self._source, self._spool / "first", self._observer, self._is_half)
        self._known = self._known_of_target(now)

    def _is_half(self) -> bool:
        return self._marks is None or is_half(self._source.helper, self._source.directory, self._marks)

    def run(self, *, last: bool = False) -> Sent:
        """One pass; `last` if nothing comes after it. Raises VolferryError."""
        self._number += 1
        self._observer.phase("listing")
        path = self._spool / f"listing.{self._number % 2}"
        now = list_source(self._source, path, self._observer, self._is_half)
        self._is_remote = now.names.is_remote
        if self._is_remote:
            self._check_none_is_endless(now)
        changes = changes_between(now, self._known, self._spool)
        if changes.delete:
            run_script(self._target.helper, delete_paths_script(self._target.directory, changes.delete))
        if changes.clear.stat().st_size:
            self._clear(changes)
        self._observer.phase("sending", total_bytes=changes.source_bytes, total_entries=changes.entries)
        streams = list(self._send_alone(now.names, changes.alone))
        if changes.series.stat().st_size:
            streams.append(self._send(changes.paths_in_series, now.names, links=False))
        # Last, for it has the directories above: writing there changes their times.
        streams.append(self._send(changes.paths, now.names, links=now.names.any_links))
        block_bytes, unread = self._blocks.send(changes.patch, keep=not last)
        self._doubted = dict(unread)
        for each in streams:
            self._doubted |= each.doubted
        # Whatever was not sent as it is, is sent again by the next pass.
        self._known = Known(now.path, now.trusted_seconds, self._doubted.keys())
        sent_bytes = sum(each.stream_bytes for each in streams)
        return Sent(changes.entries, len(changes.delete), sent_bytes + block_bytes)

    def _send(self, paths: Iterator[bytes], names: Names, *, links: bool) -> Stream:
        return send(
            self._source,
            self._target,
            paths,
            self._observer,
            log=self.log,
            lists=self._lists,
            widens=self._ground.squashed,
            watched=names.is_foreign,
            links=links,
        )

    def _send_alone(self, names: Names, entries: Sequence[Entry]) -> Iterator[Stream]:
        source, target = self._source, self._target
        for first, some in names_of_one(enumerate(entries), names.later):
            later = [entry for _, entry in some]
            same = names.same(source.helper, source.directory, first, later) if first else set()
            if same:
                links = [entry for entry in later if entry.path in same]
                yield send_links(target, links, first, self._observer, log=self.log)
            for entry in later:
                if entry.path not in same:
                    yield send_alone(
                        source,
                        target,
                        entry.path,
                        self._observer,
                        holes=entry.path in names.holes,
                        log=self.log,
                        lists=self._lists,
                        watched=names.is_foreign,
                    )

    def set_modes(self, source: ListingFile) -> None:
        """Of directories, but of the root, once a `check` is content, which has given the listing."""
        if self.log is not None and self._ground.squashed:
            self._ground.set_modes(self._target.helper, self._target.directory, _entries(source), self.log)

    def settle_root(self) -> None:
        """After a change in the root of the target that the source does not have."""
        # What of it could not be set is counted already.
        log = ExtractLog() if self.log is not None else None
        send(self._source, self._target, iter([b"."]), self._observer, log=log)
        if self.log is not None and not self._lists.found:
            self.log.had_no_access_lists()

    def check(self, *, checksum: bool) -> ListingFile:
        """Lists both anew, and compares. All is on the disk of the target when it returns. Returns the source's listing. Raises
        RestoreMismatch.
        """
        self._observer.phase("comparing")
        sides: list[ListingFile | BaseException] = [RuntimeError(), RuntimeError()]

        def list_side(number: int) -> None:
            try:
                place = (self._source, self._target)[number]
                if number:
                    self._sync_target()
                sides[number] = list_place(
                    place, self._spool / f"check.{number}", marked=bool(number), is_half=self._is_half
                )
            except BaseException as error:  # noqa: BLE001 -- raised below
                sides[number] = error

        _both(list_side)
        source, target = (_raised(side) for side in sides)
        self._check_all_was_read(source)
        self._compare(source, target)
        if checksum:
            self._observer.phase("comparing contents", total_entries=source.entries)
            for record, same in self._compared(source.records(), source.entries):
                if not same:
                    raise RestoreMismatch(
                        f"{printable(path_of(record)) or 'the root directory'!r} has another content or other attributes "
                        "in the target volume than in the source"
                    )
        return source

    def _compare(self, source: ListingFile, target: ListingFile) -> None:
        try:
            check_same(
                self._ground.expected(_entries(source)),
                _entries(target),
                self._observer,
                wording=MIGRATED,
                set_modes=modes_in(self._target.helper, self._target.directory),
            )
        except RestoreMismatch:
            # Of a source that did not stand still, a difference may be one of contents.
            still = self._known is not None and filecmp.cmp(self._known.path, source.path, shallow=False)
            if self.log is None or not still:
                raise
            self.differing = check_held(
                paired(self._ground.expected(_entries(source)), _entries(target)),
                self._observer,
                wording=MIGRATED,
                times_refused="time" in self.log.refused,
                set_modes=modes_in(self._target.helper, self._target.directory),
            )

    def _sync_target(self) -> None:
        run(self._target.helper, sync_command(self._target.directory), "writing the volume to the disk")

    def check_holds(self, volume: str, *, checksum: bool = False) -> None:
        """After a pass, while the source may be written to: whether the target's file system holds modes, owners and times, and with
        `checksum` attributes, which are compared then. Raises RestoreMismatch if an entry has others there, though it has not changed in the source.
        """
        known = self._known
        if known is None:
            return
        there = list_place(self._target, self._spool / "held", marked=True)
        differing = self._spool / "differing"
        if _write_pairs(differing, known, there, _not_held):
            self._check_changed(differing, known, volume, "owner, mode or time")
        if checksum:
            sides = self._compared(known.records(), there.entries, content=False)
            with differing.open("wb") as out:
                out.writelines(record + b"\0" for record, same in sides if not same)
            self._check_changed(differing, known, volume, "attributes")

    def _check_changed(self, differing: Path, known: Known, volume: str, what: str) -> None:
        """Raises RestoreMismatch if one of these records is in the source as it was."""
        if not differing.stat().st_size:
            return
        now = list_source(self._source, self._spool / "now", self._observer, self._is_half)
        for mine, record in paired_records(split_records(file_blocks(differing)), now.records()):
            if mine is not None and mine == record and path_of(mine) not in known.doubted:
                path = printable(path_of(mine)) or "the root directory"
                raise RestoreMismatch(
                    f"the file system of volume {volume} on the target cannot hold the {what} of {path!r}: nothing was stopped; choose a volume on "
                    "another one, or restore a backup there, which counts what is not as it was"
                )

    def _check_none_is_endless(self, source: ListingFile) -> None:
        """Raises CommandFailed for a file that its file system calls larger than any disk, and that is not: `tar` would fill it with zeros for years."""
        files = ((path, 1) for path, size in _files(source) if size >= ENDLESS_BYTES)
        for end in odd_ends(self._source.helper, self._source.directory, files):
            if not end.more and not end.error:
                raise CommandFailed(
                    f"{printable(end.path)!r} of the source cannot be read: its size is {end.place + 1} bytes, and it ends before"
                )

    def _check_all_was_read(self, source: ListingFile) -> None:
        """Raises RestoreMismatch if something is in the source that the last pass could not read as it is: the target has something in
        its place that looks the same.
        """
        if self._is_remote:
            files = ((path, 1) for path, _ in _files(source))
            for end in odd_ends(self._source.helper, self._source.directory, files):
                if end.more:
                    raise RestoreMismatch(f"{printable(end.path)!r} of the source {end.detail}")
        if not self._doubted:
            return
        for record in source.records():
            if (detail := self._doubted.get(path_of(record))) is not None:
                raise RestoreMismatch(
                    f"{printable(path_of(record)) or 'the root directory'!r} of the source {detail}"
                )

    def _known_of_target(self, now: ListingFile) -> Known:
        """Of what is the same, the source's record; of all else the target's, which is never equal to one of the source."""
        there = list_place(self._target, self._spool / "there", marked=True)
        candidates = self._spool / "candidates"
        count = _write_pairs(candidates, now, there, _may_be_same)
        compared = self._compared(split_records(file_blocks(candidates)), count)
        known = self._spool / "known"
        with known.open("wb") as out:
            record, same = next(compared, (None, False))
            for mine, other in paired_records(now.records(), there.records()):
                proven = record is not None and mine == record and same
                if record is not None and mine == record:
                    record, same = next(compared, (None, False))
                if other is not None:
                    out.write((mine if proven and mine is not None else _made_unequal(other)) + b"\0")
        return Known(known, now.trusted_seconds)

    def _compared(
        self, records: Iterator[bytes], total: int, *, content: bool = True
    ) -> Iterator[tuple[bytes, bool]]:
        return compared(
            self._source,
            self._target,
            records,
            self._spool / "compared",
            self._observer,
            total=total,
            content=content,
        )

    def _clear(self, changes: Changes) -> None:
        lines = Lines()
        process = self._target.helper.start(
            clear_command(self._target.directory), stdin=True, on_stderr=lines.add
        )
        with feeding(process, split_records(file_blocks(changes.clear))):
            while process.read(_READ_BYTES):
                pass
        checked(process.wait(), lines, "writing the volume")


def _files(listing: ListingFile) -> Iterator[tuple[bytes, int]]:
    """Paths and sizes."""
    return ((entry.path, entry.size) for entry in _entries(listing) if entry.kind == b"f")


def _entries(listing: ListingFile) -> Iterator[Entry]:
    return (parse_record(record) for record in listing.records())


def _write_pairs(
    path: Path, mine: ListingFile | Known, others: ListingFile, wanted: Callable[[bytes, bytes], bool]
) -> int:
    """Writes the records of what both have and `wanted` says, of the first; returns their number."""
    count = 0
    with path.open("wb") as out:
        for record, other in paired_records(mine.records(), others.records()):
            if record is not None and other is not None and wanted(record, other):
                out.write(record + b"\0")
                count += 1
    return count


def _may_be_same(mine: bytes, other: bytes) -> bool:
    """Whether it is worth a look at the content. Names of one inode are sent again: all of them, or none."""
    one, two = parse_record(mine).stat, parse_record(other).stat
    if one.kind != b"d" and (one.links != b"1" or two.links != b"1"):
        return False
    same_size = one.kind != b"f" or one.size == two.size
    fields = ("kind", "mode", "uid", "gid", "mtime", "target")
    return same_size and all(getattr(one, each) == getattr(two, each) for each in fields)


def _not_held(mine: bytes, other: bytes) -> bool:
    """Whether what is as it was sent has another mode, owner or time. A directory's time is set anew by what goes on in it, and a bit
    that it has inherited is taken off at the end.
    """
    one, two = parse_record(mine).stat, parse_record(other).stat
    if one.kind != two.kind or (one.kind == b"f" and one.size != two.size):
        return False
    if has_inherited_bit(one, two):
        two = two._replace(mode=one.mode)
    fields = ("mode", "uid", "gid") if one.kind == b"d" else ("mode", "uid", "gid", "mtime")
    return any(getattr(one, each) != getattr(two, each) for each in fields)


def _made_unequal(record: bytes) -> bytes:
    """With no change time that any listing has."""
    entry = parse_record(record)
    return entry.path + b"//" + b" ".join(entry.stat._replace(ctime=b"-1.0"))


def _both(work: Callable[[int], None]) -> None:
    """0 and 1 at the same time."""
    thread = threading.Thread(target=work, args=(1,), daemon=True, name="other side")
    with held_back():
        thread.start()
    work(0)
    thread.join()


def _raised(side: ListingFile | BaseException) -> ListingFile:
    if isinstance(side, BaseException):
        raise side
    return side
