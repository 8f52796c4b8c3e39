"""A run: one piece of work with an id, a private directory, and a lock that says that it lives.

The lock is the kernel's (flock): it ends with the process, however that ends. So a later run can tell what a dead
one left behind from what a living one is using.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volferry.errors import VolferryError, reason
from volferry.interrupts import held_back
from volferry.state_lock import is_beyond_help, lock, no_locks, sign

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# By which the daemon gives a run its id; for that process alone, not for what it starts.
RUN_VARIABLE = "VOLFERRY_DAEMON_RUN"
_ID = re.compile(r"[0-9a-f]{12}")
_RUNS = "runs"
JOURNALS = "journal"  # beside it
_LOCK = "lock"


@dataclass(frozen=True, slots=True)
class Run:
    id: str
    owner: str  # names the state directory: runs of another one are not ours to judge
    directory: Path  # private, on disk, removed at the end

    @property
    def spool(self) -> Path:
        """For temporary files of our own."""
        return self.directory / "spool"

    @property
    def state_directory(self) -> Path:
        return self.directory.parents[1]

    def share(self) -> Path:
        """A new directory, to be shared with one helper. Open to all inside a private one: its users may be mapped."""
        shared = self.directory / f"shared-{secrets.token_hex(4)}"
        shared.mkdir()
        shared.chmod(0o777)
        return shared


def new_run_id() -> str:
    return secrets.token_hex(6)


@contextmanager
def begin_run(state_directory: Path) -> Iterator[Run]:
    """Raises VolferryError if the state directory cannot be written."""
    chosen = os.environ.pop(RUN_VARIABLE, "")
    directory = state_directory / _RUNS / (chosen if _ID.fullmatch(chosen) else new_run_id())
    descriptor: int | None = None
    try:
        with held_back():
            try:
                owner = owner_of(state_directory)
                directory.mkdir(parents=True, mode=0o700)
                descriptor = _locked(directory, state_directory)
                run = Run(directory.name, owner, directory)
                run.spool.mkdir(mode=0o700)
            except OSError as error:
                raise VolferryError(
                    f"cannot write to the state directory {state_directory}: {reason(error)}"
                ) from error
        yield run
    finally:
        with held_back():
            _remove(directory, state_directory)
            if descriptor is not None:
                os.close(descriptor)


def is_alive(state_directory: Path, run_id: str) -> bool:
    """Whether the process of that run still exists, and may do anything. Raises VolferryError where the file system has no locks, and so no answer."""
    path = state_directory / _RUNS / run_id / _LOCK
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # nothing of a run is removed while nobody knows
        return True
    try:
        lock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB, state_directory)
    except BlockingIOError:
        return not is_beyond_help(path)
    finally:
        os.close(descriptor)
    return False


def remove_dead(state_directory: Path) -> None:
    """Removes directories of runs that died."""
    try:
        found = list((state_directory / _RUNS).iterdir())
    except OSError:
        return
    for directory in found:
        # A run that is only just beginning has no lock yet.
        if (directory / _LOCK).exists() and not is_alive(state_directory, directory.name):
            _remove(directory, state_directory)


def is_known(state_directory: Path, run_id: str) -> bool:
    """Whether there was such a run. Its directory stays for as long as it has a journal."""
    return (state_directory / _RUNS / run_id / _LOCK).is_file()


def journal_paths(state_directory: Path, run_id: str = "") -> list[Path]:
    """The journals of a run, or of all: what it has stopped and not brought back, and hooks that are still to be run (journal.py)."""
    try:
        found = sorted((state_directory / JOURNALS).glob("*.jsonl"))
    except OSError:
        return []
    return [path for path in found if not run_id or path.stem.partition(".")[0] == run_id]


def _remove(directory: Path, state_directory: Path) -> None:
    """Of a run that ends or has died. Where it has a journal, the lock stays, which nobody holds: by it, the run is known."""
    if not journal_paths(state_directory, directory.name):
        shutil.rmtree(directory, ignore_errors=True)
        return
    with suppress(OSError):
        for entry in directory.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.name != _LOCK:
                entry.unlink()


def _locked(directory: Path, state_directory: Path) -> int:
    """A lock that is held from the moment that its name is there. Ends with the descriptor. Raises VolferryError."""
    beginning = directory / f"{_LOCK}.new"
    descriptor = os.open(beginning, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, state_directory)
        sign(descriptor)
        beginning.rename(directory / _LOCK)
    except BlockingIOError as error:  # of a file that nobody else knows of: it says so to everybody
        os.close(descriptor)
        raise no_locks(state_directory, error) from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def owner_of(state_directory: Path) -> str:
    """Names this state directory on every engine; made at first use."""
    path = state_directory / "id"
    state_directory.mkdir(parents=True, mode=0o700, exist_ok=True)
    if not path.exists() or not path.stat().st_size:
        # Whole from the moment that it has its name; of two at once, either will do.
        beginning = state_directory / f"id.{secrets.token_hex(4)}"
        beginning.write_text(secrets.token_hex(8))
        beginning.rename(path)
    return path.read_text().strip()
