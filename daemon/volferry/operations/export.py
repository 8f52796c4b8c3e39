"""Writes a backup as a plain tar stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
