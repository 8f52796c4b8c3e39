"""`volferry backup`: backs up volumes, one after another, but for those that belong together."""

from __future__ import annotations

from contextlib import suppress
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from volferry.cli.backup_units import Failure, Outcome, back_up, record_of
from volferry.cli.options import (
    ConfigOption,
    EngineOption,
    HostOption,
    JsonOption,
    NewStoreOption,
    StoreOption,
)
from volferry.cli.output import print_json, say
from volferry.cli.selecting import chosen_volumes
from volferry.cli.session import Session
from volferry.cli.text import count_text
from volferry.cli.wanted import wanted_of
from volferry.errors import FINDINGS_EXIT_CODE, ConfigError, UsageError
from volferry.label_rights import doubtful
from volferry.run import new_run_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from volferry.cli.wanted import Wanted
    from volferry.model import BackupStats, Volume

_FRESH_SECONDS = 5  # for so long, a list of containers is believed


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
    """Back up volumes. Names, --project and --container can be combined; each volume is a backup of its own. Volumes that share
    containers which are stopped or have hooks are read together, while those stand still once.
    """
    if binds and not container:
        raise UsageError("--binds is for --container: the bind mounts of which container?")
    session = Session.load(config=config, store=store, engine=engine, host=host)
    session.bring_back()  # before anything else can fail
    session.check_place()
    _check_patterns(exclude or [])
    missing: dict[str, str] = {}
    left_out: dict[str, str] = {}
    chosen = chosen_volumes(
        session.engine,
        names or [],
        everything=everything,
        project=project,
        container=container,
        bind_mounts=(lambda name: _bind_mounts(session, name)) if binds else None,
        nothing="nothing to back up: name volumes, or use --all, --project or --container",
        missing=missing,
        why_not=partial(_why_disabled, session),
        left_out=left_out,
    )
    failed = [Failure(name, message) for name, message in missing.items()]
    volumes = _without_own(session, chosen, names or [], left_out, failed)
    for why in sorted(set(left_out.values())):
        say(f"left out, as {why}: {', '.join(name for name in sorted(left_out) if left_out[name] == why)}")
    wanted = partial(
        wanted_of,
        session,
        exclude=exclude or [],
        exclude_caches=exclude_caches,
        one_file_system=one_file_system,
        quiesce=quiesce.value if quiesce else None,
        warm=warm,
        full=full,
        scheduled=scheduled,
    )
    total = len(volumes) + len(failed)
    volumes = _understood(session, volumes, wanted, failed, alone=total == 1)
    for failure in failed:
        say(f"volferry: {failure.line}")
    for name in sorted({use.container for volume in volumes for use in doubtful(volume)}):
        say(
            f"the image of container {name} is gone: its labels may be the image's, and count only where they add to backups"
        )
    outcome = Outcome(failed=failed)
    if volumes:  # else nothing is made, no store either
        made = back_up(session, volumes, wanted, new_store=new_store, quiet=json)
        outcome = Outcome(made.done, made.down, [*failed, *made.failed])
    failed = outcome.failed
    if project is not None:
        _say_how_many_moments(project, volumes, outcome.done)
    if json:
        print_json(
            {
                "backups": [_document(stats) for stats in outcome.done],
                "failed": [
                    {"volume": each.volume, "error": each.error, "busy": each.busy, "stopped": each.stopped}
                    for each in failed
                ],
                "down": [{"name": each.name, "error": each.error, "run": each.run} for each in outcome.down],
                "left_out": [{"volume": name, "why": why} for name, why in sorted(left_out.items())],
            }
        )
    if failed:
        if total > 1:
            say(
                f"volferry: {len(failed)} of {count_text(total, 'volume')} failed: {', '.join(each.volume for each in failed)}"
            )
        return 1
    return FINDINGS_EXIT_CODE if any(stats.findings_total for stats in outcome.done) else 0


def _say_how_many_moments(project: str, volumes: list[Volume], done: list[BackupStats]) -> None:
    """A user who names a project may expect backups of one moment, whose parts fit together."""
    from volferry.sets import TOGETHER  # noqa: PLC0415

    mine = {volume.name for volume in volumes if project in volume.own_projects}
    moments = {stats.set_id or stats.ref.id for stats in done if stats.ref.volume in mine}
    if len(moments) > 1:
        say(f"the volumes of {project} were backed up at {len(moments)} moments: {TOGETHER}")


def _check_patterns(patterns: list[str]) -> None:
    """Raises UsageError for one of the command line that cannot be understood."""
    from volferry.archive.excludes import Excludes  # noqa: PLC0415 -- slow to import

    try:
        Excludes(tuple(patterns)).check()
    except ValueError as error:
        raise UsageError(f"--exclude: {error}") from error


def _why_disabled(session: Session, volume: Volume) -> str:
    """Why nobody wants a backup of it, who has not named it; empty where somebody may."""
    try:
        return "`enable` is false" if session.config.settings_of(volume).enable is False else ""
    except ConfigError:  # which is that volume's failure
        return ""


def _without_own(
    session: Session, chosen: list[Volume], names: list[str], left_out: dict[str, str], failed: list[Failure]
) -> list[Volume]:
    """Without those that hold a store or the state directory: for one that was named, that is a failure."""
    volumes = []
    for volume in chosen:
        what = session.own_places.in_volume(volume)
        if not what:
            volumes.append(volume)
        elif volume.name in names:
            error = f"it holds {what}: a backup of it would hold itself"
            failed.append(Failure(volume.name, error))
        else:
            left_out[volume.name] = f"{what} is in it"
    return volumes


def _understood(
    session: Session,
    volumes: list[Volume],
    wanted: Callable[[Volume], Wanted],
    failed: list[Failure],
    *,
    alone: bool,
) -> list[Volume]:
    """Those whose settings can be understood; a wrong label fails its own volume. Raises ConfigError, UsageError where there is no other."""
    found = []
    for volume in volumes:
        try:
            wanted(volume)
        except (ConfigError, UsageError) as error:
            if alone:
                raise
            with suppress(ConfigError, UsageError), record_of(session, new_run_id(), volume):
                raise
            failed.append(Failure(volume.name, str(error)))
        else:
            found.append(volume)
    return found


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


def _document(stats: BackupStats) -> dict[str, Any]:
    from volferry.model import printable  # noqa: PLC0415

    return {
        "id": stats.ref.id,
        "set": stats.set_id,
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
