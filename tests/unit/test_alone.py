"""A file with holes, whatever becomes of it while `tar` reads it, costs nothing but itself."""

from __future__ import annotations

import io
import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parts.local_helper import LocalVolume
from tests.parts.restoring import restored_whole
from tests.parts.trees import assert_same, snapshot, write_sparse
from tests.unit.real_trees import listing, raw_tar
from volferry.archive.alone import TOO_LONG, TOO_SHORT, AloneStream
from volferry.archive.tarstream import END_OF_ARCHIVE
from volferry.errors import CommandFailed
from volferry.repository import Repository
from volferry.stores.local import LocalStore

if TYPE_CHECKING:
    from pathlib import Path

    from volferry.model import BackupRef

MIB = 1 << 20


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The member of a file with a hole, without the end of the archive."""
    directory = tmp_path_factory.mktemp("sparse")
    noise = random.Random(1).randbytes(100_000)
    write_sparse(bytes(directory / "file"), 3 * MIB, {0: noise, 2 * MIB: noise[:5000]})
    spool = tmp_path_factory.mktemp("spool")
    entries = [each for each in listing(directory, spool) if each.path == b"file"]
    return _member(raw_tar(directory, entries))


def _member(raw: bytes) -> bytes:
    stream = AloneStream(io.BytesIO(raw).readinto)
    member = stream.member(b"file")
    assert member is not None
    assert member.sparse
    return member.header + raw[len(member.header) :][: member.payload_bytes]


def read(raw: bytes) -> tuple[bytes, list[str], int]:
    """What is stored, what is said of it, and how often its record is."""
    said: list[str] = []
    begun: list[None] = []
    stream = AloneStream(io.BytesIO(raw).readinto)
    member = stream.member(b"file")
    assert member is not None
    frames = stream.frames(member, 7, lambda: begun.append(None), said.append)
    stored = b"".join(bytes(raw) for _, raw in frames)
    return stored, said, len(begun)


def test_what_nothing_happens_to_is_stored_as_it_is(stream: bytes) -> None:
    assert read(stream + END_OF_ARCHIVE + bytes(9000)) == (stream, [], 1)


@given(surplus=st.binary(min_size=1, max_size=3000).filter(lambda data: bool(data.strip(b"\0"))))
def test_what_is_too_much_is_dropped(stream: bytes, surplus: bytes) -> None:
    assert read(stream + surplus + END_OF_ARCHIVE) == (stream, [TOO_LONG], 1)


def test_a_header_that_comes_too_much_is_no_member(stream: bytes) -> None:
    assert read(stream + bytes(1024) + stream + END_OF_ARCHIVE) == (stream, [TOO_LONG], 1)


@given(data=st.data())
def test_what_is_missing_is_filled_with_zeros(stream: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(5000, len(stream) - 1))
    stored, said, begun = read(stream[:cut])
    assert stored == stream[:cut].ljust(len(stream), b"\0")
    assert (said, begun) == ([TOO_SHORT], 1)


@pytest.mark.parametrize("wrong", [b"2\n0\n99840\n", b"9\n0\n", b"1\n0\n3145728\n", b"\0"])
def test_of_a_map_that_does_not_fit_nothing_is_stored(stream: bytes, wrong: bytes) -> None:
    at = stream.index(b"\n2097152\n") // 512 * 512
    with pytest.raises(ValueError, match="has a map of"):
        read(stream[:at] + wrong.ljust(512, b"\0") + stream[at + 512 :] + END_OF_ARCHIVE)


def test_another_member_is_no_answer(stream: bytes) -> None:
    with pytest.raises(CommandFailed, match="in place of"):
        AloneStream(io.BytesIO(stream).readinto).member(b"other")


def test_each_comes_in_its_turn_and_nothing_around_it_is_missed(tmp_path: Path) -> None:
    repository, _ = Repository.open_or_create(LocalStore(tmp_path / "store"))
    volume = LocalVolume(tmp_path / "data", tmp_path / "state")
    noise = random.Random(2)
    for name in ("a", "a/b", "c", "d"):
        directory = volume.data / name
        directory.mkdir(parents=True)
        (directory / "file").write_bytes(noise.randbytes(3000))
        write_sparse(bytes(directory / "sparse"), 5 * MIB, {MIB: noise.randbytes(70_000)})
        write_sparse(bytes(directory / "sparse too"), 2 * MIB, {})
    first = volume.back_up(repository)
    assert first.findings == ()
    assert first.read_bytes < 4 * MIB
    assert_restores(repository, first.ref, volume, tmp_path / "one")
    for name in ("a", "d"):
        (volume.data / name / "sparse").unlink()
        write_sparse(bytes(volume.data / name / "sparse"), 6 * MIB, {0: b"another"})
    second = volume.back_up(repository)
    assert (second.findings, second.read_bytes < 2 * MIB) == ((), True)
    assert_restores(repository, second.ref, volume, tmp_path / "two")


def assert_restores(repository: Repository, ref: BackupRef, volume: LocalVolume, place: Path) -> None:
    assert_same(snapshot(volume.data), snapshot(restored_whole(repository, ref, place)))
