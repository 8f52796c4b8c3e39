"""Archives that others have made, into a volume: it is what the archive says, its root too, and what it cannot be is counted."""

from __future__ import annotations

import io
import os
import tarfile
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.parts.local_helper import LocalHelper
from tests.parts.mounts import MOUNTS
from volferry.archive.foreign_tar import ForeignTar, Strip, decompressed
from volferry.observer import Silent
from volferry.operations.archive_members import ArchiveMembers
from volferry.operations.places import Place
from volferry.operations.restore import mark
from volferry.operations.tar_import import import_tar

if TYPE_CHECKING:
    from pathlib import Path

ROOT = (0o751, 1234, 4321, 1_500_000_000_250_000_000)  # mode, owner, group, time


def archive(top: str, kind: int = tarfile.PAX_FORMAT) -> bytes:
    """One directory, and one file in it."""
    with io.BytesIO() as out:
        with tarfile.open(fileobj=out, mode="w", format=kind) as tar:
            for name, content in ((top, None), (f"{top}/file", b"hello")):
                member = tarfile.TarInfo(name)
                member.mode, member.uid, member.gid = ROOT[:3]
                member.mtime = ROOT[3] / 10**9
                member.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
                if content is None and kind == tarfile.PAX_FORMAT:
                    member.pax_headers = {"SCHILY.xattr.user.root": "its own"}
                member.size = len(content or b"")
                tar.addfile(member, io.BytesIO(content or b""))
        return out.getvalue()


def imported(data: bytes, strip: int, target: Path, place: Path) -> tuple[str, ...]:
    spool = place / "spool"
    spool.mkdir()
    helper = LocalHelper(target, spool)
    try:
        mark(cast("Any", helper), "volume", "import")
        with ArchiveMembers(place / "members") as members:
            stream = io.BufferedReader(cast("io.RawIOBase", io.BytesIO(data)))
            source = ForeignTar(decompressed(stream), Strip(strip), members.add)
            there = Place(cast("Any", helper), str(target))
            return import_tar(source, members, strip, there, "volume", spool, Silent())
    finally:
        helper.end()


def attributes(path: Path) -> tuple[int, int, int, int]:
    found = path.stat()
    return found.st_mode & 0o7777, found.st_uid, found.st_gid, found.st_mtime_ns


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("top", [".", "./", "data", "/données", "./" + "x" * 120, "é" * 100 + "/deeper"])
def test_the_root_is_what_the_directory_was(tmp_path: Path, top: str, kind: int) -> None:
    strip = len([part for part in top.split("/") if part not in {"", "."}])
    target = tmp_path / "around" / "target"
    target.mkdir(parents=True)
    assert imported(archive(top, kind), strip, target, tmp_path) == ()
    time = ROOT[3] if kind == tarfile.PAX_FORMAT else ROOT[3] // 10**9 * 10**9
    assert attributes(target) == (*ROOT[:3], time)
    if kind == tarfile.PAX_FORMAT:
        assert os.getxattr(target, "user.root") == b"its own"
    assert [each.name for each in target.iterdir()] == ["file"]
    assert [each.name for each in target.parent.iterdir()] == ["target"]


@pytest.mark.parametrize("strip", [0, 1])
@pytest.mark.parametrize("kind", MOUNTS)
def test_the_root_is_counted_where_it_cannot_be_held(tmp_path: Path, kind: str, strip: int) -> None:
    with MOUNTS[kind](tmp_path / "place") as target:
        warnings = imported(archive("data" if strip else "."), strip, target, tmp_path)
        assert (target / "file").read_bytes() == b"hello"
    counts = {line.partition(";")[0] for line in warnings}
    assert "2 entries have another owner than in the archive" in counts, warnings
