"""A store in a directory, on a local disk or a mounted share.

An object is written to `.tmp/`, fsynced, linked to its name (which fails if the name is taken), and its directory is
fsynced: after a crash at any moment it is there whole or not at all. Every unfinished file is locked by its writer,
so that a later run can tell those of the dead from those of the living.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import tempfile
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self

from volferry.errors import NoSuchObject, NoSuchStore, ObjectExists, StoreError
from volferry.interrupts import held_back
from volferry.model import ObjectInfo
from volferry.stores.base import validate_key
from volferry.stores.file_system import FileSystem, is_exact
from volferry.stores.probe import probe
from volferry.stores.unfinished import remove_dead, temporary_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from volferry.stores.probe import Probe

_ATTEMPTS = 100  # each lost to another run that removed an empty directory in the moment before
_SYNC_BYTES = 8 << 20  # written before they are brought to stable storage, beside what is written next
_TEMPORARY = ".tmp"  # a name that no key has


class LocalStore:
    """Implements `Store`. The directory is made by the first `create`, not before."""

    def __init__(self, directory: Path, *, note: Callable[[str], None] = lambda _: None) -> None:
        """`note` is told, once, of each thing that the file system lacks."""
        self._root = directory
        self._file_system = FileSystem(directory, note)
        self._was_there = (
            False  # a store that was there and is gone is not made anew: its share was unmounted
        )

    @property
    def url(self) -> str:
        return str(self._root)

    def probe(self) -> Probe:
        """Tries its file system. Raises StoreError where that cannot keep a store safely."""
        return probe(self._root)

    def create(self, key: str) -> LocalWriter:
        validate_key(key)
        if not self._was_there:
            try:
                _make_directories(self._root, self._file_system)
            except OSError as error:
                raise _os_error(error, f"cannot write to the store {self._root}") from error
        elif not self._root.is_dir():
            raise NoSuchStore(f"the store {self._root} is gone: is it still mounted?")
        self._was_there = True
        return LocalWriter(self._root, key, self._file_system)

    def open(self, key: str, *, offset: int = 0, length: int | None = None) -> LocalReader:
        try:
            descriptor = os.open(self._path(key), os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise self._error(error, key, "read") from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise NoSuchObject(
                f"{key} is missing from the store {self._root}: something else is in its place"
            )
        self._was_there = True
        return LocalReader(self, key, descriptor, offset, length)

    def size(self, key: str) -> int:
        try:
            status = self._path(key).stat()
        except OSError as error:
            raise self._error(error, key, "read") from error
        if not stat.S_ISREG(status.st_mode):
            raise NoSuchObject(
                f"{key} is missing from the store {self._root}: something else is in its place"
            )
        return status.st_size

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        # Whole directories first: `packs/a/b` may be part of the last name as well as a directory.
        directory = self._root / prefix.rpartition("/")[0]
        if is_exact(directory, self._root):
            yield from self._walk(directory, prefix)

    def _walk(self, directory: Path, prefix: str) -> Iterator[ObjectInfo]:
        try:
            with os.scandir(directory) as scan:
                # "/" counts in the order of keys: `a/x` comes after `a-x`.
                found = sorted(scan, key=lambda each: each.name + "/" if _is_directory(each) else each.name)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise self._error(error, str(directory), "list") from error
        for each in found:
            key = os.path.relpath(each.path, self._root)
            if _is_directory(each):
                if not each.name.startswith(".") and (
                    f"{key}/".startswith(prefix) or prefix.startswith(f"{key}/")
                ):
                    yield from self._walk(Path(each.path), prefix)
            elif key.startswith(prefix) and not each.name.startswith(".") and not each.is_symlink():
                try:
                    status = each.stat()
                except FileNotFoundError:
                    continue
                yield ObjectInfo(key, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))

    def delete(self, key: str) -> None:
        path = self._path(key)
        try:
            path.unlink()
            self._file_system.sync_directory(path.parent)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return
        except OSError as error:
            raise self._error(error, key, "delete") from error
        for parent in path.parents:
            if parent == self._root:
                break
            try:
                parent.rmdir()
            except OSError:
                break

    def now(self) -> datetime:
        # A share has the clock of its server: what it says of a new file is asked for.
        try:
            with tempfile.TemporaryFile(dir=self._root) as file:
                return datetime.fromtimestamp(os.fstat(file.fileno()).st_mtime, UTC)
        except OSError as error:
            raise _os_error(error, f"cannot write to the store {self._root}") from error

    def protect(self, keys: Iterable[str]) -> None:
        """A directory keeps nobody from deleting."""

    def abort_uploads(self) -> int:
        self.clean()  # of all machines: locks on a share tell the living from the dead
        return 0

    def clean(self) -> None:
        try:
            left = list((self._root / _TEMPORARY).iterdir())
        except OSError:
            return
        remove_dead(left, self.now)

    def _path(self, key: str) -> Path:
        return self._root / validate_key(key)

    def _error(self, error: OSError, key: str, action: str) -> StoreError:
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            if self._root.exists() and not self._root.is_dir():
                return StoreError(f"{self._root} is not a directory: a store needs one of its own")
            if not self._root.is_dir():
                return NoSuchStore(
                    f"there is no store at {self._root}: check the path, or whether it is mounted"
                )
            return NoSuchObject(f"{key} is missing from the store {self._root}")
        return _os_error(error, f"cannot {action} {key} in the store {self._root}")


class LocalWriter:
    """Implements `ObjectWriter`."""

    def __init__(self, root: Path, key: str, file_system: FileSystem) -> None:
        self._root = root
        self._file_system = file_system
        self._key = key
        self._final = root / key
        self._temporary = root / _TEMPORARY / temporary_name()
        try:
            self._descriptor = self._begin()
        except OSError as error:
            raise _os_error(error, f"cannot write to the store {root}") from error
        self._open = True
        self._unsynced_bytes = 0
        self._syncing: threading.Thread | None = None
        self._sync_error: OSError | None = None

    def _begin(self) -> int:
        """A locked file of its own."""
        while True:
            _make_directories(self._temporary.parent, self._file_system, below=self._root)
            descriptor = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # A `clean` of another run takes it for one of a dead writer: it may have that one.
                os.close(descriptor)
            except OSError:  # a share without locks, on which `clean` does nothing either
                return descriptor
            else:
                if os.fstat(descriptor).st_nlink:
                    return descriptor
                os.close(descriptor)
            self._temporary = self._temporary.with_name(temporary_name())

    def write(self, data: bytes) -> None:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            raise _os_error(error, f"cannot write {self._key} to the store {self._root}") from error
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
            self._file_system.sync_directory(self._final.parent)
            if not self._file_system.syncs_directories:
                os.fsync(self._descriptor)  # with its name, on some of them
        except FileExistsError as error:
            raise ObjectExists(f"{self._key} is in the store {self._root} already") from error
        except OSError as error:
            raise _os_error(error, f"cannot write {self._key} to the store {self._root}") from error
        finally:
            self.abort()

    def _name_it(self) -> None:
        for attempt in range(_ATTEMPTS):
            _make_directories(self._final.parent, self._file_system, below=self._root)
            try:
                return self._file_system.name(self._temporary, self._final)
            except FileNotFoundError:
                # Another run has deleted the last object of the directory, and the directory with it.
                if attempt == _ATTEMPTS - 1:
                    raise
        return None

    def abort(self) -> None:
        if not self._open:
            return
        with held_back():
            self._open = False
            self._await_sync()  # the descriptor must not become another file's meanwhile
            try:
                self._temporary.unlink(missing_ok=True)
            except OSError:  # `clean` of a later run gets it: the lock ends with the descriptor
                pass
            finally:
                os.close(self._descriptor)

    def _await_sync(self) -> None:
        if self._syncing is not None:
            self._syncing.join()


class LocalReader:
    """Implements `ObjectReader`."""

    def __init__(self, store: LocalStore, key: str, descriptor: int, offset: int, length: int | None) -> None:
        self._store = store
        self._key = key
        self._descriptor = descriptor
        self._offset = offset
        self._left = length

    def read(self, size: int) -> bytes:
        wanted = size if self._left is None else min(size, self._left)
        if not wanted:
            return b""
        try:
            data = os.pread(self._descriptor, wanted, self._offset)
        except OSError as error:
            raise _os_error(error, f"cannot read {self._key} in the store {self._store.url}") from error
        self._offset += len(data)
        if self._left is not None:
            self._left -= len(data)
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)


def _os_error(error: OSError, what: str) -> StoreError:
    hints = {
        errno.ENOSPC: "no space is left on it",
        errno.EDQUOT: "the disk quota is used up",
        errno.EACCES: "permission denied",
        errno.EROFS: "it is mounted read-only",
    }
    number = error.errno or 0
    return StoreError(f"{what}: {hints.get(number) or os.strerror(number).lower()}")


def _make_directories(directory: Path, file_system: FileSystem, *, below: Path | None = None) -> None:
    """As `mkdir -p`, with every new name on stable storage, also while another run removes empty ones.

    `below` itself, and what is above it, is not made.
    """
    for attempt in range(_ATTEMPTS):
        if directory.is_dir():
            if below is not None:
                file_system.check_exact(directory)
            return
        if directory == below:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(directory))
        _make_directories(directory.parent, file_system, below=below)
        try:
            directory.mkdir(mode=0o700)
            file_system.sync_directory(directory.parent)
        except FileNotFoundError:
            if attempt == _ATTEMPTS - 1:
                raise
        except FileExistsError as error:
            # Another run has made it; with `exist_ok`, one that is gone again by now would be an error.
            if attempt == _ATTEMPTS - 1:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(directory)) from error


def _is_directory(entry: os.DirEntry[str]) -> bool:
    """Links are not followed: they may lead anywhere, also back."""
    return entry.is_dir(follow_symlinks=False)
