"""The daemon's runs as processes, with a command that is made up in place of volferry."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from volferry.cli import daemon_runs
from volferry.cli.daemon_runs import ProcessRuns

if TYPE_CHECKING:
    from pathlib import Path

    from volferry.scheduler.loop import Ending

# What every made-up command begins with.
_BEGINNING = """
import json, os, pathlib, signal, sys, time
state = pathlib.Path(os.environ["FAKE_STATE"])
run = os.environ.get("VOLFERRY_DAEMON_RUN", "")
command = sys.argv[1]
def say(line):
    print(line, file=sys.stderr, flush=True)
def journal():
    (state / "journal").mkdir(parents=True, exist_ok=True)
    return state / "journal" / f"{run}.000001.jsonl"
"""
_DONE = """
print(json.dumps({"backups": [{"id": "b", "seconds": 1.0, "downtime_seconds": 0.0, "stored_bytes": 1, "findings": [],
    "findings_total": 0}], "failed": []} if command == "backup" else {"volumes": []}))
"""


@dataclass
class Made:
    """Runs of a made-up command, and how they ended."""

    state: Path
    runs: ProcessRuns = field(init=False)
    endings: list[tuple[str, str, Ending]] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)
    said: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.runs = ProcessRuns(
            lambda _: ["--config=c"],
            lambda: self.state,
            structlog.wrap_logger(None, processors=[self._keep]),
            has_replicas=lambda: False,
            began=lambda *_: None,
            ended=self._ended,
        )

    def _keep(self, _logger: object, _name: str, line: Any) -> Any:
        self.lines.append(line)
        if line.get("line") == "ready":
            self.said.set()
        raise structlog.DropEvent

    def _ended(self, volume: str, run: str, ending: Ending) -> None:
        self.endings.append((volume, run, ending))
        self.over.set()


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Has `volferry` do what a script says, and returns runs of it."""

    def make(script: str) -> Made:
        package = tmp_path / "fake" / "volferry"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(_BEGINNING + script)
        monkeypatch.setenv("PYTHONPATH", str(package.parent))
        monkeypatch.setenv("FAKE_STATE", str(tmp_path / "state"))
        return Made(tmp_path / "state")

    return make


def test_a_run_that_brings_a_service_back_is_waited_for_however_long_that_takes(
    command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon_runs, "_STOP_SECONDS", 2.0)
    made = command("""
journal().touch()
def ended(*_):
    time.sleep(5)  # what the service takes to stop
    journal().unlink()
    say("it is up again")
    sys.exit(130)
signal.signal(signal.SIGTERM, ended)
say("ready")
time.sleep(60)
""")
    made.runs.start("pgdata")
    assert made.said.wait(20)
    asked: list[float] = []
    began = time.monotonic()
    made.runs.stop(waiting=lambda: asked.append(time.monotonic()))
    assert time.monotonic() - began >= 4.9
    assert len(asked) > 5
    assert not list(made.state.glob("journal/*"))
    assert [line["line"] for line in made.lines if "line" in line] == ["ready", "it is up again"]
    ((_, _, ending),) = made.endings
    assert (ending.good, ending.interrupted) == (False, True)


def test_a_run_that_has_nothing_stopped_is_not_waited_for_for_long(
    command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon_runs, "_STOP_SECONDS", 0.5)
    made = command("""
(state / "journal").mkdir(parents=True)
(state / "journal" / "0123456789ab.000001.jsonl").touch()  # of another run
signal.signal(signal.SIGTERM, signal.SIG_IGN)
say("ready")
say(str(os.getpid()))
time.sleep(60)
""")
    made.runs.start("pgdata")
    assert made.said.wait(20)
    began = time.monotonic()
    made.runs.stop()
    assert 0.4 < time.monotonic() - began < 5
    assert not made.over.is_set()
    os.kill(int(made.lines[-1]["line"]), signal.SIGKILL)
    assert made.over.wait(20)


def test_the_daemon_says_that_a_run_is_scheduled_and_when_it_must_stop_nothing(command: Any) -> None:
    made = command(
        """
if command == "backup":
    say(" ".join(sys.argv[2:]))
"""
        + _DONE
    )
    for moving in ("", "it is the first backup"):
        made.over.clear()
        made.runs.start("pgdata", moving)
        assert made.over.wait(20)
    said = [line["line"] for line in made.lines if "line" in line]
    assert said == [
        "--config=c --scheduled --json -- pgdata",
        "--config=c --scheduled --quiesce none --json -- pgdata",
    ]
    assert [line["why"] for line in made.lines if "why" in line] == ["it is the first backup"]
    assert [ending.good for _, _, ending in made.endings] == [True, True]


def test_what_a_run_had_stopped_and_left_down_is_known(command: Any) -> None:
    made = command("""
failed = {"volume": "pgdata", "error": "no space", "busy": False, "stopped": True}
print(json.dumps({"backups": [], "failed": [failed], "down": [{"name": "db", "error": "it has ended again"}]}))
sys.exit(1)
""")
    made.runs.start("pgdata")
    assert made.over.wait(20)
    ((_, _, ending),) = made.endings
    assert (ending.good, ending.error, ending.stopped) == (False, "no space", True)
    assert [(each.name, each.error) for each in ending.down] == [("db", "it has ended again")]
