"""`volferry migrate`: moves volumes to another engine, with seconds of downtime."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from volferry.cli.migration import migrate_volumes
from volferry.cli.migration_options import Wanted
from volferry.cli.options import ConfigOption, EngineOption, JsonOption, LabelsOption, every_label
from volferry.cli.session import Session
from volferry.errors import UsageError


def migrate(
    names: Annotated[list[str] | None, typer.Argument(metavar="[VOLUME]...", help="Volumes to move.")] = None,
    *,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="ENGINE",
            help="The engine to move them to: ssh://user@host, tcp://host:port, unix:///path, or a Docker context.",
        ),
    ],
    everything: Annotated[bool, typer.Option("--all", "-a", help="All named volumes of the engine.")] = False,
    project: Annotated[
        str | None,
        typer.Option("--project", "-p", metavar="P", help="The named volumes of a compose project."),
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option("--rename", metavar="OLD=NEW", help="The volume has another name on the target."),
    ] = None,
    driver: Annotated[
        list[str] | None,
        typer.Option(
            "--driver", metavar="VOLUME=DRIVER", help="The volume has another driver on the target."
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            metavar="VOLUME:KEY=VALUE",
            help="The volume has another option on the target; without a VALUE, it lacks it.",
        ),
    ] = None,
    labels: LabelsOption = None,
    into_existing: Annotated[
        bool,
        typer.Option(
            "--into-existing",
            help="Allow a target volume, or the place that it is made of, to hold data: it is made equal to the source, and everything else in it is deleted.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done, and what is in the way.")
    ] = False,
    checksum: Annotated[
        bool, typer.Option("--checksum", help="Compare contents too, not only names, sizes, times and modes.")
    ] = False,
    start: Annotated[
        list[str] | None,
        typer.Option(
            "--start",
            metavar="NAME",
            help="Start this container on the target once both sides are equal; the source's then stay stopped.",
        ),
    ] = None,
    with_containers: Annotated[
        bool,
        typer.Option(
            "--with-containers",
            help="The project's containers, or else those that mount the volumes, move along, with their images and networks, and "
            "take over.",
        ),
    ] = False,
    bind_to_volume: Annotated[
        list[str] | None,
        typer.Option(
            "--bind-to-volume",
            metavar="PATH=VOLUME",
            help="With --with-containers: what a container has from there becomes a volume on the target.",
        ),
    ] = None,
    keep_bind: Annotated[
        list[str] | None,
        typer.Option(
            "--keep-bind",
            metavar="PATH",
            help="With --with-containers: the target has that directory, with whatever is in it.",
        ),
    ] = None,
    leave_stopped: Annotated[
        bool,
        typer.Option(
            "--leave-stopped", help="What was stopped on the source stays so once both sides are equal."
        ),
    ] = False,
    remove_source: Annotated[
        bool,
        typer.Option(
            "--remove-source",
            help="Remove the volumes of the source afterwards; asks first. Needs --checksum.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: JsonOption = False,
    engine: EngineOption = None,
    config: ConfigOption = None,
) -> int:
    """Move volumes to another engine, with no store in between. There are passes while the services run, a last one while they are stopped, and a
    comparison of both sides. The services are started again on the source, unless the target takes over.
    """
    if remove_source and not checksum:
        raise UsageError(
            "--remove-source needs --checksum: what is removed must have been compared to the last byte"
        )
    if remove_source and not (yes or sys.stdin.isatty()):
        raise UsageError(
            "--remove-source asks before it does, and there is no terminal to ask on: --yes answers"
        )
    if (bind_to_volume or keep_bind) and not with_containers:
        raise UsageError("--bind-to-volume and --keep-bind are for --with-containers")
    if start and with_containers:
        raise UsageError(
            "--with-containers starts what ran on the source: --start is for containers that the target has already"
        )
    wanted = Wanted(
        names=names or [],
        everything=everything,
        project=project,
        to=to,
        renamed=_pairs(rename or [], "--rename", "OLD=NEW"),
        drivers=_pairs(driver or [], "--driver", "VOLUME=DRIVER"),
        options=_options(option or []),
        every_label=every_label(labels),
        into_existing=into_existing,
        dry_run=dry_run,
        checksum=checksum,
        start=start or [],
        with_containers=with_containers,
        binds=_pairs(bind_to_volume or [], "--bind-to-volume", "PATH=VOLUME"),
        kept_binds=frozenset(keep_bind or []),
        leave_stopped=leave_stopped,
        remove_source=remove_source,
        yes=yes,
        json=json,
    )
    session = Session.load(config=config, engine=engine)
    return migrate_volumes(session, wanted)


def _pairs(texts: list[str], option: str, form: str) -> dict[str, str]:
    """Raises UsageError."""
    found: dict[str, str] = {}
    for text in texts:
        left, separator, right = text.partition("=")
        if not (left and separator and right):
            raise UsageError(f"{option} {text}: it is {form}")
        if left in found:
            raise UsageError(f"{option}: {left} is there twice")
        found[left] = right
    return found


def _options(texts: list[str]) -> dict[str, dict[str, str | None]]:
    """Of each volume. Raises UsageError."""
    found: dict[str, dict[str, str | None]] = {}
    for text in texts:
        volume, colon, rest = text.partition(":")
        key, separator, value = rest.partition("=")
        if not (volume and colon and key and separator):
            raise UsageError(f"--option {text}: it is VOLUME:KEY=VALUE")
        found.setdefault(volume, {})[key] = value or None
    return found
