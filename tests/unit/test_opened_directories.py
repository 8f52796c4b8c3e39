"""What a user who is not root restores into a directory, and what that replaces."""

from __future__ import annotations

import os
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.parts.local_helper import LocalVolume
from tests.parts.mounts import NOBODY
from volferry.observer import Silent
from volferry.operations.backup_reader import BackupReader
from volferry.operations.opened_directories import is_squashed
from volferry.operations.restore_directory import restore_into_directory
from volferry.operations.selecting import select_paths
from volferry.repository import Repository
from volferry.stores.local import LocalStore

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def nobody() -> Iterator[None]:
    """Everything is done with nobody's rights."""
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.fixture
def place() -> Iterator[Path]:
    """Pytest's own directories are closed to all but root."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture
def reader(place: Path) -> BackupReader:
    """Of a backup with `etc/conf`, a directory, and a link to it; all is nobody's."""
    data = place / "data"
    (data / "etc" / "conf").mkdir(parents=True)
    (data / "etc" / "conf" / "file").write_text("content")
    (data / "etc" / "current").symlink_to("conf")
    repository, _ = Repository.open_or_create(LocalStore(place / "store"))
    ref = LocalVolume(data, place / "state").back_up(repository).ref
    subprocess.run(["chown", "-R", str(NOBODY), place], check=True)
    return BackupReader(repository, ref, spool=place)


def restore(reader: BackupReader, path: str, to: Path) -> None:
    with nobody():
        restore_into_directory(reader, select_paths(reader, [path]), to, observer=Silent(), replace=True)


def test_links_to_directories_are_replaced(reader: BackupReader, place: Path) -> None:
    to = place / "to"
    with nobody():
        (to / "etc" / "real" / "deep").mkdir(parents=True)
        (to / "etc" / "current").symlink_to("real")
        (to / "etc" / "real" / "deep").chmod(0o300)
    restore(reader, "etc", to)
    assert sorted(each.name for each in (to / "etc").iterdir()) == ["conf", "current"]
    assert (to / "etc" / "current" / "file").read_text() == "content"


def test_the_directory_itself_need_not_be_the_users(reader: BackupReader, place: Path) -> None:
    to = place / "to"
    (to / "etc").mkdir(parents=True)
    os.chown(to / "etc", NOBODY, NOBODY)
    restore(reader, "etc/conf", to)
    assert (to / "etc" / "conf" / "file").read_text() == "content"


def test_looking_leaves_the_directorys_times(tmp_path: Path) -> None:
    os.utime(tmp_path, (1_600_000_000, 1_600_000_000))
    assert not is_squashed(tmp_path)
    assert tmp_path.stat().st_mtime == 1_600_000_000
