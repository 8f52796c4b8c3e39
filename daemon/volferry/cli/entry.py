"""Where the `volferry` command begins: signals are heeded before anything that takes time is imported."""

from __future__ import annotations

import sys
from typing import NoReturn

from volferry import interrupts
from volferry.errors import Interrupted


def run() -> NoReturn:
    """Ends the process with one of the exit codes."""
    try:
        interrupts.install()
        from volferry.cli.main import exit_code  # noqa: PLC0415 -- half a second of imports, which Ctrl-C may end

        code = exit_code()
        interrupts.ignore()  # what is left is the interpreter's end
    except Interrupted as error:
        print(f"volferry: {error}", file=sys.stderr, flush=True)
        code = error.exit_code
    sys.exit(code)
