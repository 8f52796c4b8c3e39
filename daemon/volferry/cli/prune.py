"""`volferry prune` and `volferry forget`: letting go of backups, and of what no backup needs."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from volferry.cli.options import ConfigOption, EngineOption, HostOption, JsonOption, StoreOption, check_hosts
from volferry.cli.output import print_json, say
from volferry.cli.session import Session
from volferry.cli.text import count_text, local_time_text, size_text, table
from volferry.errors import (
    FINDINGS_EXIT_CODE,
    NoSuchBackup,
    NoSuchObject,
    StoreError,
    UsageError,
    VolferryError,
    VolumeBusy,
)
from volferry.model import BackupRef
from volferry.upkeep import UpkeepLog

if TYPE_CHECKING:
    from collections.abc import Iterator

    from volferry.last_policy import LastPolicy
    from volferry.model import Volume
    from volferry.operations.prune import Pruning
    from volferry.repository import Repository
    from volferry.retention import Keep, Within


def prune(
    volumes: Annotated[
        list[str] | None, typer.Argument(metavar="[VOLUME]...", help="Only backups of these volumes.")
    ] = None,
    *,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", "-n", help="Show what would go, why what stays does, and delete nothing."),
    ] = False,
    all_hosts: Annotated[
        bool, typer.Option("--all-hosts", help="Also backups of other machines, by this machine's policies.")
    ] = False,
    json: JsonOption = False,
    store: StoreOption = None,
    host: HostOption = None,
    engine: EngineOption = None,
    config: ConfigOption = None,
) -> int:
    """Forget backups that the policy (`keep`) does not keep. Then delete what no backup needs.

    Without a policy no backup is forgotten. The newest of each volume always stays.
    """
    from volferry.last_policy import LastPolicy  # noqa: PLC0415
    from volferry.operations.prune import prune_volume  # noqa: PLC0415
    from volferry.retention import NO_POLICY  # noqa: PLC0415
    from volferry.volume_lock import volume_lock  # noqa: PLC0415

    session = Session.load(config=config, store=store, engine=engine, host=host)
    check_hosts(host, all_hosts=all_hosts)
    repository = session.repository
    plain = session.config.without_labels()
    chosen = _volumes(session, volumes or [], all_hosts=all_hosts)
    outcomes, place = UpkeepLog(session.config.state_dir), session.config.store_config.place
    done: list[Pruning] = []
    failed: list[dict[str, str]] = []
    less: dict[tuple[str, str], str] = {}

    def keep(found: Volume, policy: LastPolicy) -> Keep:
        store = session.config.store_config
        return policy.settle(
            session.config.keep_of(found, store), plain.keep_of(found, store), datetime.now(UTC)
        )

    try:
        for owner, volume in chosen:
            directory = session.state_of_volume(repository, owner, volume)
            policy = LastPolicy(directory)
            try:
                with nullcontext() if dry_run else volume_lock(directory, volume):
                    result = prune_volume(
                        repository,
                        owner,
                        volume,
                        keep=partial(keep, policy=policy),
                        grace=session.config.prune.grace,
                        cache=session.manifest_cache(repository),
                        dry_run=dry_run,
                        hold=session.config.prune.hold,
                        unfinished=partial(session.is_unfinished, repository),
                    )
                    if not dry_run:
                        policy.note()
            except VolferryError as error:
                say(f"volferry: {volume}: {error}")
                failed.append({"host": owner, "volume": volume, "error": str(error)})
                if not (dry_run or isinstance(error, VolumeBusy)):
                    outcomes.failed("prune", place, owner, [volume], datetime.now(UTC), str(error))
                continue
            if not dry_run:
                outcomes.done("prune", place, owner, volume, datetime.now(UTC))
            done.append(result)
            if policy.until is not None:
                less[owner, volume] = (
                    f"labels keep less than before ({policy.changes}): what the older policy keeps stays until "
                    f"{local_time_text(policy.until)}: change the label back by then if that is wrong"
                )
                say(f"volferry: {volume}: {less[owner, volume]}")
            _report(session, result)
    finally:  # also of what was done before an interruption
        if not json:
            _print(done, dry_run=dry_run)
    uploads = 0 if dry_run else repository.store.abort_uploads()
    if json:
        print_json(
            {
                "dry_run": dry_run,
                "freed_bytes": sum(each.freed_bytes for each in done),
                "kept_version_bytes": sum(each.kept_version_bytes for each in done),
                "aborted_uploads": uploads,
                "volumes": [{**_document(each), "less": less.get((each.host, each.volume))} for each in done],
                "failed": failed,
            }
        )
    else:
        _print_total(done, uploads, grace=session.config.prune.grace, dry_run=dry_run)
        if without := [
            each.volume for each in done if any(NO_POLICY in verdict.reasons for verdict in each.verdicts)
        ]:
            print(
                f'nothing says which backups of {", ".join(sorted(set(without)))} to forget, so that all stay: `keep` in the configuration does, or a label such as `volferry.keep.daily: "7"`'
            )
    return (
        1
        if failed
        else FINDINGS_EXIT_CODE
        if any(each.problems or each.hollow or each.damaged or each.lost for each in done)
        else 0
    )


def _volumes(session: Session, names: list[str], *, all_hosts: bool) -> list[tuple[str, str]]:
    """Host and volume of what is asked for. Raises UsageError for a volume of which there is nothing."""
    from volferry.operations.stored_volumes import is_stored, stored_volumes  # noqa: PLC0415

    if names and not all_hosts:  # of others nothing is listed: there may be thousands
        asked = [(session.host, name) for name in sorted(set(names))]
        if all(is_stored(session.repository, *each) for each in asked):
            return asked
    there = stored_volumes(session.repository, None if all_hosts else session.host)
    for name in names:
        if name not in {volume for _, volume in there}:
            from difflib import get_close_matches  # noqa: PLC0415 -- only needed for the hint

            close = get_close_matches(name, {volume for _, volume in there}, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "`volferry list` shows what there is"
            raise UsageError(
                session.typed(f"there is nothing of volume {name!r} in {session.store.url}: {hint}")
            )
    return [(host, volume) for host, volume in there if not names or volume in names]


def _report(session: Session, result: Pruning) -> None:
    """On stderr: what a person should look at."""
    from volferry.damage import next_step  # noqa: PLC0415
    from volferry.layout import manifest_key, ref_of_manifest  # noqa: PLC0415
    from volferry.lost_manifests import NO_MANIFEST, next_step_of_lost  # noqa: PLC0415
    from volferry.retention import BEFORE_GAP  # noqa: PLC0415

    if result.hold is not None:
        why = "are suspicious" if result.hold.is_suspicious else "could not read all that it has"
        say(
            session.typed(
                f"{result.volume}: {result.hold.good.id} is held until {local_time_text(result.hold.until)}: newer backups {why} "
                f"(`volferry show {result.hold.first.volume}`); `volferry accept {result.hold.first.volume}` if they are as they should be"
            )
        )
    if waiting := sum(any(why.endswith(BEFORE_GAP) for why in each.reasons) for each in result.verdicts):
        say(
            f"{result.volume}: {count_text(waiting, 'backup')} from before a gap that is longer than keep.within stay until there are newer "
            "ones for as long: was a clock wrong?"
        )
    for line in result.locked:
        say(f"{result.volume}: {line}")
    unsound = {*result.hollow, *result.damaged, *result.forgotten}
    there = [BackupRef(result.host, result.volume, verdict.id) for verdict in result.verdicts]
    whole = [ref for ref in there if ref not in unsound]
    for ref in result.hollow:
        say(
            session.typed(
                f"volferry: {ref} is not whole, objects that it needs are missing (`volferry show {ref}`): {next_step(ref, whole)}"
            )
        )
    for ref in result.damaged:
        say(
            session.typed(
                f"volferry: {ref} is not whole, verify found damaged what it needs (`volferry show {ref}`): {next_step(ref, whole)}"
            )
        )
    for problem in result.problems:
        unread = ref_of_manifest(problem.partition(" is damaged: ")[0])
        step = f": {session.typed(session.next_step(unread))}" if unread is not None else ""
        say(f"volferry: {result.volume}: no pack is deleted: {problem}{step}")
    if result.lost is not None and not result.problems:
        step = next_step_of_lost(result.lost, ())
        say(session.typed(f"volferry: {result.volume}: {manifest_key(result.lost)} {NO_MANIFEST}: {step}"))


def _print(done: list[Pruning], *, dry_run: bool) -> None:
    rows = [row for result in done for row in _rows(result, dry_run=dry_run)]
    if rows:
        print(table(("BACKUP", "TAKEN", "", "WHY"), rows))


def _rows(result: Pruning, *, dry_run: bool) -> Iterator[tuple[str, str, str, str]]:
    from volferry.model import time_of_id  # noqa: PLC0415

    forgotten = {ref.id for ref in result.forgotten}
    for verdict in reversed(result.verdicts):
        if dry_run or verdict.id in forgotten:
            yield (
                f"{result.volume}@{verdict.id}",
                local_time_text(time_of_id(verdict.id)),
                "keep" if verdict.kept else "forget" if verdict.id in forgotten else "locked",
                ", ".join(verdict.reasons),
            )


def _print_total(done: list[Pruning], uploads: int, *, grace: Within, dry_run: bool) -> None:
    backups = sum(len(each.forgotten) for each in done)
    packs = sum(len(each.packs) for each in done)
    would = "would be " if dry_run else ""
    print(
        f"{count_text(backups, 'backup')} {would}forgotten, {count_text(packs, 'pack')} {would}deleted, "
        f"{size_text(sum(each.freed_bytes for each in done))} {would}free"
    )
    if kept := sum(each.kept_version_bytes for each in done):
        print(
            f"{size_text(kept)} {would}deleted, and {'would stay' if dry_run else 'stay'} in the bucket as older versions, which it keeps: "
            "a lifecycle rule (NoncurrentVersionExpiration) frees them, or delete_versions in the configuration of the store does"
        )
    if waiting := sum(each.waiting_bytes for each in done if each.lost is None):
        print(
            f"{size_text(waiting)} of packs that no backup needs stay until they are older than prune.grace, {grace}"
        )
    if uploads:
        print(f"{count_text(uploads, 'upload')} of dead runs ended")


def _document(result: Pruning) -> dict[str, Any]:
    forgotten = {ref.id for ref in result.forgotten}
    return {
        "host": result.host,
        "volume": result.volume,
        "kept": [
            {"id": verdict.id, "reasons": list(verdict.reasons)}
            for verdict in result.verdicts
            if verdict.kept
        ],
        "forgotten": sorted(forgotten),
        "held": None
        if result.hold is None
        else {"id": result.hold.good.id, "until": result.hold.until.isoformat()},
        "packs": result.packs,
        "freed_bytes": result.freed_bytes,
        "kept_version_bytes": result.kept_version_bytes,
        "waiting_bytes": result.waiting_bytes,
        "locked": result.locked,
        "hollow": [ref.id for ref in result.hollow],
        "damaged": [ref.id for ref in result.damaged],
        "problems": result.problems,
        "lost": result.lost.id if result.lost is not None else None,
    }


def forget(
    names: Annotated[list[str], typer.Argument(metavar="BACKUP...", help="VOLUME@ID or HOST/VOLUME@ID.")],
    *,
    json: JsonOption = False,
    store: StoreOption = None,
    host: HostOption = None,
    engine: EngineOption = None,
    config: ConfigOption = None,
) -> int:
    """Forget single backups. The newest of a volume always stays; `volferry prune` frees the room."""
    session = Session.load(config=config, store=store, engine=engine, host=host)
    # All of them are looked at before any is forgotten.
    refs = [_chosen(session, name) for name in names]
    repository = session.repository
    done: list[BackupRef] = []
    failed: list[dict[str, str]] = []
    for ref in dict.fromkeys(refs):
        try:
            _forget(session, repository, ref)
        except VolferryError as error:
            say(f"volferry: {ref}: {error}")
            failed.append({"backup": str(ref), "error": str(error)})
        else:
            done.append(ref)
            if not json:
                print(f"forgot {ref}")
    if json:
        print_json({"forgotten": [str(ref) for ref in done], "failed": failed})
    return 1 if failed else 0


def _older(session: Session, name: str) -> BackupRef:
    """The backup of that name. Raises UsageError if it is the newest of its volume."""
    if "@" not in name:
        raise UsageError(f"{name!r} names no single backup: use VOLUME@ID, as `volferry list` prints it")
    ref = session.backup_ref(name)
    newer = [each for each in session.repository.refs(host=ref.host, volume=ref.volume) if each.id > ref.id]
    if not newer:
        raise UsageError(f"{ref} is the newest backup of its volume, which always stays")
    return ref


def _chosen(session: Session, name: str) -> BackupRef:
    try:
        return _not_held(session, _older(session, name))
    except NoSuchBackup:
        if (ref := _lost(session, name)) is None:
            raise
        return ref


def _lost(session: Session, name: str) -> BackupRef | None:
    """The backup of that name, if its manifest is lost."""
    from volferry.layout import parse_backup_name  # noqa: PLC0415

    wanted = parse_backup_name(name)
    host = wanted.host or session.host
    refs = session.repository.refs(host=host, volume=wanted.volume)
    return next((ref for ref in session.lost(refs, host, wanted.volume) if ref.id == wanted.id_start), None)


def _not_held(session: Session, ref: BackupRef) -> BackupRef:
    """Raises UsageError if it is the last one that was not suspicious, or that could read what newer ones could not, and nobody has
    accepted a newer one; StoreError if not all manifests that were listed can be looked at for that.
    """
    from volferry.archive.manifest import Manifest  # noqa: PLC0415
    from volferry.damage import Condition  # noqa: PLC0415
    from volferry.operations.acceptance import HELD, READ, find_hold  # noqa: PLC0415
    from volferry.operations.verdicts import unsound_of  # noqa: PLC0415

    repository = session.repository
    found = repository.manifests(host=ref.host, volume=ref.volume, cache=session.manifest_cache(repository))
    there = {each for each, manifest in found if not isinstance(manifest, NoSuchObject)}
    if gone := {ref, *repository.refs(host=ref.host, volume=ref.volume)} - there:
        raise StoreError(
            f"the manifest of {min(gone, key=str)} comes and goes in {repository.store.url}: nothing is forgotten; run it again"
        )
    manifests = {each: manifest for each, manifest in found if isinstance(manifest, Manifest)}
    hollow, damaged = unsound_of(Condition.of(repository, ref.host, ref.volume), manifests)
    held = find_hold(repository, manifests, session.config.prune.hold, hollow=hollow, damaged=damaged)
    why = held.reasons.get(ref.id) if held is not None else None
    if why in {HELD, READ}:
        raise UsageError(
            session.typed(
                f"{ref} is {why}; `volferry accept {ref.host}/{ref.volume}` if they are as they should be"
            )
        )
    return ref


def _forget(session: Session, repository: Repository, ref: BackupRef) -> None:
    from volferry.layout import manifest_key  # noqa: PLC0415
    from volferry.operations.acceptance import drop  # noqa: PLC0415
    from volferry.volume_lock import volume_lock  # noqa: PLC0415

    with volume_lock(session.state_of_volume(repository, ref.host, ref.volume), ref.volume):
        try:
            # First: should this end before the index is gone, too, nobody shall miss the manifest.
            session.manifest_cache(repository).update({}, [manifest_key(ref)])
            repository.forget(ref)
            drop(repository, ref)
        except StoreError as error:
            raise StoreError(f"it stays: {error}") from error
