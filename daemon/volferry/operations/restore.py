"""Restores a backup into a volume, and compares what is there afterwards with what was backed up."""

from __future__ import annotations

import time
from contextlib import contextmanager
from datetime import UTC, datetime
from io import BytesIO
from typing import TYPE_CHECKING

from volferry.archive.commands import (
    OWN_TREES,
    RESTORE_MARK,
    empty_command,
    extract_command,
    flush_command,
    left_command,
    list_command,
    mark_size_command,
    marked_command,
    probe_command,
    read_mark_command,
    sync_command,
    unmark_command,
)
from volferry.archive.extractlog import AccessLists, ExtractLog
from volferry.archive.listing import Entry, read_listing
from volferry.archive.made_members import file_member
from volferry.archive.restore_mark import KnownMarks, text_of
from volferry.archive.squash_scripts import mark_command
from volferry.archive.tarstream import END_OF_ARCHIVE, TarReader
from volferry.archive.widened import widened_stream
from volferry.errors import CommandFailed
from volferry.model import RestoreStats
from volferry.observer import Silent
from volferry.operations.broken_off import has_names
from volferry.operations.comparison import check_restored
from volferry.operations.directory_modes import modes_in
from volferry.operations.squashed import USUAL_GROUND, Ground, look
from volferry.operations.streams import Lines, checked, counted, cut_off, give, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from volferry.engine.helper import Helper
    from volferry.observer import Observer
    from volferry.operations.backup_reader import BackupReader
    from volferry.restore_record import Left

NO_MARKS = KnownMarks()
_READ_BYTES = 1 << 20
_MOST_LINES = 20
_SYNCING = "writing the volume to the disk"
_LONGEST_MARK = 64 << 10
_LOOKED_BYTES = 16 << 20
_OWN_NAMES = frozenset({RESTORE_MARK.encode(), *OWN_TREES})


def sync(helper: Helper, volume: str) -> None:
    """All of the volume is on the disk when it returns."""
    run(helper, sync_command(helper.directory(volume)), _SYNCING)


@contextmanager
def flushing(helper: Helper, volume: str) -> Iterator[Callable[[], None]]:
    """Brings what others write to the volume to the disk, beside them. They call the function that it gives once they have written all: the last of
    it goes to the disk beside their further work. Raises CommandFailed at the end if the kernel could not write something, which it says but once.
    """
    lines = Lines()
    process = helper.start(flush_command(helper.directory(volume)), stdin=True, on_stderr=lines.add)
    try:
        process.write(b"")  # it begins once its stdin has been opened
        yield process.close_stdin
    except BaseException:
        cut_off(process)
        raise
    give(process, ())
    checked(process.wait(), lines, _SYNCING)


def is_empty(helper: Helper, volume: str) -> bool:
    """Whether nothing is in the volume. Raises CommandFailed if its names cannot be read."""
    directory = helper.directory(volume)
    return not run(helper, probe_command(directory), "looking into the volume") and not has_names(
        helper, directory
    )


def is_marked(helper: Helper, volume: str) -> bool:
    """Whether a restore into the volume began and did not end."""
    return bool(run(helper, marked_command(helper.directory(volume)), "looking into the volume"))


def what_is_left(helper: Helper, volume: str, marks: KnownMarks | None = None) -> Left:
    """Of restores into the volume that did not end. Without `marks`, whatever looks like a mark is one."""
    directory = helper.directory(volume)
    found = run(helper, left_command(directory), "looking into the volume")
    if b"x" in found and (marks is None or is_half(helper, directory, marks)):
        return "half"
    return "beside" if b"n" in found else "nothing"


def is_half(helper: Helper, directory: str, marks: KnownMarks) -> bool:
    """Whether a volume holds half of a backup that has a mark, or a directory that comes with one."""
    try:
        return marks.is_ours(content_if_marked(helper, directory))
    except CommandFailed:  # a mark that cannot be read may be ours
        return True


def begin(helper: Helper, volume: str, text: str, store_id: str = "", marks: KnownMarks = NO_MARKS) -> Ground:
    """Makes the mark (`mark`), and finds out by it how the volume is written: it costs nothing where root may do all."""
    directory = helper.directory(volume)
    try:
        if mark(helper, volume, text, store_id, marks):
            return Ground()
    except CommandFailed:
        ground = look(helper, directory)
        if not ground.root_mode:
            raise
        try:
            mark(helper, volume, text, store_id, marks)
        except BaseException:
            ground.give_back(helper, directory)
            raise
        return ground
    return look(helper, directory)


def mark(helper: Helper, volume: str, text: str, store_id: str = "", marks: KnownMarks = NO_MARKS) -> bool:
    """Sealed, if it is of a store, as one of the machine that has `marks`. Must come before the first change to the volume. `tar` follows no link that has the mark's name, but replaces it: whoever writes to
    the volume would otherwise choose what the mark is written into. Returns whether it is root's.
    """
    log, lists = ExtractLog(), AccessLists()
    content = marks.of(volume, store_id).sealed(text, store_id, datetime.now(UTC)) if store_id else text
    process = helper.start(mark_command(helper.directory(volume)), stdin=True, on_stderr=log.line)
    try:
        process.write(file_member(RESTORE_MARK.encode(), content.encode()) + END_OF_ARCHIVE)
        process.close_stdin()
    except BrokenPipeError:
        pass  # its exit status says why
    said = b"".join(iter(lambda: process.read(_READ_BYTES), b""))
    check_extracted("the volume", process.wait(), log, lists, Silent())
    return not said and "owner" not in log.refused


def mark_text(helper: Helper, volume: str) -> str:
    """The text of the mark; empty if it is no file. The volume must have one."""
    return text_of(_mark_content(helper, helper.directory(volume)))


def content_if_marked(helper: Helper, directory: str) -> str | None:
    """The content of the mark, with its seal; empty if it is no file, None if there is none. Raises CommandFailed if it cannot be read."""
    if not run(helper, marked_command(directory), "looking into the volume"):
        return None
    return _mark_content(helper, directory)


def _mark_content(helper: Helper, directory: str) -> str:
    size = run(helper, mark_size_command(directory), "looking into the volume")
    if not size or int(size) > _LONGEST_MARK:  # somebody else's may be of any size
        return ""
    lines = Lines()
    process = helper.start(read_mark_command(directory), stdin=True, on_stderr=lines.add, bulk="stdout")
    process.write(RESTORE_MARK.encode() + b"\0")
    process.close_stdin()
    reader = TarReader(process.read_into)
    found = b""
    for member in reader:
        for piece in reader.payload():
            if len(found) < _LONGEST_MARK:
                found += bytes(piece[:_LONGEST_MARK])
        found = found[: member.size]
    checked(process.wait(), lines, "looking into the volume")
    return found.decode("utf-8", "replace")


def unmark(helper: Helper, volume: str) -> None:
    """Must come after the last change to the volume."""
    run(helper, unmark_command(helper.directory(volume)), "writing the volume")


def prove(stream: Iterator[bytes], total_bytes: int, observer: Observer) -> None:
    """Reads all that a restore is going to write, and checks each digest on the way: before anything is deleted in its favour. Raises
    DamagedObject, StoreError.
    """
    observer.phase("checking the backup", total_bytes=total_bytes)
    for _ in counted(stream, observer):
        pass


def restore_backup(
    backup: BackupReader,
    volume: str,
    *,
    helper: Helper,
    observer: Observer,
    empty_first: bool,
    check_free: Callable[[], None] = lambda: None,
    marks: KnownMarks = NO_MARKS,
) -> RestoreStats:
    """Puts all of `backup` into `volume`, through a helper that may write.

    The volume must be empty, or is emptied first. Raises VolferryError; the volume then holds anything.
    Raises RestoreMismatch if what is there afterwards is not what was backed up. `check_free` is called when all of it is on the disk:
    if it raises, the volume keeps the mark of a restore that did not end.
    """
    started = time.monotonic()
    directory = helper.directory(volume)
    ground = begin(helper, volume, str(backup.ref), backup.store_id, marks)
    with ground.given_back(helper, directory):
        if empty_first:
            observer.phase("emptying the volume")
            run(helper, empty_command(directory), "emptying the volume")
        counts = backup.manifest.volume_counts
        observer.phase("restoring", total_bytes=counts.tar_bytes)
        with flushing(helper, volume) as all_written:
            root, log = extract(backup.volume_stream(), directory, ground, helper=helper, observer=observer)
            all_written()
            observer.phase("comparing", total_entries=counts.entries)
            differing = check_restored(
                ground.expected(backup.volume_entries()),
                entries_below(helper, directory),
                observer,
                times_refused="time" in log.refused,
                set_modes=modes_in(helper, directory),
            )
            ground.set_modes(helper, directory, backup.volume_entries(), log)
        check_free()
        unmark(helper, volume)
    # Taking the mark away has changed the time of the root.
    extract(iter([root + END_OF_ARCHIVE]), directory, helper=helper, observer=Silent())
    return stats_of(backup, volume, started, warnings_of(log, differing, observer))


def stats_of(backup: BackupReader, volume: str, started: float, warnings: tuple[str, ...]) -> RestoreStats:
    """Of a restore of all of a backup that is done; `started` is of the monotonic clock."""
    return RestoreStats(
        ref=backup.ref,
        volume=volume,
        entries=backup.manifest.volume_counts.entries,
        source_bytes=backup.manifest.volume_counts.source_bytes,
        fetched_bytes=backup.fetched_bytes,
        seconds=round(time.monotonic() - started, 3),
        warnings=warnings,
    )


def warnings_of(log: ExtractLog, differing: Mapping[str, str], observer: Observer) -> tuple[str, ...]:
    """What could not be restored as it was, a line each, which the observer gets as well."""
    refused = [
        f"{kind} of {count} {'entry' if count == 1 else 'entries'} could not be set; the first: {first}"
        for kind, (count, first) in log.refused.items()
        if kind not in differing  # which says more
    ]
    lines = [*differing.values(), *refused]
    for line in lines:
        observer.note(line)
    return (*lines, *log.others)


def extract(
    pieces: Iterator[bytes],
    directory: str,
    ground: Ground = USUAL_GROUND,
    *,
    helper: Helper,
    observer: Observer,
) -> tuple[bytes, ExtractLog]:
    """Puts a tar stream into a directory of the helper; whoever writes much has it `flushing`. Returns the header of its first member, and what tar had to say: owners, modes
    and times that the file system does not take are no failure. On another `ground` than the usual one, directories lack their own modes.

    Raises CommandFailed if `tar` could not write all of it.
    """
    log, lists = ExtractLog(), AccessLists()
    first = b""

    def looked_at() -> Iterator[bytes]:
        nonlocal first
        done = 0
        for piece in counted(pieces, observer):
            first = first or _first_member(piece)
            # Where there are no lists, the first entries are complained about.
            if done < _LOOKED_BYTES or "access list" in log.refused:
                lists.look(piece)
            else:
                lists.found = True  # for all that is known
            yield piece
            done += len(piece)

    process = helper.start(
        extract_command(directory, flushed=False), stdin=True, on_stderr=log.line, bulk="stdin"
    )
    give(process, widened_stream(looked_at()) if ground.squashed else looked_at())
    check_extracted("the volume", process.wait(), log, lists, observer)
    return first, log


def check_extracted(where: str, status: int, log: ExtractLog, lists: AccessLists, observer: Observer) -> None:
    """After a `tar` that has written into `where`: raises CommandFailed if it could not write all of the stream."""
    if not log.succeeded(status):
        raise CommandFailed(log.failure(where, status))
    if not lists.found:
        log.had_no_access_lists()
    for line in log.others:
        observer.note(line)


def _first_member(piece: bytes) -> bytes:
    return next(iter(TarReader(BytesIO(piece).readinto))).header


def _keep(lines: list[str], line: bytes) -> None:
    if line and len(lines) < _MOST_LINES:
        lines.append(line.decode("utf-8", "backslashreplace"))


def entries_below(helper: Helper, directory: str) -> Iterator[Entry]:
    """The entries of a directory of the helper, in walk order, without what a restore itself puts there. Raises CommandFailed."""
    lines: list[str] = []
    process = helper.start(
        list_command(directory, helper.spool), on_stderr=lambda line: _keep(lines, line), bulk="stdout"
    )
    blocks = iter(lambda: process.read(_READ_BYTES), b"")
    for entry in read_listing(blocks, may_have_missed=False):
        if entry.path not in _OWN_NAMES:
            yield entry
    if status := process.wait():
        raise CommandFailed(f"listing the volume failed: {lines[0] if lines else f'status {status}'}")
