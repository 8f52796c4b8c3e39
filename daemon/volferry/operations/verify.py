"""Checks that backups can be restored: that all they need is there, and, where asked for, that every byte of it is right."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

from blake3 import blake3

from volferry.archive.digests import ObjectDigest, ObjectHasher, digested
from volferry.archive.tarstream import END_OF_ARCHIVE, TarReader, reading
from volferry.errors import CommandFailed, DamagedObject, RepositoryError, StoreError
from volferry.layout import files_key, frames_key, needed_objects, pack_key
from volferry.model import printable
from volferry.operations.backup_reader import BackupReader

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from pathlib import Path

    from volferry.archive.index import FrameLocation
    from volferry.archive.manifest import Manifest
    from volferry.model import BackupRef, PackInfo
    from volferry.observer import Observer
    from volferry.repository import Repository


@dataclass(frozen=True, slots=True)
class Verified:
    """One backup; good if nothing was found."""

    ref: BackupRef
    findings: tuple[str, ...]


class Verifier:
    """Verifies backups, one after another; what several of them need is read once. It goes on after a finding."""

    def __init__(self, repository: Repository, *, read: bool, spool: Path, observer: Observer) -> None:
        self._repository = repository
        self._read = read
        self._spool = spool
        self._observer = observer
        self._sizes: dict[tuple[str, str], dict[str, int]] = {}  # of all objects of a volume, by key
        self._packs: dict[str, str | None] = {}  # what is wrong with each that was read, by key
        self._good_groups: set[bytes] = set()  # digests of their frames' places

    def verify(self, ref: BackupRef) -> Verified:
        """Raises StoreError only where the store cannot be listed."""
        sizes = self._sizes_of(ref)
        try:
            manifest = self._repository.manifest(ref)
        except (RepositoryError, StoreError) as error:
            return Verified(ref, (str(error),))
        missing = dict(self._missing(ref, manifest, sizes))
        findings = list(missing.values())
        if self._read:
            findings += self._wrong(ref, manifest, missing.keys())
        return Verified(ref, tuple(dict.fromkeys(findings)))

    def _sizes_of(self, ref: BackupRef) -> dict[str, int]:
        key = (ref.host, ref.volume)
        if key not in self._sizes:
            self._sizes[key] = self._repository.sizes(ref.host, ref.volume)
        return self._sizes[key]

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

    def _wrong(self, ref: BackupRef, manifest: Manifest, missing: Collection[str]) -> Iterator[str]:
        """By what is read of it; what is missing is not looked for again, nor are groups that need it."""
        if {frames_key(ref), files_key(ref)} & set(missing):
            return
        try:
            backup = _Reader(self._repository, ref, spool=self._spool)
        except (RepositoryError, StoreError) as error:
            yield str(error)
            return
        try:
            packs = _PackDigests(pack.info for pack in manifest.packs)
            self._observer.phase("verifying", total_bytes=manifest.counts.tar_bytes)
            yield from self._wrong_groups(backup, packs, missing)
            for pack in manifest.packs:
                key = pack_key(ref, pack.name)
                if key in missing:
                    continue
                if key not in self._packs:
                    self._packs[key] = self._wrong_pack(key, pack.info, packs)
                if (wrong := self._packs[key]) is not None:
                    yield wrong
        finally:
            backup.discard()

    def _wrong_pack(self, key: str, pack: PackInfo, packs: _PackDigests) -> str | None:
        """By what was read of it already, if that was all of it, in order."""
        if packs.of(pack) == pack.digest:
            return None
        try:
            found = digested(self._repository.blocks(key), algorithm=pack.digest)
        except StoreError as error:
            return str(error)
        wrong = found.difference(ObjectDigest(pack.stored_bytes, pack.digest))
        return None if wrong is None else str(DamagedObject(key, wrong))

    def _wrong_groups(
        self, backup: BackupReader, packs: _PackDigests, missing: Collection[str]
    ) -> Iterator[str]:
        """Frames that are not what their digests say, and groups whose members are not those of the index."""
        wanted = self._unseen_groups(backup, missing)
        check = _Stream(backup, wanted, packs, self._observer)
        while check.goes_on:
            try:
                check.run()
            except (DamagedObject, StoreError, CommandFailed) as error:
                lines = list(check.all_wrong_frames()) or [str(error)]
                yield from (f"{line} (group {check.group}: {check.first_entry()})" for line in lines)
                check.skip_group()
                wanted.discard(check.group)
        for group in wanted:
            self._good_groups.add(self._group_digests[group])

    def _unseen_groups(self, backup: BackupReader, missing: Collection[str]) -> set[int]:
        hurt = set()
        self._group_digests: dict[int, bytes] = {}
        for group, locations in groupby(backup.locations(), key=lambda location: location.group):
            digest = blake3(f"{backup.ref.host}/{backup.ref.volume}".encode())
            for location in locations:
                if missing and pack_key(backup.ref, location.pack) in missing:
                    hurt.add(group)
                digest.update(f"{location.pack} {location.offset} {location.digest}\n".encode())
            self._group_digests[group] = digest.digest(length=16)
        return {
            group
            for group, digest in self._group_digests.items()
            if digest not in self._good_groups and group not in hurt
        }


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


@dataclass(slots=True)
class _Stream:
    """The tar stream of the wanted groups, parsed, and compared with the entries of the index; it can go on behind a
    group in which something was found.
    """

    backup: BackupReader
    wanted: set[int]
    packs: _PackDigests
    observer: Observer
    group: int = -1  # that is being read
    goes_on: bool = True
    _behind: int = field(default=-1)
    _done_bytes: int = 0

    def run(self) -> None:
        """Raises DamagedObject, StoreError or CommandFailed for what is found in `group`."""
        reader = TarReader(reading(self._raw()))
        expected = self._expected()
        for member in reader:
            if member.path != next(expected, None):
                raise DamagedObject(
                    files_key(self.backup.ref), f"its frames hold {printable(member.path)!r} out of order"
                )
            for _ in reader.payload():
                pass
        if (left := next(expected, None)) is not None:
            raise DamagedObject(files_key(self.backup.ref), f"its frames do not hold {printable(left)!r}")
        self.goes_on = False

    def skip_group(self) -> None:
        self._behind = self.group

    def all_wrong_frames(self) -> Iterator[str]:
        for location in self.backup.locations():
            if location.group == self.group:
                try:
                    self.backup.frame(location)
                except (DamagedObject, StoreError) as error:
                    yield f"{error} at offset {location.offset}"

    def first_entry(self) -> str:
        """What a user loses with the group."""
        for number, entries in self.backup.groups():
            if number == self.group:
                others = f" and {len(entries) - 1} more" if len(entries) > 1 else ""
                return f"{printable(entries[0].path) or 'the root directory'!r}{others}"
        return "the end of the stream"

    def _is_wanted(self, group: int) -> bool:
        return group > self._behind and group in self.wanted

    def _expected(self) -> Iterator[bytes]:
        for number, entries in self.backup.groups():
            if self._is_wanted(number):
                for entry in entries:
                    yield entry.path

    def _raw(self) -> Iterator[bytes]:
        for location, raw in self.backup.frames(self._is_wanted, self.packs.add):
            self.group = location.group
            data = raw()
            self._done_bytes += len(data)
            self.observer.advance(done_bytes=self._done_bytes, done_entries=0)
            yield data
        yield END_OF_ARCHIVE
