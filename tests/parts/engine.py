"""A private engine: Docker or Podman with its own data, socket and programs, and nothing left of it afterwards.

`private_engine()` is for tests; `python -m tests.parts.engine run -- COMMAND…` gives one to a command, as DOCKER_HOST.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    # Ctrl-C while docker is imported is no traceback
    signal.signal(signal.SIGINT, lambda number, _: sys.exit(128 + number))

import docker
from docker.errors import DockerException

from tests.parts.editions import (
    EDITIONS,
    FIRST_SUBORDINATE,
    Edition,
    chosen_edition,
    command_of,
    environment_of,
    make_settings,
    root_of,
)
from tests.parts.engine_processes import (
    ProcessesLeft,
    end_processes,
    engine_processes,
    signal_all,
    unmount_below,
)
from tests.parts.mount_namespace import enter_own

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

START_SECONDS = 60.0
STOP_SECONDS = 60.0
POLL_SECONDS = 0.05
LOG_TAIL_BYTES = 3000
MOUNT_NAMESPACE = Path(__file__).with_name("mount_namespace.py")
PROJECT = Path(__file__).resolve().parents[2]
# sun_path has 108 bytes, and dockerd puts its longest one, containerd-debug.sock, 35 bytes below the root
LONGEST_ROOT = 70
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class EngineError(Exception):
    """The private engine could not be started or stopped; the message says why, and what to do."""


class PrivateEngine:
    """One engine below `root`. Data outlives `stop()`, `kill()` and `restart()`; `remove()` ends it all."""

    def __init__(self, root: Path, *options: str, edition: Edition | None = None) -> None:
        """`options` are more of dockerd's. By default, of the edition that the tests are run on."""
        if len(os.fsencode(root)) > LONGEST_ROOT:
            raise EngineError(f"{root}: too long for the sockets below it; at most {LONGEST_ROOT} bytes")
        self.root = root
        self.edition = edition or chosen_edition()
        self.exec_root = root / "exec"
        self.log = root / "engine.log"
        self.docker_host = f"unix://{root}/docker.sock"
        self._pidfile = root / "docker.pid"
        self._process: subprocess.Popen[bytes] | None = None
        self._crashed = False
        self._options = options

    @classmethod
    def orphaned(cls, root: Path) -> PrivateEngine:
        """The engine at `root`, whose owner died. There is nothing to do with it but to `remove()` it."""
        engine = cls(root, edition=EDITIONS[(root / "edition").read_text()])
        engine._crashed = True
        return engine

    def __repr__(self) -> str:
        return f"PrivateEngine({str(self.root)!r})"

    @property
    def data_root(self) -> Path:
        """Where its volumes are, below `volumes`."""
        own = f"{FIRST_SUBORDINATE}.{FIRST_SUBORDINATE}" if "userns-remap" in self.edition.settings else ""
        return self.root / "data" / own

    @property
    def pid(self) -> int:
        """The process id of the running engine."""
        if self._process is None:
            raise EngineError(f"{self.root}: this engine is not running")
        return self._process.pid

    def start(self) -> None:
        """Start the engine and return once it answers. Containers of an earlier, killed dockerd are ended by it."""
        if self._process is not None:
            raise EngineError(f"{self.root}: this engine is already running")
        if os.geteuid() != 0:
            raise EngineError("a private engine needs root")
        root = root_of(self.edition.suite)
        self._prepare(root)
        namespace = [
            str(each)
            for each in (sys.executable, MOUNT_NAMESPACE, root, self.root / "etc", self.root / "run", "--")
        ]
        if self.edition.suite is None:
            namespace = []
            if not shutil.which("dockerd", path=environment_of(self.edition, self.root)["PATH"]):
                raise EngineError("dockerd is missing; get it with: apt-get install docker.io")
        with self.log.open("ab") as log:
            # a session of its own: Ctrl-C in a terminal must reach the tests, which then stop the engine
            self._process = subprocess.Popen(
                [*namespace, *command_of(self.edition, self.root, self._options)],
                env=environment_of(self.edition, self.root),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self._end_engine()
            raise
        self._crashed = False

    def _prepare(self, root: Path) -> None:
        if not (self.root / "etc").exists():
            (self.root / "edition").write_text(self.edition.name)
            make_settings(root, self.edition, self.root)
        self._pidfile.unlink(missing_ok=True)
        (self.root / "docker.sock").unlink(missing_ok=True)  # of a crash: nobody answers there
        # after a crash its process may be a zombie that init has not reaped; dockerd would wait for that to answer
        (self.exec_root / "containerd" / "containerd.pid").unlink(missing_ok=True)

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process is None or self._process.poll() is not None:
                raise EngineError(
                    f"{self.edition.name} ended at once; the end of its log:\n{self._log_tail()}"
                )
            if time.monotonic() > deadline:
                raise EngineError(
                    f"{self.edition.name} did not answer within {START_SECONDS:.0f} s; the end of its log:\n{self._log_tail()}"
                )
            time.sleep(POLL_SECONDS)

    def _answers(self) -> bool:
        # docker-py leaves a socket open whose connection is refused, as before dockerd listens
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(5)
            try:
                probe.connect(str(self.root / "docker.sock"))
            except OSError:
                return False
        with contextlib.suppress(DockerException, OSError), self._api(timeout=5) as api:
            return bool(api.ping())
        return False

    @contextlib.contextmanager
    def _api(self, *, timeout: int) -> Iterator[docker.APIClient]:
        # a fixed version: asking for the newest one is a request more, and fails before the engine is up
        api = docker.APIClient(base_url=self.docker_host, version="1.41", timeout=timeout)
        try:
            yield api
        finally:
            api.close()

    def _log_tail(self) -> str:
        return self.log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")

    def stop(self) -> None:
        """End all containers and the engine, in order. Does nothing if it is not running."""
        if self._process is None:
            return
        # dockerd would give each container ten seconds to end by itself
        with contextlib.suppress(DockerException, OSError), self._api(timeout=30) as api:
            for container in api.containers():
                with contextlib.suppress(DockerException):
                    api.unpause(container["Id"])
                with contextlib.suppress(DockerException):
                    api.kill(container["Id"])
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._end_engine()
        self._process = None

    def kill(self) -> None:
        """End the engine as a crash would: SIGKILL, containers go on running. Does nothing if it is not running."""
        if self._process is not None:
            self._end_engine()
            self._crashed = True

    def terminate(self) -> None:
        """End the engine as the machine's own `systemctl stop` does: it stops the containers, and those that it knows to restart come with the next start."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._end_engine()
            self._process = None

    def pull_the_plug(self) -> None:
        """End all of it at once, as a power failure would: the engine, its own programs, and what runs in containers."""
        self.kill()
        while processes := engine_processes(self.root).all:
            signal_all(processes)
        unmount_below(self.exec_root)
        shutil.rmtree(self.exec_root, ignore_errors=True)  # as all of /run

    def _end_engine(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Stop, and start again on the same data and socket."""
        self.stop()
        self.start()

    def remove(self) -> None:
        """Stop the engine and remove every process, mount and file of it."""
        if self._crashed:
            # dockerd itself knows best what a crash leaves outside its directory: control groups, shims' sockets.
            # It would give containers that still run ten seconds each.
            signal_all(engine_processes(self.root).containers)
            with contextlib.suppress(EngineError):
                self.start()
        self.stop()
        for file in self.root.glob(
            "run/**/pause.pid"
        ):  # of a rootless Podman: nothing else tells whose process that is
            signal_all([int(file.read_text())])
        try:
            end_processes(self.root)
        except ProcessesLeft as error:
            raise EngineError(str(error)) from error
        unmount_below(self.root)
        shutil.rmtree(self.root)


@contextlib.contextmanager
def private_engine(
    root: Path | None = None, *options: str, edition: Edition | None = None
) -> Iterator[PrivateEngine]:
    """A running engine below `root` (default: a new directory), removed at the end whatever happens.

    `root` must not exist yet, or be empty: it is removed as well. Should this process be killed, a keeper process
    does the removing. Raises EngineError.
    """
    if root is None:
        root = Path(tempfile.mkdtemp(prefix="volferry-", dir="/var/tmp"))
    else:
        root.mkdir(parents=True, exist_ok=True)
        if any(root.iterdir()):
            raise EngineError(f"{root}: not empty; a private engine removes its directory at the end")
    root = root.resolve()
    try:
        engine = PrivateEngine(root, *options, edition=edition)
    except EngineError:
        root.rmdir()
        raise
    with _kept(root):
        try:
            engine.start()
            yield engine
        finally:
            with _interrupts_held_back():
                engine.remove()


@contextlib.contextmanager
def _kept(root: Path) -> Iterator[None]:
    """Have a process of its own session remove `root` when this one dies without having done so."""
    command = [sys.executable, "-m", "tests.parts.engine", "keep", str(root)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, start_new_session=True, env={**os.environ, "PYTHONPATH": str(PROJECT)}
    ):
        # the pipe's end is what the keeper waits for; leaving this block closes it, and so does dying
        yield


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Let a second Ctrl-C wait until everything is removed. Only a main thread can, and need, do so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in FORWARDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _keep(root: Path) -> int:
    """Wait until whoever started us closes our stdin; remove what is left at `root` then."""
    for number in FORWARDED:
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    if root.exists():
        PrivateEngine.orphaned(root).remove()
    return 0


def _run(command: Sequence[str]) -> int:
    """Run `command` with DOCKER_HOST set to a private engine; its exit code, or 128 and the signal's number."""
    stopped_by: list[int] = []
    child: list[subprocess.Popen[bytes]] = []

    def forward(number: int, _frame: FrameType | None) -> None:
        if not child:
            raise SystemExit(128 + number)
        stopped_by.append(number)
        if not (number == signal.SIGINT and _in_foreground()):
            child[0].send_signal(number)

    with _handling(forward), private_engine() as engine:
        environment = {**os.environ, "DOCKER_HOST": engine.docker_host}
        try:
            child.append(subprocess.Popen(command, env=environment))
        except OSError as error:
            sys.stderr.write(f"{command[0]}: {error.strerror}\n")
            return 127
        code = child[0].wait()
    if stopped_by and code == 0:
        return 128 + stopped_by[0]
    return code if code >= 0 else 128 - code


@contextlib.contextmanager
def _handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in FORWARDED}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _in_foreground() -> bool:
    """Whether a Ctrl-C that reaches us has reached our child as well, from the terminal."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    finally:
        os.close(terminal)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.parts.engine", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="run a command with DOCKER_HOST set to a private engine")
    run.add_argument("command", nargs="+", help="after --")
    keep = verbs.add_parser(
        "keep", help="wait for the end of stdin, then remove the engine at ROOT (internal)"
    )
    keep.add_argument("root", type=Path)
    chosen = parser.parse_args(arguments)
    enter_own()
    try:
        return _keep(chosen.root) if chosen.verb == "keep" else _run(chosen.command)
    except EngineError as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
