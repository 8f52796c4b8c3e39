"""config/swarm-stack.yaml on a swarm of one node, with a bucket."""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docker
import pytest
from docker.errors import APIError

from tests.engine.test_quiesce import await_true
from tests.parts.engine import private_engine
from tests.parts.s3_servers import KEY_ID, SECRET, free_ports
from tests.parts.schedules import due_now
from tests.parts.world import World, world_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.parts.own_image import OwnImage
    from tests.parts.s3_servers import Servers

PROJECT = Path(__file__).resolve().parents[2]
# A private engine has no other network.
OUTSIDE = """
networks:
  outside:
    external: true
    name: host
"""
HERE = f"""
version: "3.8"
services:
  volferry:
    networks:
      - outside
{OUTSIDE}
"""
# An application, which says by labels what is to be done.
SHOP = f"""
version: "3.8"
services:
  web:
    image: {{image}}
    networks:
      - outside
    stdin_open: true
    init: true
    command: ["sh", "-c", "while read -r _; do :; done"]
    labels:
      volferry.schedule: "{{due}}"
      volferry.quiesce: stop
      volferry.quiesce-after: 0s
    volumes:
      - uploads:/uploads
volumes:
  uploads:
{OUTSIDE}
"""


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[World]:
    """Of the test's own: an engine in a swarm is another one for everybody."""
    with private_engine() as private:
        client = docker.DockerClient(base_url=private.docker_host, timeout=120)
        (port,) = free_ports(1)
        client.swarm.init(advertise_addr="127.0.0.1", listen_addr=f"127.0.0.1:{port}")
        with world_of(private, client, tmp_path) as world:
            yield world
            client.swarm.leave(force=True)
            gone(client)
        client.close()


_GONE_SECONDS = 60


def gone(client: docker.DockerClient) -> None:
    """Every container; the engine itself removes those of the swarm that it has left."""
    until = time.monotonic() + _GONE_SECONDS
    while left := client.api.containers(all=True):
        for each in left:
            with suppress(APIError):  # it is on its way out, or out
                client.api.remove_container(each["Id"], force=True)
        assert time.monotonic() < until, left
        time.sleep(0.1)


def deploy(world: World, name: str, *files: Path, **environment: str) -> None:
    done = subprocess.run(
        [
            *("docker", "stack", "deploy", "--resolve-image", "never"),
            *(part for file in files for part in ("--compose-file", str(file))),
            name,
        ],
        env={**os.environ, "DOCKER_HOST": world.engine.docker_host, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def tasks_of(world: World, service: str) -> Any:
    """Also those that have ended."""
    api: Any = world.client.api
    return api.tasks(filters={"service": service})


def test_each_node_backs_up_its_volumes_under_its_name(
    swarm: World, own_image: OwnImage, s3_server: Servers, tmp_path: Path
) -> None:
    server = s3_server("seaweedfs")
    bucket = server.bucket()
    store = f"s3://{bucket}/volferry"
    swarm.client.secrets.create(name="volferry_key_id", data=KEY_ID.encode())
    swarm.client.secrets.create(name="volferry_key", data=SECRET.encode())
    here, shop = tmp_path / "here.yaml", tmp_path / "shop.yaml"
    here.write_text(HERE)
    shop.write_text(SHOP.format(image=swarm.image, due=due_now()))
    volume = "shop_uploads"
    deploy(swarm, "shop", shop)
    await_true(lambda: [task["Status"]["State"] for task in tasks_of(swarm, "shop_web")] == ["running"])
    before = {task["ID"] for task in tasks_of(swarm, "shop_web")}
    (swarm.data(volume) / "one").write_text("1")
    deploy(
        swarm,
        "volferry",
        PROJECT / "config/swarm-stack.yaml",
        here,
        VOLFERRY_IMAGE=own_image.load(swarm.engine),
        VOLFERRY_STORE=store,
        VOLFERRY_ENDPOINT=server.endpoint,
        VOLFERRY_JITTER="0s",
        DOCKER_SOCKET=swarm.engine.docker_host.removeprefix("unix://"),
    )
    client = server.client()
    place = f"volferry/manifests/{swarm.host}/{volume}/"
    await_true(lambda: client.list_objects_v2(Bucket=bucket, Prefix=place)["KeyCount"] == 1)
    client.close()
    # It was scaled to nothing meanwhile, and is back.
    await_true(lambda: swarm.own_containers() == [])
    (service,) = swarm.client.services.list(filters={"name": "shop_web"})
    assert service.attrs["Spec"]["Mode"]["Replicated"]["Replicas"] == 1
    assert {task["ID"] for task in tasks_of(swarm, "shop_web")} != before
    copy = swarm.name()
    cli = swarm.cli.having(**server.environment(VOLFERRY_STORE=store))
    cli("restore", f"{swarm.host}/{volume}", "--into", copy).exits(0)
    assert (swarm.data(copy) / "one").read_text() == "1"
    manifest = cli("show", f"{swarm.host}/{volume}", "--json").exits(0).json
    assert manifest["consistency"] == "stop"
