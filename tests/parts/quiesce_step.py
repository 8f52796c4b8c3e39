"""Stops what writes to a volume, and is killed at a chosen step: `python -m tests.parts.quiesce_step ENGINE STATE VOLUME MODE STEP`.

A step is one look at, or request to, a container, or one entry of the journal: the process ends just before it takes the one with
that number, or, by itself, once there are no more; on stdout are the number of the last step before all stand still, and that of the last one.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from volferry import journal as journals
from volferry.engine.client import connect
from volferry.journal import Journal
from volferry.operations import coming_back, halting, quiesce
from volferry.operations.quiesce import Mode, Quiesced
from volferry.run import begin_run

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS = ("find_container", "stop", "start", "pause", "unpause", "scale")


class Steps:
    def __init__(self, last: int) -> None:
        self.count = 0
        self._last = last

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **more: Any) -> Any:
            self.count += 1
            if self.count == self._last:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **more)

        return step


def main(engine: str, state: str, volume: str, mode: str, step: str) -> None:
    steps = Steps(int(step))
    coming_back.STEADY_SECONDS = 0.1
    for module in (quiesce, halting, coming_back):
        for name in STEPS:
            if hasattr(module, name):
                setattr(module, name, steps.counted(getattr(module, name)))
    journals.Journal.write = steps.counted(journals.Journal.write)  # type: ignore[method-assign]
    with begin_run(Path(state)) as run:
        quiesced = Quiesced(
            connect(engine),
            [volume],
            cast("Mode", mode),
            warm=False,
            journal=Journal.of_run(Path(state), run.id),
            own=[],
            note=print,
        )
        quiesced.begin()
        print(steps.count)
        quiesced.end()
        quiesced.await_up()
    print(steps.count)


if __name__ == "__main__":
    main(*sys.argv[1:])
