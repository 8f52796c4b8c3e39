"""What a backup could not read, and the last older ones that could (docs/decisions/0017-suspicious-backups.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from volferry.archive.manifest import Manifest
    from volferry.model import BackupRef

_OTHERS = "/"  # no path: what a manifest had no room to name


def unread_paths(manifest: Manifest) -> frozenset[str]:
    """Of entries that are not in it, or not whole, as its findings name them."""
    named = [finding.path for finding in manifest.findings if finding.kind == "unreadable"]
    count = manifest.counts.unreadable
    # Manifests of before that was counted are believed to lack some if they lack any finding.
    more = count > len(named) if count else bool(named) and manifest.findings_total > len(manifest.findings)
    return frozenset((*named, _OTHERS) if more else named)


def last_readers(
    manifests: Mapping[BackupRef, Manifest],
    refs: Sequence[BackupRef],
    *,
    accepted: Collection[str],
    hollow: Collection[BackupRef],
    damaged: Collection[BackupRef],
) -> Iterator[tuple[BackupRef, Sequence[BackupRef]]]:
    """Of `refs`, newest first: for each path that the newest sound one could not read, the last backup that could, if any; each with
    those since that could not.

    What a person has accepted is looked for no further back. `hollow` ones are given only for what no other has, and a damaged one as well as
    the last sound one: it may be whole.
    """
    start = next((ref for ref in refs if ref not in hollow and ref not in damaged), next(iter(refs), None))
    if start is None or start.id in accepted:
        return
    wanted = unread_paths(manifests[start])  # that no sound one was found for
    missing = wanted  # that none was found for
    since = [start]
    remnants = []
    for ref in refs[refs.index(start) + 1 :]:
        if not wanted:
            break
        paths = unread_paths(manifests[ref])
        readable = _readable(wanted, paths)
        if ref in hollow:
            remnants.append((ref, tuple(since), readable))
        elif ref in damaged:
            if missing & readable:
                yield ref, tuple(since)
            missing -= readable
        else:
            if readable:
                yield ref, tuple(since)
            wanted -= readable
            missing -= readable
            since.append(ref)
        if ref.id in accepted:
            wanted &= readable  # the others need not be kept
    for ref, those, readable in remnants:
        if missing & readable:
            yield ref, those
        missing -= readable


def _readable(wanted: AbstractSet[str], unread: AbstractSet[str]) -> frozenset[str]:
    """Of some paths, those that a backup could read which could not read others. Of what is below a directory that could not be read,
    nobody knows; nor of anything where not all have a name.
    """
    if _OTHERS in unread:
        return frozenset()
    return frozenset(path for path in wanted if unread.isdisjoint(_with_parents(path)))


def _with_parents(path: str) -> Iterator[str]:
    yield path
    while path:
        path = path.rpartition("/")[0]
        yield path
