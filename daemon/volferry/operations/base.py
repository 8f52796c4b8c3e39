"""What a backup may reuse: the newest backup of the volume, and what a run that died had stored."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple, Protocol

from volferry.archive.excludes import Excludes
from volferry.archive.index import decompress, file_blocks, files_of, frames_of, parse_groups
from volferry.damage import Condition
from volferry.errors import DamagedObject, RepositoryError, StoreError
from volferry.index_cache import IndexFiles
from volferry.layout import files_key, frames_key
from volferry.model import MOST_AHEAD, age_of, is_pack_name

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping, Sequence
    from pathlib import Path

    from volferry.archive.index import FrameLocation
    from volferry.archive.manifest import Manifest
    from volferry.checkpoint import Checkpoint
    from volferry.index_cache import IndexCache
    from volferry.model import BackupRef, PackInfo
    from volferry.observer import Observer
    from volferry.repository import Repository

# Packs of which the newest backup needs less than half are left behind, at most this much of them in one run.
_COMPACTION_BYTES = 256 << 20
# Of a pack that no manifest refers to, by the clock and the question of `prune`, which may delete it after a week: well below that.
_RELIABLE_AGE = timedelta(days=3)


class Source(Protocol):
    """An earlier index: its groups and frames, in order, each to be read again at will."""

    def groups(self) -> Iterator[tuple[int, list[bytes]]]: ...

    def frames(self) -> Iterator[FrameLocation]: ...


@dataclass(frozen=True, slots=True)
class IndexSource:
    """Implements `Source`: the index of a backup, whose digests were checked."""

    files: IndexFiles
    manifest: Manifest

    def groups(self) -> Iterator[tuple[int, list[bytes]]]:
        yield from parse_groups(decompress(file_blocks(self.files.files)))

    def frames(self) -> Iterator[FrameLocation]:
        yield from frames_of(self.manifest, file_blocks(self.files.frames))

    def check(self) -> None:
        """Before it is built upon: that it keeps the rules of an index, and that each group has frames. Raises ValueError."""
        framed = -1
        frames = self.frames()
        for number, _ in files_of(self.manifest, file_blocks(self.files.files), parents=True):
            while framed < number:
                framed = next((frame.group for frame in frames), number + 1)
            if framed != number:
                raise ValueError(f"it has no frame of group {number}")


class KnownFrame(NamedTuple):
    """Where a frame is that was stored before."""

    pack: str
    offset: int
    stored_bytes: int


@dataclass(slots=True)
class Base:
    """Sources, and what of them may be used: all of it is known to be in the store."""

    newest: str | None = None  # id of the newest backup, whether it can be built upon or not
    id: str | None = None  # the same, if it can
    manifest: Manifest | None = None  # of the newest backup
    sources: list[Source] = field(default_factory=list)
    unusable_groups: list[set[int]] = field(default_factory=list)  # of each source
    packs: dict[str, PackInfo] = field(default_factory=dict)
    known: dict[bytes, KnownFrame] = field(default_factory=dict)  # by BLAKE3 digest

    def add(self, source: Source, usable_packs: Mapping[str, PackInfo], *, reuse_groups: bool) -> None:
        """Raises ValueError if the source is damaged; then nothing of it is used.

        Without `reuse_groups`, as after a change of what is excluded, only its frames are known: a hard link of a
        group may then be one to an entry that is left out now.
        """
        unusable: set[int] = set()
        known: dict[bytes, KnownFrame] = {}
        names: dict[str, str] = {}
        for frame in source.frames():
            if frame.pack not in usable_packs:
                unusable.add(frame.group)
                continue
            if not reuse_groups:
                unusable.add(frame.group)
            name = names.setdefault(frame.pack, frame.pack)
            known[bytes.fromhex(frame.digest)] = KnownFrame(name, frame.offset, frame.stored_bytes)
        self.sources.append(source)
        self.unusable_groups.append(unusable)
        self.packs.update((name, usable_packs[name]) for name in names)
        self.known.update(known)


def find_base(
    repository: Repository,
    host: str,
    volume: str,
    *,
    cache: IndexCache,
    checkpoints: Sequence[Checkpoint],
    excludes: Excludes,
    spool: Path,
    observer: Observer,
    own: Container[str] = (),
) -> Base:
    """The base of the next backup; `own` are the ids of earlier passes of the same run. Notes whatever cannot be used, and does without it: then more is read, no less is
    backed up. Raises StoreError only if the store cannot even be listed.
    """
    base = Base()
    condition = Condition.of(repository, host, volume, unmarked_indexes=False)
    there = condition.sound_packs
    newest: dict[str, PackInfo] = {}
    ref = _newest(repository, host, volume, observer)
    if ref is not None:
        base.newest = ref.id
        try:
            manifest = base.manifest = repository.manifest(ref)
            _check_index(ref, condition)
            source = _find_index(repository, ref, manifest, cache, spool)
            newest = _usable(manifest, there, observer)
            before = Excludes(manifest.excluded.patterns, manifest.excluded.caches)
            base.add(source, newest, reuse_groups=before == excludes)
            base.id = ref.id
        except (RepositoryError, StoreError, ValueError) as error:
            observer.note(f"the newest backup cannot be built upon, so all is read again: {error}")
            newest = {}
    # Of packs that only dead runs knew, those that are whole; of the others, only what the newest backup keeps.
    first_id = base.newest or ""
    goes_on = False
    young = _young_packs(condition, repository.store.now()) if checkpoints else frozenset()
    for checkpoint in checkpoints:
        usable = {
            name: pack
            for name, pack in checkpoint.packs.items()
            # One run that died after another must not carry a pack past the time when prune may delete it.
            if there.get(name) == pack.stored_bytes
            and (name in newest or (name > first_id and name in young))
        }
        if not usable:
            continue
        try:
            base.add(checkpoint, usable, reuse_groups=checkpoint.excludes == excludes)
            if checkpoint.directory.name not in own and not goes_on:
                goes_on = True
                observer.note("going on from where an interrupted run ended")
        except (ValueError, OSError) as error:
            observer.note(f"what an interrupted run has left cannot be used: {error}")
    return base


def _newest(repository: Repository, host: str, volume: str, observer: Observer) -> BackupRef | None:
    """Not one from the future with a damaged manifest: that may be any object, and the ids of all later backups would follow it."""
    believed = datetime.now(UTC) + MOST_AHEAD
    for ref in reversed(list(repository.refs(host=host, volume=volume))):
        if ref.time <= believed:
            return ref
        try:
            repository.manifest(ref)
        except DamagedObject as error:
            observer.note(f"a backup from the future is passed over: {error}")
        except (RepositoryError, StoreError):  # said where it is built upon
            return ref
        else:
            return ref
    return None


def _young_packs(condition: Condition, now: datetime) -> frozenset[str]:
    """Names of those that no `prune` deletes while a backup that relies on them is made, whatever refers to them."""
    return frozenset(
        name
        for key, info in condition.objects.items()
        if key.startswith("packs/")
        and is_pack_name(name := key.rpartition("/")[2].removesuffix(".tar.zst"))
        and age_of(name.partition(".")[0], info.modified, now) <= _RELIABLE_AGE
    )


def _usable(manifest: Manifest, there: Mapping[str, int], observer: Observer) -> dict[str, PackInfo]:
    """Packs of the newest backup that are in the store and worth being kept."""
    packs = [pack.info for pack in manifest.packs]
    missing = [pack.name for pack in packs if there.get(pack.name) != pack.stored_bytes]
    if missing:
        which = "1 pack" if len(missing) == 1 else f"{len(missing)} packs"
        them = f"{missing[0]}{' …' if len(missing) > 1 else ''}"
        observer.note(
            f"{which} of the newest backup {'is' if len(missing) == 1 else 'are'} damaged or missing ({them}): "
            "read again"
        )
    left_behind = set(missing)
    budget = _COMPACTION_BYTES
    # Those of which least is needed first; the first one always, or a large one would stay for ever.
    for pack in sorted(packs, key=lambda each: each.live_bytes / max(each.stored_bytes, 1)):
        if pack.live_bytes * 2 >= pack.stored_bytes or (
            budget < _COMPACTION_BYTES and pack.live_bytes > budget
        ):
            break
        budget -= pack.live_bytes
        left_behind.add(pack.name)
    return {pack.name: pack for pack in packs if pack.name not in left_behind}


def _check_index(ref: BackupRef, condition: Condition) -> None:
    """Raises DamagedObject for an index that says something else than its packs, though each digest is right."""
    for key in (frames_key(ref), files_key(ref)):
        if key in condition.suspects:
            raise DamagedObject(key, "verify found it so")


def _find_index(
    repository: Repository, ref: BackupRef, manifest: Manifest, cache: IndexCache, spool: Path
) -> IndexSource:
    """Raises DamagedObject, StoreError or ValueError."""
    if (cached := cache.find(ref, manifest)) is not None:
        return IndexSource(
            cached, manifest
        )  # byte for byte what this machine has made of a listing of its own
    source = IndexSource(_fetch(repository, ref, manifest, spool), manifest)
    try:
        source.check()
    except ValueError as error:
        raise DamagedObject(files_key(ref), str(error)) from error
    return source


def _fetch(repository: Repository, ref: BackupRef, manifest: Manifest, spool: Path) -> IndexFiles:
    """Raises DamagedObject or StoreError."""
    files = IndexFiles(spool / f"base.{ref.id}.frames", spool / f"base.{ref.id}.files")
    for key, path, expected in (
        (frames_key(ref), files.frames, manifest.index.frames),
        (files_key(ref), files.files, manifest.index.files),
    ):
        repository.fetch(key, path, expected=expected)
    return files
