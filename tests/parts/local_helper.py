"""A helper without an engine: the same commands, as processes of this machine, on a directory of the test's own.

For what is about stores: hundreds of backups, with no container for any of them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from volferry.index_cache import IndexCache
from volferry.model import Volume
from volferry.observer import Silent
from volferry.operations.backup import backup_volume
from volferry.operations.volume_pass import MOVING, BackupSettings, VolumeState
from volferry.volume_lock import volume_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from volferry.model import BackupStats
    from volferry.repository import Repository

_ENVIRONMENT = {"LC_ALL": "C", "PATH": os.environ["PATH"]}


class LocalProcess:
    """Implements `Process`."""

    def __init__(self, command: Sequence[str], on_stderr: Callable[[bytes], None], *, stdin: bool) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_ENVIRONMENT,
        )
        self._on_stderr = on_stderr
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def read(self, size: int) -> bytes:
        assert self._process.stdout
        return os.read(self._process.stdout.fileno(), size)

    def read_into(self, buffer: memoryview) -> int:
        assert self._process.stdout
        return os.readv(self._process.stdout.fileno(), [buffer])

    def write(self, data: bytes) -> None:
        assert self._process.stdin
        self._process.stdin.write(data)

    def close_stdin(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()

    def wait(self) -> int:
        self._watcher.join()
        return self._process.wait()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._watcher.join()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass

    def _watch(self) -> None:
        assert self._process.stderr
        for line in self._process.stderr:
            self._on_stderr(line.rstrip(b"\n"))


class LocalHelper:
    """In place of `Helper` and `HelperInBackground`."""

    def __init__(self, directory: Path, spool: Path) -> None:
        self._directory = directory
        self.spool = str(spool)
        self._processes: list[LocalProcess] = []

    def wait(self) -> LocalHelper:
        return self

    def release(self) -> None:
        pass

    def directory(self, _volume: str) -> str:
        return str(self._directory)

    def start(
        self, command: Sequence[str], *, stdin: bool = False, on_stderr: Callable[[bytes], None]
    ) -> LocalProcess:
        self._processes.append(LocalProcess(command, on_stderr, stdin=stdin))
        return self._processes[-1]

    def end(self) -> None:
        for process in self._processes:
            process.end()


@dataclass(slots=True)
class LocalVolume:
    """A directory that is backed up as a volume is."""

    data: Path
    state: Path
    name: str = "vol"
    host: str = "host"
    pack_bytes: int = 1 << 30
    settings: dict[str, Any] = field(default_factory=dict)

    def place(self, repository: Repository) -> Path:
        """What this machine keeps of it."""
        return self.state / "stores" / repository.id / self.host / self.name

    def back_up(self, repository: Repository) -> BackupStats:
        """As the command does it, lock included."""
        spool = Path(tempfile.mkdtemp(prefix="spool", dir=self.data.parent))
        helper = LocalHelper(self.data, spool)
        state = self.place(repository)
        try:
            with volume_lock(state, self.name):
                return backup_volume(
                    Volume(self.name, "local", {}, {}, "local", ""),
                    helper=cast("Any", helper),
                    repository=repository,
                    settings=BackupSettings(
                        host=self.host, engine="none", pack_bytes=self.pack_bytes, **self.settings
                    ),
                    state=VolumeState(state / "checkpoints", IndexCache(state / "index")),
                    spool=spool,
                    started=time.monotonic(),
                    observer=Silent(),
                    still=MOVING,
                )
        finally:
            helper.end()
            shutil.rmtree(spool, ignore_errors=True)
