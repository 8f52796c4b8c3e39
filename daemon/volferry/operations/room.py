"""Whether a restore can fit at all where it is to go: what is deleted in its favour must not be deleted for nothing."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volferry.archive.commands import usage_command
from volferry.archive.listing import split_records
from volferry.archive.tree_scripts import room_command
from volferry.errors import CommandFailed, NoRoom
from volferry.model import size_text
from volferry.operations.streams import run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from volferry.archive.selection import Selection
    from volferry.engine.helper import Helper
    from volferry.operations.backup_reader import BackupReader

_BLOCK_BYTES = 512  # of find's %b


@dataclass(frozen=True, slots=True)
class FileSystem:
    """That of a volume or directory."""

    free_bytes: int  # for anybody
    free_entries: int  # -1: any number
    total_bytes: int
    all_free_bytes: int  # with what is kept for root, as whom the helper writes


@dataclass(frozen=True, slots=True)
class Wanted:
    """The entries to restore: all of a backup, or some paths."""

    backup: BackupReader
    selection: Selection | None
    most_bytes: int  # it has no more contents than that

    @property
    def least_bytes(self) -> int:
        """Of contents, without holes and with each inode once: what it takes on any file system that does not compress."""
        raw: defaultdict[int, int] = defaultdict(int)
        for location in self.backup.locations():
            raw[location.group] += location.raw_bytes
        total = 0
        seen: set[bytes] = set()
        for number, entries in self.backup.groups():
            size = 0
            for entry in entries:
                if entry.kind != b"f" or (self.selection and not self.selection.covers(entry.path)):
                    continue
                stat = entry.stat
                if stat.links != b"1":
                    if stat.inode in seen:
                        continue
                    seen.add(stat.inode)
                size += entry.size
            total += min(size, raw[number])
        return total


def file_system_of(helper: Helper, volume: str) -> FileSystem | None:
    """None if it cannot be found out: the helper's image lacks volferry's Python."""
    try:
        found = run(helper, room_command(helper.directory(volume)), "looking for room")
        return FileSystem(*map(int, found.split()))
    except (CommandFailed, ValueError, TypeError):
        return None


def disk_usage(helper: Helper, directory: str) -> tuple[int, int]:
    """Entries of a directory of the helper, and bytes on the disk: each inode once."""
    process = helper.start(usage_command(directory), on_stderr=lambda _: None, bulk="stdout")
    entries = used = 0
    seen: set[bytes] = set()
    for record in split_records(iter(lambda: process.read(1 << 20), b"")):
        blocks, links, kind, inode = record.split(b" ")
        entries += 1
        if kind != b"d" and links != b"1":
            if inode in seen:
                continue
            seen.add(inode)
        used += int(blocks) * _BLOCK_BYTES
    process.wait()  # what vanishes meanwhile makes no difference here
    return entries, used


def check_volume_room(wanted: Wanted, volume: str, *, helper: Helper, freed: Callable[[], int]) -> None:
    """`freed`: the bytes that are deleted first. Raises NoRoom if it is certain that `wanted` does not fit into the volume then."""
    found = file_system_of(helper, volume)
    if found is not None and found.total_bytes:  # some behind FUSE say nothing
        _check(wanted, f"volume {volume}", found.all_free_bytes, found.total_bytes, freed)


def check_directory_room(wanted: Wanted, directory: Path, *, freed: Callable[[], int]) -> None:
    """As `check_volume_room`, for a directory of this machine, which need not be there. Raises OSError."""
    there = next(each for each in (directory, *directory.parents) if each.exists())
    found = os.statvfs(there)
    free = found.f_bfree if os.geteuid() == 0 else found.f_bavail
    if found.f_blocks:
        _check(wanted, str(directory), free * found.f_frsize, found.f_blocks * found.f_frsize, freed)


def _check(wanted: Wanted, where: str, free: int, total: int, freed: Callable[[], int]) -> None:
    if wanted.most_bytes <= free or (needed := wanted.least_bytes) <= free:
        return
    room = min(free + freed(), total)
    if needed > room:
        need = "the backup needs" if wanted.selection is None else "the chosen paths need"
        raise NoRoom(
            f"{where} has room for {size_text(room)}, {need} {size_text(needed)}: nothing was changed; --trust restores all the same, "
            "as onto a file system that compresses"
        )
