"""What one test makes in an engine: volumes and containers, all of them removed at its end."""

from __future__ import annotations

import io
import itertools
import os
import re
import secrets
import shutil
import subprocess
import tarfile
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from docker.errors import APIError, NotFound

from tests.parts.cli import Cli

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import docker
    from docker.models.containers import Container

    from tests.parts.engine import PrivateEngine

# A container's first process that does nothing until it is stopped: its stdin stays open and never brings a line.
IDLE = ["sh", "-c", "while read -r _; do :; done"]
IMAGE = "volferry-test-user"
_numbers = itertools.count(1)


def shell_image(*more: str) -> bytes:
    """A root filesystem as a tar: `sh`, `cat`, `more` of the machine's programs, and the libraries that they need."""
    files: dict[str, str] = {}
    for name in ("sh", "cat", *more):
        program = shutil.which(name)
        assert program
        needed = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
        files |= {f"bin/{name}": program, **{path[1:]: path for path in re.findall(r"/\S+", needed)}}
    with io.BytesIO() as out:
        with tarfile.open(fileobj=out, mode="w", dereference=True) as tar:
            for name, path in sorted(files.items()):
                tar.add(path, name)
        return out.getvalue()


class World:
    """One test's part of an engine."""

    def __init__(self, engine: PrivateEngine, client: docker.DockerClient, directory: Path) -> None:
        self.engine = engine
        self.client = client
        self.directory = directory
        self.store = directory / "store"
        self.cli = Cli(engine.docker_host, self.store, directory / "state", directory)
        self._containers: list[Container] = []
        self._others = self.volumes()

    @property
    def host(self) -> str:
        """The engine's name, under which backups are kept."""
        return str(self.client.info()["Name"])

    @property
    def image(self) -> str:
        """A small image with `sh` and `cat`, made from the host's own programs."""
        if not self.client.images.list(IMAGE):
            # Not volferry's own helper image: what runs from that is taken for a helper.
            self.client.api.import_image_from_data(shell_image(), repository=IMAGE, tag="latest")
        return f"{IMAGE}:latest"

    def name(self) -> str:
        """A volume's name that nobody else has."""
        return f"vol{os.getpid()}-{next(_numbers)}"

    def volume(
        self,
        name: str | None = None,
        *,
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> str:
        made = self.client.volumes.create(
            name or self.name(), driver="local", driver_opts=dict(options or {}), labels=dict(labels or {})
        )
        if self.engine.edition.program == "podman" and not options:
            self._use(str(made.name))
        return str(made.name)

    def _use(self, volume: str) -> None:
        """Podman gives a volume's directory to its first user: what a test writes there on the machine comes after that."""
        user = self.client.containers.create(
            self.image, ["cat"], volumes=[f"{volume}:/data"], network_mode="none"
        )
        user.start()
        user.wait()
        user.remove(force=True)

    def volume_at(self, directory: Path) -> str:
        """One whose data are there, for what is about many files: a test's own directory is the faster place."""
        return self.volume(options={"type": "none", "o": "bind", "device": str(directory)})

    def anonymous_volume(self) -> str:
        """As an engine of today makes them: its name is random, and a label says so."""
        return self.volume(secrets.token_hex(32), labels={"com.docker.volume.anonymous": ""})

    def data(self, volume: str) -> Path:
        """The directory of a volume of the local driver; never created."""
        return self.engine.data_root / "volumes" / volume / "_data"

    def filled(self, name: str | None = None, **files: str) -> str:
        """A volume with a few files."""
        volume = self.volume(name)
        for file, content in (files or {"one": "1", "two": "2"}).items():
            (self.data(volume) / file).write_text(content)
        return volume

    def container(self, volume: str, state: str = "running", **more: Any) -> Container:
        """A container that mounts `volume` at /data: running, paused, stopped or created."""
        made = self.client.containers.create(
            more.pop("image", "") or self.image,
            stdin_open=True,
            **{
                # In place of a network mode of "none", for which the engine would start itself once more.
                "network_disabled": True,
                "command": IDLE,
                "name": f"user-{secrets.token_hex(4)}",
                "volumes": [f"{volume}:/data"],
                **more,
            },
        )
        self._containers.append(made)
        if state != "created":
            made.start()
        if state == "paused":
            made.pause()
        if state == "stopped":
            made.kill()
            made.wait()
        return made

    def exists(self, volume: str) -> bool:
        return volume in self.volumes()

    def volumes(self) -> set[str]:
        return {str(volume.name) for volume in self.client.volumes.list()}

    def own_containers(self) -> list[Any]:
        """Containers that volferry made and has not removed."""
        found: list[Any] = self.client.api.containers(all=True, filters={"label": "volferry.role"})
        return found

    def objects(self, kind: str = "") -> list[Path]:
        """Files below `kind` in the store."""
        return sorted(path for path in (self.store / kind).rglob("*") if path.is_file())

    def in_runs(self, file: str) -> bool:
        """Whether a run has made a temporary file of that name."""
        return any(self.cli.state.glob(f"runs/*/**/{file}"))

    def reading_begins(self) -> bool:
        """Whether a backup has listed its volume, and is going to read it or has begun to."""
        return any(self.cli.state.rglob("checkpoints/*/run.json"))

    def unfinished_bytes(self) -> int:
        """Bytes of objects that are being written to the store."""
        total = 0
        for path in (self.store / ".tmp").glob("*"):
            try:
                total += path.stat().st_size
            except FileNotFoundError:
                continue
        return total

    def remove(self, volume: str) -> None:
        self.client.volumes.get(volume).remove(force=True)

    def close(self) -> None:
        for running in self.cli.started:
            running.end()
        for container in self._containers:
            try:
                if self.engine.edition.program == "podman":  # it would wait ten seconds
                    with suppress(APIError):
                        container.kill()
                container.remove(force=True, v=True)
            except NotFound:
                continue
        for each in self.own_containers():
            try:
                self.client.api.remove_container(each["Id"], force=True, v=True)
            except APIError:
                continue
        for name in self.volumes() - self._others:
            self.remove(name)


@contextmanager
def world_of(engine: PrivateEngine, client: docker.DockerClient, directory: Path) -> Iterator[World]:
    """What was in the engine before stays there."""
    world = World(engine, client, directory)
    try:
        yield world
    finally:
        world.close()
