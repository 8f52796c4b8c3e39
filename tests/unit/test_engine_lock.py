"""One volferry at a time has containers of an engine stopped, whatever its state directory is."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, cast

import docker.errors
import pytest
import requests

from tests.unit.test_ours import listed
from volferry.engine import engine_lock as module
from volferry.engine.engine_lock import LOCK_NAME, engine_lock
from volferry.engine.labels import OWNER, ROLE, RUN, STANDSTILL, is_ours
from volferry.engine.reap import reap
from volferry.errors import EngineBusy, EngineError
from volferry.run import Run, begin_run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    from volferry.engine.client import Engine


class Api:
    """An engine that gives a name once."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, Any]] = {}
        self._one = threading.Lock()

    def create_host_config(self, **settings: Any) -> dict[str, Any]:
        return settings

    def create_container(
        self, image: str, *, name: str, labels: dict[str, str], **more: Any
    ) -> dict[str, str]:
        with self._one:
            if any(f"/{name}" in each["Names"] for each in self.found.values()):
                response = requests.Response()
                response.status_code = 409
                raise docker.errors.APIError("the name is in use", response)
            ident = f"{len(self.found)}-{time.monotonic_ns()}"
            self.found[ident] = {
                "Id": ident,
                "Names": [f"/{name}"],
                "Labels": labels,
                "ImageID": image,
                "State": "created",
                "Created": time.time(),
                "Command": " ".join(["volferry", *more["command"]]),
                "HostConfig": {"NetworkMode": more["host_config"]["network_mode"]},
                "Mounts": [],
            }
            return {"Id": ident}

    def containers(self, *, filters: dict[str, Any], **_: Any) -> list[dict[str, Any]]:
        if "name" in filters:
            return [each for each in self.found.values() if f"/{LOCK_NAME}" in each["Names"]]
        return [each for each in self.found.values() if filters["label"][0] in each["Labels"]]

    def inspect_image(self, _: str) -> dict[str, Any]:
        return {}

    def remove_container(self, ident: str, **_: Any) -> None:
        if self.found.pop(ident, None) is None:
            raise docker.errors.NotFound("it is gone")

    def age(self, seconds: float) -> None:
        for each in self.found.values():
            each["Created"] -= seconds


class FakeEngine:
    url = "unix:///engine"

    def __init__(self) -> None:
        self.api = Api()

    @staticmethod
    def now() -> datetime:
        from datetime import UTC, datetime

        return datetime.now(UTC)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.01)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[list[tuple[Run, Path]]]:
    """Runs of two state directories."""
    with begin_run(tmp_path / "a") as first, begin_run(tmp_path / "b") as second:
        yield [(first, tmp_path / "a"), (second, tmp_path / "b")]


def taking(engine: FakeEngine, side: tuple[Run, Path], **more: Any) -> Any:
    run, state = side
    return engine_lock(cast("Engine", engine), "image", run, state, **{"seconds": 0.05, **more})


def test_it_is_there_while_it_is_held_and_is_ours(engine: FakeEngine, sides: list[tuple[Run, Path]]) -> None:
    with taking(engine, sides[0], stops=lambda: "what it stops"):
        (lock,) = engine.api.found.values()
        assert is_ours(lock)
        assert lock["Labels"] == {
            ROLE: "lock", RUN: sides[0][0].id, OWNER: sides[0][0].owner, STANDSTILL: "what it stops"
        }  # fmt: skip
    assert engine.api.found == {}
    with pytest.raises(ZeroDivisionError), taking(engine, sides[0]):
        raise ZeroDivisionError
    assert engine.api.found == {}


def test_another_waits_and_is_told_for_whom(engine: FakeEngine, sides: list[tuple[Run, Path]]) -> None:
    notes: list[str] = []
    order: list[str] = []
    begun = threading.Event()

    def second() -> None:
        begun.set()
        with taking(engine, sides[1], seconds=30, note=notes.append):
            order.append("second")

    other = threading.Thread(target=second)
    with taking(engine, sides[0]):
        other.start()
        begun.wait()
        while not notes:
            time.sleep(0.01)
        order.append("first")
    other.join()
    assert order == ["first", "second"]
    owner, run = sides[0][0].owner, sides[0][0].id
    assert notes == [
        f"waiting: another volferry (state directory {owner}, run {run}) has containers of unix:///engine stopped"
    ]


def test_who_does_not_want_to_wait_that_long_is_told(
    engine: FakeEngine, sides: list[tuple[Run, Path]]
) -> None:
    with (
        taking(engine, sides[0]),
        pytest.raises(EngineBusy, match=r"another volferry .* has containers of unix:///engine stopped"),
        taking(engine, sides[1]),
    ):
        pass


def test_what_a_dead_run_of_ours_has_left_is_taken_at_once(engine: FakeEngine, tmp_path: Path) -> None:
    with begin_run(tmp_path) as dead:
        held = taking(engine, (dead, tmp_path))
        held.__enter__()
    with begin_run(tmp_path) as run, taking(engine, (run, tmp_path), seconds=0):
        (lock,) = engine.api.found.values()
        assert lock["Labels"][RUN] == run.id
    del held  # until here nothing has ended it


def test_that_of_another_volferry_after_an_hour_without_a_helper(
    engine: FakeEngine, sides: list[tuple[Run, Path]]
) -> None:
    """A helper of its run that still is at work says that it is not dead."""
    held = taking(engine, sides[0])
    held.__enter__()
    engine.api.found["helper"] = listed(Id="helper", Labels={**listed()["Labels"], RUN: sides[0][0].id})
    engine.api.age(4000)
    with pytest.raises(EngineBusy), taking(engine, sides[1]):
        pass
    del engine.api.found["helper"]
    with taking(engine, sides[1], seconds=0):
        (lock,) = engine.api.found.values()
        assert lock["Labels"][RUN] == sides[1][0].id
        held.__exit__(None, None, None)  # it was not dead: what is there by now is not its own
        assert list(engine.api.found.values()) == [lock]


def test_a_dead_ones_is_a_left_over_as_any_other(engine: FakeEngine, tmp_path: Path) -> None:
    with begin_run(tmp_path) as dead:
        held = taking(engine, (dead, tmp_path))
        held.__enter__()
        assert reap(cast("Engine", engine), tmp_path, dead.owner) == 0
    assert reap(cast("Engine", engine), tmp_path, dead.owner) == 1
    assert engine.api.found == {}
    del held


def test_a_strangers_container_of_that_name_is_left_alone(
    engine: FakeEngine, sides: list[tuple[Run, Path]]
) -> None:
    engine.api.found["stranger"] = listed(Id="stranger", Names=[f"/{LOCK_NAME}"], Labels={}, Command="sh")
    with pytest.raises(EngineError, match="none of volferry's"), taking(engine, sides[0]):
        pass
    assert set(engine.api.found) == {"stranger"}


def test_one_of_many_has_it(engine: FakeEngine, sides: list[tuple[Run, Path]]) -> None:
    inside = 0
    most = []

    def work(side: tuple[Run, Path]) -> None:
        nonlocal inside
        for _ in range(10):
            with taking(engine, side, seconds=60):
                inside += 1
                most.append(inside)
                time.sleep(0.001)
                inside -= 1

    # Each a run of its own: a lock of the same run is one that it could not remove.
    with ExitStack() as stack:
        runs = [(stack.enter_context(begin_run(state)), state) for _, state in sides * 2]
        threads = [threading.Thread(target=work, args=(run,)) for run in runs]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert set(most) == {1}
    assert len(most) == 40
