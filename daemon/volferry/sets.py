"""Sets: backups of several volumes that were made together. Each manifest names all of its set, so that one that is not there is missed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from volferry.errors import AmbiguousBackup, NoSuchBackup
from volferry.model import BackupRef

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from volferry.archive.manifest import Manifest

_PROJECT_LABELS = ("com.docker.compose.project", "com.docker.stack.namespace")
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class BackupSet:
    """`backups` by volume, those that are missing too."""

    id: str
    host: str
    backups: Mapping[str, BackupRef]
    missing: tuple[BackupRef, ...] = ()


@dataclass(frozen=True, slots=True)
class Chosen:
    """The backups of a project that are to be restored: of sets, and others of volumes that are in none of those."""

    sets: tuple[BackupSet, ...]
    others: tuple[BackupRef, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def refs(self) -> list[BackupRef]:
        """By volume."""
        found = [ref for each in self.sets for ref in each.backups.values()]
        return sorted([*found, *self.others], key=lambda ref: ref.volume)


def set_of(ref: BackupRef, manifest: Manifest, there: Collection[BackupRef]) -> BackupSet | None:
    """The set of one backup, if it has one; `there` are all backups of its host."""
    if manifest.set is None:
        return None
    backups = {each.volume: BackupRef(ref.host, each.volume, each.id) for each in manifest.set.backups}
    missing = tuple(each for each in backups.values() if each not in there)
    return BackupSet(manifest.set.id, ref.host, backups, missing)


def projects_of(manifest: Manifest) -> set[str]:
    """Compose projects that the volume belonged to, or whose containers mounted it."""
    found = {manifest.volume.labels.get(label) for label in _PROJECT_LABELS}
    return {each for each in (*found, *(use.project for use in manifest.containers)) if each}


def choose(project: str, start: str | None, manifests: Mapping[BackupRef, Manifest]) -> Chosen:
    """Of one host's backups: the set whose id begins with `start`; without that, the newest set of each volume of the project, and the newest backup
    of a volume that is in none. Raises NoSuchBackup, also for a set that is not complete; AmbiguousBackup.
    """
    of_project = {ref: each for ref, each in manifests.items() if project in projects_of(each)}
    if not of_project:
        projects = sorted({name for each in manifests.values() for name in projects_of(each)})
        others = f": there are some of {', '.join(projects[:_MOST_NAMED])}" if projects else ""
        raise NoSuchBackup(f"there is no backup of a volume of compose project {project!r}{others}")
    sets = {
        found.id: found
        for ref, each in of_project.items()
        if (found := set_of(ref, each, manifests.keys())) is not None
    }
    newest_first = [sets[each] for each in sorted(sets, reverse=True)]
    if start is not None:
        return Chosen((_named(project, start, newest_first),))
    return _newest(of_project, newest_first)


def _named(project: str, start: str, newest_first: list[BackupSet]) -> BackupSet:
    found = [each for each in newest_first if each.id.startswith(start)]
    if not found:
        ids = ", ".join(each.id for each in newest_first[:_MOST_NAMED])
        there = f"its newest are {ids}" if ids else "it has none: restore its volumes one by one"
        raise NoSuchBackup(f"compose project {project!r} has no set {start!r}: {there}")
    if len(found) > 1:
        ids = ", ".join(each.id for each in found[:_MOST_NAMED])
        raise AmbiguousBackup(f"{start!r} begins {len(found)} sets of compose project {project!r}: {ids}")
    if found[0].missing:
        raise NoSuchBackup(_not_complete(found[0]))
    return found[0]


def _not_complete(found: BackupSet) -> str:
    there = [ref for ref in found.backups.values() if ref not in found.missing]
    return (
        f"set {found.id} is not complete: {', '.join(map(str, found.missing))} is not in the store; each of the others is whole by itself: "
        f"{', '.join(f'`volferry restore {ref}`' for ref in there)}"
    )


def _newest(of_project: Mapping[BackupRef, Manifest], newest_first: list[BackupSet]) -> Chosen:
    taken: list[BackupSet] = []
    notes = []
    covered: set[str] = set()
    for each in newest_first:
        if covered & each.backups.keys():
            continue
        if each.missing:
            notes.append(f"passed over: {_not_complete(each)}")
            continue
        taken.append(each)
        covered |= each.backups.keys()
    newest = {ref.volume: ref for ref in sorted(of_project, key=lambda ref: ref.id)}
    others = tuple(ref for volume, ref in sorted(newest.items()) if volume not in covered)
    notes += [f"{ref} belongs to no set that is restored: it is of another time" for ref in others if taken]
    backups = {volume: ref for each in taken for volume, ref in each.backups.items()}
    notes += [
        f"{newest[volume]} is newer than its set, and is not restored"
        for volume, ref in sorted(backups.items())
        if volume in newest and newest[volume].id > ref.id
    ]
    return Chosen(tuple(taken), others, tuple(notes))
