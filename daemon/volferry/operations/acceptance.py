"""What a person has said of suspicious backups, and which older backup is held because of those of which nobody has said
anything (docs/format.md, "Accepted backups").
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from volferry.archive.manifest import FORMAT_VERSION
from volferry.archive.sealed import seal, unseal
from volferry.errors import NoSuchObject, ObjectExists, ObjectLocked
from volferry.layout import accepted_key, accepted_prefix
from volferry.model import BACKUP_ID, BackupRef
from volferry.retention import Verdict, Within
from volferry.stores.base import get, put

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from volferry.archive.manifest import Manifest
    from volferry.repository import Repository

DEFAULT_HOLD = Within("30d")
HELD = "held: newer backups are suspicious"
FIRST = "held: the first that is suspicious"
_SUSPICIOUS = {"shrunk", "rewritten"}
_AHEAD = timedelta(days=1)  # of the store's clock: a time that is more than that is wrong


@dataclass(frozen=True, slots=True)
class Hold:
    """An older backup that stays, whatever the policy says, until somebody accepts a newer one or `until`."""

    good: BackupRef
    first: BackupRef  # the oldest of the suspicious ones after it: the hold counts from that
    until: datetime

    def on(self, verdicts: Iterable[Verdict]) -> list[Verdict]:
        """With the reasons that it adds."""
        reasons = {self.good.id: HELD, self.first.id: FIRST}
        return [
            Verdict(each.id, (*each.reasons, reasons[each.id])) if each.id in reasons else each
            for each in verdicts
        ]


def is_suspicious(manifest: Manifest) -> bool:
    """By its findings, whether it was accepted or not."""
    return any(finding.kind in _SUSPICIOUS for finding in manifest.findings)


def find_hold(
    repository: Repository,
    manifests: Mapping[BackupRef, Manifest],
    hold: Within,
    *,
    accepted: Iterable[str] | None = None,
) -> Hold | None:
    """Of the backups of one volume. Nothing is asked of the store where the newest is not suspicious. `accepted` are ids
    that are known to be, if they are not to be looked for. Raises StoreError.
    """
    ordered = sorted(manifests, key=lambda ref: ref.id)
    if not ordered or not is_suspicious(manifests[ordered[-1]]):
        return None
    newest = ordered[-1]
    known = accepted_ids(repository, newest.host, newest.volume) if accepted is None else set(accepted)
    first = None
    for ref in reversed(ordered):
        if ref.id in known or not is_suspicious(manifests[ref]):
            break
        first = ref
    else:
        return None  # none is left that was not
    if first is None:
        return None
    now = repository.store.now()
    until = _after(_began(repository, first, manifests[first], now), hold)
    return Hold(ref, first, until) if now < until else None


def _began(repository: Repository, ref: BackupRef, manifest: Manifest, now: datetime) -> datetime:
    """The later of what the backup says and what the store says of its manifest, as one of two clocks may be wrong; one
    that is ahead says nothing. A copy has a time of its own in a replica.
    """
    stored = [
        info.modified
        for info in repository.objects("manifests", ref.host, ref.volume)
        if info.key.endswith(f"/{ref.id}.json")
    ]
    return max((time for time in (manifest.started_at, *stored) if time < now + _AHEAD), default=now)


def _after(time: datetime, span: Within) -> datetime:
    """`span` counts back from a moment; this is the moment from which it leads to `time`."""
    return time + (time - span.before(time))


def accepted_ids(repository: Repository, host: str, volume: str) -> set[str]:
    """Ids of what was accepted. An object that is not what it should be says nothing. Raises StoreError."""
    found = set()
    for info in repository.store.list(accepted_prefix(host, volume)):
        backup_id = info.key.rpartition("/")[2].removesuffix(".json")
        if BACKUP_ID.fullmatch(backup_id) and _is_sound(
            repository, info.key, BackupRef(host, volume, backup_id)
        ):
            found.add(backup_id)
    return found


def _is_sound(repository: Repository, key: str, ref: BackupRef) -> bool:
    try:
        document = unseal(get(repository.store, key))
    except (NoSuchObject, ValueError):
        return False
    return (document.get("host"), document.get("volume"), document.get("id")) == (
        ref.host,
        ref.volume,
        ref.id,
    )


def accept(repository: Repository, ref: BackupRef, by: str) -> bool:
    """False if it was accepted before. `by` is the machine where a person said so. Raises StoreError."""
    document = {
        "format": FORMAT_VERSION,
        "id": ref.id,
        "host": ref.host,
        "volume": ref.volume,
        "accepted_at": datetime.now(UTC).isoformat(),
        "accepted_by": by,
    }
    if ref.id in accepted_ids(repository, ref.host, ref.volume):
        return False
    _put(repository, ref, seal(document))
    return True


def _put(repository: Repository, ref: BackupRef, data: bytes) -> None:
    try:
        put(repository.store, accepted_key(ref), data)
    except ObjectExists:  # one that is damaged, or another machine was faster
        repository.store.delete(accepted_key(ref))
        put(repository.store, accepted_key(ref), data)


def withdraw(repository: Repository, ref: BackupRef) -> None:
    """As if nobody had accepted it. Raises StoreError, ObjectLocked among it."""
    repository.store.delete(accepted_key(ref))


def drop(repository: Repository, ref: BackupRef) -> None:
    """Of a backup that there is no longer; what is locked stays, and means nothing. Raises StoreError."""
    with suppress(ObjectLocked):
        withdraw(repository, ref)


def copy_accepted(source: Repository, target: Repository, refs: Iterable[BackupRef]) -> None:
    """Of backups of one volume that are in both. Raises StoreError."""
    refs = sorted(refs, key=lambda ref: ref.id)
    if not refs:
        return
    host, volume = refs[0].host, refs[0].volume
    missing = accepted_ids(source, host, volume) - accepted_ids(target, host, volume)
    for ref in refs:
        if ref.id in missing:
            _put(target, ref, get(source.store, accepted_key(ref)))
