"""The journal: what a run has stopped, paused or scaled, written down before it does, so that whoever comes next can
bring the service back.

One file for each volume of a run, `journal/<run id>.<n>.jsonl` in the state directory: a sealed line for each step, each on stable storage before the
step is taken. It goes when all is as it was.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from blake3 import blake3

from volferry.errors import VolferryError, reason
from volferry.run import is_alive
from volferry.state_lock import lock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_DIRECTORY = "journal"
_numbers = itertools.count(1)

Action = Literal["stop", "pause", "scale", "hook"]


@dataclass(frozen=True, slots=True)
class Halt:
    """One thing that is about to be stopped, is stopped, or is as it was again; or a hook that is still to be run."""

    action: Action
    id: str  # of the container, or of the Swarm service; empty for a hook on this machine
    name: str
    order: int  # of starting
    before: str  # when the container was started last; for a service, how many replicas it had; for a hook, what it is
    state: Literal["planned", "under way", "done", "over"] = "planned"
    after: str = ""  # when the container ended, as the engine says; known once it is done


class Journal:
    """Of one run. Raises VolferryError where it cannot be written: then nothing must be stopped."""

    def __init__(self, state_directory: Path, name: str, engine: tuple[str, str] = ("", "")) -> None:
        """`name` begins with the run's id; a run has a journal for each volume. `engine` is the id of the engine where it all
        happens, and how that is reached.
        """
        self.state_directory = state_directory
        self.engine = engine
        self.run_id = name.partition(".")[0]
        self.since = datetime.now(UTC)  # when it was begun
        self._path = state_directory / _DIRECTORY / f"{name}.jsonl"
        self._descriptor: int | None = None
        self._lock: int | None = None

    @classmethod
    def of_run(cls, state_directory: Path, run_id: str, engine: tuple[str, str] = ("", "")) -> Journal:
        """A new one."""
        return cls(state_directory, f"{run_id}.{next(_numbers):06}", engine)  # they are replayed in order

    def alone(self, *, wait: bool = True) -> bool:
        """Waits until no other run of this machine has anything stopped: each would take what the other stopped for what
        does not run. Until `end`, or the end of the process. Without `wait`, whether none has.
        """
        try:
            self._path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
            self._lock = os.open(self._path.with_name("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            lock(self._lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), self.state_directory)
        except BlockingIOError:
            return False
        except OSError as error:
            raise self._cannot_write(error) from error
        return True

    def write(self, *halts: Halt) -> None:
        """On stable storage when it returns."""
        lines = b"".join(_line(halt) for halt in halts)
        try:
            if self._descriptor is None:
                self._descriptor = self._made()
            if os.write(self._descriptor, lines) != len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._descriptor)
        except OSError as error:
            raise self._cannot_write(error) from error

    def end(self, *, over: bool = True) -> None:
        """`over` if all is as it was; else the journal stays, and is replayed by the next run."""
        for descriptor in (self._descriptor, self._lock):
            if descriptor is not None:
                os.close(descriptor)
        self._descriptor = self._lock = None
        if over:
            self._path.unlink(missing_ok=True)

    def _cannot_write(self, error: OSError) -> VolferryError:
        return VolferryError(f"cannot write the journal {self._path}: {reason(error)}")

    def _made(self) -> int:
        self._path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        # A run that died may have left the start of a line.
        os.write(descriptor, b"\n" + _sealed(["engine", *self.engine, self.since.isoformat()]))
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return descriptor


def journals_of_the_dead(
    state_directory: Path, engine_id: str | None = None
) -> Iterator[tuple[Journal, list[Halt]]]:
    """What runs that died had stopped, each with the last that was written of it; without what is over. With `engine_id`, what
    they had stopped there.
    """
    try:
        paths = sorted((state_directory / _DIRECTORY).glob("*.jsonl"))
    except OSError:
        return
    for path in paths:
        if is_alive(state_directory, path.stem.partition(".")[0]):
            continue
        try:
            engine, since, halts = _read(path)
        except FileNotFoundError:  # another one has just dealt with it
            continue
        except OSError as error:
            raise VolferryError(f"cannot read the journal {path}: {reason(error)}") from error
        if engine_id is None or engine[0] in {"", engine_id}:
            journal = Journal(state_directory, path.stem, engine)
            journal.since = since
            yield journal, halts


def _line(halt: Halt) -> bytes:
    document = [halt.action, halt.id, halt.name, halt.order, halt.before, halt.state, halt.after]
    return _sealed(document)


def _sealed(document: list[Any]) -> bytes:
    text = json.dumps(document)
    return f"{blake3(text.encode()).hexdigest()} {text}\n".encode()


def _read(path: Path) -> tuple[tuple[str, str], datetime, list[Halt]]:
    found: dict[tuple[bool, str], Halt] = {}
    engine = ("", "")
    since: datetime | None = None
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        digest, _, text = line.partition(" ")
        if digest != blake3(text.encode()).hexdigest():
            continue  # cut off when the run died: the step was not taken
        fields: list[Any] = json.loads(text)
        if fields[0] == "engine":
            engine = (fields[1], fields[2])
            if since is None and len(fields) > 3:  # an earlier version wrote none
                since = datetime.fromisoformat(fields[3])
            continue
        halt = Halt(*fields)
        found[halt.action == "hook", halt.id] = halt
    since = since or datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return engine, since, [halt for halt in found.values() if halt.state != "over"]
