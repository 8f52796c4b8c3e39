"""Sets: backups of several volumes that were made together. Each manifest names all of its set, so that one that is not there is missed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from volferry.errors import AmbiguousBackup, NoSuchBackup
from volferry.model import BackupRef, project_of_labels

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

    from volferry.archive.manifest import Manifest, SetPart

_MOST_NAMED = 5
TOGETHER = 'the label `volferry.group: project` on each volume, or `group = "project"` in the configuration, has them backed up together'


@dataclass(frozen=True, slots=True)
class BackupSet:
    """`backups` by volume, those that are missing too."""

    id: str
    host: str
    backups: Mapping[str, BackupRef]
    missing: tuple[BackupRef, ...] = ()


@dataclass(frozen=True, slots=True)
class Chosen:
    """The backups of a project that are to be restored, by volume, the sets that they are of, and what is to be said of that."""

    refs: tuple[BackupRef, ...]
    sets: tuple[BackupSet, ...] = ()
    notes: tuple[str, ...] = field(default=())


def set_of(ref: BackupRef, manifest: Manifest, there: Container[BackupRef]) -> BackupSet | None:
    """The set of one backup, if it has one; `there` has all backups of its host."""
    if manifest.set is None:
        return None
    backups = {each.volume: BackupRef(ref.host, each.volume, each.id) for each in manifest.set.backups}
    missing = tuple(each for each in backups.values() if each not in there)
    return BackupSet(manifest.set.id, ref.host, backups, missing)


def projects_of(manifest: Manifest) -> set[str]:
    """The compose project that the volume was made for; else, those whose containers wrote to it."""
    own = project_of_labels(manifest.volume.labels)
    if own:
        return {own}
    return {use.project for use in manifest.containers if use.project and use.read_write}


def choose(project: str, start: str | None, manifests: Mapping[BackupRef, Manifest]) -> Chosen:
    """Of one host's backups: those of the set whose id begins with `start`; without that, of the newest sets, and the newest backup of a volume that is in none. In any
    case, of volumes of the project alone, whatever else is in a set. Raises NoSuchBackup, also for a set that is not complete; AmbiguousBackup.
    """
    of_project = {ref: each for ref, each in manifests.items() if project in projects_of(each)}
    if not of_project:
        projects = sorted({name for each in manifests.values() for name in projects_of(each)})
        others = f": there are some of {', '.join(projects[:_MOST_NAMED])}" if projects else ""
        raise NoSuchBackup(f"there is no backup of a volume of compose project {project!r}{others}")
    newest_first = _sets_of(of_project, manifests)
    if start is not None:
        found = _named(project, start, newest_first)
        refs, notes = _of_the_project([found], of_project)
        return Chosen(tuple(sorted(refs.values(), key=str)), (found,), tuple(notes))
    return _newest(of_project, newest_first)


def _sets_of(
    of_project: Mapping[BackupRef, Manifest], manifests: Mapping[BackupRef, Manifest]
) -> list[BackupSet]:
    """The newest first. A backup counts as one of a set only if it says so itself: whoever can write a manifest could name any volume in it."""
    found: dict[SetPart, BackupSet] = {}
    for ref, manifest in of_project.items():
        part = manifest.set
        if part is None or part in found:
            continue
        named = (BackupRef(ref.host, each.volume, each.id) for each in part.backups)
        there = {each for each in named if each in manifests and manifests[each].set == part}
        in_set = set_of(ref, manifest, there)
        if in_set is not None:
            found[part] = in_set
    return sorted(found.values(), key=lambda each: each.id, reverse=True)


def _named(project: str, start: str, newest_first: list[BackupSet]) -> BackupSet:
    found = [each for each in newest_first if each.id.startswith(start)]
    if not found:
        ids = ", ".join(each.id for each in newest_first[:_MOST_NAMED])
        there = (
            f"its newest are {ids}"
            if ids
            else f"it has none; `volferry restore --project {project}` restores the newest backup of each of its volumes"
        )
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
        f"set {found.id} is not complete: {', '.join(map(str, found.missing[:_MOST_NAMED]))} is not in the store; each of the others is whole by itself: "
        f"{', '.join(f'`volferry restore {ref}`' for ref in there[:_MOST_NAMED])}"
    )


def _of_the_project(
    sets: Iterable[BackupSet], of_project: Mapping[BackupRef, Manifest]
) -> tuple[dict[str, BackupRef], list[str]]:
    """Backups of volumes of the project, and what is said of the others."""
    refs: dict[str, BackupRef] = {}
    notes = []
    for each in sets:
        for volume, ref in each.backups.items():
            if ref in of_project:
                refs[volume] = ref
            else:
                notes.append(
                    f"{ref} is in set {each.id}, too, and of no volume of this project: it is not restored"
                )
    return refs, notes


def _newest(of_project: Mapping[BackupRef, Manifest], newest_first: list[BackupSet]) -> Chosen:
    taken: list[BackupSet] = []
    passed_over = []
    covered: set[str] = set()
    for each in newest_first:
        if covered & each.backups.keys():
            continue
        if each.missing:
            passed_over.append(f"passed over: {_not_complete(each)}")
            continue
        taken.append(each)
        covered |= each.backups.keys()
    refs, notes = _of_the_project(taken, of_project)
    newest = {ref.volume: ref for ref in sorted(of_project, key=lambda ref: ref.id)}
    notes += [
        f"{newest[volume]} is newer than its set, and is not restored"
        for volume, ref in sorted(refs.items())
        if newest[volume].id > ref.id
    ]
    others = [ref for volume, ref in sorted(newest.items()) if volume not in refs]
    if len(taken) + len(others) > 1:
        parts = [*(f"set {each.id}" for each in taken), *map(str, others)]
        notes.append(f"these are not of one moment: {', '.join(parts)}: {TOGETHER} the next time")
    found = sorted([*refs.values(), *others], key=str)
    return Chosen(tuple(found), tuple(taken), (*passed_over, *notes))
