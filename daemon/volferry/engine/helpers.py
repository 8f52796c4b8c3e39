"""Helpers of several volumes at once: each has one of its own, and nothing that one volume holds reaches another."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from volferry.engine.channel import InputRefused
from volferry.engine.client import DEATH_SECONDS
from volferry.engine.helper import HelperInBackground
from volferry.errors import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from volferry.engine.client import Engine
    from volferry.engine.helper import Helper, HelperSettings
    from volferry.model import HostPath, Volume
    from volferry.run import Run

_AT_ONCE = 8  # an engine that makes more at the same time is not faster


@contextmanager
def open_helpers(
    engine: Engine,
    run: Run,
    settings: HelperSettings,
    volumes: Sequence[Volume | HostPath],
    *,
    write: bool = False,
) -> Iterator[dict[str, Helper]]:
    """By the names of the volumes. As `open_helper`, for each."""
    with ExitStack() as stack:
        found: dict[str, Helper] = {}
        opened: list[HelperInBackground] = []
        for at in range(0, len(volumes), _AT_ONCE):
            some = volumes[at : at + _AT_ONCE]
            opened += [
                stack.enter_context(HelperInBackground(engine, run, settings, [each], write=write))
                for each in some
            ]
            found |= {each.name: helper.wait() for each, helper in zip(some, opened[at:], strict=True)}
        try:
            yield found
        except (CommandFailed, InputRefused):  # each would wait for its own death
            deadline = time.monotonic() + DEATH_SECONDS
            for each, helper in zip(opened, found.values(), strict=True):
                if not helper.death.wait(max(0.0, deadline - time.monotonic())):
                    each.release()
            raise
        for each in opened:  # they go away together
            each.release()
