"""Bind mounts of a container are backed up like volumes, each on its own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.engine.test_quiesce import state_of
from tests.parts.trees import SOCKET, assert_same, build_nasty_tree, snapshot

if TYPE_CHECKING:
    from pathlib import Path

    from tests.parts.world import World


@pytest.fixture
def bound(tmp_path: Path) -> Path:
    directory = tmp_path / "bound"
    directory.mkdir()
    return directory


def name_of(path: Path) -> str:
    return "bind:" + str(path).strip("/").replace("/", ":")


def test_each_mount_is_a_backup_of_its_own(world: World, bound: Path, tmp_path: Path) -> None:
    build_nasty_tree(bound)
    expected = snapshot(bound)
    expected.pop(SOCKET, None)
    settings = tmp_path / "app.conf"
    settings.write_text("key = value")
    settings.chmod(0o640)
    named, anonymous = world.filled(), world.anonymous_volume()
    (world.data(anonymous) / "a").write_text("anonymous")
    container = world.container(
        named,
        volumes=[f"{named}:/data", f"{anonymous}:/more", f"{bound}:/bound", f"{settings}:/etc/app.conf:ro"],
    )
    found = world.cli("backup", "--container", str(container.name), "--binds", "--json").exits(0, 3).json
    assert found["failed"] == []
    names = {backup["volume"] for backup in found["backups"]}
    assert names == {named, anonymous, name_of(bound), name_of(settings)}
    assert state_of(container)["Status"] == "running"
    world.cli("restore", name_of(bound), "--into", "again").exits(0)
    assert_same(expected, snapshot(world.data("again")))
    world.cli("restore", name_of(settings), "--to", str(tmp_path / "to")).exits(0)
    assert (tmp_path / "to" / "app.conf").read_text() == "key = value"
    assert (tmp_path / "to" / "app.conf").stat().st_mode & 0o777 == 0o640
    world.cli("restore", name_of(bound)).fails_with("--into", str(bound), code=2)
    assert not any(volume.startswith("bind") for volume in world.volumes())
    assert world.own_containers() == []
    shown = world.cli("show", name_of(bound), "--json").exits(0).json
    assert shown["volume"]["options"] == {"path": str(bound)}
    assert [each["name"] for each in shown["containers"]] == [container.name]


def test_volumes_knows_which_are_backed_up(world: World, bound: Path) -> None:
    (bound / "file").write_text("content")
    volume = world.filled()
    container = world.container(volume, volumes=[f"{volume}:/data", f"{bound}:/bound"])

    def line() -> str:
        text = world.cli("volumes", "--all").exits(0).stdout
        (found,) = [each for each in text.splitlines() if f"{bound} at /bound" in each]
        return found

    assert line().endswith("never")
    done = world.cli("backup", "--container", str(container.name), "--binds", "--json").exits(0).json
    (backup,) = [each for each in done["backups"] if each["volume"] == name_of(bound)]
    assert not line().endswith("never")
    shown = world.cli("volumes", "--all", "--json").exits(0).json
    assert [each["last_backup"] for each in shown["bind_mounts"]] == [backup["id"]]


def test_later_backups_store_what_changed(world: World, bound: Path) -> None:
    (bound / "large").write_bytes(os.urandom(3 << 20))
    container = world.container(world.volume(), volumes=[f"{bound}:/bound"])
    arguments = ["backup", "--container", str(container.name), "--binds", "--json"]
    world.cli(*arguments).exits(0)
    (bound / "new").write_text("n")
    (backup,) = world.cli(*arguments).exits(0).json["backups"]
    assert backup["base"] is not None
    assert backup["stored_bytes"] < 1 << 20
    assert [each["volume"] for each in world.cli("list", "--json").exits(0).json["backups"]] == [
        name_of(bound)
    ] * 2
    world.cli("verify", "--all", "--read").exits(0)


def test_who_writes_there_stands_still(world: World, bound: Path) -> None:
    """Also one that mounts a directory above."""
    (bound / "inner").mkdir()
    (bound / "inner" / "one").write_text("1")
    container = world.container(world.volume(), volumes=[f"{bound}/inner:/bound:ro"])
    other = world.container(world.volume(), volumes=[f"{bound}:/above"])
    started = state_of(other)["StartedAt"]
    untouched = state_of(container)["StartedAt"]
    arguments = ["backup", "--container", str(container.name), "--binds", "--quiesce", "stop", "--json"]
    (backup,) = world.cli(*arguments).exits(0).json["backups"]
    assert backup["downtime_seconds"] > 0
    assert state_of(other)["Status"] == "running"
    assert state_of(other)["StartedAt"] != started
    assert state_of(container)["StartedAt"] == untouched


def test_what_is_no_data_is_said_and_left_out(world: World, bound: Path) -> None:
    (bound / "one").write_text("1")
    world.store.mkdir(exist_ok=True)
    container = world.container(
        world.volume(),
        volumes=[
            f"{bound}:/bound",
            "/proc:/host-proc",
            "/:/host",
            f"{world.directory}:/all",
            "/dev/null:/null",
        ],
    )
    done = world.cli("backup", "--container", str(container.name), "--binds", "--json").exits(0)
    made = [backup["volume"] for backup in done.json["backups"]]
    assert [name for name in made if name.startswith("bind:")] == [name_of(bound)]
    said = {
        line.split(":")[1].strip(): line for line in done.stderr.splitlines() if line.startswith("left out")
    }
    assert set(said) == {"/proc", "/", str(world.directory), "/dev/null"}
    assert "own store or state" in said[str(world.directory)]


def test_mistakes(world: World, bound: Path) -> None:
    world.cli("backup", "--binds", world.filled()).fails_with("--container", code=2)
    world.cli("backup", "--binds", "--container", "nobody").fails_with("nobody")
    container = world.container(world.volume(), volumes=[f"{bound}:/bound"])
    world.cli("backup", "--container", str(container.name)).fails_with("mounts no volume")
    assert world.objects() == []
