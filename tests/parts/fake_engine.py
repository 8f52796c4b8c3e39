"""An engine in memory, as far as containers are looked at, stopped and started: what docker-py's client would say of it."""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import docker.errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from volferry.engine.client import Engine

_BEGAN = datetime(2026, 3, 10, 12, tzinfo=UTC)


@dataclass
class FakeContainer:
    id: str
    name: str
    volume: str
    state: str = "running"
    started_at: str = ""
    finished_at: str = ""
    exit_code: int = 0
    stop_seconds: int = 10
    labels: Mapping[str, str] = field(default_factory=dict)
    health: str | None = None

    def inspected(self) -> dict[str, Any]:
        return {
            "Id": self.id,
            "Name": f"/{self.name}",
            "State": {
                # As Podman has it: only its list says "stopping".
                "Status": "running" if self.state == "stopping" else self.state,
                "Running": self.state in {"running", "paused"},
                "StartedAt": self.started_at,
                "FinishedAt": self.finished_at,
                "ExitCode": self.exit_code,
                **({"Health": {"Status": self.health}} if self.health else {}),
            },
            "Config": {"Labels": dict(self.labels), "StopTimeout": self.stop_seconds},
            "HostConfig": {},
            "Mounts": self._mounts(),
        }

    def listed(self) -> dict[str, Any]:
        return {
            "Id": self.id,
            "Names": [f"/{self.name}"],
            "State": self.state,
            "Labels": dict(self.labels),
            "Mounts": self._mounts(),
        }

    def _mounts(self) -> list[dict[str, Any]]:
        return [{"Type": "volume", "Name": self.volume, "Destination": "/data", "RW": True}]


class FakeApi:
    """What is in `doing` by a method's name is called before that is done, with the container; it may wait, or raise."""

    def __init__(self) -> None:
        self.timeout = 120
        self.doing: dict[str, Callable[[FakeContainer], object]] = {}
        self.done: list[tuple[str, str]] = []  # what was asked for, and of which name
        # One for each call of `events`: what it tells, and raises. Then a stream that tells nothing, until it is closed.
        self.streams: list[list[dict[str, Any] | Exception]] = []
        self.followed: list[int] = []  # since when each was asked for
        self._closed = threading.Event()
        self._containers: dict[str, FakeContainer] = {}
        self._seconds = itertools.count()

    def add(self, name: str, volume: str, **more: Any) -> FakeContainer:
        made = FakeContainer(f"{len(self._containers) + 1:064x}", name, volume, **more)
        made.started_at = self._now()
        self._containers[made.id] = made
        return made

    def _now(self) -> str:
        return (_BEGAN + timedelta(seconds=next(self._seconds))).isoformat().replace("+00:00", "Z")

    def _asked(self, what: str, ident: str) -> FakeContainer:
        found = self._find(ident)
        self.done.append((what, found.name))
        if what in self.doing:
            self.doing[what](found)
        return found

    def _find(self, ident: str) -> FakeContainer:
        if ident not in self._containers:
            raise docker.errors.NotFound("no such container")
        return self._containers[ident]

    def inspect_container(self, ident: str) -> dict[str, Any]:
        return self._find(ident).inspected()

    def containers(self, *, all: bool = False) -> list[dict[str, Any]]:  # noqa: A002 -- docker-py's word
        return [
            each.listed() for each in self._containers.values() if all or each.state in {"running", "paused"}
        ]

    def inspect_volume(self, name: str) -> dict[str, Any]:
        return {"Name": name, "Driver": "local", "Mountpoint": f"/var/lib/docker/volumes/{name}/_data"}

    def stop(self, ident: str) -> None:
        self.end(self._asked("stop", ident))

    def remove(self, container: FakeContainer) -> None:
        del self._containers[container.id]

    def end(self, container: FakeContainer) -> None:
        if container.state != "exited":
            container.state, container.finished_at = "exited", self._now()

    def start(self, ident: str) -> None:
        container = self._asked("start", ident)
        if container.state == "stopping":
            raise docker.errors.APIError("", explanation="must be in Created or Stopped state to be started")
        if container.state != "running":
            container.state, container.started_at = "running", self._now()

    def pause(self, ident: str) -> None:
        self._asked("pause", ident).state = "paused"

    def unpause(self, ident: str) -> None:
        self._asked("unpause", ident).state = "running"

    def events(self, *, since: int, filters: Any, decode: bool) -> _Stream:
        del filters, decode
        self.followed.append(since)
        return _Stream(self.streams.pop(0) if self.streams else [], self._closed)


class _Stream:
    def __init__(self, tells: list[dict[str, Any] | Exception], closed: threading.Event) -> None:
        self._tells = tells
        self._closed = closed

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for each in self._tells:
            if isinstance(each, Exception):
                raise each
            yield each
        if not self._tells:
            self._closed.wait(30)

    def close(self) -> None:
        self._closed.set()


class FakeEngine:
    id = "ENGINE"
    name = "fake"
    url = "unix:///nowhere"
    shares_our_kernel = True
    checks_health = True

    def __init__(self) -> None:
        self.api = FakeApi()
        self.info: dict[str, Any] = {}

    def now(self) -> datetime:
        return datetime.now(UTC)

    @property
    def as_engine(self) -> Engine:
        return cast("Engine", self)
