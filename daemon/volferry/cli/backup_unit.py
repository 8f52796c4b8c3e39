"""Backs up volumes that belong together, as it is wanted: hooks, dumps, and what stands still meanwhile."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from volferry.cli.known_marks import known_marks
from volferry.cli.output import say
from volferry.cli.progress import TerminalObserver
from volferry.cli.wanted import WantedTogether, shared_hooks
from volferry.errors import DowntimeExceeded, Interrupted, Unfinished, VolumeBusy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from volferry.cli.opened_store import OpenedStore
    from volferry.cli.session import Session
    from volferry.cli.wanted import Wanted
    from volferry.engine.helper import HelperInBackground, HelperSettings
    from volferry.model import BackupStats, Volume
    from volferry.observer import Observer
    from volferry.operations.backup import Part
    from volferry.operations.hooks import Hooks
    from volferry.operations.not_back import NotBack
    from volferry.operations.quiesce import Quiesced
    from volferry.repository import Repository
    from volferry.restore_record import Left
    from volferry.run import Run

_MOST_NAMES = 3


@dataclass(slots=True)
class Afterwards:
    """Besides the backups of a unit."""

    problems: list[str] = field(default_factory=list)
    down: list[NotBack] = field(
        default_factory=list
    )  # what was stopped and is not up, and hooks that are still to be run
    stopped: bool = False  # whether anything was
    blamed: str = ""  # the volume for which there are none; empty where that is no one of them


def back_up_unit(
    session: Session,
    volumes: Sequence[Volume],
    opened: OpenedStore,
    settings: HelperSettings,
    run: Run,
    wanted: Mapping[str, Wanted],
    after: Afterwards,
) -> list[BackupStats]:
    """`wanted` is of each, by its name. `after` says what could not be brought back, also where there are no backups. Raises VolferryError."""
    _check_complete(volumes, after)
    started, began = time.monotonic(), datetime.now(UTC)
    with (
        session.holding([volume.name for volume in volumes]),
        TerminalObserver(_names_of(volumes)) as observer,
        ExitStack() as stack,
    ):
        from volferry.engine.helper import HelperInBackground  # noqa: PLC0415

        helpers = [
            stack.enter_context(HelperInBackground(session.engine, run, settings, [volume.mountable]))
            for volume in volumes
        ]
        # Imported and opened while the helpers come up.
        from volferry.begun_sets import begun_set  # noqa: PLC0415
        from volferry.checkpoint import any_packs  # noqa: PLC0415
        from volferry.interrupts import Overdue, held_back  # noqa: PLC0415
        from volferry.operations.backup import Unit  # noqa: PLC0415
        from volferry.restore_record import note_backed_up, settle_after_backup  # noqa: PLC0415
        from volferry.volume_lock import volume_lock  # noqa: PLC0415

        repository = opened.repository()
        states = [session.state_of_volume(repository, session.host, volume.name) for volume in volumes]
        still, all_hooks = _around(session, volumes, repository, settings, run, wanted, observer)
        parts = [
            _part(
                session,
                volume,
                helper,
                Path(stack.enter_context(TemporaryDirectory(dir=run.spool, ignore_cleanup_errors=True))),
                wanted[volume.name],
                state,
                observer.of(volume.name),
            )
            for volume, helper, state in zip(volumes, helpers, states, strict=True)
        ]

        def before() -> None:
            still.take_turn()
            stack.enter_context(_hook_locks(session, all_hooks, observer.note))
            for hooks in all_hooks:
                hooks.before()
            for part in parts:
                _take_dumps(session, part, wanted[part.volume.name], run)

        set_id = _set_of(volumes)
        unit = Unit(parts, repository, started, still, before, set_id)
        if set_id is not None:
            unit.around_manifests = partial(begun_set, session.state_of(repository), repository.place, set_id)
        try:
            for volume, state in sorted(zip(volumes, states, strict=True), key=lambda each: each[1]):
                stack.enter_context(volume_lock(state, volume.name))
            made = unit.back_up()
        except BaseException as error:
            with held_back():
                after.blamed = unit.blamed
                reason = still.too_long if isinstance(error, Overdue) else str(error)
                # Where another run is at work, or a person has ended this one, nothing has failed yet.
                has_failed = isinstance(error, Exception) and not isinstance(error, VolumeBusy)
                _bring_back(still, [each for each in all_hooks if has_failed or each.begun], reason, after)
                for problem in after.problems:
                    say(f"volferry: {_names_of(volumes)}: {problem}")
                if isinstance(error, Interrupted) and any(
                    any_packs(state / "checkpoints") for state in states
                ):
                    say(
                        f"{_names_of(volumes)}: what was stored so far stays, and the same command goes on from there"
                    )
            if isinstance(error, Overdue):
                raise DowntimeExceeded(reason) from error
            raise
        for stats in made:
            session.manifest_cache(repository).note(stats.ref)
        with held_back():
            _bring_back(still, all_hooks, None, after)
        for volume in volumes:
            directory = session.state_of_content(volume.name)
            settle_after_backup(directory, partial(_what_is_left, session, volume, settings, run))
            note_backed_up(directory, began)
        return made


def _hook_locks(
    session: Session, all_hooks: Sequence[Hooks], note: Callable[[str], object]
) -> AbstractContextManager[None]:
    """One run at a time is between `pre` and `post` of a container: or one would end what the other one needs."""
    from volferry.volume_lock import hook_locks  # noqa: PLC0415

    commands = (each for hooks in all_hooks for each in (*hooks.pre, *hooks.post))
    return hook_locks(
        session.config.state_dir, {each.container_id: each.container for each in commands}, note
    )


def _check_complete(volumes: Sequence[Volume], after: Afterwards) -> None:
    """Raises Unfinished for one that is not."""
    for volume in volumes:
        if volume.incomplete:
            after.blamed = volume.name
            raise Unfinished(
                f"volume {volume.name} is not complete: its migration has not ended; the same `volferry migrate`, run again, completes it"
            )


def _bring_back(still: Quiesced, all_hooks: Sequence[Hooks], error: str | None, after: Afterwards) -> None:
    after.stopped = still.has_stopped
    still.end()
    still.await_up()
    for hooks in reversed(all_hooks):
        hooks.after(error)
    after.problems += [*still.problems, *(problem for hooks in all_hooks for problem in hooks.problems)]
    after.down += [*still.down, *(down for hooks in all_hooks for down in hooks.down)]


def _set_of(volumes: Sequence[Volume]) -> str | None:
    """The id of their set; None for a volume that has no company."""
    from volferry.model import new_backup_id  # noqa: PLC0415

    if len(volumes) == 1:
        return None
    return new_backup_id(datetime.now(UTC))


def _names_of(volumes: Sequence[Volume]) -> str:
    names = [volume.name for volume in volumes]
    if len(names) > _MOST_NAMES:
        return f"{', '.join(names[: _MOST_NAMES - 1])} and {len(names) - _MOST_NAMES + 1} more"
    return ", ".join(names)


def _part(
    session: Session,
    volume: Volume,
    helper: HelperInBackground,
    spool: Path,
    wanted: Wanted,
    state: Path,
    observer: Observer,
) -> Part:
    from volferry.index_cache import IndexCache  # noqa: PLC0415
    from volferry.operations.backup import Part  # noqa: PLC0415
    from volferry.operations.volume_pass import BackupSettings, VolumeState  # noqa: PLC0415

    return Part(
        volume,
        helper,
        BackupSettings(
            host=session.host,
            engine=f"{session.engine.name}, {session.engine.product}",
            compression_level=session.config.compression,
            excludes=wanted.excludes,
            one_file_system=wanted.one_file_system,
            full=wanted.full,
            suspicious=wanted.suspicious,
            marks=known_marks(session, volume),
        ),
        VolumeState(state / "checkpoints", IndexCache(state / "index")),
        spool,
        observer,
    )


def _take_dumps(session: Session, part: Part, wanted: Wanted, run: Run) -> None:
    """Raises DumpFailed, VolferryError."""
    from volferry.operations.dumps import take_dumps  # noqa: PLC0415

    environment = {**_environment(session, run), "VOLFERRY_VOLUME": part.volume.name}
    part.dumps, part.findings = take_dumps(
        session.engine, wanted.dumps, spool=part.spool, environment=environment, observer=part.observer
    )


def _environment(session: Session, run: Run) -> dict[str, str]:
    return {"VOLFERRY_HOST": session.host, "VOLFERRY_RUN": run.id}


def _around(
    session: Session,
    volumes: Sequence[Volume],
    repository: Repository,
    settings: HelperSettings,
    run: Run,
    wanted: Mapping[str, Wanted],
    observer: TerminalObserver,
) -> tuple[Quiesced, list[Hooks]]:
    """What stands still while the volumes are read, and the commands before and after."""
    from volferry.cli.standstill import standstill  # noqa: PLC0415
    from volferry.engine.own import check_own_container  # noqa: PLC0415
    from volferry.journal import Journal  # noqa: PLC0415
    from volferry.operations.hooks import Hooks  # noqa: PLC0415
    from volferry.operations.quiesce import Limits, Quiesced  # noqa: PLC0415

    together = WantedTogether.of(wanted[volume.name] for volume in volumes)
    if together.quiesce != "none":
        check_own_container(session.engine, settings.own)
    config = session.config
    origin = (
        (session.engine.id, session.engine.url),
        session.host,
        str(session.config_file.absolute()) if session.config_file else "",
    )
    patience = config.bring_back.delta

    def try_to_write() -> None:
        for volume in volumes:
            repository.try_to_write(session.host, volume.name)

    still = Quiesced(
        session.engine,
        [volume.writers_by for volume in volumes],
        together.quiesce,
        warm=together.warm and together.quiesce != "none",
        journal=Journal.of_run(config.state_dir, run.id, *origin),
        own=[settings.own.id] if settings.own else [],
        note=observer.note,
        limits=Limits(together.young, together.max_downtime, patience),
        recover=partial(session.recovery_by, observer.note),
        turn=partial(standstill, session, settings, run, observer.note, None),
        before=try_to_write,
    )
    all_hooks = [
        Hooks(
            session.engine,
            each.volumes,
            pre=each.pre,
            post=each.post,
            on_error=each.on_error,
            host=each.host,
            environment=_environment(session, run),
            journal=Journal.of_run(config.state_dir, run.id, *origin),
            note=observer.note,
            patience_seconds=patience.total_seconds(),
        )
        for each in shared_hooks({volume.name: wanted[volume.name] for volume in volumes})
    ]
    return still, all_hooks


def _what_is_left(session: Session, volume: Volume, settings: HelperSettings, run: Run) -> Left:
    """Of a restore that was interrupted. Rarely asked, when the helper of the backup is going or gone."""
    from volferry.engine.helper import open_helper  # noqa: PLC0415
    from volferry.operations.restore import what_is_left  # noqa: PLC0415

    with open_helper(session.engine, run, settings, [volume.mountable]) as helper:
        return what_is_left(helper, volume.name, known_marks(session, volume))
