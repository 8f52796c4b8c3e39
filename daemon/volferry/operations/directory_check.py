"""Looks at entries of a directory of this machine, to compare them with those that should be there."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from volferry.archive.listing import Entry, time_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_KINDS = {
    stat.S_IFREG: b"f",
    stat.S_IFDIR: b"d",
    stat.S_IFLNK: b"l",
    stat.S_IFIFO: b"p",
    stat.S_IFCHR: b"c",
    stat.S_IFBLK: b"b",
    stat.S_IFSOCK: b"s",
}


def pairs_in(
    directory: Path, expected: Iterable[Entry], *, owners: bool
) -> Iterator[tuple[Entry, Entry | None]]:
    """Each entry with the one that is there. Without `owners`, those of the backup could not be given. Raises OSError."""
    root = os.open(
        directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    )  # from there on, each path is short enough
    try:
        names = _Names(root)
        for entry in expected:
            there = _entry(root, entry.path) if names.hold(entry.path) else None
            if there is not None and not owners:
                mine = there.stat._replace(uid=entry.stat.uid, gid=entry.stat.gid)
                there = Entry(there.path, b" ".join(mine))
            yield entry, there
    finally:
        os.close(root)


class _Names:
    """The names in directories, exactly: where upper case is not told from lower, two names lead to one file."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._above: list[tuple[bytes, set[bytes]]] = []  # the directories above the last path

    def hold(self, path: bytes) -> bool:
        """In the order of a tree walk. Raises OSError."""
        if not path:
            return True
        parent, _, name = path.rpartition(b"/")
        while self._above and not _is_in(parent, self._above[-1][0]):
            self._above.pop()
        if not self._above or self._above[-1][0] != parent:
            self._above.append((parent, self._held(parent)))
        return name in self._above[-1][1]

    def _held(self, parent: bytes) -> set[bytes]:
        try:
            descriptor = os.open(
                parent or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._root
            )
        except (FileNotFoundError, NotADirectoryError):
            return set()
        try:
            return set(map(os.fsencode, os.listdir(descriptor)))  # noqa: PTH208 -- of a descriptor
        finally:
            os.close(descriptor)


def _is_in(path: bytes, directory: bytes) -> bool:
    return not directory or path == directory or path.startswith(directory + b"/")


def _entry(root: int, path: bytes) -> Entry | None:
    place = path or b"."
    try:
        found = os.stat(place, dir_fd=root, follow_symlinks=False)
        target = os.readlink(place, dir_fd=root) if stat.S_ISLNK(found.st_mode) else b""
    except (FileNotFoundError, NotADirectoryError):
        return None
    fields = (
        _KINDS.get(stat.S_IFMT(found.st_mode), b"?"),
        b"%o" % stat.S_IMODE(found.st_mode),
        b"%d" % found.st_uid,
        b"%d" % found.st_gid,
        b"%d" % found.st_size,
        time_text(found.st_mtime_ns),
        time_text(found.st_ctime_ns),
        b"%d" % found.st_ino,
        b"%d" % found.st_nlink,
        target,
    )
    return Entry(path, b" ".join(fields))
