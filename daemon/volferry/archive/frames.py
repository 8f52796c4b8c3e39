"""Frames: a group's tar bytes, cut by content, hashed, and compressed to one independent zstd frame each."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from os import cpu_count
from typing import TYPE_CHECKING, TypeVar

import zstandard
from blake3 import blake3
from pyfastcdc import FastCDC

from volferry.archive.tarstream import END_OF_ARCHIVE
from volferry.interrupts import held_back

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Generator, Iterable, Iterator

    from volferry.archive.streambuffer import StreamBuffer

# Part of the format: with other sizes, or another cutter, no frame of an older backup would be met again.
MIN_BYTES = 256 << 10
AVERAGE_BYTES = 1 << 20
MAX_BYTES = 4 << 20

_IN_FLIGHT_BYTES = 48 << 20

T = TypeVar("T")


class FrameCutter:
    """Cuts the bytes of one group after another, in the memory of the buffer that keeps them (FastCDC 2020,
    normalization 1, default gear table), and yields frames with their group's number.

    Cuts are the same whenever they are made, and however the bytes came.
    """

    def __init__(self, buffer: StreamBuffer) -> None:
        self._buffer = buffer
        self._cutter = FastCDC(AVERAGE_BYTES, min_size=MIN_BYTES, max_size=MAX_BYTES)
        self._group: int | None = None
        buffer.keep(last=0)

    def begin(self, group: int | None, *, last: int) -> Iterator[tuple[int, memoryview]]:
        """Ends the group that was begun before the `last` bytes that were taken, and begins `group` with them.
        None is for bytes that are not wanted.
        """
        if self._group is not None:
            for length in self._lengths(self._buffer.kept(but_last=last)):
                yield self._group, self._buffer.hand_out(length)
        self._group = group
        self._buffer.keep(last=last)

    def certain(self) -> Iterator[tuple[int, memoryview]]:
        """Frames whose end does not depend on what is still to come; then there is room for that."""
        if self._group is None:
            self._buffer.keep(last=0)
        else:
            lengths = self._lengths(self._buffer.kept())
            if lengths and lengths[-1] < MAX_BYTES:
                lengths.pop()  # it ends where the data does; the others where their content says so
            for length in lengths:
                yield self._group, self._buffer.hand_out(length)
        self._buffer.renew()

    def _lengths(self, data: memoryview) -> list[int]:
        return [chunk.length for chunk in self._cutter.cut_buf(data)] if data else []


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame as it is stored; `stored` is empty for one that the store has already."""

    group: int
    digest: str  # BLAKE3 of the raw bytes, hex
    raw_bytes: int
    stored: bytes


@dataclass(frozen=True, slots=True)
class ReusedGroup:
    """In place of the frames of a group that was not read."""

    number: int


def encode_frames(
    raw_frames: Iterable[tuple[int, bytes | memoryview] | ReusedGroup], *, level: int, known: Container[bytes]
) -> Generator[Frame | ReusedGroup, None, None]:
    """Hashes and compresses frames, given with their group's number, on all cores, and yields them in order.

    What is in `known`, by BLAKE3 digest, is not compressed, but for the end-of-archive marker. Reused groups are passed on in their place.
    """
    local = threading.local()

    def encode(group: int, raw: bytes | memoryview) -> Frame:
        digest = blake3(raw).digest()
        if digest in known and raw != END_OF_ARCHIVE:
            return Frame(group, digest.hex(), len(raw), b"")
        if not hasattr(local, "compressor"):
            # The content checksum lets `zstd -t` check a pack without volferry.
            local.compressor = zstandard.ZstdCompressor(level=level, write_checksum=True)
        return Frame(group, digest.hex(), len(raw), local.compressor.compress(raw))

    def jobs() -> Iterator[tuple[int, Callable[[], Frame | ReusedGroup]]]:
        for item in raw_frames:
            if isinstance(item, ReusedGroup):
                yield 0, partial(_itself, item)
            else:
                group, raw = item
                yield len(raw), partial(encode, group, raw)

    return _in_order(jobs())


def _itself(item: ReusedGroup) -> ReusedGroup:
    return item


@dataclass(frozen=True, slots=True)
class StoredFrame:
    """A frame that was fetched: its bytes in the store, and what they must be."""

    key: str  # of the pack
    digest: str
    raw_bytes: int
    stored: bytes
    fetch_again: Callable[[], bytes] | None = None


def decode_frames(
    stored_frames: Iterable[StoredFrame | Exception], *, damaged: Callable[[str, str], Exception]
) -> Generator[bytes, None, None]:
    """Raw bytes, in order, decompressed and checked on all cores. Raises `damaged(key, reason)` for a wrong frame, and
    an exception that is given in place of one in its turn.

    A wrong frame is fetched again once: bytes may have changed on their way.
    """

    def decode(frame: StoredFrame | Exception) -> bytes:
        if isinstance(frame, Exception):
            raise frame
        try:
            return decode_frame(frame.stored, digest=frame.digest, raw_bytes=frame.raw_bytes)
        except ValueError as error:
            if frame.fetch_again is None:
                raise damaged(frame.key, str(error)) from error
            return decode(replace(frame, stored=frame.fetch_again(), fetch_again=None))

    jobs = (
        (0 if isinstance(frame, Exception) else frame.raw_bytes, partial(decode, frame))
        for frame in stored_frames
    )
    return _in_order(jobs, waits=False)


def decode_frame(stored: bytes, *, digest: str, raw_bytes: int) -> bytes:
    """The raw bytes of a stored frame. Raises ValueError if they are not those that `digest` names."""
    try:
        # Asked first: a damaged size in the frame's header must not become an allocation.
        if zstandard.frame_content_size(stored) != raw_bytes:
            raise ValueError("a frame does not have the length that the index says")
        # Nothing after it: `zstd` would write that, too, for whoever recovers by hand.
        raw = zstandard.ZstdDecompressor().decompress(stored, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ValueError("a frame cannot be decompressed") from error
    if blake3(raw).hexdigest() != digest:
        raise ValueError("the content of a frame is not what its BLAKE3 digest says")
    return raw


def _in_order(jobs: Iterable[tuple[int, Callable[[], T]]], *, waits: bool = True) -> Generator[T, None, None]:
    """Runs jobs, each given with the bytes that it holds, on all cores; yields their results in order.

    At most 48 MiB are on their way at once; `jobs` is drawn from in the caller's thread. Where it is closed before its end, it waits for
    the jobs that run only if `waits`: the garbage collector may close it in any thread, also in one that is just being started and that
    another thread waits for.
    """
    pool = ThreadPoolExecutor(max_workers=cpu_count() or 2, thread_name_prefix="frames")
    waiting: deque[tuple[int, Future[T]]] = deque()
    in_flight = 0
    try:
        for size, job in jobs:
            with held_back():  # the pool may start a thread
                waiting.append((size, pool.submit(job)))
            in_flight += size
            while waiting and (in_flight > _IN_FLIGHT_BYTES or waiting[0][1].done()):
                done_size, future = waiting.popleft()
                in_flight -= done_size
                yield future.result()
        while waiting:
            yield waiting.popleft()[1].result()
        waits = True
    finally:
        pool.shutdown(wait=waits, cancel_futures=True)
