"""Archives that others have made pass through whole or in part, whatever pieces they come in."""

from __future__ import annotations

import io
import tarfile
from typing import BinaryIO, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volferry.archive.foreign_tar import ForeignTar, Strip
from volferry.errors import DamagedArchive

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
