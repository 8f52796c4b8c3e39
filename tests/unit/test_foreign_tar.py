"""Archives that others have made pass through whole or in part, whatever pieces they come in."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from decimal import Decimal
from typing import TYPE_CHECKING, BinaryIO, cast

import pytest
import zstandard
from hypothesis import assume, given
from hypothesis import strategies as st

from volferry.archive.foreign_tar import ForeignTar, Strip, decompressed
from volferry.errors import DamagedArchive

if TYPE_CHECKING:
    from collections.abc import Callable

_NAME = st.text("abc é", min_size=1, max_size=120).filter(lambda text: text.strip(" .") == text)


class _Torn(io.RawIOBase):
    """Gives as little at a time as it likes."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self._inner = io.BytesIO(data)
        self._sizes = sizes

    def read(self, size: int = -1) -> bytes:
        most = self._sizes.pop() if self._sizes else size
        return self._inner.read(min(size, most) if size >= 0 else most)


def _archive(files: dict[str, bytes], kind: int) -> bytes:
    with io.BytesIO() as out:
        with tarfile.open(fileobj=out, mode="w", format=kind) as tar:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return out.getvalue()


def _passed(data: bytes, strip: Strip, sizes: list[int] | None = None) -> tuple[dict[str, bytes], ForeignTar]:
    archive = ForeignTar(cast("BinaryIO", _Torn(data, sizes or [])), strip)
    with tarfile.open(fileobj=io.BytesIO(b"".join(archive.pieces()))) as tar:
        found = {member.name: cast("BinaryIO", tar.extractfile(member)).read() for member in tar}
    return found, archive


@given(
    files=st.dictionaries(_NAME, st.binary(max_size=3000), min_size=1, max_size=6),
    kind=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    sizes=st.lists(st.integers(1, 2000), max_size=20),
)
def test_what_is_wanted_passes_and_nothing_else(files: dict[str, bytes], kind: int, sizes: list[int]) -> None:
    wanted = {f"kept/{name}": content for name, content in files.items()}
    others = {f"other/{name}": content for name, content in files.items()}
    mixed = dict(pair for both in zip(others.items(), wanted.items(), strict=True) for pair in both)
    found, archive = _passed(_archive(mixed, kind), Strip(below=("kept",)), list(sizes))
    assert found == wanted
    assert archive.seen.entries == len(files)
    assert archive.seen.source_bytes == sum(map(len, files.values()))
    whole, _ = _passed(_archive(mixed, kind), Strip(), list(sizes))
    assert whole == mixed


@pytest.mark.parametrize("cut", [0, 100, 512, 700, 1024, 1500, 1536, 2048, 2500, 3072])
def test_what_breaks_off_is_an_error(cut: int) -> None:
    data = _archive({"one": b"1" * 600, "two": b"2" * 600}, tarfile.GNU_FORMAT)
    with pytest.raises(DamagedArchive):
        _passed(data[:cut], Strip())


def test_trees_are_not_thrown_together() -> None:
    data = _archive({"one/file": b"1", "two/file": b"2"}, tarfile.GNU_FORMAT)
    with pytest.raises(DamagedArchive, match="more than one tree"):
        _passed(data, Strip(1))


def test_the_directory_that_holds_all_is_known() -> None:
    _, archive = _passed(_archive({"a/one": b"", "a/two": b""}, tarfile.GNU_FORMAT), Strip())
    assert archive.only_directory == "a"
    _, archive = _passed(_archive({"a/one": b"", "b/two": b""}, tarfile.GNU_FORMAT), Strip())
    assert archive.only_directory is None


_COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.ZstdCompressor().compress,
}


def _names(data: bytes, sizes: list[int] | None = None) -> list[str]:
    stream = decompressed(io.BufferedReader(cast("io.RawIOBase", io.BytesIO(data))))
    archive = ForeignTar(cast("BinaryIO", _Torn(stream.read(), sizes)) if sizes else stream, Strip())
    with tarfile.open(fileobj=io.BytesIO(b"".join(archive.pieces()))) as tar:
        return tar.getnames()


@pytest.mark.parametrize("kind", _COMPRESSORS)
@pytest.mark.parametrize("padding", [0, 1, 512, 10_240, 2 << 20])
def test_archives_one_after_another_are_one(kind: str, padding: int) -> None:
    one, two = (_archive({name: b"content of it" * 100}, tarfile.PAX_FORMAT) for name in ("one", "two"))
    pack = _COMPRESSORS[kind]
    assert _names(pack(one) + pack(two)) == ["one", "two"]
    assert _names(pack(one + bytes(padding // 512 * 512) + two + bytes(padding))) == ["one", "two"]
    if kind in {"gz", "bz2", "xz"}:
        assert _names(pack(one) + bytes(padding // 4 * 4)) == ["one"]


@given(
    st.lists(st.dictionaries(_NAME, st.binary(max_size=700), max_size=2), min_size=1, max_size=4),
    st.lists(st.integers(1, 12_000), max_size=20),
)
def test_none_of_several_archives_is_lost(archives: list[dict[str, bytes]], sizes: list[int]) -> None:
    data = b"".join(_archive(files, tarfile.GNU_FORMAT) for files in archives)
    assume(archives[0])  # what begins with zeros is none
    assert _names(data, sizes or [1 << 20]) == [name for files in archives for name in files]


@pytest.mark.parametrize("kind", _COMPRESSORS)
def test_what_follows_and_is_no_archive_is_an_error(kind: str) -> None:
    pack, data = _COMPRESSORS[kind], _archive({"one": b"1"}, tarfile.GNU_FORMAT)
    for more in (pack(data + b"something else" * 100), pack(data) + b"something else" * 100):
        with pytest.raises(DamagedArchive):
            _names(more)
    other = bz2.compress if kind == "gz" else gzip.compress
    with pytest.raises(DamagedArchive):
        _names(pack(data) + other(data))
    with pytest.raises(DamagedArchive):
        _names(pack(data) + pack(data)[:-20] if kind != "plain" else data + data[:700])


_ROOT_NAMES = st.text("aé/.", min_size=1, max_size=300).filter(lambda name: ".." not in name.split("/"))


@given(
    name=_ROOT_NAMES,
    mode=st.integers(0, 0o7777),
    owner=st.integers(0, 2**32 - 2),
    ns=st.integers(-(10**18), 10**19),
    value=st.binary(max_size=30),
    kind=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
)
def test_the_root_is_what_the_directory_was_whatever_its_name(
    name: str, mode: int, owner: int, ns: int, value: bytes, kind: int
) -> None:
    made = tarfile.TarInfo(name)
    made.type, made.mode, made.uid, made.gid = tarfile.DIRTYPE, mode, owner, owner // 2
    text = value.decode("utf-8", "surrogateescape").replace("\0", "")
    if kind == tarfile.PAX_FORMAT:
        made.pax_headers = {"mtime": f"{Decimal(ns) / 10**9:f}", "SCHILY.xattr.user.é": text, "comment": "no"}
    made.mtime = ns // 10**9
    parts = [part for part in name.split("/") if part not in {"", "."}]
    with io.BytesIO() as out:
        with tarfile.open(fileobj=out, mode="w", format=kind, errors="surrogateescape") as tar:
            tar.addfile(made)
        archive = ForeignTar(cast("BinaryIO", io.BytesIO(out.getvalue())), Strip(len(parts)))
    assert bool(b"".join(archive.pieces()).strip(b"\0")) == (not parts)
    with tarfile.open(fileobj=io.BytesIO(archive.seen.root), errors="surrogateescape") as tar:
        (root,) = tar.getmembers()
    assert (root.name, root.type) == (".", tarfile.DIRTYPE)
    assert (root.mode, root.uid, root.gid) == (mode, owner, owner // 2)
    if kind == tarfile.PAX_FORMAT:
        assert Decimal(root.pax_headers.get("mtime", root.mtime)) * 10**9 == ns
        assert root.pax_headers["SCHILY.xattr.user.é"] == text
        assert "comment" not in root.pax_headers


def test_no_directory_above_is_the_root() -> None:
    made = tarfile.TarInfo("../é")
    made.type = tarfile.DIRTYPE
    with io.BytesIO() as out:
        with tarfile.open(fileobj=out, mode="w") as tar:
            tar.addfile(made)
        archive = ForeignTar(cast("BinaryIO", io.BytesIO(out.getvalue())), Strip(2))
    assert not b"".join(archive.pieces()).strip(b"\0")
    assert archive.seen.root == b""
