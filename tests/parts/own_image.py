"""volferry's image, built once of the same sources, and loaded into every engine that needs it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import docker

from tests.parts import base_image
from tests.parts.base_image import build_arguments, import_base
from tests.parts.editions import EDITIONS, NEWEST
from tests.parts.engine import private_engine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.parts.engine import PrivateEngine

PROJECT = Path(__file__).resolve().parents[2]
IMAGE = "volferry-under-test"
_BASE = "volferry-test-base"
_BUILD_SECONDS = 600
_KEPT = Path("/var/tmp/volferry-images")
_MOST_KEPT = 3


class OwnImage:
    """Kept in a file, of which there is one for what the image is built from."""

    def load(self, engine: PrivateEngine) -> str:
        """Its name, once that engine has it."""
        with _client(engine) as client:
            if not client.images.list(IMAGE):
                with _kept().open("rb") as file:
                    client.images.load(file)
        return IMAGE


def _kept() -> Path:
    """The image as a file, built if need be."""
    _KEPT.mkdir(exist_ok=True)
    file = _KEPT / f"{_digest()}.tar"
    with _alone(_KEPT / "lock"):
        if not file.exists():
            unfinished = file.with_suffix(".new")
            # Whatever engine is tried: some build nothing in a sandbox.
            with private_engine(edition=EDITIONS[NEWEST]) as builder, _client(builder) as client:
                import_base(client, _BASE)
                build(builder, PROJECT, IMAGE, BASE=_BASE)
                with unfinished.open("wb") as into:
                    into.writelines(client.images.get(IMAGE).save(named=True))
            unfinished.rename(file)
            older = sorted(_KEPT.glob("*.tar"), key=lambda each: each.stat().st_mtime)[:-_MOST_KEPT]
            for each in older:
                each.unlink()
    return file


def _digest() -> str:
    """Of the files that the image is built from."""
    found = hashlib.sha256()
    sources = [
        each
        for place in (
            "Dockerfile",
            ".dockerignore",
            "LICENSE",
            "README.md",
            "pyproject.toml",
            "requirements.lock",
            "daemon",
        )
        for each in ((PROJECT / place).rglob("*") if (PROJECT / place).is_dir() else [PROJECT / place])
        if each.is_file() and "__pycache__" not in each.parts
    ]
    for each in [*sorted(sources), Path(base_image.__file__)]:
        found.update(f"{each.name} {hashlib.sha256(each.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()[:16]


@contextmanager
def _client(engine: PrivateEngine) -> Iterator[docker.DockerClient]:
    client = docker.DockerClient(base_url=engine.docker_host, timeout=_BUILD_SECONDS)
    try:
        yield client
    finally:
        client.close()


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


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
