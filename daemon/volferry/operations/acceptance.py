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
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from volferry.archive.manifest import Manifest
    from volferry.repository import Repository

DEFAULT_HOLD = Within("30d")
HELD = "held: newer backups are suspicious"
FIRST = "held: the first that is suspicious"
WITNESS = "held: the first after the time to hold"
_SUSPICIOUS = {"shrunk", "rewritten"}
_AHEAD = timedelta(days=1)  # of the store's clock: a time that is more than that is wrong
# The next day, and the time of the day before, though a backup may be a little earlier.
_LATER, _ALMOST = timedelta(hours=20), timedelta(hours=4)
_SOON = timedelta(days=8)  # so long after a moment, there was a backup, if only one a week is made


@dataclass(frozen=True, slots=True)
class Hold:
    """Older backups that stay, whatever the policy says, until somebody accepts a newer one or `until`."""

    good: BackupRef
    first: BackupRef  # the oldest of the suspicious ones after it: the hold counts from that
    until: datetime
    reasons: dict[str, str]  # why a backup stays, by its id

    def on(self, verdicts: Iterable[Verdict]) -> list[Verdict]:
        """With the reasons that it adds."""
        return [
            Verdict(each.id, (*each.reasons, self.reasons[each.id])) if each.id in self.reasons else each
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
    hollow: Collection[BackupRef] = (),
    damaged: Collection[BackupRef] = (),
    accepted: Iterable[str] | None = None,
) -> Hold | None:
    """Of the backups of one volume. Nothing is asked of the store where the newest is sound and not suspicious. `accepted` are
    ids that are known to be, if they are not to be looked for. Raises StoreError.

    `hollow` ones miss objects, and are held only where there is nothing better. One that was found damaged is held as if it
    were not, since somebody may have said so who is wrong; and so is the newest good one that is neither.
    """
    ordered = sorted(manifests, key=lambda ref: ref.id)
    known = None if accepted is None else set(accepted)
    since: list[BackupRef] = []  # newest first: suspicious
    held: list[BackupRef] = []
    remnant: BackupRef | None = None
    for ref in reversed(ordered):
        if is_suspicious(manifests[ref]):
            known = accepted_ids(repository, ref.host, ref.volume) if known is None else known
            if ref.id not in known:
                since.append(ref)
                continue
        if ref in hollow:
            remnant = remnant or ref
        elif ref not in damaged:
            held.append(ref)
            break
        elif not held:
            held.append(ref)
    held = held or ([remnant] if remnant is not None else [])
    if not since or not held:
        return None  # none is left that was not
    times = _Times.of(repository, manifests, since[-1])
    first, began = times.beginning(since)
    witness, until = times.end(first, began, hold)
    if until == began or until <= times.now:
        return None
    reasons = {each.id: HELD for each in held} | {first.id: FIRST}
    if witness is not None:
        reasons.setdefault(witness.id, WITNESS)
    return Hold(held[-1], first, until, reasons)


@dataclass(frozen=True, slots=True)
class _Times:
    """When backups of one volume were made, by two clocks, each of which may be wrong at times."""

    now: datetime
    manifests: Mapping[BackupRef, Manifest]
    stored: Mapping[str, datetime]  # by the store's clock, by id; a copy has a time of its own in a replica

    @classmethod
    def of(cls, repository: Repository, manifests: Mapping[BackupRef, Manifest], ref: BackupRef) -> _Times:
        now = repository.store.now()
        stored = {
            info.key.rpartition("/")[2].removesuffix(".json"): info.modified
            for info in repository.objects("manifests", ref.host, ref.volume)
        }
        return cls(now, manifests, stored)

    def beginning(self, since: Sequence[BackupRef]) -> tuple[BackupRef, datetime]:
        """Of a time to hold: the oldest of those since whose time can be believed, and that time. What is ahead of the store's clock
        cannot be; what is behind is no earlier than the backups before it.
        """
        for ref in reversed(since):
            if self._believed(ref):
                times = (
                    time for each in self.manifests if each.id <= ref.id for time in self._believed(each)
                )
                return ref, max(times)
        return since[-1], self.now

    def end(self, first: BackupRef, began: datetime, hold: Within) -> tuple[BackupRef | None, datetime]:
        """Of a time to hold, and the backup that was the first after it."""
        until = _after(began, hold)
        if until == began or until > self.now:
            return None, until
        witness = self._witness(first, until)
        if witness is None:
            return None, self.now + _LATER
        seen = self.stored[witness.id]
        # After a long time without any backup, or with a clock that is wrong, it is counted once more.
        return witness, seen + _LATER if seen < until + _SOON else _after(seen, hold)

    def _witness(self, first: BackupRef, until: datetime) -> BackupRef | None:
        """The oldest backup that was made when a time to hold was over, or almost. It is over for good when that was long ago: a clock
        that is in 2099 for one look ends nothing.
        """
        made = [
            ref
            for ref in self.manifests
            if ref.id > first.id
            and ref.id in self.stored
            and until - _ALMOST <= self.stored[ref.id] < self.now + _AHEAD
        ]
        return min(made, key=lambda ref: self.stored[ref.id], default=None)

    def _believed(self, ref: BackupRef) -> list[datetime]:
        times = (self.manifests[ref].started_at, self.stored.get(ref.id, self.now))
        return [time for time in times if time < self.now + _AHEAD]


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
