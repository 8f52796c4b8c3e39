"""volferry, with a pause in the last pass of a migration: `python -m tests.parts.in_last_pass FILE ARGUMENTS…`. There it makes the file, and goes on when
that is gone.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volferry.cli.entry import run
from volferry.operations.transfer import Transfer

if TYPE_CHECKING:
    from collections.abc import Callable


def paused_before(function: Callable[..., Any], place: Path) -> Callable[..., Any]:
    def preceded_by_a_pause(transfer: Transfer, *, last: bool = False) -> Any:
        if last:
            place.touch()
            while place.exists():
                time.sleep(0.002)
        return function(transfer, last=last)

    return preceded_by_a_pause


if __name__ == "__main__":
    file = Path(sys.argv.pop(1))
    Transfer.run = paused_before(Transfer.run, file)  # type: ignore[method-assign]
    run()
