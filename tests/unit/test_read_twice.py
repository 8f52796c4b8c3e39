"""An object is read a second time, by a reader of its own, before it is called damaged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.parts.recorded_store import RecordedStore
from volferry.archive.digests import digested
from volferry.errors import DamagedObject, StoreError
from volferry.operations.verify import wrong_object
from volferry.repository import Repository
from volferry.stores.base import put
from volferry.stores.local import LocalStore

if TYPE_CHECKING:
    from pathlib import Path

    from volferry.stores.base import ObjectReader

KEY = "packs/h/v/one.tar.zst"
DATA = bytes(range(256)) * 40


@dataclass
class Weak(RecordedStore):
    """Its first readers give less, or nothing."""

    weak: int = 0
    error: Exception | None = None

    def open(self, key: str, *, offset: int = 0, length: int | None = None) -> ObjectReader:
        reader = super().open(key, offset=offset, length=length)
        if len(self.of("open")) > self.weak:
            return reader
        if self.error is not None:
            raise self.error
        return super().open(key, offset=offset, length=len(DATA) - 7)


@pytest.mark.parametrize("error", [None, DamagedObject(KEY, "the disk cannot read it")])
@pytest.mark.parametrize(("weak", "wrong"), [(0, False), (1, False), (9, True)])
def test_what_was_read_badly_once_is_not_damaged(
    tmp_path: Path, weak: int, error: Exception | None, *, wrong: bool
) -> None:
    store = Weak(LocalStore(tmp_path), weak=weak, error=error)
    put(store, KEY, DATA)
    found = wrong_object(Repository(store, "0" * 8), KEY, digested([DATA]))
    assert isinstance(found, DamagedObject) == wrong
    assert found is None or "disk cannot read it" in str(found) or "bytes" in str(found)


def test_a_store_that_does_not_answer_is_no_damage(tmp_path: Path) -> None:
    store = Weak(LocalStore(tmp_path), weak=9, error=StoreError("away"))
    put(store, KEY, DATA)
    assert str(wrong_object(Repository(store, "0" * 8), KEY, digested([DATA]))) == "away"
