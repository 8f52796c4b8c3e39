"""File systems that are mounted below a volume's root: what holds of the root need not hold of them."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.parts.faults import fault
from tests.parts.fuse import through_fuse
from tests.parts.local_helper import LocalVolume
from tests.parts.mounts import ext4_device, mounted
from tests.parts.restoring import restored_whole
from tests.parts.trees import assert_same, snapshot
from volferry.archive import tree_scripts
from volferry.archive.commands import list_command
from volferry.archive.listing import ListingReader
from volferry.repository import Repository
from volferry.stores.local import LocalStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.parts.fuse import Faults

MIB = 1 << 20  # a file that large is read again only because of itself


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.open_or_create(LocalStore(tmp_path / "store"))[0]


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[LocalVolume]:
    """Its root is a file system of the kernel's."""
    with (
        ext4_device(tmp_path / "image", made(tmp_path / "empty")) as device,
        mounted(tmp_path / "data", device),
    ):
        (tmp_path / "data" / "own").write_text("of the root")
        yield LocalVolume(tmp_path / "data", tmp_path / "state", settings={"suspicious": False})


def made(directory: Path) -> Path:
    directory.mkdir()
    return directory


@pytest.fixture
def share(volume: LocalVolume, tmp_path: Path) -> Iterator[Faults]:
    """A server's, in a directory of it whose name has a blank."""
    with (
        through_fuse(tmp_path / "served", tmp_path / "mounted") as faults,
        mounted(volume.data / "a share", "--bind", str(tmp_path / "mounted")),
    ):
        yield faults


def file_systems(directory: Path, spool: Path, *, one_file_system: bool = False) -> str:
    command = list_command(str(directory), str(spool), one_file_system=one_file_system)
    reader = ListingReader([subprocess.run(command, capture_output=True, check=True).stdout])
    assert list(reader.records())
    return reader.file_system


@pytest.mark.usefixtures("share")
def test_the_listing_says_of_which_file_systems_it_is(volume: LocalVolume, tmp_path: Path) -> None:
    assert file_systems(volume.data, tmp_path) == "ext4 fuse"
    assert file_systems(volume.data, tmp_path, one_file_system=True) == "ext4"
    assert file_systems(volume.data / "a share", tmp_path).split(" ")[0] == "fuse"
    (tmp_path / "to").symlink_to(volume.data)
    assert file_systems(tmp_path / "to", tmp_path) == "ext4 fuse"


def test_the_usual_volume_is_of_one(volume: LocalVolume, tmp_path: Path) -> None:
    assert file_systems(volume.data, tmp_path) == "ext4"


def test_what_is_read_of_holes_is_what_all_of_them_know(volume: LocalVolume, tmp_path: Path) -> None:
    script = f"{tree_scripts.HOLES_SCRIPT}\nimport os\nprint(holes_are_true())"

    def answer() -> str:
        return subprocess.run(
            [sys.executable, "-c", f"import os\n{script}"],
            cwd=volume.data,
            capture_output=True,
            check=True,
            text=True,
        ).stdout.strip()

    assert answer() == "True"
    with through_fuse(tmp_path / "served", volume.data / "a share"):
        assert answer() == "False"


def test_a_share_whose_clock_is_behind_has_no_record_trusted(
    repository: Repository, volume: LocalVolume, share: Faults, tmp_path: Path
) -> None:
    """Its files change twice within a second of its clock, and between them is a backup."""
    file = tmp_path / "served" / "file"
    share.set(fault("behind", 30, ""))
    file.write_text("one" * MIB)
    seconds = int(file.stat().st_ctime)
    first = volume.back_up(repository)
    assert first.findings == ()
    file.write_text("two" * MIB)
    now = int(file.stat().st_ctime)
    share.set(fault("behind", 30 + now - seconds, "/file"), fault("behind", 30, ""))
    second = volume.back_up(repository)
    assert second.base == first.ref.id
    restored = restored_whole(repository, second.ref, tmp_path / "restored")
    assert (restored / "a share" / "file").read_text() == "two" * MIB


def test_files_of_a_share_with_one_inode_number_have_their_own_bytes(
    repository: Repository, volume: LocalVolume, share: Faults, tmp_path: Path
) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / "served" / name).write_text(f"content of {name}")
    os.link(volume.data / "own", volume.data / "other")
    share.set(fault("inode", (volume.data / "own").stat().st_ino, ""))
    stats = volume.back_up(repository)
    assert stats.findings == ()
    restored = snapshot(restored_whole(repository, stats.ref, tmp_path / "restored") / "a share")
    assert_same(snapshot(tmp_path / "served"), restored)


def test_pages_of_what_is_mounted_below_are_written_back(
    repository: Repository, volume: LocalVolume, tmp_path: Path
) -> None:
    """Only then does the next store into one change the time of its file."""
    below = volume.data / "below"
    with ext4_device(tmp_path / "other image", made(tmp_path / "nothing")) as device, mounted(below, device):
        path = below / "file"
        path.write_bytes(bytes(200_000))
        os.sync()
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 200_000) as memory:
            memory[0] = 1
            time.sleep(2.5)
            volume.back_up(repository)
            memory[1] = 1
            time.sleep(0.1)
            second = volume.back_up(repository)
            restored = restored_whole(repository, second.ref, tmp_path / "restored")
            assert (restored / "below" / "file").read_bytes() == memory[:]
