"""`volferry verify`: whether backups can be restored."""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from volferry.cli.options import ConfigOption, EngineOption, HostOption, JsonOption, StoreOption
from volferry.cli.output import print_json, say
from volferry.cli.progress import TerminalObserver
from volferry.cli.session import Session
from volferry.cli.text import count_text
from volferry.errors import EngineError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from volferry.damage import Trouble
    from volferry.model import BackupRef
    from volferry.operations.verify import Verified


def verify(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[BACKUP]", help="VOLUME (its newest), VOLUME@ID or HOST/VOLUME@ID."),
    ] = None,
    *,
    everything: Annotated[
        bool, typer.Option("--all", "-a", help="All backups; with a volume, all of its backups.")
    ] = False,
    all_hosts: Annotated[
        bool, typer.Option("--all-hosts", help="Backups of all machines in the store.")
    ] = False,
    read: Annotated[
        bool, typer.Option("--read", help="Fetch every byte, check every digest, and parse the tar stream.")
    ] = False,
    share: Annotated[
        bool,
        typer.Option(
            "--share",
            help="Read a day's part of all that there is, what was read longest ago first, as the daemon does.",
        ),
    ] = False,
    json: JsonOption = False,
    store: StoreOption = None,
    host: HostOption = None,
    engine: EngineOption = None,
    config: ConfigOption = None,
) -> int:
    """Check that backups can be restored. Without a name: the newest of every volume."""
    from volferry.layout import manifest_key  # noqa: PLC0415
    from volferry.operations.verify import Verifier  # noqa: PLC0415
    from volferry.verification_log import VerificationLog  # noqa: PLC0415

    session = Session.load(config=config, store=store, engine=engine, host=host)
    if all_hosts and (host or name):
        raise UsageError("--all-hosts excludes --host and a name")
    if share:
        if name or read or everything or all_hosts:
            raise UsageError("--share excludes a name, --read, --all and --all-hosts")
        from volferry.cli.verify_share import read_share  # noqa: PLC0415

        return read_share(session, json=json)
    refs, gone = _chosen(session, name, everything=everything, all_hosts=all_hosts)
    results: list[Verified] = []
    said: set[str] = set()
    # Nobody can say of bytes that were not read that they are good.
    sound, unread = ("good", "") if read else ("complete", " (their contents were not read: --read does)")
    log = VerificationLog(session.config.state_dir)
    with session.run() as run, TerminalObserver("verify") as observer:
        cache = session.manifest_cache(session.repository)
        verifier = Verifier(session.repository, read=read, spool=run.spool, observer=observer)
        for ref in [*refs, *gone]:
            result = verifier.verify(ref)
            results.append(result)
            log.keep_read(session.repository.place, result.read, datetime.now(UTC))
            problem = verifier.remember(result, by=_who(session)) if result.damaged or result.read else ""
            if problem and problem not in said:
                said.add(problem)
                say(problem)
            if result.unread and ref not in gone:
                cache.update({}, [manifest_key(ref)])  # `list` and `prune` shall see it, too
            for finding in result.findings:
                say(f"volferry: {ref}: {finding}")
            if not json:
                print(f"{'HURT' if result.findings else sound}  {ref}", flush=True)
    hurt = [result for result in results if result.findings]
    for line in map(session.typed, [*_next_steps(session, results), *_next_steps_of_gone(gone)]):
        say(line)
    if json:
        print_json(
            {
                "read": read,
                "backups": [
                    {
                        "id": result.ref.id,
                        "host": result.ref.host,
                        "volume": result.ref.volume,
                        "good": not result.findings,
                        "state": "hurt" if result.findings else sound,
                        "findings": list(result.findings),
                    }
                    for result in results
                ],
            }
        )
    elif not results:
        print(f"No backups in {session.store.url}.")
    else:
        print(f"{count_text(len(results) - len(hurt), 'backup')} {sound}, {len(hurt)} hurt{unread}")
    return 1 if hurt else 0


def _next_steps(session: Session, results: list[Verified]) -> Iterator[str]:
    """A line for each volume of which a backup is hurt for good."""
    from volferry.damage import backup_command  # noqa: PLC0415

    found = {result.ref: result for result in results}
    for host, volume in sorted({(ref.host, ref.volume) for ref, result in found.items() if result.hurt}):
        newest = max(session.repository.refs(host=host, volume=volume), key=lambda ref: ref.id, default=None)
        if newest is None:
            continue  # another machine has deleted them
        if newest not in found:
            yield f"{host}/{volume}: `volferry verify {host}/{volume}` says whether its newest backup is whole"
        elif found[newest].hurt:
            yield (
                f"{host}/{volume}: {backup_command(newest)} makes a whole one of what the volume still has; "
                "`volferry copy --store COPY --to STORE` mends what another store has"
            )
        elif not found[newest].findings:
            yield f"{host}/{volume}: its newest backup, {newest.id}, is not hurt"


def _next_steps_of_gone(gone: Mapping[BackupRef, Trouble]) -> Iterator[str]:
    for ref, trouble in gone.items():
        yield f"{ref.host}/{ref.volume}: {trouble.text}: {trouble.next_step}"


def _who(session: Session) -> str:
    """This machine, as marks name it: by its own name where no engine says another."""
    try:
        return session.host
    except EngineError:
        return socket.gethostname()


def _chosen(
    session: Session, name: str | None, *, everything: bool, all_hosts: bool
) -> tuple[list[BackupRef], Mapping[BackupRef, Trouble]]:
    """Those that are to be verified, and those whose manifests are gone."""
    from volferry.operations.verdicts import newest_of  # noqa: PLC0415

    if name is not None:
        ref = session.backup_ref(name)
        if "@" in name:
            if everything:
                raise UsageError("--all and the id of one backup exclude each other")
            return [ref], {}
        refs = list(session.repository.refs(host=ref.host, volume=ref.volume))
        return refs if everything else [ref], session.lost(refs, ref.host, ref.volume)
    host = None if all_hosts else session.host
    refs = list(session.repository.refs(host=host))
    newest = newest_of(refs)
    return [ref for ref in refs if everything or ref in newest], session.lost(refs, host)
