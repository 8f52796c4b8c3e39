"""Processes of volferry that need not import it first: each is forked from one that has done so.

A matrix of hundreds of commands takes a tenth of the time that way. What runs is the entry point, in a process of
its own, with its own arguments, environment and outputs, and it ends as an interpreter ends.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from functools import cache
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Imported before the first fork: whatever takes time, and starts no thread.
_MODULES = (
    "docker",
    "volferry.cli.main",
    "volferry.engine.helper",
    "volferry.engine.image",
    "volferry.operations.backup",
    "volferry.operations.export",
    "volferry.operations.restore",
    "volferry.operations.backup_reader",
    "volferry.stores.factory",
    "volferry.stores.s3",
)


class WarmProcess:
    """One process that forks; it ends when this object's process does."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.parts.warm"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def run(
        self, arguments: Sequence[str], environment: Mapping[str, str], seconds: float
    ) -> tuple[int, bytes, bytes]:
        """Exit code (negative: a signal's number), stdout and stderr of one command; killed after `seconds`."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            request = {
                "arguments": list(arguments),
                "environment": dict(environment),
                "outputs": [f"/proc/{os.getpid()}/fd/{each.fileno()}" for each in (out, err)],
            }
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            pid = int(self._answer())
            timer = threading.Timer(seconds, os.kill, (pid, signal.SIGKILL))
            timer.start()
            code = int(self._answer())
            timer.cancel()
            timer.join()
            return code, _content(out), _content(err)

    def _answer(self) -> bytes:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@cache
def warm_process() -> WarmProcess:
    """The one of this test process."""
    return WarmProcess()


def _content(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


def _serve() -> None:
    for module in _MODULES:
        __import__(module)
    assert threading.active_count() == 1
    requests, answers = os.dup(0), os.dup(1)
    while line := _line(requests):
        request = json.loads(line)
        if (pid := os.fork()) == 0:
            os.close(requests)
            os.close(answers)
            _become(request)
            return
        os.write(answers, b"%d\n" % pid)
        _, status = os.waitpid(pid, 0)
        os.write(answers, b"%d\n" % os.waitstatus_to_exitcode(status))


def _line(descriptor: int) -> bytes:
    """The next line. There is never more than one under way."""
    line = b""
    while not line.endswith(b"\n") and (more := os.read(descriptor, 1 << 16)):
        line += more
    return line


def _become(request: dict[str, object]) -> None:
    arguments, environment, outputs = request["arguments"], request["environment"], request["outputs"]
    assert isinstance(arguments, list)
    assert isinstance(environment, dict)
    assert isinstance(outputs, list)
    for number, path in enumerate((os.devnull, *outputs)):
        descriptor = os.open(path, os.O_RDWR)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["volferry", *arguments]
    from volferry.cli.entry import run

    run()


if __name__ == "__main__":
    _serve()
