"""Fixtures every kind of test may ask for: a private Docker engine and a client on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import docker
import pytest

from tests.parts.engine import PrivateEngine, private_engine

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def engine() -> Iterator[PrivateEngine]:
    """A Docker engine of this test process's own."""
    with private_engine() as private:
        yield private


@pytest.fixture(scope="session")
def docker_client(engine: PrivateEngine) -> Iterator[docker.DockerClient]:
    """A client of the private engine."""
    client = docker.DockerClient(base_url=engine.docker_host, timeout=120)
    try:
        yield client
    finally:
        client.close()
