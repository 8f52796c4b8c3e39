"""One volferry of an engine at a time has anything stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volferry.engine.engine_lock import engine_lock

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from volferry.cli.session import Session
    from volferry.engine.client import Engine
    from volferry.engine.helper import HelperSettings
    from volferry.run import Run

_WAIT_SECONDS = 2 * 3600.0  # longer than others may have anything stopped, unless they are told to


def standstill(
    session: Session,
    settings: HelperSettings,
    run: Run,
    note: Callable[[str], object],
    engine: Engine | None,
    stops: Callable[[], str],
) -> AbstractContextManager[None]:
    """The lock of the engine, or of another one. `stops` gives what is about to be stopped."""
    state = session.config.state_dir
    return engine_lock(
        engine or session.engine, settings.image, run, state, seconds=_WAIT_SECONDS, note=note, stops=stops
    )
