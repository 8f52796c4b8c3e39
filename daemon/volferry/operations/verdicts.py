"""Says which backups are sound, and which ones a policy keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volferry.layout import needed_objects
from volferry.model import BackupRef, Volume, VolumeUse
from volferry.retention import Verdict, judge

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime

    from volferry import damage
    from volferry.archive.manifest import Manifest
    from volferry.retention import Keep


def judged(
    times: Mapping[str, datetime], policy: Keep, *, hollow: Collection[str], damaged: Collection[str]
) -> list[Verdict]:
    """Of backups by their ids, newest first. What a policy keeps is counted in sound backups. A hollow one goes when the policy lets
    it go, and takes no other's place. One that was found damaged takes no sound one's place, and goes no sooner than if it were sound:
    whoever said that it is damaged may be wrong.
    """
    found: dict[str, Verdict] = {}
    for without in ({*hollow, *damaged}, {*hollow}, set[str]()):
        for verdict in judge([each for each in times.items() if each[0] not in without], policy):
            if verdict.id not in found or not found[verdict.id].kept:
                found[verdict.id] = verdict
        if not without:
            break
    return sorted(found.values(), key=lambda verdict: verdict.id, reverse=True)


def unsound_of(
    condition: damage.Condition, manifests: Mapping[BackupRef, Manifest]
) -> tuple[list[BackupRef], list[BackupRef]]:
    """Those that are hollow, and those that need what `verify` found damaged and are not."""
    sizes = condition.sizes
    hollow = [ref for ref, manifest in manifests.items() if is_hollow(ref, manifest, sizes)]
    missing = frozenset(hollow)
    damaged = [
        ref
        for ref, manifest in manifests.items()
        if condition.marks and ref not in missing and condition.trouble(ref, manifest).damaged
    ]
    return hollow, damaged


def is_hollow(ref: BackupRef, manifest: Manifest, sizes: Mapping[str, int]) -> bool:
    """Whether an object that it needs is missing or of another size, or it names no pack, which no backup does: the end of the
    stream alone is one. One that has just ended may seem so.
    """
    return not manifest.packs or any(
        expected.other_size(sizes.get(key, -1)) for key, expected in needed_objects(ref, manifest).items()
    )


def newest_of(refs: Collection[BackupRef]) -> set[BackupRef]:
    """The newest of each volume: those that are never forgotten."""
    newest: dict[tuple[str, str], BackupRef] = {}
    for ref in refs:
        other = newest.get((ref.host, ref.volume))
        if other is None or ref.id > other.id:
            newest[ref.host, ref.volume] = ref
    return set(newest.values())


def volume_of(manifest: Manifest) -> Volume:
    """As it was when it was backed up: a policy is that of its labels then."""
    part = manifest.volume
    return Volume(
        name=part.name,
        driver=part.driver,
        options=part.options,
        labels=part.labels,
        scope=part.scope,
        created_at=part.created_at,
        uses=tuple(
            VolumeUse(
                container=each.name,
                container_id=each.id,
                image=each.image,
                state=each.state,
                destination=each.destination,
                read_write=each.read_write,
                project=each.project,
                labels=each.labels,
                image_known=not each.image_gone,
            )
            for each in manifest.containers
        ),
    )
