"""The turn: of the runs of one machine, one at a time may have something stopped."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

from volferry.state_lock import is_beyond_help, lock, sign

if TYPE_CHECKING:
    from pathlib import Path

_GUARD = "lock.guard"  # beside the lock


def take_turn(path: Path, state_directory: Path, *, wait: bool) -> int | None:
    """The descriptor by which it is held; None, without `wait`, while another run has it. Of a run that is beyond help, it is taken away: that one
    stops nothing any longer. Raises OSError, and VolferryError where the file system has no locks.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            has_lock = _locked(path, descriptor, state_directory, wait=wait)
            # Else it was taken away from the one before: another file is the lock now.
            is_it = _is_at(path, descriptor)
            if has_lock and is_it:
                sign(descriptor)
                return os.dup(descriptor)
        finally:
            os.close(descriptor)
        if is_it:
            return None


def _locked(path: Path, descriptor: int, state_directory: Path, *, wait: bool) -> bool:
    try:
        lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, state_directory)
    except BlockingIOError:
        if is_beyond_help(path):
            _take_away(path, descriptor, state_directory)
        elif wait:
            lock(descriptor, fcntl.LOCK_EX, state_directory)
            return True
        return False
    return True


def _take_away(path: Path, descriptor: int, state_directory: Path) -> None:
    guard = os.open(path.with_name(_GUARD), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        lock(guard, fcntl.LOCK_EX, state_directory)
        if _is_at(path, descriptor) and is_beyond_help(path):
            path.unlink()
    finally:
        os.close(guard)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
