"""The container that volferry itself runs in, if it does: its image is the helper's, its mounts say what can be shared."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import docker.errors
from docker.types import Mount

from volferry.engine.client import Engine, translated

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import PurePath

# The engine's files for a container (hostname, hosts, resolv.conf) are mounted from .../containers/<id>/.
_ID_IN_MOUNTINFO = re.compile(r"/containers/([0-9a-f]{64})/")


# Docker 26. Before that, volumes are mounted as a whole.
_SUBPATH_API = (1, 45)


@dataclass(frozen=True, slots=True)
class Share:
    """One way to give a helper a directory."""

    directory: Path  # as we have it
    mount: Mount
    way: str  # for people

    @classmethod
    def by_bind(cls, directory: Path, source: PurePath, target: str) -> Share:
        """`source` is the directory as the engine's machine has it."""
        return cls(directory, Mount(target, str(source), type="bind"), "bind mount of the run's directory")


@dataclass(frozen=True, slots=True)
class OwnContainer:
    id: str
    image: str
    mounts: Sequence[dict[str, Any]]

    def shares(self, directory: Path, target: str, api_version: tuple[int, ...]) -> list[Share]:
        """The ways to give a helper `directory` at `target`, and nothing else of what it lies in; the best one first. None if it is
        in the container's own layer or in memory.
        """
        around = [each for each in self.mounts if directory.is_relative_to(each["Destination"])]
        if not around:
            return []
        mount = max(around, key=lambda each: len(PurePosixPath(each["Destination"]).parts))
        relative = directory.relative_to(mount["Destination"])
        found: list[Share] = []
        if mount.get("Type") == "volume" and api_version >= _SUBPATH_API:
            part = Mount(target, mount["Name"], type="volume", no_copy=True, subpath=str(relative))
            found.append(Share(directory, part, "volume subpath"))
        if mount.get("Type") == "bind" or (mount.get("Type"), mount.get("Driver")) == ("volume", "local"):
            # The engine's own driver has its volumes in directories of the machine.
            found.append(Share.by_bind(directory, PurePosixPath(mount["Source"]) / relative, target))
        return found


def own_container(engine: Engine) -> OwnContainer | None:
    """None where volferry runs on a host, or in a container of another engine."""
    for candidate in _candidates():
        with translated("looking for our own container"):
            try:
                found = engine.api.inspect_container(candidate)
            except docker.errors.NotFound:
                continue
        if found.get("State", {}).get("Running") and _is_us(found):
            return OwnContainer(found["Id"], found["Image"], found["Mounts"])
    return None


def _candidates() -> list[str]:
    try:
        ids = _ID_IN_MOUNTINFO.findall(Path("/proc/self/mountinfo").read_text())
    except OSError:
        ids = []
    in_container = Path("/.dockerenv").exists() or Path("/run/.containerenv").exists()
    return list(dict.fromkeys([*ids, *([socket.gethostname()] if in_container else [])]))


def _is_us(found: dict[str, Any]) -> bool:
    """A host sees the mounts of its containers too: only in a container is the host name that of its settings."""
    return (
        bool(found.get("Config", {}).get("Hostname") == socket.gethostname()) and Path("/.dockerenv").exists()
    )
