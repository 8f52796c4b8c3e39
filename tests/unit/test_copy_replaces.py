"""Mending an object from another store: whatever fails on the way, the target has what it had, or what it should have."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

import pytest

from tests.parts.memory_store import Clock, Contents, MemoryStore
from tests.unit.test_copied_store import content, copied
from tests.unit.test_damage import Lab, flip, lab  # noqa: F401 -- a fixture
from volferry.damage import mark
from volferry.errors import NoSuchObject, StoreError
from volferry.layout import manifest_key, pack_key
from volferry.observer import Silent
from volferry.operations.copy import Copying, copy_volume
from volferry.repository import Repository
from volferry.retention import Keep
from volferry.stores.local import LocalStore

if TYPE_CHECKING:
    from volferry.model import BackupRef
    from volferry.stores.base import ObjectReader, Store


class Killed(BaseException):
    """Nothing is done after it."""


class Dying:
    """A source that fails in the middle of an object, when that is read for the n-th time and ever after."""

    def __init__(self, store: Store, key: str, reading: int) -> None:
        self._store = store
        self._key = key
        self._left = reading

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def open(self, key: str, *, offset: int = 0, length: int | None = None) -> ObjectReader:
        if key == self._key:
            self._left -= 1
            if self._left <= 0:
                return BreaksOff(self._store.open(key, offset=offset, length=1000))
        return self._store.open(key, offset=offset, length=length)


class BreaksOff:
    def __init__(self, reader: ObjectReader) -> None:
        self._reader = reader

    def read(self, size: int) -> bytes:
        data = self._reader.read(size)
        if not data:
            raise StoreError("the disk with the copy is gone")
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.__exit__(None, None, None)


def copy(source: Repository, target: Repository) -> Copying:
    return copy_volume(
        source, target, "host", "vol", keep=lambda _: Keep(last=50), source_cache=None, target_cache=None,
        observer=Silent(),
    )  # fmt: skip


def first_pack(repository: Repository, ref: BackupRef) -> str:
    return pack_key(ref, repository.manifest(ref).packs[0].name)


@pytest.mark.parametrize("reading", [1, 2])
@pytest.mark.parametrize("what", ["good", "flipped"])
def test_a_source_that_dies_while_an_object_is_read_costs_the_target_nothing(
    lab: Lab,  # noqa: F811
    reading: int,
    what: str,
) -> None:
    key = first_pack(lab.repository, lab.back_up())
    source = Repository.open(LocalStore(copied(lab)))
    source.store = Dying(source.store, key, reading)  # type: ignore[assignment]
    if what == "flipped":
        flip(lab.store / key)
    (info,) = lab.repository.store.list(key)
    mark(lab.repository, info, "a fault of the disk", by="somebody", now=datetime.now(UTC))
    before = content(lab.store)
    if reading == 1:
        with pytest.raises(StoreError, match="disk with the copy is gone"):
            copy(source, lab.repository)
        assert content(lab.store) == before
    else:  # it need not be read twice
        assert copy(source, lab.repository).mended == 1
        assert content(lab.store) == content(lab.directory / "copy")


def test_a_copy_that_is_killed_at_any_moment_leaves_each_object_as_it_was_or_as_it_should_be(
    lab: Lab,  # noqa: F811
) -> None:
    ref = lab.back_up()
    clock = Clock()
    contents = Contents("target", clock)
    good = {info.key: (lab.store / info.key).read_bytes() for info in lab.repository.store.list("")}
    cut_off = first_pack(lab.repository, ref)
    hurt = {**good, cut_off: good[cut_off][:1000], manifest_key(ref): good[manifest_key(ref)][:100]}
    for step in itertools.count():
        contents = Contents("target", clock, {key: (data, clock.look()) for key, data in hurt.items()})
        done = 0

        def count(_: str) -> None:
            nonlocal done
            done += 1
            if done > step:  # noqa: B023 -- called at once
                raise Killed

        target = Repository(MemoryStore(contents, count), lab.repository.id)
        try:
            result = copy(lab.repository, target)
        except Killed:
            result = None
        for key, data in hurt.items():
            assert contents.objects[key][0] in {data, good[key]}, (step, key)
        if result is not None:
            assert result.failed == {}
            break
    assert step > 10
    assert {key: contents.objects[key][0] for key in good} == good


def test_a_manifest_that_is_listed_and_not_to_be_had_is_not_there_already(lab: Lab) -> None:  # noqa: F811
    key = manifest_key(lab.back_up())
    replica = lab.replica()
    before = content(lab.directory / "replica")

    class Ghost:
        def __init__(self, store: Store) -> None:
            self._store = store

        def __getattr__(self, name: str) -> object:
            return getattr(self._store, name)

        def open(self, wanted: str, *, offset: int = 0, length: int | None = None) -> ObjectReader:
            if wanted == key:
                raise NoSuchObject(f"{key} is missing from the store {self._store.url}")
            return self._store.open(wanted, offset=offset, length=length)

    replica.store = Ghost(replica.store)  # type: ignore[assignment]
    result = copy(lab.repository, replica)
    (why,) = result.failed.values()
    assert why.startswith(f"{key} is missing from the store ")
    assert why.endswith("run it again")
    assert (result.there, result.copied) == (0, [])
    assert content(lab.directory / "replica") == before
