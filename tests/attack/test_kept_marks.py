"""With a real engine: marks of interrupted restores that somebody has kept, and puts into a volume again, or into another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.parts.world import World, world_of
from volferry.archive.commands import RESTORE_MARK
from volferry.engine.labels import INCOMPLETE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import docker

    from tests.parts.engine import PrivateEngine


@pytest.fixture
def world(engine: PrivateEngine, docker_client: docker.DockerClient, tmp_path: Path) -> Iterator[World]:
    with world_of(engine, docker_client, tmp_path) as mine:
        yield mine
        for left in docker_client.containers.list(all=True, filters={"label": INCOMPLETE}):
            left.remove(force=True)


def interrupted(world: World, volume: str, *paths: str) -> bytes:
    """The mark of a restore that fails half way; the store is whole again afterwards."""
    (pack,) = world.objects(f"packs/{world.host}/{volume}")
    content = pack.read_bytes()
    pack.write_bytes(bytes(len(content)))
    world.cli("restore", volume, *paths, "--replace", "--trust").fails_with("damaged")
    pack.write_bytes(content)
    return (world.data(volume) / RESTORE_MARK).read_bytes()


def kinds(world: World, volume: str) -> list[str]:
    (backup,) = world.cli("backup", volume, "--json").exits(0, 3).json["backups"]
    return [each["kind"] for each in backup["findings"]]


@pytest.mark.parametrize("paths", [(), ("one",)])
def test_a_mark_that_was_kept_counts_for_nothing_once_the_restore_is_complete(
    world: World, paths: tuple[str, ...]
) -> None:
    volume = world.filled()
    world.cli.backup(volume)
    kept = interrupted(world, volume, *paths)
    world.cli("backup", volume).fails_with("interrupted restore")
    assert "fail" not in world.cli("doctor").exits(0).stdout
    world.cli("restore", volume, *paths, "--replace").exits(0)
    mark = world.data(volume) / RESTORE_MARK
    assert not mark.exists()

    mark.write_bytes(kept)
    assert kinds(world, volume) == ["marked"]
    world.cli("status").exits(0)
    assert "fail" not in world.cli("doctor").exits(0).stdout
    world.cli("restore", volume).fails_with(f"volume {volume} holds data")
    # A restore of other paths seals nothing of what it says.
    world.cli("restore", volume, "two", "--replace").exits(0)
    assert not mark.exists()
    assert kinds(world, volume) == []

    # Nor does one that fails.
    mark.write_bytes(kept)
    packs = world.objects(f"packs/{world.host}/{volume}")
    contents = [pack.read_bytes() for pack in packs]
    for pack in packs:
        pack.write_bytes(bytes(len(pack.read_bytes())))
    world.cli("restore", volume, "--replace").fails_with("damaged")
    for pack, content in zip(packs, contents, strict=True):
        pack.write_bytes(content)
    assert kinds(world, volume) == ["marked"]
    world.cli("restore", volume, "--replace").exits(0)
    assert not mark.exists()

    mark.write_bytes(kept)
    target = world.name()
    world.cli("migrate", volume, "--to", world.engine.docker_host, f"--rename={volume}={target}").exits(0)
    assert not (world.data(target) / RESTORE_MARK).exists()
    assert (world.data(target) / "one").read_bytes() == (world.data(volume) / "one").read_bytes()


def test_the_mark_of_one_volume_counts_in_no_other(world: World) -> None:
    volume, other = world.filled(), world.filled()
    world.cli.backup(volume, other)
    kept = interrupted(world, volume)
    mark = world.data(other) / RESTORE_MARK
    mark.write_bytes(kept)
    assert kinds(world, other) == ["marked"]
    world.cli("backup", volume).fails_with("interrupted restore")  # that one is genuine
    world.cli("restore", other).fails_with(f"volume {other} holds data")
    world.cli("restore", other, "one", "--replace").exits(0)
    assert not mark.exists()
    mark.write_bytes(kept)
    world.cli("restore", other, "--replace").exits(0)
    assert not mark.exists()
    assert kinds(world, other) == []
    # Nor does it in a new volume of another name, into which the first one is restored.
    third = world.name()
    world.cli("restore", volume, "--into", third).exits(0)
    (world.data(third) / RESTORE_MARK).write_bytes(kept)
    assert kinds(world, third) == ["marked"]


def test_a_mark_of_another_machine_counts_until_somebody_completes_the_restore(
    world: World, tmp_path: Path
) -> None:
    volume = world.filled()
    world.cli.backup(volume)
    kept = interrupted(world, volume)
    elsewhere = world.cli.at(state=tmp_path / "elsewhere")
    elsewhere("list").exits(0)  # it knows the store
    elsewhere("backup", volume).fails_with("interrupted restore")
    elsewhere("restore", volume, "--replace").exits(0)
    mark = world.data(volume) / RESTORE_MARK
    assert not mark.exists()
    mark.write_bytes(kept)
    (backup,) = elsewhere("backup", volume, "--json").exits(3).json["backups"]
    assert [each["kind"] for each in backup["findings"]] == ["marked"]


@pytest.mark.parametrize("text", ["import", "import\n"])
def test_the_mark_of_an_import_deletes_nothing_where_none_was_begun(
    world: World, tmp_path: Path, text: str
) -> None:
    volume, source = world.filled(), tmp_path / "source"
    source.mkdir()
    (source / "new").touch()
    (world.data(volume) / RESTORE_MARK).write_text(text)
    for options in ([], ["--replace"]):
        world.cli("import", str(source), "--into", volume, *options).fails_with(f"volume {volume} holds data")
    assert (world.data(volume) / "one").exists()


def test_the_mark_of_a_migration_that_was_completed_lets_no_other_one_delete(world: World) -> None:
    volume, target = world.filled(), world.name()
    migrate = ("migrate", volume, "--to", world.engine.docker_host, f"--rename={volume}={target}")
    world.cli(*migrate).exits(0)
    data = world.data(target)
    (data / "since").write_text("then")
    engine = " ".join(str(world.client.info()[key]) for key in ("ID", "Name", "DockerRootDir"))
    for text in (f"migration of {volume} from {engine}", "\x1b]0;title\x07" + "x" * 5000):
        (data / RESTORE_MARK).write_text(text)
        refused = world.cli(*migrate)
        refused.fails_with("--into-existing")
        assert "\x1b" not in refused.stderr
        assert len(refused.stderr) < 2000
        assert (data / "since").read_text() == "then"
        assert kinds(world, target) == ["marked"]
    world.cli(*migrate, "--into-existing").exits(0)
    assert not (data / "since").exists()
    assert not (data / RESTORE_MARK).exists()
