"""A backup that is restored in place of what a volume holds: until it is there and equal, nothing of the volume is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.parts.local_helper import LocalHelper, LocalVolume
from tests.parts.trees import Node, assert_same, snapshot
from volferry.archive.commands import HALF_TREE, NEW_TREE, OLD_TREE, RESTORE_MARK
from volferry.archive.restore_mark import KnownMarks
from volferry.errors import CommandFailed, RestoreMismatch, VolferryError, VolumeInUse
from volferry.observer import Silent
from volferry.operations.backup_reader import BackupReader
from volferry.operations.place_listing import list_source
from volferry.operations.places import Place
from volferry.operations.restore_beside import make_room, restore_beside, room_beside
from volferry.repository import Repository
from volferry.stores.local import LocalStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tests.parts.local_helper import LocalProcess


class Told(Silent):
    """What people are told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


class Killed(BaseException):
    """Nothing that comes after it is done."""


class DyingHelper(LocalHelper):
    """Dies before, or right after, its nth command."""

    def __init__(self, directory: Path, spool: Path, *, at: int, after: bool) -> None:
        super().__init__(directory, spool)
        self._left = at
        self._after = after

    def start(self, command: Sequence[str], **more: Any) -> LocalProcess:
        self._left -= 1
        if self._left > 0:
            return super().start(command, **more)
        if self._left == 0 and self._after:
            process = super().start(command, **{**more, "stdin": False})
            while process.read(1 << 20):
                pass
            process.wait()
        raise Killed


@dataclass(frozen=True, slots=True)
class Case:
    repository: Repository
    backup: BackupReader
    source: Path
    target: Path
    spool: Path
    helpers: list[LocalHelper]

    def helper(self, made: LocalHelper | None = None) -> Any:
        self.helpers.append(made or LocalHelper(self.target, self.spool))
        return cast("Any", self.helpers[-1])

    def restore(
        self, *, helper: Any = None, observer: Told | None = None, check: Callable[[], None] = lambda: None
    ) -> None:
        restore_beside(
            self.backup, "v", helper=helper or self.helper(), observer=observer or Told(), check_free=check
        )

    def pack(self) -> Path:
        return next(path for path in self.repository_files() if path.name.endswith(".tar.zst"))

    def repository_files(self) -> list[Path]:
        return sorted(path for path in (self.spool.parent / "store").rglob("*") if path.is_file())


def fill(root: Path, word: str) -> None:
    (root / "directory/deep").mkdir(parents=True)
    for name in ("directory/one", "directory/deep/two", "-dash", "with space\nand line", ".hidden"):
        (root / name).write_text(f"{word} {name}\n" * 5000)
    os.link(root / ".hidden", root / "directory/name")
    (root / "link").symlink_to("nowhere")
    os.mkfifo(root / "fifo")
    os.setxattr(root / "-dash", "user.word", word.encode())
    os.chown(root / "directory", 12, 34)
    root.chmod(0o1750)
    os.utime(root / "directory/deep", ns=(5, 1_500_000_000_123_456_789))
    os.utime(root, ns=(7, 1_600_000_000_987_654_321))


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    source, target, spool = (tmp_path / name for name in ("source", "target", "spool"))
    for each in (source, target, spool):
        each.mkdir()
    fill(source, "new")
    repository, _ = Repository.open_or_create(LocalStore(tmp_path / "store"))
    stats = LocalVolume(source, tmp_path / "state").back_up(repository)
    (target / "directory").mkdir()  # a name that both have, one that is of another kind, and more
    (target / "directory/old").write_text("old")
    (target / "link").mkdir()
    (target / "link/inside").write_text("old")
    (target / "only here").write_text("old")
    (target / ".too").write_text("old")
    helpers: list[LocalHelper] = []
    yield Case(repository, BackupReader(repository, stats.ref, spool=spool), source, target, spool, helpers)
    for helper in helpers:
        helper.end()


def content(root: Path) -> dict[bytes, Node]:
    """All but the root."""
    return {path: node for path, node in snapshot(root).items() if path}


def own(root: Path) -> set[str]:
    return {RESTORE_MARK, NEW_TREE, OLD_TREE, HALF_TREE} & {path.name for path in root.iterdir()}


def test_the_volume_is_afterwards_as_the_backup_is_and_has_nothing_else(case: Case) -> None:
    case.restore()
    assert_same(snapshot(case.source), snapshot(case.target))


def test_what_a_volume_gave_as_a_default_to_new_files_is_not_in_what_is_restored(case: Case) -> None:
    subprocess.run(["setfacl", "-m", "d:u:77:rwx,u:77:rwx", case.target], check=True)
    case.restore()
    assert_same(snapshot(case.source), snapshot(case.target))


@pytest.mark.parametrize("damage", ["pack", "mismatch", "in use", "missing pack"])
def test_until_it_is_there_and_equal_nothing_of_the_volume_is_lost(case: Case, damage: str) -> None:
    before = snapshot(case.target)
    told = Told()

    def check() -> None:
        if damage == "in use":
            raise VolumeInUse("volume v is in use by db: stop it first")

    class Changing(LocalHelper):
        def start(self, command: Sequence[str], **more: Any) -> LocalProcess:
            if damage == "mismatch" and (self._directory / NEW_TREE / "link").is_symlink():
                (self._directory / NEW_TREE / "extra").touch()
            return super().start(command, **more)

    if damage == "pack":
        data = bytearray(case.pack().read_bytes())
        data[len(data) // 2] ^= 1
        case.pack().write_bytes(data)
    elif damage == "missing pack":
        case.pack().unlink()
    with pytest.raises(VolferryError):
        case.restore(helper=case.helper(Changing(case.target, case.spool)), observer=told, check=check)

    assert_same(before, snapshot(case.target))
    assert "nothing of what it holds was changed" in told.notes[-1]


def test_what_cannot_be_moved_takes_all_back(case: Case) -> None:
    """A mount point within the volume can be no part of an exchange."""
    place = case.target / "mounted"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
    try:
        (place / "inside").write_text("stays")
        before = snapshot(case.target)
        told = Told()
        with pytest.raises(CommandFailed, match=r"busy: .*mounted"):
            case.restore(observer=told)
        assert_same(before, snapshot(case.target))
        assert "nothing of what it holds was changed" in told.notes[-1]
        assert own(case.target) == set()
    finally:
        subprocess.run(["umount", place], check=True)


def test_what_comes_in_between_is_said_and_costs_nothing(case: Case) -> None:

    class Late(LocalHelper):
        """Somebody makes a directory in the volume where a file is to go, in the middle of the exchange."""

        def start(self, command: Sequence[str], **more: Any) -> LocalProcess:
            if HALF_TREE in command and "mkdir(half" in command[3]:
                script = command[3].replace("    rename(new", '    os.makedirs(b"link/x")\n    rename(new', 1)
                assert script != command[3]
                command = [*command[:3], script, *command[4:]]
            return super().start(command, **more)

    with pytest.raises(CommandFailed, match="link"):
        case.restore(helper=case.helper(Late(case.target, case.spool)))
    # What came in between is in the way of what was there: the mark stays, and nothing is gone.
    assert RESTORE_MARK in own(case.target)
    for name in ("directory/old", "link/inside", "only here", ".too"):
        places = [case.target / name, case.target / HALF_TREE / name]
        assert [place.read_text() for place in places if place.is_file()] == ["old"], name


def test_what_others_write_after_the_exchange_is_no_whole_restore(case: Case) -> None:
    class Late(LocalHelper):
        def start(self, command: Sequence[str], **more: Any) -> LocalProcess:
            if (self._directory / OLD_TREE).exists():
                (self._directory / "directory/one").write_text("of another client")
            return super().start(command, **more)

    with pytest.raises(RestoreMismatch, match="directory/one"):
        case.restore(helper=case.helper(Late(case.target, case.spool)))
    assert RESTORE_MARK in own(case.target)
    assert (case.target / OLD_TREE / "only here").read_text() == "old"


@pytest.mark.parametrize("name", [NEW_TREE, OLD_TREE, HALF_TREE])
@pytest.mark.parametrize("kind", ["symlink", "file"])
def test_what_has_the_name_of_its_own_trees_is_no_obstacle(case: Case, name: str, kind: str) -> None:
    place = case.target / name
    place.symlink_to("nowhere") if kind == "symlink" else place.touch()
    case.restore()
    assert_same(snapshot(case.source), snapshot(case.target))


def test_a_mark_that_cannot_be_made_costs_nothing(case: Case) -> None:
    (case.target / RESTORE_MARK / "below").mkdir(parents=True)
    before = snapshot(case.target)
    told = Told()
    with pytest.raises(CommandFailed, match=RESTORE_MARK):
        case.restore(observer=told)
    assert_same(before, snapshot(case.target))
    assert "nothing of what it holds was changed" in told.notes[-1]


@pytest.mark.parametrize("kind", ["directory", "symlink", "file"])
def test_the_rest_of_a_restore_is_in_no_backup(case: Case, tmp_path: Path, kind: str) -> None:
    place = case.source / NEW_TREE
    if kind == "directory":
        (place / "deep").mkdir(parents=True)
        (place / "deep/file").write_text("half")
    elif kind == "symlink":
        place.symlink_to("nowhere")
    else:
        place.touch()
    stats = LocalVolume(case.source, tmp_path / "other state", name="other").back_up(case.repository)
    backup = BackupReader(case.repository, stats.ref, spool=case.spool)
    assert not any(NEW_TREE.encode() in entry.path for entry in backup.volume_entries())
    assert backup.manifest.excluded.paths == (NEW_TREE,)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_anywhere_the_old_content_or_the_new_one_is_there_and_once_more_completes_it(
    case: Case, tmp_path: Path, after: bool
) -> None:
    old, new = content(case.target), content(case.source)
    saved = tmp_path / "saved"
    subprocess.run(["cp", "-a", case.target, saved], check=True)
    steps = 0
    while True:
        steps += 1
        shutil.rmtree(case.target)
        subprocess.run(["cp", "-a", saved, case.target], check=True)
        helper = case.helper(DyingHelper(case.target, case.spool, at=steps, after=after))
        try:
            case.restore(helper=helper)
        except (Killed, CommandFailed):
            pass
        else:
            break
        assert_one_is_whole(case, old, new)
        if RESTORE_MARK not in own(case.target):
            # It can be backed up, and the backup has what the volume held.
            stats = LocalVolume(case.target, tmp_path / f"state {steps}", name=f"v{steps}").back_up(
                case.repository
            )
            entries = BackupReader(case.repository, stats.ref, spool=case.spool).volume_entries()
            assert {entry.path for entry in entries if entry.path} in (old.keys(), new.keys())
        case.restore()
        assert_same(snapshot(case.source), snapshot(case.target))
    assert steps > 15


def assert_one_is_whole(case: Case, old: dict[bytes, Node], new: dict[bytes, Node]) -> None:
    """Together with what was on its way, or in the tree of the old content."""
    there = content(case.target)
    half = HALF_TREE.encode() + b"/"
    together = {
        path: replace(node, linked=frozenset(name.removeprefix(half) for name in node.linked))
        for path, node in (without_own(there) | below(there, HALF_TREE.encode())).items()
    }
    assert old in (together, below(there, OLD_TREE.encode())) or together == new


class Broken(LocalHelper):
    """An exchange is killed after that many renames."""

    def __init__(self, directory: Path, spool: Path, *, after: int) -> None:
        super().__init__(directory, spool)
        self._after = after
        self.was_killed = False

    def start(self, command: Sequence[str], **more: Any) -> LocalProcess:
        if self.was_killed:
            raise Killed
        if HALF_TREE in command and "mkdir(half" in command[3]:
            script = command[3].replace(
                "    os.rename(one, other)\n",
                f"    len(moved) == {self._after} and os.kill(os.getpid(), 9)\n    os.rename(one, other)\n",
                1,
            )
            assert script != command[3]
            self.was_killed = True
            command = [*command[:3], script, *command[4:]]
        return super().start(command, **more)


@pytest.mark.parametrize("first", [0, 2, 5, 6, 9])
def test_exchanges_that_are_killed_and_a_store_that_goes_away_cost_not_both(
    case: Case, tmp_path: Path, first: int
) -> None:
    old, new = content(case.target), content(case.source)
    saved, pack = tmp_path / "saved", case.pack()
    broken(case, after=first)
    assert_one_is_whole(case, old, new)
    subprocess.run(["cp", "-a", case.target, saved], check=True)
    for second in (1, 5, 6, 8):
        shutil.rmtree(case.target)
        subprocess.run(["cp", "-a", saved, case.target], check=True)
        broken(case, after=second)
        assert_one_is_whole(case, old, new)
        pack.rename(tmp_path / "away")
        told = Told()
        with pytest.raises(VolferryError):
            case.restore(observer=told)
        assert_one_is_whole(case, old, new)
        (tmp_path / "away").rename(pack)
    case.restore()
    assert_same(snapshot(case.source), snapshot(case.target))
    assert own(case.target) == set()


def broken(case: Case, *, after: int) -> None:
    helper = Broken(case.target, case.spool, after=after)
    with pytest.raises((Killed, CommandFailed)):
        case.restore(helper=case.helper(helper))
    assert helper.was_killed


def test_what_an_exchange_that_was_killed_has_kept_makes_room_for_the_next(
    case: Case, tmp_path: Path
) -> None:
    """Else the next one would begin with deleting what is whole."""
    case.target.rename(tmp_path / "other")
    case.target.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", case.target], check=True)
    try:
        (case.target / "old").write_bytes(bytes(1_200_000))
        counts = case.backup.manifest.volume_counts
        assert make_room(case.helper(), "v", counts).enough

        class Dying(LocalHelper):
            def start(self, command: Sequence[str], **more: Any) -> LocalProcess:
                if (self._directory / OLD_TREE / "old").exists():
                    raise Killed
                return super().start(command, **more)

        with pytest.raises(Killed):
            case.restore(helper=case.helper(Dying(case.target, case.spool)))
        assert not room_beside(case.helper(), "v", counts).enough
        assert make_room(case.helper(), "v", counts).enough
        assert_same(content(case.source), without_own(content(case.target)))
        case.restore()
        assert_same(snapshot(case.source), snapshot(case.target))
    finally:
        subprocess.run(["umount", case.target], check=True)


@pytest.mark.parametrize("marked", [True, False])
def test_half_of_an_exchange_is_in_no_backup(case: Case, tmp_path: Path, marked: bool) -> None:
    """Whether or not somebody has taken the mark away from the machine that has made it."""
    broken(case, after=2)
    if not marked:
        (case.target / RESTORE_MARK).unlink()
    with pytest.raises(CommandFailed, match="the rest of an interrupted restore"):
        LocalVolume(
            case.target, tmp_path / "state 2", name="v", settings={"marks": KnownMarks(unfinished=not marked)}
        ).back_up(case.repository)
    with pytest.raises(CommandFailed, match="the rest of an interrupted restore"):
        list_source(Place(case.helper(), str(case.target)), tmp_path / "listing", Silent())


def test_what_is_in_the_way_of_what_was_on_its_way_is_not_replaced(case: Case) -> None:
    """A service that was started again on half of its data."""
    broken(case, after=2)
    (name, *_) = (path.name for path in (case.target / HALF_TREE).iterdir())
    (case.target / name).mkdir()
    with pytest.raises(CommandFailed, match=f"'{name}' is there, and in {HALF_TREE} too: move one of them"):
        case.restore()
    (case.target / name).rmdir()
    case.restore()
    assert_same(snapshot(case.source), snapshot(case.target))


def without_own(found: dict[bytes, Node]) -> dict[bytes, Node]:
    names = {name.encode() for name in (RESTORE_MARK, NEW_TREE, OLD_TREE, HALF_TREE)}
    return {path: node for path, node in found.items() if path.split(b"/")[0] not in names}


def below(found: dict[bytes, Node], name: bytes) -> dict[bytes, Node]:
    return {
        path.removeprefix(name + b"/"): node for path, node in found.items() if path.startswith(name + b"/")
    }


def test_room_is_judged_by_bytes_and_inodes(case: Case, tmp_path: Path) -> None:
    counts = case.backup.manifest.volume_counts
    for options, room in (("size=64m", True), ("size=300k", False), ("size=64m,nr_inodes=200", False)):
        place = tmp_path / options
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", place], check=True)
        try:
            assert room_beside(case.helper(LocalHelper(place, case.spool)), "v", counts).enough is room
        finally:
            subprocess.run(["umount", place], check=True)
