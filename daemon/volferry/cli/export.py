"""`volferry export`: a backup as a plain tar, to a file or to stdout."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from volferry.cli.options import (
    BackupArgument,
    ConfigOption,
    DumpOption,
    EngineOption,
    HostOption,
    JsonOption,
    StoreOption,
)
from volferry.cli.output import print_json, say
from volferry.cli.progress import TerminalObserver
from volferry.cli.session import Session
from volferry.cli.text import size_text
from volferry.errors import UsageError, VolferryError, reason

if TYPE_CHECKING:
    from collections.abc import Iterator


def export(
    name: BackupArgument,
    *,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Where to write the tar; - is stdout.")
    ] = "-",
    dump: DumpOption = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace FILE if it is there.")] = False,
    json: JsonOption = False,
    store: StoreOption = None,
    host: HostOption = None,
    engine: EngineOption = None,
    config: ConfigOption = None,
) -> int:
    """Write a backup as a plain tar, or one of its dumps. `volferry export pgdata | tar -x` unpacks it."""
    from volferry.operations.export import export_backup, export_dump  # noqa: PLC0415

    if output == "-" and json:
        raise UsageError("--json and a tar cannot both go to stdout: give a file with -o")
    if output == "-" and dump is None and sys.stdout.isatty():
        raise UsageError("a tar would not look well on a terminal: give a file with -o, or a pipe")
    session = Session.load(config=config, store=store, engine=engine, host=host)
    ref = session.backup_ref(name)
    with session.run() as run, session.advising(ref):
        backup = session.backup_reader(ref, run.spool)
        with TerminalObserver(ref.volume) as observer, opened_output(output, replace=force) as file:
            total = (
                export_backup(backup, file.write, observer=observer)
                if dump is None
                else export_dump(backup, dump, file.write, observer=observer)
            )
    if json:
        size = {"tar_bytes": total} if dump is None else {"dump": dump, "dump_bytes": total}
        print_json({"id": ref.id, "host": ref.host, "volume": ref.volume, "file": output, **size})
    elif output != "-":
        what = str(ref) if dump is None else f"dump {dump} of {ref}"
        print(f"exported {what} to {output}: {size_text(total)}")
    if backup.manifest.findings_total:
        say(f"this backup has findings: see `volferry show {ref}`")
    return 0


@contextmanager
def opened_output(output: str, *, replace: bool, option: str = "--force") -> Iterator[BinaryIO]:
    """stdout, or a file that appears under its name when it is whole."""
    if output == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(output)
    if path.is_dir():
        raise UsageError(f"{output} is a directory: name a file in it")
    if path.exists() and not path.is_file():
        raise UsageError(f"{output} is no regular file, and stays as it is")
    if path.exists() and not replace:
        raise UsageError(f"{output} exists already: {option} replaces it")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError as error:
        raise VolferryError(f"cannot write {output}: {reason(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)
