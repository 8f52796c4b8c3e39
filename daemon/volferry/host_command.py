"""Commands on the machine that volferry runs on."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from typing import IO, TYPE_CHECKING

from volferry.redaction import Redaction

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

_SAID_BYTES = 64 << 10
_OURS = ("VOLFERRY_", "AWS_")


def run_on_host(line: str, *, timeout: timedelta, environment: Mapping[str, str]) -> tuple[int | None, str]:
    """Runs a line of `sh`. Its exit status, None if it was ended with all that it had started because it took too long; and
    the last line of what it said that may be shown.
    """
    with tempfile.TemporaryFile() as output:
        # A group of its own: Ctrl-C is for volferry, and what it has started ends with it.
        with subprocess.Popen(
            ["sh", "-c", line],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**_without_secrets(os.environ), **environment},
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
        said = _last_lines(output)
    redaction = Redaction(["sh", "-c", line], {**os.environ, **environment})
    return status, redaction.first_of(reversed(said))


def _last_lines(output: IO[bytes]) -> list[bytes]:
    start = max(0, output.seek(0, os.SEEK_END) - _SAID_BYTES)
    output.seek(start)
    if start:
        output.readline()  # the end of a line, perhaps of a password
    return output.read().splitlines()


def _without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Neither a store's credentials nor whom volferry tells are a command's business."""
    return {name: value for name, value in environment.items() if not name.upper().startswith(_OURS)}
