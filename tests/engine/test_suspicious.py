"""A volume that is emptied, as a user sees it: the finding, what is held because of it, and `volferry accept`."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.parts.world import World


def test_an_emptied_volume(world: World) -> None:
    volume = world.volume(labels={"volferry.keep.last": "3"})
    for number in range(30):
        (world.data(volume) / f"file{number}").write_text(f"content {number}")
    assert world.cli("backup", volume).code == 0
    (good,) = world.cli("list", volume, "--json").json["backups"]
    for path in world.data(volume).iterdir():
        path.unlink()

    unaccepted = world.cli("accept", volume)
    assert unaccepted.code == 2
    assert "is not suspicious: there is nothing to accept" in unaccepted.stderr
    for _ in range(4):
        emptied = world.cli("backup", volume)
        assert emptied.code == 3, emptied.story
        assert "shrunk: (root): from 31 to 1 entries" in emptied.stderr
        assert world.cli("prune", volume).code == 0

    dry = world.cli("prune", volume, "--dry-run")
    assert "held: newer backups are suspicious" in dry.stdout
    assert f"volferry accept {volume}" in dry.stderr
    assert "shrunk" in world.cli("list", volume).stdout
    assert "shrunk: (root): from 31" in world.cli("show", volume).stdout
    assert f"{volume}: shrunk: from 31" in world.cli("status").stdout
    refused = world.cli("forget", f"{volume}@{good['id']}")
    assert refused.code == 2
    assert "is held: newer backups are suspicious" in refused.stderr
    assert world.cli("restore", f"{volume}@{good['id']}", "--into", f"{volume}-check").code == 0
    assert len(list(world.data(f"{volume}-check").iterdir())) == 30

    assert world.cli("accept", f"{volume}@20200101").code == 1
    assert not (world.store / "accepted").exists()
    assert world.cli("accept", volume).code == 0
    assert "accepted" in world.cli("list", volume).stdout
    assert f"{volume}: accepted: shrunk: from 31" in world.cli("status").stdout
    assert world.cli("show", volume).stdout.splitlines()[-1].split() == ["Accepted", "yes"]
    (row,) = world.cli("status", "--json").json["volumes"]
    assert row["accepted"] is True
    assert world.cli("backup", volume).code == 0
    assert world.cli("prune", volume).code == 0
    assert good["id"] not in {each["id"] for each in world.cli("list", volume, "--json").json["backups"]}


def test_accepting_can_be_taken_back(world: World) -> None:
    volume = world.filled()
    world.cli("backup", volume)
    shutil.rmtree(world.data(volume))
    world.data(volume).mkdir()
    assert world.cli("backup", volume).code == 3
    assert world.cli("accept", volume).code == 0
    assert world.cli("accept", volume, "--undo").code == 0
    assert world.cli("accept", volume, "--undo").code == 2
    assert world.cli("backup", volume).code == 3


def test_a_shrunk_backup_replaces_data_only_if_it_is_named(world: World) -> None:
    volume = world.filled()
    good, emptied = _then_emptied(world, volume)
    (world.data(volume) / "precious").write_text("new")

    refused = world.cli("restore", volume, "--replace").exits(1)
    assert f"volume {volume} holds data, and the newest backup is shrunk: from " in refused.complaints[0]
    for ref in (good, emptied):
        assert f"`volferry restore {ref} --replace`" in refused.complaints[0]
    into = world.cli("restore", volume, "--into", volume, "--replace").exits(1)
    assert f"`volferry restore {good} --into {volume} --replace`" in into.complaints[0]
    assert [path.name for path in world.data(volume).iterdir()] == ["precious"]

    note = f"; the last one that is not: `volferry restore {good}`"
    made = world.cli("restore", volume, "--into", f"{volume}-new").exits(0)
    assert "this backup is shrunk: from " in made.stderr
    assert note in made.stderr
    assert note in world.cli("restore", emptied, "--replace").exits(0).stderr
    assert not list(world.data(volume).iterdir())
    assert note in world.cli("restore", volume, "--replace").exits(0).stderr  # it holds nothing any longer
    assert "is not:" not in world.cli("restore", good, "--replace").exits(0).stderr
    world.cli("accept", volume).exits(0)
    assert "is not:" not in world.cli("restore", volume, "--replace").exits(0).stderr
    assert not list(world.data(volume).iterdir())


def _then_emptied(world: World, volume: str) -> tuple[str, str]:
    """Names of a good backup and of the one after it."""
    world.cli("backup", volume).exits(0)
    for path in world.data(volume).iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    world.cli("backup", volume).exits(3)
    emptied, good = sorted(
        (
            f"{each['host']}/{each['volume']}@{each['id']}"
            for each in world.cli("list", volume, "--json").json["backups"]
        ),
        reverse=True,
    )
    return good, emptied
