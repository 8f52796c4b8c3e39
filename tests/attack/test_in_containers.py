"""With a real engine: a process that races in a tenant's volume reads and changes nothing of another's, nor of the machine."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.attack.conftest import SECRET, Decoys, Outside
from tests.parts.world import World, world_of
from volferry.engine.labels import INCOMPLETE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import docker

    from tests.parts.engine import PrivateEngine


@pytest.fixture
def world(engine: PrivateEngine, docker_client: docker.DockerClient, tmp_path: Path) -> Iterator[World]:
    with world_of(engine, docker_client, tmp_path) as mine:
        yield mine
        for left in docker_client.containers.list(all=True, filters={"label": INCOMPLETE}):
            left.remove(force=True)  # of migrations that failed


@pytest.mark.parametrize("channel", ["fifo", "stream"])
def test_a_tenant_gets_out_of_his_volume_in_no_helper(
    world: World, outside: Outside, racing: Callable[..., Any], channel: str
) -> None:
    world.cli = world.cli.having(VOLFERRY_HELPER__CHANNEL=channel)
    victim, tenant = world.volume(), world.volume()
    data = world.data(tenant)
    theirs = Outside(world.data(victim) / "theirs")
    # Where a helper has another volume, its pipes, and the machine, if it has them.
    for at, to in enumerate((Path("/volumes", victim, "theirs"), Path("/spool"), outside.directory)):
        (data / f"t{at}").mkdir()
        Decoys.make(data / f"t{at}", to, count=20, file="secret")
        for directory in (data / f"t{at}").glob("a*"):
            (directory / "1.in").write_bytes(b"planted")
            (directory / "empty").mkdir()
            (directory / "empty").chmod(0o777)
    backup = world.cli.backup(tenant)[0]
    pairs = tuple((f"t{at}/a{each:03}", f"t{at}/z{each:03}") for at in range(3) for each in range(20))
    with racing(data, Decoys(pairs)):
        world.cli("backup", tenant, victim)
        world.cli("restore", f"{tenant}@{backup['id']}", "--replace")
        world.cli("restore", f"{tenant}@{backup['id']}", "t0", "t1", "--replace")
        if channel == "fifo":
            renamed = [f"--rename={each}={each}-moved" for each in (tenant, victim)]
            world.cli("migrate", tenant, victim, "--to", world.engine.docker_host, *renamed)
    theirs.check()
    assert list((world.data(victim) / "theirs" / "empty").iterdir()) == []
    stored = world.cli("list", tenant, "--json").exits(0).json
    assert stored
    packs = [str(path) for path in world.objects() if f"/{tenant}/" in str(path) and "/packs/" in str(path)]
    assert packs
    for pack in packs:
        content = subprocess.run(["zstd", "-dc", pack], capture_output=True, check=False).stdout
        assert SECRET not in content
    if world.exists(f"{tenant}-moved"):
        moved = world.data(f"{tenant}-moved")
        grep = ["grep", "-rFl", "--devices=skip", SECRET.decode(), str(moved)]
        assert subprocess.run(grep, capture_output=True, check=False).stdout == b""
    assert world.own_containers() == []
