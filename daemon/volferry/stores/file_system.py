"""What the file system of a local store lacks, found out by trying, and how the store does without it.

SMB, exFAT, FUSE and shared folders of virtual machines refuse one or the other call that a disk's file system has. A call that worked
before and fails now is a failure; one that never worked is done in another way.
"""

from __future__ import annotations

import errno
import hashlib
import os
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from volferry.errors import StoreError
from volferry.model import LAST_YEAR

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# How file systems say that they have no hard links, or none between two directories.
_NO_LINKS = frozenset({
    errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EINVAL
})  # fmt: skip
# How they say that a directory cannot be synced: vboxsf and old CIFS, SMB servers, gvfs, drvfs of WSL.
_NO_DIRECTORY_SYNC = frozenset({
    errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOENT, errno.EIO, errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR
})  # fmt: skip

_LOOKS = 10
_LAST_TIME = datetime(LAST_YEAR, 12, 31, tzinfo=UTC).timestamp()


class Name(NamedTuple):
    """Of a file, in a directory that is open."""

    directory: int
    name: str
    key: str = ""  # of the object that it is


class FileSystem:
    """Of one store. `note` is told once of each thing that it lacks."""

    def __init__(self, root: Path, note: Callable[[str], None]) -> None:
        self._root = root
        self._note = note
        self._links: bool | None = None  # None: not tried yet
        self._syncs_directories: bool | None = None
        self._exact: set[tuple[str, int, int]] = set()  # paths and what they led to, when that was looked at

    @property
    def has_links(self) -> bool:
        """Whether files get their names by links. Else by renaming."""
        return self._links is not False

    @property
    def syncs_directories(self) -> bool:
        """Whether a new name is on stable storage once `sync_directory` returns. Else syncing the file again has to do."""
        return self._syncs_directories is not False

    def sync_directory(self, directory: int) -> None:
        """By its descriptor. Raises OSError."""
        if self._syncs_directories is False:
            return
        try:
            descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            gone = error.errno == errno.ENOENT and not os.fstat(directory).st_nlink
            if self._syncs_directories or gone or error.errno not in _NO_DIRECTORY_SYNC:
                raise
            self._syncs_directories = False
            self._note(
                f"the file system of {self._root} cannot sync directories: after a power failure the newest objects may be gone"
            )
        else:
            self._syncs_directories = True

    def name(self, temporary: Name, final: Name) -> None:
        """Gives a finished file its name. Raises FileExistsError if that is taken: nothing is ever overwritten."""
        if self._links is not False:
            try:
                os.link(
                    temporary.name,
                    final.name,
                    src_dir_fd=temporary.directory,
                    dst_dir_fd=final.directory,
                    follow_symlinks=False,
                )
            except OSError as error:
                if self._links or not (error.errno in _NO_LINKS or _counts_no_names(error, temporary, final)):
                    raise
                self._links = False
            else:
                self._links = True
                return
        self._rename(temporary, final)

    @staticmethod
    def replace(temporary: Name, final: Name) -> None:
        """Gives a finished file its name, and takes that from a file that has it, in one step."""
        os.rename(temporary.name, final.name, src_dir_fd=temporary.directory, dst_dir_fd=final.directory)

    def _rename(self, temporary: Name, final: Name) -> None:
        """Where a name cannot be taken by a link. Of all who would give the same name, one at a time looks whether it is free."""
        claim = f"{hashlib.sha256(final.key.encode()).hexdigest()[:32]}.name"
        descriptor = os.open(
            claim, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=temporary.directory
        )
        try:
            if _exists(final):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), final.key)
            os.rename(temporary.name, final.name, src_dir_fd=temporary.directory, dst_dir_fd=final.directory)
        finally:
            os.close(descriptor)
            with suppress(FileNotFoundError):
                os.unlink(claim, dir_fd=temporary.directory)

    def check_exact(self, parent: int, directory: int, path: str) -> None:
        """Raises StoreError if a directory that is there has another name on the disk: a file system that does not tell upper case
        from lower, or that drops a dot at the end, would mix the objects of two.
        """
        if not self.is_exact(parent, directory, path):
            raise StoreError(
                f"the store {self._root} cannot hold {path.rpartition('/')[2]!r}: its file system takes that for the name of another "
                "directory; use one that tells upper case from lower"
            )

    def is_exact(self, parent: int, directory: int, path: str) -> bool:
        """Whether `directory`, opened in `parent` by the last name of `path`, has just that name on the disk."""
        status = os.fstat(directory)
        known = (path, status.st_dev, status.st_ino)
        if known in self._exact:
            return True
        exact = has_own_name(parent, path.rpartition("/")[2])
        if exact:
            self._exact.add(known)
        return exact


def has_own_name(parent: int, name: str) -> bool:
    """Whether `name`, in a directory, is just that on the disk. One that is not there is, too."""
    for _ in range(_LOOKS):
        try:
            readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)
            try:
                if name in os.listdir(readable):  # noqa: PTH208 -- by descriptor
                    return True
            finally:
                os.close(readable)
            os.stat(name, dir_fd=parent)
        except OSError:
            return True
        # Or another run has just made it.
    return False


def time_of(status: os.stat_result) -> datetime:
    """When a file was written. What no date can hold, as an odd file system or a hand may have set it, is the last or the first one."""
    return datetime.fromtimestamp(min(max(status.st_mtime, 0.0), _LAST_TIME), UTC)


def _exists(name: Name) -> bool:
    try:
        os.stat(name.name, dir_fd=name.directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _counts_no_names(error: OSError, temporary: Name, final: Name) -> bool:
    """Whether a link was refused though both ends of it are there: the kernel makes none to a file that is said to have no names."""
    if error.errno != errno.ENOENT or not os.fstat(final.directory).st_nlink:
        return False
    try:
        os.stat(temporary.name, dir_fd=temporary.directory, follow_symlinks=False)
    except OSError:
        return False
    return True
