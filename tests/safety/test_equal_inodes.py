"""Files that have one name each, and the same inode number: no server behind FUSE must give each its own."""

from __future__ import annotations

import io
import os
import tarfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.parts.faults import fault
from tests.parts.fuse import through_fuse
from tests.parts.local_helper import LocalHelper, LocalVolume
from tests.parts.restoring import restored_whole
from tests.parts.trees import Node, assert_same, snapshot, write_sparse
from volferry.archive import listing
from volferry.archive.alignment import Apart, align
from volferry.archive.alone import AloneStream
from volferry.archive.listing import Entry, parse_record
from volferry.archive.tarstream import TarReader, reading
from volferry.observer import Silent
from volferry.operations.names import Names
from volferry.operations.places import Place
from volferry.operations.transfer import Transfer
from volferry.operations.volume_reading import VolumeReading
from volferry.repository import Repository
from volferry.stores.local import LocalStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.parts.local_helper import LocalProcess

MIB = 1 << 20
MANY = 2500


def looked_at(directory: Path) -> dict[bytes, Node]:
    """Holes aside: behind FUSE they are zeros."""
    return {path: replace(node, sparse=False) for path, node in snapshot(directory).items()}


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.open_or_create(LocalStore(tmp_path / "store"))[0]


@pytest.fixture
def below(tmp_path: Path) -> Path:
    """What the server shows: files, a FIFO and a symlink, of which each has one name."""
    below = tmp_path / "below"
    below.mkdir()
    for directory in ("a", "b/c"):
        (below / directory).mkdir(parents=True)
        for name in ("one", "two", "zero"):
            (below / directory / name).write_text(f"{directory}/{name}" * len(name))
        (below / directory / "link").symlink_to(f"{directory} elsewhere")
        os.mkfifo(below / directory / "pipe")
    write_sparse(bytes(below / "holes"), 3 * MIB, {MIB: b"data"})
    (below / "large").write_bytes(os.urandom(9 * MIB))
    return below


@pytest.fixture(params=[0, 7])
def volume(
    below: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[LocalVolume]:
    monkeypatch.setattr(listing, "CHANGED_WITHIN_SECONDS", -3600)  # what was just written is trusted
    with through_fuse(below, tmp_path / "data") as faults:
        faults.set(fault("number", request.param, ""))
        yield LocalVolume(tmp_path / "data", tmp_path / "state", settings={"suspicious": False})


def with_names(below: Path) -> None:
    """A file with several, in two directories."""
    for name in ("a/other", "b/c/other", "the-last"):
        os.link(below / "a/one", below / name)


@pytest.fixture
def tars(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """The commands that have read a volume."""
    started: list[Sequence[str]] = []
    start = LocalHelper.start

    def counted(self: LocalHelper, command: Sequence[str], **more: Any) -> LocalProcess:
        if "--create" in command:
            started.append(command)
        return start(self, command, **more)

    monkeypatch.setattr(LocalHelper, "start", counted)
    return started


@pytest.mark.parametrize("has_names", [False, True])
def test_each_has_its_own_bytes_in_each_backup(
    repository: Repository, volume: LocalVolume, below: Path, tmp_path: Path, has_names: bool
) -> None:
    if has_names:
        with_names(below)
    for number, name in enumerate(("b/c/two", "a/one", "a/new")):
        stats = volume.back_up(repository)
        assert stats.findings == ()
        assert_same(
            looked_at(below), looked_at(restored_whole(repository, stats.ref, tmp_path / f"{number}"))
        )
        (below / name).write_text(f"new {number}")


class Warm:
    """As of containers that are stopped."""

    mode = "stop"
    warm = True
    downtime_seconds = 0.0

    def __init__(self, change: Any = lambda: None) -> None:
        self._change = change

    def begin(self) -> None:
        self._change()

    def findings(self) -> list[Any]:
        return []

    def end(self) -> None:
        pass


@pytest.mark.parametrize("has_names", [False, True])
def test_a_warm_backup_has_the_bytes_of_each(
    repository: Repository,
    volume: LocalVolume,
    below: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    has_names: bool,
) -> None:
    if has_names:
        with_names(below)

    def change() -> None:
        for name in ("a/one", "a/two", "b/c/two"):
            (below / name).write_text(f"new {name}")
        with (below / "large").open("r+b") as file:
            file.seek(5 * MIB)
            file.write(b"changed")

    still = Warm(change)
    monkeypatch.setattr("tests.parts.local_helper.MOVING", still)
    stats = volume.back_up(repository)
    assert stats.findings == ()
    assert_same(looked_at(below), looked_at(restored_whole(repository, stats.ref, tmp_path / "restored")))


@pytest.mark.parametrize("has_names", [False, True])
def test_a_migration_moves_the_bytes_of_each(
    volume: LocalVolume, below: Path, tmp_path: Path, has_names: bool
) -> None:
    """An import of a directory is one."""
    if has_names:
        with_names(below)
    target, spool = tmp_path / "target", tmp_path / "spool"
    for each in (target, spool):
        each.mkdir()
    helpers = [LocalHelper(each, spool) for each in (volume.data, target)]
    here, there = (
        Place(cast("Any", helper), str(directory))
        for helper, directory in zip(helpers, (volume.data, target), strict=True)
    )
    try:
        transfer = Transfer(here, there, tmp_path / "transfer", Silent())
        transfer.run()
        for name in ("a/one", "b/c/two"):
            (below / name).write_text(f"new {name}")
        transfer.run(last=True)
        transfer.check(checksum=True)
    finally:
        for helper in helpers:
            helper.end()
    found = looked_at(target)
    expected = looked_at(below)
    assert_same(expected, found)


@pytest.mark.parametrize("has_names", [False, True])
def test_no_process_is_started_for_each_of_them(
    repository: Repository,
    volume: LocalVolume,
    below: Path,
    tmp_path: Path,
    tars: list[Sequence[str]],
    has_names: bool,
) -> None:
    (below / "many").mkdir()
    for number in range(MANY):
        (below / "many" / f"{number:04}").write_text(f"{number}")
    if has_names:
        with_names(below)
    stats = volume.back_up(repository)
    assert stats.findings == ()
    assert len(tars) <= 1 + has_names
    assert_same(looked_at(below), looked_at(restored_whole(repository, stats.ref, tmp_path / "restored")))


def test_what_is_gone_when_it_is_to_be_read_is_a_finding(
    repository: Repository, volume: LocalVolume, below: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others have their bytes all the same."""
    with_names(below)

    def change() -> None:
        for name in ("a/two", "b/c/one", "b/c/zero"):
            (below / name).unlink()

    changed_once_listed(monkeypatch, change)
    stats = volume.back_up(repository)
    assert {(each.kind, each.path) for each in stats.findings} == {
        ("vanished", path) for path in (b"a/two", b"b/c/one", b"b/c/zero")
    }
    restored = looked_at(restored_whole(repository, stats.ref, tmp_path / "restored"))
    assert_same(looked_at(below), restored)


def changed_once_listed(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Before the first `tar` reads."""
    start = LocalHelper.start

    def changing(self: LocalHelper, command: Sequence[str], **more: Any) -> LocalProcess:
        if "--create" in command:
            monkeypatch.setattr(LocalHelper, "start", start)
            change()
        return start(self, command, **more)

    monkeypatch.setattr(LocalHelper, "start", changing)


@pytest.fixture
def own_volume(tmp_path: Path) -> LocalVolume:
    """On a file system of the kernel's, with a file of two names."""
    (tmp_path / "data").mkdir()
    for name in ("a", "b", "first", "x"):
        (tmp_path / "data" / name).write_text(f"content of {name}")
    os.link(tmp_path / "data" / "first", tmp_path / "data" / "second")
    return LocalVolume(tmp_path / "data", tmp_path / "state", settings={"suspicious": False})


@pytest.mark.parametrize("names", [("a", "x"), ("first", "x")])
def test_what_became_a_link_after_it_was_listed_is_read_alone(
    repository: Repository,
    own_volume: LocalVolume,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    names: tuple[str, str],
) -> None:
    """It may as well be another file, whose inode number was free again."""
    first, later = (own_volume.data / name for name in names)

    def change() -> None:
        later.unlink()
        os.link(first, later)

    changed_once_listed(monkeypatch, change)
    stats = own_volume.back_up(repository)
    assert stats.findings == ()
    restored = restored_whole(repository, stats.ref, tmp_path / "restored")
    for name in ("a", "b", "first", "second", "x"):
        assert (restored / name).read_text() == (own_volume.data / name).read_text()
    assert (restored / "first").samefile(restored / "second")
    assert not (restored / names[0]).samefile(restored / names[1])
    again = volume_of(own_volume).back_up(repository)
    assert_same(
        looked_at(own_volume.data), looked_at(restored_whole(repository, again.ref, tmp_path / "again"))
    )


def volume_of(volume: LocalVolume) -> LocalVolume:
    return LocalVolume(volume.data, volume.state, settings=volume.settings)


def test_a_warm_backup_that_cannot_read_it_alone_says_so(
    repository: Repository, own_volume: LocalVolume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change() -> None:
        (own_volume.data / "x").unlink()
        os.link(own_volume.data / "a", own_volume.data / "x")

    monkeypatch.setattr("tests.parts.local_helper.MOVING", Warm())
    capture = VolumeReading.capture

    def changed(self: Any, *arguments: Any) -> None:
        change()
        capture(self, *arguments)

    monkeypatch.setattr(VolumeReading, "capture", changed)
    stats = own_volume.back_up(repository)
    assert [(each.kind, each.path) for each in stats.findings] == [("unreadable", b"x")]
    assert not (restored_whole(repository, stats.ref, tmp_path / "restored") / "x").exists()


# What a server may say: by path, the number, and whether it is one more name of the file that last had that number.
FILES = st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=30)


def listed(files: Sequence[tuple[int, bool]]) -> list[tuple[bytes, bytes, int]]:
    """Records, with their inode numbers and which file each is of."""
    of: dict[int, int] = {}
    which: list[int] = []
    for at, (number, is_link) in enumerate(files):
        if not is_link:
            of[number] = at
        which.append(of.setdefault(number, at))
    return [
        (
            b"%03d//f 644 0 0 5 1.5000000000 %d.5000000000 %d %d " % (at, file, number, which.count(file)),
            b"%d" % number,
            file,
        )
        for at, ((number, _), file) in enumerate(zip(files, which, strict=True))
    ]


@settings(deadline=None)
@given(files=FILES)
def test_no_tar_meets_two_files_that_it_would_take_for_one(files: list[tuple[int, bool]]) -> None:
    names, firsts = Names(lambda: "fuse.some"), dict[bytes, bytes]()
    records = listed(files)
    for record, inode, _ in records:
        names.meet((record,))
        if parse_record(record).stat.links != b"1":
            names.add(inode, record, firsts.setdefault(inode, record))
    met: dict[bytes, int] = {}
    for record, inode, file in records:
        entry = parse_record(record)
        if names.any_links and entry.path not in names.later and not names.in_series(entry):
            assert met.setdefault(inode, file) == file


@settings(deadline=None)
@given(files=FILES)
def test_what_tar_calls_a_link_has_its_own_bytes_nonetheless(files: list[tuple[int, bool]]) -> None:
    """On any file system, and whatever the listing said of the numbers."""
    records = [(parse_record(record), file) for record, _, file in listed(files)]

    def member(entry: Entry, file: int, target: str = "") -> bytes:
        info = tarfile.TarInfo(entry.path.decode())
        info.mode, info.mtime = 0o644, 1.5
        info.pax_headers = {"mtime": "1.5"}
        content = b"" if target else b"%05d" % file
        info.size = len(content)
        if target:
            info.type, info.linkname = tarfile.LNKTYPE, target
        return info.tobuf(tarfile.PAX_FORMAT) + content.ljust(-(-len(content) // 512) * 512, b"\0")

    firsts: dict[bytes, str] = {}
    stream = b""
    for entry, file in records:
        first = firsts.setdefault(entry.stat.inode, entry.path.decode())
        stream += member(entry, file, "" if first == entry.path.decode() else first)
    files_of = {entry.path: file for entry, file in records}

    class Opened:
        def __init__(self, _: int, entry: Entry) -> None:
            data = member(entry, files_of[entry.path]) + bytes(1024)
            self._stream = AloneStream(io.BytesIO(data).readinto)

        def __enter__(self) -> AloneStream:
            return self._stream

        def __exit__(self, *_: object) -> None:
            pass

    stored: list[Entry] = []
    missing: list[bytes] = []
    frames = b"".join(
        bytes(raw)
        for _, raw in align(
            TarReader(reading(iter([stream + bytes(1024)]))),
            iter([(0, entry) for entry, _ in records]),
            stored=lambda _, entry: stored.append(entry),
            missing=lambda _, entry: missing.append(entry.path),
            apart=Apart(
                frozenset(), {}, lambda *_: (), cast("Any", Opened), lambda *_: None, lambda *_: None
            ),
        )
    )
    assert missing == []
    assert [entry.path for entry in stored] == [entry.path for entry, _ in records]
    with tarfile.open(fileobj=io.BytesIO(frames + bytes(1024))) as tar:
        for each in tar.getmembers():
            content = tar.extractfile(each)
            assert content is not None
            found = int(content.read())
            if not each.islnk() or listed_as_one(records, each.linkname, each.name):
                assert found == files_of[each.name.encode()]


def listed_as_one(records: Sequence[tuple[Entry, int]], *names: str) -> bool:
    one, other = (next(entry.stat for entry, _ in records if entry.path == name.encode()) for name in names)
    return one == other
