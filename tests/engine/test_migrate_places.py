"""Volumes move to where their options lead: out of the engine's own data only with a yes, and over what was there only with another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.engine.test_migrate import expected_of, incomplete, moved, there, to
from tests.engine.test_quiesce import state_of, writing
from tests.parts.mounts import ext4_device, mounted
from tests.parts.trees import assert_same, snapshot

if TYPE_CHECKING:
    from pathlib import Path

    from tests.parts.world import World

__all__ = ["there", "to"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory of the other machine that holds data of its own."""
    directory = tmp_path / "place"
    directory.mkdir()
    (directory / "one").write_text("precious")
    (directory / "more").write_text("precious too")
    return directory


def leading_to(volume: str, **options: object) -> list[str]:
    return [part for key, value in options.items() for part in ("--option", f"{volume}:{key}={value}")]


def bound(volume: str, directory: Path) -> list[str]:
    return leading_to(volume, type="none", o="bind", device=directory)


# --- places that hold data --------------------------------------------------------------------------


def test_a_directory_that_holds_data_is_in_the_way(world: World, there: World, to: str, place: Path) -> None:
    volume = world.filled()
    container = writing(world, volume)
    began = state_of(container)["StartedAt"]
    before, volumes = snapshot(place), there.volumes()
    arguments = ["migrate", volume, "--to", to, *bound(volume, place)]
    planned = world.cli(*arguments, "--dry-run", "--json").exits(1).json
    (obstacle,) = planned["obstacles"]
    assert str(place) in obstacle
    assert "holds data: --into-existing" in obstacle
    for _ in range(2):
        world.cli(*arguments).fails_with(str(place), "holds data", "--into-existing")
        assert_same(before, snapshot(place))
        assert there.volumes() == volumes
    assert incomplete(there) == there.own_containers() == []
    assert state_of(container)["StartedAt"] == began


def test_a_directory_that_holds_data_is_replaced_after_a_yes(
    world: World, there: World, to: str, place: Path
) -> None:
    volume = world.filled()
    report = moved(world, volume, to, "--into-existing", "--checksum", *bound(volume, place))
    assert report["volumes"][0]["state"] == "existing"
    assert_same(expected_of(world, volume), snapshot(place))
    assert there.client.volumes.get(volume).attrs["Options"]["device"] == str(place)
    assert incomplete(there) == []


def test_an_empty_directory_needs_no_second_yes(world: World, there: World, to: str, tmp_path: Path) -> None:
    volume = world.filled()
    empty = tmp_path / "empty"
    empty.mkdir()
    assert moved(world, volume, to, *bound(volume, empty))["volumes"][0]["state"] == "new"
    assert_same(expected_of(world, volume), snapshot(empty))


def test_what_can_be_seen_only_in_the_volume_that_was_made_is_seen_before_anything_is_written(
    world: World, there: World, to: str, place: Path, tmp_path: Path
) -> None:
    volume = world.filled()
    container = writing(world, volume)
    began, volumes = state_of(container)["StartedAt"], there.volumes()
    with ext4_device(tmp_path / "image", place) as device:
        arguments = ["migrate", volume, "--to", to, *leading_to(volume, type="ext4", device=device)]
        world.cli(*arguments, "--dry-run").exits(0)
        for _ in range(2):
            outcome = world.cli(*arguments).fails_with(device, "holds data", "--into-existing")
            assert "goes on from there" not in outcome.stderr
        assert there.volumes() == volumes
        assert incomplete(there) == there.own_containers() == []
        assert state_of(container)["StartedAt"] == began
        with mounted(tmp_path / "device", device) as found:
            assert {path.name: path.read_text() for path in found.iterdir() if path.is_file()} == {
                "one": "precious",
                "more": "precious too",
            }
        moved(world, volume, to, "--into-existing", *leading_to(volume, type="ext4", device=device))
        there.remove(volume)
        with mounted(tmp_path / "device", device) as found:
            assert (found / "one").read_text() == "1"
            assert not (found / "more").exists()


def test_a_path_that_is_no_directory_is_in_the_way(
    world: World, there: World, to: str, tmp_path: Path
) -> None:
    volume = world.filled()
    file = tmp_path / "file"
    file.write_text("content")
    world.cli("migrate", volume, "--to", to, *bound(volume, file)).fails_with("is no directory on the target")
    assert file.read_text() == "content"


def test_a_directory_with_too_little_room_is_in_the_way(
    world: World, there: World, to: str, tmp_path: Path
) -> None:
    volume = world.volume()
    (world.data(volume) / "large").write_bytes(bytes(range(256)) * 4096 * 20)
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=10M", "tmpfs") as small:
        world.cli("migrate", volume, "--to", to, *bound(volume, small)).fails_with("has room for 0.01 GB")
        assert list(small.iterdir()) == []


# --- options that were recorded ---------------------------------------------------------------------


def test_options_that_lead_elsewhere_are_followed_only_with_a_yes(
    world: World, there: World, to: str, tmp_path: Path
) -> None:
    device = tmp_path / "device"
    device.mkdir()
    (device / "file").write_text("content")
    volume = world.volume_at(device)
    volumes = there.volumes()
    arguments = ["migrate", volume, "--to", to]
    world.cli(*arguments).fails_with(f"device={device}", "--with-options", f"--option {volume}:device=")
    assert there.volumes() == volumes
    other = tmp_path / "other"
    other.mkdir()
    # Whoever says where it is to be has said yes.
    shown = world.cli(*arguments, "--option", f"{volume}:device={other}").exits(0).stderr
    assert f"volume {volume} is made with device={other}, o=bind, type=none" in shown
    assert (other / "file").read_text() == "content"
