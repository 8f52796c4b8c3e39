from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from volferry.errors import NoSuchStore, StoreError, StoreGone
from volferry.known_stores import KnownStores
from volferry.stores.local import LocalStore

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def known(tmp_path: Path) -> KnownStores:
    return KnownStores(tmp_path / "state")


def made(known: KnownStores, store: LocalStore) -> str:
    repository, new = known.open_or_create(store, None, new_store=False)
    assert new
    return repository.id


def test_where_there_never_was_a_store_one_is_made(known: KnownStores, store: LocalStore) -> None:
    with pytest.raises(NoSuchStore):
        known.open(store, None)
    assert known.empty
    identity = made(known, store)
    assert known.open(store, None).id == identity
    assert not known.empty


def test_a_store_that_is_gone_is_made_anew_only_if_a_person_says_so(
    known: KnownStores, store: LocalStore, tmp_path: Path
) -> None:
    identity = made(known, store)
    shutil.rmtree(tmp_path / "store")
    (tmp_path / "store").mkdir()  # the mount point
    for _ in range(2):
        again = LocalStore(tmp_path / "store")
        with pytest.raises(StoreGone, match="is it mounted"):
            known.open(again, None)
        with pytest.raises(StoreGone, match="--new-store"):
            known.open_or_create(again, None, new_store=False)
    assert list((tmp_path / "store").iterdir()) == []
    repository, new = known.open_or_create(LocalStore(tmp_path / "store"), None, new_store=True)
    assert new
    assert repository.id != identity
    assert known.open(LocalStore(tmp_path / "store"), None).id == repository.id


def test_another_store_in_its_place_is_an_error(
    known: KnownStores, store: LocalStore, tmp_path: Path
) -> None:
    made(known, store)
    (tmp_path / "store").rename(tmp_path / "unmounted")
    other = made(KnownStores(tmp_path / "other state"), LocalStore(tmp_path / "store"))
    with pytest.raises(StoreError, match="another one than before"):
        known.open(LocalStore(tmp_path / "store"), None)
    repository, new = known.open_or_create(LocalStore(tmp_path / "store"), None, new_store=True)
    assert (repository.id, new) == (other, False)


def test_a_store_that_was_only_looked_at_is_known_too(
    known: KnownStores, store: LocalStore, tmp_path: Path
) -> None:
    made(KnownStores(tmp_path / "other state"), store)
    known.open(store, None)
    shutil.rmtree(tmp_path / "store")
    with pytest.raises(StoreGone):
        known.open(LocalStore(tmp_path / "store"), None)


def test_one_url_of_two_servers_is_two_places(known: KnownStores, store: LocalStore) -> None:
    made(known, store)
    shutil.rmtree(store.url)
    with pytest.raises(NoSuchStore):
        known.open(LocalStore(store._root), "https://other.example.org")


def test_a_damaged_memory_is_none(known: KnownStores, store: LocalStore, tmp_path: Path) -> None:
    identity = made(known, store)
    (file,) = (tmp_path / "state" / "known-stores").iterdir()
    file.write_bytes(file.read_bytes()[:-5])
    assert known.open(store, None).id == identity
    file.write_bytes(b"")
    shutil.rmtree(tmp_path / "store")
    with pytest.raises(StoreGone):  # which store it was is lost, not that there was one
        known.open(LocalStore(tmp_path / "store"), None)
