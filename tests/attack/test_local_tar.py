"""`tar` on the machine itself: a directory that it has made is exchanged for a link, at the worst moment."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import time
from typing import TYPE_CHECKING

import pytest

from volferry.archive.extractlog import ExtractLog
from volferry.errors import VolferryError
from volferry.operations.local_tar import LocalTar

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.attack.conftest import Outside

_RECORD_BYTES = 1 << 20  # `tar` acts on nothing before it has one


def archive(*directories: str) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name in directories:
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.mtime = tarfile.DIRTYPE, 0o777, 1
            tar.addfile(member)
    return made.getvalue()


@pytest.mark.parametrize("relative", [False, True], ids=["absolute", "relative"])
def test_a_link_leads_nowhere_out_of_the_directory(tmp_path: Path, outside: Outside, relative: bool) -> None:
    directory = tmp_path / "to"
    directory.mkdir()
    target = os.path.relpath(outside.directory, directory) if relative else outside.directory

    def pieces() -> Iterator[bytes]:
        whole = archive("d", "d/empty", *(f"other{number}" for number in range(5000)))
        assert len(whole) > 2 * _RECORD_BYTES
        yield whole[:_RECORD_BYTES]
        yield whole[_RECORD_BYTES : 2 * _RECORD_BYTES]
        end = time.monotonic() + 60
        while not (directory / "d/empty").is_dir():
            assert time.monotonic() < end, "tar did not come to it"
        (directory / "d").rename(directory / "away")
        (directory / "d").symlink_to(target)
        yield whole[2 * _RECORD_BYTES :]

    tar = LocalTar(directory)
    tar.extract(pieces(), ExtractLog())
    assert tar.confined
    assert (directory / "other4999").stat().st_mode & 0o777 == 0o777
    outside.check()


def test_where_the_root_cannot_be_changed_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    script = (
        "import sys; from pathlib import Path; from volferry.operations.local_tar import LocalTar;"
        "from volferry.archive.extractlog import ExtractLog; tar = LocalTar(Path(sys.argv[1]));"
        "print(tar.extract([sys.stdin.buffer.read()], ExtractLog()), tar.confined)"
    )
    command = ["setpriv", "--bounding-set=-sys_chroot", sys.executable, "-c", script, str(tmp_path / "to")]
    done = subprocess.run(command, input=archive("d"), capture_output=True, check=True)
    assert done.stdout == b"0 False\n"
    assert (tmp_path / "to/d").is_dir()


def test_an_archive_without_a_byte_and_a_tar_that_ends_at_once_are_not_waited_for(tmp_path: Path) -> None:
    assert LocalTar(tmp_path).extract([], ExtractLog()) != 0
    log = ExtractLog()
    tar = LocalTar(tmp_path)
    tar._program = "/bin/false"
    assert tar.extract([bytes(1 << 20)], log) == 1


def test_of_an_archive_that_breaks_off_before_a_whole_record_nothing_is_extracted(tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield archive("d")
        raise VolferryError("the store is gone")

    with pytest.raises(VolferryError, match="the store is gone"):
        LocalTar(tmp_path).extract(pieces(), ExtractLog())
    assert list(tmp_path.iterdir()) == []
