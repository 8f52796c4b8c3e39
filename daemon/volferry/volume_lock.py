"""One run at a time that writes to, or deletes from, one volume's part of one store, on this machine.

The lock is the kernel's (flock): it ends with the process, however that ends.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from volferry.errors import VolferryError, VolumeBusy, reason

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def volume_lock(directory: Path, volume: str) -> Iterator[None]:
    """`directory` is what the state directory has for the volume. Raises VolumeBusy while another run has it."""
    try:
        directory.mkdir(parents=True, mode=0o700, exist_ok=True)
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise VolferryError(f"cannot write to the state directory {directory}: {reason(error)}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise VolumeBusy(
                f"another run is at work on the backups of volume {volume}: wait for its end"
            ) from error
        yield
    finally:
        os.close(descriptor)
