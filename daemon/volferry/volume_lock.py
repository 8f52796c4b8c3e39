"""Locks between the runs of this machine: one run at a time writes to, or deletes from, one volume's part of one store; and
nothing else reads or writes a volume that a run writes.

The locks are the kernel's (flock): they end with the process, however that ends.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING

from volferry.errors import VolferryError, VolumeBusy, reason
from volferry.state_lock import lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path


@contextmanager
def volume_lock(directory: Path, volume: str) -> Iterator[None]:
    """`directory` is what the state directory has for the volume. Raises VolumeBusy while another run has it."""
    busy = f"another run is at work on the backups of volume {volume}: wait for its end"
    with _locked(directory, fcntl.LOCK_EX, busy):
        yield


@contextmanager
def content_lock(directory: Path, volume: str, *, write: bool) -> Iterator[None]:
    """Of what a volume of an engine holds. `directory` is what the state directory has for it. Any number of runs may read. Raises VolumeBusy."""
    does = "reads or writes" if write else "writes"
    busy = f"another run {does} volume {volume}, as a restore or a migration{' or a backup' if write else ''} does: wait for its end"
    with _locked(directory, fcntl.LOCK_EX if write else fcntl.LOCK_SH, busy):
        yield


def is_written(directory: Path) -> bool:
    """Whether a run holds the volume's `content_lock` for writing."""
    try:
        with _locked(directory, fcntl.LOCK_SH, ""):
            return False
    except VolumeBusy:
        return True


@contextmanager
def hook_locks(
    state_directory: Path, containers: Mapping[str, str], note: Callable[[str], object]
) -> Iterator[None]:
    """Of containers with hooks, given by id with their names. Waits for each, and says so by `note`."""
    directory = state_directory / "hooks"
    with ExitStack() as stack:
        for container in sorted(containers):
            try:
                directory.mkdir(parents=True, mode=0o700, exist_ok=True)
                path = directory / sha256(container.encode()).hexdigest()[:32]
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise VolferryError(f"cannot write to {directory}: {reason(error)}") from error
            stack.callback(os.close, descriptor)
            try:
                lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, state_directory)
            except BlockingIOError:
                note(f"waiting: another run has hooks of container {containers[container]} to run afterwards")
                lock(descriptor, fcntl.LOCK_EX, state_directory)
        yield


@contextmanager
def _locked(directory: Path, kind: int, busy: str) -> Iterator[None]:
    """Raises VolumeBusy, with the text `busy`, and VolferryError if no lock can be had."""
    try:
        directory.mkdir(parents=True, mode=0o700, exist_ok=True)
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise VolferryError(f"cannot write to the state directory {directory}: {reason(error)}") from error
    try:
        try:
            lock(descriptor, kind | fcntl.LOCK_NB, directory)
        except BlockingIOError as error:
            raise VolumeBusy(busy) from error
        yield
    finally:
        os.close(descriptor)
