"""A store in a directory, on a local disk or a mounted share.

An object is written to `.tmp/`, fsynced, linked to its name (which fails if the name is taken), and its directory is
fsynced: after a crash at any moment it is there whole or not at all. Every unfinished file is locked by its writer,
so that a later run can tell those of the dead from those of the living.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from typing import TYPE_CHECKING, Self, TypeVar

from volferry.errors import DamagedObject, NoSuchObject, NoSuchStore, StoreError, reason
from volferry.model import ObjectInfo
from volferry.stores.base import MOST_KEY_CHARACTERS, validate_key, write_whole
from volferry.stores.directories import ATTEMPTS, TEMPORARY, Directories, open_readable, open_regular
from volferry.stores.file_system import FileSystem, time_of
from volferry.stores.local_writer import LocalWriter, store_error
from volferry.stores.probe import probe
from volferry.stores.throttle import Throttle
from volferry.stores.unfinished import UNFINISHED, remove_dead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import datetime
    from pathlib import Path
    from types import TracebackType

    from volferry.stores.probe import Probe

# How a file system says that a part of it is damaged, where the rest is well.
_DAMAGE = frozenset({errno.EIO, errno.EUCLEAN, errno.EBADMSG})
# Of a store's directories, those that make two of them one wherever they are the same: one may be mounted into the other.
_SHARED = ("", "manifests", "indexes", "packs")

T = TypeVar("T")


class LocalStore:
    """Implements `Store`. The directory is made by the first `create`, not before."""

    def __init__(
        self,
        directory: Path,
        *,
        note: Callable[[str], None] = lambda _: None,
        throttle: Throttle | None = None,
    ) -> None:
        """`note` is told, once, of each thing that the file system lacks."""
        self.throttle = throttle or Throttle()
        self._root = directory
        self._file_system = FileSystem(directory, note)
        self._directories = Directories(directory, self._file_system)
        self._was_there = (
            False  # a store that was there and is gone is not made anew: its share was unmounted
        )

    @property
    def url(self) -> str:
        return str(self._root)

    @property
    def place(self) -> str:
        return os.path.realpath(self._root)

    def is_at(self, other: LocalStore) -> bool:
        """Whether what is written here is written there, by whatever paths, links and mounts. Both are there. Raises StoreError."""
        if any(_is_one_directory(self._root / each, other._root / each) for each in _SHARED):
            return True
        # Of a share that is mounted twice, each mount has another number of a device.
        writer = self.create("probe")
        try:
            return other.has_unfinished(writer.name)
        finally:
            writer.abort()

    def has_unfinished(self, name: str) -> bool:
        """Whether there is an unfinished file of that name. Raises StoreError."""
        try:
            with self._directories.way(TEMPORARY) as way:
                os.stat(name, dir_fd=way[-1], follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError, NoSuchStore):
            return False
        except OSError as error:
            raise store_error(error, f"cannot look into the store {self._root}") from error
        return True

    def probe(self) -> Probe:
        """Tries its file system. Raises StoreError where that cannot keep a store safely."""
        return probe(self._root)

    def replace(self, key: str, data: bytes) -> None:
        write_whole(self.create(key, replaces=True), data)

    def put_unlocked(self, key: str, data: bytes) -> None:
        write_whole(self.create(key), data)

    def create(self, key: str, *, replaces: bool = False) -> LocalWriter:
        validate_key(key)
        if not self._was_there:
            try:
                _make_root(self._root, self._file_system)
            except OSError as error:
                raise store_error(error, f"cannot write to the store {self._root}") from error
        try:
            writer = LocalWriter(
                self._root,
                key,
                self._directories,
                self._file_system,
                replaces=replaces,
                throttle=self.throttle.up,
            )
        except NoSuchStore as error:
            raise NoSuchStore(f"the store {self._root} is gone: is it still mounted?") from error
        self._was_there = True
        return writer

    def open(self, key: str, *, offset: int = 0, length: int | None = None) -> LocalReader:
        parent, _, name = validate_key(key).rpartition("/")
        try:
            with self._directories.way(parent) as way:
                descriptor = twice(lambda: open_regular(way[-1], name))
        except OSError as error:
            raise self.unreadable(error, key) from error
        if descriptor is None:
            raise self._something_else(key)
        self._was_there = True
        return LocalReader(self, key, descriptor, offset, length)

    def size(self, key: str) -> int:
        parent, _, name = validate_key(key).rpartition("/")
        try:
            with self._directories.way(parent) as way:
                status = os.stat(name, dir_fd=way[-1], follow_symlinks=False)
        except OSError as error:
            raise self._error(error, key, "read") from error
        if not stat.S_ISREG(status.st_mode):
            raise self._something_else(key)
        return status.st_size

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        # Whole directories first: `packs/a/b` may be part of the last name as well as a directory.
        path = prefix.rpartition("/")[0]
        try:
            with self._directories.way(path) as way:
                if not self._directories.is_exact(way, path):
                    return
                directory = open_readable(way[-1])
        except (FileNotFoundError, NoSuchStore):
            return
        except OSError as error:
            # Also of a file in place of a directory: "nothing is there" would be believed.
            raise store_error(
                error, f"cannot list {path or 'the objects'} in the store {self._root}"
            ) from error
        yield from self._walk(directory, f"{path}/" if path else "", prefix)

    def _walk(self, directory: int, path: str, prefix: str) -> Iterator[ObjectInfo]:
        """Of an open directory, which is closed at the end. `path` is empty or ends with a slash."""
        try:
            for key, each, is_directory in self._entries(directory, path):
                if is_directory:
                    # What lies deeper than a key can be long is no object.
                    if len(key) < MOST_KEY_CHARACTERS and (
                        f"{key}/".startswith(prefix) or prefix.startswith(f"{key}/")
                    ):
                        below = self._look(lambda: open_readable(directory, each.name), key)  # noqa: B023 -- called at once
                        if below is not None:
                            yield from self._walk(below, f"{key}/", prefix)
                elif key.startswith(prefix):
                    status = self._look(lambda: each.stat(follow_symlinks=False), key)  # noqa: B023
                    if status is not None and stat.S_ISREG(status.st_mode):
                        yield ObjectInfo(key, status.st_size, time_of(status))
        finally:
            os.close(directory)

    def _entries(self, directory: int, path: str) -> Sequence[tuple[str, os.DirEntry[str], bool]]:
        """Key, entry, and whether it is a directory, in the order of keys. Links are none: they may lead anywhere, also back."""
        try:
            with os.scandir(directory) as scan:
                found = [
                    (f"{path}{each.name}", each, each.is_dir(follow_symlinks=False))
                    for each in scan
                    if not each.name.startswith(".")
                ]
        except FileNotFoundError:  # another run has just removed the directory
            return []
        except OSError as error:
            raise store_error(
                error, f"cannot list {path.rstrip('/') or 'the objects'} in the store {self._root}"
            ) from error
        # "/" counts in the order of keys: `a/x` comes after `a-x`.
        return sorted(found, key=lambda each: f"{each[0]}/" if each[2] else each[0])

    def _look(self, call: Callable[[], T], key: str) -> T | None:
        """None for what is gone since its directory was read, or is another kind of thing. Raises StoreError."""
        try:
            return call()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                return None
            raise store_error(error, f"cannot list {key} in the store {self._root}") from error

    def delete(self, key: str) -> None:
        parent, _, name = validate_key(key).rpartition("/")
        try:
            with self._directories.way(parent) as way:
                os.unlink(name, dir_fd=way[-1])
                self._file_system.sync_directory(way[-1])
                _remove_empty(way, parent)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, NoSuchStore):
            return
        except OSError as error:
            raise self._error(error, key, "delete") from error

    def now(self) -> datetime:
        # A share has the clock of its server: what it says of a new file is asked for.
        try:
            with tempfile.TemporaryFile(dir=self._root) as file:
                return time_of(os.fstat(file.fileno()))
        except OSError as error:
            raise store_error(error, f"cannot write to the store {self._root}") from error

    def protect(self, keys: Iterable[str]) -> None:
        """A directory keeps nobody from deleting."""

    def abort_uploads(self) -> int:
        self.clean()  # of all machines: locks on a share tell the living from the dead
        return 0

    def clean(self) -> None:
        try:
            with self._directories.way(TEMPORARY) as way:
                directory = open_readable(way[-1])
        except (OSError, StoreError):
            return
        try:
            # Nothing else: nobody knows whose it is.
            left = [each for each in os.listdir(directory) if each.endswith(UNFINISHED)]  # noqa: PTH208 -- by descriptor
            remove_dead(directory, left, self.now, lambda name: os.unlink(name, dir_fd=directory))
        except OSError:
            return
        finally:
            os.close(directory)

    def unreadable(self, error: OSError, key: str) -> StoreError | DamagedObject:
        """The error for an object that is there and could not be read, `twice`."""
        if error.errno in _DAMAGE and self._answers():
            return DamagedObject(key, f"the disk cannot read it ({reason(error)})")
        return self._error(error, key, "read")

    def _answers(self) -> bool:
        """Whether it is the object, and not the whole file system, as after a server that has gone."""
        try:
            os.statvfs(self._root)
        except OSError:
            return False
        return True

    def _something_else(self, key: str) -> NoSuchObject:
        return NoSuchObject(f"{key} is missing from the store {self._root}: something else is in its place")

    def _error(self, error: OSError, key: str, action: str) -> StoreError:
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return NoSuchObject(f"{key} is missing from the store {self._root}")
        return store_error(error, f"cannot {action} {key} in the store {self._root}")


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
            data = twice(lambda: os.pread(self._descriptor, wanted, self._offset))
        except OSError as error:
            raise self._store.unreadable(error, self._key) from error
        self._store.throttle.down.take(len(data))
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


def twice(read: Callable[[], T]) -> T:
    """A disk, or a cable, may do better the second time. Raises OSError."""
    try:
        return read()
    except OSError as error:
        if error.errno not in _DAMAGE:
            raise
    return read()


def _is_one_directory(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one of them is not there
        return False


def _make_root(directory: Path, file_system: FileSystem) -> None:
    """As `mkdir -p`, with every new name on stable storage, also while another run removes empty ones."""
    for attempt in range(ATTEMPTS):
        if directory.is_dir():
            return
        _make_root(directory.parent, file_system)
        try:
            directory.mkdir(mode=0o700)
            parent = os.open(directory.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                file_system.sync_directory(parent)
            finally:
                os.close(parent)
        except FileNotFoundError:
            if attempt == ATTEMPTS - 1:
                raise
        except FileExistsError as error:
            # Another run has made it; with `exist_ok`, one that is gone again by now would be an error.
            if attempt == ATTEMPTS - 1:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(directory)) from error


def _remove_empty(way: list[int], path: str) -> None:
    """The directories on the way to `path` that have nothing in them, the last one first."""
    names = path.split("/") if path else []
    for parent, name in zip(reversed(way[:-1]), reversed(names), strict=True):
        try:
            os.rmdir(name, dir_fd=parent)
        except OSError:
            return
