from __future__ import annotations

import io
import os
import random
import socket
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.real_trees import at, described, extract, listing, make_nasty_tree, raw_tar, read_again
from volferry.archive.tarstream import (
    BLOCK,
    END_OF_ARCHIVE,
    HARD_LINK,
    KIND_OF_TYPEFLAG,
    TarReader,
    parse_pax,
)
from volferry.errors import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from volferry.archive.tarstream import Member

NINE_GIB = 9 << 30


def make_odd_tree(tree: Path) -> None:
    """Everything that needs more than a plain tar header."""
    make_nasty_tree(tree)
    deep = tree
    for _ in range(8):
        deep /= "d" * 200
        deep.mkdir()
    (deep / ("f" * 200)).write_bytes(b"deep")
    (tree / "to-deep").symlink_to(deep.relative_to(tree))
    with (tree / "sparse").open("wb") as file:
        for block in range(40):
            file.seek(block << 20)
            file.write(random.Random(block).randbytes(5000))
    with (deep / ("s" * 150)).open("wb") as file:
        file.seek(1 << 24)
        file.write(b"end")
    with (tree / "huge").open("wb") as file:
        file.write(b"begin")
        file.seek(NINE_GIB)
        file.write(b"end")
    with (tree / "hole").open("wb") as file:
        file.truncate(NINE_GIB)
    (tree / "given-away").touch()
    os.chown(tree / "given-away", 3_000_000_000, 4_000_000_000)
    for name, ns in (("old", -1_500_000_001), ("older", -(10**9)), ("epoch", 0), ("late", 2**33 * 10**9 + 1)):
        (tree / name).write_text(name)
        os.utime(tree / name, ns=(ns, ns))
    os.mkfifo(tree / "fifo")
    os.mknod(tree / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(tree / "disk", stat.S_IFBLK | 0o660, os.makedev(7, 300))
    (tree / "modes").mkdir()
    for mode in (0o0, 0o4755, 0o2751, 0o1777, 0o7777):
        (tree / "modes" / f"{mode:o}").touch()
        (tree / "modes" / f"{mode:o}").chmod(mode)
    os.setxattr(tree / "sparse", "user.note", b"equals = and \n newline \0 NUL")
    os.setxattr(tree / "modes", "user.empty", b"")
    subprocess.run(["setfacl", "-m", "u:1234:rwx,d:g:99:rx", tree / "modes"], check=True)


@pytest.fixture(scope="module")
def odd_tree() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="volferry-odd-") as directory:
        tree = Path(directory) / "tree"
        tree.mkdir()
        make_odd_tree(tree)
        yield tree


@pytest.fixture(scope="module")
def small_stream() -> bytes:
    """The stream of a few entries, one of each kind of header."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="volferry-small-") as directory:
        tree = Path(directory) / "tree"
        tree.mkdir()
        (tree / ("long" * 50)).write_bytes(b"x" * 700)
        (tree / "hard").hardlink_to(tree / ("long" * 50))
        (tree / "soft").symlink_to("target" * 20)
        with (tree / "sparse").open("wb") as file:
            file.seek(1 << 20)
            file.write(b"end")
        stream = raw_tar(tree, listing(tree, Path(directory)))
    # Less padding, or most positions would be in it.
    return stream[: end_of_members(stream)] + bytes(20 * BLOCK)


def members(stream: bytes, read: Callable[[memoryview], int] | None = None) -> list[tuple[Member, bytes]]:
    reader = TarReader(read or io.BytesIO(stream).readinto)
    return [(member, b"".join(bytes(piece) for piece in reader.payload())) for member in reader]


def end_of_members(stream: bytes) -> int:
    return sum(len(member.header) + member.payload_bytes for member, _ in members(stream))


def test_what_was_read_is_put_together_to_the_same_tree(odd_tree: Path, tmp_path: Path) -> None:
    stream = read_again(raw_tar(odd_tree, listing(odd_tree, tmp_path)))
    extract(stream, tmp_path / "extracted")
    before = described(odd_tree)
    assert described(tmp_path / "extracted") == before
    assert len(before) > 200
    assert (tmp_path / "extracted" / "hole").stat().st_blocks < 100


def test_two_runs_of_tar_give_the_same_bytes(odd_tree: Path, tmp_path: Path) -> None:
    entries = listing(odd_tree, tmp_path)
    first, second = (raw_tar(odd_tree, entries) for _ in range(2))
    assert read_again(first) == read_again(second)


def test_a_member_says_what_the_listing_says(odd_tree: Path, tmp_path: Path) -> None:
    entries = listing(odd_tree, tmp_path)
    found = members(raw_tar(odd_tree, entries))
    assert [member.path for member, _ in found] == [entry.path for entry in entries]
    for entry, (member, _) in zip(entries, found, strict=True):
        info = at(odd_tree, entry.path).lstat()
        assert (member.uid, member.gid) == (info.st_uid, info.st_gid)
        assert member.mode == stat.S_IMODE(info.st_mode)
        assert member.mtime_ns == info.st_mtime_ns
        if member.typeflag == HARD_LINK:
            assert info.st_nlink > 1
            assert at(odd_tree, member.target).samefile(at(odd_tree, entry.path))
        else:
            assert KIND_OF_TYPEFLAG[member.typeflag] == entry.kind
            assert member.size == entry.size
            assert member.target == entry.stat.target


def test_sockets_have_no_member(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").touch()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tree / "socket"))
        entries = [entry for entry in listing(tree, tmp_path) if entry.kind != b"s"]
        assert [member.path for member, _ in members(raw_tar(tree, entries))] == [b"", b"file"]


@given(st.data())
def test_a_stream_is_the_same_in_pieces_of_any_size(small_stream: bytes, data: st.DataObject) -> None:
    source = io.BytesIO(small_stream)
    sizes = data.draw(st.lists(st.integers(1, 5000), min_size=1, max_size=9))
    count = 0

    def read_into(view: memoryview) -> int:
        nonlocal count
        count += 1
        return source.readinto(view[: sizes[count % len(sizes)]])

    assert members(b"", read_into) == members(small_stream)
    assert source.read() == b"", "what pads the last record is taken too"


@given(st.data())
def test_a_stream_that_is_cut_off_is_refused(small_stream: bytes, data: st.DataObject) -> None:
    end = data.draw(st.integers(0, end_of_members(small_stream) + BLOCK - 1))
    with pytest.raises(CommandFailed, match="cut off"):
        members(small_stream[:end])


def test_the_bytes_that_came_are_counted(small_stream: bytes) -> None:
    reader = TarReader(io.BytesIO(small_stream).readinto)
    for _ in reader:
        assert sum(len(piece) for piece in reader.payload()) >= 0
    assert reader.bytes_read == len(small_stream)


@given(st.binary(min_size=BLOCK, max_size=4 * BLOCK).filter(lambda data: data[:BLOCK].strip(b"\0") != b""))
def test_what_is_no_tar_stream_is_refused(data: bytes) -> None:
    with pytest.raises(CommandFailed):
        members(data)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("byte", [b"-", b"9", b" ", b"\x80", b"\xff"])
def test_a_damaged_stream_is_refused_or_read_and_never_read_for_ever(
    small_stream: bytes, byte: bytes
) -> None:
    for position in range(end_of_members(small_stream)):
        if small_stream[position]:
            try:
                members(small_stream[:position] + byte + small_stream[position + 1 :])
            except CommandFailed:
                continue


def test_a_payload_that_was_not_taken_is_a_mistake(small_stream: bytes) -> None:
    with pytest.raises(RuntimeError, match="was not taken"):
        list(TarReader(io.BytesIO(small_stream).readinto))


def test_an_archive_without_members_has_none() -> None:
    assert members(END_OF_ARCHIVE) == []


pax_keys = st.binary(min_size=1, max_size=9).filter(lambda key: b"=" not in key)


def pax_record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest)
    while len(b"%d" % length) + len(rest) != length:
        length = len(b"%d" % length) + len(rest)
    return b"%d" % length + rest


@given(st.dictionaries(pax_keys, st.binary(max_size=200)))
def test_an_extended_header_is_parsed_into_what_it_was_made_of(records: dict[bytes, bytes]) -> None:
    assert parse_pax(b"".join(pax_record(key, value) for key, value in records.items())) == records


@pytest.mark.parametrize(
    "data", [b"x", b"0 a=b\n", b"-3 a=b\n", b"99 a=b\n", b" a=b\n", b"6 a=b\n6", b"\xb2 a=b\n"]
)
def test_a_damaged_extended_header_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_pax(data)
