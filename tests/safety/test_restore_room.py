"""A backup that can never fit costs nothing of what is there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.parts.local_helper import LocalHelper, LocalVolume
from tests.parts.mounts import in_memory
from tests.parts.told import Told
from tests.parts.trees import assert_same, snapshot
from volferry.archive.commands import RESTORE_MARK
from volferry.archive.selection import Selection
from volferry.archive.tree_scripts import PYTHON
from volferry.errors import CommandFailed, NoRoom
from volferry.observer import Silent
from volferry.operations.backup_reader import BackupReader
from volferry.operations.excerpt import BackupExcerpt
from volferry.operations.restore_directory import restore_into_directory
from volferry.operations.restore_paths import restore_paths
from volferry.operations.room import Wanted, check_volume_room, disk_usage
from volferry.repository import Repository
from volferry.stores.local import LocalStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.parts.local_helper import LocalProcess

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Case:
    backup: BackupReader
    source: Path
    small: Path
    helper: LocalHelper

    def look(self, helper: LocalHelper | None = None) -> None:
        used: Any = cast("Any", helper or self.helper)
        wanted = Wanted(self.backup, None, self.backup.manifest.volume_counts.tar_bytes)
        check_volume_room(wanted, "v", helper=used, freed=lambda: disk_usage(used, str(self.small))[1])

    def restore(self, *paths: bytes, replace: bool = True, looks_for_room: bool = True) -> None:
        restore_paths(
            BackupExcerpt(self.backup, Selection(paths)),
            "v",
            helper=cast("Any", self.helper),
            observer=Silent(),
            replace=replace,
            empty=False,
            looks_for_room=looks_for_room,
        )


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    """12 MiB of content in files that seem to hold 1 GiB more and 8 MiB twice, and a file system of 10 MiB that holds 6 of its own."""
    source, spool = tmp_path / "source", tmp_path / "spool"
    source.mkdir()
    spool.mkdir()
    (source / "large").write_bytes(os.urandom(8 * MIB))
    os.link(source / "large", source / "same")
    (source / "other").write_bytes(os.urandom(4 * MIB))
    with (source / "hole").open("wb") as file:
        file.truncate(1 << 30)
    repository, _ = Repository.open_or_create(LocalStore(tmp_path / "store"))
    stats = LocalVolume(source, tmp_path / "state").back_up(repository)
    with in_memory(tmp_path / "small", "10m") as small:
        (small / "old").write_bytes(bytes(6 * MIB))
        helper = LocalHelper(small, spool)
        yield Case(BackupReader(repository, stats.ref, spool=spool), source, small, helper)
        helper.end()


def test_what_cannot_fit_even_into_all_of_the_file_system_is_refused_in_one_line(case: Case) -> None:
    with pytest.raises(NoRoom) as caught:
        case.look()
    assert str(caught.value) == (
        "volume v has room for 10.5 MB, the backup needs 12.6 MB: nothing was changed; --trust restores all the same, "
        "as onto a file system that compresses"
    )


def test_what_fits_once_the_old_is_deleted_is_not_refused(case: Case) -> None:
    whole = Wanted(case.backup, Selection([b"large", b"same", b"hole"]), 1 << 40)
    used: Any = cast("Any", case.helper)
    check_volume_room(whole, "v", helper=used, freed=lambda: disk_usage(used, str(case.small))[1])
    with pytest.raises(NoRoom, match=r"^volume v has room for 4\.\d+ MB, the chosen paths need 8\.39 MB: "):
        check_volume_room(whole, "v", helper=used, freed=lambda: 0)


def test_where_nothing_is_known_of_the_room_nothing_is_refused(case: Case) -> None:
    class WithoutPython(LocalHelper):
        def start(self, command: Sequence[str], **more: Any) -> LocalProcess:
            return super().start(["false"] if PYTHON in command else command, **more)

    helper = WithoutPython(case.small, case.small)
    case.look(helper)
    helper.end()


def test_paths_that_cannot_fit_are_refused_before_anything_goes(case: Case) -> None:
    before = snapshot(case.small)
    with pytest.raises(
        NoRoom, match=r"^volume v has room for 4\.\d+ MB, the chosen paths need 8\.39 MB: nothing was changed"
    ):
        case.restore(b"large", b"hole")
    assert_same(before, snapshot(case.small))


def test_paths_that_take_the_place_of_what_they_replace_are_restored(case: Case) -> None:
    (case.small / "old").rename(case.small / "large")
    case.restore(b"large", b"same", b"hole")
    assert (case.small / "large").read_bytes() == (case.source / "large").read_bytes()
    assert (case.small / "hole").stat().st_size == 1 << 30


def test_it_is_tried_where_people_want_it(case: Case) -> None:
    with pytest.raises(CommandFailed):
        case.restore(b"large", looks_for_room=False)
    assert (case.small / RESTORE_MARK).exists()


@pytest.mark.parametrize("chosen", [None, Selection([b"large"])])
@pytest.mark.parametrize("new", [True, False])
def test_a_directory_that_is_too_small_keeps_what_it_holds(
    case: Case, chosen: Selection | None, *, new: bool
) -> None:
    directory = case.small / "new" / "er" if new else case.small
    if not new:
        (case.small / "other").write_bytes(bytes(MIB))
    before = snapshot(case.small)
    need = "the chosen paths need 8.39 MB" if chosen else "the backup needs 12.6 MB"
    with pytest.raises(NoRoom, match=f"^{directory} has room for .* MB, {need}: nothing was changed"):
        restore_into_directory(case.backup, chosen, directory, observer=Silent(), replace=True)
    assert_same(before, snapshot(case.small))


@pytest.mark.parametrize(
    ("chosen", "all_of"), [(None, "the backup"), (Selection([b"large"]), "the chosen paths")]
)
def test_a_disk_that_fills_up_is_named_and_so_is_what_is_left(
    case: Case, chosen: Selection | None, all_of: str
) -> None:
    told = Told()
    with pytest.raises(CommandFailed, match=f"^no space is left in {case.small}: tar: .*large"):
        restore_into_directory(
            case.backup, chosen, case.small, observer=told, replace=True, looks_for_room=False
        )
    assert told.notes == [
        f"{case.small} may not hold all of {all_of}, and files there may be empty or cut off: run the restore again, with --replace"
    ]


def test_a_directory_has_the_room_of_what_is_replaced_too(case: Case) -> None:
    (case.small / "old").rename(case.small / "large")
    restore_into_directory(case.backup, Selection([b"large"]), case.small, observer=Silent(), replace=True)
    assert (case.small / "large").read_bytes() == (case.source / "large").read_bytes()
