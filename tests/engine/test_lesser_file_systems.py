"""Restores onto real file systems that hold less than a backup does."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.parts.mounts import MOUNTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.parts.world import World

OWNER = 999
TIME = 1_600_000_001_123_456_789  # odd, and with nanoseconds: FAT holds every other second, exFAT every hundredth
# What each says of how much: the root, a directory, and three files, of which one has an attribute. bindfs takes tar's times and forgets them.
EXPECTED = {
    "exfat": {"mode": 5, "owner": 4, "time": 5, "attribute": 1},
    "squashed": {"owner": 4, "time": 5, "attribute": 1},
    "ignoring": {"mode": 4, "owner": 4, "time": 5, "attribute": 1},
}


@pytest.fixture
def backed_up(world: World) -> str:
    volume = world.volume()
    root = world.data(volume)
    (root / "directory").mkdir()
    for name in ("directory/one", "directory/two", "large"):
        (root / name).write_text(f"content of {name}\n" * (100_000 if name == "large" else 1))
    os.setxattr(root / "large", "user.origin", b"here")
    (root / "large").chmod(0o4711)
    for path in (root / "directory/one", root / "directory/two", root / "large", root / "directory"):
        mode = path.stat().st_mode & 0o7777
        os.chown(path, OWNER, OWNER)
        path.chmod(mode)
    for path in (root, *root.rglob("*")):
        os.utime(path, ns=(TIME, TIME))
    world.cli.backup(volume)
    return volume


@pytest.fixture(params=EXPECTED)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    with MOUNTS[request.param](tmp_path / "place") as directory:
        yield request.param, directory


def contents(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def counted(warnings: list[str]) -> dict[str, int]:
    """How many entries, by what could not be held."""
    found = {}
    for line in warnings:
        kind = next(
            kind
            for kind in ("access list", "attribute", "mode", "owner", "time")
            if f"{kind} " in line.partition(";")[0]
        )
        found[kind] = next(int(word) for word in line.split() if word.isdecimal())
    return found


def test_a_restore_is_done_and_counts_what_is_not_as_it_was(
    world: World, backed_up: str, place: tuple[str, Path]
) -> None:
    kind, directory = place
    target = world.volume_at(directory)

    done = world.cli("restore", backed_up, "--into", target, "--json").exits(3)

    assert contents(directory) == contents(world.data(backed_up))
    assert counted(done.json["warnings"]) == EXPECTED[kind], done.story
    # It is whole, and can be backed up and replaced.
    world.cli("backup", target).exits(0)
    world.cli("restore", backed_up, "--into", target, "--replace").exits(3)
    assert contents(directory) == contents(world.data(backed_up))


def test_chosen_paths_are_restored_so_too(world: World, backed_up: str, place: tuple[str, Path]) -> None:
    _, directory = place
    (directory / "other").write_text("stays")
    target = world.volume_at(directory)
    world.cli("restore", backed_up, "directory", "--into", target).exits(3)
    assert contents(directory) == {
        "other": "stays",
        "directory/one": "content of directory/one\n",
        "directory/two": "content of directory/two\n",
    }


def test_a_volume_that_was_made_for_it_is_kept(world: World, backed_up: str, tmp_path: Path) -> None:
    directory = tmp_path / "place"
    directory.mkdir()
    volume = world.volume_at(directory)
    world.cli("restore", backed_up, "--into", volume).exits(0)
    world.cli.backup(volume)
    expected = contents(directory)
    world.remove(volume)
    shutil.rmtree(directory)
    with MOUNTS["squashed"](directory):
        world.cli("restore", volume, "--with-options").exits(3)
        assert contents(directory) == expected
        assert world.exists(volume)
        world.remove(volume)


def test_doctor_notes_what_the_file_system_of_a_store_lacks(world: World, tmp_path: Path) -> None:
    with MOUNTS["exfat"](tmp_path / "place") as directory:
        cli = world.cli.at(store=directory / "store")
        said = cli("doctor").exits(0).stdout.splitlines()
        notes = [line for line in said if line.startswith("note  store: ")]
        assert len(notes) == 2, said
        assert "objects get their names by renaming" in notes[0]
        assert "refuses a second volume or host of the same letters" in notes[1]
        (store,) = [
            each for each in cli("doctor", "--json").exits(0).json["checks"] if each["name"] == "store"
        ]
        assert len(store["notes"]) == 2
        assert list(directory.iterdir()) == []
