"""What runs that died have left stopped, paused or scaled, and what is still so: looked at, and not changed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from volferry.engine.containers import ENGINE_DIED, find_container, find_successor
from volferry.engine.swarm import replicas_of
from volferry.errors import EngineError
from volferry.journal import journals_of_the_dead, unreadable_journals
from volferry.operations.not_back import why_down
from volferry.operations.recovery import is_of

if TYPE_CHECKING:
    from pathlib import Path

    from volferry.engine.client import Engine
    from volferry.journal import Action, Halt


@dataclass(frozen=True, slots=True)
class Down:
    """One container or service, a hook that is still to be run, or a journal that nothing can be known from."""

    action: Action | Literal["journal"]  # one that cannot be believed
    name: str
    run: str  # the id of the run that died
    since: datetime
    elsewhere: str  # how the engine is reached, if it is another one
    error: str = ""  # why it is not up
    by_hand: bool = False  # no command can know what is to be done


def still_down(state_directory: Path, engine: Engine | None) -> list[Down]:
    """What the next run would bring back. Of another engine, or where the engine does not answer, it is what the journals say.
    Raises VolferryError where a journal cannot be read.
    """
    found: list[Down] = []
    for journal, halts in journals_of_the_dead(state_directory):
        is_here = engine is not None and is_of(engine, journal, halts)
        elsewhere = journal.engine[1] if engine is not None and not is_here else ""
        found += [
            Down(
                halt.action,
                halt.name,
                journal.run_id,
                journal.since,
                elsewhere,
                why_down(halt, journal.run_id),
                halt.state == "handed",
            )
            for halt in sorted(halts, key=lambda each: each.order)
            if halt.state != "planned" and not (engine is not None and is_here and _is_up(engine, halt))
        ]
    found += [
        Down(
            "journal",
            str(each.path),
            each.run_id,
            datetime.fromtimestamp(each.path.stat().st_mtime, UTC),
            "",
            each.why,
        )
        for each in unreadable_journals(state_directory)
    ]
    return found


def _is_up(engine: Engine, halt: Halt) -> bool:
    """Or as a person has left it since: as a replay would find it, which leaves it as it is then."""
    try:
        if halt.action == "hook" or (halt.state == "started" and halt.error):
            return False
        if halt.action == "scale":
            now = replicas_of(engine, halt.id)
            return now is not None and now[1] > 0
        container = find_container(engine, halt.id)
        if container is None:
            container = find_successor(engine, halt.id, halt.name, halt.service)
            return container is not None and container.runs
    except EngineError:
        return False
    if halt.action == "pause":
        died = container.state == "exited" and container.exit_code == ENGINE_DIED
        return container.state != "paused" and not died
    if container.stopping:
        return False
    return container.state != "exited" or (
        halt.state != "started" and halt.after not in {"", container.finished_at}
    )
