"""The work of `volferry migrate`: plan, passes, cut-over, and who runs where afterwards."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import typer

from volferry.cli.migration_containers import (
    Crew,
    Sides,
    await_health_on_target,
    carry_along,
    containers_along,
    copy_images,
    planned_binds,
    start_on_target,
    with_what_they_mount,
)
from volferry.cli.migration_report import MigrationReport, print_plan
from volferry.cli.progress import TerminalObserver
from volferry.cli.selecting import chosen_volumes
from volferry.cli.session import Session, say
from volferry.errors import EngineError, UsageError, VolferryError
from volferry.interrupts import held_back

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from volferry.engine.client import Engine
    from volferry.engine.helper import Helper, HelperSettings
    from volferry.model import Volume
    from volferry.operations.migration import Leg
    from volferry.operations.migration_plan import MigrationPlan, PlannedVolume
    from volferry.operations.quiesce import Quiesced
    from volferry.run import Run


@dataclass(frozen=True, slots=True)
class Wanted:
    """The command line's options."""

    names: list[str]
    everything: bool
    project: str | None
    to: str
    renamed: Mapping[str, str]
    drivers: Mapping[str, str]
    options: Mapping[str, Mapping[str, str | None]]
    every_label: bool
    into_existing: bool
    dry_run: bool
    checksum: bool
    start: list[str]
    with_containers: bool
    binds: Mapping[str, str]  # volumes of the target, by paths of the source
    kept_binds: frozenset[str]
    leave_stopped: bool
    remove_source: bool
    yes: bool
    json: bool

    @property
    def takes_over(self) -> bool:
        """Whether the source's services stay stopped once both sides are equal."""
        return bool(self.start) or self.with_containers or self.leave_stopped or self.remove_source


@dataclass(slots=True)
class _Sides:
    """Both engines, and what a helper on each is made with."""

    source: Engine
    target: Engine
    source_settings: HelperSettings
    target_settings: HelperSettings
    run: Run
    made: list[str] = field(default_factory=list)  # volumes of the target that this run has made

    @property
    def own(self) -> list[str]:
        """Ids of the container of the source that we run in, if any: it is never stopped, nor moved."""
        return [self.source_settings.own.id] if self.source_settings.own else []


def migrate_volumes(session: Session, wanted: Wanted) -> int:
    from volferry.engine.client import connect  # noqa: PLC0415 -- docker-py is slow to import
    from volferry.engine.helper import open_helper  # noqa: PLC0415

    started = time.monotonic()
    target = connect(wanted.to)
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
        sides = _Sides(
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
        reading = stack.enter_context(
            open_helper(sides.source, run, sides.source_settings, [each.source.mountable for each in planned])
        )
        plan = _plan(session, sides, planned, reading, wanted)
        if along is not None:
            carry_along(
                plan,
                along,
                Sides(sides.source, sides.target, sides.source_settings.image, sides.target_settings.image),
                binds=wanted.binds,
                kept=wanted.kept_binds,
            )
        print_plan(plan, sides.source, target, json=wanted.json, dry_run=wanted.dry_run)
        if plan.obstacles:
            for obstacle in plan.obstacles[:-1]:
                say(f"volferry: {obstacle}")
            raise EngineError(plan.obstacles[-1])
        if wanted.dry_run:
            return 0
        report = _moved(session, sides, plan, reading, wanted)
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
    session: Session, sides: _Sides, planned: list[PlannedVolume], reading: Helper, wanted: Wanted
) -> MigrationPlan:
    from volferry.engine.containers import find_container, writers  # noqa: PLC0415
    from volferry.engine.helper import open_helper  # noqa: PLC0415
    from volferry.operations.migration_plan import MigrationPlan, look_at_targets, measure, who_is_stopped  # noqa: PLC0415

    plan = MigrationPlan(planned)
    for each in planned:
        if each.source.incomplete:
            plan.obstacles.append(
                f"volume {each.source.name} is not complete: its own migration has not ended"
            )
    measure(planned, reading)
    who_is_stopped(plan, lambda volume: writers(session.engine, volume, but=sides.own))
    with ExitStack() as stack:

        def helper_for(volumes: list[Volume]) -> Helper:
            # Whose spool is in the target's own data, where new volumes will be.
            settings = replace(sides.target_settings, channel="stream")
            return stack.enter_context(open_helper(sides.target, sides.run, settings, volumes))

        look_at_targets(
            plan,
            sides.source,
            sides.target,
            helper_for,
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


def _moved(
    session: Session, sides: _Sides, plan: MigrationPlan, reading: Helper, wanted: Wanted
) -> MigrationReport:
    from volferry.engine.incomplete import say_complete, say_incomplete  # noqa: PLC0415
    from volferry.journal import Journal  # noqa: PLC0415
    from volferry.operations.migration import cut_over, pass_by_pass  # noqa: PLC0415
    from volferry.operations.migration_plan import mark_of  # noqa: PLC0415
    from volferry.operations.quiesce import Quiesced  # noqa: PLC0415

    subject = plan.volumes[0].source.name if len(plan.volumes) == 1 else f"{len(plan.volumes)} volumes"
    with TerminalObserver(subject) as observer, _targets(sides, plan) as writing:
        for each in plan.volumes:
            say_incomplete(
                sides.target,
                sides.target_settings.image,
                each.target.name,
                mark_of(sides.source, each.source.name),
            )
        sides.made.clear()  # from here on they hold something
        legs = _legs(sides, plan, reading, writing, observer)
        still = Quiesced(
            sides.source,
            [each.source.writers_by for each in plan.volumes],
            "stop",
            warm=True,
            journal=Journal.of_run(
                session.config.state_dir, sides.run.id, (sides.source.id, sides.source.url)
            ),
            own=sides.own,
            note=observer.note,
            also=[each.id for each in plan.carried.containers] if plan.carried else [],
        )
        crew = Crew(sides.target, plan.carried, observer) if plan.carried is not None else None
        complete = False
        report = MigrationReport(sides.source.url, sides.target.url, plan, legs, checksum=wanted.checksum)
        try:
            if plan.carried is not None:
                copy_images(sides.source, sides.target, plan.carried, observer)
            pass_by_pass(legs, observer)
            if crew is not None:  # what the engine refuses is known before anything is stopped
                crew.make()
                report.made = crew.names
            cut_over(legs, still, checksum=wanted.checksum)
            for each in plan.volumes:
                say_complete(sides.target, each.target.name)
            complete = True
            report.stopped = still.stopped
            _hand_over(sides, wanted, still, crew, report, observer)
        except BaseException:
            with held_back():
                if crew is not None and not report.took_over:
                    crew.remove()
                still.end()
                for problem in still.problems:
                    say(f"volferry: {problem}")
                say(
                    "the target has taken over"
                    if report.took_over
                    else "the volumes on the target are complete, but what was stopped runs on the source again"
                    if complete
                    else "what has been moved is incomplete, and marked so on the target; the same command, run again, goes on from there"
                )
            raise
        still.end()  # does nothing where the target has taken over
        if not report.took_over:
            still.await_health()
        report.downtime_seconds = still.downtime_seconds
        report.problems = still.problems
        for problem in still.problems:
            say(f"volferry: {problem}")
    return report


def _hand_over(
    sides: _Sides,
    wanted: Wanted,
    still: Quiesced,
    crew: Crew | None,
    report: MigrationReport,
    observer: TerminalObserver,
) -> None:
    """To containers of the target, where that is asked for. Raises EngineError; then the source has to go on."""
    if wanted.start:
        report.started = start_on_target(sides.target, wanted.start)
    if crew is not None and not wanted.leave_stopped:
        report.started = crew.start()
    if wanted.takes_over:
        still.leave()
        report.took_over = True
        await_health_on_target(sides.target, report.started, observer)
        _say_who_comes_back(sides.source, still, observer)


@contextmanager
def _targets(sides: _Sides, plan: MigrationPlan) -> Iterator[Helper]:
    """A helper that writes to the volumes of the target, which are made. Those are gone again where that fails."""
    from volferry.engine.helper import open_helper  # noqa: PLC0415
    from volferry.engine.volumes import create_volume, find_volume, remove_volume  # noqa: PLC0415

    try:
        for each in plan.volumes:
            if each.state == "new":
                with held_back():
                    create_volume(sides.target, each.target)
                    sides.made.append(each.target.name)
                each.target = find_volume(sides.target, each.target.name)
        with open_helper(
            sides.target, sides.run, sides.target_settings, [each.target for each in plan.volumes], write=True
        ) as helper:
            yield helper
    finally:
        with held_back():
            for name in sides.made:
                try:
                    remove_volume(sides.target, name)
                except VolferryError as error:
                    say(f"volferry: volume {name} is left behind on the target, empty: {error}")


def _legs(
    sides: _Sides, plan: MigrationPlan, reading: Helper, writing: Helper, observer: TerminalObserver
) -> list[Leg]:
    from volferry.operations.migration import Leg  # noqa: PLC0415
    from volferry.operations.migration_plan import mark_of  # noqa: PLC0415
    from volferry.operations.places import Place  # noqa: PLC0415
    from volferry.operations.transfer import Transfer  # noqa: PLC0415

    legs = []
    for number, each in enumerate(plan.volumes):
        source = Place(reading, reading.directory(each.source.name))
        target = Place(writing, writing.directory(each.target.name))
        legs.append(
            Leg(
                volume=each.source.name,
                target=each.target.name,
                target_helper=writing,
                transfer=Transfer(source, target, sides.run.spool / f"leg.{number}", observer),
                holds_something=each.state in {"resumed", "existing"},
                mark_text=mark_of(sides.source, each.source.name),
            )
        )
    return legs


def _say_who_comes_back(source: Engine, still: Quiesced, observer: TerminalObserver) -> None:
    """Warns of containers that the engine itself would start when it restarts, beside those that took over."""
    for name in still.restarted_by_engine(source):
        observer.note(
            f"container {name} has the restart policy 'always': it is started again with the source's engine, unless "
            f"`docker update --restart=unless-stopped {name}` changes that"
        )


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
