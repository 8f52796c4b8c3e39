"""Swarm services: how many replicas they have, and changing that."""

from __future__ import annotations

import time
from typing import Any

import docker.errors

from volferry.engine.client import Engine, translated
from volferry.errors import EngineError

_LOOK_SECONDS = 0.1
_STOP_SECONDS = 120
_LONGER_SECONDS = 30
_ATTEMPTS = 3
_NO_MANAGER = "This node is not a swarm manager"  # as Docker says it
# Docker's states of a task that may have a container which runs.
_AT_WORK = {"assigned", "accepted", "preparing", "ready", "starting", "running"}


def replicas_of(engine: Engine, service: str) -> tuple[str, int] | None:
    """Name and wanted replicas; None if it is gone. Raises EngineError for a service that cannot be scaled."""
    found = _service(engine, service)
    if found is None:
        return None
    name = str(found["Spec"]["Name"])
    mode = found["Spec"].get("Mode") or {}
    if "Replicated" not in mode:
        raise EngineError(
            f"Swarm service {name} is not replicated and cannot be scaled: use quiesce = pause for its volumes"
        )
    return name, int(mode["Replicated"].get("Replicas", 1))


def scale(engine: Engine, service: str, replicas: int) -> None:
    """Asks for so many; of none, waits until there are none."""
    found: Any = None
    for attempt in range(_ATTEMPTS):
        found = _service(engine, service)
        if found is None:
            return
        try:
            _update(engine, service, found, replicas)
            break
        except EngineError as error:
            # Somebody has changed it since it was looked at.
            if "out of sequence" not in str(error) or attempt == _ATTEMPTS - 1:
                raise
    if replicas == 0:
        _await_none(engine, service, found["Spec"])


def running_tasks(engine: Engine, service: str) -> int:
    """How many tasks of a service run and are to run, on whatever nodes."""
    with translated("looking for the tasks of a Swarm service"):
        tasks = engine.api.tasks(filters={"service": service, "desired-state": "running"})
    return sum(task["Status"]["State"] == "running" for task in tasks)


def _update(engine: Engine, service: str, found: Any, replicas: int) -> None:
    spec = found["Spec"]
    spec["Mode"]["Replicated"]["Replicas"] = replicas
    with translated(f"scaling Swarm service {spec['Name']}"):
        # docker-py's own update_service knows less of a specification than the engine does: it is sent back as it came.
        api = engine.api
        response = api._post_json(  # noqa: SLF001
            api._url("/services/{0}/update", service),  # noqa: SLF001
            data=spec,
            params={"version": found["Version"]["Index"]},
        )
        api._raise_for_status(response)  # noqa: SLF001


def _await_none(engine: Engine, service: str, spec: Any) -> None:
    """Until no task of it runs, on this node or another one: a volume may be of all of them."""
    container = (spec.get("TaskTemplate") or {}).get("ContainerSpec") or {}
    grace = int(container.get("StopGracePeriod") or 0) / 1e9  # nanoseconds
    seconds = max(_STOP_SECONDS, grace + _LONGER_SECONDS)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with translated(f"Swarm service {spec['Name']}"):
            here = engine.api.containers(filters={"label": f"com.docker.swarm.service.id={service}"})
            tasks = engine.api.tasks(filters={"service": service})
        if not here and not any(task["Status"]["State"] in _AT_WORK for task in tasks):
            return
        time.sleep(_LOOK_SECONDS)
    raise EngineError(f"Swarm service {spec['Name']} did not stop within {seconds:.0f} s")


def _service(engine: Engine, service: str) -> Any:
    with translated(f"Swarm service {service}"):
        try:
            return engine.api.inspect_service(service)
        except docker.errors.NotFound:
            return None
        except docker.errors.APIError as error:
            if _NO_MANAGER not in str(error.explanation):
                raise
            name = _name_of(engine, service)
            raise EngineError(
                f"Swarm service {name} cannot be scaled from this node, which is no manager: use quiesce = pause for its volumes here"
            ) from error


def _name_of(engine: Engine, service: str) -> str:
    """As its containers here say, where only a manager could be asked."""
    found = engine.api.containers(filters={"label": f"com.docker.swarm.service.id={service}"})
    names = [(each.get("Labels") or {}).get("com.docker.swarm.service.name") for each in found]
    return next((str(name) for name in names if name), service)
