"""Removes the containers that dead runs left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import docker.errors

from volferry.engine.client import Engine, translated
from volferry.engine.helper import remove_container
from volferry.engine.labels import OWNER, ROLE, RUN, is_ours
from volferry.run import is_alive

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# Runs of another volferry on this engine cannot be asked. Its helper ends with it, so a run of which no helper runs,
# and that is older than any start takes, is dead.
_FOREIGN_SECONDS = 3600


def reap(engine: Engine, state_directory: Path, owner: str) -> int:
    """Returns how many containers were removed. Living runs, of whoever, keep theirs."""
    with translated("looking for left-overs"):
        found = engine.api.containers(all=True, filters={"label": [ROLE]})
    running = {each["Labels"].get(RUN) for each in found if each.get("State") == "running"}
    removed = 0
    for each in filter(is_ours, found):
        run_id = each["Labels"].get(RUN, "")
        if each["Labels"].get(OWNER) == owner:
            dead = not is_alive(state_directory, run_id)
        else:
            dead = (
                run_id not in running and engine.now().timestamp() - each.get("Created", 0) > _FOREIGN_SECONDS
            )
        if dead and not _labelled_by_image(engine, each):
            remove_container(engine, each["Id"])
            removed += 1
    return removed


def _labelled_by_image(engine: Engine, listed: Mapping[str, Any]) -> bool:
    """Then it is somebody's, whatever it looks like: no image that we use has such labels."""
    with translated("looking for left-overs"):
        try:
            image = engine.api.inspect_image(listed["ImageID"])
        except docker.errors.NotFound:  # it was removed by force
            return False
    return ROLE in ((image.get("Config") or {}).get("Labels") or {})
