"""Files whose reads are said to be interrupted, each time: programs read them again, for ever."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.parts import local_helper
from tests.parts.faults import built_library, environment, fault
from tests.parts.local_helper import LocalVolume
from tests.safety.test_early_ends import Warm
from tests.safety.test_read_faults import present, stored
from volferry.archive import patch_scripts, tree_scripts
from volferry.archive.blocks import CONTENT_SCRIPT
from volferry.archive.commands import READ_AGAIN, create_command
from volferry.errors import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.parts.fuse import Faults
    from volferry.operations.transfer import Transfer
    from volferry.repository import Repository

pytestmark = pytest.mark.usefixtures("trusting")

SIZE = 3 << 20


@pytest.fixture
def below(tmp_path: Path) -> Path:
    below = tmp_path / "below"
    (below / "dir").mkdir(parents=True)
    for name in ("aaa", "dir/odd one", "dir/odder", "dir/zzz", "other"):
        (below / name).write_bytes(os.urandom(SIZE if "odd" in name else 10_000))
    return below


def interrupted(name: str, offset: int = 0) -> str:
    return fault("read", errno.EINTR, name, offset)


class Still:
    """It is counted how often it begins, and ends."""

    mode = "stop"
    warm = False
    downtime_seconds = 0.0

    def __init__(self) -> None:
        self.said: list[str] = []

    def begin(self) -> None:
        self.said.append("begin")

    def findings(self) -> list[Any]:
        return []

    def end(self) -> None:
        if self.said[-1:] != ["end"]:
            self.said.append("end")


@pytest.mark.parametrize("offset", [0, 2 << 20])
def test_a_file_that_never_ends_costs_only_itself(
    monkeypatch: pytest.MonkeyPatch,
    repository: Repository,
    volume: LocalVolume,
    below: Path,
    faults: Faults,
    tmp_path: Path,
    offset: int,
) -> None:
    still = Still()
    monkeypatch.setattr(local_helper, "MOVING", still)
    faults.set(interrupted("one", offset), interrupted("odder", offset))
    stats = volume.back_up(repository)
    assert still.said == ["begin", "end"]
    assert sorted((each.kind, each.path) for each in stats.findings) == [
        ("unreadable", b"dir/odd one"),
        ("unreadable", b"dir/odder"),
    ]
    expected, kept = present(below), stored(repository, stats.ref, tmp_path / "spool")
    good = offset - (offset >> 3)  # of what the kernel reads ahead, it gives nothing
    for name in ("dir/odd one", "dir/odder"):
        begin = kept.pop(name, b"")[:good]
        assert expected.pop(name).startswith(begin)
        assert bool(begin) == bool(offset)
    assert kept == expected
    faults.set()
    healed = volume.back_up(repository)
    assert healed.findings == ()
    assert stored(repository, healed.ref, tmp_path / "spool") == present(below)


def test_one_with_holes_and_several_names_costs_only_itself(
    repository: Repository, volume: LocalVolume, below: Path, faults: Faults
) -> None:
    """It is read by a `tar` of its own."""
    with (below / "bad").open("wb") as file:
        file.write(os.urandom(50_000))
        file.seek(19_000_000)
        file.write(b"end")
    for name in ("dir/bad", "zbad"):
        os.link(below / "bad", below / name)
    faults.set(interrupted("bad"))
    stats = volume.back_up(repository)
    assert sorted((each.kind, each.path) for each in stats.findings) == [
        ("unreadable", b"bad"),
        ("unreadable", b"dir/bad"),
        ("unreadable", b"zbad"),
    ]


def test_it_is_left_out_whatever_it_is_called(
    repository: Repository, volume: LocalVolume, below: Path, faults: Faults, tmp_path: Path
) -> None:
    every = bytes(byte for byte in range(1, 256) if byte not in b"/end")
    directory = os.fsencode(below) + b"/two\nlines\n"
    os.mkdir(directory)  # noqa: PTH102 -- bytes
    with open(directory + b"/" + every + b"end", "wb") as file:  # noqa: PTH123
        file.write(b"content")
    faults.set(interrupted("end"))
    stats = volume.back_up(repository)
    assert [(each.kind, each.path) for each in stats.findings] == [
        ("unreadable", b"two\nlines\n/" + every + b"end")
    ]
    assert stored(repository, stats.ref, tmp_path / "spool").keys() >= {"aaa", "other"}


def test_packs_of_what_was_read_before_it_are_used(
    repository: Repository, volume: LocalVolume, below: Path, faults: Faults, tmp_path: Path
) -> None:
    (below / "aa").write_bytes(os.urandom(8 << 20))
    volume.pack_bytes = 1 << 20
    faults.set(interrupted("odder"))
    stats = volume.back_up(repository)
    assert [each.path for each in stats.findings] == [b"dir/odder"]
    assert volume.notes == []  # it goes on from its own packs, not from those of a run that was interrupted
    expected = present(below)
    del expected["dir/odder"]
    assert stored(repository, stats.ref, tmp_path / "spool") == expected


def test_a_warm_backup_leaves_it_out_of_both_passes(
    monkeypatch: pytest.MonkeyPatch,
    repository: Repository,
    volume: LocalVolume,
    below: Path,
    faults: Faults,
    tmp_path: Path,
) -> None:
    def between() -> None:
        (below / "other").write_bytes(b"changed")
        faults.set(interrupted("odder"), interrupted("zzz"))
        (below / "dir" / "zzz").write_bytes(b"changed as well")

    faults.set(interrupted("odder"))
    monkeypatch.setattr(local_helper, "MOVING", Warm(between))
    stats = volume.back_up(repository)
    assert sorted(each.path for each in stats.findings) == [b"dir/odder", b"dir/zzz"]
    expected = present(below)
    del expected["dir/odder"], expected["dir/zzz"]
    assert stored(repository, stats.ref, tmp_path / "spool") == expected


@pytest.mark.parametrize("offset", [0, 1, 5 << 20])
@pytest.mark.parametrize("call", ["read", "open"])
def test_a_large_file_that_changed_in_places_does_not_hold_up_the_second_pass(
    monkeypatch: pytest.MonkeyPatch,
    repository: Repository,
    volume: LocalVolume,
    below: Path,
    faults: Faults,
    tmp_path: Path,
    call: str,
    offset: int,
) -> None:
    """Nor its header, which `tar` gives."""

    def between() -> None:
        with large.open("r+b") as file:
            file.write(b"changed")
        faults.set(fault(call, errno.EINTR, "/large", offset if call == "read" else 0))

    large = below / "dir" / "large"
    large.write_bytes(os.urandom(9 << 20))
    monkeypatch.setattr(local_helper, "MOVING", Warm(between))
    stats = volume.back_up(repository)
    assert [(each.kind, each.path) for each in stats.findings] == [("unreadable", b"dir/large")]
    expected, kept = present(below), stored(repository, stats.ref, tmp_path / "spool")
    assert (
        expected.pop("dir/large")[: 4 << 20 if offset > 1 and call == "read" else 0]
        == kept.pop("dir/large", b"")[: 4 << 20]
    )
    assert kept == expected


def _asked(path: bytes, *numbers: int) -> bytes:
    return len(path).to_bytes(4, "big") + path + b"".join(each.to_bytes(8, "big") for each in numbers)


PATH = b"dir/odd one"
SCRIPTS: dict[str, tuple[Callable[[str], list[str]], bytes, bytes]] = {
    "digest": (tree_scripts.digest_command, PATH + b"\0", b"!" + bytes(16)),
    "any data": (lambda directory: tree_scripts.any_data_command(directory, "fuse"), PATH + b"\0", b"1"),
    "begin": (lambda directory: tree_scripts.begin_command(directory, b"begin"), PATH + b"\0", b""),
    "end": (tree_scripts.end_command, b"1 " + PATH + b"\0", b"%d " % errno.EINTR),
    "fingerprint": (patch_scripts.fingerprint_command, _asked(PATH, 1 << 15), b"\xff" * 8),
    "changed": (patch_scripts.changed_command, _asked(PATH, 1 << 15, 0, 9, 0), b"X"),
    "content": (lambda directory: tree_scripts.python_command(CONTENT_SCRIPT, directory), PATH, b""),
}


@pytest.mark.parametrize("call", ["read", "open"])
@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_that_reads_files_ends(
    monkeypatch: pytest.MonkeyPatch, volume: LocalVolume, faults: Faults, name: str, call: str
) -> None:
    monkeypatch.setattr(tree_scripts, "PYTHON", sys.executable)
    command, asked, answer = SCRIPTS[name]
    faults.set(fault(call, errno.EINTR, "one"))
    done = subprocess.run(
        command(str(volume.data)), input=asked, capture_output=True, timeout=20, check=False
    )
    assert done.stdout.startswith(answer)
    assert len(done.stdout) <= max(len(answer), 40)


def test_a_migration_fails_and_does_not_wait_for_ever(transfer: Transfer, faults: Faults) -> None:
    faults.set(interrupted("odder"))
    with pytest.raises(CommandFailed, match="'dir/odder' could not be read: each time"):
        transfer.run()


def test_who_waits_is_not_ended(tmp_path: Path) -> None:
    """A reader of the stream that is slow, a file that is, and names that are long in coming."""
    (tmp_path / "file").write_bytes(bytes(4 << 20))
    process = subprocess.Popen(
        create_command(str(tmp_path), watched=True),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin
    assert process.stdout
    assert process.stderr
    with process:
        time.sleep(5)
        process.stdin.write(b"file\0")
        process.stdin.close()
        time.sleep(5)
        assert len(process.stdout.read()) > 4 << 20
        assert READ_AGAIN.encode() not in process.stderr.read()
    assert process.returncode == 0


def test_the_status_of_who_is_watched_is_its_own(tmp_path: Path) -> None:
    began = time.monotonic()
    done = subprocess.run(
        create_command(str(tmp_path), watched=True), input=b"missing\0", capture_output=True, check=False
    )
    assert time.monotonic() - began < 1.5
    assert done.returncode == 2
    assert b"missing" in done.stderr


def test_a_link_whose_target_takes_too_much_memory_costs_only_itself(
    repository: Repository, volume: LocalVolume, below: Path, faults: Faults, tmp_path: Path
) -> None:
    for name in ("link", "dir/link", "other link"):
        (below / name).symlink_to("target")
    faults.set(fault("readlink", errno.ENOMEM, "/link"))
    for _ in range(2):
        stats = volume.back_up(repository)
        assert sorted((each.kind, each.path) for each in stats.findings) == [
            ("unreadable", b"dir/link"),
            ("unreadable", b"link"),
        ]
        expected = {
            name: content for name, content in present(below).items() if name not in {"link", "dir/link"}
        }
        assert stored(repository, stats.ref, tmp_path / "spool") == expected
    faults.set()
    assert volume.back_up(repository).findings == ()


@pytest.mark.parametrize("call", ["llistxattr", "lgetxattr"])
@pytest.mark.parametrize("place", ["dir/odder", "dir", ""])
@pytest.mark.parametrize("warm", [False, True])
def test_attributes_that_never_fit_cost_only_their_file(
    monkeypatch: pytest.MonkeyPatch,
    repository: Repository,
    below: Path,
    tmp_path: Path,
    call: str,
    place: str,
    warm: bool,
) -> None:
    if warm:
        monkeypatch.setattr(local_helper, "MOVING", Warm(lambda: None))
    os.setxattr(below / place, "user.key", b"value")
    volume = LocalVolume(below, tmp_path / "state")
    ends = [f"/{place}"] if place else ["/below", "/below/."]
    volume.environment = environment(
        built_library(tmp_path), *(fault(call, errno.ERANGE, end) for end in ends)
    )
    stats = volume.back_up(repository)
    (finding,) = stats.findings
    assert (finding.kind, finding.path.decode()) == ("unreadable", place)
    expected = {
        name: content for name, content in present(below).items() if name != "dir/odder" or place != name
    }
    assert stored(repository, stats.ref, tmp_path / "spool") == expected
