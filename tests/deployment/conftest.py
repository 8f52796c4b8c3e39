"""volferry's own image, in the engine that tests have anyway."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.parts.own_image import OwnImage
from tests.parts.world import World, world_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import docker

    from tests.parts.engine import PrivateEngine


@pytest.fixture(scope="session")
def own_image() -> OwnImage:
    return OwnImage()


@pytest.fixture
def image(engine: PrivateEngine, own_image: OwnImage) -> str:
    """Its name, in the private engine."""
    return own_image.load(engine)


@pytest.fixture
def world(engine: PrivateEngine, docker_client: docker.DockerClient, tmp_path: Path) -> Iterator[World]:
    """What the test makes in the engine."""
    with world_of(engine, docker_client, tmp_path) as mine:
        yield mine
