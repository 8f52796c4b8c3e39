"""Who is started, or goes on, while something is read: what an engine tells of containers that mount it to write to it."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

import docker.errors
import requests.exceptions
from docker.utils import convert_filters
from urllib3.exceptions import HTTPError

from volferry.engine.client import translated
from volferry.engine.containers import writes_to
from volferry.errors import EngineError
from volferry.interrupts import held_back

if TYPE_CHECKING:
    from collections.abc import Collection
    from types import TracebackType

    from volferry.engine.client import Engine

_FILTERS = {"type": ["container", "volume"], "event": ["start", "unpause", "mount"]}
_MOST_FAILURES = 20
_AGAIN_SECONDS = 0.5
_REFUSED = {401, 403, 404, 405}
_BROKEN = (
    docker.errors.DockerException,
    requests.exceptions.RequestException,
    HTTPError,
    OSError,
    ValueError,
    AttributeError,  # of docker-py, when a stream that has just ended is closed
)


class Starts:
    """Takes note of them from a thread of its own, which takes a stream up again that a proxy, or the engine's restart, has cut."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._stream: Any = None
        self._seen: dict[tuple[int, str, str], dict[str, str]] = {}  # by time, what happened, and to which id
        self._containers: dict[
            str, dict[str, Any] | None
        ] = {}  # as they were then; None for one that was gone by then
        self._last = int(engine.now().timestamp())
        self._forgotten = 0  # events until then, in nanoseconds by the engine's clock
        self._tried = threading.Event()
        self._was_open = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="starts", daemon=True)

    def forget(self) -> None:
        """What was seen so far."""
        latest = max((time for time, _, _ in [*self._seen]), default=0)
        # What is only told of later happened before, too.
        self._forgotten = max(latest, int(self._engine.now().timestamp() * 1e9))

    def writers(self, volumes: Collection[str], *, but: Collection[str] = ()) -> list[str]:
        """Names of containers that were started, or went on, since `forget`, and write to one of the volumes. Raises EngineError, also where nobody
        knows.
        """
        with translated("looking at what was started"):
            self._catch_up()
            writes = [writes_to(self._engine, volume) for volume in volumes]
        names: set[str] = set()
        for (time, action, subject), attributes in [*self._seen.items()]:
            if time <= self._forgotten or (subject in but or attributes.get("container") in but):
                continue
            if action == "mount":
                if attributes.get("read/write") == "true" and subject in volumes:
                    names.add(self._name(attributes.get("container", "")))
                continue
            found = self._containers.get(subject)
            # Of one that was gone at once, only binds are not told of by mounts.
            is_writer = (
                any(each(found) for each in writes)
                if found is not None
                else any(volume.startswith("/") for volume in volumes)
            )
            if is_writer:
                names.add(self._name(subject))
        return sorted(names)

    def _name(self, container: str) -> str:
        found = self._containers.get(container) or {}
        return str(found.get("Name", container[:12])).lstrip("/")

    def _follow(self) -> None:
        failures = 0
        while not self._ended.is_set():
            try:
                self._stream = self._engine.api.events(since=self._last, filters=_FILTERS, decode=True)
                self._was_open = True
                self._tried.set()
                for event in self._stream:
                    failures = 0
                    self._note(event)
            except _BROKEN:
                pass
            failures += 1
            self._tried.set()
            if failures > _MOST_FAILURES:
                return
            self._ended.wait(_AGAIN_SECONDS)

    def _catch_up(self) -> None:
        """With what the stream has not told by now: it may be cut, or never bring anything again. Raises EngineError where that cannot be known."""
        if not self._was_open:  # where nobody may follow them at all, the containers are looked at anyway
            return
        api = self._engine.api
        params = {
            "since": self._last,
            "until": f"{self._engine.now().timestamp():.9f}",
            "filters": convert_filters(_FILTERS),
        }
        try:
            # docker-py's own `events` would wait for an answer for as long as that takes.
            response = api._get(api._url("/events"), params=params)  # noqa: SLF001
            if response.status_code in _REFUSED:
                return
            response.raise_for_status()
            for line in response.text.splitlines():
                self._note(json.loads(line))
        except _BROKEN as error:
            raise EngineError(f"the engine's events could not be followed: {error}") from error

    def _note(self, event: dict[str, Any]) -> None:
        actor = event.get("Actor") or {}
        action, subject = str(event.get("Action")), str(actor.get("ID"))
        attributes = actor.get("Attributes") or {}
        self._last = int(event.get("time") or self._last)
        key = (int(event.get("timeNano") or 0), action, subject)
        if key in self._seen:
            return
        container = attributes.get("container", "") if action == "mount" else subject
        try:
            self._containers[container] = self._engine.api.inspect_container(container)
        except docker.errors.NotFound:
            self._containers.setdefault(container, None)
        self._seen[key] = attributes

    def __enter__(self) -> Self:
        with held_back():
            self._thread.start()
        self._tried.wait(5)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._stream is not None:
            with suppress(*_BROKEN):
                self._stream.close()
        self._thread.join(timeout=5)
