"""An engine whose containers are in a user namespace, and a container that is not: whose files are whose."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import docker
import pytest

from tests.parts.editions import EDITIONS, FIRST_SUBORDINATE, USER, USER_NAME, Edition
from tests.parts.engine import private_engine
from tests.parts.world import World, world_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(120)

REMAPPED = Edition("docker-20.10-userns", "bookworm", settings={"userns-remap": USER_NAME})
NOBODY = 65534


@pytest.fixture(scope="module")
def remapped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with private_engine(edition=REMAPPED) as engine:
        client = docker.DockerClient(base_url=engine.docker_host, timeout=120)
        try:
            with world_of(engine, client, tmp_path_factory.mktemp("remapped")) as found:
                yield found
        finally:
            client.close()


def filled(world: World, **owners: int) -> str:
    """A volume with files of these owners of the machine, which nobody else may read."""
    volume = world.volume()
    for name, owner in owners.items():
        path = place(world, volume) / name
        path.write_text(name)
        path.chmod(0o600)
        os.chown(path, owner, owner)
    return volume


def place(world: World, volume: str) -> Path:
    """Where it is said to be: below a directory of the namespace's own."""
    return type(world.directory)(world.client.api.inspect_volume(volume)["Mountpoint"])


def owners(world: World, volume: str) -> dict[str, int]:
    return {each.name: each.stat().st_uid for each in place(world, volume).iterdir()}


def recorded(world: World, volume: str) -> dict[str, int]:
    entries = world.cli("ls", volume, "--json").exits(0).json["entries"]
    return {each["path"]: each["uid"] for each in entries}


def test_the_engine_s_ids_are_kept_as_its_containers_see_them(remapped: World) -> None:
    # FIFOs too are shared with who has other ids
    assert "channel: FIFO" in remapped.cli("doctor").exits(0).stdout
    volume = filled(
        remapped, root=FIRST_SUBORDINATE, user=FIRST_SUBORDINATE + 33, nobody=FIRST_SUBORDINATE + NOBODY
    )
    remapped.cli("backup", volume).exits(0)
    assert recorded(remapped, volume) == {"root": 0, "user": 33, "nobody": NOBODY}
    remapped.cli("restore", volume, "--into", f"{volume}-again").exits(0)
    assert owners(remapped, f"{volume}-again") == owners(remapped, volume)


@pytest.mark.parametrize("owner", [0, 1000, FIRST_SUBORDINATE - 1, FIRST_SUBORDINATE + 65536])
def test_an_owner_outside_of_them_is_not_recorded_as_nobody(remapped: World, owner: int) -> None:
    volume = filled(remapped, inside=FIRST_SUBORDINATE, nobody=FIRST_SUBORDINATE + NOBODY, outside=owner)
    failed = remapped.cli("backup", volume)
    failed.fails_with(f"'outside' belongs to {owner}:{owner} of the machine", 'set helper.userns = "host"')
    assert remapped.own_containers() == []
    host = World(remapped.engine, remapped.client, remapped.directory)
    host.cli = remapped.cli.having(VOLFERRY_HELPER__USERNS="host")
    host.cli("backup", volume).exits(0)
    assert recorded(host, volume) == owners(remapped, volume)
    host.cli("restore", volume, "--into", f"{volume}-again").exits(0)
    assert owners(remapped, f"{volume}-again") == owners(remapped, volume)


@pytest.fixture(scope="module", params=["docker-rootless", "podman-rootless"])
def rootless(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with private_engine(edition=EDITIONS[request.param]) as engine:
        client = docker.DockerClient(base_url=engine.docker_host, timeout=120)
        try:
            with world_of(engine, client, tmp_path_factory.mktemp("rootless")) as found:
                yield found
        finally:
            client.close()


def test_a_rootless_engine_s_ids_are_kept_as_its_containers_see_them(rootless: World) -> None:
    nobody = FIRST_SUBORDINATE + NOBODY - 1
    volume = filled(rootless, root=USER, user=FIRST_SUBORDINATE + 32, nobody=nobody)
    (place(rootless, volume) / "nobody").chmod(0o444)
    rootless.cli("backup", volume).exits(0)
    assert recorded(rootless, volume) == {"root": 0, "user": 33, "nobody": NOBODY}
    rootless.cli("restore", volume, "--into", f"{volume}-again").exits(0)
    assert owners(rootless, f"{volume}-again") == owners(rootless, volume)


@pytest.mark.parametrize(
    ("owner", "group", "mode"), [(0, 0, 0o644), (1000, 1000, 0o600), (FIRST_SUBORDINATE + 5, 0, 0o640)]
)
def test_an_owner_outside_of_a_rootless_engine_s_is_not_recorded_as_nobody(
    rootless: World, owner: int, group: int, mode: int
) -> None:
    volume = filled(rootless, inside=USER, nobody=FIRST_SUBORDINATE + NOBODY - 1, outside=owner)
    path = place(rootless, volume) / "outside"
    os.chown(path, owner, group)
    path.chmod(mode)
    failed = rootless.cli("backup", volume)
    failed.fails_with("'outside' belongs to a user or a group of the machine", 'set helper.userns = "host"')
    assert rootless.own_containers() == []
    anyway = rootless.cli.having(VOLFERRY_HELPER__USERNS="host")("backup", volume)
    anyway.exits(0 if mode & 0o004 else 3)  # its owner or group only may read it
    assert recorded(rootless, volume)["nobody"] == NOBODY
