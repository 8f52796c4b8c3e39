"""`volferry ls`: what is in a backup."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from volferry.cli.options import (
    BackupArgument,
    ConfigOption,
    EngineOption,
    HostOption,
    JsonOption,
    StoreOption,
)
from volferry.cli.output import print_json_stream
from volferry.cli.session import Session
from volferry.model import printable


def ls(
    name: BackupArgument,
    path: Annotated[
        str, typer.Argument(metavar="[PATH]", help="A directory or file in it; default: its root directory.")
    ] = "/",
    *,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-R", help="All that is below a directory, not only what is in it.")
    ] = False,
    json: JsonOption = False,
    store: StoreOption = None,
    host: HostOption = None,
    engine: EngineOption = None,
    config: ConfigOption = None,
) -> int:
    """List what is in a backup, without reading it. Names print so that they can be given to other commands."""
    from volferry.cli.entries import LongListing, entry_document, path_text  # noqa: PLC0415
    from volferry.operations.ls import list_entries  # noqa: PLC0415
    from volferry.operations.selecting import find_path  # noqa: PLC0415

    session = Session.load(config=config, store=store, engine=engine, host=host)
    ref = session.backup_ref(name)
    with session.run() as run:
        index = session.backup_index(ref, run.spool)
        start = find_path(index, path)
        if json:
            entries = (entry_document(entry) for entry in list_entries(index, start, recursive=recursive))
            print_json_stream({"backup": str(ref), "path": path_text(start)}, "entries", entries)
            return 0
        listing = LongListing(list_entries(index, start, recursive=recursive))
        for entry in list_entries(index, start, recursive=recursive):
            # One directory's names go without saying which; elsewhere the whole path can be copied.
            short = not recursive and entry.path != start
            shown = entry.path.rpartition(b"/")[2] if short else entry.path
            sys.stdout.write(listing.line(entry, printable(shown)) + "\n")
    return 0
