"""`tar` on the machine itself: a directory that it has made is exchanged for a link, at the worst moment."""

from __future__ import annotations

import io
import os
import subprocess
import sysconfig
import tarfile
import time
from typing import TYPE_CHECKING

import pytest

from volferry.archive import confined_script
from volferry.archive.confined_script import RECORD_BYTES
from volferry.archive.extractlog import ExtractLog
from volferry.errors import VolferryError
from volferry.operations import local_tar
from volferry.operations.local_tar import LocalTar

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.attack.conftest import Outside


def archive(*directories: str) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name in directories:
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.mtime = tarfile.DIRTYPE, 0o777, 1
            tar.addfile(member)
    return made.getvalue()


@pytest.fixture(params=["mounts", "root"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How it is confined: on a machine, and in a container, where no mounts can be made."""
    if request.param == "root":
        having(monkeypatch, "-sys_admin")
    return str(request.param)


def having(monkeypatch: pytest.MonkeyPatch, rights: str) -> None:
    command = confined_script.confined_command
    monkeypatch.setattr(
        local_tar,
        "confined_command",
        lambda *arguments: ["setpriv", f"--bounding-set={rights}", *command(*arguments)],
    )


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("relative", [False, True], ids=["absolute", "relative"])
def test_a_link_leads_nowhere_out_of_the_directory(tmp_path: Path, outside: Outside, relative: bool) -> None:
    directory = tmp_path / "to"
    directory.mkdir()
    target = os.path.relpath(outside.directory, directory) if relative else outside.directory

    def pieces() -> Iterator[bytes]:
        whole = archive("d", "d/empty", *(f"other{number}" for number in range(5000)))
        assert len(whole) > 2 * RECORD_BYTES
        yield whole[: 2 * RECORD_BYTES]
        end = time.monotonic() + 60
        while not (directory / "d/empty").is_dir():
            assert time.monotonic() < end, "tar did not come to it"
        (directory / "d").rename(directory / "away")
        (directory / "d").symlink_to(target)
        yield whole[2 * RECORD_BYTES :]

    tar = LocalTar(directory)
    tar.extract(pieces(), ExtractLog())
    assert tar.confined
    assert (directory / "other4999").stat().st_mode & 0o777 == 0o777
    outside.check()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("warm", [True, False])
def test_nothing_of_the_directory_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warm: bool) -> None:
    """`tar` looks for how names are converted when it comes to the first that is not ASCII: in its root."""
    if not warm:
        monkeypatch.setattr(local_tar, "warm_up", lambda: ("nothing", b""))
    (directory := tmp_path / "to").mkdir()
    machine = sysconfig.get_config_var("MULTIARCH")
    for place in ("usr/lib", "lib", f"usr/lib/{machine}", f"lib/{machine}", "usr/lib64"):
        (modules := directory / place / "gconv").mkdir(parents=True)
        (modules / "gconv-modules").write_text("module\tUTF-8//\tANSI_X3.4-1968//\tplanted\t1\n")
        compiled(tmp_path, modules / "planted.so")
    (directory / "etc").mkdir()
    (directory / "etc/ld.so.preload").write_text(f"/usr/lib/{machine}/gconv/planted.so\n")
    tar = LocalTar(directory)
    assert tar.extract([archive("caf\u00e9", "after")], ExtractLog()) == 0
    assert tar.confined
    assert {"caf\u00e9", "after"} <= {each.name for each in directory.iterdir()}
    assert not list(tmp_path.rglob("RUN"))


def compiled(directory: Path, library: Path) -> None:
    """One that leaves a file where it is run."""
    (source := directory / "planted.c").write_text(
        '#include <fcntl.h>\n__attribute__((constructor)) static void run(void) { open("/RUN", O_CREAT, 0644); }\n'
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)


def test_where_neither_can_be_had_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    having(monkeypatch, "-sys_admin,-sys_chroot")
    tar = LocalTar(tmp_path)
    assert tar.extract([archive("d")], ExtractLog()) == 0
    assert not tar.confined
    assert (tmp_path / "d").is_dir()


@pytest.mark.usefixtures("way")
def test_an_archive_without_a_byte_and_a_tar_that_ends_at_once_are_not_waited_for(tmp_path: Path) -> None:
    assert LocalTar(tmp_path).extract([], ExtractLog()) != 0
    log = ExtractLog()
    tar = LocalTar(tmp_path)
    tar._program = "/bin/false"
    assert tar.extract([bytes(1 << 20)], log) == 1


@pytest.mark.usefixtures("way")
def test_of_an_archive_that_breaks_off_before_a_whole_record_nothing_is_extracted(tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield archive("d")
        raise VolferryError("the store is gone")

    with pytest.raises(VolferryError, match="the store is gone"):
        LocalTar(tmp_path).extract(pieces(), ExtractLog())
    assert list(tmp_path.iterdir()) == []
