"""What happens in an engine: told whenever volumes or containers come, go or change."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import docker.errors
import requests.exceptions

from volferry.engine.labels import labelled_as_ours

if TYPE_CHECKING:
    from collections.abc import Callable

    from volferry.engine.client import Engine

_FILTERS = {
    "type": ["volume", "container"],
    # What else happens to containers, as that a command is run in one, changes nothing of what is to be backed up.
    "event": ["create", "destroy", "start", "die", "update"],
}
_AGAIN_SECONDS = 5


class Watch:
    """Calls `changed` from a thread of its own, until `stop`; it outlives the engine's restarts."""

    def __init__(self, engine: Engine, changed: Callable[[], object]) -> None:
        self._engine = engine
        self._changed = changed
        self._stopped = threading.Event()
        self._lock = threading.Lock()  # of the stream
        self._stream: Any = None
        self._thread = threading.Thread(target=self._follow, name="events", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Of a stream that is being opened, the thread finds out itself."""
        with self._lock:
            self._stopped.set()
            stream, self._stream = self._stream, None
        if stream is not None:
            _close(stream)

    def _follow(self) -> None:
        while not self._stopped.is_set():
            try:
                self._until_end(self._engine.api.events(filters=_FILTERS, decode=True))
            except (docker.errors.DockerException, requests.exceptions.RequestException, OSError, ValueError):
                pass
            if not self._stopped.wait(_AGAIN_SECONDS):
                self._changed()  # something may have been missed

    def _until_end(self, stream: Any) -> None:
        with self._lock:
            self._stream = None if self._stopped.is_set() else stream
        try:
            for event in stream if self._stream is not None else ():
                if self._stopped.is_set():
                    return
                if not labelled_as_ours((event.get("Actor") or {}).get("Attributes") or {}):
                    self._changed()
        finally:
            _close(stream)


def _close(stream: Any) -> None:
    # docker-py looks for the socket within the response, and finds none where the engine has just ended it.
    with suppress(AttributeError, docker.errors.DockerException, OSError):
        stream.close()
