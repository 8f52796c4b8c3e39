"""Backs up one volume, as it is wanted: hooks, dumps, and what stands still meanwhile."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from volferry.cli.progress import TerminalObserver
from volferry.cli.session import say
from volferry.errors import Interrupted, Unfinished, UsageError

if TYPE_CHECKING:
    from volferry.archive.excludes import Excludes
    from volferry.cli.session import Session
    from volferry.engine.helper import HelperSettings
    from volferry.labels import ContainerCommand, Dump
    from volferry.model import BackupStats, Volume
    from volferry.operations.quiesce import Mode
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
    session: Session, volume: Volume, opened: OpenedStore, settings: HelperSettings, run: Run, wanted: Wanted
) -> tuple[BackupStats, list[str]]:
    """Also what could not be brought back afterwards."""
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
        from volferry.interrupts import held_back  # noqa: PLC0415
        from volferry.journal import Journal  # noqa: PLC0415
        from volferry.operations.backup import backup_volume  # noqa: PLC0415
        from volferry.operations.dumps import take_dumps  # noqa: PLC0415
        from volferry.operations.hooks import Hooks  # noqa: PLC0415
        from volferry.operations.quiesce import Quiesced  # noqa: PLC0415
        from volferry.operations.volume_pass import BackupSettings, VolumeState  # noqa: PLC0415
        from volferry.restore_record import settle_after_backup  # noqa: PLC0415
        from volferry.volume_lock import volume_lock  # noqa: PLC0415

        repository = opened.repository()
        engine = (session.engine.id, session.engine.url)
        still = Quiesced(
            session.engine,
            [volume.writers_by],
            wanted.quiesce,
            warm=wanted.warm and wanted.quiesce != "none",
            journal=Journal.of_run(session.config.state_dir, run.id, engine),
            own=[settings.own.id] if settings.own else [],
            note=observer.note,
        )
        environment = {"VOLFERRY_VOLUME": volume.name, "VOLFERRY_HOST": session.host, "VOLFERRY_RUN": run.id}
        hooks = Hooks(
            session.engine,
            pre=wanted.pre,
            post=wanted.post,
            on_error=wanted.on_error,
            host=wanted.host_hooks,
            environment=environment,
            journal=Journal.of_run(session.config.state_dir, run.id, engine),
        )
        state = session.state_of_volume(repository, session.host, volume.name)
        try:
            with volume_lock(state, volume.name):
                hooks.before()
                dumps = take_dumps(
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
                    ),
                    state=VolumeState(state / "checkpoints", IndexCache(state / "index")),
                    spool=run.spool,
                    started=started,
                    observer=observer,
                    still=still,
                    dumps=dumps,
                )
        except BaseException as error:
            with held_back():
                hooks.after(str(error))
                for problem in (*still.problems, *hooks.problems):
                    say(f"volferry: {volume.name}: {problem}")
                if isinstance(error, Interrupted) and any_packs(state / "checkpoints"):
                    say(
                        f"{volume.name}: what was stored so far stays, and the same command goes on from there"
                    )
            raise
        session.manifest_cache(repository).note(stats.ref)
        try:
            still.await_health()
        finally:
            hooks.after(None)
        settle_after_backup(
            session.state_of_content(volume.name), partial(_what_is_left, session, volume, settings, run)
        )
        return stats, still.problems + hooks.problems


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
    running = [use for use in volume.uses if use.state == "running"]
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
        dumps=dumps_of(volume.name, volume.uses),
    )
