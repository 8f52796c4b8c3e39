"""The manifest: the small JSON object that makes a backup exist."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from volferry.archive.digests import ObjectDigest
from volferry.archive.sealed import seal, unseal
from volferry.checked import document_of, mistakes
from volferry.errors import DamagedObject, NewerFormat
from volferry.model import BACKUP_ID, FIRST_YEAR, LAST_YEAR, PackInfo, is_backup_id, is_pack_name, time_of_id

if TYPE_CHECKING:
    from collections.abc import Iterable

    from volferry.model import BackupRef

FORMAT_VERSION = 2
MOST_FINDINGS = 1000
_SECOND = timedelta(seconds=1)  # ids leave out the parts of theirs


Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Seconds = Annotated[float, Meta(ge=-1e12, le=1e12)]
BackupId = Annotated[str, Meta(pattern=rf"\A{BACKUP_ID.pattern}\Z")]
PackName = Annotated[str, Meta(pattern=rf"\A{BACKUP_ID.pattern}\.[0-9]{{4,}}\Z")]
Digest = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class _Part(Struct, frozen=True, kw_only=True):
    # A field that a later version added is no damage: the seal has vouched for every byte. What may not be
    # overlooked comes with a higher format version.
    pass


class VolumePart(_Part, frozen=True):
    name: str
    driver: str
    options: dict[str, str]
    labels: dict[str, str]
    scope: str
    created_at: str
    anonymous: bool


class ContainerPart(_Part, frozen=True, omit_defaults=True):
    """A container that used the volume when it was backed up."""

    name: str
    id: str
    image: str
    state: str
    destination: str
    read_write: bool
    project: str | None
    labels: dict[str, str] = {}  # of what is kept
    image_gone: bool = False


class CountsPart(_Part, frozen=True, omit_defaults=True):
    """How many, and bytes."""

    entries: Count
    files: Count
    directories: Count
    symlinks: Count
    others: Count
    sockets_left_out: Count
    frames: Count
    source_bytes: Count
    tar_bytes: Count
    read_bytes: Count
    stored_bytes: Count
    unread_entries: Count = 0  # of `entries`
    unread_bytes: Count = 0  # of `source_bytes`
    unreadable: Count = 0  # findings of that kind


class ExcludedPart(_Part, frozen=True):
    """What was asked to be left out, and what that was."""

    patterns: tuple[str, ...] = ()
    caches: bool = False
    one_file_system: bool = False
    entries: Count = 0
    source_bytes: Count = 0
    paths: tuple[str, ...] = ()


class DumpPart(_Part, frozen=True):
    """A file of the backup that was not in the volume: what a command in a container wrote."""

    name: str
    container: str
    source_bytes: Count
    seconds: Seconds


class FindingPart(_Part, frozen=True):
    kind: str
    path: str
    detail: str


class SetBackupPart(_Part, frozen=True):
    """One backup of a set."""

    volume: str
    id: BackupId


class SetPart(_Part, frozen=True):
    """Backups of several volumes that were read in one stillness, and belong together. Each of them names all of them."""

    id: BackupId
    backups: tuple[SetBackupPart, ...]

    def __post_init__(self) -> None:
        if not all(is_backup_id(each) for each in (self.id, *(backup.id for backup in self.backups))):
            raise ValueError("an id in its set names no time")

    @classmethod
    def of(cls, set_id: str, refs: Iterable[BackupRef]) -> SetPart:
        return cls(set_id, tuple(SetBackupPart(ref.volume, ref.id) for ref in refs))


class PackPart(_Part, frozen=True, omit_defaults=True):
    name: PackName
    stored_bytes: Count
    live_bytes: Count
    blake3: Digest | None = None  # of format 1
    xxh128: Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")] | None = None

    def __post_init__(self) -> None:
        if (self.blake3 is None) == (self.xxh128 is None):
            raise ValueError("a pack has one of xxh128 and blake3")
        if not is_pack_name(self.name):
            raise ValueError(f"{self.name} names no time")

    @classmethod
    def of(cls, pack: PackInfo) -> PackPart:
        algorithm, _, digest = pack.digest.partition(":")
        return cls(
            name=pack.name,
            stored_bytes=pack.stored_bytes,
            live_bytes=pack.live_bytes,
            blake3=digest if algorithm == "blake3" else None,
            xxh128=digest if algorithm == "xxh128" else None,
        )

    @property
    def digest(self) -> ObjectDigest:
        return ObjectDigest(
            self.stored_bytes, f"blake3:{self.blake3}" if self.blake3 else f"xxh128:{self.xxh128}"
        )

    @property
    def info(self) -> PackInfo:
        return PackInfo(self.name, self.stored_bytes, self.live_bytes, self.digest.digest)


class IndexObjectPart(_Part, frozen=True):
    stored_bytes: Count
    blake3: Digest

    @property
    def digest(self) -> ObjectDigest:
        return ObjectDigest(self.stored_bytes, f"blake3:{self.blake3}")


class IndexPart(_Part, frozen=True):
    frames: IndexObjectPart
    files: IndexObjectPart


class Manifest(_Part, frozen=True, kw_only=True):
    """All of it is in docs/format.md, field by field."""

    format: int
    id: BackupId
    host: str
    volume: VolumePart
    store_id: str
    base: str | None
    written_by: str
    engine: str
    started_at: datetime
    listed_at: datetime
    finished_at: datetime
    seconds: Seconds
    downtime_seconds: Seconds
    consistency: str
    containers: tuple[ContainerPart, ...]
    counts: CountsPart
    excluded: ExcludedPart = ExcludedPart()
    dumps: tuple[DumpPart, ...] = ()
    findings: tuple[FindingPart, ...]
    findings_total: Count
    packs: tuple[PackPart, ...]
    index: IndexPart
    set: SetPart | None = None

    def __post_init__(self) -> None:
        if not is_backup_id(self.id) or not (self.base is None or is_backup_id(self.base)):
            raise ValueError("its id, or that of its base, names no time")
        if not all(
            FIRST_YEAR <= each.year <= LAST_YEAR
            for each in (self.started_at, self.listed_at, self.finished_at)
        ):
            raise ValueError("it has a time that cannot be one")
        # An id is of the second in which its backup began, or follows a later one. Policies go by this time: one made up for
        # a day to come would take a good backup's place.
        if self.started_at.astimezone(UTC) > time_of_id(self.id) + _SECOND:
            raise ValueError("it began after the time of its id")
        if len({pack.name for pack in self.packs}) != len(self.packs):
            raise ValueError("it names a pack twice")
        if self.set is not None and SetBackupPart(self.volume.name, self.id) not in self.set.backups:
            raise ValueError("its set does not name it")

    @property
    def volume_counts(self) -> CountsPart:
        """Entries and bytes of the volume alone, without dumps and the two directories that they are in."""
        if not self.dumps:
            return self.counts
        return msgspec.structs.replace(
            self.counts,
            entries=self.counts.entries - len(self.dumps) - 2,
            source_bytes=self.counts.source_bytes - sum(dump.source_bytes for dump in self.dumps),
        )

    def to_bytes(self) -> bytes:
        return seal(self.document)

    @property
    def document(self) -> dict[str, Any]:
        """As it is written, but for its seal."""
        document: dict[str, Any] = document_of(self)
        if self.set is None:
            del document["set"]
        return document


_DECODER = msgspec.json.Decoder(Manifest)


def read_manifest(data: bytes, *, key: str) -> Manifest:
    """Raises NewerFormat for a later version's manifest, DamagedObject for anything that is not a manifest."""
    # The version is looked at first: what a later version seals, and how, is not known here.
    check_format(data, key=key)
    try:
        document = unseal(data)
    except ValueError as error:
        raise DamagedObject(key, str(error)) from error
    try:
        # As strictly as it is read again from the state directory: what a store has is kept there.
        return reread_manifest(data)
    except ValueError as error:
        first = next(mistakes(document, Manifest), None)
        if first is None:
            raise DamagedObject(key, str(error)) from error
        place = f"{'.'.join(first.path)}: " if first.path else ""
        raise DamagedObject(key, f"{place}{first.message}") from error


def reread_manifest(data: bytes) -> Manifest:
    """As `read_manifest`, of bytes that it has taken before: the seal is not looked at. Raises ValueError."""
    return _DECODER.decode(data)


def check_format(data: bytes, *, key: str) -> None:
    """Raises NewerFormat if the JSON object in `data` says that a later version wrote it."""
    try:
        document: Any = json.loads(data)
    except (ValueError, RecursionError):
        return  # whatever it is, no later version wrote it
    version = document.get("format") if isinstance(document, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise NewerFormat(
            f"{key} has format version {version}; this volferry reads up to {FORMAT_VERSION}: use a newer volferry"
        )
