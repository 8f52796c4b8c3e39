"""Paths and their states through many backups."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volferry.archive.listing import Entry, walk_key
from volferry.operations.find import Histories

if TYPE_CHECKING:
    from collections.abc import Iterator

paths = st.sampled_from([b"a", b"a/b", b"a.b", b"a\x01/c", b"\xff", b"new\nline"])
sizes = st.integers(0, 2)
backups = st.lists(st.dictionaries(paths, sizes), max_size=7)


def entries(found: dict[bytes, int]) -> list[Entry]:
    return [
        Entry(path, b"f 644 0 0 %d 5.0000000000 %d.0 %d 1 " % (found[path], number, number))
        for number, path in enumerate(sorted(found, key=walk_key))
    ]


@given(backups)
def test_every_state_of_every_path_is_found_with_its_backups(found: list[dict[bytes, int]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        histories = Histories(lambda _: True, spool=Path(directory))
        for number, listing in enumerate(found):
            histories.add(number, entries(listing))
        seen = [
            (history.path, [(int(state.stat.size), state.backups) for state in history.states])
            for history in histories
        ]
    expected: dict[bytes, dict[int, list[int]]] = {}
    for number, listing in enumerate(found):
        for path, size in listing.items():
            expected.setdefault(path, {}).setdefault(size, []).append(number)
    assert seen == [(path, list(expected[path].items())) for path in sorted(expected, key=walk_key)]


def test_a_listing_that_breaks_off_adds_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[Entry]:
        yield from entries({b"a": 1, b"b": 1})
        raise ValueError("cut off")

    histories = Histories(lambda path: path != b"c", spool=tmp_path)
    histories.add(0, entries({b"a": 0, b"c": 0}))
    with pytest.raises(ValueError, match="cut off"):
        histories.add(1, broken())
    histories.add(2, entries({b"a": 0}))

    assert [(history.path, [state.backups for state in history.states]) for history in histories] == [
        (b"a", [[0, 2]])
    ]
