"""Lets go of the backups of one volume that a policy does not keep, and of the packs that no backup needs.

No lock is needed between machines (docs/design.md, "Deleting"): the newest backup stays, and a pack that no manifest refers
to is deleted only once it is older than the grace period. A backup that runs refers to packs of the newest backup, and to
young ones. Packs are listed before manifests: what is not referred to then was not when it was listed. No single LIST is
believed that a manifest is gone: a share may leave one out for a moment.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from volferry import damage
from volferry.archive.manifest import Manifest
from volferry.errors import NoSuchObject, ObjectLocked, RepositoryError
from volferry.layout import (
    encode_name,
    files_key,
    frames_key,
    manifest_key,
    manifests_prefix,
    pack_key,
    ref_of_manifest,
)
from volferry.lost_manifests import left_out, lost
from volferry.model import BackupRef, age_of, is_backup_id
from volferry.operations.acceptance import DEFAULT_HOLD, drop, find_hold, may_be_accepted
from volferry.operations.verdicts import judged, unsound_of, volume_of
from volferry.stores.base import KeepsVersions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from volferry.manifest_cache import ManifestCache
    from volferry.model import ObjectInfo, Volume
    from volferry.operations.acceptance import Hold
    from volferry.repository import Repository
    from volferry.retention import Keep, Verdict, Within
    from volferry.stores.base import Store


@dataclass(slots=True)
class Pruning:
    """What was done with one volume, or would be."""

    host: str
    volume: str
    verdicts: list[Verdict] = field(default_factory=list)  # newest first
    forgotten: list[BackupRef] = field(default_factory=list)
    packs: list[str] = field(default_factory=list)  # that were deleted
    freed_bytes: int = 0
    kept_version_bytes: int = 0  # of what was deleted, and stays in the bucket as older versions
    waiting_bytes: int = 0  # of packs that no backup needs and that are in the grace period
    locked: list[str] = field(default_factory=list)  # what may not be deleted yet, each with until when
    hold: Hold | None = None  # what stays though the policy may not keep it
    # Of those that stay: what misses objects, and what needs objects that verify found damaged. No other backup goes in their favour.
    hollow: list[BackupRef] = field(default_factory=list)
    damaged: list[BackupRef] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # because of which packs were left alone
    lost: BackupRef | None = None  # the newest that has an index, where no manifest is there at all

    def count(self, size: int, *, stays: bool) -> None:
        """Something that was deleted."""
        if stays:
            self.kept_version_bytes += size
        else:
            self.freed_bytes += size


def prune_volume(
    repository: Repository,
    host: str,
    volume: str,
    *,
    keep: Callable[[Volume], Keep],
    grace: Within,
    cache: ManifestCache | None,
    dry_run: bool,
    hold: Within = DEFAULT_HOLD,
    unfinished: Callable[[BackupRef], bool] = lambda _: False,
) -> Pruning:
    """Raises StoreError. The caller holds the volume's lock, unless it is a dry run."""
    marks = damage.marks_of(repository, host, volume)
    packs = repository.objects("packs", host, volume)
    indexes = repository.objects("indexes", host, volume)
    marked = any(map(damage.is_about_manifest, marks))
    first_listed = repository.objects("manifests", host, volume) if marked else []
    condition = damage.Condition.from_lists(
        {info.key: info for info in [*packs, *indexes, *first_listed]}, marks
    )

    def judge_all(known: ManifestCache | None) -> tuple[Pruning, dict[BackupRef, Manifest], set[str]]:
        result = Pruning(host, volume)
        manifests, seen = _manifests(repository, host, volume, known, result)
        if manifests:
            _judge(repository, result, condition, manifests, keep, hold)
        return result, manifests, seen

    result, manifests, seen = judge_all(cache)
    if cache is not None and not all(verdict.kept for verdict in result.verdicts):
        # What this machine has kept of a manifest does not say that the store still has it whole: nothing goes in favour of that.
        result, manifests, again = judge_all(None)
        seen |= again
        cache.update({}, [key for key in seen if key not in {manifest_key(ref) for ref in manifests}])
    listed = repository.objects("manifests", host, volume)
    seen |= {info.key for info in first_listed}
    seen |= {info.key for info in listed}
    sizes = {info.key: info.size for info in [*indexes, *listed]}
    # Oldest first: should this end half-way, what is left is what a shorter policy would have kept.
    for verdict in reversed(result.verdicts):
        ref = BackupRef(host, volume, verdict.id)
        if verdict.kept:
            continue
        try:
            stays = _would_stay(repository.store) if dry_run else _let_go(repository, ref, cache)
        except ObjectLocked as error:
            result.locked.append(str(error))
            continue
        result.forgotten.append(ref)
        if may_be_accepted(manifests[ref]) and not dry_run:
            drop(repository, ref)
        size = sum(sizes.get(key, 0) for key in (manifest_key(ref), frames_key(ref), files_key(ref)))
        result.count(size, stays=stays)
    _look_for_lost(repository, result, cache, seen, unfinished=unfinished, dry_run=dry_run)
    gone = set(result.forgotten)
    result.hollow = [ref for ref in result.hollow if ref not in gone]
    result.damaged = [ref for ref in result.damaged if ref not in gone]
    _delete_unneeded(
        repository,
        result,
        packs,
        indexes,
        manifests,
        seen,
        grace=grace,
        dry_run=dry_run,
        unfinished=unfinished,
    )
    if marks and not dry_run:
        _forget_marks(repository, result, marks, [*packs, *indexes], seen)
    return result


def _let_go(repository: Repository, ref: BackupRef, cache: ManifestCache | None) -> bool:
    """Returns whether older versions stay. First by this machine: should it end before the index is gone, too, nobody shall miss the manifest."""
    if cache is not None:
        cache.update({}, [manifest_key(ref)])
    return repository.forget(ref)


def _look_for_lost(
    repository: Repository,
    result: Pruning,
    cache: ManifestCache | None,
    seen: set[str],
    *,
    unfinished: Callable[[BackupRef], bool],
    dry_run: bool,
) -> None:
    """A manifest that this machine has written, or read before, and that is gone though its index is there, is a problem: nobody has forgotten it. The cache drops the others
    that are gone.
    """
    known = cache.refs(manifests_prefix(result.host, result.volume)) if cache is not None else set()
    listed = {ref for key in seen if (ref := ref_of_manifest(key)) is not None}
    gone = known - listed
    found: dict[BackupRef, damage.Trouble] = {}
    if gone or not seen:
        found = lost(repository, listed, result.host, result.volume, known=gone, unfinished=unfinished)
    if not seen:
        result.lost = next(iter(found), None)
    result.problems += [
        f"{trouble.text}: {trouble.next_step}" for ref, trouble in found.items() if ref in gone
    ]
    if cache is not None and not dry_run:
        forgotten = [manifest_key(ref) for ref in result.forgotten]
        cache.update({}, [*forgotten, *(manifest_key(ref) for ref in gone - found.keys())])


def _judge(
    repository: Repository,
    result: Pruning,
    condition: damage.Condition,
    manifests: dict[BackupRef, Manifest],
    keep: Callable[[Volume], Keep],
    hold: Within,
) -> None:
    """Fills in what the policy, damage and a hold say of each backup."""
    newest = manifests[max(manifests, key=lambda ref: ref.id)]
    result.hollow, result.damaged = unsound_of(condition, manifests)
    times = {ref.id: manifest.started_at.astimezone() for ref, manifest in manifests.items()}
    result.verdicts = judged(
        times,
        keep(volume_of(newest)),
        hollow={ref.id for ref in result.hollow},
        damaged={ref.id for ref in result.damaged},
    )
    # A backup that another machine has made meanwhile is newer than all of these, and only holds more.
    result.hold = find_hold(repository, manifests, hold, hollow=result.hollow, damaged=result.damaged)
    if result.hold is not None:
        result.verdicts = result.hold.on(result.verdicts)


def _forget_marks(
    repository: Repository,
    result: Pruning,
    marks: Iterable[str],
    objects: Iterable[ObjectInfo],
    manifests: set[str],
) -> None:
    """Of what is gone, or is another object by now; of a manifest, only if it is not one of `manifests`, all that were listed at any time."""
    gone = {
        pack_key(ref, name) for ref in (BackupRef(result.host, result.volume, ""),) for name in result.packs
    }
    gone |= {key for ref in result.forgotten for key in (frames_key(ref), files_key(ref))}
    there = {info.key: info for info in objects if info.key not in gone}
    kept = manifests - {manifest_key(ref) for ref in result.forgotten}
    void = damage.Condition.from_lists(there, marks).void
    result.locked += damage.forget(
        repository, [each for each in void if (damage.marked_object(each) or ("",))[0] not in kept]
    )


def _manifests(
    repository: Repository, host: str, volume: str, cache: ManifestCache | None, result: Pruning
) -> tuple[dict[BackupRef, Manifest], set[str]]:
    """All that can be read, and the keys of all that were listed; what cannot be read is a problem of `result`."""
    found: dict[BackupRef, Manifest] = {}
    seen: set[str] = set()
    for ref, manifest in repository.manifests(host=host, volume=volume, cache=cache):
        seen.add(manifest_key(ref))
        if isinstance(manifest, Manifest):
            found[ref] = manifest
        elif isinstance(manifest, NoSuchObject):
            continue  # another machine has just forgotten it
        elif isinstance(manifest, RepositoryError):
            result.problems.append(str(manifest))
        else:
            raise manifest
    return found, seen


def _delete_unneeded(
    repository: Repository,
    result: Pruning,
    packs: Iterable[ObjectInfo],
    indexes: Iterable[ObjectInfo],
    known: dict[BackupRef, Manifest],
    seen: set[str],
    *,
    grace: Within,
    dry_run: bool,
    unfinished: Callable[[BackupRef], bool],
) -> None:
    """Packs and indexes of no backup that are older than the grace period. `seen` are the keys of all manifests that were listed so far."""
    needed = _needed(repository, result, known, seen)
    if needed is None:
        return
    needed_packs, needed_indexes = needed
    now = repository.store.now()
    oldest = grace.before(now)
    spared = needed_indexes.union(*({frames_key(ref), files_key(ref)} for ref in result.forgotten))
    old_indexes = [
        info
        for info in indexes
        if info.key not in spared and _is_old(info, info.key.rpartition("/")[2], oldest, now)
    ]
    old_packs: dict[str, ObjectInfo] = {}
    for info in _the_same(repository, result, packs):
        name = info.key.rpartition("/")[2].removesuffix(".tar.zst")
        if name in needed_packs:
            continue
        if _is_old(info, name, oldest, now):
            old_packs[name] = info
        else:
            result.waiting_bytes += info.size
    if (old_packs or old_indexes) and not seen and _lost_its_manifests(repository, result, indexes):
        return
    doomed = [*old_packs, *(info.key.rpartition("/")[2] for info in old_indexes)]
    later = {backup_id for name in doomed if (backup_id := name.partition(".")[0]) > _newest(seen)}
    refs = [BackupRef(result.host, result.volume, backup_id) for backup_id in sorted(later)]
    if problem := left_out(repository, refs, {info.key for info in old_indexes}, unfinished):
        result.problems.append(problem)
        return
    for name, info in old_packs.items():
        if _delete(repository, info, result, dry_run):
            result.packs.append(name)
    for info in old_indexes:
        _delete(repository, info, result, dry_run)


def _lost_its_manifests(repository: Repository, result: Pruning, indexes: Iterable[ObjectInfo]) -> bool:
    """Whether there were backups, of a volume of which no manifest was listed; then that is in `result.problems`.

    The newest backup is never forgotten, so none is there only before the first one ends, or where something else took them
    away: a directory that was moved, a bucket's rule. An index tells the two apart, for it is stored when all packs are. A
    first run that dies between its index and its manifest seems to be of the second kind, which is rare, and ends with the
    next backup; what dead first runs leave are packs alone. Young indexes count, too: the newest backup needs old packs.
    """
    kept = max(
        (info.key for info in [*indexes, *repository.objects("indexes", result.host, result.volume)]),
        default="",
    )
    if kept:
        place = f"{encode_name(result.host)}/{encode_name(result.volume)}"
        result.problems.append(
            f"no manifest of it is there, but {kept} is: put manifests/{place} back; if all of its backups must go, delete "
            f"indexes/{place} and packs/{place} by hand"
        )
    return bool(kept)


def _newest(manifests: Iterable[str]) -> str:
    """The id of the newest of the backups whose manifests have been listed; empty if there is none."""
    refs = (ref_of_manifest(key) for key in manifests)
    return max((ref.id for ref in refs if ref is not None and is_backup_id(ref.id)), default="")


def _needed(
    repository: Repository, result: Pruning, known: dict[BackupRef, Manifest], seen: set[str]
) -> tuple[set[str], set[str]] | None:
    """The names of packs and the keys of indexes that backups refer to; None where that cannot be known, and why is in `result.problems`.
    `seen` gets the keys of the manifests that are listed here.
    """
    needed_packs: set[str] = set()
    needed_indexes: set[str] = set()
    gone = {manifest_key(ref) for ref in result.forgotten}
    # Once more, and after the packs: a backup may have ended meanwhile.
    listed = {info.key for info in repository.objects("manifests", result.host, result.volume)}
    # Another machine has just forgotten it, or this LIST left it out; what it needs stays until next time.
    gone_meanwhile = not seen - gone <= listed
    seen |= listed
    for key in sorted(listed - gone):
        ref = ref_of_manifest(key)
        if ref is None:
            result.problems.append(f"{key} is not a manifest that this volferry knows")
            continue
        needed_indexes |= {frames_key(ref), files_key(ref)}
        try:
            manifest = known[ref] if ref in known else repository.manifest(ref)
        except NoSuchObject:
            gone_meanwhile = True
            continue
        except RepositoryError as error:
            if str(error) not in result.problems:
                result.problems.append(str(error))
            continue
        needed_packs |= {pack.name for pack in manifest.packs}
    return None if result.problems or gone_meanwhile else (needed_packs, needed_indexes)


def _the_same(repository: Repository, result: Pruning, packs: Iterable[ObjectInfo]) -> list[ObjectInfo]:
    """Without those that a copy of another machine has sent again meanwhile."""
    now = {info.key: info.modified for info in repository.objects("packs", result.host, result.volume)}
    return [info for info in packs if now.get(info.key, info.modified) == info.modified]


def _is_old(info: ObjectInfo, name: str, oldest: datetime, now: datetime) -> bool:
    """By the younger of its name and its own time: a copy in a replica has an old name."""
    backup_id = name.partition(".")[0]
    return is_backup_id(backup_id) and age_of(backup_id, info.modified, now) > now - oldest


def _delete(repository: Repository, info: ObjectInfo, result: Pruning, dry_run: bool) -> bool:  # noqa: FBT001
    try:
        stays = _would_stay(repository.store) if dry_run else bool(repository.store.delete(info.key))
    except ObjectLocked as error:
        result.locked.append(str(error))
        return False
    result.count(info.size, stays=stays)
    return True


def _would_stay(store: Store) -> bool:
    """Whether what is deleted takes up room afterwards."""
    return isinstance(store, KeepsVersions) and store.keeps_versions()
