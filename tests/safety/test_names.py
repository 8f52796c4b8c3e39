"""Names that were listed with one inode number: one file is stored once, and two are stored as two."""

from __future__ import annotations

import io
import os
import random
import tarfile
import time
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.parts.faults import environment, fault
from tests.parts.local_helper import LocalHelper, LocalVolume
from tests.parts.restoring import restored_whole
from tests.parts.trees import assert_same, snapshot, write_sparse
from volferry.archive import listing
from volferry.archive.commands import HALF_TREE, NEW_TREE, OLD_TREE
from volferry.observer import Silent
from volferry.operations.backup_reader import BackupReader
from volferry.operations.names import Names
from volferry.operations.places import Place
from volferry.operations.transfer import Transfer
from volferry.repository import Repository
from volferry.stores.local import LocalStore

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.parts.local_helper import LocalProcess

MIB = 1 << 20


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.open_or_create(LocalStore(tmp_path / "store"))[0]


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalVolume:
    monkeypatch.setattr(listing, "CHANGED_WITHIN_SECONDS", -3600)  # what was just written is trusted
    (tmp_path / "data").mkdir()
    return LocalVolume(tmp_path / "data", tmp_path / "state", settings={"suspicious": False})


def large_with_holes(directory: Path, *names: str) -> None:
    """A terabyte of them, and a megabyte."""
    first, *others = (directory / name for name in names)
    for each in (first, *others):
        each.parent.mkdir(exist_ok=True)
    write_sparse(bytes(first), 1 << 40, {5 << 30: random.Random(1).randbytes(MIB)})
    for each in others:
        os.link(first, each)


def assert_one_file(directory: Path, *names: str) -> None:
    found = {(directory / name).stat().st_ino for name in names}
    assert len(found) == 1
    assert (directory / names[0]).stat().st_blocks * 512 < 3 * MIB
    with (directory / names[0]).open("rb") as file:
        file.seek(5 << 30)
        assert file.read(MIB) == random.Random(1).randbytes(MIB)


def test_the_holes_of_a_file_with_more_names_are_not_read(
    repository: Repository, volume: LocalVolume, tmp_path: Path
) -> None:
    names = ["a/one", "b", "c" * 120 + "/" + "n" * 120]
    large_with_holes(volume.data, *names)
    for name in ("a/plain", "plain"):
        (volume.data / name).write_text(name)
    first = volume.back_up(repository)
    assert first.findings == ()
    assert first.read_bytes < 4 * MIB
    assert_one_file(restored_whole(repository, first.ref, tmp_path / "one"), *names)
    # One more: nothing of it is read again but its data.
    os.link(volume.data / "a/one", volume.data / "d")
    names.append("d")
    second = volume.back_up(repository)
    assert second.findings == ()
    assert second.read_bytes < 4 * MIB
    assert_one_file(restored_whole(repository, second.ref, tmp_path / "two"), *names)
    # And one that is another file now.
    (volume.data / "a/one").unlink()
    (volume.data / "a/one").write_text("another")
    third = volume.back_up(repository)
    target = restored_whole(repository, third.ref, tmp_path / "three")
    assert_one_file(target, *names[1:])
    assert (target / "a/one").read_text() == "another"


def test_a_name_of_what_is_reused_is_a_link_to_it(
    repository: Repository, volume: LocalVolume, tmp_path: Path, library: Path
) -> None:
    """Though its change time is the same: a file system without one."""
    large_with_holes(volume.data, "a", "b")
    volume.environment |= environment(library, fault("no-ctime", 1, "/a"), fault("no-ctime", 1, "/b"))
    volume.back_up(repository)
    (volume.data / "b").rename(volume.data / "c")
    volume.environment |= environment(library, *(fault("no-ctime", 1, f"/{name}") for name in "abc"))
    second = volume.back_up(repository)
    assert second.read_bytes < 2 * MIB  # not even the data
    assert_one_file(restored_whole(repository, second.ref, tmp_path / "two"), "a", "c")


def files_of_one_number(directory: Path, library: Path) -> dict[str, str]:
    """What `tar` and `find` are to be told so."""
    contents = {"1": "one", "2": "another, and longer", "3": "two", "a/4": "one", "a/5": "one", "6": "six"}
    (directory / "a").mkdir()
    for name, content in contents.items():
        (directory / name).write_text(content)
    os.link(directory / "6", directory / "7")
    return environment(library, *(fault("inode", 999, f"/{name}") for name in ("1", "2", "3", "4", "5")))


def test_two_files_with_one_inode_number_are_two_files(
    repository: Repository, volume: LocalVolume, tmp_path: Path, library: Path
) -> None:
    volume.environment |= files_of_one_number(volume.data, library)
    for number in range(3):
        stats = volume.back_up(repository)
        assert stats.findings == ()
        target = restored_whole(repository, stats.ref, tmp_path / f"{number}")
        assert_same(snapshot(volume.data), snapshot(target))
        (volume.data / "3").write_text(f"other {number}")


def test_two_files_with_one_inode_number_are_two_in_the_target_of_a_migration(
    tmp_path: Path, library: Path
) -> None:
    source, target, spool = (tmp_path / name for name in ("source", "target", "spool"))
    for each in (source, target, spool):
        each.mkdir()
    lies = files_of_one_number(source, library)
    large_with_holes(source, "large", "later")
    helpers = [LocalHelper(source, spool, lies), LocalHelper(target, spool)]
    here, there = (
        Place(cast("Any", helper), str(directory))
        for helper, directory in zip(helpers, (source, target), strict=True)
    )
    try:
        transfer = Transfer(here, there, tmp_path / "transfer", Silent())
        assert transfer.run().sent_bytes < 4 * MIB
        (source / "3").write_text("changed")
        assert transfer.run().sent_bytes < 4 * MIB
        transfer.check(checksum=True)
    finally:
        for helper in helpers:
            helper.end()
    assert_one_file(target, "large", "later")
    for directory in (source, target):  # a terabyte is not for a look at all bytes
        (directory / "large").unlink()
        (directory / "later").unlink()
        os.utime(directory, (0, 0))
    assert_same(snapshot(source), snapshot(target))


@pytest.mark.parametrize("same", [True, False])
def test_without_change_times_contents_tell_names_from_files(tmp_path: Path, same: bool) -> None:
    """As FUSE may have it: nothing but the content differs."""
    (tmp_path / "first").write_text("content")
    if same:
        os.link(tmp_path / "first", tmp_path / "later")
    else:
        (tmp_path / "later").write_text("another")
    meta = b"f 644 0 0 7 1000000000.0000000000 0.0000000000 %d 2 " % (tmp_path / "later").stat().st_ino
    names = Names(lambda: "fuse.some")
    assert names.add(b"5", b"first//" + meta, b"first//" + meta)
    assert not names.add(b"5", b"later//" + meta, b"first//" + meta)
    helper = LocalHelper(tmp_path, tmp_path)
    try:
        later = listing.parse_record(b"later//" + meta)
        found = names.same(cast("Any", helper), str(tmp_path), b"first", [later])
        assert found == ({b"later"} if same else set())
    finally:
        helper.end()
    assert Names(lambda: "ext4").add(b"5", b"later//" + meta, b"first//" + meta)


def test_links_of_ours_have_the_attributes_of_the_file(
    repository: Repository, volume: LocalVolume, tmp_path: Path
) -> None:
    """Some programs set them through each name."""
    large_with_holes(volume.data, "a", "b")
    (volume.data / "a").chmod(0o640)
    os.chown(volume.data / "a", 3_000_000, 77)
    stats = volume.back_up(repository)
    backup = BackupReader(repository, stats.ref, spool=tmp_path)
    stream = io.BytesIO(b"".join(backup.volume_stream()))
    with tarfile.open(fileobj=stream) as tar:
        members = {each.name: each for each in tar}
    found = [(each.mode, each.uid, each.gid, each.mtime) for each in (members["a"], members["b"])]
    assert found[0] == found[1]
    assert members["b"].islnk()


def exchanged_while_it_is_read(monkeypatch: pytest.MonkeyPatch, data: Path, other: Path) -> None:
    """Another file is in the place of `a` while `tar` reads it, and then the old one is there again."""
    start = LocalHelper.start

    def exchanging(self: LocalHelper, command: Sequence[str], **more: Any) -> LocalProcess:
        if command[0] != "tar" or "--sparse" not in command:
            return start(self, command, **more)
        (data / "a").rename(data.parent / "kept")
        other.rename(data / "a")
        monkeypatch.setattr(LocalHelper, "start", start)
        process = start(self, command, **more)
        finish = process.close_stdin

        def closed() -> None:
            finish()
            time.sleep(0.5)  # it has opened it
            (data / "a").rename(other)
            (data.parent / "kept").rename(data / "a")

        monkeypatch.setattr(process, "close_stdin", closed)
        return process

    monkeypatch.setattr(LocalHelper, "start", exchanging)


def test_what_was_in_the_place_of_a_name_for_a_moment_is_not_the_content_of_the_other(
    repository: Repository, volume: LocalVolume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large_with_holes(volume.data, "a", "b")
    write_sparse(bytes(tmp_path / "other"), 2 * MIB, {MIB: b"another"})
    exchanged_while_it_is_read(monkeypatch, volume.data, tmp_path / "other")
    stats = volume.back_up(repository)
    target = restored_whole(repository, stats.ref, tmp_path / "one")
    assert (target / "a").stat().st_size == 2 * MIB
    assert_one_file(target, "b")


def test_a_migration_into_a_volume_leaves_nothing_of_a_restore_there(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for each in (source, target / HALF_TREE, target / OLD_TREE, target / NEW_TREE):
        each.mkdir(parents=True)
        (each / "file").write_text(each.name)
    helpers = [LocalHelper(each, tmp_path) for each in (source, target)]
    try:
        here, there = (
            Place(cast("Any", helper), str(each))
            for helper, each in zip(helpers, (source, target), strict=True)
        )
        transfer = Transfer(here, there, tmp_path / "transfer", Silent())
        transfer.compare_first()
        transfer.run(last=True)
        transfer.check(checksum=True)
    finally:
        for helper in helpers:
            helper.end()
    assert_same(snapshot(source), snapshot(target))


def test_thousands_of_names_of_a_file_with_holes_are_looked_at_together(
    repository: Repository, volume: LocalVolume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of a length at which both the question and the answer are more than a pipe holds.
    names = ["a", *(f"{'b' * 240}/{number:05}" for number in range(2500))]
    large_with_holes(volume.data, *names)
    started: list[Sequence[str]] = []
    start = LocalHelper.start

    def counted(self: LocalHelper, command: Sequence[str], **more: Any) -> LocalProcess:
        started.append(command)
        return start(self, command, **more)

    monkeypatch.setattr(LocalHelper, "start", counted)
    stats = volume.back_up(repository)
    assert len(started) < 10
    assert_one_file(restored_whole(repository, stats.ref, tmp_path / "one"), *names)
