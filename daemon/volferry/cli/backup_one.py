"""Backs up one volume, as it is wanted: hooks, dumps, and what stands still meanwhile."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from volferry.cli.known_marks import known_marks
from volferry.cli.progress import TerminalObserver
from volferry.cli.session import say
from volferry.errors import DowntimeExceeded, Interrupted, Unfinished, UsageError
from volferry.volume_settings import MAX_DOWNTIME, QUIESCE_AFTER

if TYPE_CHECKING:
    from volferry.archive.excludes import Excludes
    from volferry.cli.session import Session
    from volferry.engine.helper import HelperSettings
    from volferry.labels import ContainerCommand, Dump
    from volferry.model import BackupStats, Volume
    from volferry.operations.coming_back import NotBack
    from volferry.operations.hooks import Hooks
    from volferry.operations.quiesce import Mode, Quiesced
    from volferry.repository import Repository
    from volferry.restore_record import Left
    from volferry.run import Run
    from volferry.volume_settings import HostHooks


@dataclass(frozen=True, slots=True)
class Wanted:
    """How one volume is backed up."""

    excludes: Excludes
    one_file_system: bool
    quiesce: Mode
    warm: bool
    full: bool
    suspicious: bool
    host_hooks: HostHooks
    pre: list[ContainerCommand]
    post: list[ContainerCommand]
    on_error: list[ContainerCommand]
    dumps: list[Dump]
    max_downtime: timedelta
    young: timedelta  # containers that run for less are not stopped


@dataclass(slots=True)
class Afterwards:
    """Besides the backup."""

    problems: list[str] = field(default_factory=list)
    down: list[NotBack] = field(
        default_factory=list
    )  # what was stopped and is not up, and hooks that are still to be run
    stopped: bool = False  # whether anything was


class OpenedStore:
    """The store's repository, opened while the first volume's helper comes up, and made if it is not there. What dead
    runs left behind, in the engine and in the store, is removed then.
    """

    def __init__(self, session: Session, run: Run, *, new_store: bool = False) -> None:
        """With `new_store`, it does not matter which store was at its place before."""
        self._session = session
        self._new_store = new_store
        self._run = run
        self._repository: Repository | None = None
        self.failed = False  # it cannot be opened

    def repository(self) -> Repository:
        if self._repository is None:
            self.failed = True
            store = self._session.store
            self._repository, new = self._session.known_stores.open_or_create(
                store, self._session.config.store_config.endpoint, new_store=self._new_store
            )
            if new:
                say(f"new store at {store.url}")
            store.clean()
            self._session.reap(self._run)
            self.failed = False
        return self._repository


def back_up_one(
    session: Session,
    volume: Volume,
    opened: OpenedStore,
    settings: HelperSettings,
    run: Run,
    wanted: Wanted,
    after: Afterwards,
) -> BackupStats:
    """`after` says what could not be brought back, also where there is no backup. Raises VolferryError."""
    from volferry.engine.helper import HelperInBackground  # noqa: PLC0415

    if volume.incomplete:
        raise Unfinished(
            f"volume {volume.name} is not complete: its migration has not ended; the same `volferry migrate`, run again, completes it"
        )
    started = time.monotonic()
    with (
        session.holding([volume.name]),
        TerminalObserver(volume.name) as observer,
        HelperInBackground(session.engine, run, settings, [volume.mountable]) as helper,
    ):
        # Imported and opened while the helper comes up.
        from volferry.checkpoint import any_packs  # noqa: PLC0415
        from volferry.index_cache import IndexCache  # noqa: PLC0415
        from volferry.interrupts import Overdue, held_back  # noqa: PLC0415
        from volferry.operations.backup import backup_volume  # noqa: PLC0415
        from volferry.operations.dumps import take_dumps  # noqa: PLC0415
        from volferry.operations.volume_pass import BackupSettings, VolumeState  # noqa: PLC0415
        from volferry.restore_record import settle_after_backup  # noqa: PLC0415
        from volferry.volume_lock import volume_lock  # noqa: PLC0415

        repository = opened.repository()
        environment = {"VOLFERRY_VOLUME": volume.name, "VOLFERRY_HOST": session.host, "VOLFERRY_RUN": run.id}
        still, hooks = _around(session, volume, repository, settings, run, wanted, environment, observer)
        state = session.state_of_volume(repository, session.host, volume.name)
        try:
            with volume_lock(state, volume.name):
                hooks.before()
                dumps, undumped = take_dumps(
                    session.engine, wanted.dumps, spool=run.spool, environment=environment, observer=observer
                )
                stats = backup_volume(
                    volume,
                    helper=helper,
                    repository=repository,
                    settings=BackupSettings(
                        host=session.host,
                        engine=f"{session.engine.name}, Docker {session.engine.version}",
                        compression_level=session.config.compression,
                        excludes=wanted.excludes,
                        one_file_system=wanted.one_file_system,
                        full=wanted.full,
                        suspicious=wanted.suspicious,
                        marks=known_marks(session, volume.name),
                    ),
                    state=VolumeState(state / "checkpoints", IndexCache(state / "index")),
                    spool=run.spool,
                    started=started,
                    observer=observer,
                    still=still,
                    dumps=dumps,
                    findings=undumped,
                )
        except BaseException as error:
            with held_back():
                reason = still.too_long if isinstance(error, Overdue) else str(error)
                after.stopped = still.has_stopped
                still.end()
                still.await_up()
                hooks.after(reason)
                after.problems += [*still.problems, *hooks.problems]
                after.down += [*still.down, *hooks.down]
                for problem in after.problems:
                    say(f"volferry: {volume.name}: {problem}")
                if isinstance(error, Interrupted) and any_packs(state / "checkpoints"):
                    say(
                        f"{volume.name}: what was stored so far stays, and the same command goes on from there"
                    )
            if isinstance(error, Overdue):
                raise DowntimeExceeded(reason) from error
            raise
        session.manifest_cache(repository).note(stats.ref)
        after.stopped = still.has_stopped
        with held_back():
            still.await_up()
            hooks.after(None)
        after.problems += [*still.problems, *hooks.problems]
        after.down += [*still.down, *hooks.down]
        settle_after_backup(
            session.state_of_content(volume.name), partial(_what_is_left, session, volume, settings, run)
        )
        return stats


def _around(
    session: Session,
    volume: Volume,
    repository: Repository,
    settings: HelperSettings,
    run: Run,
    wanted: Wanted,
    environment: dict[str, str],
    observer: TerminalObserver,
) -> tuple[Quiesced, Hooks]:
    """What stands still while the volume is read, and the commands before and after."""
    from volferry.cli.standstill import standstill  # noqa: PLC0415
    from volferry.engine.own import check_own_container  # noqa: PLC0415
    from volferry.journal import Journal  # noqa: PLC0415
    from volferry.operations.hooks import Hooks  # noqa: PLC0415
    from volferry.operations.quiesce import Limits, Quiesced  # noqa: PLC0415

    if wanted.quiesce != "none":
        check_own_container(session.engine, settings.own)
    config = session.config
    origin = (
        (session.engine.id, session.engine.url),
        session.host,
        str(session.config_file.absolute()) if session.config_file else "",
    )
    patience = config.bring_back.delta
    still = Quiesced(
        session.engine,
        [volume.writers_by],
        wanted.quiesce,
        warm=wanted.warm and wanted.quiesce != "none",
        journal=Journal.of_run(config.state_dir, run.id, *origin),
        own=[settings.own.id] if settings.own else [],
        note=observer.note,
        limits=Limits(wanted.young, wanted.max_downtime, patience),
        recover=partial(session.recovery_by, observer.note),
        turn=partial(standstill, session, settings, run, observer.note, None),
        before=partial(repository.try_to_write, session.host, volume.name),
    )
    hooks = Hooks(
        session.engine,
        pre=wanted.pre,
        post=wanted.post,
        on_error=wanted.on_error,
        host=wanted.host_hooks,
        environment=environment,
        journal=Journal.of_run(config.state_dir, run.id, *origin),
        note=observer.note,
        patience_seconds=patience.total_seconds(),
    )
    return still, hooks


def _what_is_left(session: Session, volume: Volume, settings: HelperSettings, run: Run) -> Left:
    """Of a restore that was interrupted. Rarely asked, when the helper of the backup is going or gone."""
    from volferry.engine.helper import open_helper  # noqa: PLC0415
    from volferry.operations.restore import what_is_left  # noqa: PLC0415

    with open_helper(session.engine, run, settings, [volume.mountable]) as helper:
        return what_is_left(helper, volume.name)


def wanted_of(
    session: Session,
    volume: Volume,
    *,
    exclude: list[str],
    exclude_caches: bool,
    one_file_system: bool | None,
    quiesce: Mode | None,
    warm: bool | None,
    full: bool,
    scheduled: bool = False,
) -> Wanted:
    """The options of the command line, else those in force for the volume. Raises ConfigError, UsageError for a pattern that
    cannot be understood.
    """
    from volferry.archive.excludes import Excludes  # noqa: PLC0415
    from volferry.labels import dumps_of, hooks_of  # noqa: PLC0415
    from volferry.volume_settings import HostHooks  # noqa: PLC0415

    settings = session.config.settings_of(volume)
    excludes = Excludes(
        (*(settings.exclude or ()), *exclude), bool(settings.exclude_caches) or exclude_caches
    )
    try:
        excludes.check()
    except ValueError as error:
        raise UsageError(f"volume {volume.name}: {error}") from error
    uses = [session.config.labels.heard_of(use) for use in volume.uses]
    running = [use for use in uses if use.state == "running"]
    return Wanted(
        excludes=excludes,
        one_file_system=bool(settings.one_file_system if one_file_system is None else one_file_system),
        quiesce=quiesce or settings.quiesce or "none",
        warm=bool(settings.warm) if warm is None else warm,
        full=full,
        suspicious=settings.suspicious is not False,
        host_hooks=settings.hooks or HostHooks(),
        pre=hooks_of(running, "pre"),
        post=hooks_of(running, "post"),
        on_error=hooks_of(running, "on-error"),
        dumps=dumps_of(volume.name, uses),
        max_downtime=(settings.max_downtime or MAX_DOWNTIME).delta,
        young=(settings.quiesce_after or QUIESCE_AFTER).delta if scheduled else timedelta(),
    )
