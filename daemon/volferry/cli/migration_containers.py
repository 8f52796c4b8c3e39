"""Containers that move along with their volumes, and those that are started on the target."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from volferry.cli.output import say
from volferry.errors import EngineError, UsageError, VolferryError
from volferry.interrupts import held_back

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from volferry.cli.progress import TerminalObserver
    from volferry.cli.session import Session
    from volferry.engine.client import Engine
    from volferry.engine.containers import Container
    from volferry.model import Volume
    from volferry.operations.carried import Carried, CarriedContainer
    from volferry.operations.migration_plan import MigrationPlan, PlannedVolume

Document = dict[str, Any]
_HEALTHY_SECONDS = 60
_SETTLE_SECONDS = 1.0  # what cannot run has usually ended by then


def containers_along(
    session: Session, volumes: list[Volume], project: str | None, own: list[str]
) -> list[Document]:
    """As the engine describes them; without our own container. Raises EngineError if there is none."""
    from volferry.engine.carry import containers_of  # noqa: PLC0415 -- docker-py is slow to import

    found = containers_of(session.engine, [volume.name for volume in volumes], project, but=own)
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


@dataclass(frozen=True, slots=True)
class Sides:
    """Both engines, and the image of a helper on each."""

    source: Engine
    target: Engine
    source_image: str
    target_image: str


def carry_along(
    plan: MigrationPlan,
    along: list[Document],
    sides: Sides,
    *,
    binds: Mapping[str, str],
    kept: frozenset[str],
) -> None:
    """Puts the new containers, and the obstacles to them, into the plan."""
    from volferry.operations.carrying import Places, carried  # noqa: PLC0415

    plan.carried = carried(
        along,
        sides.source,
        sides.target,
        Places({each.source.name: each.target.name for each in plan.volumes}, binds, kept),
        source_image=sides.source_image,
        image=sides.target_image,
        resumed=any(each.state == "resumed" for each in plan.volumes),
    )
    moving = {each.name for each in plan.carried.containers}
    for each in plan.volumes:
        if others := sorted(set(each.stopped) - moving):
            plan.obstacles.append(
                f"volume {each.source.name} is written to by {', '.join(others)}, which {'does' if len(others) == 1 else 'do'} not move "
                "along: stop that first, or name its volumes, too"
            )
    running = {each.name for each in plan.carried.containers if each.ran}
    for each in plan.volumes:  # they are stopped, too, where they only read
        each.stopped += sorted({use.container for use in each.source.uses} & running - {*each.stopped})
    plan.obstacles += plan.carried.obstacles
    plan.notes += plan.carried.notes


def copy_images(source: Engine, target: Engine, carried: Carried, observer: TerminalObserver) -> None:
    """While the services run: it is the longest part of it. Raises EngineError."""
    from volferry.engine.carry import copy_image  # noqa: PLC0415
    from volferry.operations.carried_images import known_image  # noqa: PLC0415

    for image in carried.images:
        observer.phase(f"sending image {image.reference[:40]}", total_bytes=image.size_bytes)
        copy_image(
            source, target, image.reference, lambda done: observer.advance(done_bytes=done, done_entries=0)
        )
        known = known_image(target, image.details, [image.reference])
        if known is None:
            raise EngineError(
                f"image {image.reference} was sent, but the target does not have it: pull it there, and it is used"
            )
        for each in carried.containers:
            if each.body["Image"] == image.reference:
                each.body["Image"] = known  # the same image may have another id over there


@dataclass(slots=True)
class Crew:
    """The containers of the target that take over: made while the services run, started after the comparison."""

    target: Engine
    carried: Carried
    observer: TerminalObserver
    running: list[str] = field(default_factory=list)  # names of those that were started and not stopped again
    names: list[str] = field(default_factory=list)
    _networks: list[str] = field(default_factory=list)
    _containers: list[str] = field(default_factory=list)

    def make(self) -> None:
        """Raises EngineError; what was made is then still there, for `remove`."""
        from volferry.engine.carry import connect_network, create_container, create_network, remove_container  # noqa: PLC0415

        self.observer.phase("making containers")
        for left_over in self.carried.left_over:
            remove_container(self.target, left_over)
        for network in self.carried.networks:
            with held_back():
                body = {key: value for key, value in network.items() if key != "_ipam"}
                self._networks.append(create_network(self.target, body))
        for each in _in_order(self.carried):
            with held_back():
                container = create_container(self.target, each.name, each.body)
                self._containers.append(container)
            given = ((each.body.get("NetworkingConfig") or {}).get("EndpointsConfig") or {}).keys()
            for name, endpoint in each.networks.items():
                if name not in given:
                    connect_network(self.target, name, container, endpoint)
            self.names.append(each.name)

    @property
    def to_start(self) -> list[str]:
        """Names of those that ran on the source, in the order in which they were made."""
        return [each.name for each in _in_order(self.carried) if each.ran]

    def remove(self) -> None:
        """All of it is gone again, or said to be left."""
        from volferry.engine.carry import remove_container, remove_network  # noqa: PLC0415

        with held_back():
            for container in reversed(self._containers):
                _or_say(partial(remove_container, self.target, container))
            for network in self._networks:
                _or_say(partial(remove_network, self.target, network))


def _or_say(job: Callable[[], object]) -> None:
    try:
        job()
    except (VolferryError, OSError) as error:
        with suppress(OSError):  # a terminal that is gone keeps nothing else from being done
            say(f"volferry: on the target, something is left behind: {error}")


def _in_order(carried: Carried) -> list[CarriedContainer]:
    """A container whose network another one shares comes before that."""
    left = list(carried.containers)
    ordered: list[CarriedContainer] = []
    while left:
        names = {each.name for each in left}
        ready = next((each for each in left if not _shares_with(each) & names - {each.name}), left[0])
        left.remove(ready)
        ordered.append(ready)
    return ordered


def _shares_with(each: CarriedContainer) -> set[str]:
    host = each.body["HostConfig"]
    shared = {
        str(host.get(key) or "").removeprefix("container:") for key in ("NetworkMode", "PidMode", "IpcMode")
    }
    return shared | {str(link).partition(":")[0] for link in host.get("Links") or []}


def start_on_target(
    target: Engine,
    names: list[str],
    take_over: Callable[[list[str]], None],
    *,
    running: list[str],
    in_this_order: bool = False,
) -> None:
    """In the order of what depends on what. Once all of them run, `take_over` gets their names, and no signal comes between. If one cannot be
    started, or ends at once with an error, those that were are stopped again; at any time, `running` has the names of those that may run.

    Raises EngineError.
    """
    from volferry.engine.containers import HealthWaits, depends_on, find_container, in_order, start  # noqa: PLC0415

    found = [each for each in (find_container(target, name) for name in names) if each is not None]
    started: list[Container] = []
    waits = HealthWaits(_HEALTHY_SECONDS)
    done = False
    try:
        for container in found if in_this_order else in_order(found):
            for other in started:
                if depends_on(container, other) and other.health is not None:
                    waits.await_healthy(target, other)
            with held_back():
                running.append(container.name)
                started.append(container)
                start(target, container)
        if started:
            time.sleep(_SETTLE_SECONDS)
        with held_back():
            for container in started:
                now = find_container(target, container.id)
                if now is not None and not now.runs and now.exit_code:
                    raise EngineError(
                        f"container {container.name} on the target has ended at once, with exit code {now.exit_code}: see `docker logs`"
                    )
            take_over([container.name for container in started])
            done = True
    except BaseException:
        if not done:
            with held_back():
                for container in reversed(started):
                    _or_say(partial(_stop_again, target, container, running))
        raise


def _stop_again(target: Engine, container: Container, running: list[str]) -> None:
    from volferry.engine.containers import find_container, stop  # noqa: PLC0415

    now = find_container(target, container.id)
    if now is not None and now.runs:
        stop(target, now)
    running.remove(container.name)


def await_health_on_target(target: Engine, names: list[str], observer: TerminalObserver) -> None:
    """Says what is not healthy. All have the same time for that, at the same time."""
    from volferry.engine.containers import await_healthy, find_container  # noqa: PLC0415

    end = time.monotonic() + _HEALTHY_SECONDS
    for name in names:
        container = find_container(target, name)
        left = max(0.0, end - time.monotonic())
        health = "gone" if container is None else await_healthy(target, container, seconds=left)
        if health not in {"healthy", "running"}:
            why = ": its health check has not passed yet: `docker inspect` has what it said"
            observer.note(
                f"container {name} on the target is {health}, not healthy{why if health == 'starting' else ''}"
            )


def note_unchecked(plan: MigrationPlan, target: Engine) -> None:
    """Of health checks that others wait for, and that nobody runs there."""
    checked = [
        each.name
        for each in (plan.carried.containers if plan.carried else [])
        if each.ran and (each.body.get("Healthcheck") or {}).get("Test") not in (None, [], ["NONE"])
    ]
    if checked and not target.checks_health:
        plan.notes.append(
            f'Podman runs no health checks on a machine without systemd, which the target seems to be: the health of {", ".join(checked)} stays "starting" there, '
            "and nothing waits for it"
        )
