"""Containers of applications: who writes to a volume, and stopping, pausing and starting them again."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import docker.errors

from volferry.engine.client import Engine, translated
from volferry.engine.labels import ROLE

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_PROJECT = "com.docker.compose.project"
_SERVICE = "com.docker.compose.service"
_DEPENDS_ON = "com.docker.compose.depends_on"  # db:service_healthy:false,cache:service_started:true
_SWARM_SERVICE = "com.docker.swarm.service.id"

ENGINE_DIED = 255  # the exit code of what ran when the engine, or the machine, went down
_USUAL_STOP_SECONDS = 10  # of a container that says nothing
_ANSWER_SECONDS = 60  # over a container's own time to stop
_LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Container:
    """One container of an application, as the engine describes it at one moment."""

    id: str
    name: str
    state: str  # Docker's: created, running, paused, restarting, removing, exited, dead
    started_at: str  # RFC 3339; so is `finished_at`
    finished_at: str
    auto_remove: bool
    health: str | None  # starting, healthy, unhealthy; None without a health check
    stop_seconds: int
    project: str | None
    service: str | None
    depends_on: frozenset[str]  # compose services of the same project
    swarm_service: str | None
    restart_policy: str = ""  # Docker's: no, always, unless-stopped, on-failure
    exit_code: int = 0  # of the last time that it ran

    @property
    def runs(self) -> bool:
        return self.state in {"running", "restarting"}


def find_container(engine: Engine, container_id: str) -> Container | None:
    """None if it is gone."""
    with translated(f"container {container_id[:12]}"):
        try:
            found = engine.api.inspect_container(container_id)
        except docker.errors.NotFound:
            return None
    return container_of(found)


def writers(engine: Engine, volume: str, *, but: Collection[str] = ()) -> list[Container]:
    """Running containers, of whatever project, that mount `volume` read-write; without ours, and those whose ids are in
    `but`. An absolute path is a bind mount: of it, of what is below it, or of what it is below.
    """
    is_path = volume.startswith("/")
    with translated(f"volume {volume}"):
        found = engine.api.containers(filters={} if is_path else {"volume": volume})
    mine = [
        each["Id"]
        for each in found
        if ROLE not in (each.get("Labels") or {})
        and each["Id"] not in but
        and any(
            mount.get("RW") and (_meets(mount, volume) if is_path else mount.get("Name") == volume)
            for mount in each.get("Mounts") or []
        )
    ]
    inspected = (find_container(engine, each) for each in mine)
    return [each for each in inspected if each is not None and each.runs]


def _meets(mount: Mapping[str, Any], path: str) -> bool:
    source = PurePosixPath(mount.get("Source") or "/")
    return mount.get("Type") == "bind" and (
        source.is_relative_to(path) or PurePosixPath(path).is_relative_to(source)
    )


def stop(engine: Engine, container: Container) -> None:
    """With its own signal and as much time as it wants. Raises EngineError."""
    with translated(f"stopping container {container.name}"):
        usual = engine.api.timeout
        try:
            # docker-py waits ten seconds longer than `timeout`, which would overrule the container's own.
            engine.api.timeout = container.stop_seconds + _ANSWER_SECONDS
            engine.api.stop(container.id)
        finally:
            engine.api.timeout = usual


def start(engine: Engine, container: Container) -> None:
    with translated(f"starting container {container.name}"):
        engine.api.start(container.id)


def pause(engine: Engine, container: Container) -> None:
    with translated(f"pausing container {container.name}"):
        engine.api.pause(container.id)


def unpause(engine: Engine, container: Container) -> None:
    with translated(f"going on with container {container.name}"):
        engine.api.unpause(container.id)


def await_healthy(engine: Engine, container: Container, *, seconds: float) -> str:
    """Waits until a container that was started is `healthy`; returns its health, or the state that it ended up in. At
    once without a health check.
    """
    end = time.monotonic() + seconds
    while True:
        now = find_container(engine, container.id)
        if now is None or not now.runs:
            return "gone" if now is None else now.state
        if now.health != "starting" or time.monotonic() > end:
            return now.health or "running"
        time.sleep(_LOOK_SECONDS)


def await_end(engine: Engine, container: Container, *, seconds: float) -> Container | None:
    """The container once it does not run, or as it is after so long; None if it is gone."""
    end = time.monotonic() + seconds
    while True:
        now = find_container(engine, container.id)
        if now is None or not now.runs or time.monotonic() > end:
            return now
        time.sleep(_LOOK_SECONDS)


def in_order(containers: Collection[Container]) -> list[Container]:
    """As they are to be started: what others depend on (compose's `depends_on`) first, else as they were started last
    time. Circles are broken.
    """
    left = sorted(containers, key=lambda each: (each.started_at, each.name))
    ordered: list[Container] = []
    while left:
        ready = next((each for each in left if not _needs_one_of(each, left)), left[0])
        left.remove(ready)
        ordered.append(ready)
    return ordered


def depends_on(container: Container, other: Container) -> bool:
    """By compose's `depends_on`."""
    return (
        other.id != container.id
        and other.project == container.project
        and other.service is not None
        and other.service in container.depends_on
    )


def _needs_one_of(container: Container, others: Collection[Container]) -> bool:
    return any(depends_on(container, other) for other in others)


def container_of(found: Mapping[str, Any]) -> Container:
    """Of an inspection."""
    state = found.get("State") or {}
    config = found.get("Config") or {}
    labels = config.get("Labels") or {}
    stop_seconds = config.get("StopTimeout")
    return Container(
        id=found["Id"],
        name=str(found.get("Name", found["Id"][:12])).lstrip("/"),
        state=state.get("Status", ""),
        started_at=state.get("StartedAt", ""),
        finished_at=state.get("FinishedAt", ""),
        auto_remove=bool((found.get("HostConfig") or {}).get("AutoRemove")),
        health=(state.get("Health") or {}).get("Status"),
        stop_seconds=_USUAL_STOP_SECONDS if stop_seconds is None else int(stop_seconds),
        project=labels.get(_PROJECT),
        service=labels.get(_SERVICE),
        depends_on=_depends_on(labels.get(_DEPENDS_ON, "")),
        swarm_service=labels.get(_SWARM_SERVICE),
        exit_code=int(state.get("ExitCode") or 0),
        restart_policy=((found.get("HostConfig") or {}).get("RestartPolicy") or {}).get("Name", ""),
    )


def _depends_on(text: str) -> frozenset[str]:
    """Of `db:service_healthy:false,cache`, or of a JSON list or object, as versions of Compose write it."""
    if text.startswith(("[", "{")):
        try:
            return frozenset(str(each) for each in json.loads(text))
        except ValueError:
            return frozenset()
    return frozenset(part.partition(":")[0].strip() for part in text.split(",") if part.strip())
