"""The daemon's runs as processes, with a command that is made up in place of volferry."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from volferry.cli import daemon_process, daemon_runs
from volferry.cli.daemon_runs import ProcessRuns

if TYPE_CHECKING:
    from collections.abc import Mapping
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
volumes = sys.argv[sys.argv.index("--") + 1:]
print(json.dumps({"backups": [{"volume": each, "id": "b", "seconds": 1.0, "downtime_seconds": 0.0, "stored_bytes": 1,
    "findings": [], "findings_total": 0} for each in volumes], "failed": []} if command == "backup" else {"volumes": []}))
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
    released: threading.Event = field(default_factory=threading.Event)
    stall: timedelta = timedelta()

    def __post_init__(self) -> None:
        self.runs = ProcessRuns(
            lambda _: ["--config=c"],
            lambda: self.state,
            structlog.wrap_logger(None, processors=[self._keep]),
            has_replicas=lambda: False,
            began=lambda *_: None,
            ended=self._ended,
            stall=lambda: self.stall,
            released=self.released.set,
        )

    def _keep(self, _logger: object, _name: str, line: Any) -> Any:
        self.lines.append(line)
        if line.get("line") == "ready":
            self.said.set()
        raise structlog.DropEvent

    def text(self, number: int) -> str:
        """The line that was said then."""
        return str([line["line"] for line in self.lines if "line" in line][number])

    def _ended(self, run: str, endings: Mapping[str, Ending]) -> None:
        self.endings += [(volume, run, ending) for volume, ending in endings.items()]
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
    made.runs.start(["pgdata"])
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
    made.runs.start(["pgdata"])
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
        made.runs.start(["pgdata"], moving)
        assert made.over.wait(20)
    said = [line["line"] for line in made.lines if "line" in line]
    assert said == [
        "--config=c --scheduled --json -- pgdata",
        "--config=c --scheduled --quiesce none --json -- pgdata",
    ]
    assert [line["why"] for line in made.lines if "why" in line] == ["it is the first backup"]
    assert [ending.good for _, _, ending in made.endings] == [True, True]


def test_volumes_that_belong_together_are_one_run_and_each_ends_as_it_does(command: Any) -> None:
    made = command("""
say(f"{command} {' '.join(sys.argv[sys.argv.index('--') + 1:])} {len(run)}")
failed = {"volume": "files", "error": "a service is down", "busy": False, "stopped": True}
good = {"id": "b", "seconds": 1.0, "downtime_seconds": 0.0, "stored_bytes": 1, "findings": [], "findings_total": 0}
backups = [{"volume": each, **good} for each in ("db", "files")]
print(json.dumps({"backups": backups, "failed": [failed], "down": []} if command == "backup" else {"volumes": []}))
sys.exit(command == "backup")
""")
    made.runs.start(["db", "files", "third"])
    assert set(made.runs.going_on()) <= {"db", "files", "third"}
    assert made.over.wait(20)
    said = [line["line"] for line in made.lines if "line" in line]
    assert said == ["backup db files third 12", "prune db 0", "prune files 0"]
    endings = {volume: ending for volume, _, ending in made.endings}
    assert {volume: (ending.good, ending.error) for volume, ending in endings.items()} == {
        "db": (True, ""),
        "files": (True, "a service is down"),
        "third": (False, "backup db files third 12"),
    }
    assert len({ending.run for ending in endings.values()}) == 1
    assert made.runs.going_on() == {}


def test_what_a_run_had_stopped_and_left_down_is_known(command: Any) -> None:
    made = command("""
failed = {"volume": "pgdata", "error": "no space", "busy": False, "stopped": True}
print(json.dumps({"backups": [], "failed": [failed], "down": [{"name": "db", "error": "it has ended again"}]}))
sys.exit(1)
""")
    made.runs.start(["pgdata"])
    assert made.over.wait(20)
    ((_, _, ending),) = made.endings
    assert (ending.good, ending.error, ending.stopped) == (False, "no space", True)
    assert [(each.name, each.error) for each in ending.down] == [("db", "it has ended again")]


SECOND = timedelta(seconds=1)


def test_a_run_that_gets_nowhere_is_ended_and_failed(command: Any) -> None:
    made = command("""
def ended(*_):
    say("cleaning up")
    sys.exit(130)
signal.signal(signal.SIGTERM, ended)
say("ready")
time.sleep(60)
""")
    made.stall = SECOND
    made.runs.start(["pgdata"])
    assert made.said.wait(20)
    assert made.released.wait(20)  # another may begin
    assert made.over.wait(20)
    ((_, _, ending),) = made.endings
    assert (ending.good, ending.interrupted) == (False, False)
    assert ending.error.startswith("it made no progress for 1.")
    assert ending.error.endswith("and was ended (it said last: cleaning up)")
    assert made.runs.going_on() == {}
    assert made.runs.stalled() == set()


def test_a_run_that_does_not_heed_that_is_killed(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon_process, "_TERM_SECONDS", 0.5)
    made = command("""
signal.signal(signal.SIGTERM, signal.SIG_IGN)
say("ready")
time.sleep(60)
""")
    made.stall = SECOND
    made.runs.start(["pgdata"])
    assert made.over.wait(20)
    ((_, _, ending),) = made.endings
    assert "it made no progress" in ending.error
    assert made.runs.going_on() == {}


def test_a_run_that_cannot_be_killed_is_failed_and_none_is_begun_beside_it(
    command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon_process, "_TERM_SECONDS", 0.1)
    monkeypatch.setattr(daemon_process, "_KILL_SECONDS", 0.1)
    monkeypatch.setattr(daemon_process.subprocess.Popen, "send_signal", lambda *_: None)  # type: ignore[attr-defined]
    made = command("""
journal().touch()
say(str(os.getpid()))
time.sleep(60)
""")
    made.stall = SECOND
    made.runs.start(["pgdata"])
    assert made.over.wait(20)
    ((_, _, ending),) = made.endings
    assert "cannot be ended: it waits for a disk, a share or a device" in ending.error
    assert set(made.runs.going_on()) == made.runs.stalled() == {"pgdata"}
    began = time.monotonic()
    made.runs.stop()  # and the daemon's end does not wait for it
    assert time.monotonic() - began < 5
    made.released.clear()
    os.kill(int(made.text(0)), signal.SIGKILL)
    assert made.released.wait(20)
    assert made.runs.going_on() == {}
    assert len(made.endings) == 1


def test_a_run_that_moves_bytes_or_computes_or_says_something_goes_on(command: Any) -> None:
    made = command(
        """
end = time.monotonic() + 1.5
while time.monotonic() < end:
    time.sleep(0.1)
    with open("/dev/zero", "rb") as file:
        file.read(100_000)
end = time.monotonic() + 1.5
while time.monotonic() < end:
    time.sleep(0.1)
    say("so far")
"""
        + _DONE
    )
    made.stall = SECOND
    made.runs.start(["pgdata"])
    assert made.over.wait(30)
    assert made.endings[0][2].good


def test_a_run_that_waits_for_another_one_goes_on(command: Any) -> None:
    made = command(
        """
import fcntl
with open(state / "lock", "w") as file:
    say("ready")
    fcntl.flock(file, fcntl.LOCK_EX)
"""
        + _DONE
    )
    made.state.mkdir()
    with (made.state / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        made.stall = SECOND
        made.runs.start(["pgdata"])
        assert made.said.wait(20)
        assert not made.released.wait(2.5)
    assert made.over.wait(20)
    assert made.endings[0][2].good


def test_a_share_that_hangs_is_ended_too(command: Any) -> None:
    made = command("time.sleep(60)")
    made.stall = SECOND
    shared: list[Any] = []
    made.runs.shared = shared.append
    made.runs.start_share()
    end = time.monotonic() + 20
    while not shared and time.monotonic() < end:
        time.sleep(0.05)
    assert "no progress" in shared[0].error
    assert not made.runs.share_goes_on


def test_what_lies_where_the_daemon_was_started_is_no_part_of_its_runs(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = command("import typer\nsay(typer.__file__)\n" + _DONE)
    (tmp_path / "typer.py").write_text("raise SystemExit('somebody else's')")
    monkeypatch.chdir(tmp_path)
    made.runs.start(["pgdata"])
    assert made.over.wait(20)
    assert made.endings[0][2].good
    assert "site-packages" in made.text(0)


def test_a_log_that_cannot_be_written_holds_no_run_up(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = command(
        """
for number in range(20000):  # more than a pipe holds
    say(f"line {number}")
"""
        + _DONE
    )

    def full(_logger: object, _name: str, _line: Any) -> Any:
        raise OSError(28, "No space left on device")

    made.runs.log = structlog.wrap_logger(None, processors=[full])
    done = made.runs._command("backup", "pgdata", made.runs.log, "")
    assert (done.code, done.last_line) == (0, "line 19999")
    assert done.document["backups"][0]["id"] == "b"
