"""What goes wrong in one part of the daemon's loop keeps no other from its turn, and does not end the daemon."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from volferry import interrupts
from volferry.cli.daemon import _Daemon
from volferry.cli.daemon_settings import DaemonSettings
from volferry.scheduler.copies import CopyEnding
from volferry.scheduler.moments import Moment
from volferry.scheduler.turns import Guard, Turn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from volferry.scheduler.events import Event

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)


@dataclass
class Made:
    """A part of the loop, and whoever is told of it."""

    failing: Exception | None = None
    cannot_tell: bool = False
    steps: list[float] = field(default_factory=list)
    told: list[tuple[str, str]] = field(default_factory=list)
    lines: list[tuple[str, str]] = field(default_factory=list)
    mono: timedelta = timedelta(days=2)

    def __post_init__(self) -> None:
        self.guard = Guard(self.tell, self)
        self.turn = Turn("copying", self.step, self.guard)

    def step(self, now: Moment) -> timedelta | None:
        self.steps.append(now.mono.total_seconds())
        if self.failing is not None:
            raise self.failing
        return None

    def tell(self, event: Event) -> None:
        if self.cannot_tell:
            raise KeyError("body")
        self.told.append((event.kind, event.what))

    def error(self, event: str, *, error: str) -> None:
        self.lines.append((event, error))

    def info(self, event: str) -> None:
        self.lines.append((event, ""))

    def live(self, **span: float) -> None:
        end = self.mono + timedelta(**span)
        while self.mono < end:
            until = self.turn.take(Moment(NOW + self.mono, self.mono))
            self.mono = min(end, until if until is not None else end)


def test_what_fails_is_tried_again_later_and_later_and_told_once_until_it_works() -> None:
    made = Made(ValueError("odd"))
    made.live(hours=2)
    waits = [after - before for before, after in zip(made.steps, made.steps[1:], strict=False)]
    assert waits[:7] == [10, 20, 40, 80, 160, 320, 600]
    assert set(waits[6:]) == {600}
    assert made.told == [("failure", "the daemon: copying failed")]
    assert len(made.lines) == 1
    assert "ValueError: odd" in made.turn.trouble
    made.failing = None
    made.live(hours=2)
    assert made.told[1:] == [("recovery", "the daemon: copying works again")]
    assert (made.turn.rests, made.turn.trouble) == (False, "")


def test_nobody_who_can_be_told_is_no_reason_to_end() -> None:
    made = Made(ValueError("odd"), cannot_tell=True)
    made.live(hours=1)
    assert len(made.steps) > 5


def test_what_is_done_once_fails_alone_and_is_told_once() -> None:
    made = Made()

    def fails() -> None:
        raise ValueError("odd")

    for _ in range(3):
        made.guard.attempt("a ping", fails)
    made.guard.attempt("a ping", lambda: made.steps.append(1))
    assert made.told == [("failure", "the daemon: a ping failed")]
    assert len(made.lines) == len(made.steps) == 1


@pytest.fixture
def ended_soon() -> Iterator[threading.Timer]:
    """The daemon, a moment after this was started."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before, hook = {each: signal.getsignal(each) for each in numbers}, sys.unraisablehook
    interrupts.install()
    timer = threading.Timer(1.5, os.kill, [os.getpid(), signal.SIGTERM])
    yield timer
    timer.cancel()
    sys.unraisablehook = hook
    for number, handler in before.items():
        signal.signal(number, handler)


PARTS = {
    "_copies": "making up for copies",
    "_prunes": "making up for prunes",
    "_verifying": "verifying",
    "_recovering": "bringing services back",
    "_loop": "looking for what is due",
}


@pytest.mark.parametrize("broken", PARTS)
def test_a_part_that_is_broken_does_not_end_the_daemon(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ended_soon: threading.Timer,
    broken: str,
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere")
    config = tmp_path / "volferry.toml"
    config.write_text(
        f'store = "{tmp_path}/store"\nstate_dir = "{tmp_path}/state"\n[daemon]\nlog = "json"\nlisten = "off"\n'
    )
    settings = DaemonSettings(config, {"store": None, "host": None, "engine": None})
    with ExitStack() as stack:
        daemon: Any = _Daemon(settings, stack)
        steps: dict[str, int] = dict.fromkeys(PARTS, 0)

        def step_of(part: str) -> Any:
            def step(now: Moment) -> timedelta:
                steps[part] += 1
                if part == broken:
                    raise AttributeError("a fault of ours")
                return now.mono + timedelta(seconds=0.05)

            return step

        def ended(*_: object) -> None:
            raise AttributeError("a fault of ours")

        for part, name in PARTS.items():
            (turn,) = (each for each in daemon._turns if each.name == name)
            turn.step = step_of(part)
        # What ends is taken note of by a part that is broken, too.
        monkeypatch.setattr(type(getattr(daemon, broken)), "ended", ended)
        daemon._wake.put(("copied", CopyEnding("offsite", (), NOW)))
        daemon._wake.put(("verified", None))
        ended_soon.start()
        began = time.monotonic()
        assert daemon.run() == 0
        assert time.monotonic() - began > 1
        assert PARTS[broken] in daemon.trouble
    assert steps.pop(broken) == 1
    assert min(steps.values()) > 3
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert len([line for line in lines if line["event"] == f"{PARTS[broken]} failed"]) == 1
    assert lines[-1]["event"] == "the daemon has stopped"
