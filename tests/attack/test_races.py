"""A process exchanges directories and symlinks of a volume as fast as it can, while volferry reads or writes it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.attack.conftest import SECRET, ConfinedHelper, Decoys
from tests.parts.local_helper import LocalHelper, LocalVolume
from volferry.errors import VolferryError
from volferry.observer import Silent
from volferry.operations.backup_reader import BackupReader
from volferry.operations.excerpt import BackupExcerpt
from volferry.operations.places import Place
from volferry.operations.restore import restore_backup
from volferry.operations.restore_beside import restore_beside
from volferry.operations.restore_directory import restore_into_directory
from volferry.operations.restore_paths import restore_paths
from volferry.operations.selecting import select_matching
from volferry.operations.transfer import Transfer
from volferry.repository import Repository
from volferry.stores.local import LocalStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.attack.conftest import Outside

ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Case:
    """A volume, and its backup, of before anybody raced."""

    place: Path
    repository: Repository
    volume: LocalVolume
    helpers: list[LocalHelper]

    def helper(self, directory: Path, kind: type[LocalHelper] = LocalHelper) -> Any:
        spool = self.made(f"spool{len(self.helpers)}")
        self.helpers.append(kind(directory, spool))
        return cast("Any", self.helpers[-1])

    def made(self, name: str) -> Path:
        directory = self.place / name
        directory.mkdir()
        return directory

    def reader(self, ref: Any) -> BackupReader:
        return BackupReader(self.repository, ref, spool=self.made(f"reader{len(list(self.place.iterdir()))}"))


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    repository, _ = Repository.open_or_create(LocalStore(tmp_path / "store"))
    data = tmp_path / "data"
    data.mkdir()
    found = Case(tmp_path, repository, LocalVolume(data, tmp_path / "state"), [])
    yield found
    for helper in found.helpers:
        helper.end()


def tried(work: Callable[[], object]) -> bool:
    """Whether it succeeded: a race may well make it fail, as long as it says so."""
    try:
        work()
    except VolferryError:
        return False
    return True


def test_what_was_backed_up_in_a_race_leads_no_restore_out_of_its_target(
    case: Case, outside: Outside, racing: Callable[..., Any]
) -> None:
    decoys = Decoys.make(case.volume.data, outside.empty, file="new")
    refs = []
    with racing(case.volume.data, decoys):
        for _ in range(ROUNDS):
            tried(lambda: refs.append(case.volume.back_up(case.repository).ref))
    assert refs
    for number, ref in enumerate(refs):
        target = case.made(f"restored{number}")
        restore_backup(
            case.reader(ref), "v", helper=case.helper(target), observer=Silent(), empty_first=False
        )
        to = case.place / f"to{number}"
        restore_into_directory(case.reader(ref), None, to, observer=Silent(), replace=False)
        reader = case.reader(ref)
        excerpt = BackupExcerpt(reader, select_matching(reader, ["a*"]))
        paths = case.made(f"paths{number}")
        restore_paths(excerpt, "v", helper=case.helper(paths), observer=Silent(), replace=False, empty=True)
        outside.check()


def _whole(case: Case, backup: BackupReader, target: Path) -> None:
    restore_backup(
        backup, "v", helper=case.helper(target, ConfinedHelper), observer=Silent(), empty_first=False
    )


def _beside(case: Case, backup: BackupReader, target: Path) -> None:
    restore_beside(backup, "v", helper=case.helper(target, ConfinedHelper), observer=Silent())


def _paths(case: Case, backup: BackupReader, target: Path) -> None:
    excerpt = BackupExcerpt(backup, select_matching(backup, ["a*/*"]))
    restore_paths(
        excerpt, "v", helper=case.helper(target, ConfinedHelper), observer=Silent(), replace=True, empty=False
    )


def _directory(case: Case, backup: BackupReader, target: Path) -> None:
    del case
    restore_into_directory(backup, None, target, observer=Silent(), replace=True)


def _directory_paths(case: Case, backup: BackupReader, target: Path) -> None:
    del case
    restore_into_directory(backup, select_matching(backup, ["a*/*"]), target, observer=Silent(), replace=True)


@pytest.mark.parametrize("work", [_whole, _beside, _paths, _directory, _directory_paths])
def test_a_restore_into_what_somebody_races_in_changes_nothing_elsewhere(
    case: Case, outside: Outside, racing: Callable[..., Any], work: Callable[..., None]
) -> None:
    # The names that are restored are those of what is outside.
    for number in range(200):
        directory = case.volume.data / f"a{number:03}"
        (directory / "empty").mkdir(parents=True)
        (directory / "empty").chmod(0o777)
        (directory / "secret").write_bytes(b"planted")
        (directory / "new").write_bytes(b"planted")
    ref = case.volume.back_up(case.repository).ref
    for number in range(ROUNDS):
        target = case.made(f"target{number}")
        decoys = Decoys.make(target, outside.directory, file="secret")
        with racing(target, decoys):
            tried(partial(work, case, case.reader(ref), target))
        outside.check()


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_migration_of_what_somebody_races_in_changes_nothing_elsewhere(
    case: Case, outside: Outside, racing: Callable[..., Any], side: str
) -> None:
    source = case.volume.data
    decoys = Decoys.make(source, outside.directory, file="secret")
    for number in range(ROUNDS):
        target = case.made(f"target{number}")
        raced = source
        if side == "target":
            raced, decoys = target, Decoys.make(target, outside.directory, file="secret")
        transfer = Transfer(
            Place(case.helper(source), str(source)),
            Place(case.helper(target, ConfinedHelper if side == "target" else LocalHelper), str(target)),
            case.place / f"leg{number}",
            Silent(),
        )
        with racing(raced, decoys):
            tried(transfer.run)
            tried(transfer.run)
        outside.check()


def stored(case: Case) -> bytes:
    """Of all backups, the streams."""
    return b"".join(piece for ref in case.repository.refs() for piece in case.reader(ref).volume_stream())


def test_links_to_a_secret_bring_none_of_it_into_a_backup(case: Case, outside: Outside) -> None:
    data = case.volume.data
    (data / "link").symlink_to(outside.secret)
    (data / "above").symlink_to(outside.directory)
    (data / "chain").symlink_to("above")
    for name in ("CACHEDIR.TAG", ".volferry-restore-in-progress"):
        (data / "d").mkdir(exist_ok=True)
        (data / "d" / name).symlink_to(outside.secret)
    case.volume.back_up(case.repository)
    assert SECRET not in stored(case)
