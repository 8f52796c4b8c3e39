"""Containers whose image is for another kind of machine than they move to, or run on."""

from __future__ import annotations

import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from tests.engine.test_migrate_containers import container_there, there
from tests.engine.test_quiesce import state_of
from tests.parts.altered_engine import altered_engine

if TYPE_CHECKING:
    from tests.parts.world import World

__all__ = ["there"]

pytestmark = pytest.mark.timeout(120)
ARM = {"Architecture": "aarch64"}


def image_for_arm(world: World, other: World, name: str) -> str:
    """That of `world`, which says of itself that it is for ARM, on `other`; its id."""
    saved = io.BytesIO(b"".join(world.client.api.get_image(world.image)))
    changed = io.BytesIO()
    with tarfile.open(fileobj=saved) as old, tarfile.open(fileobj=changed, mode="w") as new:
        held = old.extractfile("manifest.json")
        assert held is not None
        manifest: list[dict[str, Any]] = json.loads(held.read())
        config = manifest[0]["Config"]
        for info in old:
            file = old.extractfile(info) if info.isfile() else None
            data = file.read() if file else b""
            if info.name == config:
                data = json.dumps({**json.loads(data), "architecture": "arm64"}).encode()
            elif info.name == "manifest.json":
                data = json.dumps([{**manifest[0], "RepoTags": [name]}]).encode()
            elif info.name == "repositories":
                continue
            info.size = len(data)
            new.addfile(info, io.BytesIO(data))
    other.client.images.load(changed.getvalue())
    found = other.client.images.get(name)
    assert found.attrs["Architecture"] == "arm64"
    return str(found.id)


def test_an_image_for_another_machine_is_in_the_way_until_the_target_has_its_own(
    world: World, there: World
) -> None:
    volume = world.filled()
    container = world.container(volume)
    began = state_of(container)["StartedAt"]
    with altered_engine(there.engine.docker_host) as engine:
        engine.info = ARM
        move = ["migrate", volume, "--to", engine.docker_host, "--with-containers"]
        world.cli(*move, "--dry-run").fails_with(
            f"its image {world.image} is for linux/x86_64, and the target is linux/aarch64: `docker pull {world.image}` there"
        )
        assert state_of(container)["StartedAt"] == began
        own = image_for_arm(world, there, world.image)
        done = world.cli(*move).exits(0)
        assert f"gets the target's own image {world.image}, which is for linux/aarch64" in done.stderr
    assert container_there(there, container)["Image"] == own


def test_what_runs_by_emulation_may_go_on_so(world: World, there: World) -> None:
    volume = world.filled()
    name = "volferry-test-emulated:latest"
    wanted = image_for_arm(world, world, name)
    try:
        container = world.container(volume, image=name)
        done = world.cli("migrate", volume, "--to", there.engine.docker_host, "--with-containers").exits(0)
        assert (
            "runs by emulation, which the target must have too: its image is for linux/aarch64" in done.stderr
        )
        assert container_there(there, container)["Image"] == wanted
        assert container_there(there, container)["State"]["Running"]
        container.remove(force=True)
    finally:
        world.client.images.remove(name, force=True)
