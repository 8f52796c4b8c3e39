"""Backups that a person has accepted though they are suspicious, or could not read all, and older ones that are held because nobody has accepted
a newer one (docs/format.md, "Accepted backups").
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from volferry.archive.manifest import FORMAT_VERSION
from volferry.archive.sealed import seal, unseal
from volferry.errors import NoSuchObject, ObjectExists, ObjectLocked
from volferry.layout import accepted_key, accepted_prefix
from volferry.model import BACKUP_ID, BackupRef
from volferry.operations.unread import last_readers, unread_paths
from volferry.retention import Verdict, Within
from volferry.stores.base import get, put

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from volferry.archive.manifest import FindingPart, Manifest
    from volferry.repository import Repository

DEFAULT_HOLD = Within("30d")
HELD = "held: newer backups are suspicious"
FIRST = "held: the first that is suspicious"
WITNESS = "held: the first after the time to hold"
READ = "held: newer backups could not read all of it"
FIRST_UNREAD = "held: the first that could not read all"
_BY_WEIGHT = (HELD, READ, FIRST, FIRST_UNREAD, WITNESS)
_SUSPICIOUS = {"shrunk", "rewritten"}
_AHEAD = timedelta(days=1)  # of the store's clock: a time that is more than that is wrong
# The next day, and the time of the day before, though a backup may be a little earlier.
_LATER, _ALMOST = timedelta(hours=20), timedelta(hours=4)
_SOON = timedelta(days=8)  # so long after a moment, there was a backup, if only one a week is made


@dataclass(frozen=True, slots=True)
class Hold:
    """Older backups that stay, whatever the policy says, until somebody accepts a newer one or `until`."""

    good: BackupRef
    first: BackupRef  # the oldest of those after it that are the reason: the hold counts from that
    until: datetime
    reasons: dict[str, str]  # why a backup stays, by its id
    is_suspicious: bool = True  # or else the newer ones could not read all that it has

    def on(self, verdicts: Iterable[Verdict]) -> list[Verdict]:
        """With the reasons that it adds."""
        return [
            Verdict(each.id, (*each.reasons, self.reasons[each.id])) if each.id in self.reasons else each
            for each in verdicts
        ]


def is_suspicious(manifest: Manifest) -> bool:
    """By its findings, whether it was accepted or not."""
    return suspicion_in(manifest) is not None


def suspicion_in(manifest: Manifest) -> FindingPart | None:
    """The finding of the volume as a whole by which it is suspicious."""
    return next((finding for finding in manifest.findings if finding.kind in _SUSPICIOUS), None)


def may_be_accepted(manifest: Manifest) -> bool:
    """Whether there is anything to say of it."""
    return is_suspicious(manifest) or bool(unread_paths(manifest))


def find_hold(
    repository: Repository,
    manifests: Mapping[BackupRef, Manifest],
    hold: Within,
    *,
    hollow: Collection[BackupRef] = (),
    damaged: Collection[BackupRef] = (),
    accepted: Iterable[str] | None = None,
) -> Hold | None:
    """Of the backups of one volume: the last good one where newer ones are suspicious, and the last ones that could read what newer ones
    could not. Nothing is asked of the store where the newest is sound, not suspicious, and whole. `accepted` are
    ids that are known to be, if they are not to be looked for. Raises StoreError.

    `hollow` ones miss objects, and are held only where there is nothing better. One that was found damaged is held as if it
    were not, since somebody may have said so who is wrong; and so is the newest good one that is neither.
    """
    newest_first = sorted(manifests, key=lambda ref: ref.id, reverse=True)
    known = None if accepted is None else set(accepted)
    if known is None:
        about = next((ref for ref in newest_first if may_be_accepted(manifests[ref])), None)
        sound = next((ref for ref in newest_first if ref not in hollow and ref not in damaged), None)
        if about is None or (sound is not None and about.id < sound.id):
            return None
        known = accepted_ids(repository, about.host, about.volume)
    good = [ref for ref in newest_first if ref.id in known or not is_suspicious(manifests[ref])]
    since, held = _last_good(newest_first, set(good), hollow, damaged)
    found = [_Candidate(held, since, HELD, FIRST)] if since and held else []
    # Of the suspicious ones as well, which are all that there is once the last good one is gone.
    for refs in (good, newest_first) if since else (good,):
        readers = last_readers(manifests, refs, accepted=known, hollow=hollow, damaged=damaged)
        found += [_Candidate([ref], those, READ, FIRST_UNREAD) for ref, those in readers]
    if not found:
        return None
    times = _Times.of(repository, manifests, newest_first[0])
    holds = [each for candidate in found if (each := times.hold(candidate, hold)) is not None]
    if not holds:
        return None
    main = holds[0] if holds[0].is_suspicious else max(holds, key=lambda each: each.until)
    reasons: dict[str, str] = {}
    for each in holds:
        for backup_id, reason in each.reasons.items():
            reasons[backup_id] = min(reason, reasons.get(backup_id, reason), key=_BY_WEIGHT.index)
    return replace(main, reasons=reasons)


def last_good_before(
    ref: BackupRef,
    manifests: Mapping[BackupRef, Manifest],
    *,
    accepted: Collection[str],
    unsound: Collection[BackupRef] = (),
) -> BackupRef | None:
    """Of the backups of one volume that are whole, the newest before this one that is not suspicious, or was accepted."""
    good = [
        each
        for each, manifest in manifests.items()
        if each.id < ref.id and each not in unsound and (each.id in accepted or not is_suspicious(manifest))
    ]
    return max(good, key=lambda each: each.id, default=None)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """Backups to hold, those since that are the reason, newest first, and the reasons that prune gives for them and for the first of these."""

    held: Sequence[BackupRef]
    since: Sequence[BackupRef]
    why: str
    first: str


def _last_good(
    newest_first: Sequence[BackupRef],
    good: Collection[BackupRef],
    hollow: Collection[BackupRef],
    damaged: Collection[BackupRef],
) -> tuple[list[BackupRef], list[BackupRef]]:
    """The suspicious ones since the last good one, newest first, and what is to be held as that."""
    since: list[BackupRef] = []
    held: list[BackupRef] = []
    remnant: BackupRef | None = None
    for ref in newest_first:
        if ref not in good:
            since.append(ref)
        elif ref in hollow:
            remnant = remnant or ref
        elif ref not in damaged:
            held.append(ref)
            break
        elif not held:
            held.append(ref)
    return since, held or ([remnant] if remnant is not None else [])


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

    def hold(self, candidate: _Candidate, span: Within) -> Hold | None:
        """None if its time is over."""
        first, began = self.beginning(candidate.since)
        witness, until = self.end(first, began, span)
        if until == began or until <= self.now:
            return None
        reasons = {each.id: candidate.why for each in candidate.held}
        reasons.setdefault(first.id, candidate.first)
        if witness is not None:
            reasons.setdefault(witness.id, WITNESS)
        return Hold(candidate.held[-1], first, until, reasons, is_suspicious=candidate.why == HELD)

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
        if not _copied_from(repository, ref):
            return False
        withdraw(repository, ref)  # from now on, it is this store's own
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
    """Of backups of one volume that are in both; also that it was taken back. What a person has accepted in the target itself stays so. Raises
    StoreError.
    """
    refs = sorted(refs, key=lambda ref: ref.id)
    if not refs or source.id == target.id:  # of a copy by other tools, the store itself knows better
        return
    host, volume = refs[0].host, refs[0].volume
    there, here = accepted_ids(source, host, volume), accepted_ids(target, host, volume)
    for ref in refs:
        if ref.id in there - here:
            document = unseal(get(source.store, accepted_key(ref)))
            if document.get("copied_from") != target.id:  # or it was taken back there since
                _put(target, ref, seal(document | {"copied_from": source.id}))
        elif ref.id in here - there and _copied_from(target, ref) == source.id:
            withdraw(target, ref)


def _copied_from(repository: Repository, ref: BackupRef) -> object:
    """The id of the store that it was copied from; None if a person has accepted it here."""
    try:
        return unseal(get(repository.store, accepted_key(ref))).get("copied_from")
    except (NoSuchObject, ValueError):
        return None
