"""The way to a directory of a local store: from its root down, following no link, so that whoever can write to a store leads
nobody out of it.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from volferry.errors import NoSuchStore, StoreError
from volferry.stores.base import validate_key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from volferry.stores.file_system import FileSystem

ATTEMPTS = 100  # each lost to another run that removed an empty directory in the moment before
TEMPORARY = ".tmp"  # a name that no key has

# A place on the way: nothing is opened on a server for it, and it need not be readable.
_PLACE = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_READABLE = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
# How a link, a socket or a device without a driver refuses to be opened.
_NO_FILE = frozenset({errno.ELOOP, errno.ENXIO, errno.ENODEV})


class Directories:
    """Of one store. Descriptors live as long as one call: between two, the file system can be unmounted."""

    def __init__(self, root: Path, file_system: FileSystem) -> None:
        self._root = root
        self._file_system = file_system

    @contextmanager
    def way(self, path: str, *, make: bool = False) -> Iterator[list[int]]:
        """Descriptors of the root, of each directory on the way to `path`, and of that one, last. Whoever pops one closes it.

        With `make`, those that are missing are made, each with its name on stable storage; FileNotFoundError is then one that another
        run has removed meanwhile. Raises OSError; NoSuchStore if the root is missing; StoreError for a link, and
        with `make` for a directory that has another name on the disk.
        """
        names = _names(path)
        way = [self._open_root()]
        try:
            for number, name in enumerate(names, 1):
                way.append(self._open_below(way[-1], name, "/".join(names[:number]), make=make))
                if make and name != TEMPORARY:
                    self._file_system.check_exact(way[-2], way[-1], "/".join(names[:number]))
            yield way
        finally:
            for each in way:
                os.close(each)

    def is_exact(self, way: list[int], path: str) -> bool:
        """Whether each directory on the way to `path` has just that name on the disk."""
        names = _names(path)
        return all(
            self._file_system.is_exact(way[number - 1], way[number], "/".join(names[:number]))
            for number in range(1, len(way))
        )

    def _open_root(self) -> int:
        """It may be a link, and so may what is above it."""
        try:
            return os.open(self._root, _PLACE)
        except FileNotFoundError as error:
            raise NoSuchStore(
                f"there is no store at {self._root}: check the path, or whether it is mounted"
            ) from error
        except NotADirectoryError as error:
            if os.path.lexists(self._root):
                raise StoreError(f"{self._root} is not a directory: a store needs one of its own") from error
            raise NoSuchStore(
                f"there is no store at {self._root}: check the path, or whether it is mounted"
            ) from error

    def _open_below(self, parent: int, name: str, path: str, *, make: bool) -> int:
        for attempt in range(ATTEMPTS):
            try:
                return os.open(name, _PLACE | os.O_NOFOLLOW, dir_fd=parent)
            except FileNotFoundError:
                if not make or attempt == ATTEMPTS - 1:
                    raise
            except OSError as error:
                if error.errno in {errno.ENOTDIR, errno.ELOOP} and _is_link(parent, name):
                    raise StoreError(
                        f"{path} in the store {self._root} is a symbolic link, and volferry follows none there: "
                        "put the directory itself in its place, or mount it there"
                    ) from error
                raise
            try:
                os.mkdir(name, 0o700, dir_fd=parent)
                self._file_system.sync_directory(parent)
            except FileExistsError:  # another run has made it; or it is gone again by now
                pass
        raise AssertionError


def open_readable(parent: int, name: str = ".") -> int:
    """A directory whose names are to be read. Raises OSError, also for a link."""
    return os.open(name, _READABLE, dir_fd=parent)


def open_regular(parent: int, name: str) -> int | None:
    """A file that is to be read; None if something else is there, such as a FIFO, for which nothing waits. Raises OSError."""
    try:
        descriptor = os.open(name, _FILE | os.O_NONBLOCK, dir_fd=parent)
    except BlockingIOError:
        # Another program has a lease on it (as Samba does), which it gives up for one who waits: fcntl(2).
        if not stat.S_ISREG(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            return None
        descriptor = os.open(name, _FILE, dir_fd=parent)
    except OSError as error:
        if error.errno in _NO_FILE:
            return None
        raise
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _names(path: str) -> list[str]:
    """Raises ValueError for what could leave the store."""
    if not path:
        return []
    return [TEMPORARY] if path == TEMPORARY else validate_key(path).split("/")


def _is_link(parent: int, name: str) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except OSError:
        return False
