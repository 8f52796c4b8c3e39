"""What a script of the helper fails of is told in plain words."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.parts.local_helper import LocalHelper, LocalVolume
from tests.parts.mounts import mounted
from volferry.archive import exchange_scripts, patch_scripts, tree_scripts
from volferry.errors import CommandFailed
from volferry.observer import Silent
from volferry.operations.backup_reader import BackupReader
from volferry.operations.restore_beside import restore_beside
from volferry.repository import Repository
from volferry.stores.local import LocalStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize("state", ["full", "read-only"])
def test_a_restore_beside_says_why_it_cannot_be_begun(tmp_path: Path, state: str) -> None:
    source, spool = tmp_path / "source", tmp_path / "spool"
    for each in (source, spool):
        each.mkdir()
    (source / "file").write_text("content")
    repository, _ = Repository.open_or_create(LocalStore(tmp_path / "store"))
    stats = LocalVolume(source, tmp_path / "state").back_up(repository)
    options = "nr_inodes=2" if state == "full" else "ro"
    reason = "no space left on device" if state == "full" else "read-only file system"
    with mounted(tmp_path / "target", "-t", "tmpfs", "-o", options, "tmpfs") as target:
        if state == "full":
            (target / "old").touch()
        helper = LocalHelper(target, spool)
        backup = BackupReader(repository, stats.ref, spool=spool)
        try:
            with pytest.raises(CommandFailed) as raised:
                restore_beside(backup, "v", helper=cast("Any", helper), observer=Silent())
        finally:
            helper.end()
    assert re.fullmatch(
        rf"making a directory in the volume failed: {reason}: '.*\.volferry-restore-new'", str(raised.value)
    )


COMMANDS: dict[str, Callable[[str], list[str]]] = {
    "new tree": exchange_scripts.make_new_tree_command,
    "time": lambda directory: exchange_scripts.set_time_command(directory, 5),
    "exchange": exchange_scripts.exchange_command,
    "clear": tree_scripts.clear_command,
    "digest": tree_scripts.digest_command,
    "room": tree_scripts.room_command,
    "begin": lambda directory: tree_scripts.begin_command(directory, b"x"),
    "any data": lambda directory: tree_scripts.any_data_command(directory, "ext4"),
    "fingerprint": patch_scripts.fingerprint_command,
    "changed": patch_scripts.changed_command,
    "patch": patch_scripts.patch_command,
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_script_says_that_its_directory_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(tree_scripts, "PYTHON", sys.executable)
    place = str(tmp_path / "nowhere")
    done = subprocess.run(COMMANDS[name](place), input=b"", capture_output=True, check=False)
    assert done.returncode == 1
    (said,) = done.stderr.decode().splitlines()
    assert re.fullmatch(rf"no such file or directory: '{place}.*'", said)
