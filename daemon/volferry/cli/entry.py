"""Where the `volferry` command begins: signals are heeded before anything that takes time is imported."""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from typing import NoReturn

from volferry import interrupts
from volferry.errors import Interrupted


def run() -> NoReturn:
    """Ends the process with one of the exit codes."""
    # What is imported stays: looking for cycles in it takes a tenth of the time. The commands have it enabled again.
    gc.disable()
    try:
        interrupts.install()
        from volferry.cli.main import exit_code  # noqa: PLC0415 -- half a second of imports, which Ctrl-C may end

        code = exit_code()
        interrupts.ignore()  # what is left is the interpreter's end
    except Interrupted as error:
        with suppress(OSError):  # stderr may be as it came to us
            print(f"volferry: {error}", file=sys.stderr, flush=True)
        code = error.exit_code
    # Everything is closed and written. An interpreter that takes itself apart first would only cost time.
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
