"""`volferry backup`: backs up volumes, one after another."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from volferry.cli.options import ConfigOption, EngineOption, HostOption, JsonOption, StoreOption
from volferry.cli.progress import TerminalObserver
from volferry.cli.session import Session, print_json, say
from volferry.cli.text import count_text, duration_text, size_text
from volferry.errors import FINDINGS_EXIT_CODE, EngineError, UsageError, VolferryError, reason

if TYPE_CHECKING:
    from volferry.archive.excludes import Excludes
    from volferry.engine.helper import HelperSettings
    from volferry.model import BackupStats, Volume
    from volferry.operations.quiesce import Mode
    from volferry.repository import Repository
    from volferry.run import Run


def backup(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[VOLUME]...", help="Volumes to back up.")
    ] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", "-a", help="All named volumes of the engine.")] = False,
    project: Annotated[
        str | None,
        typer.Option("--project", "-p", metavar="P", help="The named volumes of a compose project."),
    ] = None,
    container: Annotated[
        str | None, typer.Option("--container", metavar="C", help="All volumes that a container mounts.")
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude",
            "-e",
            metavar="PATTERN",
            help="Leave out what fits, as in a .gitignore; besides the config's.",
        ),
    ] = None,
    exclude_caches: Annotated[
        bool, typer.Option("--exclude-caches", help="Leave out directories that a CACHEDIR.TAG marks.")
    ] = False,
    quiesce: Annotated[
        Quiesce | None,
        typer.Option(
            "--quiesce",
            help="Stop or pause containers that write to the volume while it is read; else the config's.",
        ),
    ] = None,
    warm: Annotated[
        bool | None,
        typer.Option(
            "--warm/--no-warm", help="Read the volume once before that, so that they stand still for moments."
        ),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Read everything, also what has not changed.")] = False,
    json: JsonOption = False,
    store: StoreOption = None,
    host: HostOption = None,
    engine: EngineOption = None,
    config: ConfigOption = None,
) -> int:
    """Back up volumes. Names, --project and --container can be combined; each volume is a backup of its own."""
    session = Session.load(config=config, store=store, engine=engine, host=host)
    volumes = _select(session, names or [], everything=everything, project=project, container=container)
    # All of them before the first: what cannot be understood is said before anything is done.
    wanted = {
        volume.name: _Wanted(
            _excludes(session, volume, exclude or [], caches=exclude_caches),
            *_stillness(session, volume, quiesce.value if quiesce else None, warm),
            full,
        )
        for volume in volumes
    }
    done: list[BackupStats] = []
    failed: list[tuple[str, str]] = []
    with session.run() as run:
        session.bring_back()
        settings = session.helper_settings()
        opened = _OpenedStore(session, run)
        for volume in volumes:
            try:
                stats, problems = _back_up_one(session, volume, opened, settings, run, wanted[volume.name])
            except (VolferryError, OSError) as error:
                if opened.failed:  # no volume can be backed up
                    raise
                # An OSError is one of the state directory, as when its disk is full.
                message = (
                    str(error) if isinstance(error, VolferryError) else _of_state_directory(session, error)
                )
                say(f"volferry: {volume.name}: {message}")
                failed.append((volume.name, message))
            else:
                done.append(stats)
                if problems:
                    message = "; ".join(problems)
                    say(f"volferry: {volume.name}: {message}")
                    failed.append((volume.name, message))
                if not json:
                    print(_line(stats), flush=True)
    if json:
        print_json(
            {
                "backups": [_document(stats) for stats in done],
                "failed": [{"volume": name, "error": message} for name, message in failed],
            }
        )
    if failed:
        if len(volumes) > 1:
            say(
                f"volferry: {len(failed)} of {count_text(len(volumes), 'volume')} failed: {', '.join(n for n, _ in failed)}"
            )
        return 1
    return FINDINGS_EXIT_CODE if any(stats.findings_total for stats in done) else 0


class Quiesce(StrEnum):
    """What is done to those who write."""

    none = "none"
    pause = "pause"
    stop = "stop"


@dataclass(frozen=True, slots=True)
class _Wanted:
    """How one volume is backed up."""

    excludes: Excludes
    quiesce: Mode
    warm: bool
    full: bool


class _OpenedStore:
    """The store's repository, opened while the first volume's helper comes up, and made if it is not there. What dead
    runs left behind, in the engine and in the store, is removed then.
    """

    def __init__(self, session: Session, run: Run) -> None:
        self._session = session
        self._run = run
        self._repository: Repository | None = None
        self.failed = False  # it cannot be opened

    def repository(self) -> Repository:
        if self._repository is None:
            from volferry.repository import Repository  # noqa: PLC0415 -- slow to import

            store = self._session.store
            self.failed = True
            self._repository, new = Repository.open_or_create(store)
            if new:
                say(f"new store at {store.url}")
            store.clean()
            self._session.reap(self._run)
            self.failed = False
        return self._repository


def _of_state_directory(session: Session, error: OSError) -> str:
    return f"cannot use the state directory {session.config.state_dir}: {reason(error)}"


def _select(
    session: Session, names: list[str], *, everything: bool, project: str | None, container: str | None
) -> list[Volume]:
    """The volumes that are asked for, by name. Raises UsageError, NoSuchVolume, NoSuchContainer: before any work."""
    from volferry.engine.volumes import container_volumes, find_volume, list_volumes  # noqa: PLC0415

    if not (names or everything or project or container):
        raise UsageError("nothing to back up: name volumes, or use --all, --project or --container")
    chosen = {name: find_volume(session.engine, name) for name in names}
    if container:
        inside = container_volumes(session.engine, container)
        if not inside:
            raise EngineError(f"container {container!r} mounts no volume")
        chosen.update((name, find_volume(session.engine, name)) for name in inside)
    if everything or project:
        matching = [
            volume
            for volume in list_volumes(session.engine)
            if not volume.anonymous and (everything or project in volume.projects)
        ]
        if not matching:
            raise EngineError(
                f"no named volume belongs to compose project {project!r}"
                if project and not everything
                else f"there are no named volumes on {session.engine.url}"
            )
        chosen.update((volume.name, volume) for volume in matching)
    return [chosen[name] for name in sorted(chosen)]


def _back_up_one(
    session: Session,
    volume: Volume,
    opened: _OpenedStore,
    settings: HelperSettings,
    run: Run,
    wanted: _Wanted,
) -> tuple[BackupStats, list[str]]:
    """Also what could not be brought back afterwards."""
    from volferry.engine.helper import HelperInBackground  # noqa: PLC0415

    started = time.monotonic()
    with (
        TerminalObserver(volume.name) as observer,
        HelperInBackground(session.engine, run, settings, [volume]) as helper,
    ):
        # Imported and opened while the helper comes up.
        from volferry.index_cache import IndexCache  # noqa: PLC0415
        from volferry.journal import Journal  # noqa: PLC0415
        from volferry.operations.backup import BackupSettings, VolumeState, backup_volume  # noqa: PLC0415
        from volferry.operations.quiesce import Quiesced  # noqa: PLC0415
        from volferry.volume_lock import volume_lock  # noqa: PLC0415

        repository = opened.repository()
        still = Quiesced(
            session.engine,
            volume.name,
            wanted.quiesce,
            warm=wanted.warm and wanted.quiesce != "none",
            journal=Journal.of_run(session.config.state_dir, run.id),
            own=[settings.own.id] if settings.own else [],
            note=observer.note,
        )
        state = session.state_of_volume(repository, session.host, volume.name)
        try:
            with volume_lock(state, volume.name):
                stats = backup_volume(
                    volume,
                    helper=helper,
                    repository=repository,
                    settings=BackupSettings(
                        host=session.host,
                        engine=f"{session.engine.name}, Docker {session.engine.version}",
                        compression_level=session.config.compression,
                        excludes=wanted.excludes,
                        full=wanted.full,
                    ),
                    state=VolumeState(state / "checkpoints", IndexCache(state / "index")),
                    spool=run.spool,
                    started=started,
                    observer=observer,
                    still=still,
                )
        except BaseException:
            for problem in still.problems:
                say(f"volferry: {volume.name}: {problem}")
            raise
        still.await_health()
        return stats, still.problems


def _excludes(session: Session, volume: Volume, more: list[str], *, caches: bool) -> Excludes:
    """What is left out of a volume. Raises UsageError for a pattern that cannot be understood."""
    from volferry.archive.excludes import Excludes  # noqa: PLC0415

    settings = session.config.settings_of(volume)
    excludes = Excludes((*(settings.exclude or ()), *more), bool(settings.exclude_caches) or caches)
    try:
        excludes.check()
    except ValueError as error:
        raise UsageError(f"volume {volume.name}: {error}") from error
    return excludes


def _stillness(
    session: Session, volume: Volume, quiesce: Mode | None, warm: bool | None
) -> tuple[Mode, bool]:
    """What the command line says, else what is in force for the volume."""
    settings = session.config.settings_of(volume)
    return quiesce or settings.quiesce or "none", bool(settings.warm) if warm is None else warm


def _line(stats: BackupStats) -> str:
    parts = [
        str(stats.ref.volume) + "@" + stats.ref.id,
        count_text(stats.entries, "entry", "entries"),
        size_text(stats.source_bytes),
        f"{size_text(stats.stored_bytes)} stored",
        duration_text(stats.seconds),
    ]
    if stats.downtime_seconds:
        parts.append(f"{duration_text(stats.downtime_seconds)} down")
    if stats.findings_total:
        parts.append(count_text(stats.findings_total, "finding"))
    return "  ".join(parts)


def _document(stats: BackupStats) -> dict[str, Any]:
    from volferry.model import printable  # noqa: PLC0415

    return {
        "id": stats.ref.id,
        "host": stats.ref.host,
        "volume": stats.ref.volume,
        "base": stats.base,
        "entries": stats.entries,
        "source_bytes": stats.source_bytes,
        "read_bytes": stats.read_bytes,
        "stored_bytes": stats.stored_bytes,
        "seconds": stats.seconds,
        "downtime_seconds": stats.downtime_seconds,
        "findings": [
            {"kind": finding.kind, "path": printable(finding.path), "detail": finding.detail}
            for finding in stats.findings
        ],
        "findings_total": stats.findings_total,
    }
