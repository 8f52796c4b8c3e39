"""A new object of a local store: written beside the others, on stable storage before it has its name."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from volferry.errors import ObjectExists, StoreError
from volferry.interrupts import held_back
from volferry.stores.directories import ATTEMPTS, TEMPORARY
from volferry.stores.file_system import Name
from volferry.stores.unfinished import temporary_name

if TYPE_CHECKING:
    from pathlib import Path

    from volferry.stores.directories import Directories
    from volferry.stores.file_system import FileSystem
    from volferry.stores.throttle import Direction

_ATTEMPTS = 10  # to begin a file that no `clean` takes away
_SYNC_BYTES = 8 << 20  # written before they are brought to stable storage, beside what is written next


class LocalWriter:
    """Implements `ObjectWriter`."""

    def __init__(
        self,
        root: Path,
        key: str,
        directories: Directories,
        file_system: FileSystem,
        *,
        replaces: bool = False,
        throttle: Direction,
    ) -> None:
        """With `replaces`, an object of that name is overwritten. Raises StoreError."""
        self._root = root
        self._replaces = replaces
        self._throttle = throttle
        self._directories = directories
        self._file_system = file_system
        self._key = key
        self._name = temporary_name()
        try:
            with directories.way(TEMPORARY, make=True) as way:
                self._directory = way.pop()  # as long as the file: it is in that one
            try:
                self._descriptor = self._begin()
            except BaseException:
                os.close(self._directory)
                raise
        except OSError as error:
            raise store_error(error, f"cannot write to the store {root}") from error
        self._open = True
        self._unsynced_bytes = 0
        self._syncing: threading.Thread | None = None
        self._sync_error: OSError | None = None

    def _begin(self) -> int:
        """A locked file of its own."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        for attempt in range(_ATTEMPTS):
            descriptor = os.open(self._name, flags, 0o600, dir_fd=self._directory)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # A `clean` of another run takes it for one of a dead writer: it may have that one.
                pass
            except OSError:  # a share without locks, on which `clean` does nothing either
                return descriptor
            else:
                if self._has_name():
                    return descriptor
            if attempt == _ATTEMPTS - 1:  # a share whose locks say no to everybody, and so to `clean`
                return descriptor
            os.close(descriptor)
            with suppress(OSError):
                os.unlink(self._name, dir_fd=self._directory)
            self._name = temporary_name()
        raise AssertionError

    def _has_name(self) -> bool:
        """Whether the new file still has it, which nobody else makes. How many names an open file has, not every file system knows."""
        try:
            os.stat(self._name, dir_fd=self._directory, follow_symlinks=False)
        except OSError:
            return False
        return True

    @property
    def name(self) -> str:
        """Of the unfinished file."""
        return self._name

    def write(self, data: bytes) -> None:
        self._throttle.take(len(data))
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            raise store_error(error, f"cannot write {self._key} to the store {self._root}") from error
        self._unsynced_bytes += len(data)
        if self._unsynced_bytes >= _SYNC_BYTES and (self._syncing is None or not self._syncing.is_alive()):
            self._unsynced_bytes = 0
            self._syncing = threading.Thread(target=self._sync, daemon=True, name="sync")
            with held_back():
                self._syncing.start()

    def _sync(self) -> None:
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            # The kernel says it once (fsync(2)): the next one would seem to be good.
            self._sync_error = error

    def commit(self) -> None:
        try:
            self._await_sync()
            if self._sync_error is not None:
                raise self._sync_error
            os.fsync(self._descriptor)
            self._name_it()
            if not self._file_system.syncs_directories:
                os.fsync(self._descriptor)  # with its name, on some of them
        except FileExistsError as error:
            raise ObjectExists(f"{self._key} is in the store {self._root} already") from error
        except OSError as error:
            raise store_error(error, f"cannot write {self._key} to the store {self._root}") from error
        finally:
            self.abort()

    def _name_it(self) -> None:
        """On stable storage."""
        parent, _, name = self._key.rpartition("/")
        for attempt in range(ATTEMPTS):
            try:
                with self._directories.way(parent, make=True) as way:
                    final = Name(way[-1], name, self._key)
                    give = self._file_system.replace if self._replaces else self._file_system.name
                    give(Name(self._directory, self._name), final)
                    return self._file_system.sync_directory(way[-1])
            except FileNotFoundError:
                # Another run has deleted the last object of the directory, and the directory with it.
                if attempt == ATTEMPTS - 1:
                    raise
        return None

    def abort(self) -> None:
        if not self._open:
            return
        with held_back():
            self._open = False
            self._await_sync()  # the descriptor must not become another file's meanwhile
            try:
                os.unlink(self._name, dir_fd=self._directory)
            except (
                OSError
            ):  # it has been renamed; or `clean` of a later run gets it: the lock ends with the descriptor
                pass
            finally:
                os.close(self._descriptor)
                os.close(self._directory)

    def _await_sync(self) -> None:
        if self._syncing is not None:
            self._syncing.join()


def store_error(error: OSError, what: str) -> StoreError:
    """The error of the store for one of a system call, with the action that failed."""
    hints = {
        errno.ENOSPC: "no space is left on it",
        errno.EDQUOT: "the disk quota is used up",
        errno.EACCES: "permission denied",
        errno.EROFS: "it is mounted read-only",
    }
    number = error.errno or 0
    return StoreError(f"{what}: {hints.get(number) or os.strerror(number).lower()}")
