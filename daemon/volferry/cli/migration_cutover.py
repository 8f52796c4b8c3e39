"""The move of a migration: passes, cut-over, and which side runs afterwards."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volferry.cli.made_volumes import MadeVolumes, made_volumes
from volferry.cli.migration_containers import Crew, await_health_on_target, copy_images, start_on_target
from volferry.cli.migration_report import MigrationReport
from volferry.cli.progress import TerminalObserver
from volferry.cli.session import Session, say
from volferry.errors import SameData, VolumeNotEmpty
from volferry.interrupts import held_back

if TYPE_CHECKING:
    from collections.abc import Iterator

    from volferry.cli.migration_options import Wanted
    from volferry.engine.client import Engine
    from volferry.engine.helper import Helper, HelperSettings
    from volferry.operations.migration import Leg
    from volferry.operations.migration_plan import MigrationPlan
    from volferry.operations.quiesce import Quiesced
    from volferry.run import Run


@dataclass(slots=True)
class BothEngines:
    """Both engines, and what a helper on each is made with."""

    source: Engine
    target: Engine
    source_settings: HelperSettings
    target_settings: HelperSettings
    run: Run

    @property
    def own(self) -> list[str]:
        """Ids of the container of the source that we run in, if any: it is never stopped, nor moved."""
        return [self.source_settings.own.id] if self.source_settings.own else []


def move(
    session: Session, sides: BothEngines, plan: MigrationPlan, reading: Helper, wanted: Wanted
) -> MigrationReport:
    """Raises VolferryError; unless the target has taken over, the source's services run again."""
    from volferry.engine.incomplete import say_complete, say_incomplete  # noqa: PLC0415
    from volferry.journal import Journal  # noqa: PLC0415
    from volferry.operations.migration import cut_over, pass_by_pass  # noqa: PLC0415
    from volferry.operations.migration_plan import mark_of  # noqa: PLC0415
    from volferry.operations.quiesce import Quiesced  # noqa: PLC0415
    from volferry.restore_record import note_completed  # noqa: PLC0415

    subject = plan.volumes[0].source.name if len(plan.volumes) == 1 else f"{len(plan.volumes)} volumes"
    with (
        TerminalObserver(subject) as observer,
        session.holding((each.target.name for each in plan.volumes), sides.target, write=True),
        made_volumes(sides.target, " on the target") as made,
        _targets(sides, plan, made, reading, into_existing=wanted.into_existing) as writing,
    ):
        for each in plan.volumes:
            say_incomplete(
                sides.target,
                sides.target_settings.image,
                each.target.name,
                mark_of(sides.source, each.source.name),
            )
        made.keep()  # from here on they hold something
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
            pass_by_pass(legs, observer, checksum=wanted.checksum)
            if crew is not None:  # what the engine refuses is known before anything is stopped
                crew.make()
                report.made = crew.names
            cut_over(legs, still, checksum=wanted.checksum)
            for each in plan.volumes:
                say_complete(sides.target, each.target.name)
                note_completed(session.state_of_content(each.target.name, sides.target))
            complete = True
            report.stopped = still.stopped
            _hand_over(sides, wanted, still, crew, report, observer)
        except BaseException:
            with held_back():
                if crew is not None and not report.took_over:
                    crew.remove()
                still.end()
                still.await_up()
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
            still.await_up()
        report.downtime_seconds = still.downtime_seconds
        report.problems = still.problems
        for problem in still.problems:
            say(f"volferry: {problem}")
    return report


def _hand_over(
    sides: BothEngines,
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
        still.check()
        still.leave()
        report.took_over = True
        await_health_on_target(sides.target, report.started, observer)
        _say_who_comes_back(sides.source, still, observer)


@contextmanager
def _targets(
    sides: BothEngines, plan: MigrationPlan, made: MadeVolumes, reading: Helper, *, into_existing: bool
) -> Iterator[Helper]:
    """A helper that writes to the volumes of the target, which are made. Raises VolumeNotEmpty for what holds data and may not, SameData
    for what is not apart from the sources: nothing was written there.
    """
    from volferry.engine.helper import open_helper  # noqa: PLC0415
    from volferry.operations.migration_plan import Ends, look_into  # noqa: PLC0415

    for each in plan.volumes:
        if not each.there:
            each.target = made.make(each.target)
    with open_helper(
        sides.target, sides.run, sides.target_settings, [each.target for each in plan.volumes], write=True
    ) as helper:
        holding = made.holding_data(helper)
        for each in plan.volumes:
            # What could not be looked into for the plan, or has come since.
            if each.target.name in holding or each.state == "empty":
                look_into(plan, each, Ends(sides.source, reading, helper), into_existing=into_existing)
        for obstacle in plan.obstacles[:-1]:
            say(f"volferry: {obstacle}")
        if plan.obstacles:
            raise VolumeNotEmpty(plan.obstacles[-1])
        _check_apart(plan, made, reading, helper)
        yield helper


def _check_apart(plan: MigrationPlan, made: MadeVolumes, reading: Helper, writing: Helper) -> None:
    """Raises SameData."""
    from volferry.operations.new_volume import leads_elsewhere  # noqa: PLC0415
    from volferry.operations.same_data import find_overlap  # noqa: PLC0415

    # In the engines' own data, one volume is not another, nor in it.
    if not any(leads_elsewhere(volume) for each in plan.volumes for volume in (each.source, each.target)):
        return
    sources = {reading.directory(each.source.name): each for each in plan.volumes}
    targets = {writing.directory(each.target.name): each for each in plan.volumes}
    full = [directory for directory, each in targets.items() if each.state in {"existing", "resumed"}]
    found = find_overlap(reading, list(sources), writing, list(targets), below=True, full=full)
    if found is None:
        return
    made.doubt()
    source, target = sources[found.source].source, targets[found.target]
    name = target.target.name
    does = "lies in" if found.how == "is in" else found.how
    what = f"volume {name} on the target {does} the very data of volume {source.name} on the source"
    if found.how == "is":
        use = (
            "the volume can be used as it is"
            if target.there
            else "`docker volume create` makes the volume there"
        )
        raise SameData(f"{what}: there is nothing to move, and {use}")
    raise SameData(
        f"{what}: --rename {target.source.name}=NEW or --option {target.source.name}:KEY=VALUE takes another place"
    )


def _legs(
    sides: BothEngines, plan: MigrationPlan, reading: Helper, writing: Helper, observer: TerminalObserver
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
