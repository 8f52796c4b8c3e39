"""volferry, with a pause after each pass of a migration: `python -m tests.parts.between_migration_passes DIRECTORY ARGUMENTS…`. At each it makes
the file `pass` there, and goes on when that is gone.
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


def paused_after(function: Callable[..., Any], place: Path) -> Callable[..., Any]:
    def followed_by_a_pause(transfer: Transfer, *, last: bool = False) -> Any:
        result = function(transfer, last=last)
        if not last:
            place.touch()
            while place.exists():
                time.sleep(0.002)
        return result

    return followed_by_a_pause


if __name__ == "__main__":
    directory = Path(sys.argv.pop(1))
    Transfer.run = paused_after(Transfer.run, directory / "pass")  # type: ignore[method-assign]
    run()
