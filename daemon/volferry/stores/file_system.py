"""What the file system of a local store lacks, found out by trying, and how the store does without it.

SMB, exFAT, FUSE and shared folders of virtual machines refuse one or the other call that a disk's file system has. A call that worked
before and fails now is a failure; one that never worked is done in another way.
"""

from __future__ import annotations

import errno
import hashlib
import os
from typing import TYPE_CHECKING

from volferry.errors import StoreError

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


class FileSystem:
    """Of one store. `note` is told once of each thing that it lacks."""

    def __init__(self, root: Path, note: Callable[[str], None]) -> None:
        self._root = root
        self._note = note
        self._links: bool | None = None  # None: not tried yet
        self._syncs_directories: bool | None = None

    @property
    def has_links(self) -> bool:
        """Whether files get their names by links. Else by renaming."""
        return self._links is not False

    @property
    def syncs_directories(self) -> bool:
        """Whether a new name is on stable storage once `sync_directory` returns. Else syncing the file again has to do."""
        return self._syncs_directories is not False

    def sync_directory(self, directory: Path) -> None:
        """Raises OSError."""
        if self._syncs_directories is False:
            return
        try:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            gone = error.errno == errno.ENOENT and not directory.is_dir()
            if self._syncs_directories or gone or error.errno not in _NO_DIRECTORY_SYNC:
                raise
            self._syncs_directories = False
            self._note(
                f"the file system of {self._root} cannot sync directories: after a power failure the newest objects may be gone"
            )
        else:
            self._syncs_directories = True

    def name(self, temporary: Path, final: Path) -> None:
        """Gives a finished file its name. Raises FileExistsError if that is taken: nothing is ever overwritten."""
        if self._links is not False:
            try:
                os.link(temporary, final)
            except OSError as error:
                if self._links or error.errno not in _NO_LINKS:
                    raise
                self._links = False
            else:
                self._links = True
                return
        self._rename(temporary, final)

    def _rename(self, temporary: Path, final: Path) -> None:
        """Where a name cannot be taken by a link. Of all who would give the same name, one at a time looks whether it is free."""
        digest = hashlib.sha256(os.fsencode(final.relative_to(self._root))).hexdigest()
        claim = temporary.with_name(f"{digest[:32]}.name")
        descriptor = os.open(claim, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            if os.path.lexists(final):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final))
            temporary.rename(final)
        finally:
            os.close(descriptor)
            claim.unlink(missing_ok=True)

    def check_exact(self, directory: Path) -> None:
        """Raises StoreError if a directory that is there has another name on the disk: a file system that does not tell upper case
        from lower, or that drops a dot at the end, would mix the objects of two.
        """
        if not is_exact(directory, self._root):
            raise StoreError(
                f"the store {self._root} cannot hold {directory.name!r}: its file system takes that for the name of another directory; "
                "use one that tells upper case from lower"
            )


def is_exact(directory: Path, root: Path) -> bool:
    """Whether `directory`, below `root`, has just that name on the disk, and so have all above it. One that is not there does, too."""
    while directory != root:
        if not _has_own_name(directory):
            return False
        directory = directory.parent
    return True


def _has_own_name(path: Path) -> bool:
    for _ in range(_LOOKS):
        try:
            if path.name in {each.name for each in path.parent.iterdir()} or not path.exists():
                return True
        except OSError:
            return True
        # Or another run has just made it.
    return False
