"""Backups on an SFTP server, as a user has them."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.parts.sftp_servers import openssh
from tests.parts.trees import assert_same, snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.parts.sftp_servers import SftpServer, SftpServers
    from tests.parts.world import World


def named(server: SftpServer, directory: Path | str) -> dict[str, str]:
    return {
        "VOLFERRY_STORES__NAS__URL": server.url(directory),
        "VOLFERRY_STORES__NAS__IDENTITY_FILE": str(server.key),
        "VOLFERRY_STORES__NAS__KNOWN_HOSTS": str(server.known_hosts),
    }


def has_much(directory: Path) -> bool:
    """Whether an unfinished object has some of its bytes there."""
    try:
        return any(each.stat().st_size > 1 << 20 for each in directory.glob("*.part"))
    except FileNotFoundError:  # one that was small, and is gone by now
        return False


def test_a_volume_is_backed_up_to_a_server_and_restored(
    world: World, sftp_server: SftpServers, tmp_path: Path
) -> None:
    server = sftp_server("openssh")
    cli = world.cli.having(VOLFERRY_STORE=server.url(tmp_path / "nas"), PATH=server.environment["PATH"])
    volume = world.filled()
    (world.data(volume) / "noise").write_bytes(os.urandom(20 << 20))
    cli("backup", volume).exits(0)
    (world.data(volume) / "more").write_text("more")
    assert cli("backup", volume, "--json").exits(0).json["backups"][0]["stored_bytes"] < 1 << 20
    assert "1 backup good, 0 hurt" in cli("verify", volume, "--read").exits(0).stdout
    # What lies there is a local store.
    assert world.cli("list", "--store", str(tmp_path / "nas"), "--json").exits(0).stdout.count('"id"') == 2
    cli("restore", volume, "--into", "from-server").exits(0)
    assert_same(snapshot(world.data(volume)), snapshot(world.data("from-server")))
    world.remove("from-server")
    assert f"ok    store: {server.url(tmp_path / 'nas')}: 2 backups, " in cli("doctor").stdout
    nowhere = cli("doctor", "--store", server.url("/proc/nope")).exits(1)
    assert f"FAIL  store: no store can be made at {server.url('/proc/nope')}" in nowhere.stdout


def test_a_copy_on_a_server_and_back(world: World, sftp_server: SftpServers, tmp_path: Path) -> None:
    server = sftp_server("plain")
    cli = world.cli.having(PATH=server.environment["PATH"])
    volume = world.filled()
    cli.backup(volume)
    url = server.url(tmp_path / "nas")
    cli("copy", "--to", url).exits(0)
    cli("restore", volume, "--store", url, "--into", "from-copy").exits(0)
    assert_same(snapshot(world.data(volume)), snapshot(world.data("from-copy")))
    world.remove("from-copy")


def test_what_is_interrupted_leaves_nothing_there(
    world: World, sftp_server: SftpServers, tmp_path: Path
) -> None:
    server = sftp_server("openssh")
    cli = world.cli.having(VOLFERRY_STORE=server.url(tmp_path / "nas"), PATH=server.environment["PATH"])
    volume = world.filled()
    (world.data(volume) / "noise").write_bytes(os.urandom(60 << 20))
    running = cli.start("backup", volume)
    there = tmp_path / "nas" / ".tmp"
    assert running.until(lambda: has_much(there))
    running.send(signal.SIGINT)
    running.outcome().exits(130)
    assert list(there.iterdir()) == []
    cli("backup", volume).exits(0)


@pytest.fixture(scope="module")
def writer_account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SftpServer]:
    """Locked into a directory of its own, in which it can delete nothing and rename over nothing."""
    with tempfile.TemporaryDirectory(dir="/run", prefix="volferry-sftp-") as found:
        jail = Path(found)
        jail.chmod(0o755)  # else sshd does not take it
        (jail / "backups").mkdir()
        more = f"ChrootDirectory {jail}\nForceCommand internal-sftp -P remove,rmdir,posix-rename,setstat,fsetstat\n"
        with openssh(tmp_path_factory.mktemp("writer"), "internal-sftp", more) as server:
            yield server


def test_an_account_that_may_not_delete_backs_up_and_restores_and_prune_says_so(
    world: World, writer_account: SftpServer
) -> None:
    cli = world.cli.having(
        **named(writer_account, "/backups/x"),
        VOLFERRY_STORES__NAS__KEEP='{"last": 1}',
        VOLFERRY_PRUNE__GRACE="0h",
        VOLFERRY_STORE="nas",
    )
    volume = world.filled()
    for number in range(2):
        (world.data(volume) / "one").write_bytes(os.urandom(100_000) * (number + 1))
        cli("backup", volume, "--quiesce", "stop").exits(0)
    cli("restore", volume, "--into", "from-jail").exits(0)
    assert_same(snapshot(world.data(volume)), snapshot(world.data("from-jail")))
    world.remove("from-jail")
    pruned = cli("prune", "--json").exits(0)
    assert "this account may not delete it" in pruned.stderr
    assert pruned.json["freed_bytes"] == 0
    assert cli("list", "--json").exits(0).stdout.count('"id"') == 2
    cli("forget", f"{volume}@{cli('list', '--json').exits(0).json['backups'][0]['id']}").fails_with(
        "this account may not delete it"
    )
    assert "this account may not delete" in cli("doctor").stdout
