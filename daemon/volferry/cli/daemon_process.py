"""One command of the daemon's as a process of its own, which is watched: one that gets nowhere any longer is ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volferry.cli.text import duration_text
from volferry.run import RUN_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Log = Any
_WAITS = 6  # times as long, where it waits for another run: that is watched itself
_LOOKS = 20  # at a process, while it may stall
_MOST_LOOK_SECONDS = 60.0
_TERM_SECONDS = 300.0  # for a command that was asked to end: it brings back what it had stopped
_KILL_SECONDS = 10.0  # the kernel ends at once what does not wait in it
# What a process that only waits comes to in an hour: a thread that looks at a clock now and then.
_STILL_BYTES = 64 << 10
_STILL_SECONDS = 5.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Done:
    """One command that has ended, or was given up."""

    code: int
    document: dict[str, Any]
    last_line: str
    stalled: bool = False  # why it was ended is in `last_line`
    hung: subprocess.Popen[str] | None = None  # it waits in the kernel, and not even SIGKILL has ended it yet


@dataclass(frozen=True, slots=True)
class _Work:
    """What the processes of a command have done so far."""

    bytes: int  # through their descriptors, pipes and sockets too
    seconds: float  # of computing
    waits: bool  # for a lock: another run is at work

    def is_more_than(self, before: _Work) -> bool:
        return (
            abs(self.bytes - before.bytes) >= _STILL_BYTES  # less, where one of them has ended
            or abs(self.seconds - before.seconds) >= _STILL_SECONDS
        )


@dataclass(slots=True)
class Command:
    """Of one volume, or of none."""

    log: Log
    name: str
    arguments: Sequence[str]
    run: str
    stall: timedelta  # without progress for so long, it is ended; never if it is nothing
    on_stall: Callable[[], None] = lambda: None
    process: subprocess.Popen[str] = field(init=False)
    _printed: list[str] = field(default_factory=list)
    _last: str = ""
    _lines: int = 0

    def start(self) -> None:
        self.process = subprocess.Popen(
            # -P: what lies in the directory that the daemon was started in is no part of it.
            [sys.executable, "-P", "-m", "volferry", self.name, *self.arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, "PYTHONUNBUFFERED": "1", RUN_VARIABLE: self.run},
            # A signal to the daemon's group is the daemon's to pass on.
            start_new_session=True,
        )

    def done(self) -> Done:
        """Once it is."""
        readers = [
            threading.Thread(target=read, name=self.name) for read in (self._read_lines, self._read_document)
        ]
        for reader in readers:
            reader.start()
        stalled = self._watch(readers[0])
        if stalled and not self._ended(readers, signal.SIGTERM, _TERM_SECONDS):
            self.log.error("a command that gets nowhere is killed", command=self.name)
            if not self._ended(readers, signal.SIGKILL, _KILL_SECONDS):
                why = f"{stalled}, and cannot be ended: it waits for a disk, a share or a device that does not answer"
                return Done(-signal.SIGKILL, {}, why, stalled=True, hung=self.process)
        for reader in readers:
            reader.join()
        code = self.process.wait()
        document = _document("".join(self._printed))
        if stalled:
            said = f" (it said last: {self._last})" if self._last else ""
            return Done(code, document, f"{stalled}, and was ended{said}", stalled=True)
        return Done(code, document, self._last or _how(code))

    def _watch(self, reader: threading.Thread) -> str:
        """Until it ends, or gets nowhere any longer: then what is to be said of that."""
        limit = self.stall.total_seconds()
        look = min(_MOST_LOOK_SECONDS, limit / _LOOKS) if limit else None
        before, lines, since = _work_of(self.process.pid), self._lines, _now()
        worked = since
        while True:
            reader.join(look)
            if not reader.is_alive():
                return ""
            work = _work_of(self.process.pid)
            if work.is_more_than(before) or self._lines > lines:
                before, lines, since = work, self._lines, _now()
                worked = since
            elif work.waits and _now() - worked < _WAITS * limit:
                since = _now()
            elif _now() - since >= limit:
                why = f"it made no progress for {duration_text(_now() - since)}"
                self.log.error("a command gets nowhere", command=self.name, error=why)
                self.on_stall()
                return why

    def _ended(self, readers: Sequence[threading.Thread], number: int, seconds: float) -> bool:
        self.process.send_signal(number)
        end = time.monotonic() + seconds
        for reader in readers:
            reader.join(max(0.0, end - time.monotonic()))
        return not any(reader.is_alive() for reader in readers)

    def _read_lines(self) -> None:
        assert self.process.stderr  # noqa: S101 -- it is a pipe
        with self.process.stderr as lines:
            for line in lines:
                self._lines += 1
                if line.strip():
                    self._last = line.strip().removeprefix("volferry: ")
                    # Whatever becomes of it: a pipe that nobody reads would hold up, or end, what is at work.
                    with suppress(Exception):
                        self.log.info("a command says", command=self.name, line=self._last)

    def _read_document(self) -> None:
        assert self.process.stdout  # noqa: S101 -- it is a pipe
        with self.process.stdout as printed:
            self._printed.append(printed.read())


def _how(code: int) -> str:
    """Of a command that has said nothing."""
    return f"exit code {code}" if code >= 0 else f"it was killed by {signal.Signals(-code).name}"


def _now() -> float:
    """Of a machine that sleeps, processes get nowhere either."""
    return time.monotonic()


def _work_of(session: int) -> _Work:
    """Of all processes of a session."""
    moved, ticks, pids = 0, 0, set()
    for path in Path("/proc").iterdir():
        if not path.name.isdigit():
            continue
        try:
            fields = (path / "stat").read_bytes().rpartition(b")")[2].split()
            if int(fields[3]) != session:
                continue
            pids.add(int(path.name))
            ticks += int(fields[11]) + int(fields[12])
            moved += _moved((path / "io").read_text())
        except (OSError, ValueError, IndexError):
            continue  # it has just ended, or the kernel does not count
    return _Work(moved, ticks / _TICKS, _waits_for_a_lock(pids))


def _moved(text: str) -> int:
    found = dict(line.split(": ") for line in text.splitlines())
    return int(found["rchar"]) + int(found["wchar"])


def _waits_for_a_lock(pids: set[int]) -> bool:
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return False
    waiting = (fields for line in lines if "->" in (fields := line.split()))
    return any(len(fields) > 5 and fields[5].isdigit() and int(fields[5]) in pids for fields in waiting)


def _document(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
