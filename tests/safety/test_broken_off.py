"""Directories of which a file system does not give all names, and says "no such file" instead, as only a server can: no backup without a word, and no
migration that takes names for deleted.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.parts.faults import fault
from tests.parts.local_helper import LocalHelper, LocalVolume
from tests.parts.mounts import mounted
from tests.safety.test_read_faults import present, stored
from volferry.archive.commands import NEW_TREE
from volferry.archive.excludes import CACHE_SIGNATURE, Excludes
from volferry.archive.names_script import names_command
from volferry.archive.probe_scripts import PROBE_NAME
from volferry.engine.image import host_root_filesystem
from volferry.errors import CommandFailed
from volferry.operations.restore import is_empty
from volferry.operations.same_data import holds_something

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.parts.fuse import Faults
    from volferry.operations.transfer import Transfer
    from volferry.repository import Repository

pytestmark = pytest.mark.usefixtures("trusting")

FILES = 150  # more than fit into one answer
# Before which name it says so: the first, the first but "." and "..", one in the middle of an answer, one that is in a later answer.
PLACES = [0, 2, 40, 140]


def fill(directory: Path, files: int = FILES) -> None:
    for each in range(files):
        (directory / f"file{each:03}").write_bytes(b"%d" % each)


@pytest.fixture
def below(tmp_path: Path) -> Path:
    below = tmp_path / "below"
    for place in ("", "dir", "dir/sub"):
        (below / place).mkdir()
        fill(below / place, 5)
    (below / "dir" / "zzz").mkdir()
    (below / "dir" / "zzz" / "leaf").write_text("leaf")
    (below / "link").symlink_to("target")
    return below


@pytest.mark.parametrize(
    ("place", "at", "number", "earlier"),
    [
        *(("dir", at, errno.ENOENT, False) for at in PLACES),
        *((place, 40, errno.ENOENT, True) for place in ("", "dir", "dir/sub")),
        ("", 2, errno.ENOENT, False),
        ("dir", 40, errno.EIO, True),
    ],
)
def test_a_directory_that_breaks_off_is_a_finding_whatever_is_said(
    repository: Repository,
    volume: LocalVolume,
    below: Path,
    faults: Faults,
    tmp_path: Path,
    place: str,
    at: int,
    number: int,
    earlier: bool,
) -> None:
    fill(below / place)
    there = present(below)
    if earlier:
        assert volume.back_up(repository).findings == ()
    faults.set(fault("readdir", number, f"/{place}", at))
    if not place and at <= 2:  # not one name of it
        with pytest.raises(CommandFailed, match="root directory could not be listed"):
            volume.back_up(repository)
        return
    for _ in range(2):  # the later one builds upon the other
        stats = volume.back_up(repository)
        (finding,) = stats.findings
        assert (finding.kind, finding.path.decode()) == ("unreadable", place)
        assert os.strerror(number).lower() in finding.detail
        kept = stored(repository, stats.ref, tmp_path / "spool")
        assert {name: there[name] for name in kept} == kept
        prefix = f"{place}/" if place else ""
        assert {name for name in there if not name.startswith(prefix)} <= kept.keys()
        listed = [name for name in kept if name.startswith(prefix) and "/" not in name[len(prefix) :]]
        assert len(listed) >= at - 2
    faults.set()
    healed = volume.back_up(repository)
    assert healed.findings == ()
    assert stored(repository, healed.ref, tmp_path / "spool") == there


@pytest.mark.parametrize("call", ["opendir", "readdir"])
def test_a_directory_that_cannot_be_opened_is_no_deleted_one(
    repository: Repository, volume: LocalVolume, faults: Faults, call: str
) -> None:
    faults.set(fault(call, errno.ENOENT, "/dir"))
    (finding,) = volume.back_up(repository).findings
    assert (finding.kind, finding.path) == ("unreadable", b"dir")


def test_directories_that_are_deleted_meanwhile_are_not_called_broken(
    monkeypatch: pytest.MonkeyPatch, repository: Repository, volume: LocalVolume, below: Path, tmp_path: Path
) -> None:
    real = LocalHelper.start

    def start(helper: LocalHelper, command: list[str], **more: Any) -> Any:
        if any("getdents" in part for part in command):
            shutil.rmtree(below / "dir", ignore_errors=True)
        return real(helper, command, **more)

    monkeypatch.setattr(LocalHelper, "start", start)
    stats = volume.back_up(repository)
    assert {finding.kind for finding in stats.findings} == {"vanished"}
    assert stored(repository, stats.ref, tmp_path / "spool").keys() >= {"file000", "link"}


@pytest.fixture
def on_asking(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], list[list[str]]]:
    """Makes something happen between a listing and the question for the names; returns the listings' commands."""

    def set_up(happens: Callable[[], object]) -> list[list[str]]:
        real, listings = LocalHelper.start, []

        def start(helper: LocalHelper, command: list[str], **more: Any) -> Any:
            if any("falls_short" in part for part in command):
                happens()
            elif any("///status" in part for part in command):
                listings.append(command)
            return real(helper, command, **more)

        monkeypatch.setattr(LocalHelper, "start", start)
        return listings

    return set_up


@pytest.mark.parametrize(
    ("place", "at"), [*(("dir", at) for at in PLACES), *((place, 40) for place in ("", "dir/sub")), ("", 2)]
)
@pytest.mark.parametrize("call", ["readdir", "end"])
def test_names_that_are_denied_once_are_listed(
    repository: Repository,
    volume: LocalVolume,
    below: Path,
    faults: Faults,
    tmp_path: Path,
    on_asking: Callable[[Callable[[], object]], list[list[str]]],
    place: str,
    at: int,
    call: str,
) -> None:
    fill(below / place)
    faults.set(fault(call, errno.ENOENT, f"/{place}", at))
    listings = on_asking(faults.set)
    stats = volume.back_up(repository)
    assert stats.findings == ()
    assert stored(repository, stats.ref, tmp_path / "spool") == present(below)
    assert len(listings) == 2


def test_a_directory_that_is_listed_short_again_is_a_finding(
    monkeypatch: pytest.MonkeyPatch,
    repository: Repository,
    volume: LocalVolume,
    below: Path,
    faults: Faults,
    tmp_path: Path,
) -> None:
    fill(below / "dir")
    real = LocalHelper.start

    def start(helper: LocalHelper, command: list[str], **more: Any) -> Any:
        if any("///status" in part for part in command):
            faults.set(fault("end", 0, "/dir", 40))
        elif any("falls_short" in part for part in command):
            faults.set()
        return real(helper, command, **more)

    monkeypatch.setattr(LocalHelper, "start", start)
    stats = volume.back_up(repository)
    (finding,) = stats.findings
    assert (finding.kind, finding.path) == ("unreadable", b"dir")
    assert "fewer names than it has" in finding.detail
    assert stored(repository, stats.ref, tmp_path / "spool").keys() >= {"dir/file000", "link"}
    monkeypatch.setattr(LocalHelper, "start", real)
    healed = volume.back_up(repository)
    assert healed.findings == ()
    assert stored(repository, healed.ref, tmp_path / "spool") == present(below)


def test_a_directory_that_is_made_anew_meanwhile_is_not_called_broken(
    repository: Repository,
    volume: LocalVolume,
    below: Path,
    on_asking: Callable[[Callable[[], object]], list[list[str]]],
) -> None:
    again = threading.Timer(0.7, fill_anew, [below / "dir"])

    def remove() -> None:
        shutil.rmtree(below / "dir")
        again.start()

    on_asking(remove)
    stats = volume.back_up(repository)
    again.join()
    assert {finding.kind for finding in stats.findings} <= {"vanished", "torn"}


def fill_anew(directory: Path) -> None:
    directory.mkdir()
    fill(directory, 10)


@pytest.mark.parametrize("still", [False, True])
def test_names_that_come_meanwhile_are_no_reason_to_list_again(
    repository: Repository,
    volume: LocalVolume,
    below: Path,
    faults: Faults,
    on_asking: Callable[[Callable[[], object]], list[list[str]]],
    still: bool,
) -> None:
    """Nor where the times of directories do not tell, as where several directories are shown as one."""
    if still:
        faults.set(fault("still", 1_000_000_000, "/dir"))
        time.sleep(1.1)  # the kernel believes what it was told for a second
    listings = on_asking(lambda: fill(below / "dir", 20))
    assert volume.back_up(repository).findings == ()
    assert len(listings) == 1


def test_names_that_are_listed_and_left_out_are_not_missed(
    repository: Repository,
    volume: LocalVolume,
    below: Path,
    on_asking: Callable[[Callable[[], object]], list[list[str]]],
) -> None:
    for name in ("dir/sub/a.log", "b.log"):
        (below / name).write_text(name)
    for name in ("cache", "dir/cache", "dir/walked but excluded", NEW_TREE):
        (below / name).mkdir()
        fill(below / name, 3)
    (below / "cache" / "CACHEDIR.TAG").write_bytes(CACHE_SIGNATURE)
    os.link(below / "b.log", below / "dir" / "another")
    os.mknod(
        below / "dir" / "socket", stat.S_IFSOCK | 0o644
    )  # whose path may be long, which no program could bind
    volume.settings["excludes"] = Excludes(("*.log", "dir/cache", "walked?but excluded"), caches=True)
    listings = on_asking(lambda: None)
    assert volume.back_up(repository).findings == ()
    assert len(listings) == 1


def test_a_directory_that_contains_itself_is_listed_once(
    repository: Repository,
    volume: LocalVolume,
    below: Path,
    on_asking: Callable[[Callable[[], object]], list[list[str]]],
) -> None:
    (below / "dir" / "loop").mkdir()
    listings = on_asking(lambda: None)
    with mounted(volume.data / "dir" / "loop", "--bind", str(volume.data)):
        (finding,) = volume.back_up(repository).findings
    assert (finding.kind, finding.path) == ("unreadable", b"dir/loop")
    assert len(listings) == 1


def test_what_is_excluded_is_not_looked_into(
    repository: Repository, volume: LocalVolume, faults: Faults
) -> None:
    faults.set(fault("readdir", errno.ENOENT, "/dir/sub", 40))
    volume.settings["excludes"] = Excludes(("dir/sub",))
    assert volume.back_up(repository).findings == ()


@pytest.mark.parametrize("at", [2, 40])
def test_a_migration_takes_no_name_for_deleted_that_was_not_given(
    transfer: Transfer, below: Path, faults: Faults, tmp_path: Path, at: int
) -> None:
    fill(below / "dir", 60)
    transfer.run()
    assert present(tmp_path / "target") == present(below)
    faults.set(fault("readdir", errno.ENOENT, "/dir", at))
    with pytest.raises(CommandFailed, match="'dir' could not be listed to its end"):
        transfer.run(last=True)
    with pytest.raises(CommandFailed, match="'dir' could not be listed to its end"):
        transfer.check(checksum=False)
    assert present(tmp_path / "target") == present(below)


def test_a_migration_brings_names_that_were_denied_once(
    transfer: Transfer,
    below: Path,
    faults: Faults,
    tmp_path: Path,
    on_asking: Callable[[Callable[[], object]], list[list[str]]],
) -> None:
    fill(below / "dir", 60)
    faults.set(fault("readdir", errno.ENOENT, "/dir", 40))
    on_asking(faults.set)
    transfer.run()
    assert present(tmp_path / "target") == present(below)


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EIO])
@pytest.mark.parametrize("call", ["opendir", "readdir"])
def test_a_volume_that_does_not_give_its_names_is_not_taken_for_an_empty_one(
    volume: LocalVolume, below: Path, faults: Faults, tmp_path: Path, call: str, number: int
) -> None:
    helper = cast("Any", LocalHelper(volume.data, tmp_path))
    try:
        assert not is_empty(helper, "")
        faults.set(fault(call, number, "/"))
        with pytest.raises(CommandFailed, match="looking into the volume failed: "):
            is_empty(helper, "")
        with pytest.raises(CommandFailed, match="looking into the volume failed: "):
            holds_something(helper, helper.directory(""))
        faults.set(fault("inode", 0, ""))
        assert not is_empty(helper, "")
        assert holds_something(helper, helper.directory(""))
        for each in below.iterdir():
            shutil.rmtree(each) if each.is_dir() and not each.is_symlink() else each.unlink()
        assert is_empty(helper, "")
        assert not holds_something(helper, helper.directory(""))
        faults.set()
        (below / f"{PROBE_NAME}x").touch()
        assert not holds_something(helper, helper.directory(""))
    finally:
        helper.end()


def test_the_image_that_is_made_of_the_machines_programs_can_ask(tmp_path: Path) -> None:
    """As it is in the helper: with nothing around it."""
    subprocess.run(["tar", "-x"], input=host_root_filesystem(), cwd=tmp_path, check=True)
    done = subprocess.run(
        ["chroot", tmp_path, *names_command("/")],
        input=b"9 - - \x009 - - opt\x009 - - missing\0",
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, b"", b"")


def test_a_question_that_gets_no_answer_is_no_good_one(
    monkeypatch: pytest.MonkeyPatch, repository: Repository, volume: LocalVolume
) -> None:
    """Of scripts that say only what is wrong, one that was killed would have found nothing."""
    real = LocalHelper.start
    for script in ("falls_short", "any_at(file, size)"):

        def start(helper: LocalHelper, command: list[str], *, script: str = script, **more: Any) -> Any:
            killed = any(script in part for part in command)
            return real(helper, ["sh", "-c", "kill -9 $$"] if killed else command, **more)

        monkeypatch.setattr(LocalHelper, "start", start)
        with pytest.raises(CommandFailed, match="failed: status -9"):
            volume.back_up(repository)
    assert list(repository.refs()) == []
