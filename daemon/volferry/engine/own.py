"""The container that volferry itself runs in, if it does: its image is the helper's, its mounts say what can be shared, and it is never
stopped. So it must be the right one: with `network_mode: container:X` the files of the network, and the host name, are those of X.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import docker.errors
from docker.types import Mount

from volferry.engine.client import Engine, translated
from volferry.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import PurePath

CONTAINER_VARIABLE = "VOLFERRY_CONTAINER"
NO_CONTAINER = "none"  # its value, where what we run in is no container of any engine that we work with

# The engine's files for a container's network are mounted from .../containers/<id>/ (Podman: overlay-containers).
_NETWORK_FILES = ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf")
_ID_IN_PATH = re.compile(r"containers/([0-9a-f]{64})/")
_ID_IN_CGROUP = re.compile(r"[0-9a-f]{64}")
_UPPER_LAYER = re.compile(r"[ ,]upperdir=([^ ,]+)")  # of overlay
_OCTAL = re.compile(r"\\([0-7]{3})")  # blanks and the like, in mountinfo
_MARKS = ("/.dockerenv", "/run/.containerenv")

Document = dict[str, Any]

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

    def mount_behind(self, directory: Path) -> tuple[dict[str, Any], PurePosixPath] | None:
        """The mount, as an inspection has it, of the one volume or directory of the machine that backs `directory`, and the path of `directory` in it."""
        around = [each for each in self.mounts if directory.is_relative_to(each["Destination"])]
        if not around:
            return None
        mount = max(around, key=lambda each: len(PurePosixPath(each["Destination"]).parts))
        return mount, PurePosixPath(directory).relative_to(mount["Destination"])

    def shares(self, directory: Path, target: str, api_version: tuple[int, ...]) -> list[Share]:
        """The ways to give a helper `directory` at `target`, and nothing else of what it lies in; the best one first. None if it is
        in the container's own layer or in memory.
        """
        behind = self.mount_behind(directory)
        if behind is None:
            return []
        mount, relative = behind
        found: list[Share] = []
        if mount.get("Type") == "volume" and api_version >= _SUBPATH_API:
            part = Mount(target, mount["Name"], type="volume", no_copy=True, subpath=str(relative))
            found.append(Share(directory, part, "volume subpath"))
        if mount.get("Type") == "bind" or (mount.get("Type"), mount.get("Driver")) == ("volume", "local"):
            # The engine's own driver has its volumes in directories of the machine.
            found.append(Share.by_bind(directory, PurePosixPath(mount["Source"]) / relative, target))
        return found


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a process can see of the container that it runs in."""

    in_container: bool
    host_name: str
    root: str  # the line of mountinfo that is about `/`
    mounted: frozenset[str]  # where something is mounted
    network_ids: tuple[str, ...]  # of the container that our network's files belong to
    control_ids: frozenset[str]  # of the container that our control groups are named for

    @classmethod
    def seen(cls) -> Surroundings:
        lines = [line.split(" ") for line in _lines("/proc/self/mountinfo")]
        files = [fields[3] for fields in lines if fields[4] in _NETWORK_FILES]
        # The last one of a nested path is the innermost.
        groups = [_ID_IN_CGROUP.findall(line)[-1:] for line in _lines("/proc/self/cgroup")]
        return cls(
            in_container=any(Path(mark).exists() for mark in _MARKS),
            host_name=socket.gethostname(),
            # what is mounted last is what there is
            root=next((" ".join(fields) for fields in reversed(lines) if fields[4] == "/"), ""),
            mounted=frozenset(_OCTAL.sub(lambda code: chr(int(code[1], 8)), fields[4]) for fields in lines),
            network_ids=tuple(dict.fromkeys(each for file in files for each in _ID_IN_PATH.findall(file))),
            control_ids=frozenset(each for found in groups for each in found),
        )

    def is_mounted(self, directory: Path) -> bool:
        """Whether it lies in what is mounted, and not in the container's own layer."""
        return any(each != "/" and directory.is_relative_to(each) for each in self.mounted)


def own_container(engine: Engine, here: Surroundings | None = None) -> OwnContainer | None:
    """None where volferry runs on a host, in a container of another engine, or in one that it cannot tell from others."""
    here = here or Surroundings.seen()
    chosen = os.environ.get(CONTAINER_VARIABLE, "")
    with translated("looking for our own container"):
        if chosen:
            found = _running(engine, chosen) if chosen != NO_CONTAINER else None
        else:
            found = _found(engine, here) if here.in_container else None
    return OwnContainer(found["Id"], found["Image"], found.get("Mounts") or []) if found else None


def check_own_container(engine: Engine, own: OwnContainer | None, here: Surroundings | None = None) -> None:
    """Before containers are stopped. Raises EngineError where one of them might be the one that volferry itself runs in."""
    here = here or Surroundings.seen()
    if (
        own is None
        and here.in_container
        and os.environ.get(CONTAINER_VARIABLE, "") != NO_CONTAINER
        and _is_outside(engine)
    ):
        raise EngineError(
            f"volferry runs in a container, but cannot tell which one of {engine.url} it is, and stops none, for it might be that one: "
            f"set {CONTAINER_VARIABLE} to its name, or to {NO_CONTAINER} if another engine runs it"
        )


def _found(engine: Engine, here: Surroundings) -> Document | None:
    """By what no two containers have in common, or else the only one that looks like ours among those with our network."""
    possible: list[Document] = []
    for name in dict.fromkeys([*here.control_ids, *here.network_ids, here.host_name]):
        found = _running(engine, name)
        if found is None:
            continue
        if _is_us(found, here):
            return found
        if name != here.host_name:  # which may be the name of another one
            possible.append(found)
    # Nothing else can be told from others: a machine may have the marks of a container, too.
    searched = here.network_ids or _UPPER_LAYER.search(here.root)
    for each in engine.api.containers() if searched else []:
        # Podman lists all as "host".
        if here.network_ids and not _network(each).startswith(("container:", "host")):
            continue
        found = _running(engine, each["Id"])
        if found is None:
            continue
        if _is_us(found, here):
            return found
        if _network(found).removeprefix("container:") in here.network_ids:
            possible.append(found)
    possible = [each for each in possible if _is_us(each, here) is None and _mounted(each) <= here.mounted]
    most = max((len(_mounted(each)) for each in possible), default=0)
    likely = [each for each in possible if len(_mounted(each)) == most]
    return likely[0] if len(likely) == 1 else None


def _running(engine: Engine, name: str) -> Document | None:
    try:
        found: Document = engine.api.inspect_container(name)
    except docker.errors.NotFound:
        return None
    return found if (found.get("State") or {}).get("Running") else None


def _is_us(found: Document, here: Surroundings) -> bool | None:
    """None where that cannot be said: an engine need not tell where a container's files are."""
    driver = (found.get("GraphDriver") or {}).get("Data") or {}
    # zfs, devicemapper
    if found["Id"] in here.control_ids or any(
        driver.get(name) and driver[name] in here.root for name in ("Dataset", "DeviceName")
    ):
        return True
    layer = _UPPER_LAYER.search(here.root)
    if layer is None or not driver.get("UpperDir"):
        return None
    # Below the engine's directory, if all of it would be too long for the kernel.
    return f"/{driver['UpperDir']}".endswith("/" + layer[1].lstrip("/"))


def _network(described: Document) -> str:
    return str((described.get("HostConfig") or {}).get("NetworkMode"))


def _mounted(found: Document) -> frozenset[str]:
    return frozenset(str(mount.get("Destination")) for mount in found.get("Mounts") or [])


def _is_outside(engine: Engine) -> bool:
    """Whether the engine's socket is that of a process which we cannot see: it came into our container from outside."""
    if not engine.shares_our_kernel:
        return False
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(engine.url.removeprefix("unix://"))
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        except OSError:
            return False
    process, _, _ = struct.unpack("3i", credentials)
    return bool(process == 0)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return []
