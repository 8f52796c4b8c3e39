"""The move of a migration: passes, cut-over, and which side runs afterwards."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from volferry.cli.known_marks import known_marks
from volferry.cli.made_volumes import MadeVolumes, made_volumes
from volferry.cli.migration_containers import Crew, await_health_on_target, copy_images, start_on_target
from volferry.cli.migration_report import MigrationReport
from volferry.cli.output import say
from volferry.cli.progress import TerminalObserver
from volferry.cli.session import Session
from volferry.errors import SameData, VolferryError, VolumeNotEmpty
from volferry.interrupts import held_back

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from volferry.cli.migration_options import Wanted
    from volferry.engine.client import Engine
    from volferry.engine.helper import Helper, HelperSettings
    from volferry.model import Volume
    from volferry.operations.migration import Leg
    from volferry.operations.migration_plan import MigrationPlan, PlannedVolume
    from volferry.operations.quiesce import Quiesced
    from volferry.run import Run

_COMPLETE = (
    "the volumes on the target are complete, and equal to those of the source as they were then, but what was stopped runs on the source again: "
    "the same command with --into-existing sends what has changed since, and goes on"
)


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
    session: Session, sides: BothEngines, plan: MigrationPlan, readers: Mapping[str, Helper], wanted: Wanted
) -> MigrationReport:
    """Raises VolferryError; unless the target has taken over, the source's services run again."""
    from volferry.cli.standstill import standstill  # noqa: PLC0415
    from volferry.engine.incomplete import say_complete, say_incomplete  # noqa: PLC0415
    from volferry.engine.own import check_own_container  # noqa: PLC0415
    from volferry.journal import Journal  # noqa: PLC0415
    from volferry.operations.migration import cut_over, pass_by_pass, unmark_all  # noqa: PLC0415
    from volferry.operations.migration_plan import mark_of  # noqa: PLC0415
    from volferry.operations.quiesce import Limits, Quiesced  # noqa: PLC0415
    from volferry.restore_record import note_completed  # noqa: PLC0415

    check_own_container(sides.source, sides.source_settings.own)
    subject = plan.volumes[0].source.name if len(plan.volumes) == 1 else f"{len(plan.volumes)} volumes"
    with (
        TerminalObserver(subject) as observer,
        session.holding((each.target.name for each in plan.volumes), sides.target, write=True),
        made_volumes(sides.target, " on the target") as made,
        _targets(sides, plan, made, readers, into_existing=wanted.into_existing) as writers,
    ):
        for each in plan.volumes:
            say_incomplete(
                sides.target,
                sides.target_settings.image,
                each.target.name,
                mark_of(sides.source, each.source.name),
            )
        ended = {each.target.name: _seal_there(session, sides, each, writers) for each in plan.volumes}
        made.keep()  # from here on they hold something
        running: list[str] = []  # containers that were started on the target
        legs = _legs(session, sides, plan, readers, writers, observer)
        still = Quiesced(
            sides.source,
            [each.source.writers_by for each in plan.volumes],
            "stop",
            warm=True,
            journal=Journal.of_run(
                session.config.state_dir, sides.run.id, (sides.source.id, sides.source.url)
            ),
            own=sides.own,
            limits=Limits(bring_back=session.config.bring_back.delta),
            turn=partial(standstill, session, sides.source_settings, sides.run, observer.note, sides.source),
            note=partial(_tried, observer.note),
            also=[each.id for each in plan.carried.containers] if plan.carried else [],
        )
        crew = Crew(sides.target, plan.carried, observer, running) if plan.carried is not None else None
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
            with held_back():  # both that they are whole, and that we know it
                unmark_all(legs)
                for each in plan.volumes:
                    say_complete(sides.target, each.target.name)
                    directory = session.state_of_content(each.target.name, sides.target)
                    note_completed(directory, [ended[each.target.name]])
                complete = True
            report.stopped = still.stopped
            _hand_over(sides, wanted, still, crew, running, report)
            if report.took_over:
                await_health_on_target(sides.target, report.started, observer)
                _say_who_comes_back(sides.source, still, observer)
            still.end()  # does nothing where the target has taken over
            if not report.took_over:
                still.await_up()
        except BaseException:
            with held_back():
                _give_back(still, crew, running, report, complete=complete)
            raise
        report.downtime_seconds = still.downtime_seconds
        report.problems = still.problems
        for problem in still.problems:
            say(f"volferry: {problem}")
    return report


def _give_back(
    still: Quiesced, crew: Crew | None, running: list[str], report: MigrationReport, *, complete: bool
) -> None:
    """After an error: the services of the source come first, unless containers of the target are known to run beside them. Whatever fails here
    keeps nothing else from being done; nor does a terminal that is gone.
    """
    steps: list[Callable[[], object]] = [still.end, still.await_up]
    if crew is not None and not report.took_over:
        steps.insert(0 if running else 1, crew.remove)
    for step in steps:
        _tried(step)
    for problem in still.problems:
        _tried(say, f"volferry: {problem}")
    _tried(
        say,
        "the target has taken over"
        if report.took_over
        else _COMPLETE
        if complete
        else "what has been moved is incomplete, and marked so on the target; the same command, run again, goes on from there",
    )


def _tried(step: Callable[..., object], *arguments: object) -> None:
    try:
        step(*arguments)
    except Exception as error:  # noqa: BLE001 -- the steps that follow bring services back
        with suppress(OSError):
            say(f"volferry: {error}")


def _hand_over(
    sides: BothEngines,
    wanted: Wanted,
    still: Quiesced,
    crew: Crew | None,
    running: list[str],
    report: MigrationReport,
) -> None:
    """To containers of the target, where that is asked for. Raises EngineError; then the source has to go on."""
    if wanted.takes_over:
        still.check()
        still.hand_over(sides.target.url)

    def take_over(started: list[str]) -> None:
        report.started = started
        if not wanted.takes_over:
            return
        report.took_over = True
        try:
            still.leave()
        except (VolferryError, OSError) as error:
            problem = (
                f"that the target has taken over could not be written down ({error}): the next command of volferry starts "
                f"{', '.join(still.stopped)} on the source too: stop one side"
            )
            still.further_problems.append(problem)

    names, in_this_order = wanted.start, False
    if crew is not None and not wanted.leave_stopped:
        names, in_this_order = [*names, *crew.to_start], True
    start_on_target(sides.target, names, take_over, running=running, in_this_order=in_this_order)


@contextmanager
def _targets(
    sides: BothEngines,
    plan: MigrationPlan,
    made: MadeVolumes,
    readers: Mapping[str, Helper],
    *,
    into_existing: bool,
) -> Iterator[dict[str, Helper]]:
    """Helpers that write to the volumes of the target, by name, which are made. Raises VolumeNotEmpty for what holds data and may not, SameData
    for what is not apart from the sources: nothing was written there.
    """
    from volferry.engine.helpers import open_helpers  # noqa: PLC0415
    from volferry.operations.migration_plan import Ends, look_into  # noqa: PLC0415

    for each in plan.volumes:
        if not each.there:
            each.target = made.make(each.target)
    with open_helpers(
        sides.target, sides.run, sides.target_settings, [each.target for each in plan.volumes], write=True
    ) as writers:
        holding = made.holding_data(writers.__getitem__)
        for each in plan.volumes:
            # What could not be looked into for the plan, or has come since.
            if each.target.name in holding or each.state == "empty":
                ends = Ends(sides.source, readers[each.source.name], writers[each.target.name])
                look_into(plan, each, ends, into_existing=into_existing)
        for obstacle in plan.obstacles[:-1]:
            say(f"volferry: {obstacle}")
        if plan.obstacles:
            raise VolumeNotEmpty(plan.obstacles[-1])
        _check_apart(plan, made, readers, writers)
        yield writers


def _check_apart(
    plan: MigrationPlan, made: MadeVolumes, readers: Mapping[str, Helper], writers: Mapping[str, Helper]
) -> None:
    """Raises SameData."""
    from volferry.operations.new_volume import leads_elsewhere  # noqa: PLC0415
    from volferry.operations.same_data import find_overlap  # noqa: PLC0415

    for target in plan.volumes:
        writing = writers[target.target.name]
        there = [writing.directory(target.target.name)]
        full = there if target.state in {"existing", "resumed"} else []
        for each in plan.volumes:
            # In the engines' own data, one volume is not another, nor in it.
            if not (leads_elsewhere(each.source) or leads_elsewhere(target.target)):
                continue
            reading = readers[each.source.name]
            here = [reading.directory(each.source.name)]
            found = find_overlap(reading, here, writing, there, below=True, full=full)
            if found is not None:
                made.doubt()
                _refuse(each.source, target, found.how)


def _refuse(source: Volume, target: PlannedVolume, how: str) -> NoReturn:
    """Raises SameData."""
    name = target.target.name
    does = "lies in" if how == "is in" else how
    what = f"volume {name} on the target {does} the very data of volume {source.name} on the source"
    if how == "is":
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
    session: Session,
    sides: BothEngines,
    plan: MigrationPlan,
    readers: Mapping[str, Helper],
    writers: Mapping[str, Helper],
    observer: TerminalObserver,
) -> list[Leg]:
    from volferry.operations.migration import Leg  # noqa: PLC0415
    from volferry.operations.migration_plan import mark_of  # noqa: PLC0415
    from volferry.operations.places import Place  # noqa: PLC0415
    from volferry.operations.transfer import Transfer  # noqa: PLC0415

    legs = []
    for number, each in enumerate(plan.volumes):
        reading, writing = readers[each.source.name], writers[each.target.name]
        source = Place(reading, reading.directory(each.source.name))
        target = Place(writing, writing.directory(each.target.name))
        marks = known_marks(session, each.source)
        legs.append(
            Leg(
                volume=each.source.name,
                target=each.target.name,
                target_helper=writing,
                transfer=Transfer(source, target, sides.run.spool / f"leg.{number}", observer, marks=marks),
                holds_something=each.state in {"resumed", "existing"},
                mark_text=mark_of(sides.source, each.source.name),
            )
        )
    return legs


def _seal_there(
    session: Session, sides: BothEngines, each: PlannedVolume, writers: Mapping[str, Helper]
) -> str:
    """Of the mark of a restore into the target volume that had not ended, and is over when the migration is completed."""
    from volferry.operations.restore import content_if_marked  # noqa: PLC0415

    helper = writers[each.target.name]
    content = content_if_marked(helper, helper.directory(each.target.name))
    return known_marks(session, each.target, sides.target).seal_in(content)


def _say_who_comes_back(source: Engine, still: Quiesced, observer: TerminalObserver) -> None:
    """Warns of containers that the engine itself would start when it restarts, beside those that took over."""
    for name in still.restarted_by_engine(source):
        observer.note(
            f"container {name} has the restart policy 'always': it is started again with the source's engine, unless "
            f"`docker update --restart=unless-stopped {name}` changes that"
        )
