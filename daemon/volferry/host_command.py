"""Commands on the machine that volferry runs on."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

_SAID_BYTES = 4096


def run_on_host(line: str, *, timeout: timedelta, environment: Mapping[str, str]) -> tuple[int | None, str]:
    """Runs a line of `sh`. Its exit status, None if it was ended with all that it had started because it took too long; and
    the last line of what it said.
    """
    with tempfile.TemporaryFile() as output:
        # A group of its own: Ctrl-C is for volferry, and what it has started ends with it.
        with subprocess.Popen(
            ["sh", "-c", line],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **environment},
            start_new_session=True,
        ) as process:
            status: int | None = None
            try:
                status = process.wait(timeout.total_seconds())
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        output.seek(max(0, output.seek(0, os.SEEK_END) - _SAID_BYTES))
        lines = [each.strip() for each in output.read().decode("utf-8", "replace").splitlines()]
    return status, next((each for each in reversed(lines) if each), "")
