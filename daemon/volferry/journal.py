"""The journal: what a run has stopped, paused or scaled, and which hooks are still to be run after it, written down before anything of that
happens, so that whoever comes next can bring the service back.

One file for each volume of a run, `journal/<run id>.<n>.jsonl` in the state directory: a sealed line for each step, each on stable storage before the
step is taken. It goes when all is as it was. The seal has a key of the state directory's own, and the journal names no command: whoever can write a
file there, and nothing else, has nothing run or started.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import os
import re
import secrets
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from blake3 import blake3

from volferry.errors import VolferryError, reason
from volferry.interrupts import held_back
from volferry.run import JOURNALS, is_alive, is_known, journal_paths
from volferry.turn_lock import take_turn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

VERSION = 2
_KEY_FILE = "key"
_TURN = "lock"
_FORGOTTEN = "forgotten"  # beside the journals: runs whose journals somebody has removed, a line each
_KEY_BYTES = 32
_ENGINE_ID = re.compile(r"[0-9a-z]{12,64}")  # of a container, or of a Swarm service
_numbers = itertools.count(1)

Action = Literal["stop", "pause", "scale", "hook"]
# handed: what does its work on another engine is being started; whether that runs, nobody knows who finds this.
State = Literal["planned", "under way", "done", "started", "handed", "over"]


@dataclass(frozen=True, slots=True)
class Halt:
    """One thing that is about to be stopped, is stopped, or is as it was again; or a hook that is still to be run."""

    action: Action
    id: str  # of the container, or of the Swarm service; empty for a hook on this machine
    name: str
    order: int  # of starting
    before: str  # when the container was started last; for a service, how many replicas it had; for a hook, of which volume
    state: State = "planned"
    after: str = ""  # when the container ended, as the engine says; known once it is done
    service: str = (
        ""  # `project/service/number` of a container of Compose: by it, one that took its place is found
    )
    unhealthy: bool = False  # it was before, so that it need not be healthy afterwards
    error: str = ""  # why it is not up


class Journal:
    """Of one run. Raises VolferryError where it cannot be written: then nothing must be stopped."""

    def __init__(
        self,
        state_directory: Path,
        name: str,
        engine: tuple[str, str] = ("", ""),
        host: str = "",
        config: str = "",
    ) -> None:
        """`name` begins with the run's id; a run has a journal for each volume. `engine` is the id of the engine where it all
        happens, and how that is reached; `host` the machine's name for hooks, and `config` the file that they come from.
        """
        self.state_directory = state_directory
        self.engine = engine
        self.host = host
        self.config = config
        self.run_id = name.partition(".")[0]
        self.since = datetime.now(UTC)  # when it was begun
        self.path = state_directory / JOURNALS / f"{name}.jsonl"
        self._descriptor: int | None = None
        self._lock: int | None = None
        self._key: bytes | None = None

    @classmethod
    def of_run(
        cls,
        state_directory: Path,
        run_id: str,
        engine: tuple[str, str] = ("", ""),
        host: str = "",
        config: str = "",
    ) -> Journal:
        """A new one."""
        # They are replayed in order.
        return cls(state_directory, f"{run_id}.{next(_numbers):06}", engine, host, config)

    def alone(self, *, wait: bool = True) -> bool:
        """Waits until no other run of this machine has anything stopped: each would take what the other stopped for what
        does not run. Until `end`, or the end of the process. Without `wait`, whether none has.
        """
        if self._lock is not None:
            return True
        try:
            self.path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
            self._lock = take_turn(self.path.with_name(_TURN), self.state_directory, wait=wait)
        except OSError as error:
            raise self._cannot_write(error) from error
        return self._lock is not None

    def write(self, *halts: Halt) -> None:
        """On stable storage when it returns."""
        try:
            if self._descriptor is None:
                self._descriptor = self._made()
            lines = b"".join(self._sealed({"halt": asdict(halt)}) for halt in halts)
            if os.write(self._descriptor, lines) != len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._descriptor)
        except OSError as error:
            raise self._cannot_write(error) from error

    def let_others(self) -> None:
        """Other runs may have something stopped from now on."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def end(self, *, over: bool = True) -> None:
        """`over` if all is as it was; else the journal stays, and is replayed by the next run."""
        with held_back():
            for descriptor in (self._descriptor, self._lock):
                if descriptor is not None:
                    os.close(descriptor)
            self._descriptor = self._lock = None
            if over:
                try:
                    self.path.unlink()
                    _sync(self.path.parent)  # or a hook would run again after a power failure
                except OSError:  # there never was one; what is in it says that all is over
                    pass

    def _cannot_write(self, error: OSError) -> VolferryError:
        return VolferryError(f"cannot write the journal {self.path}: {reason(error)}")

    def _made(self) -> int:
        self.path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        self._key = _key(self.path.parent, make=True)
        descriptor = os.open(
            self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        head = {
            "version": VERSION,
            "run": self.run_id,
            "engine": self.engine,
            "host": self.host,
            "config": self.config,
            "since": self.since.isoformat(),
        }
        # A run that died may have left the start of a line.
        os.write(descriptor, b"\n" + self._sealed(head))
        _sync(self.path.parent)
        return descriptor

    def _sealed(self, document: dict[str, Any]) -> bytes:
        text = json.dumps(document)
        return f"{_seal(text, self._key or b'')} {text}\n".encode()


class Unwritten(Journal):
    """Of a run of somebody else's, whose journal is elsewhere."""

    def write(self, *halts: Halt) -> None:
        del halts


def text_of(halts: Sequence[Halt]) -> str:
    """For `halts_of`."""
    return json.dumps([asdict(halt) for halt in halts])


def halts_of(text: str) -> list[Halt]:
    """As they are once all of it was stopped. Raises ValueError for what `text_of` has not made."""
    found: list[Halt] = []
    try:
        for document in json.loads(text):
            halt = _halt_of(document)
            if halt.action not in {"stop", "pause", "scale"} or not _ENGINE_ID.fullmatch(halt.id):
                raise ValueError(f"not something that was stopped: {halt.action} {halt.id!r}")
            found.append(replace(halt, state="done", after=""))
    except (TypeError, AttributeError) as error:
        raise ValueError(str(error)) from error
    return found


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file among the journals that says nothing which could be believed."""

    path: Path
    run_id: str
    why: str


def journals_of_the_dead(state_directory: Path) -> Iterator[tuple[Journal, list[Halt]]]:
    """What runs that died had stopped, each with the last that was written of it; without what is over. Raises VolferryError where one cannot be
    read.
    """
    for found in _of_the_dead(state_directory):
        if not isinstance(found, Unreadable):
            yield found


def unreadable_journals(state_directory: Path) -> list[Unreadable]:
    """Of runs that died: what is in them is neither brought back nor run. Raises VolferryError."""
    return [found for found in _of_the_dead(state_directory) if isinstance(found, Unreadable)]


def forget(state_directory: Path, run_id: str) -> list[str]:
    """Removes the journals of a run that died. Returns the names of what they had down. Raises VolferryError where there are none, or the run lives."""
    paths = journal_paths(state_directory, run_id) if run_id else []
    if not paths:
        raise VolferryError(f"run {run_id} has left nothing down: `volferry status` lists what is")
    if is_alive(state_directory, run_id):
        raise VolferryError(f"run {run_id} is still at work: it brings back what it has stopped")
    names = [
        halt.name
        for journal, halts in journals_of_the_dead(state_directory)
        if journal.run_id == run_id
        for halt in halts
        if halt.state != "planned"
    ]
    with suppress(OSError), paths[0].with_name(_FORGOTTEN).open("a", encoding="ascii") as file:
        file.write(f"{run_id}\n")  # first: whoever finds no journal any longer knows why
    for path in paths:
        try:
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink(missing_ok=True)
            _sync(path.parent)
        except OSError as error:
            raise VolferryError(f"cannot remove the journal {path}: {reason(error)}") from error
    return names


def forgotten(state_directory: Path) -> frozenset[str]:
    """Ids of the runs that were: what they had down has not come back for that."""
    try:
        text = (state_directory / JOURNALS / _FORGOTTEN).read_text(encoding="ascii", errors="replace")
    except OSError:
        return frozenset()
    return frozenset(text.split())


def _of_the_dead(state_directory: Path) -> Iterator[tuple[Journal, list[Halt]] | Unreadable]:
    for path in journal_paths(state_directory):
        run_id = path.stem.partition(".")[0]
        if is_alive(state_directory, run_id):
            continue
        try:
            lines, key = _lines(path), _key(path.parent, make=False)
        except FileNotFoundError:  # another one has just dealt with it
            continue
        except OSError as error:
            yield Unreadable(path, run_id, f"it cannot be read: {reason(error)}")
            continue
        documents = [document for line in lines if (document := _opened(line, key)) is not None]
        journal = Journal(state_directory, path.stem)
        if not documents:
            # Cut off when the run died: nothing was stopped by then. A line that is whole was sealed by somebody else.
            if any(line.endswith(("}", "]")) for line in lines):
                yield Unreadable(path, run_id, "volferry has not sealed it, or an earlier version has")
            else:
                journal.end()
            continue
        if any(document.get("version", 0) > VERSION for document in documents):
            yield Unreadable(path, run_id, "a later version of volferry has written it")
            continue
        try:
            head, halts = _of_documents(documents)
        except (TypeError, KeyError, AttributeError):
            yield Unreadable(path, run_id, "it says something that this version does not know")
            continue
        if head.get("run") != run_id or not is_known(state_directory, run_id):
            yield Unreadable(path, run_id, "it is of no run of this machine")
        else:
            journal.engine = (str(head["engine"][0]), str(head["engine"][1]))
            journal.host = str(head["host"])
            journal.config = str(head["config"])
            journal.since = datetime.fromisoformat(head["since"])
            yield journal, halts


def _of_documents(documents: list[dict[str, Any]]) -> tuple[dict[str, Any], list[Halt]]:
    """The first head, and the last of each halt that is not over."""
    head: dict[str, Any] = {}
    found: dict[tuple[bool, str, str], Halt] = {}
    for document in documents:
        if "halt" not in document:
            head = head or document
            continue
        halt = _halt_of(document["halt"])
        is_hook = halt.action == "hook"
        found[is_hook, halt.id, str(halt.order) if is_hook else ""] = halt
    return head, [halt for halt in found.values() if halt.state != "over"]


def _halt_of(document: dict[str, Any]) -> Halt:
    """Without what a later version has added."""
    known = {each.name for each in fields(Halt)}
    return Halt(**{name: value for name, value in document.items() if name in known})


def _lines(path: Path) -> list[str]:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        return [line for line in file.read().decode("utf-8", "replace").splitlines() if line]


def _opened(line: str, key: bytes | None) -> dict[str, Any] | None:
    """None for a line that is cut off, or was not sealed with the key."""
    seal, _, text = line.partition(" ")
    if key is None or not secrets.compare_digest(seal.encode(), _seal(text, key).encode()):
        return None
    document: dict[str, Any] = json.loads(text)
    return document


def _seal(text: str, key: bytes) -> str:
    return blake3(text.encode(), key=key).hexdigest()


def _key(directory: Path, *, make: bool) -> bytes | None:
    """Of this state directory, which nobody but its owner can read. Raises OSError."""
    path = directory / _KEY_FILE
    key = _read_key(path)
    if key is not None or not make:
        return key
    # One at a time: a key that another run has begun to use is never replaced.
    descriptor = os.open(path.with_name(f"{_KEY_FILE}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        key = _read_key(path)
        if key is None:
            key = _make_key(path)
    finally:
        os.close(descriptor)
    return key


def _read_key(path: Path) -> bytes | None:
    """None if there is none, or one that was cut off, as none of ours ever was."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            key = file.read(_KEY_BYTES + 1)
    except FileNotFoundError:
        return None
    return key if len(key) == _KEY_BYTES else None


def _make_key(path: Path) -> bytes:
    """Whole from the moment that it has its name."""
    key = secrets.token_bytes(_KEY_BYTES)
    beginning = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(beginning, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, key)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    beginning.rename(path)
    _sync(path.parent)
    return key


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
