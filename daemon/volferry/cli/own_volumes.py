"""Where volferry's own directories are, by the configuration: volumes that hold one are never backed up."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from volferry.errors import UsageError

if TYPE_CHECKING:
    from volferry.config import Config


def own_directories(config: Config) -> dict[str, Path]:
    """By what they are."""
    from volferry.stores.places import place_of  # noqa: PLC0415 -- only commands that look for volumes need it

    # Of the others, one may be on a share that hangs: they are not looked at.
    found = {"the state directory": Path(os.path.realpath(config.state_dir))}
    for number, store in enumerate([config.store_config, *config.stores.values()]):
        try:
            place = place_of(store.url)
        except UsageError:  # of one that is not in use
            continue
        if isinstance(place, Path):
            found.setdefault(
                f"the store {store.url}",
                Path(os.path.realpath(place) if number == 0 else os.path.normpath(place)),
            )
    return found
