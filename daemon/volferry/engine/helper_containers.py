"""The two containers of a helper, as the engine is asked for them: what they mount, and what they may do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import docker.errors
from docker.types import LogConfig, Mount

from volferry.engine.client import Engine, explanation, translated
from volferry.engine.volumes import options_of
from volferry.errors import EngineError, NoSuchVolume
from volferry.model import HostPath, Volume

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Reading needs to get past permissions, and no more. Writing needs to give files away, to any owner, with any mode,
# as any kind of file, with capabilities of their own.
_READ_CAPABILITIES = ["DAC_READ_SEARCH"]
_WRITE_CAPABILITIES = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "MKNOD", "SETFCAP"]


def directory_of(volume: str) -> str:
    """Where a helper has a volume."""
    return f"/volumes/{volume}"


def create_carrier(
    engine: Engine,
    image: str,
    volumes: Sequence[Volume | HostPath],
    labels: Mapping[str, str],
    *,
    write: bool,
) -> str:
    api = engine.api
    found = api.create_container(
        image,
        command=["true"],
        labels=dict(labels),
        network_disabled=True,
        host_config=api.create_host_config(
            mounts=mounts_of(volumes, write=write), network_mode="none", log_config=LogConfig(type="none")
        ),
    )
    return str(found["Id"])


def mounts_of(volumes: Sequence[Volume | HostPath], *, write: bool) -> list[Mount]:
    return [_mount(volume, write=write) for volume in volumes]


def _mount(volume: Volume | HostPath, *, write: bool) -> Mount:
    target = directory_of(volume.name)
    if isinstance(volume, HostPath):
        if volume.is_file:
            target += "/" + volume.path.rpartition("/")[2]
        return Mount(target, volume.path, type="bind", read_only=not write)
    return Mount(target, volume.name, type="volume", read_only=not write, no_copy=True)


def check_unchanged(engine: Engine, volumes: Sequence[Volume | HostPath]) -> None:
    """Looked at just before and just after the carrier is made: the engine makes a volume that is missing, and an empty
    one in its place is no backup of the other. It is left alone: nothing that we did not make is ours to remove.
    """
    for volume in volumes:
        if isinstance(volume, HostPath):
            continue  # the engine makes none that is missing
        try:
            found = engine.api.inspect_volume(volume.name)
        except docker.errors.NotFound as error:
            raise NoSuchVolume(f"volume {volume.name} was removed meanwhile") from error
        now = (found.get("Driver"), options_of(found), found.get("Labels") or {})
        if now != (volume.driver, volume.options, volume.labels):
            raise NoSuchVolume(f"volume {volume.name} was removed or replaced meanwhile")


def create_helper(
    engine: Engine,
    image: str,
    labels: Mapping[str, str],
    command: Sequence[str],
    limits: Mapping[str, int],
    *,
    mounts: Sequence[Mount] = (),
    carrier: str | None = None,
    write: bool,
    userns: str | None = None,
) -> str:
    """`limits` as docker-py calls them. Nothing else of it is ever left out."""
    api = engine.api
    host_config: dict[str, Any] = api.create_host_config(
        mounts=list(mounts),
        volumes_from=[f"{carrier}:{'rw' if write else 'ro'}"] if carrier else None,
        network_mode="none",
        read_only=True,
        cap_drop=["ALL"],
        cap_add=_WRITE_CAPABILITIES if write else _READ_CAPABILITIES,
        # A volume has the SELinux label of the container that uses it, which no other container may read.
        security_opt=["no-new-privileges", "label=disable"],
        log_config=LogConfig(type="none"),
        userns_mode=userns,
        **limits,
    )
    found = api.create_container(
        image,
        command=list(command),
        entrypoint=[""],  # none: Podman 5.4 takes an empty list for that of the image
        user="0:0",
        working_dir="/",
        # Besides "none": there is nothing but a loopback interface either way, but the engine starts itself again, for each
        # container, to set that one up.
        network_disabled=True,
        environment={"LC_ALL": "C", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
        labels=dict(labels),
        stdin_open=True,
        # Podman waits so long before it kills what is to be removed, and a shell that is a first process heeds no SIGTERM.
        stop_timeout=0,
        healthcheck={"test": ["NONE"]},
        host_config=host_config,
    )
    return str(found["Id"])


def start_helper(engine: Engine, helper_id: str, volumes: str) -> None:
    """`volumes` for people, if it mounts any."""
    try:
        engine.api.start(helper_id)
    except docker.errors.APIError as error:
        if not volumes:
            raise
        raise EngineError(f"{volumes} cannot be mounted: {explanation(error)}") from error


def remove_container(engine: Engine, container_id: str) -> None:
    """Also if it runs; no error if it is gone or going. The anonymous volume of its own goes with it."""
    try:
        with translated("removing a helper"):
            try:
                engine.api.remove_container(container_id, force=True, v=True)
            except docker.errors.NotFound:
                pass
            except docker.errors.APIError as error:
                if "already in progress" not in explanation(error):
                    raise
    except EngineError:
        # Its label is on it: the next run that reaches the engine removes it.
        pass
