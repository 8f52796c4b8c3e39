"""What is at a path of an engine's machine, and of one of its containers."""

from __future__ import annotations

import base64
import json
import secrets
from typing import TYPE_CHECKING, Literal

import docker.errors
from docker.types import Mount

from volferry.engine.client import Engine, explanation, translated
from volferry.engine.labels import NOBODY, OWNER, ROLE, RUN

if TYPE_CHECKING:
    from collections.abc import Iterator

Kind = Literal["directory", "file", "other"]

_PLACE = "/volumes/path"

# Go's os.FileMode.
_DIRECTORY = 1 << 31
_NOT_REGULAR = 1 << 31 | 1 << 27 | 1 << 26 | 1 << 25 | 1 << 24 | 1 << 21 | 1 << 19


def kind_of_path(engine: Engine, image: str, path: str) -> Kind | None:
    """None if there is nothing. A container that would mount it is made, and removed."""
    api = engine.api
    with translated(f"looking for {path}"):
        try:
            found = api.create_container(
                image,
                command=["true"],
                labels={ROLE: "carrier", RUN: secrets.token_hex(6), OWNER: NOBODY},
                network_disabled=True,
                host_config=api.create_host_config(mounts=[Mount(_PLACE, path, type="bind", read_only=True)]),
            )
        except docker.errors.APIError as error:
            if "does not exist" in explanation(error):
                return None
            raise
        try:
            return kind_in_container(engine, found["Id"], _PLACE)
        finally:
            api.remove_container(found["Id"], force=True, v=True)


def kind_in_container(engine: Engine, container: str, path: str) -> Kind | None:
    api = engine.api
    with translated(f"{path} in container {container[:12]}"):
        response = api.head(
            api._url("/containers/{0}/archive", container),  # noqa: SLF001 -- docker-py has no call for it
            params={"path": path},
            timeout=api.timeout,
        )
        if response.status_code == 404:
            return None
        response.raise_for_status()
    stat = json.loads(base64.b64decode(response.headers["X-Docker-Container-Path-Stat"]))
    mode = int(stat["mode"])
    if mode & _DIRECTORY:
        return "directory"
    return "other" if mode & _NOT_REGULAR else "file"


def archive_of_path(engine: Engine, container: str, path: str) -> Iterator[bytes]:
    """A tar of it, as the engine makes it: its names begin with the last part of the path. Also of what is only in the container's own
    layer.
    """
    with translated(f"{path} in container {container[:12]}"):
        stream, _ = engine.api.get_archive(container, path)
        yield from stream
