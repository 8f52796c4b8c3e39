"""Writes a backup as a plain tar stream, or one of its dumps as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volferry.archive.dumps import dump_path
from volferry.archive.selection import Selection
from volferry.archive.tarstream import TarReader, reading
from volferry.errors import NoSuchPath
from volferry.operations.excerpt import BackupExcerpt

if TYPE_CHECKING:
    from collections.abc import Callable

    from volferry.observer import Observer
    from volferry.operations.backup_reader import BackupReader


def export_backup(backup: BackupReader, write: Callable[[bytes], object], *, observer: Observer) -> int:
    """Hands the whole stream to `write`, which must take all of each piece. Returns its bytes.

    Raises DamagedObject or StoreError, possibly after some of it was written.
    """
    total = backup.manifest.counts.tar_bytes
    observer.phase("exporting", total_bytes=total)
    done = 0
    for piece in backup.tar_stream():
        write(piece)
        done += len(piece)
        observer.advance(done_bytes=done, done_entries=0)
    return done


def export_dump(
    backup: BackupReader, name: str, write: Callable[[memoryview], object], *, observer: Observer
) -> int:
    """Hands the content of a dump to `write`, which must take all of each piece. Returns its bytes.

    Raises NoSuchPath; DamagedObject or StoreError, possibly after some of it was written.
    """
    selection = selected_dump(backup, name)
    excerpt = BackupExcerpt(backup, selection)
    observer.phase("exporting", total_bytes=excerpt.source_bytes)
    done = 0
    reader = TarReader(reading(excerpt.tar_stream()))
    for member in reader:
        left = member.size
        for piece in reader.payload():
            content = piece[:left]
            write(content)
            left -= len(content)
            done += len(content)
            observer.advance(done_bytes=done, done_entries=0)
    return done


def selected_dump(backup: BackupReader, name: str) -> Selection:
    """Raises NoSuchPath if the backup has none of that name."""
    names = [dump.name for dump in backup.manifest.dumps]
    if name not in names:
        there = f"it has {', '.join(names)}" if names else "it has none"
        raise NoSuchPath(f"{backup.ref} has no dump {name!r}: {there}")
    return Selection([dump_path(name)])
