"""A compose project, by the program that people use."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.parts.editions import root_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import docker
    from docker.models.containers import Container

    from tests.parts.engine import PrivateEngine

_SECONDS = 120


_PLUGIN = "usr/libexec/docker/cli-plugins/docker-compose"


def program_of(version: str) -> str:
    """Compose 1 of the machine, 2.26 and 2.40 of Debian's later suites, 5 of PyPI."""
    suites = {"2.26": "trixie", "2.40": "sid"}
    if version in suites:
        return str(root_of(suites[version]) / _PLUGIN)
    place = sysconfig.get_path("scripts") if version == "5" else None
    program = shutil.which("docker-compose", path=place)
    assert program, (
        "docker-compose is missing; get it with: apt-get install docker-compose (Compose 5: ./dev setup)"
    )
    return program


@dataclass(frozen=True, slots=True)
class Project:
    """One project: `files` are merged, the last one wins."""

    engine: PrivateEngine
    client: docker.DockerClient
    name: str
    files: Sequence[Path]
    environment: Mapping[str, str] = field(default_factory=dict)
    version: str = "1"

    def __call__(self, *arguments: str) -> str:
        """Runs Compose on it, which must succeed; returns its stdout."""
        return self.run(*arguments).stdout

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """With what it says on stderr, too."""
        done = subprocess.run(
            [
                *(program_of(self.version), "--project-name", self.name),
                *(part for file in self.files for part in ("--file", str(file))),
                *arguments,
            ],
            env={**os.environ, "DOCKER_HOST": self.engine.docker_host, **self.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done

    def up(self) -> None:
        self("up", "--detach")

    def down(self) -> None:
        """With its volumes."""
        self("down", "--volumes")

    def container(self, service: str) -> Container:
        labels = [f"com.docker.compose.project={self.name}", f"com.docker.compose.service={service}"]
        (found,) = self.client.containers.list(all=True, filters={"label": labels})
        return found

    def volume(self, name: str) -> str:
        """A volume's name on the engine."""
        return f"{self.name}_{name}"
