"""Ranges of objects that are needed one after another, opened before it is their turn: a store that is far away, or
busy, answers while the range before is still being used.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from volferry.interrupts import held_back

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from volferry.stores.base import ObjectReader, Store

_MOST_AHEAD = 4
_MOST_BYTES = 32 << 20

T = TypeVar("T")


class ObjectRange(NamedTuple):
    key: str
    offset: int
    length: int


def open_ahead(
    store: Store, ranges: Iterator[tuple[T, ObjectRange]]
) -> Generator[tuple[T, ObjectReader], None, None]:
    """What came with each range, and a reader for it, in order; it is closed when the next one is asked for. What
    `ranges` raises, and what opening raises (StoreError, NoSuchObject), comes in its turn.

    `ranges` is drawn from in the caller's thread. At most 4 are opened ahead, and only one where they are long (32 MiB).
    """
    pool = ThreadPoolExecutor(_MOST_AHEAD, thread_name_prefix="ahead")
    waiting: deque[tuple[T, int, Future[ObjectReader]]] = deque()
    failed: Exception | None = None
    more = True

    def fill() -> None:
        nonlocal failed, more
        while more and len(waiting) < _MOST_AHEAD and sum(item[1] for item in waiting) < _MOST_BYTES:
            try:
                item, where = next(ranges)
            except StopIteration:
                more = False
                return
            except Exception as error:  # noqa: BLE001 -- raised in its turn
                failed, more = error, False
                return
            with held_back():  # what was begun must be known below
                job = partial(store.open, where.key, offset=where.offset, length=where.length)
                waiting.append((item, where.length, pool.submit(job)))

    try:
        fill()
        while waiting:
            opened = waiting[0][2].result()
            item, _, _ = waiting.popleft()
            with opened as reader:
                fill()
                yield item, reader
            fill()
        if failed is not None:
            raise failed
    finally:
        # A server that does not answer is not waited for.
        for _, _, future in waiting:
            if not future.cancel():
                future.add_done_callback(_close)
        pool.shutdown(wait=False, cancel_futures=True)


def _close(future: Future[ObjectReader]) -> None:
    if not future.exception():
        future.result().__exit__(None, None, None)
