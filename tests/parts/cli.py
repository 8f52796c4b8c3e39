"""volferry as a user runs it: a process of its own, its exit code, and what it says on stdout and stderr."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.parts.warm import Forked, warm_process

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Mapping

RUN_SECONDS = 120.0
POLL_SECONDS = 0.005


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one command ended. A traceback, an internal error or a Python warning on stderr fails the test."""

    command: tuple[str, ...]
    code: int
    raw: bytes  # stdout
    stderr: str
    seconds: float

    def __post_init__(self) -> None:
        assert "Traceback" not in self.stderr, self.story
        assert "internal error" not in self.stderr, self.story
        assert "Warning" not in self.stderr, self.story

    @property
    def stdout(self) -> str:
        return self.raw.decode()

    @property
    def json(self) -> Any:
        """stdout, which must be exactly one JSON document."""
        return json.loads(self.stdout)

    @property
    def story(self) -> str:
        """All of it, for the message of a failed assertion."""
        shown = self.raw[:4000].decode(errors="replace")
        return f"volferry {' '.join(self.command)}\nexit code {self.code}\n{shown}\n{self.stderr[:8000]}"

    def exits(self, *codes: int) -> Self:
        assert self.code in codes, self.story
        return self

    def fails_with(self, *words: str, code: int = 1) -> Self:
        """Ended with `code` and one line on stderr that holds all of `words`."""
        self.exits(code)
        assert len(self.complaints) == 1, self.story
        for word in words:
            assert word in self.complaints[0], self.story
        return self

    @property
    def complaints(self) -> list[str]:
        """The lines on stderr by which volferry says what is wrong."""
        return [line for line in self.stderr.splitlines() if line.startswith("volferry: ")]


def _take(descriptor: int, into: list[bytes]) -> None:
    while data := os.read(descriptor, 1 << 16):
        into.append(data)


@dataclass(slots=True)
class Running:
    """A command that runs. Its outputs are taken in by threads, so that it never waits for us."""

    command: tuple[str, ...]
    process: subprocess.Popen[bytes] | Forked
    began: float
    _out: list[bytes] = field(default_factory=list)
    _err: list[bytes] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __post_init__(self) -> None:
        for stream, into in ((self.process.stdout, self._out), (self.process.stderr, self._err)):
            assert stream is not None
            thread = threading.Thread(target=_take, args=(stream.fileno(), into))
            thread.start()
            self._threads.append(thread)

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    @property
    def so_far(self) -> str:
        """What it has said on stderr."""
        return b"".join(self._err).decode(errors="replace")

    def until(self, reached: Callable[[], object], seconds: float = 60) -> bool:
        """Waits for `reached`. Whether the command was still running when it came true."""
        deadline = time.monotonic() + seconds
        while not reached():
            if self.ended:
                return False
            assert time.monotonic() < deadline, f"not reached by {' '.join(self.command)}"
            time.sleep(POLL_SECONDS)
        return not self.ended

    def handles(self, number: signal.Signals) -> bool:
        """Whether the process has a handler of its own for that signal, see proc_pid_status(5)."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except FileNotFoundError:
            return False
        (caught,) = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")]
        return bool(int(caught, 16) >> (number - 1) & 1)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> None:
        """Kills the command if it still runs: a test has failed."""
        if not self.ended:
            self.process.kill()
            self.outcome()

    def outcome(self, seconds: float = RUN_SECONDS) -> Outcome:
        """Waits for the end. After `seconds` the command is killed, and the test fails."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            code = None
        for thread in self._threads:
            thread.join()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        took = time.monotonic() - self.began
        errors = b"".join(self._err).decode(errors="replace")
        assert code is not None, f"volferry {' '.join(self.command)} did not end in {seconds} s\n{errors}"
        return Outcome(self.command, code, b"".join(self._out), errors, took)


@dataclass(frozen=True, slots=True)
class Cli:
    """`volferry` with an engine, a store and a state directory of the test's own."""

    docker_host: str
    store: Path
    state: Path
    home: Path  # for what a user's own settings could hold: nothing
    extra: Mapping[str, str] = field(default_factory=dict)
    started: list[Running] = field(default_factory=list)  # shared by all that are made from this one

    def having(self, **environment: str) -> Cli:
        """The same, with variables more in the environment."""
        return replace(self, extra={**self.extra, **environment})

    def at(self, *, store: Path | None = None, state: Path | None = None) -> Cli:
        """The same, with another store or state directory."""
        return replace(self, store=store or self.store, state=state or self.state)

    @property
    def environment(self) -> dict[str, str]:
        return {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("VOLFERRY_", "XDG_"))
            },
            "DOCKER_HOST": self.docker_host,
            "VOLFERRY_STATE_DIR": str(self.state),
            "VOLFERRY_STORE": str(self.store),
            "HOME": str(self.home),
            **self.extra,
        }

    def start(self, *arguments: str) -> Running:
        """Starts a command, to be watched and interrupted."""
        began = time.monotonic()
        running = Running(arguments, warm_process().start(arguments, self.environment), began)
        self.started.append(running)
        return running

    def start_cold(self, *arguments: str) -> Running:
        """The same with an interpreter of its own, for what is about the start itself."""
        process = subprocess.Popen(
            [sys.executable, "-m", "volferry", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
            start_new_session=True,
        )
        running = Running(arguments, process, time.monotonic())
        self.started.append(running)
        return running

    def __call__(self, *arguments: str, seconds: float = RUN_SECONDS) -> Outcome:
        """Runs a command to its end."""
        began = time.monotonic()
        code, out, err = warm_process().run(arguments, self.environment, seconds)
        took = time.monotonic() - began
        errors = err.decode(errors="replace")
        assert code >= 0, (
            f"volferry {' '.join(arguments)} was ended by signal {-code} after {took:.0f} s\n{errors}"
        )
        return Outcome(arguments, code, out, errors, took)

    def backup(self, *volumes: str) -> list[dict[str, Any]]:
        """Backs up volumes that nobody writes to, and says what was reported of each."""
        done: list[dict[str, Any]] = self("backup", *volumes, "--json").exits(0).json["backups"]
        return done
