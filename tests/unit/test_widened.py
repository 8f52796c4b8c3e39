"""Directories' members of other people's archives, with the owner's bits set: what `tarfile` reads is taken, and all else is a damaged archive."""

from __future__ import annotations

import io
import tarfile
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volferry.archive.foreign_tar import ForeignTar, Strip
from volferry.errors import DamagedArchive

_SUM = slice(148, 156)
_MODE = slice(100, 108)


def archive(mode: bytes | None = None, *, before: bytes = b"") -> bytes:
    """One directory, of which only the header's mode is another than `tar` would write."""
    member = tarfile.TarInfo("directory")
    member.type, member.mode = tarfile.DIRTYPE, 0o555
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    if mode is not None:
        block[_MODE] = mode
    block[_SUM] = b" " * 8
    block[_SUM] = b"%06o\0 " % sum(block)
    return before + bytes(block) + bytes(1024)


def extended(records: bytes) -> bytes:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, len(records)
    return header.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512)


def widened(data: bytes) -> bytes:
    return b"".join(ForeignTar(io.BytesIO(data), Strip()).pieces(widened=True))


@pytest.mark.parametrize(
    ("data", "mode"),
    [
        (archive(), 0o755),
        (archive(b"300\0abcd"), 0o700),
        (archive(b"\x80\0\0\0\0\0\x01\x6d"), 0o755),
        (archive(before=extended(b"18 path=directory\n\0\0\0")), 0o755),
        (archive(before=extended(b"35 SCHILY.acl.access=user::---,\x41\x41\n")), 0o755),
    ],
    ids=["as tar", "after the NUL", "base 256", "NULs after the records", "list"],
)
def test_the_owner_may_do_anything(data: bytes, mode: int) -> None:
    with tarfile.open(fileobj=io.BytesIO(widened(data))) as tar:
        (member,) = tar.getmembers()
    assert member.mode == mode
    assert "user::---" not in member.pax_headers.get("SCHILY.acl.access", "")


@given(st.binary(min_size=8, max_size=8), st.binary(max_size=60))
def test_anything_is_taken_or_is_a_damaged_archive(mode: bytes, records: bytes) -> None:
    data = archive(mode, before=extended(records) if records else b"")
    try:
        result = widened(data)
    except DamagedArchive:
        return
    assert len(result) >= 1024


@given(st.data())
def test_a_byte_of_any_header_may_be_another(draw: st.DataObject) -> None:
    data = bytearray(archive(before=extended(b"35 SCHILY.acl.access=user::---,\x41\x41\n")))
    data[draw.draw(st.integers(0, len(data) - 1025))] = draw.draw(st.integers(0, 255))
    with suppress(DamagedArchive):
        widened(bytes(data))
