"""Unfinished files of a local store: their names and locks tell those of the living from those of the dead."""

from __future__ import annotations

import fcntl
import os
import secrets
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from volferry.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_LEFT_FOR = timedelta(days=1)  # what no lock tells of


def temporary_name() -> str:
    """With this kernel's mark: whether its writer lives is for its locks to say."""
    return f"{secrets.token_hex(8)}.{_kernel_mark()}.part"


def remove_dead(
    paths: Iterable[Path], now: Callable[[], datetime], remove: Callable[[Path], object] = Path.unlink
) -> None:
    """Those whose writers are dead, as far as that can be told. `now` is the file system's."""
    oldest: datetime | None = None
    for path in paths:
        try:
            if not path.name.endswith(f".{_kernel_mark()}.part"):
                # Locks of another machine may be unknown here, as on NFS with local locks.
                oldest = oldest or now() - _LEFT_FOR
                if datetime.fromtimestamp(path.lstat().st_mtime, UTC) >= oldest:
                    continue
            _remove_if_unlocked(path, remove)
        except (OSError, StoreError):  # its writer lives, or another run was faster
            continue


def _remove_if_unlocked(path: Path, remove: Callable[[Path], object]) -> None:
    """Raises OSError if its writer lives."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # a share without locks
            if datetime.now(UTC) - datetime.fromtimestamp(os.fstat(descriptor).st_mtime, UTC) < _LEFT_FOR:
                raise
        remove(path)
    finally:
        os.close(descriptor)


@cache
def _kernel_mark() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").replace("-", "")[:16]
    except OSError:
        return "unknown"
