"""By which others see that the daemon does its work, also where it listens nowhere: a file in the state directory that it writes again and again."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from volferry.daemon_lock import daemon_runs

if TYPE_CHECKING:
    from pathlib import Path

_FILE = "daemon.beat"
_EVERY_SECONDS = 10.0
_SILENT_SECONDS = 600.0  # of one look, with all that it may wait for


class Heartbeat:
    """Of the daemon of that state directory."""

    def __init__(self, state_directory: Path) -> None:
        self._path = state_directory / _FILE
        self._last = 0.0

    def beat(self) -> None:
        """Now and then; asked for more often, it does nothing. Where it cannot be written, others take the daemon for one that hangs."""
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        if now - self._last < _EVERY_SECONDS:
            return
        self._last = now
        with suppress(OSError):
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                os.pwrite(descriptor, b"%020.3f\n" % now, 0)  # in its place: a full disk takes it, too
            finally:
                os.close(descriptor)


def why_not_well(state_directory: Path) -> str:
    """Of the daemon of that state directory; empty if it does its work. Raises VolferryError where that cannot be found out."""
    path = state_directory / _FILE
    if not path.exists():
        return f"no daemon works with the state directory {state_directory}"
    if not daemon_runs(state_directory):
        return f"no daemon works with the state directory {state_directory}"
    try:
        silent = time.clock_gettime(time.CLOCK_BOOTTIME) - float(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return f"its heartbeat cannot be read: {path}"
    # One that is to come is of the time before the machine started.
    return "" if -1 <= silent <= _SILENT_SECONDS else f"nothing was done for {abs(silent):.0f} s"
