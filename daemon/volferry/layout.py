"""Where the objects of a backup are in a store, and how people name backups (docs/format.md, "Keys")."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from volferry.errors import UsageError
from volferry.model import BackupRef, is_backup_id

if TYPE_CHECKING:
    from volferry.archive.digests import ObjectDigest
    from volferry.archive.manifest import Manifest

_LONGEST_SEGMENT = 220  # filesystems take 255 bytes


# A listing has few names, each of them in thousands of keys.
@lru_cache(maxsize=1024)
def encode_name(name: str) -> str:
    """A host's or volume's name as one segment of a key: percent-encoded, also a leading dot."""
    encoded = quote(name, safe="")
    if not name or len(encoded) > _LONGEST_SEGMENT:
        raise UsageError(
            f"{name[:60]!r} cannot be a name in a store: it is {'too long' if name else 'empty'}"
        )
    return f"%2E{encoded[1:]}" if encoded.startswith(".") else encoded


@lru_cache(maxsize=1024)
def decode_name(segment: str) -> str | None:
    """The inverse of `encode_name`; None for a segment that it gives for no name."""
    try:
        name = unquote(segment, errors="strict")
        return name if encode_name(name) == segment else None
    except (UnicodeError, UsageError):
        return None


def manifest_key(ref: BackupRef) -> str:
    return f"manifests/{encode_name(ref.host)}/{encode_name(ref.volume)}/{ref.id}.json"


def frames_key(ref: BackupRef) -> str:
    return f"indexes/{encode_name(ref.host)}/{encode_name(ref.volume)}/{ref.id}.frames.zst"


def files_key(ref: BackupRef) -> str:
    return f"indexes/{encode_name(ref.host)}/{encode_name(ref.volume)}/{ref.id}.files.zst"


def pack_key(ref: BackupRef, pack: str) -> str:
    """Packs of older backups of the same volume lie beside the backup's own."""
    return f"packs/{encode_name(ref.host)}/{encode_name(ref.volume)}/{pack}.tar.zst"


def trial_key(host: str, volume: str) -> str:
    """Of an object that is written to see whether that can be done, and deleted at once."""
    return f"trials/{encode_name(host)}/{encode_name(volume)}"


def accepted_key(ref: BackupRef) -> str:
    return f"{accepted_prefix(ref.host, ref.volume)}{ref.id}.json"


def accepted_prefix(host: str, volume: str) -> str:
    return f"accepted/{encode_name(host)}/{encode_name(volume)}/"


def needed_objects(ref: BackupRef, manifest: Manifest) -> dict[str, ObjectDigest]:
    """What a backup needs but for its manifest: keys, and what each object must be."""
    return {
        frames_key(ref): manifest.index.frames.digest,
        files_key(ref): manifest.index.files.digest,
        **{pack_key(ref, pack.name): pack.digest for pack in manifest.packs},
    }


def ref_of_manifest(key: str) -> BackupRef | None:
    """The inverse of `manifest_key`; None for a key of anything else, also where a name is encoded in another way."""
    parts = key.split("/")
    if len(parts) != 4 or parts[0] != "manifests" or not parts[3].endswith(".json"):
        return None
    host, volume, backup_id = decode_name(parts[1]), decode_name(parts[2]), parts[3].removesuffix(".json")
    if host is None or volume is None or not is_backup_id(backup_id):
        return None
    return BackupRef(host, volume, backup_id)


def ref_of_index(key: str) -> BackupRef | None:
    """Of the key of one of the two objects of a backup's index; None for any other."""
    name = key.removesuffix(".frames.zst").removesuffix(".files.zst")
    if name == key or not name.startswith("indexes/"):
        return None
    return ref_of_manifest(f"manifests/{name.removeprefix('indexes/')}.json")


def manifests_prefix(host: str | None, volume: str | None) -> str:
    if host is None:
        return "manifests/"
    return f"manifests/{encode_name(host)}/{f'{encode_name(volume)}/' if volume is not None else ''}"


@dataclass(frozen=True, slots=True)
class BackupName:
    """What a user typed for a backup: `VOLUME`, `VOLUME@ID` or `HOST/VOLUME@ID`."""

    host: str | None
    volume: str
    id_start: str | None


def parse_backup_name(text: str) -> BackupName:
    """Raises UsageError."""
    host, slash, rest = text.rpartition("/")
    volume, at, id_start = rest.partition("@")
    if not volume or (slash and not host) or (at and not id_start):
        raise UsageError(f"{text!r} does not name a backup: use VOLUME, VOLUME@ID or HOST/VOLUME@ID")
    return BackupName(host or None, volume, id_start or None)
