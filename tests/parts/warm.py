"""Processes of volferry that need not import it first: each is forked from one that has done so.

A matrix of hundreds of commands takes a tenth of the time that way. What runs is the entry point, in a process and a
session of its own, with its own arguments, environment and outputs, and it ends as an interpreter ends.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from functools import cache
from importlib import import_module
from typing import IO, TYPE_CHECKING, Any

from tests.parts.botocore_data import read_once

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

VOLFERRY = "volferry"
# Imported before the first fork: whatever takes time, and starts no thread.
_MODULES = (
    "docker",
    "sqlite3",
    "volferry.cli.main",
    "volferry.cli.backup",
    "volferry.cli.config",
    "volferry.cli.copy",
    "volferry.cli.daemon",
    "volferry.cli.diff",
    "volferry.cli.doctor",
    "volferry.cli.export",
    "volferry.cli.find",
    "volferry.cli.inspect",
    "volferry.cli.ls",
    "volferry.cli.prune",
    "volferry.cli.restore",
    "volferry.cli.status",
    "volferry.cli.verify",
    "volferry.cli.volumes",
    "volferry.engine.helper",
    "volferry.engine.image",
    "volferry.operations.backup",
    "volferry.operations.export",
    "volferry.operations.restore",
    "volferry.operations.backup_reader",
    "volferry.stores.factory",
    "volferry.stores.s3",
)


class Forked:
    """A process that was forked for us. As `Popen`, though it is no child of ours."""

    def __init__(
        self, pid: int, status: IO[bytes], stdout: IO[bytes] | None = None, stderr: IO[bytes] | None = None
    ) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.stdout, self.stderr = stdout, stderr
        self._status = status

    def poll(self) -> int | None:
        """Its exit code (negative: a signal's number) if it has ended."""
        return self._ended_within(0)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code. Raises TimeoutExpired."""
        code = self._ended_within(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(VOLFERRY, timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                pass

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended_within(self, seconds: float | None) -> int | None:
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._status, select.POLLIN)
            if poll.poll(None if seconds is None else seconds * 1000):
                self.returncode = int(self._status.readline())
                self._status.close()
        return self.returncode


class WarmProcess:
    """One process that forks; it ends when this object's process does."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.parts.warm"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._one_at_a_time = threading.Lock()

    def run(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        seconds: float,
        *,
        program: str = VOLFERRY,
    ) -> tuple[int, bytes, bytes]:
        """Exit code (negative: a signal's number), stdout and stderr of one command; killed after `seconds`.

        `program` is volferry, or a module with a function `main` that takes the arguments.
        """
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            process = Forked(*self._fork(program, arguments, environment, [out.fileno(), err.fileno()]))
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
            return code, _content(out), _content(err)

    def start(self, arguments: Sequence[str], environment: Mapping[str, str]) -> Forked:
        """A command of volferry that runs, with pipes as its stdout and stderr."""
        reading, writing = zip(os.pipe(), os.pipe(), strict=True)
        try:
            pid, status = self._fork(VOLFERRY, arguments, environment, writing)
        finally:
            for each in writing:
                os.close(each)
        return Forked(pid, status, *(os.fdopen(each, "rb", buffering=0) for each in reading))

    def _fork(
        self, program: str, arguments: Sequence[str], environment: Mapping[str, str], outputs: Sequence[int]
    ) -> tuple[int, IO[bytes]]:
        """Id of the new process, which has the outputs open, and where its exit code will be said."""
        assert self._process.stdin is not None
        reading, writing = os.pipe()
        status = os.fdopen(reading, "rb", buffering=0)
        request = {
            "program": program,
            "arguments": list(arguments),
            "environment": dict(environment),
            "opened": [f"/proc/{os.getpid()}/fd/{each}" for each in (writing, *outputs)],
        }
        try:
            with self._one_at_a_time:
                self._process.stdin.write(json.dumps(request).encode() + b"\n")
                self._process.stdin.flush()
                pid = int(status.readline())
        finally:
            os.close(writing)
        return pid, status


@cache
def warm_process() -> WarmProcess:
    """The one of this test process."""
    return WarmProcess()


def _content(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


def _serve() -> None:
    for module in _MODULES:
        import_module(module)
    _read_descriptions()
    gc.collect()
    gc.freeze()
    assert threading.active_count() == 1
    requests = os.dup(0)
    running: dict[int, tuple[int, int]] = {}  # descriptor of a process -> its id, and where its end is said
    while True:
        ready = select.select([requests, *running], [], [])[0]
        for descriptor in ready:
            if descriptor == requests:
                continue
            pid, status = running.pop(descriptor)
            os.close(descriptor)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            _say(status, code)
            os.close(status)
        if requests in ready:
            line = _line(requests)
            if not line:
                return
            request = json.loads(line)
            status, *outputs = (os.open(path, os.O_WRONLY) for path in request["opened"])
            if (pid := os.fork()) == 0:
                for descriptor in (requests, status, *running, *(said for _, said in running.values())):
                    os.close(descriptor)
                _become(request, outputs)
                return
            for output in outputs:
                os.close(output)
            running[os.pidfd_open(pid)] = pid, status
            _say(status, pid)


def _read_descriptions() -> None:
    """Of S3, for a client that is never used."""
    from volferry.store_config import StoreConfig
    from volferry.stores.s3_client import make_client

    read_once()
    make_client(StoreConfig(url="s3://bucket", endpoint="http://127.0.0.1:9", region="us-east-1"))


def _say(status: int, number: int) -> None:
    try:
        os.write(status, b"%d\n" % number)
    except BrokenPipeError:  # whoever asked is gone
        pass


def _line(descriptor: int) -> bytes:
    """The next line. There is never more than one under way."""
    line = b""
    while not line.endswith(b"\n") and (more := os.read(descriptor, 1 << 16)):
        line += more
    return line


def _become(request: dict[str, Any], outputs: Sequence[int]) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for number, descriptor in enumerate((nothing, *outputs)):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.setsid()
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = [request["program"], *request["arguments"]]
    if request["program"] != VOLFERRY:
        import_module(request["program"]).main(*request["arguments"])
        return
    from volferry.cli.entry import run

    run()


if __name__ == "__main__":
    _serve()
