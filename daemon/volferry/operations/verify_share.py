"""Reads a share of a store's objects at a time, so that all of them are read once in so many days, the one that was read longest
ago first.

Manifests are among them, in their turn: machines take them from a cache, and nobody else looks whether the store still has them whole. All of
them each time would be a request for each backup of each day, for years.
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
from volferry.layout import manifest_key, manifests_prefix, needed_objects, ref_of_manifest
from volferry.lost_manifests import lost
from volferry.operations.verdicts import newest_of
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
    `next_run` and as often after that; no more than that takes at a steady pace. One that is larger than that waits until it must be
    read: else it would be read each time.
    """
    gap = max(next_run - now, timedelta(seconds=1))
    ordered = sorted(candidates, key=lambda each: (each.read_at, each.key))
    needed = so_far = 0
    for each in ordered:
        so_far += each.stored_bytes
        runs_left = max(1, (each.read_at + every - now) // gap)  # with this one, until it is due
        needed = max(needed, -(-so_far // runs_left))
    chosen = []
    taken = 0
    for each in ordered:
        if taken + each.stored_bytes > needed:
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
    listed: bool = False  # a LIST of the store, with its marks and manifests, shows all that is wrong

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
    done_until: Callable[[datetime], datetime],
    clock: Callable[[], datetime],
    observer: Observer,
    unfinished: Callable[[BackupRef], bool] = lambda _: False,
) -> Share:
    """What was read is in `log` at once: should this end half-way, the next one goes on. No lock is held, so no backup waits.
    `done_until` says how long a share that began then is all that is to be read; until that, this one reads only what could not be read.

    An object that cannot be read keeps none of the others from being read; each share tries it again. Raises StoreError where the
    store as a whole cannot be read.
    """
    share = Share()
    now = clock()
    manifests, wrong_manifests = _manifests(repository, host, cache, share)
    condition = Condition.of(repository, host, unmarked_manifests=True)
    share.problem = remember(repository, condition, wrong_manifests, (), by=host, now=now)
    needed: dict[str, ObjectDigest | None] = {}
    for ref, manifest in manifests.items():
        needed |= _needed(ref, manifest)
    read_at = _read_at(repository, condition, log, needed, now)
    share.total_bytes = sum(condition.objects[key].size for key in read_at)
    noted = log.read_at(repository.place)
    tried = _believed(noted, now)
    candidates = [
        # What is damaged is not read again each time for that; it was not read well either.
        Candidate(key, condition.objects[key].size, max(time, tried.get(f"{_TRIED}{key}", time)))
        for key, time in read_at.items()
    ]
    again = [each for each in candidates if f"{_UNREAD}{each.key}" in noted]
    fresh = [each for each in candidates if f"{_UNREAD}{each.key}" not in noted]
    last = log.last_share(repository.place, host)
    is_due = last is None or not is_believed(last, now) or done_until(last) <= now
    # Last: a disk that fails may fail for good, or for long.
    chosen = [*(choose(fresh, now=now, every=every, next_run=next_run) if is_due else ()), *again]
    reading = _Reading(repository, host, log, cache, clock, condition, share, read_at)
    observer.phase("verifying", total_bytes=sum(each.stored_bytes for each in chosen))
    for each in chosen:
        reading.read(each, needed[each.key])
        observer.advance(done_bytes=share.read_bytes, done_entries=0)
    known = cache.refs(manifests_prefix(host, None)) if cache is not None else ()
    gone = lost(repository, [*manifests, *share.unreadable], host, known=known, unfinished=unfinished)
    share.troubles = troubled(repository, condition, manifests.items()) | gone
    for ref, manifest in manifests.items():
        why = [reading.unread[key] for key in _needed(ref, manifest) if key in reading.unread]
        if why and ref not in share.troubles:
            share.unreadable[ref] = f"{why[0]} (and {len(why) - 1} more)" if len(why) > 1 else why[0]
    unmarked = [ref for ref in share.unreadable if manifest_key(ref) not in wrong_manifests]
    share.listed = not (unmarked or share.problem)
    share.volumes = _volumes(manifests, share, read_at)
    if is_due:
        log.keep_share(repository.place, host, now)
    return share


def _manifests(
    repository: Repository, host: str, cache: ManifestCache | None, share: Share
) -> tuple[dict[BackupRef, Manifest], dict[str, str]]:
    """Those that can be read; and by key, what is wrong with those that are damaged."""
    found: dict[BackupRef, Manifest] = {}
    damaged: dict[str, str] = {}
    for ref, manifest in repository.manifests(host=host, cache=cache):
        if isinstance(manifest, Manifest):
            found[ref] = manifest
        elif not isinstance(manifest, NoSuchObject):
            share.unreadable[ref] = str(manifest)
            if isinstance(manifest, DamagedObject):
                damaged[manifest.key] = manifest.reason
    return found, damaged


@dataclass(slots=True)
class _Reading:
    """Reads objects one by one. What comes of each is in the log and in the store before the next one is read."""

    repository: Repository
    host: str
    log: VerificationLog
    cache: ManifestCache | None
    clock: Callable[[], datetime]
    condition: Condition
    share: Share
    read_at: dict[str, datetime]
    unread: dict[str, str] = field(default_factory=dict)  # what could not be read, and why

    def read(self, each: Candidate, expected: ObjectDigest | None) -> None:
        wrong = _wrong(self.repository, each.key, expected)
        place, share = self.repository.place, self.share
        if isinstance(wrong, NoSuchObject):  # another machine has pruned it, or it is missing
            del self.condition.objects[each.key]
            return
        if isinstance(wrong, StoreError):
            _check_store(self.repository, wrong)
            self.unread[each.key] = str(wrong)
            self.log.keep_read(place, [f"{_UNREAD}{each.key}"], self.clock())
            return
        if isinstance(wrong, DamagedObject):
            self._remember({each.key: wrong.reason}, ())
            # The caller reports it, and `list` and `prune` find it, even where the store took no mark.
            self.condition.marks.setdefault(each.key, "")
            if self.cache is not None:
                self.cache.update({}, [each.key])
            self.log.keep_read(place, [f"{_TRIED}{each.key}"], self.clock())
        else:
            # An index may be marked though its digest is right: what it says is another matter, for `verify --read`.
            self._remember({}, () if each.key.startswith("indexes/") else [each.key])
            self.read_at[each.key] = self.clock()
            self.log.keep_read(place, [each.key], self.read_at[each.key])
        self.log.forget(place, [f"{_UNREAD}{each.key}"])
        share.read += 1
        share.read_bytes += each.stored_bytes

    def _remember(self, damaged: Mapping[str, str], good: Iterable[str]) -> None:
        problem = remember(self.repository, self.condition, damaged, good, by=self.host, now=self.clock())
        self.share.problem = self.share.problem or problem


def _needed(ref: BackupRef, manifest: Manifest) -> dict[str, ObjectDigest | None]:
    """As `needed_objects`, and the manifest, which vouches for itself."""
    return {manifest_key(ref): None, **needed_objects(ref, manifest)}


def _wrong(
    repository: Repository, key: str, expected: ObjectDigest | None
) -> DamagedObject | StoreError | None:
    """As `wrong_object`."""
    if expected is not None:
        return wrong_object(repository, key, expected)
    ref = ref_of_manifest(key)
    try:
        if ref is not None:
            repository.manifest(ref)
    except (DamagedObject, StoreError) as error:
        return error
    except RepositoryError as error:  # it was one that this volferry reads
        return DamagedObject(key, str(error))
    return None


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
    needed: Mapping[str, ObjectDigest | None],
    now: datetime,
) -> dict[str, datetime]:
    """Of all objects that backups need and that are there with their size."""
    since = log.since(repository.place, now)
    known = log.read_at(repository.place)
    mine = {key for key in known if _object_of(key) in condition.objects}
    log.forget(repository.place, [key for key in known if key not in mine and _is_of_host(key, condition)])
    known = _believed(known, now)
    found = {}
    for key, expected in needed.items():
        info = condition.objects.get(key)
        if info is not None and (expected is None or not expected.other_size(info.size)):
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
        times = [read_at.get(key) for key in _needed(ref, manifests[ref])]
        known = [time for time in times if time is not None]
        oldest = min(known) if len(known) == len(times) else None
        found[ref.volume] = VolumeState(oldest, hurt.get(ref.volume, 0))
    return found
