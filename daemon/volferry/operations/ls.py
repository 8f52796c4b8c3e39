"""Lists what is in a backup, from its index alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volferry.archive.selection import is_below

if TYPE_CHECKING:
    from collections.abc import Iterator

    from volferry.archive.listing import Entry
    from volferry.operations.backup_reader import BackupIndex


def list_entries(index: BackupIndex, path: bytes, *, recursive: bool) -> Iterator[Entry]:
    """What is in the directory `path`, or all below it; anything else than a directory lists itself.

    `path` must be in the backup. Memory does not grow with what is listed.
    """
    reached = False
    for entry in index.entries():
        if entry.path == path:
            reached = True
            if entry.kind != b"d":
                yield entry
                return
        elif is_below(entry.path, path):
            if recursive or b"/" not in entry.path[len(path) + 1 if path else 0 :]:
                yield entry
        elif reached:
            return
