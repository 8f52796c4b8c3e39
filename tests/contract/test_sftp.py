"""What only a store on an SFTP server can be asked for."""

from __future__ import annotations

import json
import os
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parts.mounts import in_memory
from tests.parts.sftp_servers import openssh
from volferry.config import load_config
from volferry.errors import ConfigError, ObjectExists, StoreError, StoreUnreachable, UsageError
from volferry.sizes import Limit
from volferry.store_config import Secret, StoreConfig
from volferry.stores.base import get, put
from volferry.stores.local import LocalStore
from volferry.stores.places import Remote, remote_of
from volferry.stores.sftp import SftpStore
from volferry.stores.sftp_packets import Garbled, Refused, Reply, extensions_of
from volferry.stores.sftp_ssh import Ssh
from volferry.stores.throttle import throttle_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.parts.sftp_servers import SftpServer, SftpServers


@pytest.fixture
def server(sftp_server: SftpServers) -> SftpServer:
    return sftp_server("openssh")


@pytest.fixture
def store(server: SftpServer, tmp_path: Path) -> SftpStore:
    return SftpStore(server.settings(tmp_path / "store"), state=tmp_path / "state")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the pauses between attempts."""
    monkeypatch.setattr("volferry.stores.sftp_client._FIRST_PAUSE_SECONDS", 0)


def message_of(error: pytest.ExceptionInfo[Exception]) -> str:
    message = str(error.value)
    assert len(message.splitlines()) == 1
    return message


def test_a_directory_is_a_local_store_and_one_on_a_server_at_once(store: SftpStore, tmp_path: Path) -> None:
    local = LocalStore(tmp_path / "store")
    put(local, "packs/h/v/one", b"written here")
    put(store, "packs/h/v/two", b"written there")
    assert get(store, "packs/h/v/one") == b"written here"
    assert get(local, "packs/h/v/two") == b"written there"
    assert [info.key for info in local.list("")] == [info.key for info in store.list("")]
    assert list(store.list("")) == list(local.list(""))
    unfinished = store.create("packs/h/v/three")
    local.clean()  # on this machine, whose kernel has no lock of it
    unfinished.write(b"x")
    unfinished.commit()
    with pytest.raises(ObjectExists):
        put(local, "packs/h/v/three", b"y")


@pytest.mark.usefixtures("quick")
def test_a_writer_goes_on_when_its_connection_is_cut(store: SftpStore, server: SftpServer) -> None:
    data = os.urandom(1 << 20)
    writer = store.create("packs/a")
    assert server.sshd is not None
    for number in range(60):
        writer.write(data)
        if number in {5, 40}:
            server.sshd.cut()
    server.sshd.cut()
    writer.commit()
    assert get(store, "packs/a") == data * 60
    assert [info.key for info in store.list("")] == ["packs/a"]


@pytest.mark.usefixtures("quick")
def test_a_reader_goes_on_when_its_connection_is_cut(store: SftpStore, server: SftpServer) -> None:
    data = os.urandom(24 << 20)
    put(store, "packs/a", data)
    assert server.sshd is not None
    found = []
    with store.open("packs/a") as reader:
        while piece := reader.read(1 << 20):
            found.append(piece)
            if len(found) in {2, 12}:
                server.sshd.cut()
    assert b"".join(found) == data


@pytest.mark.usefixtures("quick")
def test_a_server_that_does_not_come_back_is_one_line_and_nothing_is_listed(tmp_path: Path) -> None:
    (tmp_path / "sshd").mkdir()
    with openssh(tmp_path / "sshd", "internal-sftp") as server:
        store = SftpStore(server.settings(tmp_path / "store"), state=tmp_path / "state")
        writer = store.create("packs/a")
        writer.write(bytes(5 << 20))
    with pytest.raises(StoreError, match="Connection refused") as raised:
        writer.commit()
    assert message_of(raised).startswith("cannot write packs/a in the store sftp://root@127.0.0.1:")
    assert list(LocalStore(tmp_path / "store").list("")) == []


def test_a_full_disk_is_what_the_server_says(server: SftpServer, tmp_path: Path) -> None:
    with in_memory(tmp_path / "disk", "3m") as disk:
        store = SftpStore(server.settings(disk))
        put(store, "kept", b"x")
        with pytest.raises(StoreError) as raised:
            put(store, "packs/large", bytes(8 << 20))
        assert message_of(raised) == (
            f'cannot write packs/large in the store {server.url(disk)}: no space is left on it: the server says "Failure"'
        )
        assert [info.key for info in store.list("")] == ["kept"]
        assert [each.name for each in (disk / ".tmp").iterdir()] == []
        put(store, "packs/small", bytes(500_000))
        store.close()


def test_without_statvfs_a_failure_may_be_a_full_disk(sftp_server: SftpServers, tmp_path: Path) -> None:
    server = sftp_server("plain")
    with in_memory(tmp_path / "disk", "3m") as disk:
        store = SftpStore(server.settings(disk))
        with pytest.raises(StoreError, match='says "Failure", which may be a full disk or a quota'):
            put(store, "packs/large", bytes(8 << 20))
        store.close()


# --- who is let in, and by whom -------------------------------------------------------------------------


def test_a_host_key_that_is_not_known_is_one_line_that_says_how_to_accept_it(
    server: SftpServer, tmp_path: Path
) -> None:
    (tmp_path / "known").write_text("")
    store = SftpStore(server.settings("/srv/x", known_hosts=tmp_path / "known"))
    with pytest.raises(StoreUnreachable) as raised:
        list(store.list(""))
    assert message_of(raised) == (
        f"cannot reach {server.url('/srv/x')}: its host key is not known here: compare it with the server's, and accept it with: "
        f"sftp -o UserKnownHostsFile={tmp_path}/known -P {server.port} root@127.0.0.1"
    )


def test_a_host_key_that_has_changed_is_one_line(server: SftpServer, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
    key = " ".join((tmp_path / "other.pub").read_text().split()[:2])
    (tmp_path / "known").write_text(f"[127.0.0.1]:{server.port} {key}\n")
    store = SftpStore(server.settings("/srv/x", known_hosts=tmp_path / "known"))
    with pytest.raises(StoreUnreachable) as raised:
        list(store.list(""))
    assert "its host key is another one than before" in message_of(raised)
    assert f"ssh-keygen -f {tmp_path}/known -R '[127.0.0.1]:{server.port}'" in message_of(raised)


def test_a_key_that_is_not_accepted_is_one_line(server: SftpServer, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
    store = SftpStore(server.settings("/srv/x", identity_file=tmp_path / "other"))
    with pytest.raises(StoreUnreachable, match="it accepts no key that ssh has here") as raised:
        list(store.list(""))
    assert "Permission denied (publickey)" in message_of(raised)


def test_a_key_that_cannot_be_read_is_one_line(server: SftpServer, tmp_path: Path) -> None:
    store = SftpStore(server.settings("/srv/x", identity_file=tmp_path / "none"))
    with pytest.raises(
        StoreUnreachable, match=r"cannot read identity_file .*/none: no such file or directory"
    ):
        list(store.list(""))


def test_a_password_is_told_for_its_own_account_only() -> None:
    password = "it's $(secret)"
    settings = StoreConfig(url="sftp://bob@backup.example.org/x", password=Secret(password))
    ssh = Ssh(remote_of(settings.url), settings)
    program = ssh._environment["SSH_ASKPASS"]
    assert password not in json.dumps(dict(ssh._environment))

    def answer(prompt: str) -> str:
        return subprocess.run([program, prompt], capture_output=True, text=True, check=False).stdout

    assert answer("bob@backup.example.org's password: ") == f"{password}\n"
    assert answer("(bob@backup.example.org) Password: ") == f"{password}\n"
    assert not answer("Enter passphrase for key '/root/.ssh/id_ed25519': ")
    assert not answer("Are you sure you want to continue connecting (yes/no/[fingerprint])? ")

    ssh._configured = {"user": "bob", "hostname": "backup.example.org", "proxyjump": "jump.example.org"}
    script = ssh._script(password)
    jumped = subprocess.run(
        ["sh", "-c", script, "sh", "eve@jump.example.org's password: "],
        capture_output=True,
        text=True,
        check=False,
    )
    assert not jumped.stdout


@pytest.mark.parametrize(
    ("url", "remote"),
    [
        ("sftp://nas/backups", Remote(None, "nas", None, "/backups")),
        ("sftp://u1@u1.your-storagebox.de:23/home/x/", Remote("u1", "u1.your-storagebox.de", 23, "/home/x")),
        ("sftp://Nas/~/backups", Remote(None, "Nas", None, "backups")),
        ("sftp://bob@[::1]:2222//srv/b%20c", Remote("bob", "::1", 2222, "/srv/b c")),
    ],
)
def test_where_a_url_leads(url: str, remote: Remote) -> None:
    assert remote_of(url) == remote
    assert remote_of(remote.url) == remote


@pytest.mark.parametrize(
    "url",
    ["sftp://", "sftp://nas", "sftp://nas/", "sftp://nas/~", "sftp://-oProxyCommand=x/y", "sftp://-l@nas/y", "sftp:///x",
     "sftp://nas:x/y", "sftp://nas/x?y", "sftp://bob:secret@nas/y"],
)  # fmt: skip
def test_a_url_that_leads_nowhere_is_one_line(url: str) -> None:
    with pytest.raises(UsageError) as raised:
        SftpStore(StoreConfig(url=url))
    assert "secret" not in message_of(raised)


def test_a_password_in_a_url_is_refused_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('[stores.nas]\nurl = "sftp://bob:secret@nas/x"\n')
    with pytest.raises(ConfigError, match="a URL is no place for a password") as raised:
        load_config(tmp_path / "c.toml")
    assert "secret" not in message_of(raised)


def test_keys_of_one_kind_of_store_are_refused_for_another(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('[stores.nas]\nurl = "/srv/x"\npassword_file = "/x"\n')
    with pytest.raises(ConfigError, match="password_file: it is for sftp:// only"):
        load_config(tmp_path / "c.toml")
    (tmp_path / "c.toml").write_text('[stores.nas]\nurl = "sftp://nas/x"\nregion = "x"\n')
    with pytest.raises(ConfigError, match="region: it is for s3:// only"):
        load_config(tmp_path / "c.toml")


# --- where no store is yet ---------------------------------------------------------------------------


def test_a_store_that_is_not_there_yet_is_tried_beside_where_it_is_to_be(
    server: SftpServer, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    for name in ("store", "deep/down/store"):
        store = SftpStore(server.settings(place / name), state=tmp_path / "state")
        assert store.probe().free_bytes
        assert list(place.iterdir()) == []
    with pytest.raises(StoreError, match=r"no store can be made at sftp://.*the server says") as raised:
        SftpStore(server.settings("/proc/nope")).probe()
    assert "to a new directory in /proc/: make the store's there, or name one" in message_of(raised)
    (place / "file").touch()
    with pytest.raises(StoreError, match="is not a directory"):
        SftpStore(server.settings(place / "file" / "store")).probe()


# --- what is left behind ----------------------------------------------------------------------------


def test_unfinished_files_of_other_machines_go_after_a_day(store: SftpStore, tmp_path: Path) -> None:
    put(store, "a", b"x")
    ours = store.create("b")
    there = tmp_path / "store" / ".tmp"
    for name, age in (("old.part", 2 * 86400), ("new.part", 3600), ("somebody's", 9 * 86400)):
        (there / name).write_bytes(b"x")
        when = there.stat().st_mtime - age
        os.utime(there / name, (when, when))
    assert store.abort_uploads() == 1
    assert {"new.part", "somebody's", ours.name} <= {each.name for each in there.iterdir()}
    assert not (there / "old.part").exists()
    ours.commit()
    assert [info.key for info in store.list("")] == ["a", "b"]


def test_thousands_of_objects_are_listed_with_few_waits(store: SftpStore, tmp_path: Path) -> None:
    put(store, "manifests/h/v0/x", b"x")
    for volume in range(20):
        directory = tmp_path / "store" / "manifests" / "h" / f"v{volume}"
        directory.mkdir(exist_ok=True)
        for number in range(250):
            (directory / f"{number:04}").write_bytes(b"")
    assert len(list(store.list("manifests/h/"))) == 5001
    assert len(list(store.list("manifests/h/v3/"))) == 250


# --- servers that say anything -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [b"\x65", b"\x65\0\0", b"\x66\xff\xff\xff\xff", b"\x68\0\0\0\x09\0\0\0\x01a", b"\x69\xff\xff\xff\xff"],
)
def test_a_packet_that_is_not_whole_is_no_packet(data: bytes) -> None:
    for look in (Reply.done, Reply.handle, Reply.data, Reply.attributes, Reply.entries):
        with pytest.raises((Garbled, Refused)):
            look(Reply(data))


@given(st.binary(min_size=1, max_size=300))
def test_whatever_comes_is_a_reply_or_none(data: bytes) -> None:
    for look in (Reply.done, Reply.handle, Reply.data, Reply.attributes, Reply.entries, extensions_of):
        with suppress(Garbled, Refused):
            look(Reply(data))


def test_a_machine_without_ssh_is_told_what_to_install(
    store: SftpStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StoreUnreachable, match=r"this machine has no ssh: install it \(openssh-client\)$"):
        list(store.list(""))


def test_what_is_no_sftp_server_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "sshd").mkdir()
    with openssh(tmp_path / "sshd", "/bin/echo Welcome to this machine") as server:
        with pytest.raises(
            StoreUnreachable, match=r"what it answers is not SFTP: it begins with 'Welc"
        ) as raised:
            list(SftpStore(server.settings("/x")).list(""))
        assert message_of(raised)


def test_a_server_is_written_and_read_as_slowly_as_its_limits_say(server: SftpServer, tmp_path: Path) -> None:
    settings = server.settings(tmp_path / "store", limit=Limit("16M"), limit_down=Limit("16M"))
    store = SftpStore(settings, throttle=throttle_of(settings))
    data = os.urandom(12 << 20)
    began = time.monotonic()
    put(store, "large", data)
    written = time.monotonic()
    assert get(store, "large") == data
    assert written - began > 0.45
    assert time.monotonic() - written > 0.45
