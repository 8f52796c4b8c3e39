"""`volferry list`: which backups there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from volferry.checked import document_of
from volferry.cli.backup_sets import set_document, set_text, sets_of
from volferry.cli.options import (
    AllHostsOption,
    ConfigOption,
    EngineOption,
    HostOption,
    JsonOption,
    StoreOption,
    check_hosts,
)
from volferry.cli.output import print_json, say
from volferry.cli.session import Session
from volferry.cli.text import duration_text, local_time_text, size_text, table
from volferry.errors import DamagedObject, NoSuchStore, UsageError, VolferryError
from volferry.layout import parse_backup_name

if TYPE_CHECKING:
    from volferry.archive.manifest import Manifest
    from volferry.damage import Trouble
    from volferry.model import BackupRef
    from volferry.repository import Repository
    from volferry.sets import BackupSet


def list_backups(
    name: Annotated[
        str | None, typer.Argument(metavar="[VOLUME]", help="Only backups of this volume, or of HOST/VOLUME.")
    ] = None,
    *,
    all_hosts: AllHostsOption = False,
    json: JsonOption = False,
    store: StoreOption = None,
    host: HostOption = None,
    engine: EngineOption = None,
    config: ConfigOption = None,
) -> int:
    """List backups, newest last."""
    session = Session.load(config=config, store=store, engine=engine, host=host)
    check_hosts(host, all_hosts=all_hosts)
    wanted_host, volume = _wanted(name, host=host)
    if wanted_host is None and not all_hosts:
        wanted_host = session.host
    found: list[tuple[BackupRef, Manifest]] = []
    failed = []
    unread: dict[BackupRef, VolferryError] = {}
    repository = session.repository
    for ref, manifest in repository.manifests(
        host=wanted_host, volume=volume, cache=session.manifest_cache(repository)
    ):
        if isinstance(manifest, VolferryError):
            unread[ref] = manifest
            failed.append({"backup": str(ref), "error": str(manifest)})
        else:
            found.append((ref, manifest))
    gone = session.lost([*unread, *(ref for ref, _ in found)], wanted_host, volume)
    for ref, trouble in gone.items():
        say_trouble(session, ref, trouble)
        failed.append({"backup": str(ref), "error": trouble.text})
    troubles = _troubles(session, repository, wanted_host, volume, found)
    _say_unread(session, unread, [ref for ref, _ in found], troubles)
    found.sort(key=lambda each: (each[0].id, each[0].host, each[0].volume))
    sets = sets_of(repository, found)
    accepted = accepted_of(session, found)
    stores = _stores(session, wanted_host, volume, only_one=store is not None)
    if json:
        print_json(
            {
                "backups": [
                    {
                        **_summary(ref, manifest),
                        **_whole(troubles.get(ref)),
                        "set": set_document(sets.get(ref)),
                        "accepted": ref in accepted,
                        "stores": [name for name, refs in stores.items() if ref in refs],
                    }
                    for ref, manifest in found
                ],
                "failed": failed,
            }
        )
    elif found:
        _print_list(found, stores, troubles, accepted, sets, with_host=all_hosts)
    elif not failed:
        print(_nothing(session, volume, wanted_host))
    return 1 if failed or troubles else 0


def _wanted(name: str | None, *, host: str | None) -> tuple[str | None, str | None]:
    """The host that is named, if one is, and the volume. Raises UsageError."""
    if name is None:
        return None, None
    wanted = parse_backup_name(name)
    if wanted.id_start is not None:
        raise UsageError(
            f"{name!r} names one backup, and `volferry list` takes a volume: `volferry show {name}` shows one"
        )
    if host is not None and wanted.host not in {None, host}:
        raise UsageError(f"{name!r} and --host name two hosts")
    return wanted.host, wanted.volume


def _troubles(
    session: Session,
    repository: Repository,
    host: str | None,
    volume: str | None,
    found: list[tuple[BackupRef, Manifest]],
) -> dict[BackupRef, Trouble]:
    """Backups that need objects which are missing or damaged; each is reported."""
    from volferry.damage import Condition, troubled  # noqa: PLC0415

    if not found:
        return {}
    troubles = troubled(repository, Condition.of(repository, host, volume), found)
    for ref, trouble in troubles.items():
        say_trouble(session, ref, trouble)
    return troubles


def say_trouble(session: Session, ref: BackupRef, trouble: Trouble) -> None:
    say(f"volferry: {ref} cannot be restored as a whole: {trouble.text}; {session.typed(trouble.next_step)}")


def _say_unread(
    session: Session,
    unread: dict[BackupRef, VolferryError],
    read: list[BackupRef],
    troubles: dict[BackupRef, Trouble],
) -> None:
    """Of manifests that cannot be taken, each with what to do."""
    from volferry.damage import next_step_of_manifest  # noqa: PLC0415

    whole = [ref for ref in read if ref not in troubles]
    for ref, error in unread.items():
        damaged = isinstance(error, DamagedObject)
        step = f": {session.typed(next_step_of_manifest(ref, [*unread, *read], whole))}" if damaged else ""
        say(f"volferry: {error}{step}")


def _whole(trouble: Trouble | None) -> dict[str, Any]:
    return {
        "whole": trouble is None,
        "missing": list(trouble.missing) if trouble else [],
        "damaged": list(trouble.damaged) if trouble else [],
    }


def accepted_of(session: Session, found: list[tuple[BackupRef, Manifest]]) -> set[BackupRef]:
    """Of what is suspicious, or could not read all, what a person has accepted; nothing is asked of the store where nothing is."""
    from volferry.operations.acceptance import accepted_ids, may_be_accepted  # noqa: PLC0415

    asked = {ref for ref, manifest in found if may_be_accepted(manifest)}
    ids = {
        place: accepted_ids(session.repository, *place) for place in {(ref.host, ref.volume) for ref in asked}
    }
    return {ref for ref in asked if ref.id in ids[ref.host, ref.volume]}


def _findings(manifest: Manifest, *, accepted: bool) -> str:
    kinds = [each.kind for each in manifest.findings if each.kind in {"shrunk", "rewritten"}]
    words = [str(manifest.findings_total or "-"), *kinds, *(["accepted"] if accepted else [])]
    return " ".join(words)


def _stores(
    session: Session, host: str | None, volume: str | None, *, only_one: bool
) -> dict[str, set[BackupRef]]:
    """Which backups are in each store of the config; nothing where one alone is looked at."""
    if only_one or len(session.config.stores) < 2:
        return {}
    found: dict[str, set[BackupRef]] = {}
    for name in session.config.stores:
        try:
            found[name] = set(session.named_repository(name).refs(host=host, volume=volume))
        except NoSuchStore:
            continue  # nothing was ever copied there
        except VolferryError as error:
            say(f"{name}: {error}")
    return found


def _nothing(session: Session, volume: str | None, host: str | None) -> str:
    message = f"No backups{f' of {volume}' if volume else ''}{f' from host {host}' if host else ''} in {session.store.url}."
    repository = session.repository
    others = sorted({ref.host for ref in repository.refs(volume=volume)} - {host}) if host else []
    if volume and not others:
        if near := repository.near(volume, host):
            return f"{message} Did you mean {near!r}?"
        others = [other for other in repository.hosts() if other != host] if host else []
    if others:
        return f"{message} There are some from: {', '.join(others)} (--host, --all-hosts)."
    return session.typed(f"{message} `volferry list` shows those of all volumes.") if volume else message


def _summary(ref: BackupRef, manifest: Manifest) -> dict[str, Any]:
    counts = manifest.counts
    return {
        "id": ref.id,
        "host": ref.host,
        "volume": ref.volume,
        "base": manifest.base,
        "started_at": manifest.started_at.isoformat(),
        "finished_at": manifest.finished_at.isoformat(),
        "entries": counts.entries,
        "source_bytes": counts.source_bytes,
        "read_bytes": counts.read_bytes,
        "stored_bytes": counts.stored_bytes,
        "seconds": manifest.seconds,
        "downtime_seconds": manifest.downtime_seconds,
        "dumps": [dump.name for dump in manifest.dumps],
        "findings": document_of(manifest.findings),
        "findings_total": manifest.findings_total,
    }


def _print_list(
    found: list[tuple[BackupRef, Manifest]],
    stores: dict[str, set[BackupRef]],
    troubles: dict[BackupRef, Trouble],
    accepted: set[BackupRef],
    sets: dict[BackupRef, BackupSet],
    *,
    with_host: bool,
) -> None:
    rows = []
    for ref, manifest in found:
        counts = manifest.counts
        rows.append(
            (
                *([ref.host] if with_host else []),
                f"{ref.volume}@{ref.id}",
                local_time_text(manifest.started_at),
                f"{counts.entries:,}",
                size_text(counts.source_bytes),
                size_text(counts.stored_bytes),
                duration_text(manifest.downtime_seconds) if manifest.downtime_seconds else "-",
                _findings(manifest, accepted=ref in accepted),
                *([set_text(sets.get(ref))] if sets else []),
                *([" ".join(name for name, refs in stores.items() if ref in refs)] if stores else []),
                *([troubles[ref].summary if ref in troubles else "-"] if troubles else []),
            )
        )
    shift = 1 if with_host else 0
    header = (
        *(["HOST"] if with_host else []),
        "BACKUP",
        "TAKEN",
        "ENTRIES",
        "SIZE",
        "STORED",
        "DOWN",
        "FINDINGS",
        *(["SET"] if sets else []),
        *(["STORES"] if stores else []),
        *(["NOT WHOLE"] if troubles else []),
    )
    print(table(header, rows, right=tuple(column + shift for column in (2, 3, 4, 5, 6))))
