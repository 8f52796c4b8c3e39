"""Real SFTP servers on loopback, each serving this machine's files to its root alone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.parts.sshd import sshd_at
from volferry.store_config import StoreConfig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tests.parts.sshd import Sshd


@dataclass(frozen=True, slots=True)
class SftpServer:
    """One that runs. `key` lets in, and `known_hosts` has its own key."""

    port: int
    key: Path
    known_hosts: Path
    environment: dict[str, str] = field(default_factory=dict)  # by which another process is let in
    sshd: Sshd | None = None

    def url(self, directory: Path | str) -> str:
        return f"sftp://root@127.0.0.1:{self.port}{directory}"

    def settings(self, directory: Path | str, **more: Any) -> StoreConfig:
        found = {"identity_file": self.key, "known_hosts": self.known_hosts, **more}
        return StoreConfig(url=self.url(directory), **found)


SftpServers = Callable[[str], SftpServer]


@contextmanager
def openssh(directory: Path, sftp: str, more: str = "") -> Iterator[SftpServer]:
    """OpenSSH's, with a server's own options."""
    with sshd_at(directory, sftp=sftp, more=more) as sshd:
        yield SftpServer(sshd.port, directory / "user", directory / "known_hosts", {"PATH": sshd.path}, sshd)


def _openssh(sftp: str) -> Callable[[Path], AbstractContextManager[SftpServer]]:
    return lambda directory: openssh(directory, sftp)


SFTP_SERVERS: dict[str, Callable[[Path], AbstractContextManager[SftpServer]]] = {
    "openssh": _openssh("internal-sftp"),
    # one that knows the protocol, and none of OpenSSH's extensions but that which replaces a file
    "plain": _openssh("internal-sftp -P hardlink,fsync,statvfs,limits"),
}
