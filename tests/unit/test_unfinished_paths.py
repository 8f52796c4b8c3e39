"""The mark of restores of paths that did not end: it goes when all of those paths are there whole, and no sooner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parts.local_helper import LocalHelper, LocalVolume
from tests.parts.told import Told
from volferry.archive.commands import RESTORE_MARK
from volferry.archive.restore_mark import KnownMarks
from volferry.archive.selection import Selection
from volferry.errors import CommandFailed, StoreError, VolumeNotEmpty
from volferry.observer import Silent
from volferry.operations.backup_reader import BackupReader
from volferry.operations.excerpt import BackupExcerpt
from volferry.operations.restore import restore_backup
from volferry.operations.restore_paths import restore_paths
from volferry.operations.unfinished_paths import UnfinishedPaths, from_text, left_of, rest_of, to_text
from volferry.repository import Repository
from volferry.stores.local import LocalStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from volferry.model import BackupStats

NAMES = [b"f10", b"f11", b"dir", "ä ' \"\n".encode(), b"\xff\\"]


@dataclass(frozen=True, slots=True)
class Case:
    backup: BackupReader
    volume: LocalVolume
    repository: Repository
    helper: LocalHelper

    @property
    def mark(self) -> Path:
        return self.volume.data / RESTORE_MARK

    def restore(self, *paths: bytes, cut: bool = False, recorded: bool = False) -> list[str]:
        """With --replace; `cut`: the store goes away before the end; `recorded`: this machine knows of one that has not ended. What people are told."""
        excerpt = BackupExcerpt(self.backup, Selection(paths))
        told = Told()

        def check() -> None:
            if cut:
                raise StoreError("gone")

        restore_paths(
            excerpt,
            "vol",
            helper=cast("Any", self.helper),
            observer=told,
            replace=True,
            empty=False,
            check_free=check,
            marks=KnownMarks(unfinished=recorded),
        )
        return told.notes

    def interrupt(self, *paths: bytes) -> None:
        with pytest.raises(StoreError):
            self.restore(*paths, cut=True)

    def back_up(self) -> BackupStats:
        return self.volume.back_up(self.repository)

    def refuses_to_back_up(self) -> bool:
        try:
            self.back_up()
        except CommandFailed as error:
            return "interrupted restore" in str(error)
        return False


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    data, spool = tmp_path / "data", tmp_path / "spool"
    data.mkdir()
    spool.mkdir()
    for name in NAMES:
        place = data / name.decode("utf-8", "surrogateescape")
        if name == b"dir":
            place.mkdir()
            (place / "inside").write_text("of a directory")
            (place / "other").write_text("of a directory, too")
        else:
            place.write_bytes(name * 1000)
    repository, _ = Repository.open_or_create(LocalStore(tmp_path / "store"))
    volume = LocalVolume(data, tmp_path / "state")
    helper = LocalHelper(data, spool)
    backup = BackupReader(repository, volume.back_up(repository).ref, spool=spool)
    yield Case(backup, volume, repository, helper)
    helper.end()


def test_a_smaller_restore_does_not_complete_a_larger_one(case: Case) -> None:
    case.interrupt(*NAMES)
    (note,) = case.restore(b"f10")
    assert "still holds the rest of an interrupted restore" in note
    assert f"and 3 more of {case.backup.ref}" in note
    assert case.refuses_to_back_up()


def test_all_of_it_in_several_restores_completes_it(case: Case) -> None:
    case.interrupt(*NAMES)
    assert case.restore(*NAMES[:2])
    assert case.restore(*NAMES[3:])
    assert case.restore(*NAMES[2:]) == []
    assert not case.mark.exists()
    case.back_up()


@pytest.mark.parametrize("paths", [NAMES, NAMES[::-1]])
def test_the_same_command_completes_it(case: Case, paths: list[bytes]) -> None:
    case.interrupt(*NAMES)
    assert case.restore(*paths) == []
    assert not case.refuses_to_back_up()


def test_a_part_of_a_directory_does_not_complete_it_and_the_directory_completes_its_parts(case: Case) -> None:
    case.interrupt(b"dir")
    assert case.restore(b"dir/inside")
    assert case.refuses_to_back_up()
    assert case.restore(b"dir") == []
    case.interrupt(b"dir/inside", b"dir/other")
    assert case.restore(b"dir") == []
    assert not case.refuses_to_back_up()


def test_one_that_is_interrupted_too_is_added(case: Case) -> None:
    case.interrupt(b"f10")
    case.interrupt(b"dir/inside")
    assert case.restore(b"f10")
    assert case.refuses_to_back_up()
    assert case.restore(b"dir/inside") == []
    assert not case.refuses_to_back_up()


def test_a_restore_of_everything_completes_it(case: Case) -> None:
    case.interrupt(*NAMES)
    restore_backup(case.backup, "vol", helper=cast("Any", case.helper), observer=Silent(), empty_first=True)
    assert not case.refuses_to_back_up()


@pytest.mark.parametrize(
    "text",
    [
        "host/vol@x",
        "import",
        "",
        "paths of host/vol@x",
        "paths of []",
        'paths of [["a", []]]',
        "paths of " + "[" * 60_000,
    ],
)
def test_what_is_no_mark_of_paths_is_completed_by_no_paths(case: Case, text: str) -> None:
    case.mark.write_text(text)
    with pytest.raises(
        VolumeNotEmpty, match=r"^volume vol .*`volferry restore BACKUP --replace` completes it$"
    ):
        case.restore(b"f10", recorded=True)
    assert case.mark.read_text() == text


def test_so_many_paths_that_no_mark_takes_them_are_completed_by_the_same_ones() -> None:
    many = Selection(b"%d" % number for number in range(10_000))
    mark = UnfinishedPaths.of("host/vol@x", many)
    text = to_text([mark])
    assert len(text) < 200
    assert from_text(text) == (mark,)
    assert left_of([mark], Selection(many.roots[1:])) == (mark,)
    assert left_of([mark], many) == ()
    assert "the same command" in str(mark)


SELECTIONS = st.lists(
    st.lists(st.sampled_from([b"a", b"b", b"\xff", "é".encode(), b'"\n', b" "]), min_size=1, max_size=3).map(
        b"/".join
    ),
    min_size=1,
    max_size=5,
).map(Selection)


@given(st.lists(SELECTIONS, min_size=1, max_size=3))
def test_what_is_written_is_read_again_from_one_line(selections: list[Selection]) -> None:
    unfinished = tuple(UnfinishedPaths.of("host/vol@x", each) for each in selections)
    text = to_text(unfinished)
    assert "\n" not in text
    assert text.strip() == text
    assert from_text(text) == unfinished


@given(SELECTIONS, SELECTIONS)
def test_what_is_left_is_what_was_not_restored(unfinished: Selection, restored: Selection) -> None:
    left = left_of([UnfinishedPaths.of("x", unfinished)], restored)
    paths = {path for each in left for path in each.paths}
    assert paths == {path for path in unfinished.roots if not restored.covers(path)}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("import", "import"),
        ("migration of data from ABCD:EFGH", "migration"),
        ("host/volume@20261123T222016Z-0dd092", "restore"),
        ("imported", "restore"),
        ("", "restore"),
    ],
)
def test_a_mark_says_whose_rest_it_is(text: str, kind: str) -> None:
    found, step = rest_of(text)
    assert found == kind
    assert {"import": "volferry import", "migration": "volferry migrate", "restore": "volferry restore"}[
        kind
    ] in step
