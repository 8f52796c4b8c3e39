"""Volumes move to where their options lead: shown where that is out of the engine's own data, and over what was there only with a yes."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.engine.test_migrate import expected_of, incomplete, moved, there, to
from tests.engine.test_quiesce import state_of, writing
from tests.parts.mounts import ext4_device, mounted
from tests.parts.trees import assert_same, snapshot
from volferry.engine.labels import TRIAL

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


def test_an_empty_directory_needs_no_yes(world: World, there: World, to: str, tmp_path: Path) -> None:
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


def test_options_that_lead_elsewhere_are_shown(world: World, there: World, to: str, tmp_path: Path) -> None:
    device = tmp_path / "device"
    device.mkdir()
    (device / "file").write_text("content")
    volume = world.volume_at(device)
    other = tmp_path / "other"
    other.mkdir()
    shown = world.cli("migrate", volume, "--to", to, "--option", f"{volume}:device={other}").exits(0).stderr
    assert f"volume {volume} is made with device={other}, o=bind, type=none" in shown
    assert (other / "file").read_text() == "content"


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    "options", [{"uid": "1000"}, {"o": "uid=1000,gid=1000"}, {"type": "none"}, {"size": "10M"}], ids=str
)
def test_options_that_the_target_does_not_know_are_in_the_plan(
    world: World, there: World, to: str, options: dict[str, str], dry: tuple[str, ...]
) -> None:
    """As those of Podman, for Docker: refused before anything is stopped, or made."""
    volume = world.filled()
    container = world.container(volume)
    began, before = state_of(container)["StartedAt"], there.volumes()
    # What a run that was killed while it tried options has left, and one that is somebody's.
    there.client.volumes.create("volferry-tried-0123456789ab", labels={TRIAL: "true"})
    before.add(there.volume(f"volferry-tried-{world.name()}", labels={TRIAL: "true"}))
    given = [part for key, value in options.items() for part in ("--option", f"{volume}:{key}={value}")]
    failed = world.cli("migrate", volume, "--to", to, *given, *dry).exits(1)
    assert f"volume {volume} cannot be made with " in failed.stderr + failed.stdout
    assert f"--option {volume}:{next(iter(options))}=" in failed.stderr + failed.stdout
    assert there.volumes() == before
    assert state_of(container)["StartedAt"] == began


# --- places that are the source's -------------------------------------------------------------------


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A directory that both machines reach, as they do a share."""
    directory = tmp_path / "shared"
    directory.mkdir()
    (directory / "one").write_text("1")
    (directory / "large").write_bytes(bytes(range(256)) * (12 << 12))
    return directory


def untouched(world: World, there: World, volume: str, *arguments: str, words: tuple[str, ...]) -> None:
    """A migration that is refused changes nothing, and costs the source no backup."""
    source = world.client.volumes.get(volume).attrs["Options"]["device"]
    listing = ["find", source, "-printf", r"%p %i %m %s %T@\n"]
    before, volumes = subprocess.check_output(listing), there.volumes()
    for _ in range(2):
        outcome = world.cli("migrate", volume, *arguments).fails_with(*words)
        assert "goes on from there" not in outcome.stderr
        assert there.volumes() == volumes
    assert subprocess.check_output(listing) == before
    assert incomplete(there) == there.own_containers() == []
    world.cli.backup(volume)


def test_what_both_reach_is_not_moved_to_itself(world: World, there: World, to: str, shared: Path) -> None:
    volume = world.volume_at(shared)
    container = writing(world, world.volume())  # of another volume: it is not stopped
    began = state_of(container)["StartedAt"]
    arguments = ("--to", to)
    untouched(
        world, there, volume, *arguments, words=(f"the very data of volume {volume}", "docker volume create")
    )
    said = f"volume {volume} on the target is the very data of volume {volume} on the source"
    untouched(world, there, volume, *arguments, "--into-existing", "--checksum", words=(said,))
    there.volume(volume, options={"type": "none", "o": "bind", "device": str(shared)})
    untouched(world, there, volume, "--to", to, words=("the very data", "can be used as it is"))
    untouched(world, there, volume, "--to", to, "--into-existing", words=(said, "can be used as it is"))
    assert state_of(container)["StartedAt"] == began


def test_an_empty_share_that_both_reach_is_not_moved_to_itself(
    world: World, there: World, to: str, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    volume = world.volume_at(shared)
    world.container(volume)
    said = "is the very data of volume"
    untouched(world, there, volume, "--to", to, words=(said,))
    untouched(world, there, volume, "--to", to, *bound(volume, shared), words=(said,))


def test_volumes_that_lie_in_each_other_are_not_moved(
    world: World, there: World, to: str, shared: Path, tmp_path: Path
) -> None:
    (shared / "below").mkdir()
    volume = world.volume_at(shared)
    untouched(
        world, there, volume, "--to", to, *bound(volume, shared / "below"), words=("lies in the very data",)
    )
    above = (*bound(volume, tmp_path), "--into-existing")
    untouched(world, there, volume, "--to", to, *above, words=("holds the very data", f"--option {volume}:"))


def test_a_volume_of_one_engine_is_not_moved_into_the_data_of_another(
    world: World, there: World, to: str, shared: Path
) -> None:
    """A plain volume of the target, which the source's options lead to."""
    plain = there.filled(name=world.name())
    volume = world.volume_at(there.data(plain))
    said = f"volume {plain} on the target is the very data of volume {volume}"
    untouched(
        world, there, volume, "--to", to, "--rename", f"{volume}={plain}", "--into-existing", words=(said,)
    )


def test_a_copy_of_the_sources_disk_is_made_what_the_source_is(
    world: World, there: World, to: str, shared: Path, tmp_path: Path
) -> None:
    with ext4_device(tmp_path / "image", shared) as device:
        copied = tmp_path / "copy"
        subprocess.run(["cp", "--sparse=always", tmp_path / "image", copied], check=True)
        copy = subprocess.check_output(["losetup", "--find", "--show", copied], text=True).strip()
        try:
            volume = world.volume(options={"type": "ext4", "device": device})
            there_at = ("--option", f"{volume}:device={copy}")
            world.cli("migrate", volume, "--to", to, *there_at).fails_with(
                "looks like the very data", "--into-existing"
            )
            report = moved(world, volume, to, *there_at, "--into-existing", "--checksum")
            assert report["volumes"][0]["sent_bytes"] < (shared / "large").stat().st_size / 2
            there.remove(volume)
            world.remove(volume)
        finally:
            subprocess.run(["losetup", "--detach", copy], check=True)


def test_what_a_killed_probe_left_is_no_data(world: World, there: World, to: str, tmp_path: Path) -> None:
    volume = world.filled()
    place = tmp_path / "place"
    place.mkdir()
    (place / ".volferry-probe-0123456789abcdef-0").touch()
    moved(world, volume, to, "--checksum", *bound(volume, place))
    assert_same(expected_of(world, volume), snapshot(place))
