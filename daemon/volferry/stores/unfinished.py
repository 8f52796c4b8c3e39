"""Unfinished files of a local store: their names and locks tell those of the living from those of the dead."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from volferry.errors import StoreError
from volferry.stores.file_system import time_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

UNFINISHED = (".part", ".name")  # how the names end of what a store has there
_LEFT_FOR = timedelta(days=1)  # what no lock tells of


def temporary_name() -> str:
    """With this kernel's mark: whether its writer lives is for its locks to say."""
    return f"{secrets.token_hex(8)}.{_kernel_mark()}.part"


def foreign_name() -> str:
    """Of a file that no process here has open, such as one on a server: a store in the same directory knows it by its time alone."""
    return f"{secrets.token_hex(8)}.{secrets.token_hex(8)}.part"


def remove_dead(
    directory: int, names: Iterable[str], now: Callable[[], datetime], remove: Callable[[str], object]
) -> None:
    """Those in an open directory whose writers are dead, as far as that can be told, by what `remove` does. `now` is the file system's."""
    oldest: datetime | None = None
    for name in names:
        try:
            if not name.endswith(f".{_kernel_mark()}.part"):
                # Locks of another machine may be unknown here, as on NFS with local locks.
                oldest = oldest or now() - _LEFT_FOR
                if time_of(os.stat(name, dir_fd=directory, follow_symlinks=False)) >= oldest:
                    continue
            _remove_if_unlocked(directory, name, remove)
        except (OSError, StoreError):  # its writer lives, or another run was faster
            continue


def _remove_if_unlocked(directory: int, name: str, remove: Callable[[str], object]) -> None:
    """Raises OSError if its writer lives, or nobody has written it: a link, or what is no file and no directory."""
    # Nothing is waited for: it may be a FIFO.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=directory)
    try:
        status = os.fstat(descriptor)
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), name)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # a share without locks
            if datetime.now(UTC) - time_of(status) < _LEFT_FOR:
                raise
        remove(name)
    finally:
        os.close(descriptor)


@cache
def _kernel_mark() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").replace("-", "")[:16]
    except OSError:
        return "unknown"
