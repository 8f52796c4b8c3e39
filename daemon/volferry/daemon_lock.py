"""One daemon for each state directory: two would run every backup twice, and each would tell of the other's as busy.

The lock is the kernel's (flock): it ends with the process, however that ends.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from volferry.errors import DaemonRuns, VolferryError, reason
from volferry.state_lock import lock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FILE = "daemon.lock"
_SOON_SECONDS = 1.0
_LOOK_SECONDS = 0.02


def daemon_runs(state_directory: Path) -> bool:
    """Whether a daemon works with it. Does not keep one from starting. Raises VolferryError if no lock can be had."""
    try:
        descriptor = os.open(state_directory / _FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        lock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB, state_directory)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextmanager
def daemon_lock(state_directory: Path) -> Iterator[None]:
    """Held until the end of the block. Raises DaemonRuns while another daemon has it, and VolferryError if no lock can be had."""
    path = state_directory / _FILE
    try:
        state_directory.mkdir(parents=True, mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise VolferryError(
            f"cannot write to the state directory {state_directory}: {reason(error)}"
        ) from error
    try:
        try:
            _lock_soon(descriptor, state_directory)
        except BlockingIOError as error:
            raise DaemonRuns(
                f"another daemon works with the state directory {state_directory}: stop it, or give this one a state_dir of its own"
            ) from error
        yield
    finally:
        os.close(descriptor)


def _lock_soon(descriptor: int, state_directory: Path) -> None:
    """Whoever only asks whether a daemon runs has it for a moment."""
    end = time.monotonic() + _SOON_SECONDS
    while True:
        try:
            lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, state_directory)
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            time.sleep(_LOOK_SECONDS)
        else:
            return
