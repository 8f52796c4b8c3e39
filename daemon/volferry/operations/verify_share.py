"""Reads a share of a store's objects at a time, so that all of them are read once in so many days, the one that was read longest
ago first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from volferry.archive.manifest import Manifest
from volferry.damage import Condition, remember, troubled
from volferry.errors import (
    DamagedObject,
    NoSuchObject,
    NoSuchStore,
    RepositoryError,
    StoreError,
    StoreUnreachable,
)
from volferry.layout import needed_objects
from volferry.operations.prune import newest_of
from volferry.operations.verify import wrong_object
from volferry.repository import Repository
from volferry.schedule import is_believed
from volferry.verification_log import VolumeState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

    from volferry.archive.digests import ObjectDigest
    from volferry.damage import Trouble
    from volferry.manifest_cache import ManifestCache
    from volferry.model import BackupRef
    from volferry.observer import Observer
    from volferry.verification_log import VerificationLog


# In the log, before the key of what is not good: that was read so, and that could not be read.
_TRIED = "damaged "
_UNREAD = "unread "


@dataclass(frozen=True, slots=True)
class Candidate:
    """An object that may be read."""

    key: str
    stored_bytes: int
    read_at: datetime  # last, or when it was written, or when a share was asked for first


def choose(
    candidates: Iterable[Candidate], *, now: datetime, every: timedelta, next_run: datetime
) -> list[Candidate]:
    """Those to be read now, so that each is read again before `every` has passed since it was read, if there is a run at
    `next_run` and as often after that; no more than that takes at a steady pace.
    """
    gap = max(next_run - now, timedelta(seconds=1))
    ordered = sorted(candidates, key=lambda each: (each.read_at, each.key))
    needed = 0.0
    so_far = 0
    for each in ordered:
        so_far += each.stored_bytes
        runs_left = max(1, (each.read_at + every - now) // gap)  # with this one, until it is due
        needed = max(needed, so_far / runs_left)
    chosen = []
    taken = 0
    for each in ordered:
        if taken >= needed:
            break
        chosen.append(each)
        taken += each.stored_bytes
    return chosen


@dataclass(slots=True)
class Share:
    """What was read, and what is known of all backups of the host after that."""

    read: int = 0  # objects
    read_bytes: int = 0
    total_bytes: int = 0  # of all that backups need
    troubles: dict[BackupRef, Trouble] = field(default_factory=dict)
    # Backups whose manifest, or an object that they need, cannot be read at the moment; each with why.
    unreadable: dict[BackupRef, str] = field(default_factory=dict)
    volumes: dict[str, VolumeState] = field(default_factory=dict)
    problem: str = ""  # why what was found could not be remembered in the store

    @property
    def wrong(self) -> dict[BackupRef, str]:
        """Backups that cannot be restored as a whole, and why."""
        return {**self.unreadable, **{ref: trouble.text for ref, trouble in self.troubles.items()}}


def verify_share(
    repository: Repository,
    host: str,
    *,
    log: VerificationLog,
    cache: ManifestCache | None,
    every: timedelta,
    next_run: datetime,
    clock: Callable[[], datetime],
    observer: Observer,
) -> Share:
    """What was read is in `log` at once: should this end half-way, the next one goes on. No lock is held, so no backup waits.

    An object that cannot be read keeps none of the others from being read; each share tries it again. Raises StoreError where the
    store as a whole cannot be read.
    """
    share = Share()
    now = clock()
    manifests: dict[BackupRef, Manifest] = {}
    for ref, manifest in repository.manifests(host=host, cache=cache):
        if isinstance(manifest, Manifest):
            manifests[ref] = manifest
        elif not isinstance(manifest, NoSuchObject):
            share.unreadable[ref] = str(manifest)
    condition = Condition.of(repository, host)
    needed: dict[str, ObjectDigest] = {}
    for ref, manifest in manifests.items():
        needed |= needed_objects(ref, manifest)
    read_at = _read_at(repository, condition, log, needed, now)
    share.total_bytes = sum(condition.objects[key].size for key in read_at)
    noted = log.read_at(repository.id)
    tried = _believed(noted, now)
    candidates = [
        # What is damaged is not read again each time for that; it was not read well either.
        Candidate(key, condition.objects[key].size, max(time, tried.get(f"{_TRIED}{key}", time)))
        for key, time in read_at.items()
    ]
    again = [each for each in candidates if f"{_UNREAD}{each.key}" in noted]
    fresh = [each for each in candidates if f"{_UNREAD}{each.key}" not in noted]
    # Last: a disk that fails may fail for good, or for long.
    chosen = [*choose(fresh, now=now, every=every, next_run=next_run), *again]
    unread: dict[str, str] = {}
    observer.phase("verifying", total_bytes=sum(each.stored_bytes for each in chosen))
    for each in chosen:
        wrong = wrong_object(repository, each.key, needed[each.key])
        if isinstance(wrong, NoSuchObject):  # another machine has pruned it, or it is missing
            del condition.objects[each.key]
            continue
        if isinstance(wrong, StoreError):
            _check_store(repository, wrong)
            unread[each.key] = str(wrong)
            log.keep_read(repository.id, [f"{_UNREAD}{each.key}"], clock())
            continue
        good = [] if isinstance(wrong, DamagedObject) else [each.key]
        damaged = {each.key: wrong.reason} if isinstance(wrong, DamagedObject) else {}
        # An index may be marked though its digest is right: what it says is another matter, for `verify --read`.
        unmarked = [key for key in good if key.startswith("packs/")]
        problem = remember(repository, condition, damaged, unmarked, by=host, now=clock())
        if damaged:
            # Also where that could not be remembered: it is said all the same.
            condition.marks.setdefault(each.key, "")
            log.keep_read(repository.id, [f"{_TRIED}{each.key}"], clock())
        share.problem = share.problem or problem
        if good:
            read_at[each.key] = clock()
            log.keep_read(repository.id, good, read_at[each.key])
        log.forget(repository.id, [f"{_UNREAD}{each.key}"])
        share.read += 1
        share.read_bytes += each.stored_bytes
        observer.advance(done_bytes=share.read_bytes, done_entries=0)
    share.troubles = troubled(repository, condition, manifests.items())
    for ref, manifest in manifests.items():
        why = [unread[key] for key in needed_objects(ref, manifest) if key in unread]
        if why and ref not in share.troubles:
            share.unreadable[ref] = f"{why[0]} (and {len(why) - 1} more)" if len(why) > 1 else why[0]
    share.volumes = _volumes(manifests, share, read_at)
    return share


def _check_store(repository: Repository, error: StoreError) -> None:
    """Raises `error` unless it is about one object of the store only."""
    if isinstance(error, NoSuchStore | StoreUnreachable):
        raise error
    try:
        there = Repository.open(repository.store).id == repository.id
    except (StoreError, RepositoryError):
        there = False
    if not there:
        raise error


def _read_at(
    repository: Repository,
    condition: Condition,
    log: VerificationLog,
    needed: Mapping[str, ObjectDigest],
    now: datetime,
) -> dict[str, datetime]:
    """Of all objects that backups need and that are there with their size."""
    since = log.since(repository.id, now)
    known = log.read_at(repository.id)
    mine = {key for key in known if _object_of(key) in condition.objects}
    log.forget(repository.id, [key for key in known if key not in mine and _is_of_host(key, condition)])
    known = _believed(known, now)
    found = {}
    for key, expected in needed.items():
        info = condition.objects.get(key)
        if info is not None and not expected.other_size(info.size):
            # Written again since it was read, as by a copy that mends, it is another object.
            read_at = known.get(key, since)
            # One that may be damaged, as after a move of the store, is read early.
            new = is_believed(info.modified, now) and key not in condition.doubts
            written_at = info.modified if new else read_at
            found[key] = min(now, max(read_at, written_at))
    return found


def _believed(times: Mapping[str, datetime], now: datetime) -> dict[str, datetime]:
    """Without those from the future: until then, nothing would be read again."""
    return {key: time for key, time in times.items() if is_believed(time, now)}


def _is_of_host(key: str, condition: Condition) -> bool:
    hosts = {other.split("/")[1] for other in condition.objects}
    return _object_of(key).split("/")[1] in hosts


def _object_of(noted: str) -> str:
    return noted.removeprefix(_TRIED).removeprefix(_UNREAD)


def _volumes(
    manifests: Mapping[BackupRef, Manifest], share: Share, read_at: Mapping[str, datetime]
) -> dict[str, VolumeState]:
    hurt: dict[str, int] = {}
    for ref in share.wrong:
        hurt[ref.volume] = hurt.get(ref.volume, 0) + 1
    found = {volume: VolumeState(None, count) for volume, count in hurt.items()}
    for ref in newest_of(list(manifests)):
        times = [read_at.get(key) for key in needed_objects(ref, manifests[ref])]
        known = [time for time in times if time is not None]
        oldest = min(known) if len(known) == len(times) else None
        found[ref.volume] = VolumeState(oldest, hurt.get(ref.volume, 0))
    return found
