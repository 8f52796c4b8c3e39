"""`volferry diff`: what is not the same in two backups."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

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
from volferry.errors import NoSuchBackup

if TYPE_CHECKING:
    from collections.abc import Iterator

    from volferry.model import BackupRef
    from volferry.operations.diff import Difference

_SIGNS = {"added": "+", "removed": "-", "modified": "M", "metadata": "m"}


def diff(
    name: BackupArgument,
    other: Annotated[
        str | None,
        typer.Argument(
            metavar="[BACKUP2]",
            help="What to compare with; default: the volume's newest. That alone is compared with the one before.",
        ),
    ] = None,
    *,
    json: JsonOption = False,
    store: StoreOption = None,
    host: HostOption = None,
    engine: EngineOption = None,
    config: ConfigOption = None,
) -> int:
    """Show what changed between two backups. Their contents are not read.

    + was added, - was removed, M may have another content (type, size, time or target differ), m has another mode or
    owner.
    """
    from volferry.operations.diff import compare  # noqa: PLC0415

    session = Session.load(config=config, store=store, engine=engine, host=host)
    before_ref, after_ref = _both(session, name, other)
    with session.run() as run:
        before = session.backup_index(before_ref, run.spool)
        after = session.backup_index(after_ref, run.spool)
        counts = dict.fromkeys(_SIGNS, 0)
        found = _counted(compare(before.entries(), after.entries()), counts)
        if json:
            print_json_stream(
                {"before": str(before_ref), "after": str(after_ref)},
                "differences",
                (_document(difference) for difference in found),
                lambda: counts,
            )
            return 0
        for difference in found:
            sys.stdout.write(_line(difference) + "\n")
    summary = ", ".join(f"{count:,} {change}" for change, count in counts.items() if count)
    print(f"{before_ref} -> {after_ref}: {summary or 'no differences'}")
    return 0


def _both(session: Session, name: str, other: str | None) -> tuple[BackupRef, BackupRef]:
    """The two backups to compare, in their order. Raises UsageError, NoSuchBackup, AmbiguousBackup."""
    named = session.backup_ref(name)
    if other is not None:
        return named, session.backup_ref(other)
    *earlier, newest = session.repository.refs(host=named.host, volume=named.volume)
    if named != newest:
        return named, newest
    if not earlier:
        raise NoSuchBackup(f"{newest} is the only backup of its volume: name another one to compare it with")
    return earlier[-1], newest


def _counted(differences: Iterator[Difference], counts: dict[str, int]) -> Iterator[Difference]:
    for difference in differences:
        counts[difference.change] += 1
        yield difference


def _line(difference: Difference) -> str:
    from volferry.cli.entries import path_text  # noqa: PLC0415

    return f"{_SIGNS[difference.change]} {path_text(difference.path)}"


def _document(difference: Difference) -> dict[str, Any]:
    from volferry.cli.entries import path_text, stat_document  # noqa: PLC0415

    before, after = difference.before, difference.after
    return {
        "change": difference.change,
        "path": path_text(difference.path),
        "before": stat_document(before.stat) if before else None,
        "after": stat_document(after.stat) if after else None,
    }
