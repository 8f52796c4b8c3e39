"""Swarm services: how many replicas they have, and changing that."""

from __future__ import annotations

import time
from typing import Any

import docker.errors

from volferry.engine.client import Engine, translated
from volferry.errors import EngineError

_LOOK_SECONDS = 0.1
_STOP_SECONDS = 120
_ATTEMPTS = 3


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
        _await_none(engine, service, found["Spec"]["Name"])


def await_running(engine: Engine, service: str, replicas: int, *, seconds: float) -> bool:
    """Whether so many tasks of a service run, on whatever nodes, before that time is over."""
    end = time.monotonic() + seconds
    while True:
        with translated("looking for the tasks of a Swarm service"):
            tasks = engine.api.tasks(filters={"service": service, "desired-state": "running"})
        if sum(task["Status"]["State"] == "running" for task in tasks) >= replicas:
            return True
        if time.monotonic() > end:
            return False
        time.sleep(_LOOK_SECONDS)


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


def _await_none(engine: Engine, service: str, name: str) -> None:
    end = time.monotonic() + _STOP_SECONDS
    while time.monotonic() < end:
        with translated(f"Swarm service {name}"):
            running = engine.api.containers(filters={"label": f"com.docker.swarm.service.id={service}"})
        if not running:
            return
        time.sleep(_LOOK_SECONDS)
    raise EngineError(f"Swarm service {name} did not stop within {_STOP_SECONDS} s")


def _service(engine: Engine, service: str) -> Any:
    with translated(f"Swarm service {service}"):
        try:
            return engine.api.inspect_service(service)
        except docker.errors.NotFound:
            return None
