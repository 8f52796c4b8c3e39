"""What is at a path of an engine's machine, and of one of its containers."""

from __future__ import annotations

import base64
import json
import secrets
from contextlib import contextmanager
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
    """None if there is nothing. A container that would mount it is made, and removed; it never runs.

    Podman makes a directory that is missing (`compat/containers_create.go`, "Make mount points for compat volumes"): there the container would mount
    the machine's root, which is there already.
    """
    if engine.is_podman:
        with _container(engine, image, "/") as container:
            return kind_in_container(engine, container, _PLACE + path) if container else None
    with _container(engine, image, path) as container:
        return kind_in_container(engine, container, _PLACE) if container else None


@contextmanager
def _container(engine: Engine, image: str, path: str) -> Iterator[str | None]:
    """The id of one that would mount the path; None if there is nothing."""
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
            if not any(words in explanation(error) for words in ("does not exist", "not a directory")):
                raise
            found = None
        if found is None:
            yield None
            return
        try:
            yield found["Id"]
        finally:
            api.remove_container(found["Id"], force=True, v=True)


def kind_in_container(engine: Engine, container: str, path: str) -> Kind | None:
    """Links on the way are followed."""
    api = engine.api
    with translated(f"{path} in container {container[:12]}"):
        response = api.head(
            api._url("/containers/{0}/archive", container),  # noqa: SLF001 -- docker-py has no call for it
            params={"path": path},
            timeout=api.timeout,
        )
        if response.status_code == 404:
            return None
        api._raise_for_status(response)  # noqa: SLF001
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
