"""Restores onto file systems that cannot hold all of a backup, and while something comes between."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parts import local_helper
from tests.parts.local_helper import LocalHelper, LocalVolume
from volferry.archive.commands import RESTORE_MARK
from volferry.archive.extractlog import AccessLists, ExtractLog
from volferry.archive.listing import Entry, parse_record
from volferry.archive.selection import Selection
from volferry.errors import CommandFailed, RestoreMismatch, VolumeInUse
from volferry.observer import Silent
from volferry.operations.backup_reader import BackupReader
from volferry.operations.comparison import check_restored, check_same
from volferry.operations.excerpt import BackupExcerpt
from volferry.operations.restore import mark, mark_text, restore_backup, unmark
from volferry.operations.restore_paths import restore_paths
from volferry.repository import Repository
from volferry.stores.local import LocalStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tests.parts.local_helper import LocalProcess

OWNER = 999


class SquashedHelper(LocalHelper):
    """Root may give nothing away there, as on exFAT, CIFS, and an NFS with root_squash."""

    def start(self, command: Sequence[str], **more: Any) -> LocalProcess:
        return super().start(["setpriv", "--bounding-set=-chown", *command], **more)


@dataclass(frozen=True, slots=True)
class Case:
    backup: BackupReader
    source: Path
    target: Path
    spool: Path
    helpers: list[LocalHelper]

    def helper(self, kind: type[LocalHelper] = SquashedHelper) -> Any:
        self.helpers.append(kind(self.target, self.spool))
        return cast("Any", self.helpers[-1])


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    source, target, spool = (tmp_path / name for name in ("source", "target", "spool"))
    for each in (source, target, spool):
        each.mkdir()
    (source / "directory").mkdir()
    for name in ("directory/one", "two", 'with "quotes" and\nlines'):
        (source / name).write_text(f"content of {name}")
        os.chown(source / name, OWNER, OWNER)
    (source / "link").symlink_to("two")
    repository, _ = Repository.open_or_create(LocalStore(tmp_path / "store"))
    stats = LocalVolume(source, tmp_path / "state").back_up(repository)
    helpers: list[LocalHelper] = []
    yield Case(BackupReader(repository, stats.ref, spool=spool), source, target, spool, helpers)
    for helper in helpers:
        helper.end()


def contents(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_owners_that_cannot_be_given_are_counted_and_all_else_is_there(case: Case) -> None:
    stats = restore_backup(case.backup, "v", helper=case.helper(), observer=Silent(), empty_first=False)

    assert contents(case.target) == contents(case.source)
    (warning,) = stats.warnings
    assert warning == (
        f"3 entries have another owner than in the backup; the first: 'directory/one' has uid 0 instead of {OWNER}"
    )
    assert not (case.target / RESTORE_MARK).exists()


def test_chosen_paths_are_restored_so_too(case: Case) -> None:
    excerpt = BackupExcerpt(case.backup, Selection([b"directory"]))
    stats = restore_paths(excerpt, "v", helper=case.helper(), observer=Silent(), replace=False, empty=False)
    assert contents(case.target) == {"directory/one": "content of directory/one"}
    (warning,) = stats.warnings
    assert warning.startswith("1 entry has another owner")


def test_where_all_can_be_held_nothing_is_said(case: Case) -> None:
    stats = restore_backup(
        case.backup, "v", helper=case.helper(LocalHelper), observer=Silent(), empty_first=False
    )
    assert stats.warnings == ()


def _whole(case: Case, check: Callable[[], None]) -> None:
    restore_backup(
        case.backup,
        "v",
        helper=case.helper(LocalHelper),
        observer=Silent(),
        empty_first=False,
        check_free=check,
    )


def _paths(case: Case, check: Callable[[], None]) -> None:
    restore_paths(
        BackupExcerpt(case.backup, Selection([b"two"])),
        "v",
        helper=case.helper(LocalHelper),
        observer=Silent(),
        replace=False,
        empty=False,
        check_free=check,
    )


@pytest.mark.parametrize("reason", ["Input/output error", "No space left on device"])
@pytest.mark.parametrize("restore", [_whole, _paths])
@pytest.mark.parametrize("asked", [1, 2])
def test_what_did_not_reach_the_disk_is_a_failure_though_the_kernel_says_so_but_once(
    case: Case,
    restore: Callable[[Case, Callable[[], None]], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    reason: str,
    asked: int,
) -> None:
    """To whichever `sync -f` asks: while `tar` still writes, or while both are compared."""
    programs = tmp_path / "programs"
    programs.mkdir()
    count = programs / "count"
    (programs / "tar").write_text(
        f'#!/bin/sh\n[ "$2" != --extract ] || sleep 0.8\nexec {shutil.which("tar")} "$@"\n'
    )
    (programs / "sync").write_text(
        f'#!/bin/sh\necho >>{count}\n[ "$(wc -l <{count})" = {asked} ] || exit 0\n'
        f"echo \"sync: error syncing '$2': {reason}\" >&2\nexit 1\n"
    )
    for each in programs.iterdir():
        each.chmod(0o755)
    monkeypatch.setitem(local_helper._ENVIRONMENT, "PATH", f"{programs}:{os.environ['PATH']}")
    with pytest.raises(CommandFailed, match=f"(to the disk failed|no space is left).*sync: .*: {reason}"):
        restore(case, lambda: None)


@pytest.mark.parametrize("restore", [_whole, _paths])
def test_a_volume_that_a_container_uses_meanwhile_keeps_its_mark(
    case: Case, restore: Callable[[Case, Callable[[], None]], None]
) -> None:
    def started() -> None:
        raise VolumeInUse("volume v is in use by db: stop it first")

    with pytest.raises(VolumeInUse):
        restore(case, started)
    assert (case.target / RESTORE_MARK).exists()


def entry(path: str, rest: str) -> Entry:
    return parse_record(f"{path}//{rest}".encode())


WAS = "f 644 1 2 5 100.1234567890 200.0000000000 7 1 "


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ("f 644 1 2 5 100.0000000000 200.0000000000 7 1 ", {"time": "has mtime 100.0"}),
        ("f 644 0 0 5 100.1234567890 200.0000000000 7 1 ", {"owner": "has uid 0 instead of 1"}),
        ("f 644 1 0 5 100.1234567890 200.0000000000 7 1 ", {"owner": "has gid 0 instead of 2"}),
        ("f 755 0 0 5 98.0000000000 200.0000000000 7 1 ", {"mode": "755", "owner": "uid", "time": "98"}),
    ],
)
def test_what_a_file_system_may_change_is_tolerated_by_kind(now: str, said: dict[str, str]) -> None:
    found = check_restored([entry("file", WAS)], [entry("file", now)], Silent())
    assert found.keys() == said.keys()
    assert all(said[kind] in line and line.startswith("1 entry has another") for kind, line in found.items())
    with pytest.raises(RestoreMismatch):
        check_same([entry("file", WAS)], [entry("file", now)], Silent())


@pytest.mark.parametrize(
    "now",
    [
        ["f 600 0 0 4 0.0000000000 200.0000000000 7 1 "],
        ["d 644 1 2 5 100.1234567890 200.0000000000 7 1 "],
        [],
        [WAS, WAS],
    ],
    ids=["size", "kind", "missing", "extra"],
)
def test_what_no_file_system_may_change_is_an_error(now: list[str]) -> None:
    found = [entry(f"file{number or ''}", each) for number, each in enumerate(now)]
    with pytest.raises(RestoreMismatch):
        check_restored([entry("file", WAS)], found, Silent())


SET = [
    b'tar: "a": Cannot change ownership to uid 999, gid 999: Operation not permitted',
    b'tar: "a\\"b": Cannot change mode to rwxr-sr-t: Operation not supported',
    b'tar: "./": Cannot utime: Invalid argument',
]
FAILED = [
    b'tar: "a": Cannot write: No space left on device',
    b'tar: "a": Cannot open: Permission denied',
    b'tar: "a": Cannot change ownership to uid 999, gid 999: Input/output error',
    b'tar: "a": Cannot utime: Read-only file system',
    b'tar: "a": Cannot create symlink to "b": Operation not permitted',
    b'tar: "a": Cannot hard link to "b": Operation not permitted',
    b'tar: "x": Cannot open: Disk quota exceeded: "a": Cannot utime: Operation not permitted',
]


def log_of(*lines: bytes) -> ExtractLog:
    log = ExtractLog()
    for line in (*lines, b"tar: Exiting with failure status due to previous errors"):
        log.line(line)
    return log


def test_what_cannot_be_set_is_no_failure() -> None:
    log = log_of(*SET)
    assert log.succeeded(2)
    assert {kind: count for kind, (count, _) in log.refused.items()} == {"owner": 1, "mode": 1, "time": 1}
    assert not log.succeeded(1)
    assert not log.succeeded(137)


@pytest.mark.parametrize("line", FAILED)
def test_any_other_word_with_status_2_is_a_failure(line: bytes) -> None:
    assert not log_of(line).succeeded(2)
    assert not log_of(*SET, line).succeeded(2)
    assert log_of(*SET, line).why() == line.decode()


@pytest.mark.parametrize(
    "line",
    [
        b"tar: f7: Wrote only 8192 of 1048576 bytes",
        b'tar: "a": Cannot write: No space left on device',
        b'tar: "a": Cannot mkdir: Disk quota exceeded',
        b"tar: f 1: Cannot close: No space left on device",
    ],
)
def test_a_full_disk_is_named_first(line: bytes) -> None:
    other = b'tar: "x": Cannot open: Permission denied'
    for lines in ((line,), (*SET, other, line), (*[other] * 30, line)):
        assert log_of(*lines).failure("/here", 2) == f"no space is left in /here: {line.decode()}"
    assert log_of(other).failure("/here", 2).startswith("writing /here failed: tar exited with status 2: ")


def test_status_2_without_a_word_is_a_failure() -> None:
    assert not log_of().succeeded(2)


def test_a_message_with_a_newline_in_the_name_is_one() -> None:
    refused = b"tar: setxattrat: Cannot set 'user.a' extended attribute for file 'x\n\ntary: z': Operation not supported"
    log = log_of(*refused.split(b"\n"))
    assert log.succeeded(0)
    assert log.others == []
    assert log.refused == {"attribute": (1, refused.decode().replace("\n", "\\n"))}


@pytest.mark.parametrize("line", FAILED)
def test_no_failure_is_taken_for_a_part_of_a_name(line: bytes) -> None:
    log = log_of(
        *SET,
        b"tar: setxattrat: Cannot set 'user.a' extended attribute for file 'x",
        line,
        b"y': Operation not supported",
    )
    assert not log.succeeded(2)
    assert line.decode() in log.others


@given(st.lists(st.binary(max_size=20), max_size=6), st.integers(0, 90), st.booleans())
def test_an_access_list_is_found_wherever_the_pieces_of_a_stream_end(
    parts: list[bytes], size: int, has_one: bool
) -> None:
    stream = (b"SCHILY.acl.access" if has_one else b"SCHILY.acl").join(
        [b"".join(parts), b"".join(parts[::-1])]
    )
    lists = AccessLists()
    for start in range(0, len(stream), size + 1):
        lists.look(stream[start : start + size + 1])
    assert lists.found == (b"SCHILY.acl." in stream)


def listing(*times: str, kind: str = "f") -> list[Entry]:
    return [
        entry(f"{number}", WAS.replace("100.1234567890", time).replace("f ", f"{kind} "))
        for number, time in enumerate(times)
    ]


def test_a_time_that_no_file_system_makes_of_another_is_an_error_where_others_are_held() -> None:
    was = listing("1600000000.1230000000", "1600000000.4560000000")
    written = listing("1600000000.1230000000", "1700000000.0000000000")
    with pytest.raises(RestoreMismatch, match=r"1 entries.*'1' has mtime 1700000000"):
        check_restored(was, written, Silent())
    assert check_restored(was, written, Silent(), times_refused=True).keys() == {"time"}


@pytest.mark.parametrize(
    ("was", "now", "count"),
    [
        # rounded, as by FAT and exFAT
        (["1600000001.5000000000", "1600000002.0000000000"], ["1600000000.0000000000", "1600000002.0000000000"], 1),
        # ignored by the file system
        (["1600000001.5000000000", "1600000002.0000000000"], ["1700000000.0000000000", "1700000001.0000000000"], 2),
        # before and after all that it knows
        (["1600000001.5000000000", "-5.0000000000"], ["1600000001.5000000000", "315532800.0000000000"], 1),
        (["1600000001.5000000000", "9000000000.0000000000"], ["1600000001.5000000000", "2147483647.0000000000"], 1),
    ],
)  # fmt: skip
def test_times_that_a_file_system_cannot_hold_are_counted(was: list[str], now: list[str], count: int) -> None:
    (line,) = check_restored(listing(*was), listing(*now), Silent()).values()
    assert line.startswith(f"{count} ")


def test_directories_without_times_are_no_files_without_times() -> None:
    was = listing("1600000001.5000000000", "1600000001.5000000000")
    directories = listing("1600000001.5000000000", kind="d")
    now = listing("1700000001.5000000000", kind="d")
    assert check_restored(
        [*was, Entry(b"d", directories[0].meta)], [*was, Entry(b"d", now[0].meta)], Silent()
    ).keys() == {"time"}


@pytest.mark.parametrize("planted", ["link", "dangling link", "FIFO", "other file"])
def test_a_mark_is_written_into_nothing_that_somebody_has_put_there(case: Case, planted: str) -> None:
    path, outside = case.target / RESTORE_MARK, case.spool / "outside"
    outside.write_text("of others")
    if planted == "FIFO":
        os.mkfifo(path)
    elif planted == "other file":
        os.link(outside, path)
    else:
        path.symlink_to(outside if planted == "link" else case.spool / "new")
    if planted != "other file":
        assert mark_text(case.helper(), "v") == ""  # and nobody waits for a FIFO
    mark(case.helper(), "v", "of a backup")
    assert (path.is_symlink(), path.read_text()) == (False, "of a backup")
    assert mark_text(case.helper(), "v") == "of a backup"
    assert {each.name for each in case.spool.iterdir()} & {"outside", "new"} == {"outside"}
    assert outside.read_text() == "of others"
    unmark(case.helper(), "v")
    assert list(case.target.iterdir()) == []


def test_a_directory_in_the_place_of_the_mark_is_one_line(case: Case) -> None:
    (case.target / RESTORE_MARK / "below").mkdir(parents=True)
    with pytest.raises(CommandFailed, match="writing the volume failed: tar exited with status 2: tar: "):
        mark(case.helper(), "v", "of a backup")
    assert (case.target / RESTORE_MARK / "below").is_dir()
