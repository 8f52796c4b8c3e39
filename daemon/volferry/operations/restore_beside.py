"""Restores a backup in place of what a volume holds: beside it first, so that whatever fails costs nothing of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volferry.archive.commands import HALF_TREE, NEW_TREE, OLD_TREE
from volferry.archive.exchange_scripts import (
    TAKEN_BACK,
    delete_tree_command,
    exchange_command,
    make_new_tree_command,
    set_time_command,
    settle_command,
)
from volferry.archive.tarstream import END_OF_ARCHIVE
from volferry.errors import CommandFailed
from volferry.model import printable
from volferry.observer import Silent
from volferry.operations.comparison import check_restored
from volferry.operations.directory_modes import modes_in
from volferry.operations.restore import (
    NO_MARKS,
    entries_below,
    extract,
    flushing,
    is_half,
    mark,
    stats_of,
    sync,
    unmark,
    warnings_of,
)
from volferry.operations.room import file_system_of
from volferry.operations.squashed import made_ground
from volferry.operations.streams import run

if TYPE_CHECKING:
    from collections.abc import Callable

    from volferry.archive.extractlog import ExtractLog
    from volferry.archive.manifest import CountsPart
    from volferry.archive.restore_mark import KnownMarks
    from volferry.engine.helper import Helper
    from volferry.model import RestoreStats
    from volferry.observer import Observer
    from volferry.operations.backup_reader import BackupReader
    from volferry.operations.squashed import Ground

_READ_BYTES = 1 << 20
# A file takes whole blocks, and its inode and name some bytes more.
_ENTRY_BYTES = 5 << 10
# What stays free of the file system, on which other volumes live as well.
_SPARE_PART = 0.05
_MOST_SPARE_BYTES = 10 << 30
_SPARE_ENTRIES = 1000


@dataclass(frozen=True, slots=True)
class Room:
    """For a backup beside what a volume holds."""

    enough: bool
    why_not: str = ""  # empty if it is a matter of bytes
    needed_bytes: int = 0
    free_bytes: int = 0  # that may be used: some stay free


def room_beside(helper: Helper, volume: str, counts: CountsPart) -> Room:
    """For a backup with these counts. If that cannot be found out, there is none."""
    found = file_system_of(helper, volume)
    if found is None:
        return Room(enough=False, why_not="the helper's image lacks volferry's Python")
    if 0 <= found.free_entries < counts.entries + _SPARE_ENTRIES:
        return Room(enough=False, why_not=f"the file system has {found.free_entries} entries left")
    free_bytes = found.free_bytes - int(min(found.total_bytes * _SPARE_PART, _MOST_SPARE_BYTES))
    needed = counts.tar_bytes + counts.entries * _ENTRY_BYTES
    return Room(free_bytes >= needed, needed_bytes=needed, free_bytes=max(free_bytes, 0))


def settle(helper: Helper, volume: str) -> None:
    """Completes, or takes back, an exchange that was killed, and deletes what else a restore beside has left but what the volume held before
    that. Then one of the two contents is there as a whole, whatever becomes of the store. Raises CommandFailed.
    """
    directory = helper.directory(volume)
    run(helper, settle_command(directory), "ending the exchange of an interrupted restore")
    for name in (HALF_TREE, NEW_TREE):
        run(helper, delete_tree_command(directory, name), "deleting the rest of an earlier restore")


def make_room(helper: Helper, volume: str, counts: CountsPart) -> Room:
    """As `room_beside`, after `settle`. Where there is too little, what the volume held before an exchange that was killed makes room: what
    is in its place is whole. Raises CommandFailed.
    """
    settle(helper, volume)
    room = room_beside(helper, volume, counts)
    if not room.enough and not room.why_not:
        delete_old = delete_tree_command(helper.directory(volume), OLD_TREE)
        run(helper, delete_old, "deleting the rest of an earlier restore")
        room = room_beside(helper, volume, counts)
    return room


def restore_beside(
    backup: BackupReader,
    volume: str,
    *,
    helper: Helper,
    observer: Observer,
    check_free: Callable[[], None] = lambda: None,
    changes: Callable[[], None] = lambda: None,
    marks: KnownMarks = NO_MARKS,
) -> RestoreStats:
    """Puts all of `backup` in place of what is in `volume`, through a helper that may write.

    It is restored into a directory of the volume, compared, and only then exchanged for the rest, by renaming. Raises VolferryError;
    unless that happens after the exchange, the volume holds what it held. Raises RestoreMismatch if what is there is not what was backed
    up. `check_free` is called before the exchange and at the end, as in `restore_backup`; `changes` before the volume
    no longer is as it was.
    """
    started = time.monotonic()
    directory = helper.directory(volume)
    settle(helper, volume)
    known = marks.of(volume, backup.store_id)
    was_half = is_half(helper, directory, known)
    delete_old = delete_tree_command(directory, OLD_TREE)
    made = run(helper, make_new_tree_command(directory), "making a directory in the volume").split()
    time_before, ground = int(made[0]), made_ground(made[1:])
    exchanged = False
    try:
        restored = _restore_new_tree(backup, volume, ground, helper, observer)
        check_free()
        observer.phase("replacing what the volume held")
        run(helper, delete_old, "deleting the rest of an earlier restore")
        changes()
        mark(helper, volume, str(backup.ref), backup.store_id, marks)
        sync(helper, volume)  # no half of an exchange is on the disk before the mark is
        exchanged = True  # for all that is known, once it has begun
        if why_not := _exchange(helper, directory):
            exchanged = False
            raise CommandFailed(f"replacing what the volume held failed: {why_not}")
        _set_root(ground.root(restored.root), directory, helper)
        # Whoever else writes the volume, as another client of a share, has had time for that.
        _compare(backup, directory, ground, restored.log, helper, observer)
        ground.set_modes(helper, directory, backup.volume_entries(), restored.log)
        sync(helper, volume)  # nor is any of the old content gone before all of the exchange is
        run(helper, delete_old, "deleting what the volume held")
        sync(helper, volume)
        check_free()
    except BaseException:
        if exchanged:
            observer.note("it may not hold the whole backup: run the restore again, with --replace")
        else:
            _give_up(helper, volume, ground, time_before, observer, known=None if was_half else known)
        raise
    unmark(helper, volume)
    _set_root(restored.root, directory, helper)  # its time is another one without the mark
    return stats_of(backup, volume, started, warnings_of(restored.log, restored.differing, observer))


@dataclass(frozen=True, slots=True)
class _Restored:
    root: bytes  # the header of the root directory's member
    log: ExtractLog
    differing: dict[str, str]  # from the backup, as `check_restored` says


def _restore_new_tree(
    backup: BackupReader, volume: str, ground: Ground, helper: Helper, observer: Observer
) -> _Restored:
    """All of it is on the disk then. Raises RestoreMismatch."""
    new = f"{helper.directory(volume)}/{NEW_TREE}"
    observer.phase("restoring", total_bytes=backup.manifest.volume_counts.tar_bytes)
    with flushing(helper, volume) as all_written:
        root, log = extract(backup.volume_stream(), new, ground, helper=helper, observer=observer)
        all_written()
        differing = _compare(backup, new, ground, log, helper, observer)
    return _Restored(root, log, differing)


def _compare(
    backup: BackupReader, directory: str, ground: Ground, log: ExtractLog, helper: Helper, observer: Observer
) -> dict[str, str]:
    """As `check_restored`."""
    observer.phase("comparing", total_entries=backup.manifest.volume_counts.entries)
    return check_restored(
        ground.expected(backup.volume_entries()),
        entries_below(helper, directory),
        observer,
        times_refused="time" in log.refused,
        set_modes=modes_in(helper, directory),
    )


def _set_root(root: bytes, directory: str, helper: Helper) -> None:
    extract(iter([root + END_OF_ARCHIVE]), directory, helper=helper, observer=Silent())


def _exchange(helper: Helper, directory: str) -> str:
    """Gives the reason if it could not be done, and all is where it was. Raises CommandFailed if not even that is certain."""
    lines: list[bytes] = []
    process = helper.start(exchange_command(directory), on_stderr=lines.append)
    while process.read(_READ_BYTES):
        pass
    status = process.wait()
    why = printable(lines[0]) if lines else f"status {status}"
    if status not in {0, TAKEN_BACK}:
        raise CommandFailed(f"replacing what the volume held failed: {why}")
    return why if status else ""


def _give_up(
    helper: Helper,
    volume: str,
    ground: Ground,
    time_before: int,
    observer: Observer,
    *,
    known: KnownMarks | None,
) -> None:
    """Nothing has been changed but that the new tree is there, and perhaps the mark; no other than our own is taken away by `known`."""
    directory = helper.directory(volume)
    try:
        run(helper, delete_tree_command(directory, NEW_TREE), "deleting what was restored")
        if known is not None and is_half(helper, directory, known):
            unmark(helper, volume)
        run(helper, set_time_command(directory, time_before), "writing the volume")
        ground.give_back(helper, directory)
    except BaseException:
        observer.note(
            f"nothing of what it holds was changed, but {NEW_TREE} is in it, which the next restore deletes"
        )
        raise
    observer.note("nothing of what it holds was changed")
