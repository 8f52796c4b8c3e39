"""The channel for an engine on our own kernel: FIFOs in a directory that we share with the helper.

The helper's first process is a shell that reads its script from a FIFO whose other end we hold: it ends when we do,
also after `kill -9`. Every command gets FIFOs of its own for stdin, stdout, stderr and its exit status. No end is
ever opened or awaited in a way that a dead helper could make last for ever, and none through a symlink: what runs in the helper may have been
led to put one there.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import select
import shlex
import stat
import threading
import time
from typing import TYPE_CHECKING

from volferry.engine.channel import READ_BYTES, InputRefused, LineSplitter
from volferry.errors import HelperDied
from volferry.interrupts import held_back

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from volferry.engine.channel import Bulk
    from volferry.engine.client import Death

_PIPE_BYTES = 1 << 20
_ENOUGH_FOR_A_STATUS = 16
_ENOUGH_FOR_AN_ANSWER = 4096
# Opened for both, it waits for nobody; and it makes no file where there is none.
_ANSWER = '[ -p "$0/answer" ] && echo "$1" 1<>"$0/answer"'


class FifoChannel:
    """Implements `Channel`. `directory` is the shared directory here, `inside` the same one in the helper."""

    answer = _ANSWER  # the script by which a helper shows that it has our FIFOs

    def __init__(self, directory: Path, inside: str) -> None:
        self.directory = directory
        self._inside = inside
        self._count = 0
        self._processes: set[FifoProcess] = set()
        self._death: Death | None = None
        self._control_path = self._make("control")
        # Read-write: the open does not wait for the helper, and the helper's does not wait for us.
        self._control = _open(self._control_path, os.O_RDWR)
        self._answer_path = self._make("answer")
        self._answer = _open(self._answer_path, os.O_RDWR | os.O_NONBLOCK)
        self._token = secrets.token_hex(16).encode()
        self._heard = b""

    @property
    def shell(self) -> list[str]:
        """The command of the helper's first process."""
        return ["sh", "-c", f'{_ANSWER} && exec sh "$0/control"; exit 1', *self.answer_arguments]

    @property
    def answer_arguments(self) -> list[str]:
        """Of `answer`."""
        return [self._inside, self._token.decode()]

    def answered(self, seconds: float) -> bool:
        """Whether the helper has our FIFOs; waits for so long, or until it ends."""
        if self._death is None:
            raise RuntimeError("the helper is not watched")
        end = time.monotonic() + seconds
        while self._token not in self._heard:
            poll = select.poll()
            poll.register(self._answer, select.POLLIN)
            poll.register(self._death, select.POLLIN)
            ready = [found for found, _ in poll.poll(max(0.0, end - time.monotonic()) * 1000)]
            if self._answer not in ready:
                return False
            # Nobody but the helper has it.
            more = os.read(self._answer, _ENOUGH_FOR_AN_ANSWER)
            self._heard = (self._heard + more)[-_ENOUGH_FOR_AN_ANSWER:]
        return True

    def watch(self, death: Death) -> None:
        """Must be called before the first command."""
        self._death = death

    def start(
        self,
        command: Sequence[str],
        *,
        stdin: bool,
        on_stderr: Callable[[bytes], None],
        bulk: Bulk | None = None,
    ) -> FifoProcess:
        del bulk  # it crosses no network
        if self._death is None:
            raise RuntimeError("the helper is not watched")
        self._count += 1
        name = str(self._count)
        paths = [self._make(f"{name}.{end}") for end in ("out", "err", "status", *(["in"] if stdin else []))]
        process = FifoProcess(paths, self._death, on_stderr, ended=self._processes.discard)
        self._processes.add(process)
        end = f"{self._inside}/{name}"
        source = f"{end}.in" if stdin else "/dev/null"
        # `jobs` has the shell take note of what has ended: what it does not, counts against the limit of processes.
        line = f"jobs >/dev/null; ( ( {shlex.join(command)} ) <{source} >{end}.out 2>{end}.err; echo $? >{end}.status ) &\n"
        os.write(self._control, line.encode())
        return process

    def close(self) -> None:
        os.close(self._control)  # ends the helper's first process, should the helper still be there
        os.close(self._answer)
        self._control_path.unlink(missing_ok=True)
        self._answer_path.unlink(missing_ok=True)
        for process in [*self._processes]:
            process.close()

    def _make(self, name: str) -> Path:
        path = self.directory / name
        os.mkfifo(path)
        descriptor = _open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            os.fchmod(descriptor, 0o666)  # the helper's root may be another user of ours (user namespaces)
        finally:
            os.close(descriptor)
        return path


class FifoProcess:
    """Implements `Process`."""

    def __init__(
        self,
        paths: list[Path],
        death: Death,
        on_stderr: Callable[[bytes], None],
        *,
        ended: Callable[[FifoProcess], object],
    ) -> None:
        self._death = death
        self._ended = ended
        self._paths = paths
        self._closed = False
        out, err, status, *stdin = paths
        self._stdin_path = stdin[0] if stdin else None
        self._out = _open_to_read(out)
        self._err = _open_to_read(err)
        self._status = _open_to_read(status)
        self._stdin: int | None = None
        self._out_begun = False
        self._exit_status: int | None = None
        self._lines = LineSplitter(on_stderr)
        self._failure: BaseException | None = None
        self._watcher = threading.Thread(target=self._watch, daemon=True, name="stderr")
        with held_back():
            self._watcher.start()

    def read(self, size: int) -> bytes:
        self._await_output()
        return os.read(self._out, size)

    def read_into(self, buffer: memoryview) -> int:
        self._await_output()
        return os.readv(self._out, [buffer])

    def write(self, data: bytes | memoryview) -> None:
        if self._stdin is None:
            self._stdin = self._open_stdin()
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._stdin, view) :]
        except BrokenPipeError as error:
            raise InputRefused from error

    def close_stdin(self) -> None:
        if self._stdin is None and self._stdin_path is not None:
            # The command waits for an end that was never opened.
            self._stdin = self._open_stdin()
        if self._stdin is not None:
            os.close(self._stdin)
            self._stdin = None
            self._stdin_path = None

    def wait(self) -> int:
        self._watcher.join()
        self._close()
        if self._failure is not None:
            raise self._failure
        if self._exit_status is None:
            raise HelperDied(f"the helper ended before its work did: {self._death.reason}")
        return self._exit_status

    def close(self) -> None:
        """Once the helper is gone: every FIFO is at its end then, and the watcher with it."""
        self._watcher.join(timeout=10)
        if (
            self._watcher.is_alive()
        ):  # the engine is gone, and the helper still there: what it uses stays open
            return
        if self._stdin is not None:
            os.close(self._stdin)
            self._stdin = None
        self._close()

    def _close(self) -> None:
        """A helper has thousands of processes, and we have a limit of descriptors. While its stdin is written to, it stays open: else its number
        might be another file's.
        """
        if self._closed or self._stdin is not None:
            return
        self._closed = True
        for descriptor in (self._out, self._err, self._status):
            os.close(descriptor)
        self._out = -1
        for path in self._paths:
            path.unlink(missing_ok=True)
        self._ended(self)

    def _watch(self) -> None:
        try:
            self._await_writer(self._err)
            while data := os.read(self._err, READ_BYTES):
                self._lines.feed(data)
            self._lines.finish()
            self._await_writer(self._status)
            text = os.read(self._status, _ENOUGH_FOR_A_STATUS).strip()
            self._exit_status = int(text) if text.isdigit() else None
        except BaseException as error:  # noqa: BLE001 -- raised by `wait`, in the thread that can handle it
            self._failure = error

    def _open_stdin(self) -> int:
        """Opens the writing end once the command has opened the other one."""
        if self._stdin_path is None:
            raise RuntimeError("the command has no stdin")
        pause = select.poll()
        pause.register(self._death, select.POLLIN)
        while True:
            try:
                descriptor = _open(self._stdin_path, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:  # ENXIO: nobody reads yet
                if not self._watcher.is_alive():
                    raise BrokenPipeError from None
                if pause.poll(2):
                    raise self._died() from None
            else:
                _set_size(descriptor)
                os.set_blocking(descriptor, True)
                return descriptor

    def _await_output(self) -> None:
        if not self._out_begun:
            self._await_writer(self._out)
            self._out_begun = True

    def _await_writer(self, descriptor: int) -> None:
        """Until there is something to read, or the writer came and went; then reads may block."""
        poll = select.poll()
        poll.register(descriptor, select.POLLIN | select.POLLHUP)
        poll.register(self._death, select.POLLIN)
        ready = [found for found, _ in poll.poll()]
        if descriptor not in ready and not any(found == descriptor for found, _ in poll.poll(0)):
            raise self._died()
        os.set_blocking(descriptor, True)

    def _died(self) -> HelperDied:
        return HelperDied(f"the helper ended before its work did: {self._death.reason}")


def _open_to_read(path: Path) -> int:
    """Without waiting for a writer. Until there was one, `poll` reports nothing (pipe(7), fifo(7))."""
    descriptor = _open(path, os.O_RDONLY | os.O_NONBLOCK)
    _set_size(descriptor)
    return descriptor


def _open(path: Path, flags: int) -> int:
    """Raises HelperDied if it is not the FIFO that we have made: that is no helper to work with."""
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.ENOENT}:
            raise
    else:
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
    raise HelperDied(f"the channel to the helper is broken: something has taken the place of {path}")


def _set_size(descriptor: int) -> None:
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    except OSError:  # more than this user may have: it works with 64 KiB as well
        pass
