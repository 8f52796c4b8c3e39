"""Ranges that are opened ahead come in order, and so do errors."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from volferry.errors import NoSuchObject
from volferry.stores.ahead import ObjectRange, open_ahead
from volferry.stores.base import put
from volferry.stores.local import LocalStore

if TYPE_CHECKING:
    from collections.abc import Iterator

_CONTENT = bytes(range(256))


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path)
    for number in range(20):
        put(store, f"packs/{number}", _CONTENT)
    return store


def _read(store: LocalStore, ranges: Iterator[tuple[int, ObjectRange]]) -> Iterator[tuple[int, bytes]]:
    with closing(open_ahead(store, ranges)) as opened:
        for number, reader in opened:
            yield number, reader.read(1000)


def _numbers(read: Iterator[tuple[int, bytes]]) -> Iterator[int]:
    return (number for number, _ in read)


@pytest.mark.parametrize("length", [1, 100, 256])
def test_each_range_comes_in_order(store: LocalStore, length: int) -> None:
    ranges = ((number, ObjectRange(f"packs/{number}", number, length)) for number in range(20))
    assert list(_read(store, ranges)) == [
        (number, _CONTENT[number : number + length]) for number in range(20)
    ]


def test_what_is_missing_is_an_error_in_its_turn(store: LocalStore) -> None:
    store.delete("packs/3")
    came: list[int] = []
    with pytest.raises(NoSuchObject):
        came.extend(_numbers(_read(store, ((n, ObjectRange(f"packs/{n}", 0, 1)) for n in range(20)))))
    assert came == [0, 1, 2]


def test_an_error_of_who_asks_comes_in_its_turn(store: LocalStore) -> None:
    def ranges() -> Iterator[tuple[int, ObjectRange]]:
        yield 0, ObjectRange("packs/0", 0, 1)
        yield 1, ObjectRange("packs/1", 0, 1)
        raise ValueError("the index is damaged")

    came: list[int] = []
    with pytest.raises(ValueError, match="damaged"):
        came.extend(_numbers(_read(store, ranges())))
    assert came == [0, 1]


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("ended_at", [0, 5, 19])
def test_nothing_stays_open_when_it_ends_early(store: LocalStore, ended_at: int) -> None:
    before = _open_files()
    for _ in range(20):
        reading = _read(store, ((n, ObjectRange(f"packs/{n}", 0, 1)) for n in range(20)))
        for number, _ in reading:
            if number == ended_at:
                break
        reading.close()  # type: ignore[attr-defined]
    assert _open_files() <= before + 4
