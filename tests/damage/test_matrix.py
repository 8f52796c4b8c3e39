"""Damage to any object of a store: said in one line, never restored as if it were right, never made worse."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.parts.trees import assert_same, snapshot
from tests.parts.world import World, world_of
from volferry.archive.manifest import FORMAT_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import docker

    from tests.parts.cli import Outcome
    from tests.parts.engine import PrivateEngine
    from tests.parts.trees import Node


@dataclass(frozen=True, slots=True)
class Good:
    """A store with a backup each of two volumes, and what its commands say while nothing is damaged."""

    store: Path
    id: str
    content: dict[bytes, Node]
    show: str
    listing: str
    export: bytes

    def object(self, store: Path, kind: str, volume: str = "vol") -> Path:
        pattern = {
            "pack": f"packs/*/{volume}/*.tar.zst",
            "frames": f"indexes/*/{volume}/*.frames.zst",
            "files": f"indexes/*/{volume}/*.files.zst",
            "manifest": f"manifests/*/{volume}/*.json",
            "marker": "volferry.json",
        }[kind]
        (found,) = store.glob(pattern)
        return found


@pytest.fixture(scope="module")
def good(
    engine: PrivateEngine, docker_client: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Good]:
    with world_of(engine, docker_client, tmp_path_factory.mktemp("good")) as world:
        for volume, seed in (("vol", 1), ("other", 2)):
            root = world.data(world.volume(volume))
            rng = random.Random(seed)
            (root / "large").write_bytes(rng.randbytes(2 << 20))
            (root / "directory").mkdir()
            for number in range(200):
                (root / "directory" / f"file{number}").write_bytes(rng.randbytes(number))
            world.cli.backup(volume)
        yield Good(
            world.store,
            world.cli("list", "vol", "--json").json["backups"][0]["id"],
            snapshot(world.data("vol")),
            world.cli("show", "vol", "--json").exits(0).stdout,
            world.cli("list", "vol", "--json").exits(0).stdout,
            world.cli("export", "vol").exits(0).raw,
        )


@pytest.fixture
def damaged(world: World, good: Good) -> World:
    """A world with a copy of the good store, to be damaged."""
    shutil.copytree(good.store, world.store)
    world.filled("prey", old="content", other="content")
    return world


def _flip(at: Callable[[int], int]) -> Callable[[Path, Path], None]:
    def flip(path: Path, _other: Path) -> None:
        data = bytearray(path.read_bytes())
        data[at(len(data))] ^= 0x04
        path.write_bytes(data)

    return flip


def _truncate(path: Path, _other: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _append(path: Path, _other: Path) -> None:
    with path.open("ab") as file:
        file.write(b"garbage" * 10)


def _make_directory(path: Path, _other: Path) -> None:
    path.unlink()
    path.mkdir()


ACTIONS: dict[str, Callable[[Path, Path], object]] = {
    "deleted": lambda path, _: path.unlink(),
    "cut off": _truncate,
    "emptied": lambda path, _: path.write_bytes(b""),
    "changed at its start": _flip(lambda _: 1),
    "changed in the middle": _flip(lambda size: size // 2),
    "changed at its end": _flip(lambda size: size - 1),
    "followed by garbage": _append,
    "another backup's": lambda path, other: path.write_bytes(other.read_bytes()),
    "a directory": _make_directory,
}
OBJECTS = ["pack", "frames", "files", "manifest", "marker"]
# What cannot be answered right without the object.
NEEDED_BY = {
    "pack": {"restore", "replace", "export"},
    "frames": {"restore", "replace", "export"},
    "files": {"restore", "replace"},
    "manifest": {"restore", "replace", "export", "show"},
    "marker": {"restore", "replace", "export", "show", "list"},
}
# Only its content is wrong, so that it is seen when it is read, and not before.
SEEN_WHEN_READ = {
    ("pack", "changed at its start"),
    ("pack", "changed in the middle"),
    ("pack", "changed at its end"),
}


def digest_of(store: Path) -> dict[str, str]:
    """Every file and directory of a store."""
    return {
        str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "directory"
        for path in store.rglob("*")
    }


def check_restore(world: World, good: Good, done: Outcome, volume: str) -> None:
    if done.code == 0:
        assert_same(good.content, snapshot(world.data(volume)))


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("kind", OBJECTS)
def test_a_damaged_object_is_said_and_nothing_wrong_is_restored(
    damaged: World, good: Good, kind: str, action: str
) -> None:
    world, other = damaged, good.object(good.store, kind, "other")
    if kind == "marker":
        other = world.directory / "other marker"
        world.cli.at(store=world.directory / "another store").backup("prey")
        other.write_bytes((world.directory / "another store" / "volferry.json").read_bytes())
    ACTIONS[action](good.object(world.store, kind), other)
    before = digest_of(world.store)
    prey, volumes = snapshot(world.data("prey")), world.volumes()

    results = {
        "show": world.cli("show", "vol", "--json"),
        "list": world.cli("list", "vol", "--json"),
        "export": world.cli("export", "vol"),
        "restore": world.cli("restore", "vol", "--into", "new"),
        "replace": world.cli("restore", "vol", "--into", "prey", "--replace"),
    }

    harmless = (kind, action) == ("marker", "another backup's")
    no_store = kind == "marker" and action in {"deleted", "a directory"}  # as far as anybody here knows
    for command, done in results.items():
        done.exits(0, 2 if no_store else 1)
        if done.code:
            assert len(done.complaints) == 1, done.story
            assert len(done.complaints[0]) < 1000, done.story
        assert done.code == (2 if no_store else 1) or harmless or command not in NEEDED_BY[kind], done.story
    if results["show"].code == 0:
        assert results["show"].stdout == good.show
    if results["list"].code == 0:
        gone = kind == "manifest" and action in {"deleted", "a directory"}
        assert json.loads(results["list"].stdout)["backups"] == (
            [] if gone else json.loads(good.listing)["backups"]
        )
    if results["export"].code == 0:
        assert results["export"].raw == good.export
    check_restore(world, good, results["restore"], "new")
    check_restore(world, good, results["replace"], "prey")
    if results["restore"].code:
        assert world.volumes() == volumes
    if results["replace"].code:
        assert_same(prey, snapshot(world.data("prey")))
    if results["replace"].code and (kind, action) in SEEN_WHEN_READ:
        world.cli("restore", "vol", "--into", "prey", "--replace", "--trust").exits(1)
        refused = world.cli.at(store=world.directory / "own store")("backup", "prey")
        refused.fails_with("interrupted restore")
    assert digest_of(world.store) == before
    assert world.own_containers() == []


@pytest.mark.parametrize("action", ["changed in the middle", "cut off", "deleted"])
def test_damage_to_one_backup_is_no_damage_to_another(damaged: World, good: Good, action: str) -> None:
    world = damaged
    for kind in OBJECTS[:-1]:
        ACTIONS[action](good.object(world.store, kind, "other"), good.store)
    world.cli("restore", "vol", "--into", "new").exits(0)
    assert_same(good.content, snapshot(world.data("new")))
    listed = world.cli("list", "--json").exits(0 if action == "deleted" else 1).json
    assert good.id in {each["id"] for each in listed["backups"]}
    assert len(listed["failed"]) == (0 if action == "deleted" else 1)
    # and the damaged volume's next backup is a good one
    world.client.volumes.get("other")
    world.cli.backup("other")
    world.cli("restore", "other", "--into", "other-restored").exits(0)
    assert_same(snapshot(world.data("other")), snapshot(world.data("other-restored")))


def test_an_exported_file_appears_only_when_it_is_whole(damaged: World, good: Good) -> None:
    world = damaged
    _flip(lambda size: size - 100)(good.object(world.store, "pack"), good.store)
    target = world.directory / "vol.tar"
    world.cli("export", "vol", "-o", str(target)).fails_with("damaged")
    assert not [path for path in world.directory.iterdir() if "vol.tar" in path.name]
    target.write_text("mine")
    world.cli("export", "vol", "-o", str(target)).fails_with("--force", code=2)
    world.cli("export", "vol", "-o", str(target), "--force").fails_with("damaged")
    assert target.read_text() == "mine"


@pytest.mark.parametrize("kind", ["manifest", "marker"])
@pytest.mark.parametrize("sealed", [True, False], ids=["with its seal", "with a seal of another kind"])
def test_what_a_newer_version_wrote_is_said_to_be_newer(
    damaged: World, good: Good, kind: str, sealed: bool
) -> None:
    world = damaged
    path = good.object(world.store, kind)
    document = json.loads(path.read_text())
    document["format"] = FORMAT_VERSION + 1
    if not sealed:
        document = {"format": 99, "sha3": "whatever it may be then"}
    path.write_text(json.dumps(document))
    before = digest_of(world.store)
    for command in (
        ("show", "vol"),
        ("list", "vol"),
        ("export", "vol"),
        ("restore", "vol", "--into", "new"),
        ("restore", "vol", "--into", "prey", "--replace"),
        *([("backup", "prey")] if kind == "marker" else []),
    ):
        world.cli(*command).fails_with("newer volferry")
    assert digest_of(world.store) == before
    assert not world.exists("new")
