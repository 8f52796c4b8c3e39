from __future__ import annotations

import io
import itertools
import random
import subprocess
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

import pytest
import zstandard
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from volferry.archive.frames import (
    AVERAGE_BYTES,
    MAX_BYTES,
    MIN_BYTES,
    Frame,
    FrameCutter,
    StoredFrame,
    _in_order,
    decode_frame,
    decode_frames,
    encode_frames,
)
from volferry.archive.streambuffer import SEGMENT_BYTES, StreamBuffer
from volferry.errors import DamagedObject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

NOISE = random.Random(1).randbytes(24 << 20)
DULL = bytes(16 << 20)
CUTS_OF_NOISE = [1_521_776, 1_829_765, 518_824, 1_607_681, 487_789, 565_186]


def encoded_frames(raws: Iterable[tuple[int, bytes]], *, level: int) -> Iterator[Frame]:
    for each in encode_frames(raws, level=level, known=()):
        assert isinstance(each, Frame)
        yield each


def cut(data: bytes, pieces: list[int] | None = None, *, segment_bytes: int = SEGMENT_BYTES) -> list[bytes]:
    """The frames of one group whose bytes come in pieces of these sizes, over and over."""
    source = io.BytesIO(data)
    sizes = itertools.cycle(pieces or [1 << 20])
    buffer = StreamBuffer(lambda view: source.readinto(view[: next(sizes)]), segment_bytes=segment_bytes)
    cutter = FrameCutter(buffer)
    assert [*cutter.begin(1, last=0)] == []
    found: list[tuple[int, bytes]] = []
    left = len(data)
    while left:
        left -= len(buffer.take_piece(left))
        if buffer.is_nearly_full:
            found += [(group, bytes(frame)) for group, frame in cutter.certain()]
    found += [(group, bytes(frame)) for group, frame in cutter.begin(None, last=0)]
    assert {group for group, _ in found} <= {1}
    return [frame for _, frame in found]


@given(st.integers(0, 20 << 20), st.lists(st.integers(10_000, 9 << 20), min_size=1, max_size=4))
@settings(max_examples=12)
def test_frames_are_the_same_whatever_the_pieces(size: int, pieces: list[int]) -> None:
    assert cut(NOISE[:size], pieces) == cut(NOISE[:size])


def test_frames_are_the_same_in_the_smallest_pieces() -> None:
    data = NOISE[: 9 << 20]
    assert cut(data, [512]) == cut(data)


@pytest.mark.parametrize("segment_bytes", [100_000, MAX_BYTES, 7 << 20, 30 << 20])
def test_frames_are_the_same_whatever_the_memory(segment_bytes: int) -> None:
    data = NOISE[: 9 << 20]
    assert cut(data, segment_bytes=segment_bytes) == cut(data)


@pytest.mark.parametrize(
    "data", [b"", b"x", NOISE, DULL, DULL + NOISE + DULL], ids=["none", "one", "noise", "dull", "both"]
)
def test_frames_put_together_are_the_data_and_have_the_sizes_of_the_format(data: bytes) -> None:
    frames = cut(data)
    assert b"".join(frames) == data
    assert all(MIN_BYTES <= len(frame) <= MAX_BYTES for frame in frames[:-1])
    assert all(0 < len(frame) <= MAX_BYTES for frame in frames)


def test_frames_of_noise_have_about_the_average_size() -> None:
    frames = cut(NOISE)
    assert AVERAGE_BYTES / 2 < len(NOISE) / len(frames) < AVERAGE_BYTES * 2


def test_the_cuts_are_those_of_the_format() -> None:
    # Other cuts would be no damage, but would meet no frame of an older backup.
    assert [len(frame) for frame in cut(NOISE)][:6] == CUTS_OF_NOISE


def test_a_change_makes_no_more_than_its_own_frames_new() -> None:
    changed = NOISE[: 12 << 20] + b"inserted" + NOISE[12 << 20 :]
    before, after = set(cut(NOISE)), cut(changed)
    assert len([frame for frame in after if frame not in before]) <= 3


def test_groups_are_cut_on_their_own() -> None:
    buffer = StreamBuffer(io.BytesIO(NOISE).readinto, segment_bytes=SEGMENT_BYTES)
    cutter = FrameCutter(buffer)
    buffer.take(1 << 20)
    assert [*cutter.begin(1, last=0)] == []
    buffer.take(5 << 20)
    buffer.take(1 << 20)
    first = [(group, bytes(frame)) for group, frame in cutter.begin(2, last=1 << 20)]
    buffer.take(4 << 20)
    second = [(group, bytes(frame)) for group, frame in cutter.begin(None, last=0)]
    assert first == [(1, frame) for frame in cut(NOISE[1 << 20 : 6 << 20])]
    assert second == [(2, frame) for frame in cut(NOISE[6 << 20 : 11 << 20])]
    assert [*cutter.begin(3, last=0)] == []


def test_a_frame_stays_what_it_is_as_long_as_somebody_holds_it() -> None:
    buffer = StreamBuffer(io.BytesIO(NOISE * 5).readinto, segment_bytes=8 << 20)
    cutter = FrameCutter(buffer)
    assert [*cutter.begin(1, last=0)] == []
    held: deque[tuple[memoryview, bytes]] = deque()
    for _ in range(100):
        buffer.take_piece(1 << 20)
        for _, frame in cutter.certain() if buffer.is_nearly_full else ():
            held.append((frame, bytes(frame)))
            if len(held) > 20:
                oldest, content = held.popleft()
                assert oldest == content
    assert len(held) == 20
    assert all(frame == content for frame, content in held)


raw_frames = st.lists(st.tuples(st.integers(0, 9), st.binary(min_size=1, max_size=3000)), max_size=30)


@given(raw_frames, st.sampled_from([1, 3, 19]))
@settings(max_examples=30)
def test_frames_are_the_same_and_in_order_after_they_were_encoded_and_decoded(
    raws: list[tuple[int, bytes]], level: int
) -> None:
    encoded = list(encoded_frames(raws, level=level))
    assert [(frame.group, frame.digest, frame.raw_bytes) for frame in encoded] == [
        (group, blake3(raw).hexdigest(), len(raw)) for group, raw in raws
    ]
    stored = (StoredFrame("pack", frame.digest, frame.raw_bytes, frame.stored) for frame in encoded)
    assert list(decode_frames(stored, damaged=DamagedObject)) == [raw for _, raw in raws]


def test_frames_stay_in_order_when_the_first_takes_longest() -> None:
    raws = [(0, NOISE[: 4 << 20]), *((1, b"%d" % number) for number in range(200))]
    assert [frame.raw_bytes for frame in encoded_frames(raws, level=19)] == [len(raw) for _, raw in raws]


def test_each_frame_is_a_zstd_file_with_a_checksum_of_its_own() -> None:
    raws = [(0, NOISE[:100_000]), (1, bytes(100_000))]
    stored = [frame.stored for frame in encoded_frames(raws, level=1)]
    for data, (_, raw) in zip(
        [*stored, b"".join(stored)], [*raws, (0, raws[0][1] + raws[1][1])], strict=True
    ):
        assert subprocess.run(["zstd", "-dc"], input=data, capture_output=True, check=True).stdout == raw
    flipped = bytearray(stored[0])
    flipped[50_000] ^= 1
    assert subprocess.run(["zstd", "-tq"], input=flipped, capture_output=True, check=False).returncode != 0


def one_frame(raw: bytes) -> tuple[bytes, str]:
    (frame,) = encoded_frames([(0, raw)], level=3)
    return frame.stored, frame.digest


@pytest.mark.parametrize("raw", [NOISE[:150], b"volume " * 60, bytes(70_000)], ids=["noise", "text", "zeros"])
def test_every_flipped_bit_of_a_stored_frame_is_refused_or_harmless(raw: bytes) -> None:
    stored, digest = one_frame(raw)
    for position in range(len(stored)):
        for bit in range(8):
            damaged = bytearray(stored)
            damaged[position] ^= 1 << bit
            try:
                found = decode_frame(bytes(damaged), digest=digest, raw_bytes=len(raw))
            except ValueError:
                continue
            assert found == raw


def test_every_frame_that_is_cut_off_is_refused() -> None:
    stored, digest = one_frame(b"volume " * 60)
    for end in range(len(stored)):
        with pytest.raises(ValueError, match="frame"):
            decode_frame(stored[:end], digest=digest, raw_bytes=420)


def test_a_frame_of_other_content_is_refused() -> None:
    stored, digest = one_frame(b"one")
    assert decode_frame(stored, digest=digest, raw_bytes=3) == b"one"
    with pytest.raises(ValueError, match="BLAKE3"):
        decode_frame(one_frame(b"two")[0], digest=digest, raw_bytes=3)
    with pytest.raises(ValueError, match="length"):
        decode_frame(stored, digest=digest, raw_bytes=4)


def test_a_damaged_frame_is_an_error_that_names_its_pack() -> None:
    stored, digest = one_frame(b"one")
    frames = [StoredFrame("good", digest, 3, stored), StoredFrame("bad", digest, 3, one_frame(b"two")[0])]
    with pytest.raises(DamagedObject, match=r"^bad is damaged: .*BLAKE3"):
        list(decode_frames(frames, damaged=DamagedObject))


def test_an_error_of_the_source_comes_through() -> None:
    def source() -> object:
        yield 0, b"x"
        raise KeyError("source")

    with pytest.raises(KeyError, match="source"):
        list(encoded_frames(source(), level=1))  # type: ignore[arg-type]


def test_a_stream_that_is_given_up_waits_for_no_thread() -> None:
    """The garbage collector may close it in a thread that is just being started, and that another thread waits for."""
    released = threading.Event()
    jobs: list[tuple[int, Callable[[], bool]]] = [(0, lambda: True), (0, lambda: released.wait(60))]
    results = _in_order(jobs, waits=False)
    assert next(results)
    began = time.monotonic()
    results.close()
    assert time.monotonic() - began < 30
    released.set()


@pytest.mark.parametrize(
    "more",
    [b"junk", zstandard.compress(b"another"), b"\x50\x2a\x4d\x18\x04\0\0\0abcd"],
    ids=["junk", "frame", "skippable"],
)
def test_nothing_follows_a_frame(more: bytes) -> None:
    raw = b"content" * 100
    stored = zstandard.compress(raw)
    assert decode_frame(stored, digest=blake3(raw).hexdigest(), raw_bytes=len(raw)) == raw
    with pytest.raises(ValueError, match="cannot be decompressed"):
        decode_frame(stored + more, digest=blake3(raw).hexdigest(), raw_bytes=len(raw))
