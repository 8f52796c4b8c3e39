"""Which objects of a store cannot be relied upon: those that are missing, and those that `verify` found damaged.

What was found is in the store, so that every machine knows: `damaged/<host>/<volume>/<object>.<seconds>.json`, with the object's
name below `packs`, `indexes` or `manifests`, and the time at which that one was written (docs/format.md, "Damaged objects"). A name alone is believed by
nobody: a mark is sealed, and says of which object it is. Nor is it lost by a time alone, which a move of the store changes: a mark that does not
fit is a doubt, until the object was read.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from volferry.archive.manifest import FORMAT_VERSION
from volferry.archive.sealed import seal, unseal
from volferry.errors import DamagedObject, NoSuchObject, ObjectExists, ObjectLocked, StoreError
from volferry.layout import encode_name, manifest_key, needed_objects
from volferry.stores.base import get, put

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from volferry.archive.manifest import Manifest
    from volferry.model import BackupRef, ObjectInfo
    from volferry.repository import Repository
    from volferry.stores.base import Store

_MARK = re.compile(r"damaged/([^/]+/[^/]+)/([^/]+)\.(\d+)\.json")
_PACK = ".tar.zst"
_MANIFEST = ".json"
_MOST_BYTES = 64 << 10  # of a mark
_FETCHES_AT_ONCE = 16


def mark_key(info: ObjectInfo) -> str:
    """Of the mark that says that an object of a backup, as it is now, is damaged."""
    _, host, volume, name = info.key.split("/")
    return f"damaged/{host}/{volume}/{name}.{int(info.modified.timestamp())}.json"


def marked_object(mark: str) -> tuple[str, int] | None:
    """The inverse: the object's key, and when it was written; None for what is no mark."""
    match = _MARK.fullmatch(mark)
    if match is None:
        return None
    kind = "packs" if match[2].endswith(_PACK) else "manifests" if match[2].endswith(_MANIFEST) else "indexes"
    return f"{kind}/{match[1]}/{match[2]}", int(match[3])


def is_about_manifest(mark: str) -> bool:
    """Of the key of a mark, or of what may be none."""
    found = marked_object(mark)
    return found is not None and found[0].startswith("manifests/")


def says_damaged(data: bytes, info: ObjectInfo) -> bool:
    """Whether a mark with this content is one, and is about that object."""
    try:
        document = unseal(data)
    except ValueError:
        return False
    return document.get("key") == info.key and document.get("stored_bytes") == info.size


@dataclass(slots=True)
class Trouble:
    """What a backup needs and cannot have: keys, in order."""

    missing: dict[str, str] = field(
        default_factory=dict
    )  # and those of another size; what is wrong with each
    damaged: list[str] = field(default_factory=list)  # there, and found damaged
    next_step: str = ""  # for the person who reads of it

    def __bool__(self) -> bool:
        return bool(self.missing or self.damaged)

    def is_about(self, key: str) -> bool:
        return key in self.missing or key in self.damaged

    @property
    def text(self) -> str:
        """The first one by name, with what is wrong with it, and how many more there are."""
        said = [f"{key} {wrong}" for key, wrong in self.missing.items()]
        said += [f"{key} is damaged: verify found it so" for key in self.damaged]
        return f"{said[0]} (and {len(said) - 1} more)" if len(said) > 1 else said[0]

    @property
    def summary(self) -> str:
        """`2 missing, 1 damaged`."""
        counts = (("missing", len(self.missing)), ("damaged", len(self.damaged)))
        return ", ".join(f"{count} {what}" for what, count in counts if count)


@dataclass(slots=True)
class Condition:
    """Of the objects of a store, by what a LIST of it says."""

    objects: dict[str, ObjectInfo]
    marks: dict[str, str]  # the mark of each object that was found damaged, as it is now
    # Marks, of each object that may be damaged: they were made before it was written anew, or moved, or cannot be believed.
    doubts: dict[str, list[str]]
    void: list[str]  # marks of what is not there any longer

    @classmethod
    def of(
        cls,
        repository: Repository,
        host: str | None = None,
        volume: str | None = None,
        *,
        unmarked_indexes: bool = True,
        unmarked_manifests: bool = False,
    ) -> Condition:
        """Of all volumes of a host, or of all hosts; marks are read. Without `unmarked_indexes`, indexes are not listed where nothing
        is marked; manifests only with `unmarked_manifests`, or where one of them is. Raises StoreError.
        """
        below = "" if host is None else f"{encode_name(host)}/"
        below += f"{encode_name(volume)}/" if host is not None and volume is not None else ""
        # Marks first: one that is made meanwhile must not be taken for one of nothing.
        marks = {info.key: info for info in repository.store.list(f"damaged/{below}")}
        kinds = ["packs"]
        if marks or unmarked_indexes:
            kinds.append("indexes")
        if unmarked_manifests or any(map(is_about_manifest, marks)):
            kinds.append("manifests")
        objects = {info.key: info for kind in kinds for info in repository.store.list(f"{kind}/{below}")}
        condition = cls.from_lists(objects, marks)
        condition.check(repository.store, marks)
        return condition

    @classmethod
    def from_lists(cls, objects: Mapping[str, ObjectInfo], marks: Iterable[str]) -> Condition:
        """By the names of marks, which are believed."""
        condition = cls(dict(objects), {}, {}, [])
        for mark in marks:
            found = marked_object(mark)
            if found is None:
                continue
            key, seconds = found
            there = objects.get(key)
            if there is not None and int(there.modified.timestamp()) == seconds:
                condition.marks[key] = mark
            elif there is not None:
                condition.doubts.setdefault(key, []).append(mark)
            else:
                condition.void.append(mark)
        return condition

    def check(self, store: Store, infos: Mapping[str, ObjectInfo]) -> None:
        """Marks that do not say what their names say are doubts."""
        if not self.marks:
            return
        found = list(self.marks.items())
        with ThreadPoolExecutor(_FETCHES_AT_ONCE, thread_name_prefix="marks") as pool:
            good = list(pool.map(lambda each: _is_about(store, infos[each[1]], self.objects[each[0]]), found))
        for (key, mark), is_good in zip(found, good, strict=True):
            if not is_good:
                del self.marks[key]
                self.doubts.setdefault(key, []).append(mark)

    @property
    def suspects(self) -> set[str]:
        """Keys of what is damaged, or may be: nothing is built upon it."""
        return self.marks.keys() | self.doubts.keys()

    def marks_about(self, key: str) -> list[str]:
        """All of one object."""
        return [*([self.marks[key]] if self.marks.get(key) else []), *self.doubts.get(key, ())]

    @property
    def sizes(self) -> dict[str, int]:
        """Stored bytes of all that is there, by key."""
        return {key: info.size for key, info in self.objects.items()}

    @property
    def sound_packs(self) -> dict[str, int]:
        """Name and stored bytes of the packs that may be built upon."""
        return {
            key.rpartition("/")[2].removesuffix(_PACK): info.size
            for key, info in self.objects.items()
            if key.startswith("packs/") and key not in self.marks and key not in self.doubts
        }

    def trouble(self, ref: BackupRef, manifest: Manifest) -> Trouble:
        """Of one backup, whose manifest may be read from a cache though the store's is damaged."""
        found = Trouble()
        if (own := manifest_key(ref)) in self.marks:
            found.damaged.append(own)
        for key, expected in needed_objects(ref, manifest).items():
            info = self.objects.get(key)
            if info is None:
                found.missing[key] = "is missing"
            elif wrong := expected.other_size(info.size):
                found.missing[key] = f"is damaged: {wrong}"
            elif key in self.marks:
                found.damaged.append(key)
        return found


def _is_about(store: Store, mark: ObjectInfo, info: ObjectInfo) -> bool:
    """One that cannot be read at the moment is believed: that costs time, and never data."""
    if mark.size > _MOST_BYTES:
        return False
    try:
        return says_damaged(get(store, mark.key, limit=_MOST_BYTES), info)
    except NoSuchObject:  # the object was read meanwhile, and is good
        return False
    except (StoreError, DamagedObject):
        return True


def marks_of(repository: Repository, host: str, volume: str) -> list[str]:
    """Keys of all marks of a volume."""
    return [info.key for info in repository.objects("damaged", host, volume)]


def troubled(
    repository: Repository, condition: Condition, backups: Iterable[tuple[BackupRef, Manifest]]
) -> dict[BackupRef, Trouble]:
    """Of some backups, those that need what they cannot have; not those that were forgotten since they were listed. For a next step
    that is right, all backups of their volumes are given.
    """
    found: dict[BackupRef, Trouble] = {}
    whole: list[BackupRef] = []
    for ref, manifest in backups:
        trouble = condition.trouble(ref, manifest)
        if not trouble:
            whole.append(ref)
            continue
        try:
            repository.store.size(manifest_key(ref))
        except NoSuchObject:
            continue
        found[ref] = trouble
    for ref, trouble in found.items():
        trouble.next_step = next_step(ref, whole)
    return found


def next_step(ref: BackupRef, whole: Iterable[BackupRef]) -> str:
    """For the person who reads that a backup is not whole. No later backup mends it, but the next one stores anew what the volume still
    has: where there is such a one among the `whole`, nothing needs to be done.
    """
    others = [each.id for each in whole if (each.host, each.volume) == (ref.host, ref.volume)]
    newest = max(others, default="")
    step = (
        f"{backup_command(ref)} makes a whole one of what the volume still has; "
        "`volferry copy --store COPY --to STORE` mends it from a copy of the store"
    )
    if newest > ref.id:
        return f"{newest} is newer, and whole"
    return f"{step}; {newest} is older, and whole" if newest else step


def next_step_of_manifest(ref: BackupRef, others: Iterable[BackupRef], whole: Iterable[BackupRef]) -> str:
    """The same, where its manifest is damaged: nothing is known of the backup. `others` are those of its volume, or of more, of which
    some are `whole`.
    """
    back = "put it back from a copy of the store (`volferry copy --store COPY --to STORE`)"
    place = (ref.host, ref.volume)
    if any(each.id > ref.id for each in others if (each.host, each.volume) == place):
        return f"{back}, or `volferry forget {ref}`"
    step = f"{back}, or {backup_command(ref)} makes another"
    older = max(
        (each.id for each in whole if (each.host, each.volume) == place and each.id < ref.id), default=""
    )
    return (
        f"{step}; `volferry restore {ref.host}/{ref.volume}@{older}` restores one that is whole"
        if older
        else step
    )


def next_step_of_unmarked(ref: BackupRef, key: str) -> str:
    """The same, where a pack or an object of the index has just been found damaged, which nobody else knows yet."""
    then = (
        "the next backup reads anew what was in it"
        if key.endswith(_PACK)
        else "the next backup is whole again"
    )
    return f"`volferry verify --read {ref}` marks it, and {then}"


def backup_command(ref: BackupRef) -> str:
    """As it is typed on the machine that has the volume."""
    named = "--container NAME --binds" if ref.volume.startswith("bind:") else ref.volume
    return f"`volferry backup {named}` on {ref.host}"


def mark(repository: Repository, info: ObjectInfo, reason: str, *, by: str, now: datetime) -> None:
    """Remembers that an object is damaged. Raises StoreError where the store cannot be written."""
    document = {
        "format": FORMAT_VERSION,
        "key": info.key,
        "stored_bytes": info.size,
        "modified": info.modified.isoformat(),
        "reason": reason,
        "found_by": by,
        "found_at": now.isoformat(),
    }
    try:
        put(repository.store, mark_key(info), seal(document))
    except ObjectExists:  # another machine has found it
        return


def remember(
    repository: Repository,
    condition: Condition,
    damaged: Mapping[str, str],
    read: Iterable[str],
    *,
    by: str,
    now: datetime,
) -> str:
    """Marks what was found damaged, and takes away the marks of what was read since, and is good. Returns why that could
    not be done, empty if it could.
    """
    problem = ""
    for key, reason in damaged.items():
        info = condition.objects.get(key)
        if info is None or key in condition.marks:
            continue
        try:
            if mark_key(info) in condition.doubts.get(key, ()):  # what is in its place says nothing
                repository.store.delete(mark_key(info))
            mark(repository, info, reason, by=by, now=now)
            condition.marks[key] = mark_key(info)
            for doubt in condition.doubts.pop(key, ()):
                if doubt != mark_key(info):
                    repository.store.delete(doubt)
        except StoreError as error:
            problem = problem or f"what is damaged cannot be remembered in the store: {error}"
    for key in set(read) & condition.suspects - damaged.keys():
        try:
            for each in condition.marks_about(key):
                repository.store.delete(each)
            condition.marks.pop(key, None)
            condition.doubts.pop(key, None)
        except StoreError as error:
            problem = problem or f"the mark of what is not damaged any longer cannot be removed: {error}"
    return problem


def forget(repository: Repository, marks: Iterable[str]) -> list[str]:
    """Deletes marks that are about nothing any longer. Returns what may not be deleted yet. Raises StoreError."""
    locked = []
    for key in marks:
        try:
            repository.store.delete(key)
        except ObjectLocked as error:
            locked.append(str(error))
    return locked


def found_damaged(repository: Repository, ref: BackupRef, manifest: Manifest) -> list[str]:
    """Keys of what a backup needs and `verify` found damaged. Whoever can write the store can make marks, so they are a reason to look
    first, and none to give a backup up.
    """
    if not marks_of(repository, ref.host, ref.volume):
        return []
    return Condition.of(repository, ref.host, ref.volume).trouble(ref, manifest).damaged
