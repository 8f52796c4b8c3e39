"""The work of `volferry migrate`: the plan, and removing the sources; the move between is in migration_cutover.py."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import typer

from volferry.cli.migration_containers import (
    Sides,
    carry_along,
    containers_along,
    note_unchecked,
    planned_binds,
    with_what_they_mount,
)
from volferry.cli.migration_cutover import BothEngines, move
from volferry.cli.migration_report import print_plan
from volferry.cli.output import say
from volferry.cli.selecting import chosen_volumes
from volferry.cli.session import Session
from volferry.errors import EngineError, UsageError, VolferryError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from volferry.cli.migration_options import Wanted
    from volferry.engine.helper import Helper
    from volferry.model import HostPath, Volume
    from volferry.operations.migration_plan import MigrationPlan, PlannedVolume


def migrate_volumes(session: Session, wanted: Wanted) -> int:
    from volferry.engine.client import connect  # noqa: PLC0415 -- docker-py is slow to import
    from volferry.engine.helpers import open_helpers  # noqa: PLC0415

    started = time.monotonic()
    target = connect(wanted.to, named_by="--to")
    with ExitStack() as stack:
        stack.callback(target.close)
        run = stack.enter_context(session.run())
        session.bring_back()
        volumes = chosen_volumes(
            session.engine,
            wanted.names,
            everything=wanted.everything,
            project=wanted.project,
            nothing="nothing to move: name volumes, or use --all or --project",
            none_is_fine=wanted.with_containers,
        )
        session.reap(run)
        session.reap(run, target)
        sides = BothEngines(
            session.engine, target, session.helper_settings(), session.helper_settings(target), run
        )
        along = (
            containers_along(session, volumes, wanted.project, sides.own) if wanted.with_containers else None
        )
        if along is not None:
            volumes = with_what_they_mount(session, volumes, along)
        planned = _planned(volumes, wanted)
        if along is not None:
            planned += planned_binds(sides.source, sides.source_settings.image, along, wanted.binds)
            _check_names(planned)
        stack.enter_context(session.holding(each.source.name for each in planned))
        readers = stack.enter_context(
            open_helpers(
                sides.source, run, sides.source_settings, [each.source.mountable for each in planned]
            )
        )
        plan = _plan(session, sides, planned, readers, wanted)
        if along is not None:
            carry_along(
                plan,
                along,
                Sides(sides.source, sides.target, sides.source_settings.image, sides.target_settings.image),
                binds=wanted.binds,
                kept=wanted.kept_binds,
            )
            if not wanted.leave_stopped:
                note_unchecked(plan, target)
        print_plan(plan, sides.source, target, json=wanted.json, dry_run=wanted.dry_run)
        if plan.obstacles:
            for obstacle in plan.obstacles[:-1]:
                say(f"volferry: {obstacle}")
            raise EngineError(plan.obstacles[-1])
        if wanted.dry_run:
            return 0
        report = move(session, sides, plan, readers, wanted)
        report.seconds = round(time.monotonic() - started, 3)
        report.print(json=wanted.json)
    if wanted.remove_source:
        return _remove_sources(session, plan, wanted)
    return 1 if report.problems else 0


def _planned(volumes: list[Volume], wanted: Wanted) -> list[PlannedVolume]:
    """Raises UsageError for options that name volumes which are not moved."""
    from volferry.operations.migration_plan import PlannedVolume, target_volume  # noqa: PLC0415

    names = {volume.name for volume in volumes}
    for option, given in (
        ("--rename", wanted.renamed),
        ("--driver", wanted.drivers),
        ("--option", wanted.options),
    ):
        for name in given:
            if name not in names:
                raise UsageError(f"{option} {name}: that volume is not among those to move")
    planned = [
        PlannedVolume(
            volume,
            target_volume(
                volume,
                renamed=wanted.renamed,
                drivers=wanted.drivers,
                options=wanted.options,
                every_label=wanted.every_label,
            ),
        )
        for volume in volumes
    ]
    _check_names(planned)
    return planned


def _check_names(planned: list[PlannedVolume]) -> None:
    """Raises UsageError for two that would be one."""
    targets = [each.target.name for each in planned]
    if twice := next((name for name in targets if targets.count(name) > 1), None):
        raise UsageError(
            f"two volumes would be {twice} on the target: --rename gives one of them another name"
        )


def _plan(
    session: Session,
    sides: BothEngines,
    planned: list[PlannedVolume],
    readers: Mapping[str, Helper],
    wanted: Wanted,
) -> MigrationPlan:
    from volferry.engine.containers import find_container, writers  # noqa: PLC0415
    from volferry.engine.helper import open_helper  # noqa: PLC0415
    from volferry.engine.helpers import open_helpers  # noqa: PLC0415
    from volferry.operations.migration_plan import MigrationPlan, look_at_targets, measure, who_is_stopped  # noqa: PLC0415

    plan = MigrationPlan(planned)
    for each in planned:
        if each.source.incomplete:
            plan.obstacles.append(
                f"volume {each.source.name} is not complete: its own migration has not ended"
            )
    measure(planned, readers)
    who_is_stopped(plan, lambda volume: writers(session.engine, volume, but=sides.own))
    with ExitStack() as stack:

        def helpers_for(volumes: list[Volume | HostPath]) -> Mapping[str, Helper]:
            # Whose spools are in the target's own data, where new volumes will be.
            settings = replace(sides.target_settings, channel="stream")
            if not volumes:
                return {"": stack.enter_context(open_helper(sides.target, sides.run, settings, []))}
            return stack.enter_context(open_helpers(sides.target, sides.run, settings, volumes))

        look_at_targets(
            plan,
            sides.source,
            sides.target,
            readers,
            helpers_for,
            sides.target_settings.image,
            into_existing=wanted.into_existing,
        )
    for name in wanted.start:
        container = find_container(sides.target, name)
        if container is None:
            plan.obstacles.append(f"there is no container {name!r} on the target, which --start is to start")
        elif container.runs:
            plan.obstacles.append(f"container {name} runs on the target already: stop it first")
    return plan


def _remove_sources(session: Session, plan: MigrationPlan, wanted: Wanted) -> int:
    from volferry.engine.volumes import find_volume, remove_volume  # noqa: PLC0415

    names = [each.source.name for each in plan.volumes if each.source.bind is None]
    if not wanted.yes and not typer.confirm(
        f"Remove {', '.join(names)} from {session.engine.url}?", err=True
    ):
        say("nothing was removed")
        return 0
    failed = 0
    for name in names:
        try:
            if users := [use.container for use in find_volume(session.engine, name).uses]:
                raise EngineError(f"{', '.join(users)} still mounts it: remove that first (docker rm)")
            remove_volume(session.engine, name)
        except VolferryError as error:
            say(f"volferry: volume {name} stays on the source: {error}")
            failed += 1
        else:
            say(f"removed volume {name} from {session.engine.url}")
    return 1 if failed else 0
