"""Containers that move along with their volumes, and those that are started on the target."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from volferry.errors import EngineError, UsageError, VolferryError
from volferry.interrupts import held_back

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from volferry.cli.progress import TerminalObserver
    from volferry.cli.session import Session
    from volferry.engine.client import Engine
    from volferry.engine.containers import Container
    from volferry.model import Volume
    from volferry.operations.carrying import Carried
    from volferry.operations.migration_plan import PlannedVolume

Document = dict[str, Any]
_HEALTHY_SECONDS = 60


def containers_along(session: Session, volumes: list[Volume], project: str | None) -> list[Document]:
    """As the engine describes them. Raises EngineError if there is none."""
    from volferry.engine.carry import containers_of  # noqa: PLC0415 -- docker-py is slow to import

    found = containers_of(session.engine, [volume.name for volume in volumes], project)
    if not found:
        raise EngineError("no container is there to move along: leave out --with-containers")
    return found


def with_what_they_mount(session: Session, volumes: list[Volume], along: list[Document]) -> list[Volume]:
    """A container moves with all of its volumes, anonymous ones too."""
    from volferry.engine.volumes import find_volume  # noqa: PLC0415
    from volferry.operations.carrying import mounted_volumes  # noqa: PLC0415

    known = {volume.name: volume for volume in volumes}
    for each in along:
        for name in mounted_volumes(each) - known.keys():
            known[name] = find_volume(session.engine, name)
    return [known[name] for name in sorted(known)]


def planned_binds(
    source: Engine, image: str, along: list[Document], binds: Mapping[str, str]
) -> list[PlannedVolume]:
    """Directories that become volumes. Raises UsageError for one that no container has, EngineError for what is no directory."""
    from volferry.engine.bind_mounts import bind_mounts  # noqa: PLC0415
    from volferry.model import Volume  # noqa: PLC0415
    from volferry.operations.migration_plan import PlannedVolume  # noqa: PLC0415

    found = {}
    for each in along if binds else ():
        for volume in bind_mounts(source, image, each["Id"], ())[0]:
            if volume.bind is not None and not volume.bind.is_file:
                found[volume.bind.path] = volume
    for path in binds:
        if path not in found:
            raise UsageError(f"--bind-to-volume {path}: no container that moves has that directory")
    return [
        PlannedVolume(found[path], Volume(name, "local", {}, {}, "local", ""))
        for path, name in sorted(binds.items())
    ]


def copy_images(source: Engine, target: Engine, carried: Carried, observer: TerminalObserver) -> None:
    """While the services run: it is the longest part of it."""
    from volferry.engine.carry import copy_image  # noqa: PLC0415

    for image in carried.images:
        observer.phase(f"sending image {image.reference[:40]}", total_bytes=image.size_bytes)
        copy_image(
            source, target, image.reference, lambda done: observer.advance(done_bytes=done, done_entries=0)
        )


def make_containers(
    target: Engine, carried: Carried, observer: TerminalObserver, *, start: bool
) -> tuple[list[str], list[str]]:
    """Names of those that were made, and of those that were started, which ran on the source. All are gone again if one cannot be.

    Raises EngineError.
    """
    from volferry.engine.carry import (  # noqa: PLC0415
        connect_network,
        create_container,
        create_network,
        remove_container,
        remove_network,
    )

    observer.phase("making containers")
    networks: list[str] = []
    made: list[str] = []
    try:
        for network in carried.networks:
            with held_back():
                body = {key: value for key, value in network.items() if key != "_ipam"}
                networks.append(create_network(target, body))
        for each in _in_order(carried):
            with held_back():
                container = create_container(target, each.name, each.body)
                made.append(container)
            given = ((each.body.get("NetworkingConfig") or {}).get("EndpointsConfig") or {}).keys()
            for name, endpoint in each.networks.items():
                if name not in given:
                    connect_network(target, name, container, endpoint)
        names = [each.name for each in carried.containers]
        ran = [each.name for each in carried.containers if each.ran]
        return names, start_on_target(target, ran, observer) if start else []
    except BaseException:
        with held_back():
            for container in reversed(made):
                _quietly(partial(remove_container, target, container))
            for network_id in networks:
                _quietly(partial(remove_network, target, network_id))
        raise


def _quietly(job: Callable[[], object]) -> None:
    try:
        job()
    except VolferryError:
        return  # the error that led here is the one to say


def _in_order(carried: Carried) -> list[Any]:
    """A container whose network another one shares comes before that."""
    left = list(carried.containers)
    ordered: list[Any] = []
    while left:
        names = {each.name for each in left}
        ready = next((each for each in left if not _shares_with(each) & names - {each.name}), left[0])
        left.remove(ready)
        ordered.append(ready)
    return ordered


def _shares_with(each: Any) -> set[str]:
    host = each.body["HostConfig"]
    shared = {
        str(host.get(key) or "").removeprefix("container:") for key in ("NetworkMode", "PidMode", "IpcMode")
    }
    return shared | {str(link).partition(":")[0] for link in host.get("Links") or []}


def start_on_target(target: Engine, names: list[str], observer: TerminalObserver) -> list[str]:
    """In the order of what depends on what. If one cannot be started, those that were are stopped again. Raises EngineError."""
    from volferry.engine.containers import await_healthy, depends_on, find_container, in_order, start, stop  # noqa: PLC0415

    found = [each for each in (find_container(target, name) for name in names) if each is not None]
    started: list[Container] = []
    try:
        for container in in_order(found):
            for other in started:
                if depends_on(container, other) and other.health is not None:
                    await_healthy(target, other, seconds=_HEALTHY_SECONDS)
            start(target, container)
            started.append(container)
    except BaseException:
        with held_back():
            for container in reversed(started):
                stop(target, container)
        raise
    for container in started:
        health = await_healthy(target, container, seconds=_HEALTHY_SECONDS)
        if health not in {"healthy", "running"}:
            observer.note(f"container {container.name} on the target is {health}, not healthy")
    return [container.name for container in started]
