"""The kernel's locks (flock) on files of the state directory: whether another run has one, or none can be had.

A lock ends with its process. One that was killed, but waits in the kernel for a disk or a share that does not answer, keeps its locks, and does nothing
any longer: no instruction of its program is run after SIGKILL. So who has a lock stands in the file, and `is_beyond_help` asks the kernel for its state.
"""

from __future__ import annotations

import fcntl
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from volferry.errors import VolferryError, reason

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROC = Path("/proc")
_KILLED = 1 << (signal.SIGKILL - 1)


def lock(descriptor: int, kind: int, directory: Path) -> None:
    """Ends with the descriptor. `kind` as flock has it; `directory` is what errors name. Raises BlockingIOError while another run has it, and
    VolferryError where the file system has no locks: no wait helps there.
    """
    try:
        fcntl.flock(descriptor, kind)
    except BlockingIOError:
        raise
    except OSError as error:
        raise no_locks(directory, error) from error


def no_locks(directory: Path, error: OSError) -> VolferryError:
    return VolferryError(
        f"the file system of the state directory {directory} has no locks: {reason(error)}: put it on another one (state_dir)"
    )


def sign(descriptor: int) -> None:
    """Says in a locked file who has the lock: process, when that started, and in which namespace it has this number. Where it cannot, as on a full
    disk, nobody can tell that it is beyond help.
    """
    with suppress(OSError):
        pid = str(os.getpid())
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{pid} {_started(pid)} {_namespace()}\n".encode(), 0)


def is_beyond_help(path: Path) -> bool:
    """Whether whoever has that lock was killed, and only the kernel still has something of it (proc_pid_status(5)). False where that is not certain."""
    try:
        pid, started, namespace = path.read_text(encoding="ascii").split()
        if namespace != _namespace() or started != _started(pid):
            return False
        threads = [_never_runs_again(each) for each in (_PROC / pid / "task").iterdir()]
    except (OSError, ValueError, IndexError, KeyError):
        return False
    return bool(threads) and all(threads)


def _never_runs_again(thread: Path) -> bool:
    said = dict(_fields(thread / "status"))
    killed = (int(said["SigPnd"], 16) | int(said["ShdPnd"], 16)) & _KILLED
    state = said["State"][0]
    return state in {"Z", "X"} or (state == "D" and bool(killed))


def _fields(path: Path) -> Iterator[tuple[str, str]]:
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        yield name, value.strip()


def _started(pid: str) -> str:
    """In ticks since the machine started."""
    return (_PROC / pid / "stat").read_bytes().rpartition(b")")[2].split()[19].decode()


def _namespace() -> str:
    return str((_PROC / "self" / "ns" / "pid").readlink())
