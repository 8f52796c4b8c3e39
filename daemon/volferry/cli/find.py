"""`volferry find`: in which backups a path is, and when it changed."""

from __future__ import annotations

import os
import sys
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

from volferry.cli.options import (
    AllHostsOption,
    ConfigOption,
    EngineOption,
    HostOption,
    JsonOption,
    StoreOption,
    check_hosts,
)
from volferry.cli.output import print_json_stream, say
from volferry.cli.session import Session
from volferry.errors import NoSuchBackup, VolferryError
from volferry.model import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from volferry.model import BackupRef
    from volferry.operations.find import Histories, History


def find(
    pattern: Annotated[
        str,
        typer.Argument(
            metavar="PATTERN", help="A shell pattern: for names, or with a / in it for whole paths."
        ),
    ],
    *,
    volumes: Annotated[
        list[str] | None,
        typer.Option(
            "--volume",
            metavar="VOLUME",
            help="Only backups of this volume; can be given again. Default: all.",
        ),
    ] = None,
    all_hosts: AllHostsOption = False,
    json: JsonOption = False,
    store: StoreOption = None,
    host: HostOption = None,
    engine: EngineOption = None,
    config: ConfigOption = None,
) -> int:
    """Find paths in all backups. With each state that a path had: the first and the last backup that has it."""
    from volferry.archive.selection import matcher  # noqa: PLC0415

    shown = printable(os.fsencode(pattern))
    check_hosts(host, all_hosts=all_hosts)
    session = Session.load(config=config, store=store, engine=engine, host=host)
    searched, failed = _volumes(session, volumes or [], None if all_hosts else session.host)
    with session.run() as run:
        search = _Search(session, matcher(pattern), run.spool, failed)
        found = ((refs, history) for refs in searched for history in search.volume(refs))
        if json:
            print_json_stream(
                {"pattern": shown, "backups_searched": sum(map(len, searched))},
                "paths",
                (_document(refs, history) for refs, history in found),
                lambda: {"failed": failed},
            )
        else:
            met = False
            for refs, history in found:
                met = True
                _print(refs, history, with_host=all_hosts)
            if searched and not met:
                say(f"nothing fits '{shown}' in {sum(map(len, searched)):,} backups")
    return 1 if failed else 0


def _volumes(
    session: Session, names: list[str], host: str | None
) -> tuple[list[list[BackupRef]], list[dict[str, str]]]:
    """The backups of each volume, oldest first; and those without their manifests, which nobody can search, each reported. Raises NoSuchBackup."""
    refs = list(session.repository.refs(host=host))
    gone = session.lost(refs, host)
    found = {key: list(of_one) for key, of_one in groupby(refs, key=lambda ref: (ref.host, ref.volume))}
    place = f"{f' from host {host!r}' if host else ''} in {session.store.url}"
    known = {ref.volume for ref in (*refs, *gone)}
    for name in names:
        if name not in known:
            near = session.repository.near(name, host)
            hint = f"did you mean {near!r}?" if near else session.typed("`volferry list` shows what there is")
            raise NoSuchBackup(f"no backup of volume {name!r}{place}: {hint}")
    if not known:
        raise NoSuchBackup(f"there are no backups{place}")
    failed = []
    for ref, trouble in gone.items():
        if not names or ref.volume in names:
            say(f"volferry: {ref}: {trouble.text}: {session.typed(trouble.next_step)}")
            failed.append({"backup": str(ref), "error": trouble.text})
    return [of_one for (_, volume), of_one in found.items() if not names or volume in names], failed


class _Search:
    """Looks through one volume after another. Unreadable backups are reported, and the search goes on."""

    def __init__(
        self, session: Session, matches: Callable[[bytes], bool], spool: Path, failed: list[dict[str, str]]
    ) -> None:
        self._session = session
        self._matches = matches
        self._spool = spool
        self._failed = failed

    def volume(self, refs: list[BackupRef]) -> Iterator[History]:
        from volferry.operations.find import Histories  # noqa: PLC0415

        histories = Histories(self._matches, spool=self._spool)
        for number, ref in enumerate(refs):
            try:
                self._add(histories, number, ref)
            except VolferryError as error:
                say(f"volferry: {error}: {error.advice}" if error.advice else f"volferry: {error}")
                self._failed.append({"backup": str(ref), "error": str(error)})
        yield from histories

    def _add(self, histories: Histories, number: int, ref: BackupRef) -> None:
        index = self._session.backup_index(ref, self._spool)
        try:
            histories.add(number, index.entries())
        finally:
            index.discard()


def _print(refs: list[BackupRef], history: History, *, with_host: bool) -> None:
    from volferry.cli.entries import mode_text, mtime_text, owner_text, target_text  # noqa: PLC0415

    host = f"{refs[0].host}/" if with_host else ""
    lines = [f"{host}{refs[0].volume}: {printable(history.path)}"]
    for state in history.states:
        found, numbers = state.stat, state.backups
        first, last = refs[numbers[0]].id, refs[numbers[-1]].id
        span = first if first == last else f"{first} .. {last}"
        lines.append(
            f"    {span:<50}  {len(numbers)} of {len(refs)}  {mode_text(found)}  {owner_text(found)}  "
            f"{'-' if found.kind == b'd' else found.size.decode()}  {mtime_text(found)}{target_text(found)}"
        )
    sys.stdout.write("\n".join([*lines, ""]))


def _document(refs: list[BackupRef], history: History) -> dict[str, Any]:
    from volferry.cli.entries import stat_document  # noqa: PLC0415

    states = []
    for state in history.states:
        ids = [refs[number].id for number in state.backups]
        states.append({"first": ids[0], "last": ids[-1], "backups": ids, **stat_document(state.stat)})
    return {"host": refs[0].host, "volume": refs[0].volume, "path": printable(history.path), "states": states}
