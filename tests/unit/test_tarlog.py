from __future__ import annotations

import os
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given

from tests.unit.real_trees import ENVIRONMENT, NASTY_NAMES, at, names
from volferry.archive.commands import READ_AGAIN, create_command
from volferry.archive.complaints import unquote
from volferry.archive.tarlog import TarLog

if TYPE_CHECKING:
    from pathlib import Path


def said_by_tar(directory: Path, paths: bytes) -> list[bytes]:
    done = subprocess.run(
        create_command(str(directory)), input=paths, capture_output=True, check=False, env=ENVIRONMENT
    )
    return done.stderr.splitlines()


def logged(*lines: bytes) -> TarLog:
    log = TarLog()
    for line in lines:
        log.line(line)
    return log


def torn(log: TarLog) -> dict[bytes, str]:
    assert all((finding.kind, finding.path) == ("torn", path) for path, finding in log.torn.items())
    return {path: finding.detail for path, finding in log.torn.items()}


def test_a_name_that_tar_quoted_is_unquoted_to_what_it_was(tmp_path: Path) -> None:
    short = [name for name in NASTY_NAMES if len(name) < 200]
    paths = [*short, *(bytes([byte]) * 2 for byte in range(1, 256) if byte != ord("/"))]
    paths += [bytes([byte]) + b"0" for byte in range(1, 256) if byte != ord("/")]
    lines = said_by_tar(tmp_path, b"".join(b"missing" + path + b"\0" for path in paths))
    quoted = [
        line.removeprefix(b"tar: ").removesuffix(b": Cannot stat: No such file or directory")
        for line in lines
    ]
    assert [unquote(each) for each in quoted[: len(paths)]] == [b"missing" + path for path in paths]
    log = logged(*lines)
    assert log.unexplained == []
    assert log.torn == {}


@given(names)
def test_octal_escapes_are_unquoted_whatever_follows(name: bytes) -> None:
    assert unquote(b'"' + b"".join(b"\\%03o" % byte for byte in name) + b'"') == name


@given(names)
def test_the_file_that_is_read_again_and_again_is_known_in_one_line(name: bytes) -> None:
    line = READ_AGAIN.encode() + b"/volumes/one//" + (b"/volumes/one/" + name).replace(b"\n", b"\0")
    assert logged(line).never_read == name


def test_entries_that_are_gone_are_no_surprise(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    lines = said_by_tar(tmp_path, b"gone\0file/below\0gone/below\0")
    assert len(lines) >= 3
    assert logged(*lines).unexplained == []


@pytest.mark.parametrize(
    "message",
    [
        b"Cannot stat: No such file or directory",
        b"Cannot open: No such file or directory",
        b"Cannot open: Not a directory",
        b"Cannot open: Too many levels of symbolic links",
        b"File removed before we read it",
        b"socket ignored",
        b"Warning: Cannot llistxattr: Operation not supported",
    ],
)
def test_what_is_found_by_a_missing_member_or_does_not_matter_is_passed_over(message: bytes) -> None:
    log = logged(b'tar: "a/b": ' + message)
    assert log.unexplained == []
    assert log.torn == {}


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"tar: Exiting with failure status due to previous errors",
        b"tar: Error exit delayed from previous errors",
    ],
)
def test_a_summary_adds_nothing(line: bytes) -> None:
    assert logged(line).unexplained == []


@pytest.mark.parametrize(
    "line",
    [
        b'tar: "a": Cannot open: no reason that the system has',
        b'tar: "a": Cannot open: Permission denied, and more',
        b'tar: "a": Read error at byte 0, while reading 512 bytes: Input/output error: No such file or directory',
        b'tar: "a": Cannot frobnicate: No such file or directory',
        b"tar: Cannot write: No space left on device",
        b"tar: memory exhausted",
        b"sh: tar: not found",
        b'tar: "a"',
        b'tar: "a: No such file or directory',
        b"\xff\xfe",
    ],
)
def test_anything_else_is_kept_in_its_own_words(line: bytes) -> None:
    assert logged(line).unexplained == [line.decode("utf-8", "backslashreplace")]


def test_a_file_whose_name_is_a_message_is_just_that() -> None:
    log = logged(b'tar: "x\\": File removed before we read it": Cannot open: Permission denied')
    assert list(log.unreadable) == [b'x": File removed before we read it']
    assert log.gone == set()


def test_what_cannot_be_read_is_in_doubt_at_once() -> None:
    doubted: list[bytes] = []
    log = TarLog(doubted.append)
    for line in (
        b'tar: "a": Read error at byte 512, while reading 512 bytes: Stale file handle',
        b'tar: "b": Cannot open: Permission denied',
        b'tar: "c": Warning: Cannot flistxattr: Input/output error',
        b'tar: "./": Cannot savedir: Input/output error',
        b'tar: "d": file changed as we read it',
        b'tar: "e": Cannot open: No such file or directory',
    ):
        log.line(line)
    assert doubted == [b"a", b"b", b"c", b"", b"d"]
    assert log.doubted == set(doubted)
    assert log.unexplained == []
    assert log.some_was_read == {b"a", b"c"}


def test_what_has_a_member_and_is_said_to_have_none_was_not_understood() -> None:
    log = logged(b'tar: "a": Cannot open: No such file or directory')
    assert log.contradiction({b"a"}) is None
    assert "'a'" in str(log.contradiction(set()))


def test_garbage_without_end_takes_no_memory() -> None:
    log = logged(*[b"garbage"] * 10_000)
    assert 0 < len(log.unexplained) < 100


def test_changed_and_shrunk_files_are_torn() -> None:
    log = logged(
        b'tar: "a\\nb": file changed as we read it',
        b'tar: "c": File shrank by 1 byte; padding with zeros',
        b'tar: "d": File shrank by 123456 bytes; padding with zeros',
        b'tar: ".": file changed as we read it',
    )
    assert log.unexplained == []
    assert list(torn(log)) == [b"a\nb", b"c", b"d", b""]
    assert "changed" in torn(log)[b"a\nb"]
    assert "123456 bytes" in torn(log)[b"d"]


def test_what_is_worse_is_kept_of_a_file_that_shrank_and_changed() -> None:
    changed, shrank = (
        b'tar: "a": file changed as we read it',
        b'tar: "a": File shrank by 9 bytes; padding with zeros',
    )
    for log in (logged(changed, shrank), logged(shrank, changed)):
        assert "shrank by 9 bytes" in torn(log)[b"a"]


@pytest.mark.parametrize(("new_size", "word"), [(4096, "shrank"), (12 << 20, "changed")])
def test_tar_says_so_when_a_file_changes_under_its_hands(tmp_path: Path, new_size: int, word: str) -> None:
    name = b"odd \n name"
    path = at(tmp_path, name)
    path.write_bytes(b"x" * (8 << 20))
    with subprocess.Popen(
        create_command(str(tmp_path)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    ) as tar:
        assert tar.stdin is not None
        assert tar.stdout is not None
        assert tar.stderr is not None
        tar.stdin.write(name + b"\0")
        tar.stdin.close()
        # Its first record has come, and it waits with the second until somebody reads.
        assert len(tar.stdout.read(512)) == 512
        os.truncate(path, new_size)
        tar.stdout.read()
        log = logged(*tar.stderr.read().splitlines())
    assert log.unexplained == []
    assert word in torn(log)[name]


def test_a_socket_is_no_surprise(tmp_path: Path) -> None:
    os.mknod(tmp_path / "socket", stat.S_IFSOCK | 0o600)
    lines = said_by_tar(tmp_path, b"socket\0")
    assert len(lines) == 1
    assert logged(*lines).unexplained == []
