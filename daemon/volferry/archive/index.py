"""The index of a backup: which frames, in order, make up its tar stream, and which entries they hold.

Two objects, both zstd-compressed (docs/format.md, "Index"): `frames`, one text line a frame, and `files`, the
listing, group by group, as NUL-ended records.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import zstandard

from volferry.archive.digests import digested
from volferry.archive.frames import MAX_BYTES
from volferry.archive.groups import MOST_ENTRIES, MOST_RECORD_BYTES
from volferry.archive.index_check import checked_groups
from volferry.archive.listing import UNTRUSTED, Entry, parse_record, path_of, split_records

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from volferry.archive.digests import ObjectDigest
    from volferry.archive.manifest import Manifest

_LEVEL = 3
_BLOCK_BYTES = 1 << 18
_PIECE_BYTES = 1 << 10
_MOST_STORED_BYTES = MAX_BYTES + (MAX_BYTES >> 7) + (1 << 10)  # zstd's own bound is below that
_LONGEST_LINE = 1 << 10
# 18 digits are more than there will ever be, and a number of 64 bits.
_FRAME_LINE = re.compile(
    rb"(\d{1,18}) ([0-9TZ]{1,32}-[0-9a-f]{6}\.\d{4,18}) (\d{1,18}) (\d{1,18}) (\d{1,18}) ([0-9a-f]{64})"
)
_GROUP_RECORD = re.compile(rb"/(\d{1,18}) (\d{1,18})")


@dataclass(frozen=True, slots=True)
class FrameLocation:
    """Where a frame is, and what it must be. Offsets and lengths are in bytes."""

    group: int
    pack: str
    offset: int
    stored_bytes: int
    raw_bytes: int
    digest: str

    @property
    def line(self) -> bytes:
        return f"{self.group} {self.pack} {self.offset} {self.stored_bytes} {self.raw_bytes} {self.digest}\n".encode()


def file_blocks(path: Path, size_bytes: int | None = None) -> Iterator[bytes]:
    """The content of a local file, or the first part of it, in pieces. Raises ValueError if it is shorter than that."""
    with path.open("rb") as file:
        left = size_bytes
        while left is None or left:
            block = file.read(_BLOCK_BYTES if left is None else min(left, _BLOCK_BYTES))
            if not block:
                if left:
                    raise ValueError(f"{path} is cut off")
                return
            left = None if left is None else left - len(block)
            yield block


def compress_file(path: Path, blocks: Iterable[bytes]) -> ObjectDigest:
    """Writes an index object, compressed, to a local file."""
    with path.open("wb") as file:
        return digested(_compressed(blocks), file.write)


def _compressed(blocks: Iterable[bytes]) -> Iterator[bytes]:
    compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compressobj()
    for block in blocks:
        yield compressor.compress(block)
    yield compressor.flush()


def distrusted(blocks: Iterable[bytes], paths: AbstractSet[bytes]) -> Iterator[bytes]:
    """The bytes of an uncompressed `files` object, with the entries at `paths` marked to be read again next time."""
    if not paths:
        yield from blocks
        return
    for number, records in parse_groups(blocks):
        yield group_bytes(
            number, [_distrusted(record) if path_of(record) in paths else record for record in records]
        )


def unread_of(blocks: Iterable[bytes], zeros_from: Mapping[bytes, int]) -> tuple[int, int]:
    """Of the bytes of an uncompressed `files` object: how many entries have nothing that was read, and how many bytes are not what was read. Of files by
    their paths, `zeros_from` is the byte where the zeros begin, from the end if it is negative. All names of such a file count.
    """
    if not zeros_from:
        return 0, 0
    begins: dict[bytes, int] = {}  # by inode: the first name is the one that was read
    entries = unread_bytes = 0
    for _, records in parse_groups(blocks):
        for entry in map(parse_record, records):
            if entry.kind != b"f":
                continue
            begin = zeros_from.get(entry.path)
            if entry.stat.links != b"1":
                begin = begins.get(entry.stat.inode) if begin is None else begin
                if begin is not None:
                    begins[entry.stat.inode] = begin
            if begin is not None:
                read = max(0, begin if begin >= 0 else entry.size + begin)
                entries += read == 0
                unread_bytes += max(0, entry.size - read)
    return entries, unread_bytes


def _distrusted(record: bytes) -> bytes:
    entry = parse_record(record)
    return Entry(entry.path, b" ".join(entry.stat._replace(ctime=UNTRUSTED))).record


def decompress(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The content of an index object. Raises ValueError if it is damaged or cut off."""
    decompressor = zstandard.ZstdDecompressor().decompressobj()
    try:
        for block in blocks:
            # Small pieces in: a small object that claims to be a large one cannot become that at once.
            for start in range(0, len(block), _PIECE_BYTES):
                if decompressor.eof:
                    raise ValueError("there are bytes after its end")
                yield decompressor.decompress(block[start : start + _PIECE_BYTES])
    except zstandard.ZstdError as error:
        raise ValueError("it cannot be decompressed") from error
    if not decompressor.eof:
        raise ValueError("it is cut off")
    if decompressor.unused_data:
        raise ValueError("there are bytes after its end")


def read_frames(blocks: Iterable[bytes]) -> Iterator[FrameLocation]:
    """The lines of a `frames` object, in order. Raises ValueError if it is damaged."""
    yield from parse_frames(decompress(blocks))


def parse_frames(blocks: Iterable[bytes]) -> Iterator[FrameLocation]:
    """As `read_frames`, of what is not compressed."""
    rest = b""
    last_group = -1
    for block in blocks:
        lines = (rest + block).split(b"\n")
        rest = lines.pop()
        for line in lines:
            match = _FRAME_LINE.fullmatch(line)
            if match is None:
                raise ValueError(f"not a frame line: {line[:80]!r}")
            group, pack, offset, stored, raw, digest = match.groups()
            location = FrameLocation(
                int(group), pack.decode(), int(offset), int(stored), int(raw), digest.decode()
            )
            # Before anything is made of them: a few bytes may claim to be very many.
            if not 0 < location.raw_bytes <= MAX_BYTES or not 0 < location.stored_bytes <= _MOST_STORED_BYTES:
                raise ValueError("a frame has a length that none has")
            if location.group < last_group:
                raise ValueError("its groups are out of order")
            last_group = location.group
            yield location
        if len(rest) > _LONGEST_LINE:
            raise ValueError("a line is longer than any can be")
    if rest:
        raise ValueError("its last line is cut off")


def frames_of(manifest: Manifest, blocks: Iterable[bytes]) -> Iterator[FrameLocation]:
    """As `read_frames`, of a backup's own `frames` object. Also raises ValueError for a frame that does not lie in one of the backup's
    packs, and if they are not as many, or not as long, as the manifest says.
    """
    pack_bytes = {pack.name: pack.stored_bytes for pack in manifest.packs}
    frames = raw_bytes = 0
    for location in read_frames(blocks):
        # A pack that the manifest does not name has no bytes.
        if location.offset + location.stored_bytes > pack_bytes.get(location.pack, 0):
            raise ValueError(f"a frame lies beyond the end of pack {location.pack}")
        frames += 1
        raw_bytes += location.raw_bytes
        if frames > manifest.counts.frames or raw_bytes > manifest.counts.tar_bytes:
            break
        yield location
    _check_total("frames", frames, manifest.counts.frames)
    _check_total("bytes of a tar stream", raw_bytes, manifest.counts.tar_bytes)


def files_of(
    manifest: Manifest, blocks: Iterable[bytes], *, parents: bool = False
) -> Iterator[tuple[int, list[bytes]]]:
    """The groups of a backup's own `files` object, as records. Raises ValueError if it is damaged, breaks a rule of `checked_groups`, or
    has not as many entries as the manifest says.
    """
    entries = 0
    for number, records in checked_groups(parse_groups(decompress(blocks)), parents=parents):
        entries += len(records)
        if entries > manifest.counts.entries:
            break
        yield number, records
    _check_total("entries", entries, manifest.counts.entries)


def _check_total(what: str, found: int, expected: int) -> None:
    """Raises ValueError."""
    if found != expected:
        more = " or more" if found > expected else ""
        raise ValueError(f"it has {found}{more} {what}, and the manifest says {expected}")


def group_bytes(number: int, records: list[bytes]) -> bytes:
    """One group of a `files` object, before compression."""
    return b"\0".join([b"/%d %d" % (number, len(records)), *records, b""])


def parse_groups(blocks: Iterable[bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """The groups of what is not compressed, as records. Raises ValueError if it is damaged."""
    records = split_records(blocks)
    for record in records:
        match = _GROUP_RECORD.fullmatch(record)
        if match is None:
            raise ValueError(f"not a group record: {record[:80]!r}")
        count = int(match[2])
        if count > MOST_ENTRIES:
            raise ValueError(f"group {int(match[1])} has more entries than a group can have")
        group = []
        left = MOST_RECORD_BYTES
        for entry in islice(records, count):
            group.append(entry)
            left -= len(entry)
            if left < 0:
                raise ValueError(f"group {int(match[1])} is larger than a group can be")
        if len(group) != count:
            raise ValueError("its last group is cut off")
        yield int(match[1]), group
