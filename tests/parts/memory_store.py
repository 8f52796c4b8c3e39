"""A store in memory: every call can be waited at, and its clock can be moved."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import TYPE_CHECKING, Self

from volferry.errors import NoSuchObject, ObjectExists
from volferry.model import ObjectInfo
from volferry.stores.base import validate_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType


@dataclass(slots=True)
class Clock:
    """Goes on by a second a look, and wherever it is put."""

    now: datetime = datetime(2026, 3, 1, tzinfo=UTC)

    def look(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


@dataclass(slots=True)
class Contents:
    """What several processes see of one store."""

    name: str
    clock: Clock
    objects: dict[str, tuple[bytes, datetime]] = field(default_factory=dict)


@dataclass(slots=True)
class MemoryStore:
    """Implements `Store`, for one process; `step(what)` is called before everything that it does."""

    contents: Contents
    step: Callable[[str], None] = lambda _: None

    @property
    def url(self) -> str:
        return f"memory://{self.contents.name}"

    def create(self, key: str) -> MemoryWriter:
        self.step(f"create {key}")
        return MemoryWriter(self, validate_key(key))

    def open(self, key: str, *, offset: int = 0, length: int | None = None) -> MemoryReader:
        self.step(f"open {key}")
        data = self._data(key)
        return MemoryReader(self, key, BytesIO(data[offset : None if length is None else offset + length]))

    def size(self, key: str) -> int:
        self.step(f"size {key}")
        return len(self._data(key))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self.step(f"list {prefix}")
        for key, (data, modified) in sorted(self.contents.objects.items()):
            if key.startswith(prefix):
                yield ObjectInfo(key, len(data), modified)

    def delete(self, key: str) -> None:
        self.step(f"delete {key}")
        self.contents.objects.pop(validate_key(key), None)

    def protect(self, keys: Iterable[str]) -> None:
        self.step("protect")

    def now(self) -> datetime:
        self.step("now")
        return self.contents.clock.look()

    def clean(self) -> None:
        self.step("clean")

    def abort_uploads(self) -> int:
        self.step("abort uploads")
        return 0

    def _data(self, key: str) -> bytes:
        if validate_key(key) not in self.contents.objects:
            raise NoSuchObject(f"{key} is missing from the store {self.url}")
        return self.contents.objects[key][0]


class MemoryWriter:
    """Implements `ObjectWriter`."""

    def __init__(self, store: MemoryStore, key: str) -> None:
        self._store = store
        self._key = key
        self._data = bytearray()

    def write(self, data: bytes) -> None:
        self._data += data

    def commit(self) -> None:
        self._store.step(f"commit {self._key}")
        contents = self._store.contents
        if self._key in contents.objects:
            raise ObjectExists(f"{self._key} is in the store {self._store.url} already")
        contents.objects[self._key] = (bytes(self._data), contents.clock.look())

    def abort(self) -> None:
        pass


class MemoryReader:
    """Implements `ObjectReader`."""

    def __init__(self, store: MemoryStore, key: str, data: BytesIO) -> None:
        self._store = store
        self._key = key
        self._rest = data

    def read(self, size: int) -> bytes:
        self._store.step(f"read {self._key}")
        return self._rest.read(size)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass
