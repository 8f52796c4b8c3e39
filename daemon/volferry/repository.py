"""What a store holds: the order in which a backup comes to exist, and which backups there are."""

from __future__ import annotations

import re
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from volferry.archive.digests import digested
from volferry.archive.index import file_blocks
from volferry.archive.manifest import FORMAT_VERSION, Manifest, check_format, read_manifest, reread_manifest
from volferry.archive.sealed import seal, unseal
from volferry.errors import (
    AmbiguousBackup,
    DamagedObject,
    DeletionDenied,
    NoSuchBackup,
    NoSuchObject,
    NoSuchStore,
    ObjectExists,
    ObjectLocked,
    ObjectTooLarge,
    RepositoryError,
    StoreError,
)
from volferry.interrupts import held_back
from volferry.layout import (
    BackupName,
    encode_name,
    files_key,
    frames_key,
    manifest_key,
    manifests_prefix,
    needed_objects,
    pack_key,
    ref_of_manifest,
    trial_key,
)
from volferry.model import BackupRef
from volferry.stores.base import PROBES, get, put

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from volferry.archive.manifest import IndexObjectPart
    from volferry.manifest_cache import ManifestCache
    from volferry.model import ObjectInfo
    from volferry.stores.base import ObjectWriter, Store

MARKER_KEY = "volferry.json"
_MARKER_ADVICE = (
    "it holds nothing but an id: put it back from a copy of the store, or take that of another store"
)
_STORE_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_FEW_OBJECTS = 8
_READ_BYTES = 1 << 20
_FETCHES_AT_ONCE = 16
_READ_ATTEMPTS = 2  # bytes may change on their way


def _order(ref: BackupRef) -> tuple[str, str, str]:
    return ref.host, ref.volume, ref.id


def _manifest_of(ref: BackupRef, data: bytes) -> Manifest:
    """Raises DamagedObject, NewerFormat."""
    key = manifest_key(ref)
    manifest = read_manifest(data, key=key)
    if BackupRef(manifest.host, manifest.volume.name, manifest.id) != ref:
        raise DamagedObject(
            key, f"it is the manifest of {manifest.host}/{manifest.volume.name}@{manifest.id}"
        )
    return manifest


def _known_manifest(ref: BackupRef, data: bytes) -> Manifest | None:
    """Of what the cache has."""
    try:
        manifest = reread_manifest(data)
    except ValueError:
        return None
    return manifest if BackupRef(manifest.host, manifest.volume.name, manifest.id) == ref else None


class Repository:
    """The backups of one store. Opening it reads the marker; nothing is written before the first backup."""

    def __init__(self, store: Store, store_id: str) -> None:
        self.store = store
        self.id = store_id

    @property
    def place(self) -> str:
        """Its id, which a copy of the store has too, and where it is: what is known of objects is kept by this."""
        return f"{self.id} {self.store.place}"

    @classmethod
    def open(cls, store: Store) -> Repository:
        """Raises NoSuchStore if there is none, DamagedObject or NewerFormat if it cannot be used."""
        try:
            data = get(store, MARKER_KEY)
        except (NoSuchObject, NoSuchStore) as error:
            raise NoSuchStore(
                f"there is no volferry store at {store.url}: `volferry backup` makes one; check --store"
            ) from error
        check_format(data, key=MARKER_KEY)
        try:
            store_id = unseal(data).get("store_id")
        except ValueError as error:
            raise DamagedObject(MARKER_KEY, str(error), _MARKER_ADVICE) from error
        # It becomes the name of a directory in the state directory.
        if not isinstance(store_id, str) or _STORE_ID.fullmatch(store_id) is None:
            raise DamagedObject(MARKER_KEY, "its store_id is not a UUID", _MARKER_ADVICE)
        return cls(store, store_id)

    @classmethod
    def open_or_create(cls, store: Store) -> tuple[Repository, bool]:
        """The repository, and whether it is new. Raises StoreError where other things than a store are."""
        try:
            return cls.open(store), False
        except NoSuchStore:
            pass
        others = (info for info in store.list("") if not info.key.startswith(PROBES))
        if (other := next(others, None)) is not None:
            if other.key == MARKER_KEY:  # another process was faster
                return cls.open(store), False
            raise StoreError(
                f"{store.url} is not empty and not a volferry store (it holds {other.key!r}): choose another place"
            )
        marker: dict[str, Any] = {"format": FORMAT_VERSION, "store_id": str(uuid.uuid4())}
        try:
            put(store, MARKER_KEY, seal(marker))
        except ObjectExists:  # another process was faster
            return cls.open(store), False
        return cls(store, str(marker["store_id"])), True

    def hosts(self) -> list[str]:
        return sorted({ref.host for ref in self.refs()})

    def refs(self, *, host: str | None = None, volume: str | None = None) -> Iterator[BackupRef]:
        """Names of all backups, by host, volume and time. A name is no promise that its manifest can be read."""
        found = [ref_of_manifest(info.key) for info in self.store.list(manifests_prefix(host, volume))]
        yield from sorted(
            (ref for ref in found if ref is not None and (volume is None or ref.volume == volume)), key=_order
        )

    def resolve(self, name: BackupName, *, host: str) -> BackupRef:
        """The one backup that `name` means; without an id the newest; without a host that of `host`.

        Raises NoSuchBackup, AmbiguousBackup.
        """
        wanted_host = name.host or host
        refs = list(self.refs(host=wanted_host, volume=name.volume))
        if not refs:
            raise NoSuchBackup(self._nothing_there(name, wanted_host))
        if name.id_start is None:
            return refs[-1]
        matches = [ref for ref in refs if ref.id.startswith(name.id_start)]
        if not matches:
            # People copy the random end of an id as well.
            matches = [ref for ref in refs if ref.id.endswith(f"-{name.id_start}")]
        if not matches:
            raise NoSuchBackup(
                f"volume {name.volume!r} has no backup {name.id_start!r} in {self.store.url}; "
                f"its newest is {refs[-1].id}"
            )
        if len(matches) > 1:
            raise AmbiguousBackup(
                f"{name.id_start!r} fits {len(matches)} backups of {name.volume!r}: give more of it; "
                f"`volferry list {name.volume}` shows them"
            )
        return matches[0]

    def _nothing_there(self, name: BackupName, host: str) -> str:
        message = f"no backup of volume {name.volume!r} from host {host!r} in {self.store.url}"
        others = sorted({ref.host for ref in self.refs(volume=name.volume)} - {host})
        if others:
            return f"{message}; there are some from {', '.join(others)}: use {others[0]}/{name.volume}"
        near = self.near(name.volume, host)
        return (
            f"{message}: did you mean {near!r}?"
            if near
            else f"{message}; `volferry list` shows what there is"
        )

    def near(self, volume: str, host: str | None) -> str | None:
        """The volume with backups, of one host or of any, whose name comes nearest to what was typed."""
        from difflib import get_close_matches  # noqa: PLC0415 -- only needed for the hint

        close = get_close_matches(volume, sorted({ref.volume for ref in self.refs(host=host)}), n=1)
        return close[0] if close else None

    def manifest(self, ref: BackupRef) -> Manifest:
        """Raises DamagedObject, NewerFormat, NoSuchObject."""
        return self._read_manifest(ref)[0]

    def manifests(
        self, *, host: str | None = None, volume: str | None = None, cache: ManifestCache | None = None
    ) -> list[tuple[BackupRef, Manifest | RepositoryError | StoreError]]:
        """All manifests, in the order of `refs`, or what is wrong with one. Those that `cache` has are not fetched, the
        others several at once.
        """
        prefix = manifests_prefix(host, volume)
        infos = {
            ref: info
            for info in self.store.list(prefix)
            if (ref := ref_of_manifest(info.key)) is not None and (volume is None or ref.volume == volume)
        }
        written = {info.key: info.modified for info in infos.values()}
        known = cache.all(prefix, written) if cache else {}
        found: dict[BackupRef, Manifest | RepositoryError | StoreError] = {}
        missing = []
        for ref, info in infos.items():
            data = known.get(info.key)
            if data is not None and len(data) == info.size and (manifest := _known_manifest(ref, data)):
                found[ref] = manifest
            else:
                missing.append(ref)
        new: dict[str, bytes] = {}
        if missing:
            with ThreadPoolExecutor(_FETCHES_AT_ONCE, thread_name_prefix="manifests") as pool:
                for ref, fetched in zip(missing, pool.map(self._fetched, missing), strict=True):
                    found[ref], new[infos[ref].key] = fetched
        if cache is not None:
            # What is gone is kept: it may be lost, and who has forgotten it says so.
            cache.update({key: data for key, data in new.items() if data}, (), written)
        return sorted(found.items(), key=lambda each: _order(each[0]))

    def _fetched(self, ref: BackupRef) -> tuple[Manifest | RepositoryError | StoreError, bytes]:
        """The manifest and its bytes, or what is wrong with it and none."""
        try:
            return self._read_manifest(ref)
        except (RepositoryError, StoreError) as error:
            return error, b""

    def manifest_bytes(self, ref: BackupRef) -> bytes:
        """As they are stored. Raises as `manifest` does."""
        return self._read_manifest(ref)[1]

    def _read_manifest(self, ref: BackupRef) -> tuple[Manifest, bytes]:
        try:
            data = get(self.store, manifest_key(ref))
        except ObjectTooLarge as error:
            raise DamagedObject(manifest_key(ref), "it is larger than any manifest") from error
        try:
            return _manifest_of(ref, data), data
        except DamagedObject:  # bytes may change on their way
            data = get(self.store, manifest_key(ref))
            return _manifest_of(ref, data), data

    def check_objects(self, ref: BackupRef, manifest: Manifest) -> None:
        """Raises DamagedObject or NoSuchObject unless every object that the backup needs is there with its size."""
        needed = needed_objects(ref, manifest)
        # A LIST answers for a thousand.
        there = self.sizes(ref.host, ref.volume) if len(needed) > _FEW_OBJECTS else {}
        for key, expected in needed.items():
            size = there[key] if key in there else self.store.size(key)
            if wrong := expected.other_size(size):
                raise DamagedObject(key, wrong)

    def sizes(self, host: str, volume: str) -> dict[str, int]:
        """Stored bytes of every pack and index object of a volume, by key."""
        return {
            info.key: info.size for kind in ("packs", "indexes") for info in self.objects(kind, host, volume)
        }

    def objects(self, kind: str, host: str, volume: str) -> list[ObjectInfo]:
        """Of one kind (`packs`, `indexes`, `manifests`, `damaged`), all that is there of a volume."""
        return list(self.store.list(f"{kind}/{encode_name(host)}/{encode_name(volume)}/"))

    def require(self, ref: BackupRef, manifest: Manifest) -> None:
        """Raises StoreError unless every object that a manifest refers to is there, whole."""
        there = self.sizes(ref.host, ref.volume)
        missing = [
            key
            for key, expected in needed_objects(ref, manifest).items()
            if expected.other_size(there.get(key, -1))
        ]
        if missing:
            raise StoreError(
                f"{len(missing)} objects of {ref} are not in the store {self.store.url} any longer ({missing[0]}): run it again"
            )

    def try_to_write(self, host: str, volume: str) -> None:
        """Writes a small object, and deletes it: before anything is stopped for a backup that cannot be stored. Raises StoreError."""
        key = trial_key(host, volume)
        with suppress(ObjectExists):  # of a run that was killed
            self.store.put_unlocked(key, b"volferry")
        with suppress(DeletionDenied):  # whoever may only add overwrites it next time
            self.store.delete(key)

    def protect(self, ref: BackupRef, manifest: Manifest) -> None:
        """Keeps all that a manifest refers to from being deleted, where the store was told to."""
        self.store.protect(needed_objects(ref, manifest))

    def forget(self, ref: BackupRef) -> bool:
        """Deletes the manifest, with which the backup ends, then the index. Packs stay, others may need them. Returns whether
        older versions stay, as `Store.delete` does.

        Raises ObjectLocked if it may not be deleted yet; then nothing was.
        """
        stays = bool(self.store.delete(manifest_key(ref)))
        for key in (frames_key(ref), files_key(ref)):
            try:
                stays |= bool(self.store.delete(key))
            except ObjectLocked:  # it belongs to no backup any longer, and goes with a later prune
                continue
        return stays

    def fetch(self, key: str, path: Path, *, expected: IndexObjectPart) -> int:
        """Copies an index object to a local file, and returns its bytes. Raises DamagedObject unless it is what the
        manifest says.
        """
        wrong: str | None = None
        for _ in range(_READ_ATTEMPTS):
            with path.open("wb") as file:
                digest = digested(self.blocks(key), file.write)
            wrong = digest.difference(expected.digest)
            if wrong is None:
                return digest.stored_bytes
        raise DamagedObject(key, str(wrong))

    def blocks(self, key: str) -> Iterator[bytes]:
        """The bytes of an object in pieces."""
        with self.store.open(key) as reader:
            while data := reader.read(_READ_BYTES):
                yield data

    def writer(self, ref: BackupRef) -> BackupWriter:
        return BackupWriter(self, ref)


class BackupWriter:
    """Brings one backup into the store: packs, then index, then the manifest, which makes it exist."""

    def __init__(self, repository: Repository, ref: BackupRef) -> None:
        self._repository = repository
        self._ref = ref
        self._written: list[str] = []

    def open_pack(self, name: str) -> ObjectWriter:
        key = pack_key(self._ref, name)
        self._written.append(key)
        return self._repository.store.create(key)

    def put_index(self, frames: Path, files: Path) -> None:
        """Stores the two finished index objects."""
        for path, key in ((frames, frames_key(self._ref)), (files, files_key(self._ref))):
            self._written.append(key)
            self._copy(path, key)

    def put_manifest(self, manifest: Manifest, *, data: bytes | None = None, replaces: bool = False) -> int:
        """Must be the last thing written: from here on the backup exists. Returns its size in bytes. `data` is the
        manifest as another store has it; with `replaces`, it is put in place of a damaged one. What it refers to should have been asked for with `require`, and protected.
        """
        data = data or manifest.to_bytes()
        # An unmounted share leaves its mount point, where everything could be written, and nothing would be kept.
        if Repository.open(self._repository.store).id != self._repository.id:
            raise StoreError(f"{self._repository.store.url} is another store now than when the backup began")
        with held_back():
            (self._repository.store.replace if replaces else partial(put, self._repository.store))(
                manifest_key(self._ref), data
            )
        return len(data)

    def discard(self, *, but_packs: bool) -> None:
        """Removes what a failed backup has stored, but for the packs where the next run is to go on from them.

        What cannot be removed belongs to no backup and harms none.
        """
        store = self._repository.store
        try:
            # First, and nothing else without it: a manifest must never outlive what it refers to.
            store.delete(manifest_key(self._ref))
        except StoreError:
            return
        for key in self._written:
            if but_packs and key.startswith("packs/"):
                continue
            try:
                store.delete(key)
            except StoreError:
                continue

    def _copy(self, path: Path, key: str) -> None:
        writer = self._repository.store.create(key)
        try:
            for block in file_blocks(path):
                writer.write(block)
            writer.commit()
        except BaseException:
            writer.abort()
            raise
