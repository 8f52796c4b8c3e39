"""Commands in containers, by the `docker` that people use: docker-py leaves the connection of such a command open."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from docker.models.containers import Container

    from tests.parts.engine import PrivateEngine

_SECONDS = 120


def tried(engine: PrivateEngine, container: Container, *command: str) -> tuple[int, str]:
    """Exit code, and what it said."""
    done = subprocess.run(
        ["docker", "exec", str(container.name), *command],
        env={**os.environ, "DOCKER_HOST": engine.docker_host},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=_SECONDS,
    )
    return done.returncode, done.stdout


def executed(engine: PrivateEngine, container: Container, *command: str, given: bytes = b"") -> bytes:
    """What it writes to stdout. It must succeed."""
    done = subprocess.run(
        ["docker", "exec", "--interactive", str(container.name), *command],
        env={**os.environ, "DOCKER_HOST": engine.docker_host},
        input=given,
        capture_output=True,
        check=False,
        timeout=_SECONDS,
    )
    assert done.returncode == 0, f"{command}: {done.returncode}: {done.stderr.decode()}"
    return done.stdout
