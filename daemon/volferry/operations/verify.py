"""Checks that backups can be restored: that all they need is there, and, where asked for, that every byte of it is right."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING

from blake3 import blake3

from volferry.archive.agreement import Names
from volferry.archive.digests import ObjectDigest, ObjectHasher, digested
from volferry.damage import Condition, remember
from volferry.errors import DamagedObject, RepositoryError, StoreError
from volferry.layout import files_key, frames_key, manifest_key, needed_objects, pack_key
from volferry.model import printable
from volferry.operations.backup_reader import BackupReader
from volferry.operations.group_check import GroupCheck

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from volferry.archive.index import FrameLocation
    from volferry.archive.listing import Entry, Stat
    from volferry.archive.manifest import Manifest
    from volferry.model import BackupRef, PackInfo
    from volferry.observer import Observer
    from volferry.repository import Repository

_READ_ATTEMPTS = 2  # bytes may change on their way
_NO_LINKS: Mapping[bytes, bytes] = {}


@dataclass(frozen=True, slots=True)
class Verified:
    """One backup; good if nothing was found."""

    ref: BackupRef
    findings: tuple[str, ...]
    damaged: Mapping[str, str] = field(
        default_factory=dict
    )  # objects whose content is wrong: key, and what is
    read: tuple[str, ...] = ()  # keys of objects that were read whole, and are good
    unread: bool = False  # its manifest could not be taken
    hurt: bool = False  # something is missing or damaged; other findings may be of a store that does not answer at the moment


@dataclass(slots=True)
class _Found:
    """What was found of one backup so far."""

    lines: list[str] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)
    read: list[str] = field(default_factory=list)

    def add(self, error: RepositoryError | StoreError, more: str = "") -> None:
        """An object that cannot be read at the moment is none that is damaged."""
        self.lines.append(f"{error}{more}")
        if isinstance(error, DamagedObject):
            self.damaged.setdefault(error.key, error.reason)


class Verifier:
    """Verifies backups, one after another; what several of them need is read once. It goes on after a finding."""

    def __init__(self, repository: Repository, *, read: bool, spool: Path, observer: Observer) -> None:
        self._repository = repository
        self._read = read
        self._spool = spool
        self._observer = observer
        self._conditions: dict[tuple[str, str], Condition] = {}  # of each volume
        # What is wrong with each pack that was read, by key and what it should be; None if nothing is.
        self._packs: dict[tuple[str, str], DamagedObject | StoreError | None] = {}
        # Groups that are good, by a digest of their records and of their frames' places: which members are hard links, to where.
        self._good_groups: dict[bytes, Mapping[bytes, bytes]] = {}

    def verify(self, ref: BackupRef) -> Verified:
        """Raises StoreError only where the store cannot be listed."""
        sizes = self._condition_of(ref).sizes
        try:
            manifest = self._repository.manifest(ref)
        except (RepositoryError, StoreError) as error:
            wrong = {error.key: error.reason} if isinstance(error, DamagedObject) else {}
            return Verified(ref, (str(error),), wrong, unread=True, hurt=bool(wrong))
        missing = dict(self._missing(ref, manifest, sizes))
        found = _Found(list(missing.values()), read=[manifest_key(ref)])
        known: list[str] = []
        if self._read:
            self._look(ref, manifest, missing.keys(), found)
        else:  # the manifest has just been read
            known = [
                each
                for each in self._condition_of(ref).trouble(ref, manifest).damaged
                if each not in found.read
            ]
            found.lines += [f"{key} is damaged: verify found it so" for key in known]
        return Verified(
            ref,
            tuple(dict.fromkeys(found.lines)),
            found.damaged,
            tuple(found.read),
            hurt=bool(missing or found.damaged or known),
        )

    def remember(self, verified: Verified, *, by: str) -> str:
        """Marks in the store what was found damaged, and takes away marks of what is good. Returns why that could not be
        done, empty if it could.
        """
        condition, now = self._condition_of(verified.ref), datetime.now(UTC)
        return remember(self._repository, condition, verified.damaged, verified.read, by=by, now=now)

    def _condition_of(self, ref: BackupRef) -> Condition:
        key = (ref.host, ref.volume)
        if key not in self._conditions:
            self._conditions[key] = Condition.of(
                self._repository, ref.host, ref.volume, unmarked_manifests=True
            )
        return self._conditions[key]

    def _missing(
        self, ref: BackupRef, manifest: Manifest, sizes: dict[str, int]
    ) -> Iterator[tuple[str, str]]:
        """Keys, and what is wrong with them by their sizes alone."""
        for key, expected in needed_objects(ref, manifest).items():
            size = sizes.get(key)
            if size is None:
                yield key, f"{key} is missing from the store {self._repository.store.url}"
            elif wrong := expected.other_size(size):
                yield key, str(DamagedObject(key, wrong))

    def _look(self, ref: BackupRef, manifest: Manifest, missing: Collection[str], found: _Found) -> None:
        """At all that is there; what is missing is not looked for again, nor are groups that need it."""
        indexes = (frames_key(ref), files_key(ref))
        if set(indexes) & set(missing):
            return
        try:
            backup = _Reader(self._repository, ref, spool=self._spool)
        except (RepositoryError, StoreError) as error:
            found.add(error)
            return
        try:
            packs = _PackDigests(pack.info for pack in manifest.packs)
            self._observer.phase("verifying", total_bytes=manifest.counts.tar_bytes)
            in_packs: dict[str, str] = {}  # packs of which a frame is wrong
            for each, where in self._wrong_groups(backup, packs, missing):
                if isinstance(each, DamagedObject) and each.key.startswith("packs/"):
                    found.lines.append(f"{each}{where}")
                    in_packs.setdefault(each.key, each.reason)
                else:
                    found.add(each, where)
            for pack in manifest.packs:
                if (key := pack_key(ref, pack.name)) not in missing:
                    self._look_at_pack(ref, key, pack.info, packs, in_packs.get(key), found)
            if not found.lines:  # else not all of what it says was compared
                found.read += indexes
        except RepositoryError as error:  # of the index, which cannot be parsed
            found.add(error)
        finally:
            backup.discard()

    def _look_at_pack(
        self,
        ref: BackupRef,
        key: str,
        pack: PackInfo,
        packs: _PackDigests,
        wrong_frame: str | None,
        found: _Found,
    ) -> None:
        wrong = self._wrong_pack(key, pack, packs)
        if wrong is not None:
            found.add(wrong)
        elif wrong_frame is not None:
            # The pack is what was written: it is the index that is wrong about it.
            found.damaged.setdefault(frames_key(ref), f"{key}: {wrong_frame}")
        else:
            found.read.append(key)

    def _wrong_pack(self, key: str, pack: PackInfo, packs: _PackDigests) -> DamagedObject | StoreError | None:
        if (key, pack.digest) not in self._packs:
            # By what was read of it already, if that was all of it, in order.
            good = packs.of(pack) == pack.digest
            self._packs[key, pack.digest] = (
                None
                if good
                else wrong_object(self._repository, key, ObjectDigest(pack.stored_bytes, pack.digest))
            )
        return self._packs[key, pack.digest]

    def _wrong_groups(
        self, backup: BackupReader, packs: _PackDigests, missing: Collection[str]
    ) -> Iterator[tuple[RepositoryError | StoreError, str]]:
        """Frames that are not what their digests say, and groups whose members are not those of the index; each with
        what a user loses. Raises DamagedObject for an index that cannot be parsed.
        """
        keys, hurt, raw_bytes = self._groups_of(backup, missing)
        names = Names(_Earlier(backup))
        wanted = {group for group, key in keys.items() if key not in self._good_groups} - hurt
        check = GroupCheck(backup, wanted, packs.add, self._observer)
        last = -1
        for number, entries in backup.groups():
            last = number
            if number in hurt:
                names.pass_over(entries)
                continue
            try:
                if number not in keys:
                    raise DamagedObject(frames_key(backup.ref), f"it has no frame of group {number}")
                links = self._good_groups.get(keys[number])
                if links is None:
                    links = self._good_groups[keys[number]] = check.links_of(number, entries) or _NO_LINKS
                if wrong := names.add(entries, links):
                    raise DamagedObject(files_key(backup.ref), wrong)
            except (DamagedObject, StoreError) as error:
                where = f" (group {number}: {_first(entries)})"
                yield from ((each, where) for each in check.wrong_frames(number) or [error])
                names.pass_over(entries)
        yield from self._wrong_end(backup, keys, last, hurt, check)
        if raw_bytes != backup.manifest.counts.tar_bytes:
            reason = f"its frames make {raw_bytes} bytes instead of {backup.manifest.counts.tar_bytes}"
            yield DamagedObject(frames_key(backup.ref), reason), ""

    def _wrong_end(
        self, backup: BackupReader, keys: Mapping[int, bytes], last: int, hurt: set[int], check: GroupCheck
    ) -> Iterator[tuple[RepositoryError | StoreError, str]]:
        ends = [group for group, key in keys.items() if group > last]
        where = " (the end of the stream)"
        if len(ends) != 1:
            yield (
                DamagedObject(frames_key(backup.ref), "the end of its tar stream is not where it should be"),
                where,
            )
        elif not hurt & set(ends) and keys[ends[0]] not in self._good_groups:
            try:
                check.end(ends[0])
                self._good_groups[keys[ends[0]]] = _NO_LINKS
            except (DamagedObject, StoreError) as error:
                yield from ((each, where) for each in check.wrong_frames(ends[0]) or [error])

    @staticmethod
    def _groups_of(backup: BackupReader, missing: Collection[str]) -> tuple[dict[int, bytes], set[int], int]:
        """Digests of all groups that have frames, of their records and of their frames' places; those that need what is
        missing; and the bytes of the tar stream.
        """
        keys: dict[int, bytes] = {}
        hurt = set()
        raw_bytes = 0
        for group, locations in groupby(backup.locations(), key=lambda location: location.group):
            digest = blake3(f"{backup.ref.host}/{backup.ref.volume}".encode())
            for location in locations:
                raw_bytes += location.raw_bytes
                if missing and pack_key(backup.ref, location.pack) in missing:
                    hurt.add(group)
                digest.update(
                    f"{location.pack} {location.offset} {location.stored_bytes} {location.raw_bytes} {location.digest}\n".encode()
                )
            keys[group] = digest.digest(length=16)
        for group, entries in backup.groups():
            if group in keys:
                digest = blake3(keys[group])
                for entry in entries:
                    digest.update(entry.record + b"\0")
                keys[group] = digest.digest(length=16)
        return keys, hurt, raw_bytes


def wrong_object(
    repository: Repository, key: str, expected: ObjectDigest
) -> DamagedObject | StoreError | None:
    """What is wrong with an object by its content, all of which is read; None if nothing is."""
    wrong: str | None = None
    for _ in range(_READ_ATTEMPTS):
        try:
            found = digested(repository.blocks(key), algorithm=expected.digest)
        except DamagedObject as error:  # of a store that cannot read it any more, or could not just then
            wrong = error.reason
            continue
        except StoreError as error:
            return error
        wrong = found.difference(expected)
        if wrong is None:
            return None
    return DamagedObject(key, str(wrong))


def _first(entries: Sequence[Entry]) -> str:
    """What a user loses with a group."""
    others = f" and {len(entries) - 1} more" if len(entries) > 1 else ""
    return f"{printable(entries[0].path) or 'the root directory'!r}{others}"


@dataclass(frozen=True, slots=True)
class _Earlier:
    """Looks a record up in the index."""

    backup: BackupReader

    def __call__(self, path: bytes, before: bytes) -> Stat | None:
        for entry in self.backup.entries():
            if entry.path == before:
                return None
            if entry.path == path:
                return entry.stat
        return None


class _Reader(BackupReader):
    """Of a backup some of whose packs may be missing."""

    def _check(self) -> None:
        pass


class _PackDigests:
    """Digests of packs that are read from their start to their end, frame by frame."""

    def __init__(self, packs: Iterable[PackInfo]) -> None:
        self._hashers = {pack.name: ObjectHasher(pack.digest) for pack in packs}

    def add(self, location: FrameLocation, stored: bytes) -> None:
        hasher = self._hashers.get(location.pack)
        if hasher is not None and location.offset == hasher.stored_bytes:
            hasher.update(stored)

    def of(self, pack: PackInfo) -> str | None:
        hasher = self._hashers[pack.name]
        return hasher.digest if hasher.stored_bytes == pack.stored_bytes else None
