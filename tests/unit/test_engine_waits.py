"""What waits for an engine: for the end of a container, and for events; with an engine that is made up."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import docker.errors
import pytest
import requests.exceptions

from volferry.engine import events
from volferry.engine.client import Death
from volferry.engine.events import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CUT = requests.exceptions.ConnectionError("Remote end closed connection without response")
LONG_SECONDS = 10.0


class Api:
    """Waits end as `waits` says, the last of which goes on for ever; `state` is the container's."""

    def __init__(self, *waits: Exception | dict[str, Any]) -> None:
        self.waits = iter(waits)
        self.state: dict[str, Any] | Exception = {"Running": True}
        self.asked = 0

    def wait(self, _: str, timeout: float) -> dict[str, Any]:
        assert timeout
        found = next(self.waits, CUT)
        if isinstance(found, Exception):
            raise found
        return found

    def inspect_container(self, _: str) -> dict[str, Any]:
        self.asked += 1
        if isinstance(self.state, Exception):
            raise self.state
        return {"State": self.state}


def death_of(api: Any) -> Death:
    return Death(SimpleNamespace(api=api), "container")  # type: ignore[arg-type]


def until(true: Callable[[], bool]) -> bool:
    end = time.monotonic() + LONG_SECONDS
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    return true()


@pytest.mark.parametrize(
    "cut",
    [
        CUT,
        requests.exceptions.ReadTimeout("60 s"),
        docker.errors.APIError("504 Gateway Time-out"),
        ValueError("no JSON"),
    ],
)
def test_a_wait_that_is_cut_is_taken_up_again(cut: Exception) -> None:
    api = Api(cut, {"message": "odd"}, cut, {"StatusCode": 137})
    death = death_of(api)
    assert death.wait(LONG_SECONDS)
    assert (death.reason, api.asked) == ("it ended with status 137", 3)
    death.close()


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"Running": False, "ExitCode": 1}, "it ended with status 1"),
        (docker.errors.NotFound("No such container"), "it was removed"),
        (requests.exceptions.ConnectionError("refused"), "the engine went away (refused)"),
    ],
)
def test_where_no_wait_is_allowed_the_container_is_asked_for_not_all_the_time(
    state: Any, reason: str
) -> None:
    api = Api()
    death = death_of(api)
    assert until(lambda: api.asked > 2)
    assert not death.happened
    assert not death.wait(0.5)
    assert api.asked < 12
    api.state = state
    assert death.wait(LONG_SECONDS)
    assert death.reason == reason
    death.close()


class Stream:
    """Of events; as docker-py's, it cannot always be closed."""

    def __init__(self, *, odd: bool = False) -> None:
        self.odd = odd
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield {"Actor": {"Attributes": {}}}
        self.closed.wait(LONG_SECONDS)

    def close(self) -> None:
        self.closed.set()
        if self.odd:
            raise AttributeError("'NoneType' object has no attribute '_sock'")


def test_a_stream_that_is_opened_while_the_watch_is_stopped_is_closed() -> None:
    opening, go_on, stream = threading.Event(), threading.Event(), Stream()

    def open_stream(**_: object) -> Stream:
        opening.set()
        assert go_on.wait(LONG_SECONDS)
        return stream

    changes: list[None] = []
    watch = Watch(SimpleNamespace(api=SimpleNamespace(events=open_stream)), lambda: changes.append(None))  # type: ignore[arg-type]
    assert opening.wait(LONG_SECONDS)
    watch.stop()
    go_on.set()
    assert stream.closed.wait(LONG_SECONDS)
    assert changes == []


def test_a_watch_ends_whatever_closing_its_stream_raises_and_follows_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events, "_AGAIN_SECONDS", 0.01)
    streams = [Stream(odd=True), Stream(odd=True)]
    left = iter(streams)
    changes: list[None] = []
    api = SimpleNamespace(events=lambda **_: next(left))
    watch = Watch(SimpleNamespace(api=api), lambda: changes.append(None))  # type: ignore[arg-type]
    assert until(lambda: len(changes) == 1)
    streams[0].closed.set()  # by the engine
    assert until(lambda: len(changes) == 3)  # something may have been missed, and an event
    watch.stop()
    assert streams[1].closed.is_set()
