"""Bind mounts of a container, as what can be backed up: each as if it were a volume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from volferry.engine.client import Engine, translated
from volferry.engine.container_labels import ContainerLabels, is_own
from volferry.engine.host_paths import kind_of_path
from volferry.engine.volumes import container_mounts, use_of
from volferry.model import BIND_DRIVER, HostPath, Volume, VolumeUse

if TYPE_CHECKING:
    from collections.abc import Collection

# The kernel's, and what belongs to processes that run.
_NO_DATA = ("/proc", "/sys", "/dev", "/run", "/var/run")
_DATA = "/dev/shm"  # noqa: S108 -- nothing of ours is put there


def bind_mounts(
    engine: Engine, image: str, container: str, own: Collection[str]
) -> tuple[list[Volume], list[tuple[str, str]]]:
    """What a container mounts of its machine, and what of that is left out, with the reason. `own` are volferry's own directories:
    a backup of what holds them would hold itself.

    Raises NoSuchContainer, EngineError.
    """
    paths = sorted({m["Source"] for m in container_mounts(engine, container) if m.get("Type") == "bind"})
    found: list[Volume] = []
    left_out: list[tuple[str, str]] = []
    uses = _uses(engine) if paths else {}
    for path in paths:
        kind = None if (why := _why_not(path, own)) else kind_of_path(engine, image, path)
        if why is None and kind not in {"directory", "file"}:
            why = "there is nothing" if kind is None else "it is neither a directory nor a file"
        if why is not None:
            left_out.append((path, why))
            continue
        name = bind_name(path)
        bind = HostPath(name, path, is_file=kind == "file")
        found.append(
            Volume(name, BIND_DRIVER, {"path": path}, {}, "local", "", uses.get(path, ()), bind=bind)
        )
    return found, left_out


def looked_up_again(engine: Engine, volume: Volume) -> Volume:
    """With the containers that use it now."""
    return replace(volume, uses=_uses(engine).get(volume.writers_by, ()))


def bind_name(path: str) -> str:
    """`bind:srv:photos` of `/srv/photos`: no volume has such a name, and it can be typed as one."""
    return "bind:" + path.strip("/").replace("/", ":")


def _why_not(path: str, own: Collection[str]) -> str | None:
    here = PurePosixPath(path)
    if str(here) == "/":
        return "it is the whole machine"
    if ":" in path or "@" in path:
        return "a backup's name cannot have a : or @ in it"
    if any(here.is_relative_to(each) for each in _NO_DATA) and not here.is_relative_to(_DATA):
        return "it is the running system's, and no data"
    if any(PurePosixPath(each).is_relative_to(here) for each in own):
        return "volferry's own store or state is in it"
    return None


def _uses(engine: Engine) -> dict[str, tuple[VolumeUse, ...]]:
    """Containers by what they bind-mount."""
    uses: dict[str, list[VolumeUse]] = {}
    all_labels = ContainerLabels(engine)
    with translated("listing the containers"):
        for each in engine.api.containers(all=True):
            if is_own(engine, each):
                continue
            for mount in each.get("Mounts") or []:
                if mount.get("Type") == "bind":
                    uses.setdefault(mount["Source"], []).append(use_of(each, mount, all_labels))
    return {path: tuple(found) for path, found in uses.items()}
