from __future__ import annotations

import os
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.real_trees import ENVIRONMENT, at, listing, make_nasty_tree, names, raw_listing
from volferry.archive.commands import list_command
from volferry.archive.listing import (
    Entry,
    ListingReader,
    nanoseconds,
    parse_record,
    read_listing,
    split_records,
    time_text,
    walk_key,
)
from volferry.archive.tree_scripts import any_data_command, is_foreign, is_remote
from volferry.errors import CommandFailed

if TYPE_CHECKING:
    from pathlib import Path

paths = st.lists(names, max_size=4).map(b"/".join)
fields = st.binary(min_size=1, max_size=6).filter(lambda field: not set(field) & set(b" \0/"))
targets = st.binary(max_size=12).filter(lambda target: b"\0" not in target)


def whole(*records: bytes, status: bytes = b"0") -> bytes:
    return b"\0".join([b"///status " + status, *records, b"///end", b""])


def walked(tree: set[bytes]) -> list[bytes]:
    """A directory, everything below it, its next sibling, as a recursive walk would meet them."""
    children: dict[bytes, list[bytes]] = {}
    for path in tree - {b""}:
        children.setdefault(path.rpartition(b"/")[0], []).append(path)
    order: list[bytes] = []

    def visit(path: bytes) -> None:
        order.append(path)
        for child in sorted(children.get(path, []), key=walk_key):
            visit(child)

    visit(b"")
    return order


@given(paths, st.lists(fields, min_size=9, max_size=9), targets)
def test_a_record_is_parsed_into_what_it_was_made_of(path: bytes, nine: list[bytes], target: bytes) -> None:
    meta = b" ".join([*nine, target])
    entry = parse_record(path + b"//" + meta)
    assert entry == Entry(path, meta)
    assert [*entry.stat] == [*nine, target]
    assert parse_record(entry.record) == entry


@pytest.mark.parametrize("record", [b"", b"a", b"a/b", b"a//", b"a//f 644 0 0 0 1.0 1.0 1 1"])
def test_what_is_no_record_is_refused(record: bytes) -> None:
    with pytest.raises(ValueError, match="not a listing record"):
        parse_record(record)


@given(st.integers(-(2**63), 2**63))
def test_a_time_is_the_same_after_it_was_written_and_read(ns: int) -> None:
    assert nanoseconds(time_text(ns)) == ns


@given(st.lists(st.binary(max_size=9).filter(lambda record: b"\0" not in record)), st.data())
def test_records_are_the_same_in_blocks_of_any_size(records: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(record + b"\0" for record in records)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    blocks = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert list(split_records(blocks)) == records


@given(st.sets(paths, max_size=40))
def test_sorted_by_their_walk_key_paths_are_in_the_order_of_a_walk(some: set[bytes]) -> None:
    tree = {b""}
    for path in some:
        parts = path.split(b"/")
        tree |= {b"/".join(parts[:depth]) for depth in range(1, len(parts) + 1)}
    assert sorted(tree, key=walk_key) == walked(tree)


def test_find_and_sort_give_the_order_of_the_walk_key_for_nasty_names(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    make_nasty_tree(tree)
    found = [entry.path for entry in listing(tree, tmp_path)]
    assert found == sorted(found, key=walk_key)
    assert found == walked(set(found))
    there = [os.fsencode(path.relative_to(tree)) for path in tree.rglob("*")]
    assert sorted(found) == sorted([b"", *there])


def test_a_listing_says_what_stat_says(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    make_nasty_tree(tree)
    os.mkfifo(tree / "fifo", 0o640)
    os.chown(tree / "fifo", 3_000_000_000, 4_000_000_000)
    os.mknod(tree / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    (tree / "suid").touch(mode=0o755)
    (tree / "suid").chmod(0o6751)
    for name, ns in (
        ("old", -1_500_000_001),
        ("older", -1_000_000_000),
        ("epoch", 0),
        ("late", 2**33 * 10**9),
    ):
        (tree / name).touch()
        os.utime(tree / name, ns=(ns, ns))
    kinds = {
        stat.S_IFREG: b"f",
        stat.S_IFDIR: b"d",
        stat.S_IFLNK: b"l",
        stat.S_IFIFO: b"p",
        stat.S_IFCHR: b"c",
    }
    for entry in listing(tree, tmp_path):
        path = at(tree, entry.path)
        info = path.lstat()
        found = entry.stat
        assert entry.kind == found.kind == kinds[stat.S_IFMT(info.st_mode)]
        assert int(found.mode, 8) == stat.S_IMODE(info.st_mode)
        assert (int(found.uid), int(found.gid)) == (info.st_uid, info.st_gid)
        assert int(found.size) == info.st_size
        assert entry.size == (info.st_size if stat.S_ISREG(info.st_mode) else 0)
        assert (nanoseconds(found.mtime), nanoseconds(found.ctime)) == (info.st_mtime_ns, info.st_ctime_ns)
        assert time_text(info.st_mtime_ns) == found.mtime
        assert (int(found.inode), int(found.links)) == (info.st_ino, info.st_nlink)
        assert found.target == (os.fsencode(path.readlink()) if path.is_symlink() else b"")


def test_an_empty_volume_has_its_root(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    assert [entry.path for entry in listing(tree, tmp_path)] == [b""]


def test_a_listing_that_is_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in (b"a", b"b\nc", b"\x01", b"z"):
        (tree / os.fsdecode(name)).touch()
    data = raw_listing(tree, tmp_path)
    assert len(list(read_listing([data]))) == 5
    for end in range(len(data)):
        with pytest.raises(CommandFailed):
            list(read_listing([data[:end]]))


def test_bytes_after_the_end_of_a_listing_are_refused() -> None:
    record = b"//d 755 0 0 0 1.0 1.0 1 2  8"
    assert len(list(read_listing([whole(record)]))) == 1
    for more in (b"\0", b"x", record + b"\0", whole(record)):
        with pytest.raises(CommandFailed):
            list(read_listing([whole(record) + more]))


@pytest.mark.parametrize("status", [b"2", b"127", b"139", b"", b"x"])
def test_a_listing_whose_find_failed_is_refused(status: bytes) -> None:
    with pytest.raises(CommandFailed, match="listing the volume failed"):
        list(read_listing([whole(b"//d 755 0 0 0 1.0 1.0 1 2  8", status=status)]))


def test_a_find_that_may_have_missed_something_is_for_the_caller_to_judge() -> None:
    data = whole(b"//d 755 0 0 0 1.0 1.0 1 2  8", status=b"1")
    assert len(list(read_listing([data]))) == 1
    with pytest.raises(CommandFailed, match="status 1"):
        list(read_listing([data], may_have_missed=False))


def test_a_directory_that_is_not_there_gives_no_listing(tmp_path: Path) -> None:
    command = list_command(str(tmp_path / "missing"), str(tmp_path))
    done = subprocess.run(command, capture_output=True, check=False, env=ENVIRONMENT)
    assert done.returncode != 0
    assert b"missing" in done.stderr
    with pytest.raises(CommandFailed):
        list(read_listing([done.stdout]))


@pytest.mark.parametrize("newer_first", [False, True])
def test_a_name_that_the_file_system_gave_twice_is_one_entry(newer_first: bool) -> None:
    root = b"//d 755 0 0 4096 1.0000000000 1.0000000000 2 2  8"
    old = b"name//f 644 0 0 9 3.0000000000 4.0000000000 12 1  8"
    new = b"name//f 644 0 0 10 3.0000000000 5.0000000000 13 1  8"
    found = list(read_listing([whole(root, *([new, old] if newer_first else [old, new]))]))
    assert [entry.path for entry in found] == [b"", b"name"]
    assert found[1].size == 10


@given(
    listed_at=st.integers(10**9, 2 * 10**9),
    lag=st.integers(0, 3600),
    wrong=st.lists(st.integers(1, 10**10), max_size=4),
)
def test_a_clock_that_lags_widens_what_is_not_trusted_whatever_other_times_there_are(
    listed_at: int, lag: int, wrong: list[int]
) -> None:
    """A file that was touched while a clock was in 2099 says nothing of the clock as it is."""
    changes = [listed_at - lag, *(listed_at + later for later in wrong)]
    records = [
        b"%d//f 644 0 0 1 1.0000000000 %d.0000000000 5 1  1" % (number, change)
        for number, change in enumerate(changes)
    ]
    for file_system, least in ((b"nfs4", lag), (b"ext4", 0)):
        reader = ListingReader([whole(*records, status=b"0 " + file_system)], listed_at=listed_at)
        assert len(list(reader.records())) == len(changes)
        assert reader.trusted_seconds == listed_at - least - 2


def test_of_several_file_systems_the_least_trustworthy_decides() -> None:
    record = b"file//f 644 0 0 1 1.0000000000 999.0000000000 5 1  1"
    for file_systems, expected in (
        (b"ext4 xfs ext4", 998),
        (b"ext4 nfs4", 998 - 3600),
        (b"fuse ext4", 998 - 3600),
    ):
        reader = ListingReader([whole(record, status=b"0 " + file_systems)], listed_at=1000)
        assert len(list(reader.records())) == 1
        assert reader.trusted_seconds == expected
    kinds = {
        "ext4": (False, False),
        "ext4 xfs": (False, False),
        "ext4 nfs4": (False, True),
        "ext4 fuse.some": (True, True),
        "": (True, True),
        " ext4": (True, True),
    }
    assert {each: (is_remote(each), is_foreign(each)) for each in kinds} == kinds
    assert any_data_command("/", "ext4 xfs")[-1] == "trust"
    assert any_data_command("/", "ext4 fuse")[-1] == "/"
