"""A directory without the set-group-ID bit that lies in one that has it: whatever makes it anew, it has the mode that it had."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.parts.local_helper import LocalHelper, LocalVolume
from volferry.archive import tree_scripts
from volferry.archive.foreign_tar import ForeignTar, Strip
from volferry.archive.selection import Selection
from volferry.errors import RestoreMismatch
from volferry.observer import Silent
from volferry.operations.archive_members import ArchiveMembers
from volferry.operations.backup_reader import BackupReader
from volferry.operations.excerpt import BackupExcerpt
from volferry.operations.places import Place
from volferry.operations.restore import mark, restore_backup
from volferry.operations.restore_beside import restore_beside
from volferry.operations.restore_directory import restore_into_directory
from volferry.operations.restore_paths import restore_paths
from volferry.operations.tar_import import import_tar
from volferry.operations.transfer import Transfer
from volferry.repository import Repository
from volferry.stores.local import LocalStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.parts.local_helper import LocalProcess

MODES = (0o600, 0o700, 0o000, 0o755, 0o2700, 0o2755, 0o1700)


@pytest.fixture(autouse=True)
def own_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the one in the helper's image."""
    monkeypatch.setattr(tree_scripts, "PYTHON", sys.executable)


class Case:
    """Trees in which the root and one directory of each mode are, one in another."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.source, self.target, self.spool = (place / name for name in ("source", "target", "spool"))
        for each in (self.source, self.target, self.spool):
            each.mkdir()
        fill(self.source)
        self.helpers: list[LocalHelper] = []

    def helper(self, directory: Path | None = None) -> Any:
        self.helpers.append(LocalHelper(directory or self.target, self.spool))
        return cast("Any", self.helpers[-1])

    def backup(self) -> BackupReader:
        repository, _ = Repository.open_or_create(LocalStore(self.place / "store"))
        stats = LocalVolume(self.source, self.place / "state").back_up(repository)
        return BackupReader(repository, stats.ref, spool=self.spool)


def fill(root: Path) -> None:
    for outer in MODES:
        directory = root / f"{outer:o}"
        for inner in MODES:
            below = directory / f"{inner:o}"
            below.mkdir(parents=True)
            (below / "file").write_text("a file")
            below.chmod(inner)
        os.setxattr(directory, "user.name", b"value")
        subprocess.run(["setfacl", "-d", "-m", "u:1234:rwx", str(directory)], check=True)
        directory.chmod(outer)
    root.chmod(0o2755)


def modes(root: Path) -> dict[str, tuple[int, int, list[str]]]:
    """Mode, time in nanoseconds and attributes, by path."""
    return {
        str(path.relative_to(root)): (
            path.lstat().st_mode & 0o7777,
            path.lstat().st_mtime_ns,
            sorted(os.listxattr(path)),
        )
        for path in [root, *root.rglob("*")]
    }


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    made = Case(tmp_path)
    yield made
    for helper in made.helpers:
        helper.end()


def _restored(case: Case) -> Sequence[str]:
    return restore_backup(
        case.backup(), "v", helper=case.helper(), observer=Silent(), empty_first=False
    ).warnings


def _restored_beside(case: Case) -> Sequence[str]:
    return restore_beside(case.backup(), "v", helper=case.helper(), observer=Silent()).warnings


def _restored_into_directory(case: Case) -> Sequence[str]:
    case.target.rmdir()
    case.target.parent.chmod(0o2755)
    return restore_into_directory(case.backup(), None, case.target, observer=Silent(), replace=False).warnings


def _migrated(case: Case) -> Sequence[str]:
    here, there = (Place(case.helper(each), str(each)) for each in (case.source, case.target))
    transfer = Transfer(here, there, case.spool / "leg", Silent())
    transfer.run()
    (case.source / "2755" / "later").mkdir(mode=0o700)
    (case.source / "2755" / "later").chmod(0o700)
    transfer.run()
    transfer.check_holds("v")
    transfer.check(checksum=True)
    return ()


@pytest.mark.parametrize("way", [_restored, _restored_beside, _restored_into_directory, _migrated])
def test_all_of_a_volume(case: Case, way: Callable[[Case], Sequence[str]]) -> None:
    case.target.chmod(0o2777)
    assert not way(case)
    assert modes(case.target) == modes(case.source)


@pytest.mark.parametrize("path", ["700", "755/600", "2755/700/file"])
def test_chosen_paths_and_the_directories_above_them(case: Case, path: str) -> None:
    backup = case.backup()
    directory = case.place / "directory"
    for each in (case.target, directory):
        each.mkdir(exist_ok=True)
        (each / "other").touch()
        each.chmod(0o2755)
    selection = Selection([path.encode()])
    excerpt = BackupExcerpt(backup, selection)
    stats = restore_paths(excerpt, "v", helper=case.helper(), observer=Silent(), replace=False, empty=False)
    assert stats.warnings == ()
    found = restore_into_directory(backup, selection, directory, observer=Silent(), replace=False)
    assert found.warnings == ()
    expected = modes(case.source)
    for each in (case.target, directory):
        there = {name: found for name, found in modes(each).items() if name not in {".", "other"}}
        assert path in there
        assert there == {name: expected[name] for name in there}


def test_an_archive_of_others(case: Case) -> None:
    with tarfile.open(case.place / "archive", "w") as tar:
        for each in sorted(case.source.iterdir()):
            tar.add(each, each.name)
    case.target.chmod(0o2755)
    helper = case.helper()
    mark(helper, "v", "import")
    with ArchiveMembers(case.place / "members") as members, (case.place / "archive").open("rb") as file:
        source = ForeignTar(file, Strip(), members.add)
        there = Place(helper, str(case.target))
        assert import_tar(source, members, 0, there, "v", case.spool, Silent()) == ()
    assert {name: each[0] for name, each in modes(case.target).items()} == {
        name: each[0] for name, each in modes(case.source).items()
    }


@given(
    tree=st.lists(st.tuples(st.sampled_from(MODES), st.integers(0, 5)), max_size=6),
    root=st.sampled_from((0o2700, 0o2755, 0o755)),
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_modes_one_in_another(tree: list[tuple[int, int]], root: int) -> None:
    with TemporaryDirectory() as directory:
        _check_any_modes(Path(directory), tree, root)


def _check_any_modes(place: Path, tree: list[tuple[int, int]], root: int) -> None:
    for name in ("source", "target", "spool"):
        (place / name).mkdir()
    (place / "source").chmod(root)
    (place / "target").chmod(0o2755)
    made = [place / "source"]
    for number, (mode, above) in enumerate(tree):
        made.append(made[above % len(made)] / str(number))
        made[-1].mkdir()
        made[-1].chmod(mode)
    helpers = [LocalHelper(place / name, place / "spool") for name in ("source", "target")]
    try:
        here, there = (
            Place(cast("Any", helper), str(place / name))
            for helper, name in zip(helpers, ("source", "target"), strict=True)
        )
        transfer = Transfer(here, there, place / "leg", Silent())
        transfer.run()
        transfer.check(checksum=True)
        assert modes(place / "target") == modes(place / "source")
    finally:
        for helper in helpers:
            helper.end()


class StubbornHelper(LocalHelper):
    """Nobody may change a mode there."""

    def start(self, command: Sequence[str], **more: Any) -> LocalProcess:
        if "--extract" in command and "--acls" not in command:
            command = [
                "sh",
                "-c",
                'echo "tar: a: Cannot change mode to rwx------: Operation not permitted" >&2; exit 2',
            ]
        return super().start(command, **more)


def test_a_bit_that_stays_is_a_difference(case: Case) -> None:
    case.target.chmod(0o2755)
    case.helpers.append(StubbornHelper(case.target, case.spool))
    helper = cast("Any", case.helpers[-1])
    stats = restore_backup(case.backup(), "v", helper=helper, observer=Silent(), empty_first=False)
    (warning,) = stats.warnings
    assert warning.endswith("have another mode than in the backup; the first: '0' has mode 2000 instead of 0")

    here = Place(case.helper(case.source), str(case.source))
    transfer = Transfer(here, Place(helper, str(case.target)), case.spool / "leg", Silent())
    subprocess.run(["find", str(case.target), "-mindepth", "1", "-delete"], check=True)
    transfer.run()
    with pytest.raises(RestoreMismatch, match="'0' has mode 2000 instead of 0"):
        transfer.check(checksum=False)
