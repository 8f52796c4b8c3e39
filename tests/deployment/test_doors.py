"""Containers that volferry cannot do without are never stopped: whose network it is in, and through which it reaches the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import docker
import pytest

from tests.deployment.test_compose import HERE, PROJECT, PROXY_HERE, deployed
from tests.engine.test_quiesce import await_true, state_of
from tests.parts.commands import tried
from tests.parts.s3_servers import free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from docker.models.containers import Container

    from tests.parts.world import World

# From a port to the engine's socket.
FORWARD = """
import asyncio

async def copy(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()

async def forward(reader, writer):
    engine = await asyncio.open_unix_connection("/var/run/docker.sock")
    await asyncio.gather(copy(reader, engine[1]), copy(engine[0], writer), return_exceptions=True)
    for each in (writer, engine[1]):
        each.close()

async def main():
    await (await asyncio.start_server(forward, "0.0.0.0", 2375)).serve_forever()

asyncio.run(main())
"""
WAY = "volferry reaches the engine through it"
SOCKET = "/var/run/docker.sock"


class Still:
    """Containers that are not to be stopped, and a volume that they write to."""

    def __init__(self, world: World) -> None:
        self.volume = world.filled()
        self.world = world
        # It would be stopped before the other one.
        self.containers = [world.container(self.volume, stop_signal="SIGKILL")]
        self._before: list[Any] = []

    def watch(self, *more: Container) -> None:
        self.containers += more
        self._before = self._states()

    def _states(self) -> list[Any]:
        return [[state_of(each)[key] for key in ("Status", "StartedAt")] for each in self.containers]

    def check(self, door: Container, why: str, command: Callable[..., tuple[int, str]]) -> None:
        for mode in ("stop", "pause"):
            code, said = command("backup", self.volume, "--quiesce", mode)
            assert code == 1, said
            (line,) = [each for each in said.splitlines() if each.startswith("volferry: ")]
            assert f"container {door.name} cannot be stopped or paused: {why}: use quiesce = none" in line
            assert self._states() == self._before
        code, said = command("backup", self.volume, "--quiesce", "none")
        assert code in {0, 3}, said


@pytest.fixture
def still(world: World) -> Still:
    return Still(world)


@pytest.fixture
def network(world: World) -> Iterator[str]:
    pool = docker.types.IPAMPool(subnet="10.213.8.0/24")
    made = world.client.networks.create("doors", ipam=docker.types.IPAMConfig(pool_configs=[pool]))
    yield "doors"
    made.reload()
    for container in made.containers:
        made.disconnect(container, force=True)
    made.remove()


def volferry_in(world: World, image: str, **more: Any) -> Container:
    """One that does nothing by itself, with its state in a volume."""
    state = world.volume()
    return world.container(
        state,
        image=image,
        entrypoint=["sleep", "infinity"],
        command=[],
        user="0:0",
        init=True,
        network_disabled=False,
        **{
            **more,
            "volumes": [f"{state}:/var/lib/volferry", *more["volumes"]],
            "tmpfs": {"/tmp": ""},
            "environment": {"VOLFERRY_STORE": "/tmp/store", **more.get("environment", {})},
        },
    )


def proxy_in(world: World, still: Still, image: str, **more: Any) -> Container:
    """One that writes to the volume."""
    return world.container(
        still.volume,
        image=image,
        entrypoint=["python3", "-c", FORWARD],
        command=[],
        user="0:0",
        network_disabled=False,
        stop_signal="SIGKILL",
        **more,
        volumes=[f"{still.volume}:/data", f"{socket_of(world)}:{SOCKET}"],
    )


def socket_of(world: World) -> str:
    return world.engine.docker_host.removeprefix("unix://")


def commands_in(world: World, container: Container) -> Callable[..., tuple[int, str]]:
    return lambda *arguments: tried(world.engine, container, "volferry", *arguments)


def test_the_one_in_whose_network_it_is(world: World, still: Still, image: str) -> None:
    lender = world.container(still.volume, network_disabled=False, network_mode="none", stop_signal="SIGKILL")
    ours = volferry_in(
        world, image, network_mode=f"container:{lender.id}", volumes=[f"{socket_of(world)}:{SOCKET}"]
    )
    still.watch(lender, ours)
    still.check(lender, "volferry has its network", commands_in(world, ours))


def test_the_proxy_of_the_compose_file(world: World, still: Still, image: str, tmp_path: Path) -> None:
    mounts = f"      - {still.volume}:/data\n"
    here = (
        HERE
        + PROXY_HERE.format(program=PROJECT / "tests/parts/api_proxy.py").rstrip("\n")
        + f"\n{mounts}volumes:\n  {still.volume}:\n    external: true\n"
    )
    project = deployed(world, image, tmp_path, "compose.socket-proxy.yaml", here)
    project.up()
    try:
        proxy, ours = project.container("socket-proxy"), project.container("volferry")
        await_true(lambda: commands_in(world, ours)("volumes")[0] == 0)
        still.watch(proxy, ours)
        still.check(proxy, WAY, commands_in(world, ours))
    finally:
        project.down()


def test_a_proxy_with_an_address_of_its_own(world: World, still: Still, image: str, network: str) -> None:
    proxy = proxy_in(world, still, image, network=network)
    address = state_address(proxy, network)
    ours = volferry_in(
        world, image, network=network, volumes=[], environment={"DOCKER_HOST": f"tcp://{address}:2375"}
    )
    command = commands_in(world, ours)
    await_true(lambda: command("volumes")[0] == 0)
    still.watch(proxy, ours)
    still.check(proxy, WAY, command)


def state_address(container: Container, network: str) -> str:
    container.reload()
    return str(container.attrs["NetworkSettings"]["Networks"][network]["IPAddress"])


@pytest.mark.parametrize("shares", ["the proxy's", "that of a third one"])
def test_a_proxy_beside_it_in_one_network(
    world: World, still: Still, image: str, network: str, shares: str
) -> None:
    """A pod: one has the network, and the others are in it."""
    if shares == "the proxy's":
        lender = proxy = proxy_in(world, still, image, network=network)
    else:
        lender = world.container(world.volume(), network_disabled=False, network=network)
        proxy = proxy_in(world, still, image, network_mode=f"container:{lender.id}")
    ours = volferry_in(
        world,
        image,
        network_mode=f"container:{lender.id}",
        volumes=[],
        environment={"DOCKER_HOST": "tcp://127.0.0.1:2375"},
    )
    command = commands_in(world, ours)
    await_true(lambda: command("volumes")[0] == 0)
    still.watch(lender, proxy, ours)
    why = "volferry has its network" if shares == "the proxy's" else WAY
    still.check(proxy, why, command)


def test_a_proxy_that_has_a_port_of_the_machine(world: World, still: Still, image: str, network: str) -> None:
    """And volferry on the machine itself."""
    (port,) = free_ports(1)
    proxy = proxy_in(world, still, image, network=network, ports={"2375/tcp": ("127.0.0.1", port)})
    cli = world.cli.having(DOCKER_HOST=f"tcp://127.0.0.1:{port}")

    def command(*arguments: str) -> tuple[int, str]:
        outcome = cli(*arguments)
        return outcome.code, outcome.stderr

    await_true(lambda: command("volumes")[0] == 0)
    still.watch(proxy)
    still.check(proxy, WAY, command)
