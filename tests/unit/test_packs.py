from __future__ import annotations

import itertools
import random
import subprocess
from typing import TYPE_CHECKING

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_128

from volferry.archive.frames import Frame, encode_frames
from volferry.archive.packs import PackWriter
from volferry.errors import StoreError

if TYPE_CHECKING:
    from volferry.archive.index import FrameLocation

BACKUP_ID = "20260102T030405Z-0a1b2c"


class Objects:
    """The objects that a writer made, and what was done to them, in order."""

    def __init__(self, *, space: int | None = None) -> None:
        self.committed: dict[str, bytes] = {}
        self.aborted: list[str] = []
        self.open: set[str] = set()
        self.space = space

    def begin(self, name: str) -> Sink:
        assert not self.open, "a pack is committed before the next one is opened"
        assert name not in self.committed
        self.open.add(name)
        return Sink(self, name)


class Sink:
    def __init__(self, objects: Objects, name: str) -> None:
        self._objects = objects
        self._name = name
        self._data = b""

    def write(self, data: bytes) -> None:
        self._data += data
        if self._objects.space is not None and len(self._data) > self._objects.space:
            raise StoreError("no space is left")

    def commit(self) -> None:
        self._objects.open.remove(self._name)
        self._objects.committed[self._name] = self._data

    def abort(self) -> None:
        self._objects.open.discard(self._name)
        self._objects.aborted.append(self._name)


def frame(group: int, stored: bytes) -> Frame:
    return Frame(group, blake3(stored).hexdigest(), len(stored), stored)


# Groups as lists of stored frames.
volumes = st.lists(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=6), max_size=12)


def packed(volume: list[list[bytes]], pack_bytes: int) -> tuple[Objects, PackWriter, list[FrameLocation]]:
    objects = Objects()
    writer = PackWriter(BACKUP_ID, objects.begin, on_committed=lambda _: None, pack_bytes=pack_bytes)
    locations = [writer.add(frame(group, stored)) for group, each in enumerate(volume) for stored in each]
    writer.finish()
    return objects, writer, locations


@given(volumes, st.integers(1, 200))
def test_each_frame_is_where_its_location_says(volume: list[list[bytes]], pack_bytes: int) -> None:
    objects, _, locations = packed(volume, pack_bytes)
    frames = [(group, stored) for group, each in enumerate(volume) for stored in each]
    for (group, stored), location in zip(frames, locations, strict=True):
        pack = objects.committed[location.pack]
        assert pack[location.offset : location.offset + location.stored_bytes] == stored
        assert (location.group, location.raw_bytes, location.digest) == (
            group,
            len(stored),
            blake3(stored).hexdigest(),
        )


@given(volumes, st.integers(1, 200))
def test_packs_one_after_another_are_all_frames_in_order(volume: list[list[bytes]], pack_bytes: int) -> None:
    objects, _, _ = packed(volume, pack_bytes)
    assert b"".join(objects.committed.values()) == b"".join(itertools.chain.from_iterable(volume))
    assert list(objects.committed) == sorted(objects.committed)
    assert all(objects.committed.values())


@given(volumes, st.integers(1, 200))
def test_a_pack_ends_where_a_group_does_or_where_a_group_alone_fills_it(
    volume: list[list[bytes]], pack_bytes: int
) -> None:
    objects, _, locations = packed(volume, pack_bytes)
    for before, after in itertools.pairwise(locations):
        if before.pack == after.pack:
            # It goes on only while it is not full, or within a group.
            assert after.offset < pack_bytes or before.group == after.group
        else:
            assert len(objects.committed[before.pack]) >= pack_bytes
            of_group = sum(
                each.stored_bytes
                for each in locations
                if each.group == after.group and each.pack <= before.pack
            )
            assert before.group != after.group or of_group >= pack_bytes


@given(volumes, st.integers(1, 200))
def test_what_is_known_of_a_pack_is_what_it_is(volume: list[list[bytes]], pack_bytes: int) -> None:
    objects, writer, _ = packed(volume, pack_bytes)
    assert [(pack.name, pack.stored_bytes, pack.digest) for pack in writer.packs] == [
        (name, len(data), f"xxh128:{xxh3_128(data).hexdigest()}") for name, data in objects.committed.items()
    ]
    assert all(pack.live_bytes == pack.stored_bytes for pack in writer.packs)


def test_packs_are_named_after_their_backup() -> None:
    objects, _, _ = packed([[b"x"] for _ in range(3)], 1)
    assert list(objects.committed) == [f"{BACKUP_ID}.0000", f"{BACKUP_ID}.0001", f"{BACKUP_ID}.0002"]


def test_one_group_larger_than_a_pack_is_cut_at_frames() -> None:
    objects, _, _ = packed([[b"x" * 10] * 10], 25)
    assert [len(data) for data in objects.committed.values()] == [30, 30, 30, 10]


def test_nothing_makes_no_pack() -> None:
    objects, writer, _ = packed([], 100)
    assert objects.committed == {}
    assert writer.packs == []


def test_an_abort_leaves_nothing_of_the_pack_that_was_being_written() -> None:
    objects = Objects()
    writer = PackWriter(BACKUP_ID, objects.begin, on_committed=lambda _: None, pack_bytes=10)
    for group in range(3):
        writer.add(frame(group, b"0123456789"))
    writer.abort()
    assert objects.aborted == [f"{BACKUP_ID}.0002"]
    assert objects.open == set()
    assert (
        [pack.name for pack in writer.packs]
        == [*objects.committed]
        == [f"{BACKUP_ID}.{n:04d}" for n in (0, 1)]
    )
    writer.abort()
    assert len(objects.aborted) == 1, "a second abort does nothing"


def test_a_store_that_is_full_leaves_nothing_once_it_was_aborted() -> None:
    objects = Objects(space=15)
    writer = PackWriter(BACKUP_ID, objects.begin, on_committed=lambda _: None)
    writer.add(frame(0, b"0123456789"))
    with pytest.raises(StoreError, match="no space"):
        writer.add(frame(0, b"0123456789"))
    writer.abort()
    assert objects.committed == {}
    assert objects.open == set()


def test_packs_one_after_another_decompress_to_the_stream() -> None:
    noise = random.Random(2)
    raws = [(group, noise.randbytes(noise.randrange(1, 50_000))) for group in range(20) for _ in range(3)]
    objects = Objects()
    writer = PackWriter(BACKUP_ID, objects.begin, on_committed=lambda _: None, pack_bytes=200_000)
    for each in encode_frames(raws, level=1, known=()):
        assert isinstance(each, Frame)
        writer.add(each)
    writer.finish()
    assert len(objects.committed) > 3
    done = subprocess.run(
        ["zstd", "-dc"], input=b"".join(objects.committed.values()), capture_output=True, check=True
    )
    assert done.stdout == b"".join(raw for _, raw in raws)
    for data in objects.committed.values():
        subprocess.run(["zstd", "-tq"], input=data, check=True)
