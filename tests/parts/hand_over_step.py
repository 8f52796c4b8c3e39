"""volferry, killed within the hand-over of a migration: `STEP ARGUMENTS…`. A step is a look at a container, a start or stop of one, or an entry of the
journal: the process ends just before it takes the one with that number, or, by itself, once there are no more; then on stderr is how many there were.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from volferry import interrupts
from volferry.cli import migration_containers, migration_cutover
from volferry.cli.main import exit_code
from volferry.engine import containers
from volferry.journal import Journal
from volferry.operations import coming_back, quiesce

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = ("find_container", "start", "stop")


class Steps:
    """Of what is done from the hand-over on."""

    def __init__(self, last: int) -> None:
        self.count = 0
        self._counts = False
        self._last = last

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **more: Any) -> Any:
            self.count += self._counts
            if self._counts and self.count == self._last:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **more)

        return step

    def begun_by(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def begin(*arguments: Any, **more: Any) -> Any:
            self._counts = True
            return function(*arguments, **more)

        return begin


def main(step: str, *arguments: str) -> None:
    steps = Steps(int(step))
    migration_containers._SETTLE_SECONDS = 0.1
    for module in (containers, quiesce, coming_back):
        for name in NAMES:
            if hasattr(module, name):
                setattr(module, name, steps.counted(getattr(module, name)))
    for name in ("write", "end"):
        setattr(Journal, name, steps.counted(getattr(Journal, name)))
    migration_cutover._hand_over = steps.begun_by(migration_cutover._hand_over)
    sys.argv = ["volferry", *arguments]
    interrupts.install()
    code = exit_code()
    print("steps:", steps.count, file=sys.stderr)
    sys.exit(code)
