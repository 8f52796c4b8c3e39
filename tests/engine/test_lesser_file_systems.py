"""Real file systems that hold less than a disk's: restores onto them, and stores that are kept on them."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.parts.faults import fault
from tests.parts.fuse import through_fuse
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
    "nobody": {"owner": 5, "attribute": 1},
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


def test_what_its_owner_may_not_write_is_restored_where_root_is_nobody(
    world: World, backed_up: str, tmp_path: Path
) -> None:
    root = world.data(backed_up)
    expected = contents(root)
    (root / "directory").chmod(0o500)
    root.chmod(0o555)
    world.cli.backup(backed_up)
    with MOUNTS["nobody"](tmp_path / "place") as directory:
        target = world.volume_at(directory)
        for more in ([], ["--replace"], ["directory", "large", "--replace"]):
            done = world.cli("restore", backed_up, "--into", target, *more, "--json").exits(3)
            assert "mode" not in counted(done.json["warnings"])
            below = tmp_path / "below"
            assert contents(below) == expected
            assert (below.stat().st_mode, (below / "directory").stat().st_mode) == (0o40555, 0o40500)
            assert (below / "directory").stat().st_mtime_ns == TIME


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


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "paths"])
def test_a_restore_into_a_directory_counts_what_is_not_as_it_was(
    world: World, backed_up: str, place: tuple[str, Path], whole: bool
) -> None:
    kind, directory = place
    target = directory / "below"
    chosen = [] if whole else ["directory", "large"]
    done = world.cli("restore", backed_up, *chosen, "--to", str(target), "--json").exits(3)
    assert contents(target) == contents(world.data(backed_up))
    expected = {what: count if whole else min(count, 4) for what, count in EXPECTED[kind].items()}
    found = counted(done.json["warnings"])
    if whole and kind != "exfat":  # a new root directory has the mode that it is made with
        expected.pop("mode", None)
        found.pop("mode", None)
    assert found == expected, done.story


def test_a_restore_into_a_directory_that_knows_no_case_is_not_called_whole(
    world: World, tmp_path: Path
) -> None:
    volume = world.filled(Data="of Data", data="of data")
    world.cli.backup(volume)
    with MOUNTS["exfat"](tmp_path / "place") as directory:
        world.cli("restore", volume, "--to", str(directory / "out")).fails_with("is missing")


def test_an_archive_is_imported_and_counts_what_is_not_as_it_was(
    world: World, backed_up: str, place: tuple[str, Path], tmp_path: Path
) -> None:
    kind, directory = place
    archive = tmp_path / "it.tar"
    root = world.data(backed_up)
    subprocess.run(
        ["tar", "--create", f"--file={archive}", "--format=pax", "--xattrs", f"--directory={root}", "."],
        check=True,
    )
    target = world.volume_at(directory)

    done = world.cli("import", str(archive), "--into", target, "--json").exits(3)

    assert contents(directory) == contents(root)
    assert counted(done.json["warnings"]) == EXPECTED[kind], done.story
    world.cli("backup", target).exits(0)  # it has no mark


def test_an_archive_whose_names_differ_in_case_alone_is_not_imported_in_part(
    world: World, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("Data", "data"):
        (source / name).write_text(name)
    archive = tmp_path / "it.tar"
    subprocess.run(["tar", "--create", f"--file={archive}", f"--directory={source}", "."], check=True)
    with MOUNTS["exfat"](tmp_path / "place") as directory:
        target = world.volume_at(directory)
        world.cli("import", str(archive), "--into", target).exits(1)
        world.cli("backup", target).fails_with("interrupted")


def test_a_store_on_a_lesser_file_system_serves_every_command(world: World, place: tuple[str, Path]) -> None:
    _, directory = place
    volume = world.filled(one="1", two="2" * 100_000)
    cli = world.cli = world.cli.at(store=directory / "store")
    first, second = world.cli.backup(volume)[0]["id"], ""
    for content in ("3", "4", "5"):
        (world.data(volume) / "one").write_text(content)
        second = world.cli.backup(volume)[0]["id"]
    listed = cli("list", volume, "--json").exits(0).json["backups"]
    assert (len(listed), listed[0]["id"], listed[-1]["id"]) == (4, first, second)
    assert all(each["whole"] for each in listed)
    cli("verify", "--all", "--read").exits(0)
    cli("verify", "--share").exits(0)
    cli("restore", f"{volume}@{first}", "--into", "older").exits(0)
    assert (world.data("older") / "one").read_text() == "1"

    config = world.directory / "volferry.toml"
    config.write_text('[defaults]\nkeep = { last = 1 }\n[prune]\ngrace = "1d"\n')
    left = directory / "store" / ".tmp" / "0123.anothermachine.part"
    left.write_bytes(b"half of a pack")
    old = time.time() - 9 * 86400
    for path in [left, *(directory / "store" / "packs").rglob("*.zst")]:
        os.utime(path, (old, old))
    cli("prune", "--config", str(config)).exits(0)
    (kept,) = cli("list", volume, "--json").exits(0).json["backups"]
    assert kept["id"] == second
    cli("forget", f"{volume}@{second}").fails_with("always stays", code=2)
    cli("verify", "--all", "--read").exits(0)
    cli("restore", volume, "--into", "newer").exits(0)
    assert contents(world.data("newer")) == {"one": "5", "two": "2" * 100_000}
    # A replica beside it, and one that is made from it on a disk.
    for target in (directory / "replica", world.directory / "replica"):
        cli("copy", "--to", str(target)).exits(0)
        cli("verify", "--all", "--read", "--store", str(target)).exits(0)
    assert list((directory / "store" / ".tmp").iterdir()) == []


def test_volumes_of_the_same_letters_do_not_mix_in_a_store_that_knows_no_case(
    world: World, tmp_path: Path
) -> None:
    with MOUNTS["exfat"](tmp_path / "place") as directory:
        cli = world.cli.at(store=directory / "store")
        world.filled("Data", one="of Data")
        world.filled("data", one="of data")
        cli.backup("Data")
        cli("backup", "data").fails_with("'data'", "tells upper case from lower")
        assert [each["volume"] for each in cli("list", "--json").exits(0).json["backups"]] == ["Data"]
        cli("restore", "data", "--into", "other").fails_with("no backup of volume 'data'")
        cli("restore", "Data", "--into", "restored").exits(0)
        assert contents(world.data("restored")) == {"one": "of Data"}


def test_a_store_on_a_full_file_system_is_whole_once_there_is_room(world: World, tmp_path: Path) -> None:
    with MOUNTS["exfat"](tmp_path / "place") as directory:
        volume = world.filled(one="1")
        (world.data(volume) / "noise").write_bytes(os.urandom(4 << 20))
        cli = world.cli.at(store=directory / "store")
        cli.backup(world.filled(two="2"))
        room = directory / "room"
        with room.open("wb") as file:
            free = os.statvfs(directory)
            file.write(bytes(free.f_bavail * free.f_frsize - (2 << 20)))
        cli("backup", volume).fails_with("no space is left")
        assert "cannot hold a store" not in cli("doctor").exits(0).stdout
        room.unlink()
        cli.backup(volume)
        cli("verify", "--all", "--read").exits(0)
        assert list((directory / "store" / ".tmp").iterdir()) == []


def test_a_directory_is_imported_and_counts_what_is_not_as_it_was(
    world: World, backed_up: str, place: tuple[str, Path]
) -> None:
    kind, directory = place
    target = world.volume_at(directory)
    done = world.cli("import", backed_up, "--into", target, "--json").exits(3)
    assert contents(directory) == contents(world.data(backed_up))
    assert counted(done.json["warnings"]) == EXPECTED[kind], done.story
    world.cli("backup", target).exits(0)  # it has no mark


def test_what_a_server_denies_or_interrupts_is_told(world: World, tmp_path: Path) -> None:
    """Asked in the helper as it is: with its image, and without rights."""
    below = tmp_path / "below"
    (below / "dir").mkdir(parents=True)
    for each in range(60):
        (below / "dir" / f"file{each}").write_text("content")
    with through_fuse(below, tmp_path / "place") as faults:
        volume = world.volume_at(tmp_path / "place")
        world.cli("backup", volume).exits(0)
        faults.set(fault("readdir", errno.ENOENT, "/dir", 40))
        done = world.cli("backup", volume).exits(3)
        assert "could not be listed to its end" in done.story
        faults.set(fault("read", errno.EINTR, "/file7"))
        done = world.cli("backup", volume, "--full").exits(3)
        assert "interrupted" in done.story
