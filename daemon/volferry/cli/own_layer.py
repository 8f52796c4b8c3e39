"""Stores that would go with the container that volferry itself runs in: nothing is mounted where they are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from volferry.cli.output import say
from volferry.errors import EngineError, NoSuchStore, StoreError, UsageError

if TYPE_CHECKING:
    from volferry.cli.session import Session
    from volferry.stores.base import Store


def check_outlives_us(session: Session, store: Store) -> None:
    """Before a backup or a copy writes there. Raises StoreError where a new store would go with our container, and warns of one
    that is there already.
    """
    from volferry.repository import Repository  # noqa: PLC0415 -- slow to import

    if not (lost := lost_with_us(session, store.url)):
        return
    try:
        Repository.open(store)
    except NoSuchStore:
        raise StoreError(f"no store was made: {store.url} {lost}, or name another store") from None
    say(f"the store {store.url} {lost}")


def lost_with_us(session: Session, place: str) -> str:
    """Why what is kept at a path or URL goes with the container that we run in, and what to do; empty where it does not, or nobody can know."""
    from volferry.engine.own import Surroundings, own_container  # noqa: PLC0415 -- docker-py is slow to import
    from volferry.stores.places import place_of  # noqa: PLC0415

    try:
        path = place_of(place)
    except UsageError:  # of one that is not in use
        return ""
    if not isinstance(path, Path):
        return ""
    here = Surroundings.seen()
    # Without the engine, where that is enough.
    if not here.in_container or here.is_mounted(real := _real(path)):
        return ""
    try:
        own = own_container(session.engine, here)
    except EngineError:
        return ""
    if own is None:
        return ""
    state = _real(session.config.state_dir)
    mount = state if real.is_relative_to(state) else real
    return f"is in this container's own layer, and goes with the container: mount a volume at {mount} (`docker run --volume NAME:{mount} …`)"


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))
