"""volferry in a container of the engine whose volumes it backs up, on every engine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.engine.test_every_engine import LOOK, filled, in_container
from tests.parts.commands import tried

if TYPE_CHECKING:
    from tests.parts.world import World

pytestmark = [pytest.mark.engines, pytest.mark.timeout(300)]
SOCKET = "/var/run/docker.sock"
STATE = "/var/lib/volferry"


def test_it_is_at_home_in_a_container(world: World, image: str) -> None:
    volume, look = filled(world)
    service = world.container(volume, stop_signal="SIGKILL")
    more: dict[str, Any] = {}
    if "userns-remap" in world.engine.edition.settings:
        # Nobody in the engine's user namespace may use the socket; outside of it, the image's files are another user's.
        more = {"userns_mode": "host", "cap_add": ["DAC_OVERRIDE"]}
    volferry = world.container(
        world.volume(),
        image=image,
        entrypoint=["sleep", "infinity"],
        command=[],
        user="0:0",
        init=True,
        **more,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges:true"],
        read_only=True,
        tmpfs={"/tmp": ""},
        volumes=[
            f"{(state := world.volume())}:{STATE}",
            f"{world.engine.docker_host.removeprefix('unix://')}:{SOCKET}",
        ],
        environment={"VOLFERRY_STORE": f"{STATE}/store"},
    )

    def run(*arguments: str) -> str:
        code, said = tried(world.engine, volferry, "volferry", *arguments)
        assert code == 0, said
        return said

    assert "FAIL" not in run("doctor")
    run("backup", volume, "--quiesce", "stop")
    service.reload()
    assert service.attrs["State"]["Status"] == "running"
    # Neither itself nor what it writes to.
    assert {each["name"] for each in json.loads(run("volumes", "--json"))["volumes"]} >= {volume, state}
    run("restore", volume, "--into", (restored := world.name()))
    assert in_container(world, restored, LOOK) == look
    assert world.own_containers() == []
