"""Backups as somebody who can write to a store would make them up: whatever they hold, all digests, seals and counts are right."""

from __future__ import annotations

import re
import tarfile
from typing import TYPE_CHECKING

import zstandard
from blake3 import blake3
from msgspec.structs import replace

from volferry.archive.digests import ObjectHasher
from volferry.archive.index import FrameLocation, compress_file, decompress, group_bytes
from volferry.archive.manifest import IndexObjectPart, IndexPart, PackPart
from volferry.archive.tarstream import END_OF_ARCHIVE
from volferry.layout import files_key, frames_key
from volferry.model import BackupRef, PackInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from volferry.archive.manifest import Manifest
    from volferry.repository import Repository

_GROUP = re.compile(rb"/\d+ \d+")
TIME = b"1700000000.0000000000"


def forged(
    repository: Repository,
    of: BackupRef,
    backup_id: str,
    place: Path,
    *,
    files: Callable[[bytes], bytes] = lambda raw: raw,
    frames: Callable[[bytes], bytes] = lambda raw: raw,
    entries: int | None = None,
) -> BackupRef:
    """A backup of the same packs, with another index; with `entries`, their number is a lie."""
    raw_files = files(b"".join(decompress(repository.blocks(files_key(of)))))
    raw_frames = frames(b"".join(decompress(repository.blocks(frames_key(of)))))
    ref = BackupRef(of.host, of.volume, backup_id)
    manifest = replace(repository.manifest(of), id=backup_id)
    _put(repository, ref, manifest, raw_frames, raw_files, place, entries=entries)
    return ref


def made_up(
    repository: Repository,
    like: BackupRef,
    backup_id: str,
    place: Path,
    groups: Sequence[tuple[Sequence[bytes], bytes]],
) -> BackupRef:
    """A backup of groups, each with its records and the bytes of its tar stream. The end of the stream follows."""
    ref = BackupRef(like.host, like.volume, backup_id)
    name = f"{backup_id}.0000"
    pack = bytearray()
    lines = b""
    for number, raw in enumerate([*(raw for _, raw in groups), END_OF_ARCHIVE]):
        stored = zstandard.ZstdCompressor().compress(raw)
        lines += FrameLocation(number, name, len(pack), len(stored), len(raw), blake3(raw).hexdigest()).line
        pack += stored
    writer = repository.writer(ref)
    with_pack = writer.open_pack(name)
    with_pack.write(bytes(pack))
    with_pack.commit()
    hasher = ObjectHasher("xxh128")
    hasher.update(bytes(pack))
    info = PackInfo(name, len(pack), len(pack), hasher.digest)
    manifest = replace(repository.manifest(like), id=backup_id, packs=(PackPart.of(info),))
    files = b"".join(group_bytes(number, list(records)) for number, (records, _) in enumerate(groups))
    _put(repository, ref, manifest, lines, files, place)
    return ref


def _put(
    repository: Repository,
    ref: BackupRef,
    manifest: Manifest,
    frames: bytes,
    files: bytes,
    place: Path,
    *,
    entries: int | None = None,
) -> None:
    parts = []
    for name, raw in (("frames", frames), ("files", files)):
        digest = compress_file(place / name, iter([raw]))
        parts.append(IndexObjectPart(stored_bytes=digest.stored_bytes, blake3=digest.hex))
    lines = frames.splitlines()
    counts = replace(
        manifest.counts,
        frames=len(lines),
        tar_bytes=sum(int(line.split(b" ")[4]) for line in lines),
        entries=entries or sum(_GROUP.fullmatch(each) is None for each in files.split(b"\0")[:-1]),
    )
    writer = repository.writer(ref)
    writer.put_index(place / "frames", place / "files")
    index = IndexPart(frames=parts[0], files=parts[1])
    writer.put_manifest(replace(manifest, counts=counts, index=index))


def record(path: bytes, kind: bytes, *, size: int = 0, target: bytes = b"", links: int = 1) -> bytes:
    mode = b"755" if kind == b"d" else b"644"
    return b"%s//%s %s 0 0 %d %s %s 1 %d %s" % (path, kind, mode, size, TIME, TIME, links, target)


def member(
    name: str, kind: bytes, *, content: bytes = b"", target: str = "", pax: Mapping[str, str] | None = None
) -> bytes:
    """As GNU tar writes one."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size, info.mtime = kind, target, len(content), 1_700_000_000
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    info.pax_headers = dict(pax or {})
    header = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    return header + content + bytes(-len(content) % 512)
