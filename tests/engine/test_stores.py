"""Backups in a bucket and in two stores, as a user has them."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.parts.trees import assert_same, snapshot

if TYPE_CHECKING:
    from pathlib import Path

    from tests.parts.s3_servers import S3Server, Servers
    from tests.parts.world import World


@pytest.fixture
def server(s3_server: Servers) -> S3Server:
    return s3_server("seaweedfs")


def large(world: World, size: int) -> str:
    volume = world.filled()
    (world.data(volume) / "noise").write_bytes(os.urandom(size))
    return volume


def test_a_volume_is_backed_up_to_a_bucket_and_restored(world: World, server: S3Server) -> None:
    bucket = server.bucket()
    cli = world.cli.having(**server.environment(VOLFERRY_STORE=f"s3://{bucket}/back/ups"))
    volume = large(world, 20 << 20)
    done = cli("backup", volume).exits(0)
    assert "without TLS" in done.stderr
    (world.data(volume) / "more").write_text("more")
    assert cli("backup", volume, "--json").exits(0).json["backups"][0]["stored_bytes"] < 1 << 20
    assert cli("list", "--json").exits(0).stdout.count('"id"') == 2
    assert "1 backup good, 0 hurt" in cli("verify", volume, "--read").exits(0).stdout
    cli("restore", volume, "--into", "from-bucket").exits(0)
    assert_same(snapshot(world.data(volume)), snapshot(world.data("from-bucket")))
    world.remove("from-bucket")
    assert server.unfinished(bucket) == 0


def test_what_is_interrupted_leaves_no_upload(world: World, server: S3Server) -> None:
    bucket = server.bucket()
    cli = world.cli.having(
        **server.environment(VOLFERRY_STORE="main", VOLFERRY_STORES__MAIN__URL=f"s3://{bucket}")
    )
    volume = large(world, 60 << 20)
    # It does not end before it is killed.
    running = cli.having(VOLFERRY_STORES__MAIN__LIMIT="5M").start("backup", volume)
    assert running.until(lambda: server.unfinished(bucket))
    running.send(signal.SIGINT)
    running.outcome().exits(130)
    assert server.unfinished(bucket) == 0
    cli("backup", volume).exits(0)


def test_what_a_killed_backup_has_begun_is_ended_by_the_next(world: World, server: S3Server) -> None:
    bucket = server.bucket()
    cli = world.cli.having(**server.environment(VOLFERRY_STORE=f"s3://{bucket}"))
    volume = large(world, 60 << 20)
    running = cli.start("backup", volume)
    # From here on it is known here; what is killed a moment before that is ended a day later, as another machine's.
    assert running.until(lambda: any(path.stat().st_size for path in cli.state.rglob("*.uploads")))
    running.send(signal.SIGKILL)
    running.outcome()
    assert server.unfinished(bucket) == 1
    cli("backup", volume).exits(0)
    assert server.unfinished(bucket) == 0


def test_a_backup_that_this_machine_has_made_is_missed(world: World) -> None:
    """Nobody has listed anything before."""
    volume = world.filled()
    ids = []
    for number in range(3):
        (world.data(volume) / "one").write_text(f"{number}" * 100_000)
        ids.append(world.cli("backup", volume, "--json").exits(0).json["backups"][0]["id"])
    before = snapshot(world.data(volume))
    for lost in (ids[0], ids[2]):
        (path,) = (each for each in world.objects("manifests") if each.stem == lost)
        path.unlink()
    world.cli("restore", volume, "--replace").fails_with(f"{ids[2]}.json is missing")
    assert_same(before, snapshot(world.data(volume)))
    packs = world.objects("packs")
    (world.data(volume) / "one").write_text("another")
    world.cli.backup(volume)
    for command, code in (("list", 1), ("prune", 3)):
        done = world.cli.having(VOLFERRY_PRUNE__GRACE="0h")(command).exits(code)
        for lost in (ids[0], ids[2]):
            assert f"{lost}.json is missing" in done.stderr
    assert {*packs} <= {*world.objects("packs")}


def two_stores(world: World, directory: Path) -> World:
    config = directory / "volferry.toml"
    config.write_text(
        f"""
        [stores.main]
        url = "{world.store}"
        [stores.copy]
        url = "{directory / "copy"}"
        replica_of = "main"
        keep = {{ last = 1 }}
        [defaults]
        keep = {{ last = 2 }}
        [prune]
        grace = "0h"
        """
    )
    world.cli = world.cli.having(VOLFERRY_CONFIG=str(config), VOLFERRY_STORE="main")
    return world


def test_copies_are_made_mended_pruned_and_restored(world: World, tmp_path: Path) -> None:
    cli = two_stores(world, tmp_path).cli
    volume = world.filled()
    ids = []
    for number in range(4):
        (world.data(volume) / "one").write_text(f"{number}" * 100_000)
        ids.append(cli("backup", volume, "--json").exits(0).json["backups"][0]["id"])
    assert cli("copy", "--json").exits(0).json["copied"][0]["copied"] == ids[3:]
    assert cli("copy", "--json").exits(0).json["copied"][0]["sent_bytes"] == 0
    dry = cli("prune", "--dry-run", "--json").exits(0).json
    assert cli("list", "--json").exits(0).stdout.count('"id"') == 4
    real = cli("prune", "--json").exits(0).json
    assert real["volumes"][0]["forgotten"] == dry["volumes"][0]["forgotten"] == ids[:2]
    assert real["freed_bytes"] == dry["freed_bytes"] > 0
    listed = cli("list", "--json").exits(0).json["backups"]
    assert [(each["id"], each["stores"]) for each in listed] == [
        (ids[2], ["main"]),
        (ids[3], ["main", "copy"]),
    ]
    cli("verify", "--all", "--read").exits(0)
    # A pack of the copy is lost: verify says so, the next copy mends it, and the copy restores.
    packs = list((tmp_path / "copy" / "packs").rglob("*.zst"))
    for pack in packs:
        pack.unlink()
    assert "is missing from the store" in cli("verify", "--all", "--store", "copy").exits(1).stderr
    assert f"0 backups copied, {len(packs)} objects mended, 1 there already" in cli("copy").exits(0).stdout
    cli("verify", "--all", "--read", "--store", "copy").exits(0)
    cli("restore", volume, "--store", "copy", "--into", "from-copy").exits(0)
    assert_same(snapshot(world.data(volume)), snapshot(world.data("from-copy")))
    world.remove("from-copy")


def test_the_newest_backup_is_never_forgotten(world: World, tmp_path: Path) -> None:
    cli = two_stores(world, tmp_path).cli
    volume = world.filled()
    (only,) = cli("backup", volume, "--json").exits(0).json["backups"]
    cli("forget", f"{volume}@{only['id']}").fails_with("is the newest backup of its volume", code=2)
    cli("forget", volume).fails_with("names no single backup", code=2)
    world.remove(volume)
    cli("prune").exits(0)
    assert cli("list", "--json").exits(0).json["backups"][0]["id"] == only["id"]
    cli("prune", "nobody").fails_with("there is nothing of volume", code=2)
    cli("copy", "--to", "main").fails_with("is the store that backups are copied from", code=1)
