"""A swarm of two nodes: what a service that has tasks on the other node means for a volume of this one."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import docker
import pytest
from docker.types import ServiceMode

from tests.deployment.test_swarm import gone
from tests.engine.test_coming_back import journals
from tests.engine.test_quiesce import await_true, service
from tests.parts.engine import private_engine
from tests.parts.s3_servers import free_ports
from tests.parts.world import World, world_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def node(directory: Path) -> Iterator[World]:
    with private_engine() as private:
        client = docker.DockerClient(base_url=private.docker_host, timeout=120)
        directory.mkdir()
        with world_of(private, client, directory) as world:
            yield world
            client.swarm.leave(force=True)
            gone(client)
        client.close()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, World]]:
    """The manager, and a worker."""
    place = tmp_path_factory.mktemp("nodes")
    with ExitStack() as stack:
        manager, worker = (stack.enter_context(node(place / name)) for name in ("manager", "worker"))
        one, other = free_ports(2)
        manager.client.swarm.init(advertise_addr="127.0.0.1", listen_addr=f"127.0.0.1:{one}")
        swarm: Any = manager.client.swarm
        token = swarm.attrs["JoinTokens"]["Worker"]
        worker.client.swarm.join(
            remote_addrs=[f"127.0.0.1:{one}"],
            join_token=token,
            advertise_addr="127.0.0.1",
            listen_addr=f"127.0.0.1:{other}",
        )
        services: Any = manager.client.services
        stack.callback(lambda: [each.remove() for each in services.list()])
        assert worker.image  # which it gets from nowhere else
        yield manager, worker


def containers(world: World) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = world.client.api.containers(
        filters={"label": "com.docker.swarm.service.id"}
    )
    return found


def started(*worlds: World) -> list[tuple[str, str]]:
    return [
        (each["Id"], world.client.api.inspect_container(each["Id"])["State"]["StartedAt"])
        for world in worlds
        for each in containers(world)
    ]


@pytest.fixture
def on_both(nodes: tuple[World, World]) -> Iterator[Any]:
    """Makes a service with a task on each node, which mounts a volume that each node has of its own."""
    made: list[Any] = []

    def make(mode: ServiceMode) -> tuple[Any, str]:
        manager, worker = nodes
        volume = manager.filled()
        worker.filled(volume, one="of the worker")
        made.append(service(manager, volume, mode))
        await_true(lambda: len(containers(manager)) == len(containers(worker)) == 1)
        return made[-1], volume

    yield make
    for each in made:
        each.remove()
    await_true(lambda: containers(nodes[0]) == containers(nodes[1]) == [])


def test_a_replicated_service_is_scaled_on_all_nodes_by_a_manager(
    nodes: tuple[World, World], on_both: Any
) -> None:
    manager, worker = nodes
    made, volume = on_both(ServiceMode("replicated", replicas=2))
    before = started(manager, worker)
    (backup,) = manager.cli("backup", volume, "--quiesce", "stop", "--json").exits(0).json["backups"]
    assert backup["downtime_seconds"] > 0
    made.reload()
    assert made.attrs["Spec"]["Mode"]["Replicated"]["Replicas"] == 2
    await_true(lambda: len(started(manager, worker)) == 2)
    assert not {*before} & {*started(manager, worker)}
    assert manager.cli("show", volume, "--json").exits(0).json["consistency"] == "stop"


def test_a_worker_cannot_scale_and_stops_nothing(nodes: tuple[World, World], on_both: Any) -> None:
    manager, worker = nodes
    made, volume = on_both(ServiceMode("replicated", replicas=2))
    before = started(manager, worker)
    worker.cli("backup", volume, "--quiesce", "stop").fails_with(
        f"Swarm service {made.name} cannot be scaled from this node, which is no manager: use quiesce = pause"
    )
    assert started(manager, worker) == before
    assert journals(worker) == []
    worker.cli("backup", volume, "--quiesce", "pause").exits(0)
    assert started(manager, worker) == before
    assert worker.cli("show", volume, "--json").exits(0).json["consistency"] == "pause"


def test_a_global_service_is_not_stopped_on_any_node(nodes: tuple[World, World], on_both: Any) -> None:
    manager, worker = nodes
    _, volume = on_both(ServiceMode("global"))
    before = started(manager, worker)
    manager.cli("backup", volume, "--quiesce", "stop").fails_with("cannot be scaled: use quiesce = pause")
    worker.cli("backup", volume, "--quiesce", "stop").fails_with("quiesce = pause")
    assert started(manager, worker) == before
    for each, content in zip(nodes, ("1", "of the worker"), strict=True):
        each.cli("backup", volume, "--quiesce", "pause").exits(0)
        copy = each.name()
        each.cli("restore", volume, "--into", copy).exits(0)
        assert (each.data(copy) / "one").read_text() == content
    assert started(manager, worker) == before


def test_a_task_on_another_node_is_no_writer_of_a_volume_of_this_one(nodes: tuple[World, World]) -> None:
    manager, worker = nodes
    volume = manager.filled()
    worker.filled(volume)
    (elsewhere,) = [each for each in manager.client.api.nodes() if each["Spec"]["Role"] == "worker"]
    made = service(
        manager, volume, ServiceMode("replicated", replicas=1), constraints=[f"node.id == {elsewhere['ID']}"]
    )
    try:
        await_true(lambda: len(containers(worker)) == 1)
        before = started(worker)
        (backup,) = manager.cli("backup", volume, "--quiesce", "stop", "--json").exits(0).json["backups"]
        assert backup["downtime_seconds"] == 0
        assert started(worker) == before
    finally:
        made.remove()
        await_true(lambda: containers(worker) == [])
