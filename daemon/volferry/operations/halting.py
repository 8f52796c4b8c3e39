"""One container or Swarm service that is to stand still: how, doing it, and whether it stays so."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from volferry.engine.containers import find_container, pause, stop
from volferry.engine.swarm import replicas_of, running_tasks, scale
from volferry.errors import EngineError
from volferry.journal import Halt

if TYPE_CHECKING:
    from collections.abc import Callable

    from volferry.engine.client import Engine
    from volferry.engine.containers import Container
    from volferry.journal import Action
    from volferry.operations.quiesce import Mode


def halt_of(
    engine: Engine, container: Container, mode: Mode, order: int, note: Callable[[str], object]
) -> Halt:
    if mode == "stop" and container.swarm_service is not None:
        found = replicas_of(engine, container.swarm_service)
        if found is not None:
            return Halt("scale", container.swarm_service, found[0], order, str(found[1]))
    action: Action = "pause" if mode == "pause" else "stop"
    if mode == "stop" and container.auto_remove:
        note(f"container {container.name} would be removed when it stops (--rm): it is paused instead")
        action = "pause"
    elif mode == "stop" and container.is_job:
        note(
            f"container {container.name} would begin its work again when it is started: it is paused instead"
        )
        action = "pause"
    if container.state != "running" or container.stopping:  # one that is being restarted cannot be paused
        action = "stop"
    return Halt(
        action,
        container.id,
        container.name,
        order,
        container.started_at,
        service=container.place,
        unhealthy=container.health == "unhealthy" or container.state == "restarting",
    )


def halted(engine: Engine, halt: Halt) -> Halt:
    """Does it. Raises EngineError."""
    if halt.action == "scale":
        scale(engine, halt.id, 0)
        return replace(halt, state="done")
    container = find_container(engine, halt.id)
    if container is None or not container.runs:
        return replace(halt, state="planned")  # somebody was faster
    if halt.action == "pause":
        pause(engine, container)
        return replace(halt, state="done")
    stop(engine, container)
    now = find_container(engine, halt.id)
    if now is None and container.stopping:
        return replace(halt, state="planned")  # who stops it, or --rm, has removed it
    return replace(halt, state="done", after=now.finished_at if now is not None else "")


def refused(engine: Engine, halt: Halt) -> bool:
    """Whether the engine, which has answered, has not done it and does not, for certain."""
    try:
        if halt.action == "scale":
            now = replicas_of(engine, halt.id)
            return now is None or now[1] > 0
        container = find_container(engine, halt.id)
    except EngineError:
        return False
    if container is None or container.stopping:
        return False
    return container.state == "running" and container.started_at == halt.before


def has_moved(engine: Engine, halt: Halt) -> bool:
    """Whether what was stopped ran again, or runs."""
    if halt.action == "scale":
        now = replicas_of(engine, halt.id)
        return now is not None and (now[1] > 0 or running_tasks(engine, halt.id) > 0)
    container = find_container(engine, halt.id)
    if container is None:  # whatever is in its place is looked at besides
        return False
    if halt.action == "pause":
        return container.state != "paused" or container.started_at != halt.before
    return container.runs or container.finished_at != halt.after
