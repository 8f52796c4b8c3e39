"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from volferry.errors import UsageError

BackupArgument = Annotated[
    str, typer.Argument(metavar="BACKUP", help="VOLUME (its newest), VOLUME@ID or HOST/VOLUME@ID.")
]

OptionalBackupArgument = Annotated[
    str | None, typer.Argument(metavar="[BACKUP]", help="VOLUME (its newest), VOLUME@ID or HOST/VOLUME@ID.")
]

StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        "-s",
        metavar="STORE",
        help="Where backups are: a path, a URL, or a store's name in the config.",
    ),
]
EngineOption = Annotated[
    str | None,
    typer.Option(
        "--engine",
        metavar="ENGINE",
        help="The Docker engine: unix:///path, tcp://host:port, ssh://user@host, or a Docker context.",
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="The configuration file to use instead of the default."),
]
HostOption = Annotated[
    str | None,
    typer.Option(
        "--host", metavar="HOST", help="The name of the machine in the store; default: the engine's name."
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else.")
]
DumpOption = Annotated[
    str | None,
    typer.Option("--dump", metavar="NAME", help="Only this dump of it: what a container's command wrote."),
]
NewStoreOption = Annotated[
    bool,
    typer.Option(
        "--new-store",
        help="Make a new store where one was and is gone, or go on with another one that is there.",
    ),
]
AllHostsOption = Annotated[bool, typer.Option("--all-hosts", help="Backups of all machines in the store.")]


def check_hosts(host: str | None, *, all_hosts: bool) -> None:
    """Raises UsageError."""
    if host and all_hosts:
        raise UsageError("--host and --all-hosts exclude each other")


LabelsOption = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="all",
        help="Copy all labels, also those of compose and volferry, to a volume of another name, driver or options.",
    ),
]


def every_label(labels: str | None) -> bool:
    """Whether `--labels` asks for every label. Raises UsageError."""
    if labels not in {None, "all"}:
        raise UsageError(f"--labels {labels}: all is the only value that it has")
    return labels == "all"
