"""The image: built from its Dockerfile, and run as a person would run it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from volferry import __version__

if TYPE_CHECKING:
    from tests.parts.world import World

# What compose.yaml makes of it.
CONFINED: dict[str, Any] = {
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
    "read_only": True,
    "tmpfs": {"/tmp": ""},
}


def ran(
    world: World,
    image: str,
    *arguments: str,
    network_mode: str = "none",
    state_at: str = "/var/lib/volferry",
    **more: Any,
) -> tuple[int, str]:
    """Exit code of `docker run`, and what was said. The engine's socket is there, as the image expects it, and a volume."""
    container = world.client.containers.create(
        image,
        list(arguments),
        network_mode=network_mode,
        volumes=[f"{socket(world)}:/var/run/docker.sock", f"{world.volume()}:{state_at}"],
        **more,
    )
    try:
        container.start()
        code = container.wait(timeout=60)["StatusCode"]
        return code, container.logs().decode()
    finally:
        container.remove(force=True, v=True)


def socket(world: World) -> str:
    return world.engine.docker_host.removeprefix("unix://")


def test_what_it_says_of_itself(world: World, image: str) -> None:
    found = world.client.images.get(image).attrs["Config"]
    assert found["Entrypoint"] == ["volferry"]
    assert found["Cmd"] == ["daemon"]
    assert found["StopSignal"] == "SIGTERM"
    assert found["Healthcheck"]["Test"] == ["CMD", "volferry", "status", "--health"]
    assert found["Labels"]["org.opencontainers.image.version"] == __version__
    assert not found["Volumes"]  # every helper would have them
    assert ran(world, image, "--version") == (0, f"volferry {__version__}\n")


@pytest.mark.parametrize("user", ["root", "volferry"])
def test_it_has_all_that_a_backup_needs(world: World, image: str, user: str) -> None:
    group = Path(socket(world)).stat().st_gid
    code, said = ran(world, image, "doctor", user=user, group_add=[group], **CONFINED)
    assert code == 0, said
    assert "FAIL" not in said
    assert re.search(r"channel: FIFO, (volume subpath|bind mount of the run's directory)\n", said)
    # the helper's image is the one that it runs in
    assert str(world.client.images.get(image).id) in said


@pytest.mark.parametrize("network", ["another's", "the machine's"])
def test_it_knows_its_own_container_whatever_its_network_is(world: World, image: str, network: str) -> None:
    """With another container's network, it has that one's name, and its /etc/hosts."""
    sidecar = world.container(world.volume(), network_disabled=False, network_mode="none")
    mode = f"container:{sidecar.id}" if network == "another's" else "host"
    code, said = ran(world, image, "doctor", network_mode=mode, **CONFINED)
    assert code == 0, said
    assert "channel: FIFO" in said
    assert str(world.client.images.get(image).id) in said
    assert "cannot tell" not in said


def test_where_it_cannot_know_its_own_container_it_says_so(world: World, image: str) -> None:
    _, said = ran(world, image, "doctor", environment={"VOLFERRY_CONTAINER": "gone"}, **CONFINED)
    assert "note  engine: volferry runs in a container, but cannot tell which one" in said
    assert "channel: stream: no bind mount of the run's directory" in said


def test_no_store_is_made_where_it_would_go_with_the_container(world: World, image: str) -> None:
    data = world.filled()
    code, said = ran(world, image, "backup", data, state_at="/elsewhere")
    assert code == 1
    assert "volferry: no store was made: /var/lib/volferry/store is in this container's own layer" in said
    assert "mount a volume at /var/lib/volferry (" in said
    assert "new store" not in said
    code, said = ran(world, image, "doctor", state_at="/elsewhere")
    assert code == 1
    assert "note  state directory: it is in this container's own layer" in said
    assert "FAIL  store: /var/lib/volferry/store is in this container's own layer" in said
    # One that is there is used.
    steps = f"volferry backup {data} --store /elsewhere/store && cp -r /elsewhere/store /own && volferry backup {data} --store /own"
    code, said = ran(world, image, "-c", steps, state_at="/elsewhere", entrypoint=["sh"])
    assert code == 0, said
    assert "new store at /elsewhere/store" in said
    assert (
        "the store /own is in this container's own layer, and goes with the container: mount a volume at /own"
        in said
    )


def test_without_the_socket_it_says_what_is_missing(world: World, image: str) -> None:
    code, said = ran(world, image, "volumes", user="volferry", **CONFINED)
    assert code == 1
    assert "no permission to use the Docker engine" in said


def test_it_is_small(world: World, image: str) -> None:
    """What it adds to its base, of which half is the libraries of object stores, and a tenth ssh, for SFTP."""
    layers = world.client.images.get(image).history()
    assert sum(layer["Size"] for layer in layers if not layer["Comment"].startswith("Imported")) < 100 << 20
