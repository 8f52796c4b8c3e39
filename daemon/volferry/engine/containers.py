"""Containers of applications: who writes to a volume, and stopping, pausing and starting them again."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import docker.errors

from volferry.engine.client import Engine, says_no_container, translated
from volferry.engine.container_labels import ContainerLabels, is_own
from volferry.engine.running import in_dockers_words, running_containers
from volferry.engine.user_namespace import is_rootless
from volferry.engine.volumes import use_of
from volferry.errors import EngineError, EngineUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from volferry.model import VolumeUse

_PROJECT = "com.docker.compose.project"
_SERVICE = "com.docker.compose.service"
_NUMBER = "com.docker.compose.container-number"
_ONE_OFF = "com.docker.compose.oneoff"
_DEPENDS_ON = "com.docker.compose.depends_on"  # db:service_healthy:false,cache:service_started:true
_SWARM_SERVICE = "com.docker.swarm.service.id"

_FINER = re.compile(r"(\.\d{6})\d*")  # nanoseconds

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
    restart_count: int = 0  # by the engine, since it was started by anybody else
    number: str = ""  # among those of its compose service
    is_job: bool = (
        False  # a start of it is another piece of work: `docker compose run`, or a shell of somebody's
    )
    shares_with: frozenset[str] = frozenset()  # ids of containers whose network, processes or IPC it has
    restarts_with: frozenset[str] = frozenset()  # compose services of the same project
    stopping: bool = False  # it runs, and Podman was asked to stop it, as Docker does not say

    @property
    def runs(self) -> bool:
        return self.state in {"running", "restarting"}

    @property
    def started(self) -> datetime:
        """By the engine's clock; long ago where it says nothing that could be a time."""
        try:
            return datetime.fromisoformat(_FINER.sub(r"\1", self.started_at))
        except ValueError:
            return datetime.min.replace(tzinfo=UTC)

    @property
    def place(self) -> str:
        """`project/service/number` of a container of Compose, which one that takes its place has, too; else empty."""
        return f"{self.project}/{self.service}/{self.number}" if self.project and self.service else ""


def find_container(engine: Engine, container_id: str) -> Container | None:
    """None if it is gone."""
    with translated(f"container {container_id[:12]}"):
        try:
            found = engine.api.inspect_container(container_id)
        except docker.errors.APIError as error:
            if not says_no_container(error):
                raise
            return None
    container = container_of(found)
    if (
        container.health == "starting"
        and not engine.checks_health
        and not found["State"]["Health"].get("Log")
    ):
        return replace(container, health=None)  # it would stay so
    return container


def writers(engine: Engine, volume: str, *, but: Collection[str] = ()) -> list[Container]:
    """Running containers, of whatever project, that mount `volume` read-write, by this name, by another one of the same data, or by its
    directory; without ours, and those whose ids are in `but`. An absolute path is a bind mount: of it, of what is below it, or of what it is
    below.
    """
    with translated(f"volume {volume}"):
        writes = writes_to(engine, volume)
        found = running_containers(engine)
    mine = [
        each["Id"] for each in found if not is_own(engine, each) and each["Id"] not in but and writes(each)
    ]
    inspected = (find_container(engine, each) for each in mine)
    return [each for each in inspected if each is not None and each.runs]


def writes_to(engine: Engine, volume: str) -> Callable[[Mapping[str, Any]], bool]:
    """Whether a container, as an inspection or a list has it, mounts `volume` read-write: by this name, by another one of the same data, or by its
    directory; or an absolute path, or what it meets.
    """
    is_path = volume.startswith("/")
    names, directory = (set[str](), "") if is_path else _same_data(engine, volume)

    def writes(container: Mapping[str, Any]) -> bool:
        return any(
            mount.get("RW")
            and (
                _meets(mount, volume) if is_path else mount.get("Name") in names or _lies_in(mount, directory)
            )
            for mount in container.get("Mounts") or []
        )

    return writes


def _same_data(engine: Engine, volume: str) -> tuple[set[str], str]:
    """Names of the volumes that hold the same, this one among them, and the directory of this one where the engine says it."""
    try:
        found = engine.api.inspect_volume(volume)
    except docker.errors.NotFound:
        return {volume}, ""
    options = found.get("Options") or {}
    names = {volume}
    if found.get("Driver") == "local" and options.get("device"):
        others = engine.api.volumes(filters={"driver": "local"}).get("Volumes") or []
        device = (options.get("type"), options["device"])
        names |= {
            each["Name"]
            for each in others
            if ((each.get("Options") or {}).get("type"), (each.get("Options") or {}).get("device")) == device
        }
    return names, found.get("Mountpoint") or ""


def _lies_in(mount: Mapping[str, Any], directory: str) -> bool:
    source = mount.get("Source") or "/"
    return bool(directory) and mount.get("Type") == "bind" and PurePosixPath(source).is_relative_to(directory)


def as_user(engine: Engine, container_id: str) -> VolumeUse | None:
    """Of no volume in particular: for its labels. None if it is gone."""
    with translated(f"container {container_id[:12]}"):
        found = engine.api.containers(all=True, filters={"id": container_id})
        return next((use_of(each, {}, ContainerLabels(engine)) for each in found), None)


def find_successor(engine: Engine, container_id: str, name: str, place: str) -> Container | None:
    """Of a container that is gone: one of the same name, or else of the same place in its compose project."""
    with translated(f"container {name}"):
        found = engine.api.containers(all=True)
    inspected = [
        container
        for each in found
        if each["Id"] != container_id and _may_succeed(each, name, place)
        if (container := find_container(engine, each["Id"])) is not None
    ]
    same = [each for each in inspected if each.name == name or (place and each.place == place)]
    return min(same, key=lambda each: (not each.runs, each.name != name), default=None)


def _may_succeed(listed: Mapping[str, Any], name: str, place: str) -> bool:
    labels = listed.get("Labels") or {}
    return f"/{name}" in (listed.get("Names") or []) or (
        bool(place) and labels.get(_PROJECT) == place.partition("/")[0] and labels.get(_ONE_OFF) != "True"
    )


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
    try:
        with translated(f"pausing container {container.name}"):
            engine.api.pause(container.id)
    except EngineUnreachable:
        raise
    except EngineError as error:
        if not is_rootless(engine) or str(engine.info.get("CgroupVersion") or "2") == "2":
            raise
        raise EngineError(
            f"{error}: a rootless engine pauses only where control groups are of version 2: use quiesce = none, or quiesce = stop where "
            "it is no container of --rm or of `docker compose run`, or boot with systemd.unified_cgroup_hierarchy=1"
        ) from error


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


@dataclass(slots=True)
class HealthWaits:
    """Waits for containers that others depend on: for each no longer than `seconds` in all, however many depend on it."""

    seconds: float
    _ends: dict[str, float] = field(default_factory=dict)

    def await_healthy(self, engine: Engine, container: Container) -> None:
        now = time.monotonic()
        end = self._ends.setdefault(container.id, now + self.seconds)
        if now < end:
            await_healthy(engine, container, seconds=end - now)


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
    """By compose's `depends_on`, or because it has a namespace of the other one."""
    if other.id in container.shares_with:
        return True
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
    status = str(state.get("Status", ""))
    # Versions of Podman say it in one way or the other.
    stopping = status == "stopping" or (status == "running" and state.get("Running") is False)
    config = found.get("Config") or {}
    host_config = found.get("HostConfig") or {}
    labels = config.get("Labels") or {}
    stop_seconds = config.get("StopTimeout")
    return Container(
        id=found["Id"],
        name=str(found.get("Name", found["Id"][:12])).lstrip("/"),
        state="running" if stopping else in_dockers_words(status),
        started_at=state.get("StartedAt", ""),
        finished_at=state.get("FinishedAt", ""),
        auto_remove=bool(host_config.get("AutoRemove")),
        health=(state.get("Health") or {}).get("Status"),
        stop_seconds=_USUAL_STOP_SECONDS if stop_seconds is None else int(stop_seconds),
        project=labels.get(_PROJECT),
        service=labels.get(_SERVICE),
        depends_on=_depends_on(labels.get(_DEPENDS_ON, "")),
        swarm_service=labels.get(_SWARM_SERVICE),
        exit_code=int(state.get("ExitCode") or 0),
        restart_policy=(host_config.get("RestartPolicy") or {}).get("Name", ""),
        restart_count=int(found.get("RestartCount") or 0),
        number=labels.get(_NUMBER, ""),
        is_job=labels.get(_ONE_OFF) == "True"
        or (
            bool(config.get("Tty") and config.get("AttachStdin"))
            and (host_config.get("RestartPolicy") or {}).get("Name", "") in {"", "no"}
        ),
        shares_with=frozenset(
            mode.removeprefix("container:")
            for key in ("NetworkMode", "PidMode", "IpcMode")
            if (mode := str(host_config.get(key) or "")).startswith("container:")
        ),
        restarts_with=_restarts_with(labels.get(_DEPENDS_ON, "")),
        stopping=stopping,
    )


def _restarts_with(text: str) -> frozenset[str]:
    """Of `db:service_healthy:true,cache:service_started:false`: those whose third part says so."""
    parts = (part.strip().split(":") for part in text.split(","))
    return frozenset(part[0] for part in parts if len(part) > 2 and part[2] == "true")


def _depends_on(text: str) -> frozenset[str]:
    """Of `db:service_healthy:false,cache`, or of a JSON list or object, as versions of Compose write it."""
    if text.startswith(("[", "{")):
        try:
            return frozenset(str(each) for each in json.loads(text))
        except ValueError:
            return frozenset()
    return frozenset(part.partition(":")[0].strip() for part in text.split(",") if part.strip())
