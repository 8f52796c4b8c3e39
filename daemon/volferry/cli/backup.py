"""`volferry backup`: backs up volumes, one after another."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from volferry.cli.backup_one import Afterwards, OpenedStore, back_up_one, wanted_of
from volferry.cli.options import (
    ConfigOption,
    EngineOption,
    HostOption,
    JsonOption,
    NewStoreOption,
    StoreOption,
)
from volferry.cli.selecting import chosen_volumes
from volferry.cli.session import Session, print_json, say
from volferry.cli.text import count_text, duration_text, size_text
from volferry.errors import FINDINGS_EXIT_CODE, UsageError, VolumeBusy, described, reason
from volferry.history import Record

if TYPE_CHECKING:
    from volferry.cli.backup_one import Wanted
    from volferry.model import BackupStats, Volume
    from volferry.operations.coming_back import NotBack


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
    binds: Annotated[
        bool,
        typer.Option("--binds", help="With --container: its bind mounts too, each as a backup of its own."),
    ] = False,
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
    one_file_system: Annotated[
        bool | None,
        typer.Option(
            "--one-file-system/--all-file-systems",
            help="Leave out what is mounted below the volume's directory; else the config's.",
        ),
    ] = None,
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
    scheduled: Annotated[
        bool,
        typer.Option(
            "--scheduled",
            help="As the daemon does: containers that have only just started are waited for, or not stopped.",
        ),
    ] = False,
    full: Annotated[bool, typer.Option("--full", help="Read everything, also what has not changed.")] = False,
    new_store: NewStoreOption = False,
    json: JsonOption = False,
    store: StoreOption = None,
    host: HostOption = None,
    engine: EngineOption = None,
    config: ConfigOption = None,
) -> int:
    """Back up volumes. Names, --project and --container can be combined; each volume is a backup of its own."""
    if binds and not container:
        raise UsageError("--binds is for --container: the bind mounts of which container?")
    session = Session.load(config=config, store=store, engine=engine, host=host)
    session.check_place()
    missing: dict[str, str] = {}
    volumes = chosen_volumes(
        session.engine,
        names or [],
        everything=everything,
        project=project,
        container=container,
        bind_mounts=(lambda name: _bind_mounts(session, name)) if binds else None,
        nothing="nothing to back up: name volumes, or use --all, --project or --container",
        missing=missing,
    )
    # All of them before the first: a setting that cannot be understood is an error before anything is done.
    wanted = {
        volume.name: wanted_of(
            session,
            volume,
            exclude=exclude or [],
            exclude_caches=exclude_caches,
            one_file_system=one_file_system,
            quiesce=quiesce.value if quiesce else None,
            warm=warm,
            full=full,
            scheduled=scheduled,
        )
        for volume in volumes
    }
    for message in missing.values():
        say(f"volferry: {message}")
    done: list[BackupStats] = []
    down: list[NotBack] = []
    failed = [_Failure(name, message) for name, message in missing.items()]
    if volumes:  # else nothing is made, no store either
        failed += _back_up(session, volumes, wanted, done, down, new_store=new_store, quiet=json)
    if json:
        print_json(
            {
                "backups": [_document(stats) for stats in done],
                "failed": [
                    {"volume": each.volume, "error": each.error, "busy": each.busy, "stopped": each.stopped}
                    for each in failed
                ],
                "down": [{"name": each.name, "error": each.error} for each in down],
            }
        )
    if failed:
        total = len(volumes) + len(missing)
        if total > 1:
            say(
                f"volferry: {len(failed)} of {count_text(total, 'volume')} failed: {', '.join(each.volume for each in failed)}"
            )
        return 1
    return FINDINGS_EXIT_CODE if any(stats.findings_total for stats in done) else 0


@dataclass(frozen=True, slots=True)
class _Failure:
    volume: str
    error: str
    busy: bool = False  # another run is at work on it
    stopped: bool = False  # containers were, for it


def _back_up(
    session: Session,
    volumes: list[Volume],
    wanted: dict[str, Wanted],
    done: list[BackupStats],
    down: list[NotBack],
    *,
    new_store: bool,
    quiet: bool,
) -> list[_Failure]:
    """One after another; what was made is appended to `done`. Returns which volumes failed, and why."""
    failed: list[_Failure] = []
    with session.run() as run:
        session.bring_back()
        settings = session.helper_settings()
        opened = OpenedStore(session, run, new_store=new_store)
        for volume in volumes:
            record = Record(
                session.config.state_dir, run.id, session.host, volume.name, session.config.store_config.place
            )
            after = Afterwards()
            try:
                with record:
                    stats = back_up_one(session, volume, opened, settings, run, wanted[volume.name], after)
                    record.made(stats, after.problems)
            except Exception as error:  # whatever it is: it must not cost the other volumes their backups
                if opened.failed:  # no volume can be backed up
                    raise
                # An OSError is one of the state directory, as when its disk is full.
                message = (
                    _of_state_directory(session, error) if isinstance(error, OSError) else described(error)
                )
                say(f"volferry: {volume.name}: {message}")
                failed.append(
                    _Failure(volume.name, message, isinstance(error, VolumeBusy), stopped=after.stopped)
                )
            else:
                done.append(stats)
                if after.problems:
                    message = "; ".join(after.problems)
                    say(f"volferry: {volume.name}: {message}")
                    failed.append(_Failure(volume.name, message, stopped=after.stopped))
                if not quiet:
                    print(_line(stats), flush=True)
            down += after.down
    return failed


def _bind_mounts(session: Session, container: str) -> list[Volume]:
    """Of a container. Mounts that hold no data are left out, with a note. Raises NoSuchContainer, EngineError."""
    from volferry.engine.bind_mounts import bind_mounts  # noqa: PLC0415 -- docker-py is slow to import

    image = session.helper_settings().image
    own = [str(session.config.state_dir)]
    if session.store.url.startswith("/"):
        own.append(session.store.url)
    found, left_out = bind_mounts(session.engine, image, container, own)
    for path, why in left_out:
        say(f"left out: {path}: {why}")
    return found


class Quiesce(StrEnum):
    """Whether containers that write are stopped or paused."""

    none = "none"
    pause = "pause"
    stop = "stop"


def _of_state_directory(session: Session, error: OSError) -> str:
    return f"cannot use the state directory {session.config.state_dir}: {reason(error)}"


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
        "dumps": list(stats.dumps),
        "findings": [
            {"kind": finding.kind, "path": printable(finding.path), "detail": finding.detail}
            for finding in stats.findings
        ],
        "findings_total": stats.findings_total,
    }
