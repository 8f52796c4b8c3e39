"""File systems that cannot hold, or refuse, some of what `tar` writes: told apart by what the real one says."""

from __future__ import annotations

import errno
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.parts.faults import environment, fault
from volferry.archive.commands import create_command, local_extract_command
from volferry.archive.extractlog import ExtractLog

if TYPE_CHECKING:
    from pathlib import Path

PATHS = ["dir", "dir/attributes", "dir/fifo", "dir/file", "dir/name", "dir/link", "dir/new\n\nline"]


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    root = tmp_path_factory.mktemp("tree")
    directory = root / "dir"
    directory.mkdir()
    (directory / "file").write_bytes(b"content" * 1000)
    os.link(directory / "file", directory / "name")
    (directory / "attributes").write_bytes(b"x")
    (directory / "new\n\nline").write_bytes(b"y")
    for name in ("attributes", "new\n\nline"):
        os.setxattr(directory / name, "user.key", b"value")
        subprocess.run(["setfacl", "-m", "u:1:r", directory / name], check=True)
    (directory / "link").symlink_to("target")
    os.mkfifo(directory / "fifo")
    for path in directory.iterdir():
        os.chown(path, 5, 6, follow_symlinks=False)
    asked = b"".join(path.encode() + b"\0" for path in PATHS)
    return subprocess.run(create_command(str(root)), input=asked, capture_output=True, check=True).stdout


def extracted(stream: bytes, into: Path, library: Path, call: str, number: int) -> tuple[ExtractLog, int]:
    into.mkdir(exist_ok=True)
    faults = environment(library, *(fault(call, number, f"/{path}".rpartition("\n")[2]) for path in PATHS))
    done = subprocess.run(
        local_extract_command(str(into), root=True),
        input=stream,
        capture_output=True,
        check=False,
        env=faults | {"LC_ALL": "C", "PATH": os.environ["PATH"]},
    )
    log = ExtractLog()
    for line in done.stderr.splitlines():
        log.line(line)
    return log, done.returncode


@pytest.mark.parametrize(
    "number", [errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.EINVAL, errno.EOVERFLOW, errno.ENOTTY, 524]
)
@pytest.mark.parametrize(
    ("call", "kinds"),
    [
        ("chown", {"owner"}),
        ("chmod", {"mode"}),
        ("utime", {"time"}),
        ("setxattr", {"attribute", "access list"}),
        ("acl_set_file", {"access list"}),
        ("acl_delete_def_file", {"inherited access list"}),
    ],
)
def test_what_a_file_system_cannot_hold_is_counted_and_costs_nothing(
    stream: bytes, library: Path, tmp_path: Path, call: str, kinds: set[str], number: int
) -> None:
    log, status = extracted(stream, tmp_path / "to", library, call, number)
    assert log.succeeded(status), log.why()
    assert log.refused.keys() <= kinds
    assert log.others == []
    harmless = call == "acl_delete_def_file" and number in {errno.EOPNOTSUPP, errno.ENOTTY, 524}
    assert log.refused or harmless or call in {"setxattr", "acl_set_file", "chmod"}
    assert (tmp_path / "to" / "dir" / "file").read_bytes() == b"content" * 1000


@pytest.mark.parametrize(
    ("call", "number"),
    [
        *((call, errno.EIO) for call in ("chown", "utime", "write", "mkdir", "symlink", "mknod")),
        ("write", errno.ENOSPC),
        ("write", errno.EPERM),
        ("symlink", errno.EPERM),
        ("link", errno.EPERM),
        ("mkdir", errno.EACCES),
    ],
)
def test_what_may_have_cost_content_is_a_failure(
    stream: bytes, library: Path, tmp_path: Path, call: str, number: int
) -> None:
    log, status = extracted(stream, tmp_path / "to", library, call, number)
    assert not log.succeeded(status)
    assert log.why()
