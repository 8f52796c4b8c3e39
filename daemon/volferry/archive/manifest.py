"""The manifest: the small JSON object that makes a backup exist."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from volferry.archive.sealed import seal, unseal
from volferry.errors import DamagedObject, NewerFormat
from volferry.model import PackInfo

FORMAT_VERSION = 1
MOST_FINDINGS = 1000


class _Part(BaseModel):
    # A field that a later version added is no damage: the seal has vouched for every byte. What may not be
    # overlooked comes with a higher format version.
    model_config = ConfigDict(frozen=True, extra="ignore")


class VolumePart(_Part):
    name: str
    driver: str
    options: dict[str, str]
    labels: dict[str, str]
    scope: str
    created_at: str
    anonymous: bool


class ContainerPart(_Part):
    """A container that used the volume when it was backed up."""

    name: str
    id: str
    image: str
    state: str
    destination: str
    read_write: bool
    project: str | None


class CountsPart(_Part):
    """How many, and bytes."""

    entries: int = Field(ge=0)
    files: int = Field(ge=0)
    directories: int = Field(ge=0)
    symlinks: int = Field(ge=0)
    others: int = Field(ge=0)
    sockets_left_out: int = Field(ge=0)
    frames: int = Field(ge=0)
    source_bytes: int = Field(ge=0)
    tar_bytes: int = Field(ge=0)
    read_bytes: int = Field(ge=0)
    stored_bytes: int = Field(ge=0)


class ExcludedPart(_Part):
    """What was asked to be left out, and what that was."""

    patterns: tuple[str, ...] = ()
    caches: bool = False
    entries: int = Field(0, ge=0)
    source_bytes: int = Field(0, ge=0)
    paths: tuple[str, ...] = ()


class FindingPart(_Part):
    kind: str
    path: str
    detail: str


class PackPart(_Part):
    name: str = Field(pattern=r"^\d{8}T\d{6}Z-[0-9a-f]{6}\.\d{4,}$")
    stored_bytes: int = Field(ge=0)
    live_bytes: int = Field(ge=0)
    blake3: str = Field(pattern=r"^[0-9a-f]{64}$")

    @property
    def info(self) -> PackInfo:
        return PackInfo(self.name, self.stored_bytes, self.live_bytes, self.blake3)


class IndexObjectPart(_Part):
    stored_bytes: int = Field(ge=0)
    blake3: str = Field(pattern=r"^[0-9a-f]{64}$")


class IndexPart(_Part):
    frames: IndexObjectPart
    files: IndexObjectPart


class Manifest(_Part):
    """All of it is in docs/format.md, field by field."""

    format: int
    id: str = Field(pattern=r"^\d{8}T\d{6}Z-[0-9a-f]{6}$")
    host: str
    volume: VolumePart
    store_id: str
    base: str | None
    written_by: str
    engine: str
    started_at: datetime
    listed_at: datetime
    finished_at: datetime
    seconds: float
    downtime_seconds: float
    consistency: str
    containers: tuple[ContainerPart, ...]
    counts: CountsPart
    excluded: ExcludedPart = ExcludedPart()
    findings: tuple[FindingPart, ...]
    findings_total: int = Field(ge=0)
    packs: tuple[PackPart, ...]
    index: IndexPart

    def to_bytes(self) -> bytes:
        return seal(self.model_dump(mode="json"))


def read_manifest(data: bytes, *, key: str) -> Manifest:
    """Raises NewerFormat for a later version's manifest, DamagedObject for anything that is not a manifest."""
    # The version is looked at first: what a later version seals, and how, is not known here.
    check_format(data, key=key)
    try:
        return Manifest.model_validate(unseal(data))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DamagedObject(key, f"{where}: {first['msg']}") from error
    except ValueError as error:
        raise DamagedObject(key, str(error)) from error


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
