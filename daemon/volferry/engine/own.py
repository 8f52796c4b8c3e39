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

# The engine's files for a container (hostname, hosts, resolv.conf) are mounted from .../containers/<id>/.
_ID_IN_MOUNTINFO = re.compile(r"/containers/([0-9a-f]{64})/")


@dataclass(frozen=True, slots=True)
class OwnContainer:
    id: str
    image: str
    mounts: Sequence[dict[str, Any]]

    def mount_behind(self, directory: Path, target: str) -> tuple[Mount, str] | None:
        """A mount of the one volume or host directory that backs `directory`, and the path of `directory` in it
        when it is mounted at `target`. None if it is in the container's own layer or in memory.
        """
        best: dict[str, Any] | None = None
        for mount in self.mounts:
            destination = PurePosixPath(mount["Destination"])
            if directory.is_relative_to(destination) and (
                best is None or len(destination.parts) > len(PurePosixPath(best["Destination"]).parts)
            ):
                best = mount
        if best is None or best.get("Type") not in {"bind", "volume"}:
            return None
        relative = directory.relative_to(best["Destination"])
        if best["Type"] == "bind":
            # Only the directory itself: it lies below what is mounted here.
            return Mount(target, str(PurePosixPath(best["Source"]) / relative), type="bind"), target
        mount = Mount(target, best["Name"], type="volume", no_copy=True)
        return mount, str(PurePosixPath(target) / relative)


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
