"""Places that cannot hold a store or a state directory: full, read-only, taken, gone."""

from __future__ import annotations

import random
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.damage.test_matrix import digest_of
from tests.parts.mounts import in_memory, mounted
from tests.parts.trees import assert_same, snapshot

if TYPE_CHECKING:
    from tests.parts.world import World


@pytest.fixture
def noise(world: World) -> str:
    """A volume of 12 MB that no compression makes smaller."""
    volume = world.volume()
    for number in range(3):
        (world.data(volume) / f"noise{number}").write_bytes(random.Random(number).randbytes(4 << 20))
    return volume


def test_a_full_disk_below_the_store_fails_the_backup_and_leaves_what_was_there(
    world: World, noise: str
) -> None:
    small = world.filled()
    expected = snapshot(world.data(small))
    with in_memory(world.directory / "small disk", "6m") as disk:
        cli = world.cli.at(store=disk / "store")
        cli.backup(small)
        before = digest_of(disk / "store")

        cli("backup", noise).fails_with(noise, "no space is left")

        assert digest_of(disk / "store") == before
        assert cli("list", noise, "--json").exits(0).json["backups"] == []
        cli.backup(small)
        cli("restore", small, "--into", "restored").exits(0)
        assert_same(expected, snapshot(world.data("restored")))
    assert world.own_containers() == []


def test_a_volume_too_large_for_the_store_does_not_keep_the_others_from_being_backed_up(
    world: World, noise: str
) -> None:
    before, after = world.filled("aaa"), world.filled("zzz")
    with in_memory(world.directory / "small disk", "6m") as disk:
        done = world.cli.at(store=disk / "store")("backup", "--all", "--json").exits(1)
    assert [each["volume"] for each in done.json["backups"]] == [before, after]
    assert [each["volume"] for each in done.json["failed"]] == [noise]


@pytest.mark.parametrize("channel", ["fifo", "stream"])
def test_a_full_disk_below_the_state_directory_fails_with_one_line(world: World, channel: str) -> None:
    root = world.directory / "volume"
    root.mkdir()
    volume = world.volume_at(root)
    for number in range(20_000):
        (root / f"a rather long name, so that the listing is long too {number}").touch()
    with in_memory(world.directory / "small disk", "1m") as disk:
        cli = world.cli.at(state=disk / "state").having(VOLFERRY_HELPER__CHANNEL=channel)
        done = cli("backup", volume).fails_with()
        assert "space" in done.complaints[0], done.story
        assert cli("list", "--json").exits(0).json["backups"] == []
        small = world.filled()
        cli.backup(small)
    assert world.objects("packs/*/*") == [] or len(world.objects("manifests")) == 1
    assert world.own_containers() == []


def test_a_state_directory_that_cannot_be_written_is_one_line(world: World) -> None:
    volume = world.filled()
    (world.directory / "file").write_text("")
    (world.directory / "read-only").mkdir()
    with mounted(world.directory / "read-only", "-t", "tmpfs", "-o", "ro", "tmpfs") as read_only:
        for state in (read_only / "state", world.directory / "file", world.directory / "file" / "below"):
            world.cli.at(state=state)("backup", volume).fails_with(str(state))
    assert not world.store.exists()


def test_a_store_that_is_mounted_read_only_can_be_read_and_not_written(world: World) -> None:
    volume = world.filled()
    (said,) = world.cli.backup(volume)
    before = digest_of(world.store)
    with mounted(world.directory / "mount", "--bind", str(world.store)) as mount:
        subprocess.run(["mount", "-o", "remount,bind,ro", mount], check=True)
        cli = world.cli.at(store=mount)
        cli("backup", volume).fails_with("read-only")
        assert [each["id"] for each in cli("list", "--json").exits(0).json["backups"]] == [said["id"]]
        cli("show", volume).exits(0)
        cli("export", volume, "-o", str(world.directory / "out.tar")).exits(0)
        cli("restore", volume, "--into", "restored").exits(0)
        assert_same(snapshot(world.data(volume)), snapshot(world.data("restored")))
        failed = [each["name"] for each in cli("doctor", "--json").exits(1).json["checks"] if not each["ok"]]
        assert failed == ["store"]
    assert digest_of(world.store) == before


def test_a_new_store_on_a_read_only_disk_is_one_line(world: World) -> None:
    volume = world.filled()
    with mounted(world.directory / "mount", "-t", "tmpfs", "-o", "ro", "tmpfs") as disk:
        world.cli.at(store=disk / "store")("backup", volume).fails_with("read-only")
    assert world.own_containers() == []


@pytest.mark.parametrize("place", ["file", "file/below"])
@pytest.mark.parametrize("command", ["backup", "list", "restore"])
def test_a_store_that_is_a_file_is_one_line_and_the_file_stays(
    world: World, place: str, command: str
) -> None:
    volume = world.filled()
    (world.directory / "file").write_text("mine")
    cli = world.cli.at(store=world.directory / place)
    nobody_has_seen_it = place == "file/below" and command != "backup"
    done = cli(command, *([] if command == "list" else [volume]))
    done.fails_with(str(world.directory / place), code=2 if nobody_has_seen_it else 1)
    assert (world.directory / "file").read_text() == "mine"
    assert world.own_containers() == []


@pytest.mark.parametrize("content", ["file", "directory/file", "volferry.toml", "manifests/a/b/c.json"])
def test_a_directory_that_holds_other_things_is_not_made_a_store(world: World, content: str) -> None:
    volume = world.filled()
    (world.store / content).parent.mkdir(parents=True)
    (world.store / content).write_text("mine")
    before = digest_of(world.store)
    world.cli("backup", volume).fails_with(str(world.store), "not empty")
    world.cli("list").fails_with(str(world.store), code=2)
    assert digest_of(world.store) == before


@pytest.mark.parametrize("content", [".hidden", "lost+found/"])
def test_what_every_disk_has_does_not_keep_a_directory_from_being_a_store(world: World, content: str) -> None:
    volume = world.filled()
    world.store.mkdir()
    if content.endswith("/"):
        (world.store / content).mkdir()
    else:
        (world.store / content).write_text("mine")
    world.cli.backup(volume)
    world.cli("restore", volume, "--into", "restored").exits(0)
    assert (world.store / content).exists()


def test_a_store_that_vanishes_during_a_backup_fails_it_and_is_not_made_again(
    world: World, noise: str
) -> None:
    world.cli.backup(world.filled())
    running = world.cli.start("backup", noise)
    assert running.until(world.reading_begins)
    running.send(signal.SIGSTOP)
    away = world.store.rename(world.directory / "away")
    running.send(signal.SIGCONT)

    running.outcome().fails_with(noise, str(world.store))

    assert not [path for path in world.directory.glob("store/**/*") if path.is_file()]
    assert not world.store.exists()
    assert len(list(away.glob("manifests/*/*/*"))) == 1
    away.rename(world.store)
    world.cli("backup", noise).exits(0)
    assert not any((world.store / ".tmp").glob("*"))
    world.cli("restore", noise, "--into", "restored").exits(0)
    assert_same(snapshot(world.data(noise)), snapshot(world.data("restored")))
