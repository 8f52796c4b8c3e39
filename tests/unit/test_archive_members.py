"""An archive's members are compared with what a real `tar` made of them, in whatever order and however often they stand in it."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volferry.archive.foreign_tar import ForeignTar, Strip
from volferry.archive.listing import Entry, walk_key
from volferry.errors import RestoreMismatch
from volferry.observer import Silent
from volferry.operations.archive_members import ArchiveMembers

if TYPE_CHECKING:
    from pathlib import Path


def member(
    name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = "", time: float = 1e9
) -> tuple[tarfile.TarInfo, bytes]:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.size, made.mtime = kind, target, len(content), time
    made.mode = 0o755 if kind == tarfile.DIRTYPE else 0o640
    return made, content


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    with io.BytesIO() as out:
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for info, content in members:
                tar.addfile(info, io.BytesIO(content))
        return out.getvalue()


def extracted(data: bytes, directory: Path) -> list[Entry]:
    """By GNU tar; as a listing has it."""
    directory.mkdir()
    subprocess.run(
        ["tar", "--extract", f"--directory={directory}", "--same-owner", "--preserve-permissions", "--delay-directory-restore"],
        input=data, check=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return listed(directory)


def listed(directory: Path) -> list[Entry]:
    listing = ["find", ".", "-mindepth", "1", "-printf", r"%P//%y %m %U %G %s %T@ %C@ %i %n %l\0"]
    output = subprocess.run(listing, cwd=directory, check=True, capture_output=True).stdout
    entries = [Entry(*record.split(b"//", 1)) for record in output.split(b"\0")[:-1]]
    return sorted(entries, key=lambda each: walk_key(each.path))


def compared(data: bytes, found: list[Entry], directory: Path, strip: Strip | None = None) -> dict[str, str]:
    with ArchiveMembers(directory / "members") as members:
        for _ in ForeignTar(io.BytesIO(data), strip or Strip(), members.add).pieces():
            pass
        return members.check(found, Silent(), times_refused=False)


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.binary(max_size=9), st.integers(-(10**9), 2 * 10**12)),
        max_size=8,
    )
)
def test_what_tar_made_is_found_equal(
    tmp_path_factory: pytest.TempPathFactory, files: list[tuple[str, bytes, int]]
) -> None:
    directory = tmp_path_factory.mktemp("archive")
    data = archive(*(member(f"d/{name}", content, time=ms / 1000) for name, content, ms in files))
    assert compared(data, extracted(data, directory / "out"), directory) == {}


def test_links_of_all_kinds_are_found_equal(tmp_path: Path) -> None:
    data = archive(
        member("d", kind=tarfile.DIRTYPE),
        member("d/file", b"content"),
        member("d/again", kind=tarfile.LNKTYPE, target="d/file"),
        member("link", kind=tarfile.SYMTYPE, target="d"),
        member("link/through", b"through a link of its own"),
        member("/absolute", b"a"),
        member("./d//doubled", b"d"),
    )
    assert compared(data, extracted(data, tmp_path / "out"), tmp_path) == {}


def test_what_is_missing_or_short_fails_and_metadata_is_counted(tmp_path: Path) -> None:
    data = archive(
        member("one", b"1"), member("two", b"2"), member("link", kind=tarfile.SYMTYPE, target="one")
    )
    out = tmp_path / "out"
    found = extracted(data, out)
    for name in (b"one", b"two", b"link"):
        with pytest.raises(RestoreMismatch, match=f"in the archive; the first: '{name.decode()}' is missing"):
            compared(data, [each for each in found if each.path != name], fresh(tmp_path))
    (out / "one").write_bytes(b"")
    os.utime(out / "one", (1e9, 1e9))
    with pytest.raises(RestoreMismatch, match="'one' has 0 bytes instead of 1"):
        compared(data, listed(out), fresh(tmp_path))
    (out / "one").write_bytes(b"1")
    os.utime(out / "one", (1e9, 1e9))
    (out / "two").chmod(0o600)
    os.chown(out / "two", 7, 7)
    differing = compared(data, listed(out), fresh(tmp_path))
    assert {kind: line.split()[0] for kind, line in differing.items()} == {"mode": "1", "owner": "1"}


def fresh(directory: Path) -> Path:
    made = directory / f"{len(list(directory.iterdir()))}"
    made.mkdir()
    return made
