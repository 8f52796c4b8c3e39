"""A store on an SFTP server, reached by whatever `~/.ssh/config` says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.parts.sftp_servers import openssh
from volferry.errors import StoreUnreachable
from volferry.store_config import StoreConfig
from volferry.stores.base import get, put
from volferry.stores.places import remote_of
from volferry.stores.sftp import SftpStore
from volferry.stores.sftp_ssh import Ssh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.parts.sftp_servers import SftpServer


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SftpServer]:
    """One of which the tests here change the client's configuration."""
    with openssh(
        tmp_path_factory.mktemp("configured"), "internal-sftp", "MaxSessions 1\nMaxStartups 2\n"
    ) as found:
        yield found


@pytest.fixture
def configured(
    own_server: SftpServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], SftpServer]]:
    """Says more in ssh's configuration."""
    assert own_server.sshd is not None
    config = own_server.sshd.directory / "ssh_config"
    plain = config.read_text()
    monkeypatch.setenv("PATH", own_server.sshd.path)

    def say(more: str) -> SftpServer:
        config.write_text(plain + more)
        return own_server

    yield say
    config.write_text(plain)


@pytest.mark.parametrize(
    "more",
    ["RemoteCommand tmux attach\nRequestTTY force", "StdinNull yes", "ForkAfterAuthentication yes", "SessionType none",
     "IgnoreUnknown UseKeychain\nUseKeychain yes\nStdinNull yes",
     "PermitLocalCommand yes\nLocalCommand echo no SFTP", "LogLevel QUIET", "LogLevel DEBUG3", "VisualHostKey yes",
     "ControlMaster auto\nControlPath ~/%C\nControlPersist 60",
     "LocalForward 127.0.0.1:1 127.0.0.1:1\nRemoteForward 1 127.0.0.1:1\nExitOnForwardFailure yes"],
)  # fmt: skip
def test_what_is_said_for_terminals_is_not_in_the_way(
    configured: Callable[[str], SftpServer], tmp_path: Path, more: str
) -> None:
    server = configured(more)
    store = SftpStore(StoreConfig(url=server.url(tmp_path / "store")))
    put(store, "packs/a", b"x" * 100_000)
    assert get(store, "packs/a") == b"x" * 100_000
    store.close()


@pytest.mark.parametrize("level", ["QUIET", "DEBUG3"])
def test_a_user_is_told_ssh_s_words_and_no_others(
    configured: Callable[[str], SftpServer], tmp_path: Path, level: str
) -> None:
    server = configured(f"LogLevel {level}\nVisualHostKey yes\nPubkeyAuthentication no")
    with pytest.raises(StoreUnreachable) as raised:
        list(SftpStore(StoreConfig(url=server.url(tmp_path / "store"))).list(""))
    assert str(raised.value).endswith(
        "it accepts no key that ssh has here for this account: root@127.0.0.1: Permission denied (publickey)"
    )


def test_an_ssh_that_does_not_know_an_option_is_not_given_it() -> None:
    settings = StoreConfig(url="sftp://nas/x")
    ssh = Ssh(remote_of(settings.url), settings)
    ssh._configured = {"remotecommand": "tmux attach"}
    said = " ".join(ssh._options)
    assert "RemoteCommand=none" in said
    assert "StdinNull" not in said
    assert "ForkAfterAuthentication" not in said


def test_a_server_behind_a_jump_host(configured: Callable[[str], SftpServer], tmp_path: Path) -> None:
    server = configured("")
    machine = f"HostName 127.0.0.1\nPort {server.port}\nUser root\n"
    configured(f"Host behind\n{machine}ProxyJump jump\nHost jump\n{machine}")
    store = SftpStore(StoreConfig(url=f"sftp://behind{tmp_path}/store"))
    put(store, "packs/a", b"x" * 100_000)
    assert get(store, "packs/a") == b"x" * 100_000
    assert server.sshd is not None
    server.sshd.cut()  # of both machines
    assert get(store, "packs/a") == b"x" * 100_000
    store.close()
