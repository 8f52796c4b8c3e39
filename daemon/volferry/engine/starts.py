"""Who is started, or goes on, while something is read: what an engine tells of containers that mount it to write to it."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

import docker.errors
import requests.exceptions
from urllib3.exceptions import HTTPError

from volferry.engine.client import translated
from volferry.engine.containers import mounts_to_write
from volferry.errors import EngineError
from volferry.interrupts import held_back

if TYPE_CHECKING:
    from collections.abc import Collection
    from types import TracebackType

    from volferry.engine.client import Engine

_FILTERS = {"type": ["container", "volume"], "event": ["start", "unpause", "mount"]}
_BROKEN = (
    docker.errors.DockerException,
    requests.exceptions.RequestException,
    HTTPError,
    OSError,
    ValueError,
    AttributeError,  # of docker-py, when a stream that has just ended is closed
)


class Starts:
    """Takes note of them from a thread of its own. What it misses, as while the connection is broken, a look at the containers may still show."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._stream: Any = None
        self._seen: list[tuple[str, str, dict[str, str]]] = []  # what happened, to which id, and more
        self._thread = threading.Thread(target=self._follow, name="starts", daemon=True)
        self._open = threading.Event()

    def forget(self) -> None:
        """What was seen so far."""
        self._seen.clear()

    def writers(self, volumes: Collection[str], *, but: Collection[str] = ()) -> list[str]:
        """Names of containers that were started, or went on, since `forget`, and write to one of the volumes. Raises EngineError."""
        names: dict[str, str] = {}
        for action, subject, attributes in [*self._seen]:
            if action == "mount":
                container, writes = attributes.get("container", ""), attributes.get("read/write") == "true"
                if not writes or subject not in volumes:
                    continue
            else:
                container = subject
            if container in names or container in but:
                continue
            try:
                found = self._inspected(container)
            except docker.errors.NotFound:
                if action == "mount":
                    names[container] = container[:12]
                continue
            if any(mounts_to_write(found, volume) for volume in volumes):
                names[container] = str(found.get("Name", container[:12])).lstrip("/")
        return sorted(names.values())

    def _inspected(self, container: str) -> dict[str, Any]:
        try:
            with translated(f"container {container[:12]}"):
                found: dict[str, Any] = self._engine.api.inspect_container(container)
        except EngineError as error:
            if isinstance(error.__cause__, docker.errors.NotFound):
                raise error.__cause__ from None
            raise
        return found

    def _follow(self) -> None:
        try:
            self._stream = self._engine.api.events(filters=_FILTERS, decode=True)
            self._open.set()
            for event in self._stream:
                actor = event.get("Actor") or {}
                self._seen.append(
                    (str(event.get("Action")), str(actor.get("ID")), actor.get("Attributes") or {})
                )
        except _BROKEN:
            pass
        finally:
            self._open.set()

    def __enter__(self) -> Self:
        with held_back():
            self._thread.start()
        self._open.wait(5)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            with suppress(*_BROKEN):
                self._stream.close()
        self._thread.join(timeout=5)
