"""What stands still comes back, also where the engine takes long to stop it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import docker.errors
import pytest
import requests.exceptions

from tests.parts.fake_engine import FakeContainer, FakeEngine
from volferry import interrupts
from volferry.cli import migration_containers
from volferry.errors import DowntimeExceeded, EngineError, Interrupted, VolferryError
from volferry.interrupts import held_back
from volferry.journal import Halt, Journal
from volferry.operations import coming_back, quiesce
from volferry.operations.coming_back import ComingBack
from volferry.operations.quiesce import Limits, Mode, Quiesced
from volferry.operations.still_down import still_down

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

RUN = "0123456789ab"
VOLUME = "pgdata"


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    monkeypatch.setattr(coming_back, "STEADY_SECONDS", 0.3)
    return FakeEngine()


@pytest.fixture
def background() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def quiesced(engine: FakeEngine, state: Path, mode: Mode = "stop", **limits: Any) -> Quiesced:
    limits = {"bring_back": timedelta(seconds=20), **limits}
    journal = Journal.of_run(state, RUN)
    return Quiesced(
        engine.as_engine, [VOLUME], mode, False, journal, [], note=lambda _: None, limits=Limits(**limits)
    )


def await_true(reached: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("mode", ["stop", "pause"])
@pytest.mark.parametrize("ends", ["late", "unanswered"])
def test_the_limit_brings_back_what_was_stopped_while_the_engine_takes_long_to_stop_another(
    engine: FakeEngine, tmp_path: Path, background: ThreadPoolExecutor, mode: Mode, ends: str
) -> None:
    slow, quick = (engine.api.add(name, VOLUME) for name in ("slow", "quick"))
    may_go_on = threading.Event()

    def hangs(container: FakeContainer) -> None:
        if container is not slow:
            return
        assert may_go_on.wait(30)
        if ends == "unanswered":
            # The engine does it all the same.
            threading.Timer(0.1, engine.api.end if mode == "stop" else _paused, [container]).start()
            raise requests.exceptions.ReadTimeout("Read timed out.")

    engine.api.doing[mode] = hangs
    still = quiesced(engine, tmp_path, mode, downtime=timedelta(seconds=0.5))
    begun = background.submit(still.begin)
    await_true(lambda: (mode, "slow") in engine.api.done)
    assert quick.state != "running"
    await_true(lambda: quick.state == "running")
    # A pause that takes so long is taken for one that the engine was never asked for.
    time.sleep(0.6 if mode == "pause" else 0)
    assert slow.state == "running"
    may_go_on.set()
    with pytest.raises(DowntimeExceeded):
        begun.result(30)
    assert still.overdue
    still.end()
    assert still.await_up() == []
    assert (slow.state, quick.state) == ("running", "running")
    assert (mode, "slow") in engine.api.done
    assert ("start" if mode == "stop" else "unpause", "slow") in engine.api.done
    assert list(tmp_path.glob("journal/*.jsonl")) == []


def _paused(container: FakeContainer) -> None:
    container.state = "paused"


def test_nothing_more_is_stopped_once_the_limit_has_passed(
    engine: FakeEngine, tmp_path: Path, background: ThreadPoolExecutor
) -> None:
    first, second = (engine.api.add(name, VOLUME) for name in ("first", "second"))
    still = quiesced(engine, tmp_path, downtime=timedelta(seconds=0.2))
    engine.api.doing["stop"] = lambda _: await_true(lambda: still.overdue)
    with pytest.raises(DowntimeExceeded, match="max_downtime"):
        background.submit(still.begin).result(30)
    still.end()
    assert still.await_up() == []
    assert (first.state, second.state) == ("running", "running")
    assert [name for what, name in engine.api.done if what == "stop"] == ["second"]


@pytest.fixture
def signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    hook = sys.unraisablehook
    interrupts.install()
    yield
    interrupts.install()
    sys.unraisablehook = hook
    for number, handler in before.items():
        signal.signal(number, handler)


def test_ctrl_c_once_more_leaves_to_recover_what_the_limit_could_not_bring_back(
    engine: FakeEngine, tmp_path: Path, signals: None
) -> None:
    container = engine.api.add("db", VOLUME)
    engine.api.doing["start"] = _refuses
    notes: list[str] = []
    still = quiesced(engine, tmp_path, downtime=timedelta(seconds=0.2), bring_back=timedelta(hours=1))
    still.note = notes.append
    timers = [threading.Timer(after, os.kill, [os.getpid(), signal.SIGINT]) for after in (0.5, 1.0)]

    def end() -> None:
        with held_back():  # as whoever reads is, once that was ended by a signal
            still.begin()
            for each in timers:
                each.start()
            await_true(lambda: ("start", "db") in engine.api.done)
            still.end()
            assert still.await_up() == ["db is not up again: container db: port is already allocated"]

    with pytest.raises(Interrupted):
        end()
    assert container.state == "exited"
    assert any("db: no longer waited for: `volferry recover`" in note for note in notes)
    assert len(list(tmp_path.glob("journal/*.jsonl"))) == 1


def _refuses(container: FakeContainer) -> None:
    raise docker.errors.APIError("", explanation=f"container {container.name}: port is already allocated")


def test_a_container_that_is_never_old_enough_is_waited_for_a_few_minutes_only(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert quiesce._YOUNG_SECONDS == 300
    monkeypatch.setattr(quiesce, "_YOUNG_SECONDS", 1.2)
    container = engine.api.add("db", VOLUME)
    container.started_at = datetime.now(UTC).isoformat()
    still = quiesced(engine, tmp_path, young=timedelta(hours=9))
    began = time.monotonic()
    still.begin()
    assert 1 < time.monotonic() - began < 10
    assert "db had run for less than 540 min" in still.unstopped
    still.end()
    assert still.await_up() == []
    assert (engine.api.done, container.state, still.mode) == ([], "running", "none")
    assert list(tmp_path.glob("journal/*.jsonl")) == []


@pytest.mark.parametrize("from_step", range(1, 8))
def test_a_journal_that_can_no_longer_be_written_keeps_nothing_down(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, from_step: int
) -> None:
    containers = [engine.api.add(name, VOLUME) for name in ("db", "web")]
    write, count = Journal.write, 0

    def full(self: Journal, *halts: Halt) -> None:
        nonlocal count
        count += 1
        if count >= from_step:
            raise VolferryError("cannot write the journal: no space left on device")
        write(self, *halts)

    monkeypatch.setattr(Journal, "write", full)
    still = quiesced(engine, tmp_path)
    try:
        still.begin()
        assert [each.state for each in containers] == ["exited", "exited"]
    except VolferryError:
        assert from_step <= 5  # all that is planned, and two steps of each
    still.end()
    assert still.await_up() == []
    assert [each.state for each in containers] == ["running", "running"]
    stopped = [name for what, name in engine.api.done if what == "stop"]
    assert [name for what, name in engine.api.done if what == "start"] == stopped[::-1]
    assert len(stopped) == {1: 0, 2: 0, 3: 1, 4: 1}.get(from_step, 2)
    assert list(tmp_path.glob("journal/*.jsonl")) == []


@pytest.mark.parametrize("seconds", [0.3, 1.5])
def test_what_was_being_stopped_when_its_run_was_killed_is_started_whenever_it_ends(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """Also where it ends only after it was taken for one that the engine was never asked to stop."""
    monkeypatch.setattr(coming_back, "LONGER_SECONDS", 0)
    monkeypatch.setattr(coming_back, "STEADY_SECONDS", 2.0)
    container = engine.api.add("db", VOLUME, stop_seconds=1)
    journal = Journal.of_run(tmp_path, RUN)
    halt = Halt("stop", container.id, "db", 0, container.started_at, "under way")
    journal.write(halt)
    coming = ComingBack(engine.as_engine, [halt], journal, lambda _: None, sure=False)
    ends = threading.Timer(seconds, engine.api.end, [container])
    ends.start()
    coming.start(20)
    assert coming.await_up() == []
    ends.join()
    assert engine.api.done == [("start", "db")]
    assert container.state == "running"


@pytest.mark.parametrize("mode", ["stop", "pause"])
def test_one_that_podman_is_stopping_is_stopped_and_not_read_while_it_writes(
    engine: FakeEngine, tmp_path: Path, mode: Mode
) -> None:
    """Podman's list leaves it out unless it is asked for all, and refuses to pause it."""
    container = engine.api.add("db", VOLUME, state="stopping")
    engine.api.add("old", VOLUME, state="exited")
    engine.api.add("new", VOLUME, state="created")
    still = quiesced(engine, tmp_path, mode)
    still.begin()
    assert (still.stopped, container.state) == (["db"], "exited")
    still.end()
    assert still.await_up() == []
    assert engine.api.done == [("stop", "db"), ("start", "db")]
    assert container.state == "running"


def test_one_that_goes_with_who_was_stopping_it_is_nobody_s_to_bring_back(
    engine: FakeEngine, tmp_path: Path
) -> None:
    container = engine.api.add("db", VOLUME, state="stopping")
    engine.api.doing["stop"] = engine.api.remove
    still = quiesced(engine, tmp_path)
    still.begin()
    assert still.stopped == []
    still.end()
    assert still.await_up() == []
    assert engine.api.done == [("stop", container.name)]
    assert list(tmp_path.glob("journal/*.jsonl")) == []


@pytest.mark.parametrize("state", ["under way", "started"])
@pytest.mark.parametrize("sure", [False, True])
def test_one_that_podman_has_died_stopping_is_stopped_once_more_and_started(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: Any, sure: bool
) -> None:
    """It goes on running for good; its list says "stopping", its inspection "running"."""
    monkeypatch.setattr(coming_back, "LONGER_SECONDS", 0)
    container = engine.api.add("db", VOLUME, state="stopping", stop_seconds=1)
    journal = Journal.of_run(tmp_path, RUN)
    halt = Halt("stop", container.id, "db", 0, container.started_at, state)
    journal.write(halt)
    coming = ComingBack(engine.as_engine, [halt], journal, lambda _: None, sure=sure)
    coming.start(20)
    assert coming.await_up() == []
    assert engine.api.done == [("stop", "db"), ("start", "db")]
    assert container.state == "running"


def test_one_that_cannot_be_stopped_once_more_is_not_up(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coming_back, "LONGER_SECONDS", 0)
    container = engine.api.add("db", VOLUME, state="stopping", stop_seconds=0)
    engine.api.doing["stop"] = _refuses
    lock = tmp_path / "runs" / RUN / "lock"  # of a run that there was
    lock.parent.mkdir(parents=True)
    lock.touch()
    journal = Journal.of_run(tmp_path, RUN)
    halt = Halt("stop", container.id, "db", 0, container.started_at, "under way")
    journal.write(halt)
    coming = ComingBack(engine.as_engine, [halt], journal, lambda _: None, sure=False)
    coming.start(0.5)
    assert [each.name for each in coming.await_up()] == ["db"]
    journal.end(over=coming.is_over)
    (down,) = still_down(tmp_path, engine.as_engine)
    assert down.name == "db"
    container.state = "running"
    assert still_down(tmp_path, engine.as_engine) == []


def test_what_is_handed_over_was_down_until_then(engine: FakeEngine, tmp_path: Path) -> None:
    engine.api.add("db", VOLUME)
    engine.api.doing["stop"] = lambda _: threading.Event().wait(0.01)
    began = time.monotonic()
    still = quiesced(engine, tmp_path)
    still.begin()
    still.hand_over("unix:///elsewhere")
    still.leave()
    down = still.downtime_seconds
    assert 0.01 <= down <= time.monotonic() - began + 0.001  # rounded
    still.end()
    assert still.downtime_seconds == down


def compose(service: str, *needs: str) -> dict[str, str]:
    project = {"com.docker.compose.project": "shop", "com.docker.compose.service": service}
    return {
        **project,
        "com.docker.compose.depends_on": ",".join(f"{each}:service_healthy:false" for each in needs),
    }


def test_what_depends_on_one_that_is_not_healthy_waits_for_it_once(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not one after the other: all of that is downtime."""
    monkeypatch.setattr(coming_back, "HEALTHY_SECONDS", 1)
    engine.api.add("db", VOLUME, labels=compose("db"), health="starting")
    for name in ("a", "b", "c", "d"):
        engine.api.add(name, VOLUME, labels=compose(name, "db"))
    still = quiesced(engine, tmp_path)
    still.begin()
    began = time.monotonic()
    still.end()
    assert 1 <= time.monotonic() - began < 2.5
    assert [name for what, name in engine.api.done if what == "start"] == ["db", "a", "b", "c", "d"]


def test_all_of_the_target_have_one_deadline_to_be_healthy(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migration_containers, "_HEALTHY_SECONDS", 1)
    made = [engine.api.add(name, VOLUME, health="starting").id for name in ("a", "b", "c", "d")]
    notes: list[str] = []
    began = time.monotonic()
    observer = cast("Any", SimpleNamespace(note=notes.append))
    migration_containers.await_health_on_target(engine.as_engine, made, observer)
    assert 1 <= time.monotonic() - began < 2.5
    assert len(notes) == 4


def test_what_is_started_on_the_target_waits_once_for_what_it_depends_on(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migration_containers, "_HEALTHY_SECONDS", 1)
    monkeypatch.setattr(migration_containers, "_SETTLE_SECONDS", 0)
    made = [engine.api.add("db", VOLUME, labels=compose("db"), health="starting").id]
    made += [engine.api.add(name, VOLUME, labels=compose(name, "db")).id for name in ("a", "b", "c", "d")]
    took: list[list[str]] = []
    began = time.monotonic()
    migration_containers.start_on_target(engine.as_engine, made, took.append, running=[])
    assert 1 <= time.monotonic() - began < 2.5
    assert took == [["db", "a", "b", "c", "d"]]


@pytest.mark.parametrize(("version", "helps"), [("1", True), ("2", False)])
def test_where_a_rootless_engine_cannot_pause_it_is_said_what_to_do(
    engine: FakeEngine, tmp_path: Path, version: str, helps: bool
) -> None:
    engine.api.add("db", VOLUME)
    engine.api.doing["pause"] = _refuses
    engine.info = {"SecurityOptions": ["name=rootless"], "CgroupVersion": version}
    still = quiesced(engine, tmp_path, "pause")
    with pytest.raises(EngineError, match="pausing container db: ") as caught:
        still.begin()
    assert ("unified_cgroup_hierarchy" in str(caught.value)) is helps
    still.end()
    assert still.await_up() == []
