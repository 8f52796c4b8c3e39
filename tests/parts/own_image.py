"""volferry's image, built once a test session and loaded into every engine that needs it."""

from __future__ import annotations

import fcntl
import os
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import docker

from tests.parts.base_image import build_arguments, import_base

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.parts.engine import PrivateEngine

PROJECT = Path(__file__).resolve().parents[2]
IMAGE = "volferry-under-test"
_BASE = "volferry-test-base"
_BUILD_SECONDS = 600


class OwnImage:
    """Kept in a file that all processes of the session share."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "own-image.tar"
        self._lock = directory / "own-image.lock"

    def load(self, engine: PrivateEngine) -> str:
        """Its name, once that engine has it."""
        client = docker.DockerClient(base_url=engine.docker_host, timeout=_BUILD_SECONDS)
        try:
            if not client.images.list(IMAGE):
                with self._alone():
                    made = self._file.exists()
                    if not made:
                        _build(engine, client)
                        self._save(client)
                if made:
                    with self._file.open("rb") as file:
                        client.images.load(file)
        finally:
            client.close()
        return IMAGE

    def _save(self, client: docker.DockerClient) -> None:
        unfinished = self._file.with_suffix(".new")
        with unfinished.open("wb") as file:
            file.writelines(client.images.get(IMAGE).save(named=True))
        unfinished.rename(self._file)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._lock.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _build(engine: PrivateEngine, client: docker.DockerClient) -> None:
    import_base(client, _BASE)
    build(engine, PROJECT, IMAGE, BASE=_BASE)


def build(engine: PrivateEngine, directory: Path, image: str, **arguments: str) -> None:
    """As a person would, but for the network: a private engine has none of its own."""
    arguments = {**arguments, **build_arguments()}
    done = subprocess.run(
        [
            *("docker", "build", "--network", "host", "--tag", image),
            *(part for item in arguments.items() for part in ("--build-arg", "=".join(item))),
            str(directory),
        ],
        # BuildKit is a part of its own, and not everywhere
        env={**os.environ, "DOCKER_HOST": engine.docker_host, "DOCKER_BUILDKIT": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=_BUILD_SECONDS,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
