"""A real sshd on this machine, which lets nobody but the tests in, and an `ssh` that knows it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.parts.s3_servers import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.parts.engine import PrivateEngine

_SECONDS = 30.0
_LOOK_SECONDS = 0.02
_NOT_REACHED = 255  # of ssh; what a server that gives nobody a shell says is another


@dataclass(frozen=True, slots=True)
class Sshd:
    """`path` is a PATH on which `ssh` has a configuration of the tests' own; that of the system's ssh is in the user's home."""

    directory: Path
    port: int
    process: subprocess.Popen[bytes]
    path: str

    def url(self, engine: PrivateEngine) -> str:
        """Of an engine, as it is reached through here."""
        return f"ssh://root@127.0.0.1:{self.port}{engine.docker_host.removeprefix('unix://')}"

    def sessions(self) -> list[int]:
        """Ids of the processes that serve connections."""
        return [pid for pid in _children() if _ancestors(pid) & {self.process.pid}]

    def cut(self) -> None:
        """Ends all connections, as a network that goes away."""
        for pid in self.sessions():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def stop_accepting(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def accept_again(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def sshd_at(directory: Path, *, sftp: str = "internal-sftp", more: str = "") -> Iterator[Sshd]:
    """`sftp` is what serves SFTP, with its options; `more` is at the end of the server's configuration."""
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    ssh = shutil.which("ssh")
    assert program, "sshd is missing; get it with: apt-get install openssh-server"
    assert ssh, "ssh is missing; get it with: apt-get install openssh-client"
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # it will not run without
    for name in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)], check=True
        )
    (port,) = free_ports(1)
    (directory / "authorized").write_bytes((directory / "user.pub").read_bytes())
    config = directory / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {directory}/host\nPidFile none\n"
        f"AuthorizedKeysFile {directory}/authorized\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
        "KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nLogLevel ERROR\n"
        # A login takes a tenth of the time without the shell's start-up files and a key exchange in software.
        f'SetEnv HOME={directory} "PATH={os.environ["PATH"]}"\nKexAlgorithms curve25519-sha256\n'
        f"Subsystem sftp {sftp}\n{more}"
    )
    key = (directory / "host.pub").read_text().split()[:2]
    (directory / "known_hosts").write_text(f"[127.0.0.1]:{port} {' '.join(key)}\n")
    (directory / "ssh_config").write_text(
        f"Host *\n  IdentityFile {directory}/user\n  IdentitiesOnly yes\n  StrictHostKeyChecking yes\n"
        f"  UserKnownHostsFile {directory}/known_hosts\n"
    )
    programs = directory / "bin"
    programs.mkdir()
    (programs / "ssh").write_text(f'#!/bin/sh\nexec {ssh} -F {directory}/ssh_config "$@"\n')
    (programs / "ssh").chmod(0o755)
    with (directory / "log").open("ab") as log:
        process = subprocess.Popen(
            [program, "-D", "-e", "-f", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    found = Sshd(directory, port, process, f"{programs}:{os.environ['PATH']}")
    try:
        _await_answer(found)
        yield found
    finally:
        found.accept_again()
        found.cut()
        process.terminate()
        process.wait()


def _await_answer(found: Sshd) -> None:
    end = time.monotonic() + _SECONDS
    while (
        subprocess.run(
            ["ssh", "-p", str(found.port), "root@127.0.0.1", "true"],
            env={**os.environ, "PATH": found.path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        ).returncode
        == _NOT_REACHED
    ):
        log = (found.directory / "log").read_text()
        assert found.process.poll() is None, log
        assert time.monotonic() < end, log
        time.sleep(_LOOK_SECONDS)


def _children() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def _ancestors(pid: int) -> set[int]:
    found: set[int] = set()
    while pid > 1:
        try:
            stat = Path(f"/proc/{pid}/stat").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            break
        pid = int(stat.rpartition(b")")[2].split()[1])
        found.add(pid)
    return found
