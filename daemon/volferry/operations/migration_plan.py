"""What a migration would do, and what is in its way: looked at before anything is made or stopped."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from volferry.archive.tree_scripts import room_command
from volferry.engine.host_paths import kind_of_path
from volferry.engine.volumes import find_volume, refusal_of, volume_drivers
from volferry.errors import CommandFailed, NoSuchVolume
from volferry.model import HostPath, printable
from volferry.operations.new_volume import (
    bind_path,
    labels_note,
    leads_elsewhere,
    options_text,
    place_of,
    refused_name,
    with_labels_of,
)
from volferry.operations.restore import is_marked, mark_text
from volferry.operations.room import disk_usage
from volferry.operations.same_data import holds_something, look_alike
from volferry.operations.streams import run
from volferry.operations.unfinished_paths import MIGRATION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from volferry.engine.client import Engine
    from volferry.engine.containers import Container
    from volferry.engine.helper import Helper
    from volferry.model import Volume
    from volferry.operations.carried import Carried

_MOST_SHOWN = 200
State = Literal["new", "empty", "resumed", "existing"]


@dataclass(slots=True)
class PlannedVolume:
    """One volume, and what becomes of it."""

    source: Volume
    target: Volume  # as it is, or as it is to be made
    state: State = "new"  # "existing" also of one that is to be made of a place which holds data
    there: bool = False
    entries: int = 0
    used_bytes: int = 0  # on the disk of the source
    stopped: list[str] = field(default_factory=list)  # containers that write to it


@dataclass(slots=True)
class MigrationPlan:
    volumes: list[PlannedVolume]
    obstacles: list[str] = field(default_factory=list)  # with any of them, nothing is begun
    notes: list[str] = field(default_factory=list)
    carried: Carried | None = None  # containers that move along
    paused: set[str] = field(default_factory=set)  # names of containers that are paused rather than stopped


def mark_of(source: Engine, volume: str) -> str:
    """What the mark of a target says, by which the same migration goes on with it."""
    return f"{MIGRATION}{volume} from {source.id}"


def target_volume(
    volume: Volume,
    *,
    renamed: Mapping[str, str],
    drivers: Mapping[str, str],
    options: Mapping[str, Mapping[str, str | None]],
    every_label: bool = False,
) -> Volume:
    """What the volume is to be on the target: as it is, but for what is asked for. An option of None goes. If it is another one then, it
    lacks some labels, unless `every_label` is asked for.
    """
    changed = options.get(volume.name, {})
    driver = drivers.get(volume.name, volume.driver)
    kept = volume.options if driver == volume.driver else {}
    chosen = {**kept, **changed}
    target = replace(
        volume,
        name=renamed.get(volume.name, volume.name),
        driver=driver,
        options={key: value for key, value in chosen.items() if value is not None},
        uses=(),
    )
    return with_labels_of(volume, target, every=every_label)


def measure(planned: Sequence[PlannedVolume], helpers: Mapping[str, Helper]) -> None:
    """How much there is in each. `helpers` are those of the sources, by name."""
    for each in planned:
        helper = helpers[each.source.name]
        each.entries, each.used_bytes = disk_usage(helper, helper.directory(each.source.name))


def look_at_targets(
    plan: MigrationPlan,
    source: Engine,
    target: Engine,
    readers: Mapping[str, Helper],
    helpers_for: Callable[[list[Volume | HostPath]], Mapping[str, Helper]],
    image: str,
    *,
    into_existing: bool,
) -> None:
    """`readers` are helpers of the source, by volume; `helpers_for` gives such of the target, at least one, whose spools are volumes of their own there."""
    drivers = volume_drivers(target)
    looked_into: list[PlannedVolume] = []
    mounts: list[Volume | HostPath] = []
    for each in plan.volumes:
        name = each.target.name
        if source.id == target.id and each.source.name == name:
            plan.obstacles.append(
                f"volume {name} is to become itself: --rename {name}=NEW gives the copy a name"
            )
            continue
        try:
            found = find_volume(target, name)
        except NoSuchVolume:
            # What can be mounted before the volume is made.
            if (place := _look_at_new(plan, each, target, drivers, image)) is not None:
                looked_into.append(each)
                mounts.append(place)
            continue
        if found.in_memory:
            plan.obstacles.append(_memory(name, each))
        running = [use.container for use in found.uses if use.running]
        if running:
            plan.obstacles.append(
                f"volume {name} on the target is in use by {', '.join(running)}: stop {'it' if len(running) == 1 else 'them'} first"
            )
        if (found.driver, dict(found.options)) != (each.target.driver, dict(each.target.options)):
            plan.notes.append(
                f"volume {name} is on the target already, and keeps the driver and options that it has there"
            )
        each.target, each.there = found, True
        looked_into.append(each)
        mounts.append(found)
    helpers = helpers_for(mounts)
    for each in looked_into:
        ends = Ends(source, readers[each.source.name], helpers[each.target.name])
        look_into(plan, each, ends, into_existing=into_existing)
    _look_for_room(plan, looked_into, helpers)


def _memory(name: str, each: PlannedVolume) -> str:
    return (
        f"volume {name} would be in memory on the target, and empty once nothing uses it: "
        f"--option {each.source.name}:type= (and so for its other options) makes it a plain one"
    )


def _look_at_new(
    plan: MigrationPlan, each: PlannedVolume, target: Engine, drivers: Iterable[str], image: str
) -> HostPath | None:
    """The directory of the target's machine in which its data would be, if that is known."""
    name, driver = each.target.name, each.target.driver
    if why := refused_name(each.target, podman=target.is_podman):
        plan.obstacles.append(
            f"volume {name} cannot have that name on the target: {why}: {_renamed(each)} gives it another"
        )
    if each.target.in_memory:
        plan.obstacles.append(_memory(name, each))
        return None
    if driver not in drivers:
        plan.obstacles.append(
            f"volume {name} has the driver {driver!r}, which the target lacks: install it there, or --driver {each.source.name}=local"
        )
        return None
    if note := labels_note(each.source, each.target):
        plan.notes.append(note)
    path = bind_path(each.target)
    if path is not None and (kind := kind_of_path(target, image, path)) != "directory":
        lacks = (
            "which the target lacks: make it there"
            if kind is None
            else "which is no directory on the target: make one"
        )
        plan.obstacles.append(
            f"volume {name} has its data at {path}, {lacks}, or "
            f"--option {each.source.name}:device=PATH; {_made_plain(each)}"
        )
        return None
    if driver == "local" and each.target.options and (why := refusal_of(target, each.target)):
        plan.obstacles.append(
            f"volume {name} cannot be made with {options_text(each.target)} on the target: {why}: "
            f"--option {each.source.name}:KEY=VALUE changes one; {_made_plain(each)}"
        )
        return None
    if leads_elsewhere(each.target):
        plan.notes.append(f"volume {name} is made with {options_text(each.target)}")
    return HostPath(name, path) if path is not None else None


def _renamed(each: PlannedVolume) -> str:
    if each.source.bind is not None:
        return f"--bind-to-volume {each.source.bind.path}=NEW"
    return f"--rename {each.source.name}=NEW"


def _made_plain(each: PlannedVolume) -> str:
    source = each.source.name
    if each.target.driver != "local":
        return f"--driver {source}=local makes a plain volume"
    without = " ".join(f"--option {source}:{key}=" for key in each.target.options)
    return f"--driver {source}=local with no options makes a plain volume: {without}"


@dataclass(frozen=True, slots=True)
class Ends:
    """The engine of the source, and a volume's helper on either side."""

    source: Engine
    reading: Helper
    helper: Helper


def look_into(plan: MigrationPlan, each: PlannedVolume, ends: Ends, *, into_existing: bool) -> None:
    """Looks into the target volume, or the place that it is to be made of, for data that is in the way."""
    helper, name, source = ends.helper, each.target.name, each.source.name
    subject = f"volume {name} on the target"
    if not each.there:
        subject = f"{place_of(each.target)}, to which volume {name} on the target would lead,"
    if is_marked(helper, name):
        # Whoever writes to the volume may have kept the mark of a migration that was completed: the engine must say that it was not.
        if (text := mark_text(helper, name)) == mark_of(ends.source, source) and each.target.incomplete:
            each.state = "resumed"
            return
        each.state = "existing"
        if not into_existing:
            shown = printable(text.encode("utf-8", "surrogateescape"))[:_MOST_SHOWN]
            plan.obstacles.append(
                f"{subject} holds the rest of something else that was interrupted ({shown}), or a file like that: --into-existing "
                "replaces what it holds"
            )
    elif not holds_something(helper, helper.directory(name)):
        each.state = "empty" if each.there else "new"
    else:
        each.state = "existing"
        if into_existing:
            return
        if look_alike(ends.reading, ends.reading.directory(source), helper, helper.directory(name)):
            plan.obstacles.append(
                f"{subject} holds what looks like the very data of volume {source} on the source: if it is, there is nothing to move, and "
                f"{'the volume can be used as it is' if each.there else '`docker volume create` makes the volume there'}; if it is a copy, "
                "--into-existing makes it what the source is"
            )
            return
        plan.obstacles.append(
            f"{subject} holds data: --into-existing makes it what the source is, and deletes what that does not "
            f"have; {_another(each)} takes another one"
        )


def _another(each: PlannedVolume) -> str:
    if each.there:
        return f"--rename {each.source.name}=NEW"
    if bind_path(each.target) is not None:
        return f"--option {each.source.name}:device=PATH"
    return f"--option {each.source.name}:KEY=VALUE"


def _look_for_room(
    plan: MigrationPlan, looked_into: Sequence[PlannedVolume], helpers: Mapping[str, Helper]
) -> None:
    """Of volumes without options, which are all where the target's engine has its own data."""
    wanted = sum(
        each.used_bytes
        for each in plan.volumes
        if each.state in {"new", "empty"} and each.target.driver == "local" and not each.target.options
    )
    any_helper = next(iter(helpers.values()))
    room = _room(any_helper, any_helper.spool)
    if wanted > room:
        plan.obstacles.append(
            f"the target has room for {_gigabytes(room)}, and {_gigabytes(wanted)} are to go there"
        )
    for each in looked_into:
        if each.target.options or each.target.driver != "local":
            helper = helpers[each.target.name]
            room = _room(helper, helper.directory(each.target.name))
            if each.state in {"new", "empty"} and each.used_bytes > room:
                plan.obstacles.append(
                    f"volume {each.target.name} on the target has room for {_gigabytes(room)}, and {_gigabytes(each.used_bytes)} are to go there"
                )


def who_is_stopped(plan: MigrationPlan, writers: Callable[[str], Iterable[Container]]) -> None:
    for each in plan.volumes:
        for container in writers(each.source.writers_by):
            each.stopped.append(container.name)
            if container.auto_remove:
                plan.paused.add(container.name)
                note = (
                    f"container {container.name} would be removed when it stops (--rm): it is paused instead"
                )
                if note not in plan.notes:
                    plan.notes.append(note)


def _room(helper: Helper, directory: str) -> int:
    try:
        found = run(helper, room_command(directory), "looking for room")
    except CommandFailed as error:
        raise CommandFailed(
            f"the helper's image cannot be used for this, for it lacks volferry's Python ({error}): unset helper.image, or build it with "
            "the project's Dockerfile"
        ) from error
    return int(found.split()[0])


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
