"""Directories that call what is in them something else, or give names without an inode number, as only a server can: programs do not go into the one, and do not see
the other.
"""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.parts.faults import fault
from tests.parts.local_helper import LocalHelper, LocalVolume
from tests.safety.test_read_faults import present, stored
from volferry.archive.commands import NEW_TREE, list_command
from volferry.archive.excludes import Excludes
from volferry.archive.findlog import FindLog
from volferry.archive.listing import ListingReader
from volferry.engine.image import host_root_filesystem

if TYPE_CHECKING:
    from pathlib import Path

    from tests.parts.fuse import Faults
    from volferry.operations.transfer import Transfer
    from volferry.repository import Repository

pytestmark = pytest.mark.usefixtures("trusting")

# As in dirent.h.
FIFO, DIRECTORY, REGULAR, SYMLINK = 1, 4, 8, 10
LIES = [
    *((fault("kind", kind, end),) for kind in (REGULAR, SYMLINK, FIFO) for end in ("/dir", "/sub")),
    (fault("kind", REGULAR, ""),),  # of all that is there
    (fault("kind", REGULAR, "/dir"), fault("kind", FIFO, "/zzz")),
    (fault("inode", 0, "/leaf"),),
    (fault("inode", 0, "/sub"),),
    (fault("inode", 0, ""),),
]


@pytest.fixture
def below(tmp_path: Path) -> Path:
    below = tmp_path / "below"
    (below / "dir" / "sub" / "deep").mkdir(parents=True)
    (below / "dir" / "zzz").mkdir()
    (below / "empty").mkdir()
    for name in ("aaa", "dir/file", "dir/sub/leaf", "dir/sub/deep/leaf", "dir/zzz/odd ' one\n", "zzz"):
        (below / name).write_text(name)
    (below / "link").symlink_to("target")
    return below


@pytest.mark.parametrize("lies", LIES)
def test_what_programs_do_not_see_is_backed_up(
    repository: Repository,
    volume: LocalVolume,
    below: Path,
    faults: Faults,
    tmp_path: Path,
    lies: tuple[str, ...],
) -> None:
    faults.set(*lies)
    for _ in range(2):
        stats = volume.back_up(repository)
        assert stats.findings == ()
        assert stored(repository, stats.ref, tmp_path / "spool") == present(below)
        (below / "dir" / "sub" / "deep" / "leaf").write_text("another")
    faults.set()
    assert volume.back_up(repository).findings == ()


def test_what_has_an_error_there_is_unreadable(
    repository: Repository, volume: LocalVolume, below: Path, faults: Faults, tmp_path: Path
) -> None:
    there = present(below)
    faults.set(
        fault("kind", REGULAR, ""),
        fault("readdir", errno.ENOENT, "/deep"),
        fault("lookup", errno.EIO, "/leaf"),
        fault("readlink", errno.EIO, "/link"),
    )
    stats = volume.back_up(repository)
    assert {(each.kind, each.path) for each in stats.findings} == {
        ("unreadable", b"dir/sub/deep"),
        ("unreadable", b"dir/sub/leaf"),
        ("unreadable", b"link"),
    }
    kept = stored(repository, stats.ref, tmp_path / "spool")
    lost = {"dir/sub/deep/leaf", "dir/sub/leaf", "link"}
    assert kept == {name: value for name, value in there.items() if name not in lost}


def test_what_is_excluded_stays_excluded(
    repository: Repository, volume: LocalVolume, faults: Faults, tmp_path: Path
) -> None:
    volume.settings["excludes"] = Excludes(("dir/sub/*", "zzz/"))
    faults.set(fault("kind", REGULAR, "/sub"))
    stats = volume.back_up(repository)
    assert stats.findings == ()
    kept = stored(repository, stats.ref, tmp_path / "spool").keys()
    assert {"aaa", "dir/sub", "zzz"} <= kept
    assert not {"dir/zzz", "dir/sub/leaf"} & kept


def test_a_migration_brings_what_programs_do_not_see(
    transfer: Transfer, below: Path, faults: Faults, tmp_path: Path
) -> None:
    faults.set(fault("kind", REGULAR, ""))
    transfer.run()
    (below / "dir" / "sub" / "new").write_text("new")
    transfer.run(last=True)
    transfer.check(checksum=False)
    assert present(tmp_path / "target") == present(below)


def test_a_walk_that_trusts_nothing_lists_what_find_lists(below: Path, tmp_path: Path) -> None:
    for name, size in (("hole", 5 << 20), ("odd", 2047 * 512), ("even", 2047 * 512 + 1)):
        with (below / name).open("wb") as file:
            file.write(b"x" * 10_000)
            file.truncate(size)
    os.mkfifo(below / "fifo", 0o000)
    os.mknod(below / "device", 0o20644, os.makedev(1, 3))
    os.link(below / "aaa", below / "dir" / "aaa")
    os.link(below / "link", below / "dir" / "link")
    (below / os.fsdecode(b"\xff\n'\\")).mkdir(mode=0o1777)
    (below / NEW_TREE / "not walked").mkdir(parents=True)
    os.utime(below / "aaa", ns=(0, -1_500_000_000))
    os.mknod(below / "socket", stat.S_IFSOCK | 0o644)  # whose path may be long, which no program could bind
    listed = []
    for distrusted in (False, True):
        command = list_command(str(below), str(tmp_path), not_walked=[r"\./dir/sub"], distrusted=distrusted)
        helper = LocalHelper(below, tmp_path)
        log = FindLog()
        process = helper.start(command, on_stderr=log.line)
        output = b""
        while more := process.read(1 << 16):
            output += more
        assert (process.wait(), log.findings, log.unexplained) == (0, {}, [])
        helper.end()
        listed.append(output)
    assert listed[0] == listed[1]
    assert len(list(ListingReader([listed[0]]).records())) > 15


def test_the_image_that_is_made_of_the_machines_programs_can_walk(tmp_path: Path) -> None:
    """As it is in the helper: with nothing around it."""
    subprocess.run(["tar", "-x"], input=host_root_filesystem(), cwd=tmp_path, check=True)
    (tmp_path / "volume" / "sub").mkdir(parents=True)
    (tmp_path / "dev").mkdir(exist_ok=True)
    (tmp_path / "dev" / "null").touch()
    listed = [
        subprocess.run(
            ["chroot", tmp_path, *list_command("/volume", "/spool", distrusted=distrusted)],
            capture_output=True,
            check=True,
        )
        for distrusted in (False, True)
    ]
    assert (listed[1].stdout, listed[1].stderr) == (listed[0].stdout, b"")
