"""What runs that died have left stopped, paused or scaled, and what is still so: looked at, and not changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from volferry.engine.containers import ENGINE_DIED, find_container
from volferry.engine.swarm import replicas_of
from volferry.errors import EngineError
from volferry.journal import journals_of_the_dead

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from volferry.engine.client import Engine
    from volferry.journal import Action, Halt


@dataclass(frozen=True, slots=True)
class Down:
    """One container or service, or a hook that is still to be run."""

    action: Action
    name: str
    run: str  # the id of the run that died
    since: datetime
    elsewhere: str  # how the engine is reached, if it is another one


def still_down(state_directory: Path, engine: Engine | None) -> list[Down]:
    """What the next run would bring back. Of another engine, or where the engine does not answer, it is what the journals say.
    Raises VolferryError where a journal cannot be read.
    """
    found: list[Down] = []
    for journal, halts in journals_of_the_dead(state_directory):
        engine_id, url = journal.engine
        is_here = engine is not None and engine_id in {"", engine.id}
        elsewhere = url if engine is not None and not is_here else ""
        found += [
            Down(halt.action, halt.name, journal.run_id, journal.since, elsewhere)
            for halt in sorted(halts, key=lambda each: each.order)
            if halt.state != "planned" and not (engine is not None and is_here and _is_up(engine, halt))
        ]
    return found


def _is_up(engine: Engine, halt: Halt) -> bool:
    """Or gone, or as a person has left it since: as a replay would find it, which leaves it as it is then."""
    try:
        if halt.action == "hook":
            return False
        if halt.action == "scale":
            now = replicas_of(engine, halt.id)
            return now is None or now[1] > 0
        container = find_container(engine, halt.id)
    except EngineError:
        return False
    if container is None:
        return True
    if halt.action == "pause":
        died = container.state == "exited" and container.exit_code == ENGINE_DIED
        return container.state != "paused" and not died
    return container.state != "exited" or halt.after not in {"", container.finished_at}
