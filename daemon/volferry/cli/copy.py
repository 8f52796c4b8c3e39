"""`volferry copy`: backups in one store, sent to another."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from volferry.cli.options import (
    AllHostsOption,
    ConfigOption,
    EngineOption,
    HostOption,
    JsonOption,
    NewStoreOption,
    StoreOption,
    check_hosts,
)
from volferry.cli.output import print_json, say
from volferry.cli.own_layer import check_outlives_us
from volferry.cli.progress import TerminalObserver
from volferry.cli.session import Session
from volferry.cli.text import count_text, size_text
from volferry.errors import StoreUnreachable, UsageError, VolferryError, VolumeBusy
from volferry.upkeep import UpkeepLog

if TYPE_CHECKING:
    from collections.abc import Iterable

    from volferry.model import BackupRef
    from volferry.operations.copy import Copying
    from volferry.repository import Repository


def copy(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[BACKUP]...", help="VOLUME (all of its backups), VOLUME@ID or HOST/VOLUME@ID."
        ),
    ] = None,
    *,
    to: Annotated[
        list[str] | None,
        typer.Option(
            "--to",
            metavar="STORE",
            help="A store's name, path or URL (may be repeated); default: the replicas.",
        ),
    ] = None,
    all_hosts: AllHostsOption = False,
    new_store: NewStoreOption = False,
    json: JsonOption = False,
    store: StoreOption = None,
    host: HostOption = None,
    engine: EngineOption = None,
    config: ConfigOption = None,
) -> int:
    """Send backups to another store. Only what is missing there, and what its policy keeps, is sent."""
    session = Session.load(config=config, store=store, engine=engine, host=host)
    check_hosts(host, all_hosts=all_hosts)
    targets = _targets(session, to)
    chosen = _chosen(session, names or [], all_hosts=all_hosts)
    outcomes = _Outcomes(session, UpkeepLog(session.config.state_dir))
    done: list[tuple[str, Copying]] = []
    failed = _lost(session, all_hosts=all_hosts) if not names else []
    for target in targets:
        try:
            repository = _target(session, target, new_store=new_store)
        except VolferryError as error:
            advice = f": {error.advice}" if error.advice else ""
            say(f"volferry: {target}: {error}{advice}")
            failed.append({"store": target, "error": str(error)})
            outcomes.failed(target, chosen, str(error))
            continue
        for number, (owner, volume, only) in enumerate(chosen):
            try:
                result = _copied(session, repository, target, owner, volume, only)
            except VolferryError as error:
                say(f"volferry: {volume}: {error}")
                failed.append({"store": target, "volume": volume, "error": str(error)})
                away = isinstance(error, StoreUnreachable)
                if not isinstance(error, VolumeBusy):  # the other run is the one that says how the copy fares
                    outcomes.failed(target, chosen[number : None if away else number + 1], str(error))
                if away:
                    break
                continue
            outcomes.ended(target, only, result)
            done.append((target, result))
            steps = {str(ref): session.next_step(ref) for ref in result.damaged}
            for name, why in result.failed.items():
                step = session.typed(steps.get(name, ""))
                say(f"volferry: {name}: {why}: {step}" if step else f"volferry: {name}: {why}")
                failed.append({"store": target, "backup": name, "error": why})
            if not json:
                _print(target, result)
    if json:
        print_json({"copied": [_document(target, result) for target, result in done], "failed": failed})
    elif not chosen:
        print(f"No backups in {session.store.url}.")
    return 1 if failed else 0


_Chosen = tuple[str, str, "BackupRef | None"]


@dataclass(frozen=True, slots=True)
class _Outcomes:
    """Keeps how the copies of whole volumes went; that of a single backup says nothing of the others."""

    session: Session
    log: UpkeepLog

    def failed(self, target: str, chosen: Iterable[_Chosen], error: str) -> None:
        place = self.session.config.named_store(target).place
        for owner, volume, only in chosen:
            if only is None:
                self.log.failed("copy", place, owner, [volume], datetime.now(UTC), error)

    def ended(self, target: str, only: BackupRef | None, result: Copying) -> None:
        if result.failed:
            backup, why = next(iter(result.failed.items()))
            self.failed(target, [(result.host, result.volume, only)], f"{backup}: {why}")
        elif only is None:
            place = self.session.config.named_store(target).place
            self.log.done("copy", place, result.host, result.volume, datetime.now(UTC))


def _targets(session: Session, typed: list[str] | None) -> list[str]:
    """Names of stores, paths or URLs. Raises UsageError for one that was mistyped, before anything is sent."""
    targets = typed or session.config.replicas
    if not targets:
        raise UsageError("there is no replica in the config (replica_of): name a store with --to")
    for target in typed or ():
        if not target.strip():
            raise UsageError("--to is empty")
        if unknown := session.config.why_unknown(target):
            raise UsageError(f"--to: {unknown}")
        session.named_store(target)
    return targets


def _chosen(session: Session, names: list[str], *, all_hosts: bool) -> list[_Chosen]:
    """Host, volume, and one backup of it where only that is asked for."""
    found: dict[_Chosen, None] = {}
    for name in names:
        ref = session.backup_ref(name)
        found[ref.host, ref.volume, ref if "@" in name else None] = None
    if not names:
        for ref in session.repository.refs(host=None if all_hosts else session.host):
            found[ref.host, ref.volume, None] = None
    return list(found)


def _lost(session: Session, *, all_hosts: bool) -> list[dict[str, str]]:
    """Backups without their manifests, which nobody can copy; each is reported."""
    host = None if all_hosts else session.host
    gone = session.lost(session.repository.refs(host=host), host)
    for ref, trouble in gone.items():
        say(f"volferry: {ref}: {trouble.text}: {session.typed(trouble.next_step)}")
    return [{"backup": str(ref), "error": trouble.text} for ref, trouble in gone.items()]


def _target(session: Session, name: str, *, new_store: bool) -> Repository:
    from volferry.known_stores import are_one_place  # noqa: PLC0415 -- slow to import

    store = session.named_store(name)
    endpoint = session.config.named_store(name).endpoint
    check_outlives_us(session, store)
    repository, new = session.known_stores.open_or_create(store, endpoint, new_store=new_store)
    if are_one_place(session.repository, repository):
        raise UsageError(f"{store.url} is the store that backups are copied from")
    if new:
        say(f"new store at {store.url}")
    store.clean()
    return repository


def _copied(
    session: Session, target: Repository, name: str, host: str, volume: str, only: BackupRef | None
) -> Copying:
    from volferry.operations.copy import copy_volume  # noqa: PLC0415
    from volferry.volume_lock import volume_lock  # noqa: PLC0415

    with (
        TerminalObserver(volume) as observer,
        volume_lock(session.state_of_volume(target, host, volume), volume),
    ):
        return copy_volume(
            session.repository,
            target,
            host,
            volume,
            keep=lambda found: session.config.keep_of(found, session.config.named_store(name)),
            only=only,
            source_cache=session.manifest_cache(session.repository),
            # Where a store is mended from a copy of it, what it had is not asked for, but what it has.
            target_cache=None if target.id == session.repository.id else session.manifest_cache(target),
            observer=observer,
            hold=session.config.prune.hold,
        )


def _print(target: str, result: Copying) -> None:
    parts = [f"{result.volume} to {target}: {count_text(len(result.copied), 'backup')} copied"]
    if result.mended:
        manifests = count_text(len(result.manifests), "manifest")
        among = f" (with {manifests})" if result.manifests else ""
        parts.append(f"{count_text(result.mended, 'object')} mended{among}")
    if result.there:
        parts.append(f"{result.there} there already")
    if result.left_out:
        parts.append(f"{result.left_out} left out by the policy there")
    print(f"{', '.join(parts)}, {size_text(result.sent_bytes)} sent", flush=True)


def _document(target: str, result: Copying) -> dict[str, Any]:
    return {
        "store": target,
        "host": result.host,
        "volume": result.volume,
        "copied": [ref.id for ref in result.copied],
        "there": result.there,
        "left_out": result.left_out,
        "mended": result.mended,
        "manifests_mended": [ref.id for ref in result.manifests],
        "sent_bytes": result.sent_bytes,
    }
