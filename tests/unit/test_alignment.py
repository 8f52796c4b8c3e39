from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

from tests.unit.real_trees import (
    ENVIRONMENT,
    at,
    described,
    extract,
    listing,
    make_nasty_tree,
    paths_of,
    raw_tar,
    read_again,
)
from volferry.archive.alignment import ANCHOR, align
from volferry.archive.commands import create_command
from volferry.archive.groups import split_groups
from volferry.archive.listing import UNTRUSTED, Entry, nanoseconds, parse_record, time_text
from volferry.archive.tarstream import END_OF_ARCHIVE, TarReader
from volferry.errors import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from volferry.archive.tarstream import Member


def numbered(entries: Sequence[Entry]) -> Iterator[tuple[int, Entry]]:
    """Entries with the numbers of their groups."""
    for group in split_groups(entry.record for entry in entries):
        for record in group.records:
            yield group.number, parse_record(record)


class Aligned:
    """What `align` made of a stream and of the entries that were asked for."""

    def __init__(self, stream: bytes, entries: Sequence[Entry]) -> None:
        self.stored: dict[bytes, Entry] = {}
        self.groups: dict[bytes, int] = {}
        self.vanished: list[bytes] = []
        self.frames = list(
            align(
                TarReader(io.BytesIO(stream).readinto),
                numbered(entries),
                stored=self._store,
                missing=lambda _, entry: self.vanished.append(entry.path),
            )
        )

    def _store(self, group: int, entry: Entry) -> None:
        assert entry.path not in self.stored
        self.stored[entry.path] = entry
        self.groups[entry.path] = group

    @property
    def raw(self) -> bytes:
        return b"".join(raw for _, raw in self.frames)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    directory = tmp_path / "tree"
    directory.mkdir()
    for name in ("a", "b", "c"):
        (directory / name).write_bytes(name.encode() * 100)
        os.utime(directory / name, ns=(10**18, 10**18))
    return directory


def tar_of_what_is_left(directory: Path, entries: Sequence[Entry]) -> bytes:
    """As `raw_tar`, of entries some of which are gone."""
    return subprocess.run(
        create_command(str(directory)),
        input=paths_of(entries),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
        env=ENVIRONMENT,
    ).stdout


def same_as_on_disk(entry: Entry, directory: Path) -> bool:
    info = at(directory, entry.path).lstat()
    found = entry.stat
    return (
        entry.kind,
        int(found.mode, 8),
        int(found.uid),
        int(found.gid),
        nanoseconds(found.mtime),
        entry.size,
    ) == (
        {stat.S_IFREG: b"f", stat.S_IFDIR: b"d", stat.S_IFLNK: b"l", stat.S_IFIFO: b"p"}[
            stat.S_IFMT(info.st_mode)
        ],
        stat.S_IMODE(info.st_mode),
        info.st_uid,
        info.st_gid,
        info.st_mtime_ns,
        info.st_size if stat.S_ISREG(info.st_mode) else 0,
    )


def test_a_tree_at_rest_is_stored_as_it_was_listed(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    make_nasty_tree(tree)
    (tree / "large").write_bytes(os.urandom(3 << 20))
    for name, ns in (("old", -1_500_000_001), ("older", -(10**9)), ("epoch", 0)):
        (tree / name).touch()
        os.utime(tree / name, ns=(ns, ns))
    entries = listing(tree, tmp_path)
    stream = raw_tar(tree, entries)
    aligned = Aligned(stream, entries)
    assert [*aligned.stored.values()] == entries
    assert aligned.vanished == []
    assert aligned.groups == {entry.path: group for group, entry in numbered(entries)}
    assert aligned.raw + END_OF_ARCHIVE == read_again(stream)


def test_frames_hold_no_more_than_one_group(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    make_nasty_tree(tree)
    entries = listing(tree, tmp_path)
    aligned = Aligned(raw_tar(tree, entries), entries)
    numbers = [group for group, _ in aligned.frames]
    assert numbers == sorted(numbers)
    for number in set(aligned.groups.values()):
        raw = b"".join(each for group, each in aligned.frames if group == number)
        held = [member.path for member in _members(raw + END_OF_ARCHIVE)]
        assert held == [path for path, group in aligned.groups.items() if group == number]


def _members(stream: bytes) -> list[Member]:
    reader = TarReader(io.BytesIO(stream).readinto)
    found = []
    for member in reader:
        found.append(member)
        for _ in reader.payload():
            pass
    return found


@pytest.mark.parametrize("gone", [("a",), ("b",), ("c",), ("a", "c"), ("a", "b", "c")])
def test_entries_that_vanished_are_said_to_have_and_the_others_are_stored(
    tree: Path, tmp_path: Path, gone: tuple[str, ...]
) -> None:
    entries = listing(tree, tmp_path)
    for name in gone:
        (tree / name).unlink()
    aligned = Aligned(tar_of_what_is_left(tree, entries), entries)
    assert aligned.vanished == [name.encode() for name in gone]
    assert [*aligned.stored] == [entry.path for entry in entries if entry.path not in aligned.vanished]
    extract(aligned.raw, tmp_path / "extracted")
    assert described(tmp_path / "extracted") == described(tree)


def test_a_directory_that_vanished_takes_what_was_in_it_along(tree: Path, tmp_path: Path) -> None:
    (tree / "b.d" / "deeper").mkdir(parents=True)
    (tree / "b.d" / "deeper" / "file").touch()
    entries = listing(tree, tmp_path)
    shutil.rmtree(tree / "b.d")
    aligned = Aligned(tar_of_what_is_left(tree, entries), entries)
    assert aligned.vanished == [b"b.d", b"b.d/deeper", b"b.d/deeper/file"]


@pytest.mark.parametrize("size", [0, 99, 101, 5000, 3 << 20])
def test_a_file_whose_size_changed_is_recorded_as_it_was_read(tree: Path, tmp_path: Path, size: int) -> None:
    entries = listing(tree, tmp_path)
    (tree / "b").write_bytes(b"x" * size)
    os.utime(tree / "b", ns=(10**18, 10**18))
    aligned = Aligned(raw_tar(tree, entries), entries)
    assert aligned.stored[b"b"].size == size
    assert aligned.stored[b"b"].stat.ctime == UNTRUSTED
    assert [aligned.stored[path] for path in (b"a", b"c")] == [entries[1], entries[3]]
    assert same_as_on_disk(aligned.stored[b"b"], tree)


def test_what_else_changed_is_recorded_as_it_was_read(tree: Path, tmp_path: Path) -> None:
    entries = listing(tree, tmp_path)
    (tree / "a").chmod(0o600)
    os.chown(tree / "b", 3_000_000_000, 7)
    os.utime(tree / "c", ns=(-1_500_000_001, -1_500_000_001))
    aligned = Aligned(raw_tar(tree, entries), entries)
    for path in (b"a", b"b", b"c"):
        assert same_as_on_disk(aligned.stored[path], tree)
        assert aligned.stored[path].stat.ctime == UNTRUSTED


def test_what_became_something_else_is_recorded_as_it_was_read(tree: Path, tmp_path: Path) -> None:
    (tree / "link").symlink_to("before")
    entries = listing(tree, tmp_path)
    for name in ("a", "b", "c", "link"):
        (tree / name).unlink()
    (tree / "a").mkdir()
    (tree / "b").symlink_to("c")
    os.mkfifo(tree / "c")
    (tree / "link").symlink_to("after")
    aligned = Aligned(raw_tar(tree, entries), entries)
    assert aligned.vanished == []
    for path in (b"a", b"b", b"c", b"link"):
        assert same_as_on_disk(aligned.stored[path], tree)
    assert aligned.stored[b"b"].stat.target == b"c"
    assert aligned.stored[b"link"].stat.target == b"after"


def test_a_settled_record_can_be_parsed_and_its_time_is_never_trusted(tree: Path, tmp_path: Path) -> None:
    entries = listing(tree, tmp_path)
    (tree / "a").write_text("changed")
    stored = Aligned(raw_tar(tree, entries), entries).stored[b"a"]
    assert stored.record not in {entry.record for entry in listing(tree, tmp_path)}
    assert time_text(nanoseconds(stored.stat.mtime)) == stored.stat.mtime


@pytest.mark.parametrize("same_time", [False, True])
def test_hard_links_to_a_changed_file_have_its_size(tree: Path, tmp_path: Path, same_time: bool) -> None:
    (tree / "b.hard").hardlink_to(tree / "a")
    (tree / "z.hard").hardlink_to(tree / "a")
    entries = listing(tree, tmp_path)
    (tree / "a").write_bytes(b"longer" * 1000)
    if same_time:
        os.utime(tree / "a", ns=(10**18, 10**18))
    aligned = Aligned(raw_tar(tree, entries), entries)
    for path in (b"a", b"b.hard", b"z.hard"):
        assert same_as_on_disk(aligned.stored[path], tree)


def test_a_hard_link_whose_first_name_vanished_is_stored_whole(tree: Path, tmp_path: Path) -> None:
    (tree / "z.hard").hardlink_to(tree / "a")
    entries = listing(tree, tmp_path)
    (tree / "a").unlink()
    aligned = Aligned(tar_of_what_is_left(tree, entries), entries)
    assert aligned.vanished == [b"a"]
    assert same_as_on_disk(aligned.stored[b"z.hard"], tree)
    extract(aligned.raw, tmp_path / "extracted")
    assert (tmp_path / "extracted" / "z.hard").read_bytes() == b"a" * 100


def test_a_file_that_changed_between_its_names_is_recorded_alike_under_all_of_them(
    tree: Path, tmp_path: Path
) -> None:
    (tree / "b").unlink()
    (tree / "b").hardlink_to(tree / "a")
    entries = listing(tree, tmp_path)
    stream = io.BytesIO()
    # A hard link's member brings what its file had become by then; a restored one has what the first member says.
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry, mtime in ((entries[1], 10**9), (entries[2], 10**9 + 1)):
            info = tarfile.TarInfo(os.fsdecode(entry.path))
            info.mode = int(entry.stat.mode, 8)
            info.mtime = mtime
            if entry.path == b"a":
                info.size = 100
            else:
                info.type, info.linkname = tarfile.LNKTYPE, "a"
            tar.addfile(info, io.BytesIO(b"a" * 100))
    stored = Aligned(stream.getvalue(), entries[1:3]).stored
    extract(stream.getvalue(), tmp_path / "extracted")
    for path in (b"a", b"b"):
        assert same_as_on_disk(stored[path], tmp_path / "extracted")


def test_a_member_that_nobody_asked_for_is_refused(tree: Path, tmp_path: Path) -> None:
    entries = listing(tree, tmp_path)
    stream = raw_tar(tree, entries)
    with pytest.raises(CommandFailed, match="'b' out of order"):
        Aligned(stream, [entry for entry in entries if entry.path != b"b"])
    with pytest.raises(CommandFailed, match="out of order"):
        Aligned(stream, entries[::-1])


def test_an_empty_stream_means_that_everything_vanished(tree: Path, tmp_path: Path) -> None:
    entries = listing(tree, tmp_path)
    aligned = Aligned(END_OF_ARCHIVE, entries)
    assert aligned.vanished == [entry.path for entry in entries]
    assert aligned.raw == b""


def test_a_link_to_what_is_not_stored_is_not_taken(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in ("D", "E", "F"):
        (tree / name).mkdir(parents=True)
        (tree / name / "a").write_text(name * 100)
    entries = listing(tree, tmp_path)
    # `tar` reads what is in E through D, and calls the name in E a link to it.
    (tree / "D").rename(tmp_path / "away")
    (tree / "D").symlink_to("E")
    (tree / "E" / "b").hardlink_to(tree / "E" / "a")
    aligned = Aligned(tar_of_what_is_left(tree, entries), entries)
    assert [*aligned.stored] == [b"", b"D", b"E", b"F", b"F/a"]
    assert aligned.vanished == [b"D/a", b"E/a"]
    extract(aligned.raw, tmp_path / "extracted")


def test_a_link_to_a_file_in_the_place_of_a_directory_is_not_taken_without_it(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "D").mkdir(parents=True)
    (tree / "D" / "reused").touch()
    (tree / "z").write_text("z")
    entries = listing(tree, tmp_path)
    shutil.rmtree(tree / "D")
    (tree / "D").hardlink_to(tree / "z")
    asked = [entry for entry in entries if entry.path != b"D/reused"]
    stored, missing = [], []
    for _ in align(
        TarReader(io.BytesIO(tar_of_what_is_left(tree, asked)).readinto),
        numbered(asked),
        stored=lambda _, entry: stored.append(entry.path),
        missing=lambda _, entry: missing.append(entry.path),
        reused_below=lambda _, entry: entry.path == b"D",
    ):
        pass
    assert stored == [b"", b"D"]
    assert missing == [b"D", b"z"]


def anchored(tree: Path, entries: Sequence[Entry]) -> tuple[dict[bytes, Entry], list[bytes]]:
    """What is stored, and what is missing, where the first of the files is an anchor."""
    stored: dict[bytes, Entry] = {}
    missing: list[bytes] = []
    for _ in align(
        TarReader(io.BytesIO(tar_of_what_is_left(tree, entries)).readinto),
        iter([(ANCHOR if entry is entries[0] else 0, entry) for entry in entries]),
        stored=lambda _, entry: stored.update({entry.path: entry}),
        missing=lambda _, entry: missing.append(entry.path),
    ):
        pass
    return stored, missing


def test_only_what_was_a_name_of_an_anchor_is_a_link_to_it(tree: Path, tmp_path: Path) -> None:
    (tree / "b").unlink()
    (tree / "b").hardlink_to(tree / "a")
    entries = listing(tree, tmp_path)[1:]
    (tree / "c").unlink()
    (tree / "c").hardlink_to(tree / "a")
    stored, missing = anchored(tree, entries)
    assert stored == {b"b": entries[1]}
    assert missing == [b"c"]


def test_a_name_of_an_anchor_that_is_gone_is_a_file_of_its_own(tree: Path, tmp_path: Path) -> None:
    (tree / "b").unlink()
    (tree / "b").hardlink_to(tree / "a")
    entries = listing(tree, tmp_path)[1:]
    (tree / "a").unlink()
    stored, missing = anchored(tree, entries)
    assert missing == [b"a"]
    assert stored[b"b"].stat.ctime == UNTRUSTED
    assert stored[b"b"].stat.links == b"2"
