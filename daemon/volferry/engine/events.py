"""What happens in an engine: told whenever volumes or containers come, go or change."""

from __future__ import annotations

import threading
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
        self._stream: Any = None
        self._thread = threading.Thread(target=self._follow, name="events", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._stream is not None:
            self._stream.close()

    def _follow(self) -> None:
        while not self._stopped.is_set():
            try:
                self._stream = self._engine.api.events(filters=_FILTERS, decode=True)
                for event in self._stream:
                    if not labelled_as_ours((event.get("Actor") or {}).get("Attributes") or {}):
                        self._changed()
            except (docker.errors.DockerException, requests.exceptions.RequestException, OSError, ValueError):
                pass
            if not self._stopped.wait(_AGAIN_SECONDS):
                self._changed()  # something may have been missed
