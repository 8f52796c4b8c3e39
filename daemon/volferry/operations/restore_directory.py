"""Restores a backup, or some paths of it, into a directory of the machine that volferry runs on."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING

from volferry.archive.commands import sync_command
from volferry.archive.extractlog import AccessLists, ExtractLog
from volferry.archive.listing import walk_key
from volferry.archive.selection import Selection
from volferry.archive.widened import is_narrow, widened_stream
from volferry.errors import CommandFailed, VolferryError, reason
from volferry.operations.comparison import RESTORED, check_held
from volferry.operations.directory_check import pairs_in
from volferry.operations.directory_modes import have_modes, modes_stream, settle_made
from volferry.operations.excerpt import BackupExcerpt
from volferry.operations.local_tar import LocalTar
from volferry.operations.opened_directories import is_squashed, open_below, opened_below
from volferry.operations.restore import check_extracted, warnings_of
from volferry.operations.restore_paths import places, plan
from volferry.operations.room import Wanted, check_directory_room
from volferry.operations.squashed import Ground, check_modes
from volferry.operations.streams import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from volferry.archive.listing import Entry
    from volferry.observer import Observer
    from volferry.operations.backup_reader import BackupReader
    from volferry.operations.comparison import SetModes
    from volferry.operations.opened_directories import OpenedDirectories

_KINDS = {0o040000: b"d", 0o100000: b"f", 0o120000: b"l"}
_BLOCK_BYTES = 512
_TYPE_BITS = 0o170000


@dataclass(frozen=True, slots=True)
class Restored:
    entries: int
    source_bytes: int
    warnings: tuple[str, ...]  # what could not be restored as it was


def restore_into_directory(
    backup: BackupReader,
    selection: Selection | None,
    directory: Path,
    *,
    observer: Observer,
    replace: bool,
    looks_for_room: bool = True,
) -> Restored:
    """Puts the chosen paths, or all of the backup, into `directory`, which is made if need be.

    A directory that was there keeps its owner, mode and all that is not replaced; a new one becomes the volume's root
    directory where all of the backup is restored. Raises PathExists before anything is changed, and so NoRoom if it cannot fit even
    when what it replaces is gone (unless not even `looks_for_room`). Raises RestoreMismatch if it does not
    hold what was backed up; owners, modes and times that the file system cannot hold are warnings. All of it is on the disk then.
    """
    with opened_below(directory) as opened:
        return _restore(
            backup,
            selection,
            directory,
            opened,
            observer=observer,
            replace=replace,
            looks_for_room=looks_for_room,
        )


def _restore(
    backup: BackupReader,
    selection: Selection | None,
    directory: Path,
    opened: OpenedDirectories,
    *,
    observer: Observer,
    replace: bool,
    looks_for_room: bool,
) -> Restored:
    tar = LocalTar(directory)
    whole = selection is None or selection.everything
    if selection is None or selection.everything:
        selection = Selection(
            entry.path for entry in backup.volume_entries() if entry.path and b"/" not in entry.path
        )
    excerpt = BackupExcerpt(backup, selection)
    try:
        new = not directory.exists()
        there = {} if new else _kinds_reached(directory, selection, opened)
        doomed, parents = plan(selection, there, replace=replace, where=str(directory))
        if looks_for_room:
            wanted = Wanted(backup, None if whole else selection, excerpt.source_bytes)
            check_directory_room(wanted, directory, freed=lambda: _used_bytes(directory, doomed))
        observer.phase("restoring", total_bytes=excerpt.source_bytes)
        directory.mkdir(parents=True, exist_ok=True)
        ground = _ground(directory, () if new else _above(selection), opened)
        for path in doomed:
            _delete(directory, path, opens=ground.squashed)
    except OSError as error:
        raise VolferryError(f"cannot write to {directory}: {reason(error)}") from error
    pieces = backup.volume_stream() if whole and new else excerpt.tar_stream(parents - {b""})
    count = excerpt.count + (whole and new)
    try:
        log = _extract(tar, widened_stream(pieces) if ground.squashed else pieces, directory, observer)
        if os.geteuid() == 0 and not tar.confined:
            observer.note(
                f"tar could not be kept inside {directory} (that takes Linux 5.5 and the capability SYS_CHROOT): restore to where nobody else writes"
            )
        observer.phase("comparing", total_entries=count)
        expected = backup.volume_entries() if whole and new else excerpt.entries()
        set_modes = _modes_in(tar)
        differing = check_held(
            pairs_in(directory, ground.expected(expected), owners=os.geteuid() == 0),
            observer,
            wording=RESTORED,
            times_refused="time" in log.refused,
            set_modes=set_modes,
        )
        made = parents - {b""}
        above = [entry for entry in backup.entries() if entry.path in made] if made else []
        settle_made(pairs_in(directory, ground.expected(above), owners=False), set_modes)
        expected = backup.volume_entries() if whole and new else chain(above, excerpt.entries())
        if ground.squashed:
            _set_modes(tar, (entry for entry in expected if entry.path), log)
        observer.phase("writing to the disk")
        _sync(directory)
        if ground.squashed and whole and new:  # it may not be opened afterwards
            _set_modes(tar, islice(backup.volume_entries(), 1), log)
    except OSError as error:
        raise VolferryError(f"cannot read {directory}: {reason(error)}") from error
    except BaseException:
        _tell_what_is_left(directory, observer, new=new, whole=whole)
        raise
    return Restored(count, excerpt.source_bytes, warnings_of(log, differing, observer))


def _above(selection: Selection) -> list[bytes]:
    return sorted(selection.parents, key=walk_key)


def _kinds_reached(directory: Path, selection: Selection, opened: OpenedDirectories) -> dict[bytes, bytes]:
    """As `_kinds`, also below directories that only another than root's rights hide from it. Raises OSError."""
    try:
        return _kinds(directory, places(selection))
    except PermissionError:
        if os.geteuid() != 0 or not _ground(directory, _above(selection), opened).squashed:
            raise
        return _kinds(directory, places(selection))


def _ground(directory: Path, above: Sequence[bytes], opened: OpenedDirectories) -> Ground:
    """Finds out whether the owner's rights bind volferry here: they do where it is not root, or the file system treats root as any user. Raises OSError."""
    if os.geteuid() != 0:
        return Ground(squashed=True)
    try:
        squashed = is_squashed(directory)
    except PermissionError:
        opened.open([b""])
        squashed = is_squashed(directory)
    if squashed:
        opened.open([b"", *above])
    return Ground(squashed=squashed)


def _set_modes(tar: LocalTar, entries: Iterable[Entry], log: ExtractLog) -> None:
    """As `Ground.set_modes`, of the root as well."""
    said = ExtractLog()
    status = tar.extract(modes_stream(filter(is_narrow, entries)), said, attributes=False)
    check_modes(said, status, log)


def _tell_what_is_left(directory: Path, observer: Observer, *, new: bool, whole: bool) -> None:
    try:
        if new:
            directory.rmdir()  # nothing had come yet
            return
    except OSError:
        pass
    what = "all of the backup" if whole else "all of the chosen paths"
    observer.note(
        f"{directory} may not hold {what}, and files there may be empty or cut off: run the restore again, with --replace"
    )


def _kinds(directory: Path, paths: list[bytes]) -> dict[bytes, bytes]:
    """The kinds of those that are there, by path; no symlink is followed, since what is one is in the way."""
    found: dict[bytes, bytes] = {}
    for path in paths:
        parent = path.rpartition(b"/")[0]
        if parent and found.get(parent) != b"d":
            continue
        try:
            mode = (directory / os.fsdecode(path)).lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        found[path] = _KINDS.get(mode & _TYPE_BITS, b"?")
    return found


def _used_bytes(directory: Path, paths: list[bytes]) -> int:
    """On the disk, by these paths and all below them."""
    total = 0
    for path in paths:
        place = directory / os.fsdecode(path)
        for each in (place, *(place.rglob("*") if place.is_dir() and not place.is_symlink() else ())):
            try:
                total += each.lstat().st_blocks * _BLOCK_BYTES
            except FileNotFoundError:
                continue
    return total


def _delete(directory: Path, path: bytes, *, opens: bool = False) -> None:
    """Deletes `path` with all below it, whose directories it `opens` for their owner first, by descriptors that follow no link: whoever exchanges one of the directories above for a link
    meanwhile makes it fail, and leads it nowhere.
    """
    *above, name = path.split(b"/")
    place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in above:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
            os.close(place)
            place = inner
        if stat.S_ISDIR(os.stat(name, dir_fd=place, follow_symlinks=False).st_mode):
            if opens:
                open_below(name, place)
            shutil.rmtree(os.fsdecode(name), dir_fd=place)
        else:
            os.unlink(name, dir_fd=place)
    finally:
        os.close(place)


def _modes_in(tar: LocalTar) -> SetModes:
    """As `modes_in`, of a directory of this machine."""

    def set_modes(entries: Sequence[Entry]) -> bool:
        log = ExtractLog()
        return have_modes(log, tar.extract(modes_stream(entries), log, attributes=False))

    return set_modes


def _extract(tar: LocalTar, pieces: Iterator[bytes], directory: Path, observer: Observer) -> ExtractLog:
    """Owners, modes and times that the file system does not take are no failure. Raises CommandFailed with tar's own words."""
    log, lists = ExtractLog(), AccessLists()

    def looked_at() -> Iterator[bytes]:
        for piece in counted(pieces, observer):
            lists.look(piece)
            yield piece

    check_extracted(str(directory), tar.extract(looked_at(), log), log, lists, observer)
    return log


def _sync(directory: Path) -> None:
    """All that was written is on the disk then. Raises CommandFailed where the kernel could not write some of it."""
    try:
        done = subprocess.run(sync_command(str(directory)), capture_output=True, text=True, check=False)
    except FileNotFoundError:  # a machine without coreutils: nothing says what could not be written
        os.sync()
        return
    if done.returncode:
        raise CommandFailed(
            f"{directory}: the kernel could not write all of it to the disk: {done.stderr.strip()}: restore it again"
        )
