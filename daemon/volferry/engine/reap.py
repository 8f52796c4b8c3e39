"""Removes the containers that dead runs left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from volferry.engine.client import Engine, translated
from volferry.engine.container_labels import is_own
from volferry.engine.helper_containers import remove_container
from volferry.engine.labels import OWNER, ROLE, RUN, STANDSTILL
from volferry.run import is_alive

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Runs of another volferry on this engine cannot be asked. Its helper ends with it, so a run of which no helper runs,
# and that is older than any start takes, is dead.
_FOREIGN_SECONDS = 3600


def reap(engine: Engine, state_directory: Path, owner: str) -> int:
    """Returns how many containers were removed. Living runs, of whoever, keep theirs."""
    removed = 0
    for each in left_over(engine, state_directory, owner):
        remove_container(engine, each["Id"])
        removed += 1
    return removed


def left_over(engine: Engine, state_directory: Path, owner: str) -> Iterator[dict[str, Any]]:
    """Containers of dead runs, as the engine lists them."""
    found = own_containers(engine)
    running = {each["Labels"][RUN] for each in found if each.get("State") == "running"}
    for each in found:
        run_id = each["Labels"][RUN]
        if each["Labels"][OWNER] != owner and each["Labels"].get(STANDSTILL):
            continue  # it says what is down: whoever brings that back removes it
        if each["Labels"][OWNER] == owner:
            dead = not is_alive(state_directory, run_id)
        else:
            dead = (
                run_id not in running and engine.now().timestamp() - each.get("Created", 0) > _FOREIGN_SECONDS
            )
        if dead:
            yield each


def own_containers(engine: Engine) -> list[dict[str, Any]]:
    """All that a volferry has made on the engine, this one or another, as the engine lists them."""
    with translated("looking for left-overs"):
        found = engine.api.containers(all=True, filters={"label": [ROLE]})
    return [each for each in found if is_own(engine, each)]
