"""Accounts on SFTP servers that may do little."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.contract.test_sftp import message_of
from tests.parts.sftp_servers import openssh
from volferry.errors import DeletionDenied, ObjectExists, StoreError
from volferry.stores.base import get, put
from volferry.stores.sftp import SftpStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.parts.sftp_servers import SftpServer


@pytest.fixture(scope="module")
def jail() -> Iterator[Path]:
    """A directory that sshd takes for a root: nobody else may write to it, nor to what is above it."""
    with tempfile.TemporaryDirectory(dir="/run", prefix="volferry-sftp-") as found:
        Path(found).chmod(0o755)
        (Path(found) / "backups").mkdir()
        yield Path(found)


@pytest.fixture(scope="module")
def writer_account(jail: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SftpServer]:
    """In a jail, and it may neither delete nor rename over what is there."""
    more = (
        f"ChrootDirectory {jail}\nForceCommand internal-sftp -P remove,rmdir,posix-rename,setstat,fsetstat\n"
    )
    # The server's own look whether it runs needs a shell, of which there is none in a jail.
    with openssh(tmp_path_factory.mktemp("writer"), "internal-sftp", more) as found:
        yield found


def test_an_account_that_may_not_delete_writes_and_reads(
    writer_account: SftpServer, tmp_path: Path, jail: Path
) -> None:
    store = SftpStore(writer_account.settings("/backups/store"), state=tmp_path / "state")
    assert "this account may not delete: the trial's directory" in " ".join(store.probe().lacks)
    assert [each.name[:17] for each in (jail / "backups").iterdir()] == [".volferry-doctor-"]
    data = os.urandom(3 << 20)
    put(store, "packs/a", data)
    assert get(store, "packs/a") == data
    assert (jail / "backups/store/packs/a").read_bytes() == data
    with pytest.raises(ObjectExists):
        put(store, "packs/a", b"other")
    with pytest.raises(DeletionDenied) as raised:
        store.delete("packs/a")
    assert message_of(raised) == (
        f"packs/a in the store {writer_account.url('/backups/store')} stays: this account may not delete it "
        '(the server says "Permission denied")'
    )
    with pytest.raises(DeletionDenied, match="may not rename over it"):
        store.replace("packs/a", b"other")
    assert get(store, "packs/a") == data
    assert [info.key for info in store.list("")] == ["packs/a"]
    assert "this account may not delete" in " ".join(store.probe().lacks)


def test_an_account_that_may_not_rename_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    (tmp_path / "sshd").mkdir()
    with openssh(tmp_path / "sshd", "internal-sftp -P rename,hardlink,posix-rename") as server:
        store = SftpStore(server.settings(tmp_path / "store"))
        with pytest.raises(
            StoreError, match=r"the server refuses to rename .*let this account rename"
        ) as raised:
            store.create("packs/a")
        assert message_of(raised)
        with pytest.raises(StoreError, match="refuses to rename"):
            store.probe()
        with pytest.raises(StoreError, match="refuses to rename"):
            SftpStore(server.settings(tmp_path / "none")).probe()
        store.close()


def test_where_renaming_is_denied_links_give_names(tmp_path: Path) -> None:
    (tmp_path / "sshd").mkdir()
    with openssh(tmp_path / "sshd", "internal-sftp -P rename") as server:
        store = SftpStore(server.settings(tmp_path / "store"))
        put(store, "a", b"x")
        with pytest.raises(ObjectExists):
            put(store, "a", b"y")
        assert get(store, "a") == b"x"
        assert list((tmp_path / "store" / ".tmp").iterdir()) == []
        store.close()


def test_the_least_that_a_list_of_allowed_requests_needs_is_enough(tmp_path: Path) -> None:
    """As docs/sftp.md has it."""
    (tmp_path / "sshd").mkdir()
    least = "open,close,read,write,lstat,stat,opendir,readdir,mkdir,rename"
    assert f"internal-sftp -p {least}\n" in Path("docs/sftp.md").read_text()
    with openssh(tmp_path / "sshd", f"internal-sftp -p {least}") as server:
        store = SftpStore(server.settings(tmp_path / "store"))
        data = os.urandom(1 << 20)
        put(store, "packs/a", data)
        assert get(store, "packs/a") == data
        with pytest.raises(ObjectExists):
            put(store, "packs/a", b"y")
        assert [info.key for info in store.list("")] == ["packs/a"]
        assert store.now().tzinfo
        assert "this account may not delete" in " ".join(store.probe().lacks)
        assert store.abort_uploads() == 0
        store.close()


def test_a_writer_whose_account_may_not_ask_by_the_handle_goes_on_when_its_connection_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("volferry.stores.sftp_client._FIRST_PAUSE_SECONDS", 0)
    (tmp_path / "sshd").mkdir()
    with openssh(tmp_path / "sshd", "internal-sftp -P fstat") as server:
        store = SftpStore(server.settings(tmp_path / "store"))
        assert server.sshd is not None
        data = os.urandom(40 << 20)
        writer = store.create("packs/a")
        writer.write(data[: 36 << 20])
        server.sshd.cut()
        writer.write(data[36 << 20 :])
        writer.commit()
        assert get(store, "packs/a") == data
        store.close()


def test_a_request_that_is_refused_is_named(tmp_path: Path) -> None:
    (tmp_path / "sshd").mkdir()
    with openssh(tmp_path / "sshd", "internal-sftp -P mkdir,opendir") as server:
        (tmp_path / "store").mkdir()
        store = SftpStore(server.settings(tmp_path / "store"))
        end = "check what this account may do there"
        with pytest.raises(StoreError, match=f'the server says "Permission denied" to "mkdir": {end}'):
            put(store, "a", b"x")
        with pytest.raises(StoreError, match=f'the server says "Permission denied" to "opendir": {end}'):
            list(store.list(""))
        store.close()
