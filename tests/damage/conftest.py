"""An engine with nothing in it for each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.parts.world import World, world_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import docker

    from tests.parts.engine import PrivateEngine


@pytest.fixture
def world(engine: PrivateEngine, docker_client: docker.DockerClient, tmp_path: Path) -> Iterator[World]:
    """What the test makes in the engine."""
    with world_of(engine, docker_client, tmp_path) as mine:
        yield mine
