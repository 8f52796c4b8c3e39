"""Backups whose manifests are gone though nobody has forgotten them: their indexes are still there."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from volferry.damage import Trouble, next_step_of_manifest
from volferry.errors import NoSuchObject
from volferry.layout import encode_name, files_key, frames_key, manifest_key, ref_of_index

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from volferry.model import BackupRef
    from volferry.repository import Repository

NO_MANIFEST = "is missing, and no other manifest of the volume is there"
LOST_MANIFEST = "is missing, and its index is there"
_INDEX_OBJECTS = 2  # of one backup
_FORGETTING_SECONDS = 0.5  # from the first to the last object of a backup


def lost(
    repository: Repository,
    refs: Iterable[BackupRef],
    host: str | None = None,
    volume: str | None = None,
    *,
    known: Iterable[BackupRef] = (),
    unfinished: Callable[[BackupRef], bool] = lambda _: False,
) -> dict[BackupRef, Trouble]:
    """Backups that have an index and no manifest among `refs`, all that were listed of the host and volume: those that are `known` to have had one, and that nobody has
    forgotten, for the index goes with that; and of a volume without any manifest the newest, which is never forgotten. That may be a first backup that ends at
    this moment, or that died at the very end, too: which of these are `unfinished`, its own machine knows.
    """
    refs = set(refs)
    known = set(known) - refs
    there = {(ref.host, ref.volume) for ref in refs}
    below = "" if host is None else f"{encode_name(host)}/"
    below += f"{encode_name(volume)}/" if host is not None and volume is not None else ""
    newest: dict[tuple[str, str], BackupRef] = {}
    objects: dict[BackupRef, int] = {}
    for info in repository.store.list(f"indexes/{below}"):
        ref = ref_of_index(info.key)
        if ref is None or volume not in {None, ref.volume} or unfinished(ref):
            continue
        place = ref.host, ref.volume
        if ref in known:
            objects[ref] = objects.get(ref, 0) + 1
        if place not in there and (place not in newest or newest[place].id < ref.id):
            newest[place] = ref
    # Once more: it may have ended meanwhile, and a share may leave out a name for a moment.
    found = {
        ref: NO_MANIFEST
        for place, ref in newest.items()
        if not any(repository.refs(host=place[0], volume=place[1]))
    }
    missed = [
        ref
        for ref in sorted(known, key=lambda each: each.id)
        if objects.get(ref) == _INDEX_OBJECTS
        and ref not in found
        and not _is_there(repository, manifest_key(ref))
    ]
    if missed:  # another machine may forget it at this moment: the index goes next
        time.sleep(_FORGETTING_SECONDS)
    for ref in missed:
        if all(_is_there(repository, key) for key in (frames_key(ref), files_key(ref))):
            found[ref] = LOST_MANIFEST
    return {
        ref: Trouble({manifest_key(ref): why}, next_step=next_step_of_lost(ref, refs, why))
        for ref, why in found.items()
    }


def left_out(
    repository: Repository,
    later: Iterable[BackupRef],
    indexes: set[str],
    unfinished: Callable[[BackupRef], bool],
) -> str | None:
    """Returns why prune must not delete objects of `later` backups, which are newer than any listed manifest; `indexes` are keys of theirs.

    The newest backup is never forgotten, so they are of runs that died, or of backups that a list which ended too soon has left
    out. A manifest that the store has, listed or not, is proof of a backup; a backup with a whole index may have lost its manifest.
    """
    for ref in later:
        key = manifest_key(ref)
        if _is_there(repository, key):
            return f"{key} is there, and the store does not list it: nothing is deleted as long as its lists are not whole"
        if indexes >= {frames_key(ref), files_key(ref)} and not unfinished(ref):
            return (
                f"{key} is missing, and its index is there, which is newer than all manifests: put it back if it was lost; if a run died at "
                f"its very end, the next backup ends this, or `volferry forget {ref}`"
            )
    return None


def _is_there(repository: Repository, key: str) -> bool:
    try:
        repository.store.size(key)
    except NoSuchObject:
        return False
    return True


def next_step_of_lost(ref: BackupRef, refs: Iterable[BackupRef], why: str = NO_MANIFEST) -> str:
    """For the person who reads of it. A copy that was interrupted looks like that, too: it sends the manifest last."""
    step = next_step_of_manifest(ref, refs, ())
    if why == NO_MANIFEST:
        step = f"`volferry copy --store SOURCE --to STORE` completes a copy that was interrupted; else {step}"
    forget = f"`volferry forget {ref}`"
    return step if forget in step else f"{step}; {forget} if nobody needs it"
