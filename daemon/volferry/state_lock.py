"""The kernel's locks (flock) on files of the state directory: whether another run has one, or none can be had."""

from __future__ import annotations

import fcntl
from typing import TYPE_CHECKING

from volferry.errors import VolferryError, reason

if TYPE_CHECKING:
    from pathlib import Path


def lock(descriptor: int, kind: int, directory: Path) -> None:
    """Ends with the descriptor. `kind` as flock has it; `directory` is what errors name. Raises BlockingIOError while another run has it, and
    VolferryError where the file system has no locks: no wait helps there.
    """
    try:
        fcntl.flock(descriptor, kind)
    except BlockingIOError:
        raise
    except OSError as error:
        raise no_locks(directory, error) from error


def no_locks(directory: Path, error: OSError) -> VolferryError:
    return VolferryError(
        f"the file system of the state directory {directory} has no locks: {reason(error)}: put it on another one (state_dir)"
    )
