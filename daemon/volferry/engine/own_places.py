"""Which volumes hold volferry's own directories: a backup of such a one would hold itself, and grow with each run."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import docker.errors

from volferry.engine.client import translated
from volferry.engine.own import own_container

if TYPE_CHECKING:
    from collections.abc import Mapping

    from volferry.engine.client import Engine
    from volferry.engine.own import OwnContainer
    from volferry.model import Volume


class OwnPlaces:
    """Directories by what they are, such as `the state directory`, and where on the engine's machine they lie. Those that are on another
    machine than the engine are in none of its volumes.

    It looks at no file system but those of the directories and of the engine's own volumes: one that hangs holds nobody up.
    """

    def __init__(self, engine: Engine, directories: Mapping[str, Path]) -> None:
        self._volumes: dict[str, str] = {}  # mounted in our container, and what is in them
        self._paths: list[tuple[str, PurePosixPath]] = []
        self._parents: dict[
            tuple[int, int], str
        ] = {}  # device and inode of each directory that one of ours is in
        container = own_container(engine)
        for what, directory in directories.items():
            if container is not None:
                self._add_mounted(engine, container, what, directory)
            elif engine.shares_our_kernel:
                self._paths.append((what, PurePosixPath(directory)))
                # A store that is not there yet has parents that are.
                for parent in [directory, *directory.parents[:-1]]:
                    if (found := _identity(parent)) is not None:
                        self._parents.setdefault(found, what)

    def in_volume(self, volume: Volume) -> str:
        """Which of them a volume holds; empty if none."""
        if volume.name in self._volumes:
            return self._volumes[volume.name]
        for place in filter(None, (volume.mountpoint, _device(volume.driver, volume.options))):
            for what, path in self._paths:
                if path.is_relative_to(place):
                    return what
        if not self._parents or volume.driver != "local" or volume.options or not volume.mountpoint:
            return ""
        # By another path, as through a bind mount of the machine.
        found = _identity(Path(volume.mountpoint))
        return self._parents.get(found, "") if found is not None else ""

    def _add_mounted(self, engine: Engine, container: OwnContainer, what: str, directory: Path) -> None:
        behind = container.mount_behind(directory)
        if behind is None:
            return
        mount, relative = behind
        sources = [str(mount.get("Source") or "")]
        if mount.get("Type") == "volume":
            name = mount["Name"]
            self._volumes.setdefault(name, what)
            sources.append(_device_of(engine, name))
        # Another volume may lead to the same directory.
        self._paths += [
            (what, PurePosixPath(source) / relative) for source in sources if source.startswith("/")
        ]


def _device_of(engine: Engine, volume: str) -> str:
    with translated(f"volume {volume}"):
        try:
            found = engine.api.inspect_volume(volume)
        except docker.errors.NotFound:
            return ""
    return _device(str(found.get("Driver")), found.get("Options") or {})


def _device(driver: str, options: Mapping[str, str]) -> str:
    """The directory of the machine that a volume of the local driver is; empty for others."""
    device = str(options.get("device", ""))
    is_bind = bool({"bind", "rbind"} & set(str(options.get("o", "")).split(",")))
    return os.path.normpath(device) if driver == "local" and is_bind and device.startswith("/") else ""


def _identity(path: Path) -> tuple[int, int] | None:
    """None where it cannot be looked at."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino
