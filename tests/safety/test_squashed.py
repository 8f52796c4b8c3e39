"""A file system that treats root as any other user: whatever the modes of directories are, all ways of restoring write it whole."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import tarfile
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.parts.local_helper import LocalHelper, LocalVolume
from tests.parts.mounts import as_nobody
from volferry.archive.foreign_tar import ForeignTar, Strip
from volferry.engine.program_probes import PROGRAMS
from volferry.errors import CommandFailed, PathExists, VolumeInUse
from volferry.observer import Silent
from volferry.operations.archive_members import ArchiveMembers
from volferry.operations.backup_reader import BackupReader
from volferry.operations.excerpt import BackupExcerpt
from volferry.operations.places import Place
from volferry.operations.restore import begin, restore_backup, unmark, warnings_of
from volferry.operations.restore_beside import restore_beside
from volferry.operations.restore_directory import restore_into_directory
from volferry.operations.restore_paths import restore_paths
from volferry.operations.selecting import select_paths
from volferry.operations.tar_import import import_tar
from volferry.operations.transfer import Transfer
from volferry.repository import Repository
from volferry.stores.local import LocalStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tests.parts.local_helper import LocalProcess

MODES = (0o755, 0o555, 0o500, 0o300, 0o000, 0o2550, 0o1411)
ROOTS = (0o755, 0o555, 0o500, 0o300, 0o000)
TIME = 1_600_000_000_123_456_789


class Case:
    """Trees with a directory of each mode in one of each mode, and files in all of them."""

    def __init__(self, place: Path, root_mode: int, modes: Sequence[int] = MODES) -> None:
        self.place = place
        self.source, self.spool = place / "source", place / "spool"
        for each in (self.source, self.spool):
            each.mkdir()
        fill(self.source, root_mode, modes)
        self.repository, _ = Repository.open_or_create(LocalStore(place / "store"))
        self._stats = LocalVolume(self.source, place / "state").back_up(self.repository)
        self._stack = ExitStack()
        programs = place / "programs"  # all that the helper's image is sure to have
        programs.mkdir()
        for name in PROGRAMS:
            (programs / name).symlink_to(shutil.which(name) or name)
        self.environment = {"PATH": str(programs)}
        self.target = self._stack.enter_context(as_nobody(place / "place"))
        self.below = place / "below"
        self.helpers: list[LocalHelper] = []

    def helper(self, made: LocalHelper | None = None) -> Any:
        self.helpers.append(made or LocalHelper(self.target, self.spool, self.environment))
        return cast("Any", self.helpers[-1])

    def backup(self) -> BackupReader:
        return BackupReader(self.repository, self._stats.ref, spool=self.spool)

    def end(self) -> None:
        for helper in self.helpers:
            helper.end()
        self._stack.close()

    def hold_old(self) -> None:
        """In the target: what an earlier restore of another volume has left there."""
        for outer in MODES:
            above = self.below / f"old {outer:o}"
            above.mkdir()
            for inner in MODES:
                directory = above / f"{inner:o}"
                directory.mkdir()
                (directory / "file").write_text("old")
                directory.chmod(inner)
            above.chmod(outer)
        subprocess.run(["chown", "-R", "nobody:nogroup", self.below], check=True)


def fill(root: Path, mode: int, modes: Sequence[int]) -> None:
    for outer in modes:
        directory = root / f"{outer:o}"
        directory.mkdir()
        for inner in modes:
            below = directory / f"{inner:o}"
            below.mkdir()
            (below / "file").write_text("a file")
            (below / "file").chmod(0o400)
            os.utime(below / "file", ns=(TIME, TIME))
            os.utime(below, ns=(TIME + 1, TIME + 1))
            below.chmod(inner)
        os.link(directory / f"{modes[0]:o}" / "file", directory / "name")
        (directory / "link").symlink_to("nowhere")
        os.utime(directory, ns=(TIME + 2, TIME + 2))
        directory.chmod(outer)
    os.utime(root, ns=(TIME + 3, TIME + 3))
    root.chmod(mode)


def seen(root: Path) -> dict[str, tuple[int, int, str]]:
    """Mode, time of what is no link, and content, by path."""
    return {
        str(path.relative_to(root)): (
            path.lstat().st_mode,
            0 if path.is_symlink() else path.lstat().st_mtime_ns,
            path.read_text() if path.is_file() else "",
        )
        for path in [root, *root.rglob("*")]
    }


@pytest.fixture(params=ROOTS, ids=oct)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    made = Case(tmp_path, request.param)
    yield made
    made.end()


def _restored(case: Case, *, helper: Any = None) -> Sequence[str]:
    return restore_backup(
        case.backup(), "v", helper=helper or case.helper(), observer=Silent(), empty_first=False
    ).warnings


def _emptied(case: Case, *, helper: Any = None) -> Sequence[str]:
    return restore_backup(
        case.backup(), "v", helper=helper or case.helper(), observer=Silent(), empty_first=True
    ).warnings


def _beside(case: Case, *, helper: Any = None) -> Sequence[str]:
    return restore_beside(case.backup(), "v", helper=helper or case.helper(), observer=Silent()).warnings


def assert_warned(warnings: Sequence[str]) -> None:
    """Of owners alone."""
    assert [line for line in warnings if "another owner" not in line] == []
    assert warnings


@pytest.mark.parametrize("way", [_restored, _emptied, _beside])
@pytest.mark.parametrize("old", [0o755, 0o555, 0o500])
def test_all_of_a_volume(case: Case, way: Callable[[Case], Sequence[str]], old: int) -> None:
    if way is not _restored:
        case.hold_old()
    case.below.chmod(old)
    assert_warned(way(case))
    assert seen(case.below) == seen(case.source)
    # And once more, over what has these modes itself; the owner of a volume's root can at least look into it.
    case.below.chmod(case.source.stat().st_mode | 0o400)
    if case.below.stat().st_mode & 0o100:
        assert_warned(_beside(case))
        assert seen(case.below) == seen(case.source)


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "paths"])
def test_into_a_directory(case: Case, whole: bool) -> None:
    target = case.target / "new"
    selection = None if whole else select_paths(case.backup(), ["555", "0/300"])
    for replace in (False, True):
        found = restore_into_directory(case.backup(), selection, target, observer=Silent(), replace=replace)
        assert_warned(found.warnings)
        there, expected = seen(case.below / "new"), seen(case.source)
        if not whole or replace:  # it was there
            del there["."], expected["."]
        if not whole:
            assert {"0", "0/300", "0/300/file", "555/300/file"} <= there.keys()
            assert "0/755" not in there
            expected = {path: expected[path] for path in there}
            assert there["0"][0] == expected["0"][0]
        if not whole and replace:  # it stays, and gets another time
            del there["0"], expected["0"]
        assert there == expected
        if whole and not replace:
            (case.below / "new").chmod(0o555)


@pytest.mark.parametrize("empty", [True, False], ids=["empty", "beside others"])
def test_chosen_paths(case: Case, empty: bool) -> None:
    if not empty:
        for name in ("0", "500"):
            (case.below / name).mkdir()
            (case.below / name / "other").touch()
            (case.below / name).chmod(int(name, 8))
        subprocess.run(["chown", "-R", "nobody:nogroup", case.below], check=True)
        case.below.chmod(0o555)
    excerpt = BackupExcerpt(
        case.backup(), select_paths(case.backup(), ["0/300", "300/0", "500/555/file", "2550"])
    )
    for replace in (False, True):
        stats = restore_paths(
            excerpt, "v", helper=case.helper(), observer=Silent(), replace=replace, empty=empty
        )
        assert_warned(stats.warnings)
        there, expected = seen(case.below), seen(case.source)
        assert {"0/300/file", "300/0/file", "500/555/file", "2550/1411/file"} <= there.keys()
        if not empty:
            expected["."] = (0o40555, 0, "")
        assert there["."][0] == expected["."][0]
        for path in ("0/other", "500/other"):
            there.pop(path, None)
        if replace or not empty:  # the directories above were there, and get another time
            for found in (there, expected):
                found |= {path: (mode, 0, text) for path, (mode, _, text) in found.items() if mode & 0o40000}
        assert there == {path: expected[path] for path in there}
        if there["."][0] & 0o500 != 0o500:
            break
        case.below.chmod(0o555)
        empty = False


class Killed(BaseException):
    """Nothing that comes after it is done."""


class DyingHelper(LocalHelper):
    """Dies before its nth command."""

    def __init__(self, case: Case, *, at: int) -> None:
        super().__init__(case.target, case.spool, case.environment)
        self._left = at

    def start(self, command: Sequence[str], **more: Any) -> LocalProcess:
        self._left -= 1
        if self._left > 0:
            return super().start(command, **more)
        raise Killed


@pytest.mark.parametrize("way", [_emptied, _beside])
def test_killed_anywhere_the_same_command_completes_it(
    small: Case, way: Callable[..., Sequence[str]]
) -> None:
    steps = 0
    while True:
        steps += 1
        subprocess.run(["find", small.below, "-mindepth", "1", "-delete"], check=True)
        for name in ("old", "555"):
            (small.below / name / "deep").mkdir(parents=True)
            (small.below / name / "deep" / "file").touch()
            (small.below / name / "deep").chmod(0o500)
            (small.below / name).chmod(0o555)
        subprocess.run(["chown", "-R", "nobody:nogroup", small.below], check=True)
        small.below.chmod(0o555)
        try:
            way(small, helper=small.helper(DyingHelper(small, at=steps)))
        except (Killed, CommandFailed):
            assert_warned(way(small))
            assert seen(small.below) == seen(small.source)
        else:
            break
    assert steps > 8


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Case]:
    made = Case(tmp_path, 0o555, [0o555, 0o300])
    yield made
    made.end()


def test_what_fails_before_the_exchange_leaves_all_as_it_was(small: Case) -> None:
    small.hold_old()
    small.below.chmod(0o555)
    before = seen(small.below)

    def check() -> None:
        raise VolumeInUse("volume v is in use by db: stop it first")

    with pytest.raises(VolumeInUse):
        restore_beside(small.backup(), "v", helper=small.helper(), observer=Silent(), check_free=check)
    assert seen(small.below) == before


@pytest.mark.parametrize("empty_first", [False, True])
def test_what_fails_in_place_leaves_the_mode_of_the_root(small: Case, empty_first: bool) -> None:
    small.below.chmod(0o555)

    def check() -> None:
        raise VolumeInUse("volume v is in use by db: stop it first")

    with pytest.raises(VolumeInUse):
        restore_backup(
            small.backup(),
            "v",
            helper=small.helper(),
            observer=Silent(),
            empty_first=empty_first,
            check_free=check,
        )
    assert stat.S_IMODE(small.below.stat().st_mode) == 0o555
    assert_warned(_emptied(small))
    assert seen(small.below) == seen(small.source)


def test_what_cannot_be_put_there_leaves_the_modes_of_directories(small: Case) -> None:
    directory = small.below / "555"
    (directory / "300").mkdir(parents=True)
    directory.chmod(0)
    subprocess.run(["chown", "-R", "nobody:nogroup", small.below], check=True)
    small.below.chmod(0o500)
    before = seen(small.below)
    excerpt = BackupExcerpt(small.backup(), select_paths(small.backup(), ["555/300"]))
    with pytest.raises(PathExists):
        restore_paths(excerpt, "v", helper=small.helper(), observer=Silent(), replace=False, empty=False)
    with pytest.raises(PathExists):
        restore_into_directory(
            small.backup(),
            select_paths(small.backup(), ["555/300"]),
            small.target,
            observer=Silent(),
            replace=False,
        )
    assert {path: mode for path, (mode, *_) in seen(small.below).items()} == {
        path: mode for path, (mode, *_) in before.items()
    }


@pytest.mark.parametrize("strip", [0, 1])
def test_an_archive_of_others(case: Case, strip: int) -> None:
    with io.BytesIO() as out:
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            tar.add(case.source, "top" if strip else ".")
        data = out.getvalue()
    case.below.chmod(0o555)
    helper = case.helper()
    ground = begin(helper, "v", "import")
    with ArchiveMembers(case.place / "members") as members:
        archive = ForeignTar(
            io.BufferedReader(cast("io.RawIOBase", io.BytesIO(data))), Strip(strip), members.add
        )
        place = Place(helper, str(case.target))
        warnings = import_tar(archive, members, strip, place, "v", case.spool, Silent(), ground=ground)
    assert_warned(warnings)
    there, expected = seen(case.below), seen(case.source)
    assert there.keys() == expected.keys()
    # To the microsecond, as tarfile writes times.
    assert {path: (mode, at // 1000, text) for path, (mode, at, text) in there.items()} == {
        path: (mode, at // 1000, text) for path, (mode, at, text) in expected.items()
    }


def test_a_directory_is_imported(case: Case) -> None:
    case.below.chmod(0o555)
    helper = case.helper()
    ground = begin(helper, "v", "import")
    here = Place(case.helper(LocalHelper(case.source, case.spool, case.environment)), str(case.source))
    there = Place(helper, str(case.target))
    transfer = Transfer(here, there, case.spool / "leg", Silent(), lesser=True, ground=ground)
    transfer.run()
    (case.source / "0" / "0" / "later").write_text("later")
    (case.source / "555" / "300" / "file").unlink()
    transfer.run(last=True)
    transfer.set_modes(transfer.check(checksum=False))
    unmark(helper, "v")
    transfer.settle_root()
    assert transfer.log is not None
    assert_warned(warnings_of(transfer.log, transfer.differing, Silent()))
    assert seen(case.below) == seen(case.source)


def test_a_usual_volume_is_written_as_it_always_was(tmp_path: Path, small: Case) -> None:
    """Nothing of it costs anything there."""
    commands: list[Sequence[str]] = []

    class Counting(LocalHelper):
        def start(self, command: Sequence[str], **more: Any) -> LocalProcess:
            commands.append(command)
            return super().start(command, **more)

    target = tmp_path / "usual"
    target.mkdir()
    helper = small.helper(Counting(target, small.spool, small.environment))
    stats = restore_backup(small.backup(), "v", helper=helper, observer=Silent(), empty_first=False)
    assert stats.warnings == ()
    assert seen(target) == seen(small.source)
    assert len(commands) == 6  # mark, flush, extract, list, unmark, and the root's time
