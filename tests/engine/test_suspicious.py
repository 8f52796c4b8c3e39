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
