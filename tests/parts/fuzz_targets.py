"""Every parser that reads from a store, as a function of bytes: it takes anything, and fails only where volferry is wrong.

What is wrong: an exception that is not the one that the parser promises, a message of more than one line, or a value that breaks
what the rest of volferry relies on. Sealed documents are given without their seals, compressed ones as they are before: a fuzzer
finds no digests.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from blake3 import blake3

from tests.parts.memory_store import Clock, Contents, MemoryStore
from volferry.archive.frames import MAX_BYTES, decode_frame
from volferry.archive.index import decompress, parse_frames, parse_groups
from volferry.archive.index_check import checked_groups
from volferry.archive.listing import Entry, nanoseconds, parse_record, walk_key
from volferry.archive.manifest import FORMAT_VERSION, read_manifest, reread_manifest
from volferry.archive.sealed import seal, unseal
from volferry.archive.stream_check import checked_stream
from volferry.archive.tarstream import TarReader, reading
from volferry.damage import marked_object
from volferry.errors import CommandFailed, UsageError, VolferryError
from volferry.layout import accepted_key, manifest_key, needed_objects, parse_backup_name, ref_of_manifest
from volferry.model import BackupRef, is_backup_id, is_pack_name, time_of_id
from volferry.operations.acceptance import accepted_ids, is_suspicious
from volferry.operations.verdicts import is_hollow, volume_of
from volferry.repository import MARKER_KEY, Repository
from volferry.stores.base import is_valid_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from volferry.archive.manifest import Manifest

REF = BackupRef("host", "vol", "20260102T030405Z-0a1b2c")
_MOST_BYTES = 64 << 20  # of what a few bytes may become at once
_NEW = datetime(2026, 1, 2, tzinfo=UTC)


def sealed(body: bytes) -> bytes:
    """With the seal that belongs to it."""
    return body + b'  "blake3": "%b"\n}\n' % blake3(body).hexdigest().encode()


def unsealed(document: bytes) -> bytes:
    """The inverse."""
    return document[: document.rindex(b'  "blake3": "')]


def _one_line(error: Exception) -> None:
    text = str(error)
    text.encode()
    assert text, "an error without a word"
    assert "\n" not in text, f"an error of several lines: {text!r}"


def _sealed(data: bytes) -> None:
    for each in (data, sealed(data)):
        try:
            document = unseal(each)
        except ValueError as error:
            _one_line(error)
            continue
        if document:
            assert unseal(seal(document)) == document


def _manifest(data: bytes) -> None:
    for each in (data, sealed(data)):
        try:
            manifest = read_manifest(each, key=manifest_key(REF))
        except VolferryError as error:
            _one_line(error)
            continue
        _check_manifest(manifest)
        assert reread_manifest(each) == manifest


def _cached_manifest(data: bytes) -> None:
    try:
        manifest = reread_manifest(data)
    except ValueError:
        return
    if manifest.format <= FORMAT_VERSION:  # of a later one, none was taken to be kept
        _check_manifest(manifest)


def _check_manifest(manifest: Manifest) -> None:
    time_of_id(manifest.id)
    assert is_backup_id(manifest.id)
    assert read_manifest(manifest.to_bytes(), key="k") == manifest
    for pack in manifest.packs:
        assert is_pack_name(pack.name)
    volume_of(manifest)
    is_suspicious(manifest)
    for time in (manifest.started_at, manifest.listed_at, manifest.finished_at):
        time.astimezone()
    float(manifest.counts.source_bytes + sum(pack.live_bytes for pack in manifest.packs))
    _ = manifest.volume_counts
    with suppress(UsageError):  # of a name that fits no key: no manifest of that is found
        ref = BackupRef(manifest.host, manifest.volume.name, manifest.id)
        is_hollow(ref, manifest, {})
        assert all(is_valid_key(key) for key in needed_objects(ref, manifest))
        assert ref_of_manifest(manifest_key(ref)) == ref


def _store_with(key: str, data: bytes) -> MemoryStore:
    contents = Contents("fuzzed", Clock())
    contents.objects[key] = (data, _NEW)
    return MemoryStore(contents)


def _marker(data: bytes) -> None:
    for each in (data, sealed(data)):
        try:
            repository = Repository.open(_store_with(MARKER_KEY, each))
        except VolferryError as error:
            _one_line(error)
            continue
        assert repository.id.replace("-", "").isalnum()


def _accepted(data: bytes) -> None:
    for each in (data, sealed(data)):
        store = _store_with(accepted_key(REF), each)
        assert accepted_ids(Repository(store, "fuzzed"), "host", "vol") <= {REF.id}


def _frames(data: bytes) -> None:
    last = -1
    try:
        for location in parse_frames(_blocks(data)):
            assert location.group >= last
            assert 0 < location.raw_bytes <= MAX_BYTES
            assert 0 <= location.offset < 1 << 63
            assert b"".join(line.line for line in (location,)).endswith(b"\n")
            assert is_valid_key(f"packs/host/vol/{location.pack}.tar.zst")
            last = location.group
    except ValueError as error:
        _one_line(error)


def _files(data: bytes) -> None:
    for parents in (False, True):
        entries: list[Entry] = []
        try:
            for _, records in checked_groups(parse_groups(_blocks(data)), parents=parents):
                assert records
                entries += [parse_record(record) for record in records]
        except ValueError as error:
            _one_line(error)
        _check_entries(entries, parents=parents)


def _check_entries(entries: list[Entry], *, parents: bool) -> None:
    """What restores rely on, said in another way than index_check.py does."""
    kinds: dict[bytes, bytes] = {}
    for entry in entries:
        parts = entry.path.split(b"/")
        assert not entry.path or not {b"", b".", b".."} & set(parts)
        above = [b"/".join(parts[:count]) for count in range(1, len(parts))]
        assert all(kinds.get(each, b"d") == b"d" for each in above)
        assert not parents or all(each in kinds for each in above)
        assert entry.path not in kinds
        kinds[entry.path] = entry.kind
        stat = entry.stat
        assert entry.kind in {b"f", b"d", b"l", b"p", b"c", b"b"}
        nanoseconds(stat.mtime)
        assert int(stat.mode, 8) <= 0o7777
        assert min(int(stat.uid), int(stat.gid), int(stat.size), int(stat.inode), int(stat.links)) >= 0
    keys = [walk_key(entry.path) for entry in entries]
    assert keys == sorted(keys)


def _compressed(data: bytes) -> None:
    taken = 0
    try:
        for piece in decompress(_blocks(data)):
            assert len(piece) <= _MOST_BYTES
            taken += len(piece)
            if taken > 4 * _MOST_BYTES:  # a large one, in pieces: its reader bounds what it takes
                return
    except ValueError as error:
        _one_line(error)


def _frame(data: bytes) -> None:
    for raw_bytes in (len(data), 1, MAX_BYTES):
        try:
            raw = decode_frame(data, digest=blake3(b"x" * raw_bytes).hexdigest(), raw_bytes=raw_bytes)
        except ValueError as error:
            _one_line(error)
            continue
        assert len(raw) == raw_bytes


# What the streams of the corpus hold.
STREAM_RECORDS = tuple(
    path + b"//" + kind + b" 644 0 0 4 1700000000.0000000000 - 1 " + links + b" " + target
    for path, kind, links, target in (
        (b"", b"d", b"2", b""),
        (b"dir", b"d", b"2", b""),
        (b"dir/file", b"f", b"1", b""),
        (b"dir/link", b"l", b"1", b"file"),
        (b"first", b"f", b"2", b""),
        (b"second", b"f", b"2", b""),
    )
)


def _stream(data: bytes) -> None:
    """A stream that is let through must be, to another reader as well, the members of the index, and nothing else."""
    try:
        passed = b"".join(checked_stream(_blocks(data), iter(STREAM_RECORDS), {b"dir"}.__contains__))
    except ValueError as error:
        _one_line(error)
        return
    assert passed == data
    names = []
    reader = TarReader(reading(iter([data])))
    for member in reader:
        names.append(member.path)
        payload = b"".join(bytes(piece) for piece in reader.payload())
        if b"GNU.sparse." in member.header:
            _check_map(payload)
        assert member.typeflag != b"1" or member.target in {b"first", b"dir/file", b"dir/link"} | {
            each for each in (member.target,) if each.rpartition(b"/")[0] in {b"", b"dir"}
        }
    assert names == [parse_record(record).path for record in STREAM_RECORDS]


def _check_map(payload: bytes) -> None:
    """That of a sparse member takes `tar` to where its payload ends."""
    count, *numbers = payload.split(b"\n")
    numbers = numbers[: 2 * int(count)]
    map_bytes = sum(len(each) + 1 for each in (count, *numbers))
    assert sum(-(-each // 512) * 512 for each in (map_bytes, *map(int, numbers[1::2]))) == len(payload)


def _tar(data: bytes) -> None:
    reader = TarReader(reading(_blocks(data)))
    try:
        for member in reader:
            assert member.payload_bytes >= 0
            for _ in reader.payload():
                pass
    except CommandFailed as error:
        _one_line(error)


def _names(data: bytes) -> None:
    """Keys as a LIST may have them, and what people type."""
    key = data.decode("utf-8", "replace")
    ref = ref_of_manifest(key)
    if ref is not None:
        assert manifest_key(ref) == key
        time_of_id(ref.id)
    found = marked_object(key)
    if found is not None and is_valid_key(key):
        assert is_valid_key(found[0])
    try:
        parse_backup_name(key)
    except UsageError as error:
        str(error).encode()


def _blocks(data: bytes) -> Iterator[bytes]:
    """In pieces of sizes that differ, as a store gives them."""
    step = 1 + len(data) // 3
    for start in range(0, len(data), step):
        yield data[start : start + step]


TARGETS: dict[str, Callable[[bytes], None]] = {
    "sealed": _sealed,
    "manifest": _manifest,
    "cached-manifest": _cached_manifest,
    "marker": _marker,
    "accepted": _accepted,
    "frames": _frames,
    "files": _files,
    "compressed": _compressed,
    "frame": _frame,
    "stream": _stream,
    "tar": _tar,
    "names": _names,
}
