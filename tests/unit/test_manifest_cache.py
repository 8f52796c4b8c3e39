"""A manifest that this machine keeps is believed only if its row is as it was written."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volferry.manifest_cache import ManifestCache, _digest, _is_whole

if TYPE_CHECKING:
    from pathlib import Path

KEY, DATA = "manifests/host/vol/20260101T000000Z-aaaaaa.json", b'{"format": 2}\n'
PREFIX = "manifests/host/vol/"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "manifests.sqlite"


def change(path: Path, statement: str, *values: Any) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(statement, values)


def test_what_was_kept_is_there_and_what_is_gone_is_not(path: Path) -> None:
    cache = ManifestCache(path)
    cache.update({KEY: DATA, PREFIX + "b": b"2"}, [])
    cache.update({}, [PREFIX + "b"])
    assert cache.all(PREFIX) == {KEY: DATA}


def test_an_object_that_was_written_since_is_not_known(path: Path) -> None:
    cache = ManifestCache(path)
    then = datetime(2026, 1, 1, 0, 0, 0, 123456, tzinfo=UTC)
    cache.update({KEY: DATA, PREFIX + "gone": b"2"}, [], {KEY: then, PREFIX + "gone": then})
    assert cache.all(PREFIX, {KEY: then}) == {KEY: DATA, PREFIX + "gone": b"2"}
    assert cache.all(PREFIX, {KEY: then + timedelta(microseconds=1)}) == {PREFIX + "gone": b"2"}


@given(st.text(), st.binary(), st.data())
def test_every_flipped_bit_of_a_row_is_found(key: str, data: bytes, draw: st.DataObject) -> None:
    encoded = key.encode("utf-8", "replace")
    row = [encoded, data, _digest(encoded.decode(), data)]
    field = draw.draw(st.sampled_from([number for number, value in enumerate(row) if value]))
    bit = draw.draw(st.integers(0, 8 * len(row[field]) - 1))
    flipped = bytearray(row[field])
    flipped[bit // 8] ^= 1 << bit % 8
    row[field] = bytes(flipped)
    try:
        changed = row[0].decode()
    except UnicodeDecodeError:  # SQLite fails
        return
    assert not _is_whole(changed, row[1], row[2])


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        ("UPDATE manifests SET data = ?", (DATA.replace(b"2", b"3"),)),
        ("UPDATE manifests SET data = ?", (DATA[:-1],)),
        ("UPDATE manifests SET data = ?", (DATA.decode(),)),
        ("UPDATE manifests SET key = ?", (KEY.replace("vol/2", "vol/3"),)),
        ("UPDATE manifests SET digest = zeroblob(32)", ()),
        ("UPDATE manifests SET key = CAST(x'ff' AS TEXT)", ()),
    ],
)
def test_a_row_that_was_changed_is_not_known_and_is_written_anew(
    path: Path, statement: str, values: tuple[Any, ...]
) -> None:
    cache = ManifestCache(path)
    cache.update({KEY: DATA}, [])
    change(path, statement, *values)
    assert cache.all(PREFIX) == {}
    cache.update({KEY: DATA}, [])
    assert cache.all(PREFIX)[KEY] == DATA


def test_a_file_of_an_earlier_version_is_as_if_it_were_empty(path: Path) -> None:
    path.parent.mkdir()
    change(path, "CREATE TABLE manifests (key TEXT PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID")
    change(path, "INSERT INTO manifests VALUES (?, ?)", KEY, DATA)
    cache = ManifestCache(path)
    assert cache.all(PREFIX) == {}
    cache.update({KEY: DATA}, [])
    assert cache.all(PREFIX) == {KEY: DATA}
