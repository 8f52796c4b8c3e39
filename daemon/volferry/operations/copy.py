"""Sends backups of one volume from one store to another, as they are: what is missing there, manifest last.

Objects never change, so what is there with its size is there; what a copy that was stopped has sent stays, and the next
one goes on from it. What is damaged there, or not to be relied on, is replaced in one step, by what was read to its end and is whole: were it
deleted first, and the source failed or the copy died then, what could be had of it would be gone.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, TypeAlias

from volferry.archive.digests import digested
from volferry.archive.manifest import Manifest
from volferry.damage import Condition
from volferry.errors import (
    DamagedObject,
    Interrupted,
    NoSuchObject,
    ObjectExists,
    ObjectLocked,
    RepositoryError,
    StoreError,
)
from volferry.interrupts import held_back
from volferry.layout import manifest_key, needed_objects
from volferry.operations.acceptance import DEFAULT_HOLD, copy_accepted, find_hold, may_be_accepted
from volferry.operations.verdicts import judged, unsound_of, volume_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from volferry.archive.digests import ObjectDigest
    from volferry.manifest_cache import ManifestCache
    from volferry.model import BackupRef, Volume
    from volferry.observer import Observer
    from volferry.repository import Repository
    from volferry.retention import Keep, Within

_RELIABLE_AGE = timedelta(days=1)  # of what a copy that was stopped has left
_AT_ONCE = 3  # objects


@dataclass(slots=True)
class Copying:
    """What was done with one volume."""

    host: str
    volume: str
    copied: list[BackupRef] = field(default_factory=list)
    there: int = 0  # backups that were there before
    left_out: int = 0  # that the target's policy would not keep
    mended: int = 0  # objects that backups there needed, and that were missing, damaged or of another size
    manifests: list[BackupRef] = field(default_factory=list)  # whose manifests are among these
    sent_bytes: int = 0
    failed: dict[str, str] = field(default_factory=dict)  # why, by backup
    damaged: list[BackupRef] = field(default_factory=list)  # of these, whose manifests in the source are


def copy_volume(
    source: Repository,
    target: Repository,
    host: str,
    volume: str,
    *,
    keep: Callable[[Volume], Keep],
    only: BackupRef | None = None,
    source_cache: ManifestCache | None,
    target_cache: ManifestCache | None,
    observer: Observer,
    hold: Within = DEFAULT_HOLD,
) -> Copying:
    """Also mends: what a backup that is there needs, and that is missing there, is sent again.

    `keep` is the target's policy: what it would not keep is not sent. The caller holds the volume's lock of the target.
    Raises StoreError where a store cannot be used at all; what is wrong with one backup is in `failed`.
    """
    result = Copying(host, volume)
    manifests: dict[BackupRef, Manifest] = {}
    for ref, manifest in source.manifests(host=host, volume=volume, cache=source_cache):
        if isinstance(manifest, Manifest):
            manifests[ref] = manifest
        elif only in {None, ref}:
            result.failed[str(ref)] = str(manifest)
            if isinstance(manifest, DamagedObject):
                result.damaged.append(ref)
    there = dict(target.manifests(host=host, volume=volume, cache=target_cache))
    condition = Condition.of(target, host, volume)
    # What was read before says nothing of one that was found damaged since.
    there |= {ref: _manifest_of(target, ref) for ref in there if manifest_key(ref) in condition.suspects}
    # What no backup there needs is deleted and sent again, and a LIST may leave one out for a moment.
    there |= {
        ref: _manifest_of(target, ref) for ref in target.refs(host=host, volume=volume) if ref not in there
    }
    unsound = _unsound(manifests, there, Condition.of(source, host, volume), condition)
    wanted = {only} if only else _kept(source, manifests, there, unsound, keep, hold)
    result.left_out = 0 if only else len(manifests.keys() - wanted - there.keys())
    needed = {
        key
        for ref, manifest in [*there.items(), *manifests.items()]
        if ref in there and isinstance(manifest, Manifest)
        for key in needed_objects(ref, manifest)
    }
    named = _Named.by(there, manifests)
    sender = _Sender(source, target, condition, observer, needed)
    for ref in sorted(manifests, key=lambda each: each.id):
        if ref not in wanted and ref not in there:
            continue
        if only is not None and ref != only:
            continue
        why = _in_the_way(target, there.get(ref), manifests[ref])
        if why := why or named.why_not(ref, manifests[ref], target):
            result.failed[str(ref)] = why
            continue
        try:
            sender.send(ref, manifests[ref], there.get(ref))
        except (RepositoryError, NoSuchObject) as error:
            result.failed[str(ref)] = str(error)
            continue
        named.add(ref, manifests[ref])
        if ref in there:
            result.there += 1
        else:
            result.copied.append(ref)
            if target_cache is not None:
                target_cache.note(ref)
    result.sent_bytes, result.mended, result.manifests = sender.sent_bytes, sender.mended, sender.manifests
    both = [ref for ref in manifests if ref in there or ref in result.copied]
    copy_accepted(source, target, [ref for ref in both if may_be_accepted(manifests[ref])])
    return result


_Found: TypeAlias = Manifest | RepositoryError | StoreError  # a manifest, or what is wrong with it


class _Named:
    """Sizes and digests of the target's objects, by the target's own manifests. These count, and not the source's: an attacker who can write the source
    could otherwise have good packs of other backups replaced.
    """

    def __init__(self) -> None:
        self._found: dict[str, dict[ObjectDigest, BackupRef]] = {}

    @classmethod
    def by(cls, there: Mapping[BackupRef, _Found], in_source: Mapping[BackupRef, Manifest]) -> _Named:
        """Where the target's own is damaged, the source's is heard, unless it is against the others."""
        named = cls()
        for ref, found in there.items():
            if isinstance(found, Manifest):
                named.add(ref, found)
        for ref, found in there.items():
            manifest = None if isinstance(found, Manifest) else in_source.get(ref)
            if manifest is not None and named.otherwise(ref, manifest) is None:
                named.add(ref, manifest)
        return named

    def add(self, ref: BackupRef, manifest: Manifest) -> None:
        for key, content in needed_objects(ref, manifest).items():
            self._found.setdefault(key, {}).setdefault(content, ref)

    def why_not(self, ref: BackupRef, manifest: Manifest, target: Repository) -> str:
        """Why a backup with that manifest is not brought there; empty if nothing is against it."""
        if (found := self.otherwise(ref, manifest)) is None:
            return ""
        key, other = found
        return (
            f"its manifest says of {key} otherwise than that of {other} in {target.store.url}: nothing of it is sent; "
            "if it is the other one that is wrong, `volferry forget` it there"
        )

    def otherwise(self, ref: BackupRef, manifest: Manifest) -> tuple[str, BackupRef] | None:
        """An object that is something else by the manifest of another backup, which is named, too."""
        for key, content in needed_objects(ref, manifest).items():
            for said, by in self._found.get(key, {}).items():
                if said != content:
                    return key, by
        return None


def _in_the_way(target: Repository, found: _Found | None, manifest: Manifest) -> str:
    """Why a backup cannot be brought to where one of its name is; empty if it can."""
    if isinstance(found, Manifest):
        other = found != manifest
        return f"{target.store.url} has another backup of this name: nothing is overwritten" if other else ""
    if isinstance(found, NoSuchObject):  # forgotten meanwhile, or not to be had at the moment
        return f"{found}, and is listed there: nothing of it is sent, run it again"
    return "" if found is None or isinstance(found, DamagedObject) else str(found)


def _manifest_of(repository: Repository, ref: BackupRef) -> _Found:
    try:
        return repository.manifest(ref)
    except (RepositoryError, StoreError) as error:
        return error


def _kept(
    source: Repository,
    manifests: dict[BackupRef, Manifest],
    there: Collection[BackupRef],
    unsound: _Unsound,
    keep: Callable[[Volume], Keep],
    hold: Within,
) -> set[BackupRef]:
    """Of the source's, what the target's policy keeps once they are there: or what it lets go would come again."""
    if not manifests:
        return set()
    times = {ref.id: manifest.started_at.astimezone() for ref, manifest in manifests.items()}
    times |= {ref.id: ref.time.astimezone() for ref in there if ref.id not in times}
    newest = manifests[max(manifests, key=lambda ref: ref.id)]
    verdicts = judged(
        times,
        keep(volume_of(newest)),
        hollow={ref.id for ref in unsound.hollow},
        damaged={ref.id for ref in unsound.damaged},
    )
    held = find_hold(source, manifests, hold, hollow=unsound.hollow, damaged=unsound.damaged)
    kept = {verdict.id for verdict in (held.on(verdicts) if held else verdicts) if verdict.kept}
    return {ref for ref in manifests if ref.id in kept}


@dataclass(frozen=True, slots=True)
class _Unsound:
    """Backups that are whole neither in the source nor in the target, and those that are, but were found damaged where they are."""

    hollow: frozenset[BackupRef]
    damaged: frozenset[BackupRef]


def _unsound(
    manifests: Mapping[BackupRef, Manifest],
    there: Mapping[BackupRef, object],
    in_source: Condition,
    in_target: Condition,
) -> _Unsound:
    whole: set[BackupRef] = set()
    sound: set[BackupRef] = set()
    for found, condition in ((manifests, in_source), (there, in_target)):
        readable = {ref: manifest for ref, manifest in found.items() if isinstance(manifest, Manifest)}
        hollow, damaged = unsound_of(condition, readable)
        whole |= readable.keys() - set(hollow)
        sound |= readable.keys() - set(hollow) - set(damaged)
    return _Unsound(frozenset((manifests.keys() | there.keys()) - whole), frozenset(whole - sound))


def _to_be_relied_on(
    target: Repository, condition: Condition, needed: Collection[str]
) -> tuple[dict[str, int], Collection[str]]:
    """Stored bytes of what is there, by key, but for what no backup there needs and is old: a prune of another machine may
    be about to delete it. It is sent again, as is what `verify` found damaged there, or may be; and the keys of that.
    """
    oldest = target.store.now() - _RELIABLE_AGE
    suspects = condition.suspects
    return {
        key: info.size if (key in needed or info.modified >= oldest) and key not in suspects else -1
        for key, info in condition.objects.items()
    }, suspects


class _Sender:
    """Sends what backups need, several objects at once."""

    def __init__(
        self,
        source: Repository,
        target: Repository,
        condition: Condition,
        observer: Observer,
        needed: Collection[str],
    ) -> None:
        self._source = source
        self._target = target
        self._observer = observer
        self._condition = condition
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._sizes, self._suspects = _to_be_relied_on(target, condition, needed)
        self._needed = needed
        self.sent_bytes = 0
        self.mended = 0
        self.manifests: list[BackupRef] = []  # that were mended
        self._done_bytes = 0  # of the backup at hand

    def send(self, ref: BackupRef, manifest: Manifest, there: _Found | None) -> None:
        """`there` is what the target has of its name. Raises DamagedObject for what is damaged in the source, NoSuchObject for what is not there any longer."""
        missing = {
            key: content
            for key, content in needed_objects(ref, manifest).items()
            if self._sizes.get(key) != content.stored_bytes
        }
        self._observer.phase(
            f"copying {ref.id}", total_bytes=sum(each.stored_bytes for each in missing.values())
        )
        self._done_bytes = 0
        if missing:
            self._send_all(missing)
        replaces = isinstance(there, DamagedObject) or manifest_key(ref) in self._suspects
        if there is not None and not replaces:
            return
        self._target.require(ref, manifest)
        self._target.protect(ref, manifest)
        data = self._source.manifest_bytes(ref)
        self._target.writer(ref).put_manifest(manifest, data=data, replaces=replaces)
        if replaces:
            self._forget_marks(manifest_key(ref))
            self.sent_bytes += len(data)
            self.mended += 1
            self.manifests.append(ref)

    def _send_all(self, objects: Mapping[str, ObjectDigest]) -> None:
        self._stop = threading.Event()
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="copy") as pool:
            try:
                with held_back():  # the pool starts its threads
                    futures = [pool.submit(self._send, key, content) for key, content in objects.items()]
                for future in as_completed(futures):
                    future.result()
                    self._observer.advance(done_bytes=self._done_bytes, done_entries=0)
            except BaseException as error:
                self._stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                if isinstance(error, Interrupted) and self.sent_bytes:
                    self._observer.note("what was sent so far stays, and the same command goes on from there")
                raise

    def _send(self, key: str, expected: ObjectDigest) -> None:
        store = self._target.store
        try:
            # Of another size, which is damage, or not to be relied on.
            writer = store.create(key, replaces=key in self._sizes)
        except ObjectLocked as error:
            if key in self._condition.marks:  # a matter of this backup, and of no other
                raise DamagedObject(
                    key, f"verify found it so, and it cannot be mended yet: {error}"
                ) from error
            if expected.other_size(store.size(key)):
                raise
            with self._lock:  # nobody can delete it
                self._sizes[key] = expected.stored_bytes
            return
        try:
            found = digested(self._blocks(key), writer.write, algorithm=expected.digest)
            if wrong := found.difference(expected):
                raise DamagedObject(key, wrong)  # what is left of it over there is better than nothing
            try:
                writer.commit()
            except ObjectExists:
                if store.size(key) != expected.stored_bytes:
                    raise
        finally:
            writer.abort()
        self._forget_marks(key)
        with self._lock:
            self._sizes[key] = expected.stored_bytes
            self.sent_bytes += expected.stored_bytes
            self.mended += key in self._needed

    def _forget_marks(self, key: str) -> None:
        for mark in self._condition.marks_about(key):
            try:
                self._target.store.delete(mark)
            except StoreError:  # a doubt from now on, until the object is read
                break

    def _blocks(self, key: str) -> Iterator[bytes]:
        for block in self._source.blocks(key):
            if self._stop.is_set():
                raise StoreError(f"sending {key} was stopped")
            with self._lock:
                self._done_bytes += len(block)
            yield block
