from __future__ import annotations

import io
import os
import subprocess
import tarfile
import tempfile
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.parts.forgery import member, record
from volferry.archive.sparse_map import SparseMap, sparse_size
from volferry.archive.stream_check import checked_stream
from volferry.archive.tarstream import END_OF_ARCHIVE, TarReader

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PAX = {
    b"GNU.sparse.major": b"1",
    b"GNU.sparse.minor": b"0",
    b"GNU.sparse.name": b"a",
    b"GNU.sparse.realsize": b"7",
}


def padded(size: int) -> int:
    return -(-size // 512) * 512


def text(regions: Sequence[tuple[int, int]]) -> bytes:
    return b"%d\n" % len(regions) + b"".join(b"%d\n%d\n" % each for each in regions)


def read(
    payload: bytes, piece: int, payload_bytes: int | None = None, *, real_size: int = 10**15
) -> tuple[SparseMap, list[tuple[int, int]]]:
    """Fed in pieces of that size, until it is whole."""
    regions: list[tuple[int, int]] = []
    payload_bytes = len(payload) if payload_bytes is None else payload_bytes
    found = SparseMap(payload_bytes, real_size, lambda *each: regions.append(each))
    for start in range(0, len(payload), piece):
        data = payload[start : start + piece]
        taken = found.feed(data)
        assert found.is_whole or taken == len(data)
    return found, regions


def stored(regions: Sequence[tuple[int, int]]) -> bytes:
    numbers = text(regions)
    data = b"".join(b"d" * length + bytes(-length % 512) for _, length in regions)
    return numbers.ljust(padded(len(numbers)), b"\0") + data


@st.composite
def region_lists(draw: st.DrawFn) -> list[tuple[int, int]]:
    """As they are in files: each behind the one before, none of them empty but the last."""
    at = 0
    regions = []
    for gap, length in draw(st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 2000)), max_size=120)):
        regions.append((at + gap, length))
        at += gap + length
    if not regions or draw(st.booleans()):
        regions.append((at + draw(st.integers(0, 10**12)), 0))
    return regions


@given(regions=region_lists(), piece=st.integers(1, 1500))
def test_a_map_says_its_length_and_its_regions_however_it_arrives(
    regions: list[tuple[int, int]], piece: int
) -> None:
    found, said = read(stored(regions), piece)
    assert found.is_whole
    assert said == regions
    assert found.map_bytes == padded(len(text(regions)))
    assert found.size == sum(regions[-1])


@settings(max_examples=40, deadline=None)
@given(
    blocks=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 3)), max_size=150),
    cut=st.integers(0, 511),
    hole=st.integers(0, 40_000),
    how=st.sampled_from(["raw", "seek"]),
    piece=st.integers(1, 5000),
)
def test_what_tar_writes_of_a_file_with_holes_is_put_together_to_the_same_file(
    blocks: list[tuple[int, int]], cut: int, hole: int, how: str, piece: int
) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="volferry-sparse-") as directory:
        path = Path(directory, "file")
        with path.open("wb") as file:
            for gap, length in blocks:
                file.seek(gap * 512, os.SEEK_CUR)
                file.write(b"d" * (512 * length))
            file.truncate(max(0, file.tell() - cut) + hole)
        content = path.read_bytes()
        Path(directory, "after").write_text("after")
        command = [
            "tar",
            "--sparse",
            f"--hole-detection={how}",
            "--format=posix",
            "-cf",
            "-",
            "file",
            "after",
        ]
        stream = subprocess.run(command, cwd=directory, stdout=subprocess.PIPE, check=True).stdout
    reader = TarReader(io.BytesIO(stream).readinto)
    for found_member in reader:
        payload = b"".join(bytes(each) for each in reader.payload())
        if b"GNU.sparse" not in found_member.header:
            expected = b"after" if found_member.path == b"after" else content
            assert payload[: found_member.size] == expected
            continue
        found, regions = read(payload, piece, real_size=found_member.size)
        assert found.is_whole
        assert found.size == found_member.size == len(content)
        made = bytearray(len(content))
        at = found.map_bytes
        for offset, length in regions:
            made[offset : offset + length] = payload[at : at + length]
            at += padded(length)
        assert made == content
        assert at == len(payload)


@pytest.mark.parametrize(
    ("numbers", "size"),
    [
        (b"3\n409600\n4096\n1998848\n5248\n1048000\n0\n", 1048000),  # grew; what is behind the end is cut off
        (
            b"2\n409600\n512\n1999872\n4128\n",
            2004000,
        ),  # grew, on a file system that does not say where holes are
        (b"2\n409600\n512\n500000\n0\n", 500000),  # shrank
    ],
)
def test_the_map_of_a_file_that_changed_while_tar_read_it_says_what_tar_leaves(
    numbers: bytes, size: int
) -> None:
    # As GNU tar 1.34 wrote them of a file of 1,048,000 bytes.
    lengths = [int(each) for each in numbers.split()[2::2]]
    found, _ = read(numbers.ljust(512, b"\0"), 512, 512 + sum(map(padded, lengths)), real_size=1048000)
    assert found.is_whole
    assert found.size == size


REFUSED = {
    "no number of regions": b"\n0\n0\n",
    "no regions": b"0\n",
    "a negative offset": b"1\n-5\n0\n",
    "a negative length": b"1\n0\n-512\n",
    "a number with a sign": b"1\n+0\n0\n",
    "a number with a blank": b"1\n 0\n0\n",
    "a number with a zero before it": b"1\n00\n0\n",
    "a number of another base": b"1\n0x0\n0\n",
    "a number that is too large": b"1\n0\n1" + b"0" * 18 + b"\n",
    "a number without an end": b"1\n0\n" + b"0" * 600,
    "more regions than there is room for": b"999999\n0\n0\n",
    "regions that overlap": b"2\n0\n512\n511\n512\n",
    "regions that go back": b"2\n512\n512\n0\n512\n",
    "an empty region among others": b"2\n0\n0\n0\n512\n",
    "something behind it": b"1\n0\n0\n1",
    "more than is stored": b"1\n0\n1025\n",
    "less than is stored": b"1\n0\n512\n",
    "nothing at all of what is stored": b"1\n0\n0\n",
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("piece", [1, 7, 512, 4096])
def test_a_map_that_tar_would_not_write_is_refused(what: str, piece: int) -> None:
    numbers = REFUSED[what]
    payload = numbers.ljust(padded(len(numbers)), b"\0") + bytes(1024)
    with pytest.raises(ValueError, match=r"^has a map of holes [^\n]+$"):
        read(payload, piece)


def test_a_map_that_is_longer_than_what_is_stored_is_refused() -> None:
    payload = text([(10**6 + each, 1) for each in range(100)])
    with pytest.raises(ValueError, match="longer than what is stored"):
        read(payload, 100, 512)


@given(
    regions=region_lists(),
    place=st.floats(0, 0.999),
    by=st.sampled_from(b"\n\0 -+x0159"),
    piece=st.integers(1, 700),
)
def test_a_map_with_a_wrong_byte_is_refused_or_fits_to_what_is_stored(
    regions: list[tuple[int, int]], place: float, by: int, piece: int
) -> None:
    payload = bytearray(stored(regions))
    payload[int(place * len(text(regions)))] = by
    try:
        found, _ = read(bytes(payload), piece)
    except ValueError:
        return
    # Said in another way: as `tar` reads it.
    count, *numbers = bytes(payload).split(b"\n")
    lengths = [int(each) for each in numbers[1 : 2 * int(count) : 2]]
    said = sum(len(each) + 1 for each in (count, *numbers[: 2 * int(count)]))
    assert padded(said) + sum(map(padded, lengths)) == len(payload)
    assert (found.is_whole, found.map_bytes) == (True, padded(said))


@pytest.mark.parametrize("behind", [(10**6, 1), (10**6 + 1, 0)])
def test_data_behind_the_end_of_the_file_is_refused_in_a_map_of_several_blocks(
    behind: tuple[int, int],
) -> None:
    # tar 1.35 goes too far if it gives up a file in a later block of its map.
    few, many = ([*((each * 2000, 512) for each in range(count)), behind] for count in (10, 100))
    assert len(text(few)) <= 512 < len(text(many))
    assert read(stored(few), 512, real_size=10**6)[0].is_whole
    assert read(stored(many), 512, real_size=10**6 + 1)[0].is_whole
    with pytest.raises(ValueError, match="data behind the end of the file"):
        read(stored(many), 512, real_size=10**6)


def test_a_map_of_many_regions_takes_little_memory() -> None:
    thousands = 200

    def pieces() -> Iterator[bytes]:
        yield b"%d\n" % (1000 * thousands)
        for first in range(10**12, 10**12 + 1000 * thousands, 1000):
            yield b"".join(b"%d\n1\n" % offset for offset in range(first, first + 1000))

    map_bytes = padded(sum(map(len, pieces())))
    found = SparseMap(map_bytes + 1000 * thousands * 512, 10**13)
    tracemalloc.start()
    for piece in pieces():
        found.feed(piece)
    found.feed(bytes(512))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.is_whole
    assert found.map_bytes == map_bytes > 3 << 20
    assert peak < 1 << 20


def sparse_member(name: str, payload: bytes, size: int) -> bytes:
    pax = {"major": "1", "minor": "0", "name": name, "realsize": str(size)}
    pax = {f"GNU.sparse.{key}": value for key, value in pax.items()}
    return member(name, tarfile.REGTYPE, content=payload, pax=pax)


RECORDS = (record(b"", b"d"), record(b"a", b"f", size=10**6), record(b"b", b"f", size=5))
ROOT = member("./", tarfile.DIRTYPE)
AFTER = member("b", tarfile.REGTYPE, content=b"after")


@pytest.mark.parametrize("piece", [1, 100, 512, 4096, 1 << 20])
def test_a_sparse_member_is_passed_on_if_its_map_fits_and_else_its_map_is_not(piece: int) -> None:
    regions = [(each * 2000, 512) for each in range(300)] + [(10**6, 0)]
    payload = stored(regions)
    map_bytes = padded(len(text(regions)))
    good = ROOT + sparse_member("a", payload, 10**6) + AFTER + END_OF_ARCHIVE
    bad = ROOT + sparse_member("a", payload + bytes(512), 10**6) + AFTER + END_OF_ARCHIVE

    def checked(stream: bytes) -> Iterator[bytes]:
        pieces = (stream[start : start + piece] for start in range(0, len(stream), piece))
        return checked_stream(pieces, iter(RECORDS), lambda _: False)

    assert b"".join(checked(good)) == good
    passed: list[bytes] = []
    with pytest.raises(ValueError, match="'a' has a map of holes that says more or less than is stored"):
        passed.extend(checked(bad))
    assert sum(map(len, passed)) < len(ROOT) + 1536 + map_bytes


@pytest.mark.parametrize(
    "change",
    [
        {b"GNU.sparse.major": b"0"},
        {b"GNU.sparse.minor": b"1"},
        {b"GNU.sparse.realsize": b"-7"},
        {b"GNU.sparse.realsize": b"1" + b"0" * 18},
        {b"GNU.sparse.map": b"0,7"},
        {b"GNU.sparse.numblocks": b"1"},
        {b"GNU.volume.filename": b"a"},
    ],
)
def test_extended_records_of_another_sparse_file_are_refused(change: dict[bytes, bytes]) -> None:
    assert sparse_size(PAX, b"0") == 7
    assert sparse_size({b"path": b"a"}, b"5") is None
    with pytest.raises(ValueError, match="sparse file"):
        sparse_size(PAX | change, b"0")


def test_extended_records_of_a_sparse_file_are_all_there_and_it_is_a_file() -> None:
    for key in PAX:
        with pytest.raises(ValueError, match="sparse file"):
            sparse_size({each: value for each, value in PAX.items() if each != key}, b"0")
    for typeflag in (b"\0", b"1", b"2", b"5", b"7", b"S"):
        with pytest.raises(ValueError, match="sparse file"):
            sparse_size(PAX, typeflag)
