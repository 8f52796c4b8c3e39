from __future__ import annotations

import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
import zstandard
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from volferry.archive.digests import ObjectDigest
from volferry.archive.groups import MOST_RECORD_BYTES, split_groups
from volferry.archive.index import (
    FrameLocation,
    compress_file,
    decompress,
    group_bytes,
    parse_groups,
    read_frames,
)
from volferry.archive.listing import Entry, parse_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

PACK = "20260102T030405Z-0a1b2c.0000"
META = b"f 644 0 0 10 1.0000000000 1.0000000000 12 1 "

locations = st.builds(
    FrameLocation,
    group=st.integers(0, 2**40),
    pack=st.integers(0, 99999).map("20260102T030405Z-0a1b2c.{:04d}".format),
    offset=st.integers(0, 2**50),
    stored_bytes=st.integers(1, 4 << 20),
    raw_bytes=st.integers(1, 4 << 20),
    digest=st.binary(min_size=32, max_size=32).map(bytes.hex),
)
paths = st.binary(max_size=20).filter(
    lambda path: b"\0" not in path and b"//" not in path and path[:1] != b"/"
)
entries = st.builds(
    Entry,
    path=paths.filter(lambda path: not path.endswith(b"/")),
    meta=st.binary(max_size=9).filter(lambda target: b"\0" not in target).map(lambda target: META + target),
)
groups = st.lists(st.tuples(st.integers(0, 2**40), st.lists(entries, min_size=1, max_size=5)), max_size=6)


def read_files(blocks: Iterable[bytes]) -> Iterator[tuple[int, list[Entry]]]:
    """Without the rules that entries keep among themselves (index_check.py)."""
    for number, records in parse_groups(decompress(blocks)):
        yield number, [parse_record(record) for record in records]


def compressed(parts: Iterable[bytes]) -> tuple[bytes, ObjectDigest]:
    with TemporaryDirectory() as directory:
        path = Path(directory) / "index"
        digest = compress_file(path, parts)
        return path.read_bytes(), digest


def files_object(groups: Iterable[tuple[int, list[Entry]]]) -> Iterator[bytes]:
    for number, entries in groups:
        yield group_bytes(number, [entry.record for entry in entries])


def a_frames_object() -> tuple[bytes, list[FrameLocation]]:
    some = [FrameLocation(n, PACK, n * 1000, 1000, 5000, blake3(b"%d" % n).hexdigest()) for n in range(5)]
    return compressed(location.line for location in some)[0], some


def a_files_object() -> tuple[bytes, list[tuple[int, list[Entry]]]]:
    some = [(n, [Entry(b"dir/%d.%d" % (n, each), META) for each in range(n + 1)]) for n in range(4)]
    return compressed(files_object(some))[0], some


OBJECTS: dict[
    str, tuple[Callable[[], tuple[bytes, object]], Callable[[Iterable[bytes]], Iterable[object]]]
] = {"frames": (a_frames_object, read_frames), "files": (a_files_object, read_files)}
both = pytest.mark.parametrize(("make", "read"), OBJECTS.values(), ids=OBJECTS)


@given(st.lists(locations, max_size=20))
def test_frame_locations_are_the_same_after_they_were_written_and_read(some: list[FrameLocation]) -> None:
    some = sorted(some, key=lambda location: location.group)
    data, _ = compressed(location.line for location in some)
    assert list(read_frames([data])) == some


@given(groups)
def test_groups_of_entries_are_the_same_after_they_were_written_and_read(
    some: list[tuple[int, list[Entry]]],
) -> None:
    data, _ = compressed(files_object(some))
    assert list(read_files([data])) == some


@given(st.lists(st.binary(max_size=1000)), st.integers(1, 50))
@settings(max_examples=30)
def test_the_digest_is_that_of_the_object_and_its_blocks_may_have_any_size(
    parts: list[bytes], size: int
) -> None:
    data, digest = compressed(parts)
    assert digest == ObjectDigest(len(data), f"blake3:{blake3(data).hexdigest()}")
    assert b"".join(decompress(data[n : n + size] for n in range(0, len(data), size))) == b"".join(parts)


def test_an_index_can_be_read_with_zstd_alone() -> None:
    data, some = a_frames_object()
    text = subprocess.run(["zstd", "-dc"], input=data, capture_output=True, check=True).stdout
    assert text.splitlines(keepends=True) == [location.line for location in some]


@both
def test_every_flipped_bit_is_refused_or_harmless(
    make: Callable[[], tuple[bytes, object]], read: Callable[[Iterable[bytes]], Iterable[object]]
) -> None:
    data, whole = make()
    for position in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            try:
                found = list(read([bytes(damaged)]))
            except ValueError:
                continue
            assert found == whole


@both
def test_an_object_that_is_cut_off_anywhere_is_refused(
    make: Callable[[], tuple[bytes, object]], read: Callable[[Iterable[bytes]], Iterable[object]]
) -> None:
    data, _ = make()
    for end in range(len(data)):
        with pytest.raises(ValueError, match=r"."):
            list(read([data[:end]]))


@pytest.mark.parametrize("cut", ["in one block", "in a block of its own"])
def test_bytes_after_the_end_are_refused(cut: str) -> None:
    data, _ = a_frames_object()
    blocks = [data + b"more"] if cut == "in one block" else [data, b"more"]
    with pytest.raises(ValueError, match="after its end"):
        list(read_frames(blocks))


def test_a_small_object_does_not_become_a_large_one_at_once() -> None:
    small = zstandard.ZstdCompressor().compress(bytes(256 << 20))
    assert len(small) < 1 << 16
    assert max(len(piece) for piece in decompress([small])) <= 32 << 20


GOOD_LINE = FrameLocation(0, PACK, 0, 1, 2, "0" * 64).line


@pytest.mark.parametrize(
    "text",
    [
        b"\n",
        b"0\n",
        GOOD_LINE.rstrip(b"\n"),
        GOOD_LINE.replace(b"0 ", b"-1 ", 1),
        GOOD_LINE.replace(b" 2 ", b"  2 "),
        GOOD_LINE.replace(b".0000", b"/../0000"),
        GOOD_LINE.replace(b"0" * 64, b"0" * 63),
        GOOD_LINE + b"0 0\n",
    ],
)
def test_what_is_no_list_of_frames_is_refused(text: bytes) -> None:
    data, _ = compressed([text])
    with pytest.raises(ValueError, match=r"frame line|cut off"):
        list(read_frames([data]))


@pytest.mark.parametrize(
    "records",
    [
        b"\0",
        b"0 1\0",
        b"/0 1\0",
        b"/0 2\0a//" + META + b"\0",
        b"/0 1\0a//f\0",
        b"/0 1\0a//" + META,
        b"/0 -1\0",
    ],
)
def test_what_is_no_list_of_groups_is_refused(records: bytes) -> None:
    data, _ = compressed([records])
    with pytest.raises(ValueError, match=r"record|cut off"):
        list(read_files([data]))


def test_a_group_has_no_more_records_than_memory_is_for() -> None:
    record = b"%b//f 644 0 0 0 0.0000000000 - 1 1 "
    records = [record % (b"a" * (1 << 20) + b"%03d" % number) for number in range(70)]
    with pytest.raises(ValueError, match="larger than a group can be"):
        list(parse_groups([b"/0 70\0", *(each + b"\0" for each in records)]))
    groups = list(split_groups(records))
    assert [record for group in groups for record in group.records] == records
    assert all(group.record_bytes <= MOST_RECORD_BYTES for group in groups)
    assert len(groups) > 1
