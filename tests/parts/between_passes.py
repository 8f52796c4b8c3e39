"""volferry, with a pause between the two passes of a warm backup, and one once the volume was read: `python -m
tests.parts.between_passes DIRECTORY ARGUMENTS…`. At each it makes the file `first` (`second`) there, and goes on when that is gone.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volferry.archive.blocks import Fingerprints
from volferry.cli.entry import run
from volferry.operations.volume_reading import VolumeReading

if TYPE_CHECKING:
    from collections.abc import Callable

PAUSE = "first", "second"


def paused_after(function: Callable[..., Any], place: Path) -> Callable[..., Any]:
    def followed_by_a_pause(*arguments: Any) -> Any:
        result = function(*arguments)
        place.touch()
        while place.exists():
            time.sleep(0.005)
        return result

    return followed_by_a_pause


if __name__ == "__main__":
    directory = Path(sys.argv.pop(1))
    Fingerprints.close = paused_after(Fingerprints.close, directory / "first")  # type: ignore[method-assign]
    VolumeReading.capture = paused_after(VolumeReading.capture, directory / "second")  # type: ignore[method-assign]
    run()
