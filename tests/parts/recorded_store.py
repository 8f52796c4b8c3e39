"""A store that writes down every call and counts the bytes that are read, so that a test can say what a thing costs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime
    from types import TracebackType

    from volferry.model import ObjectInfo
    from volferry.stores.base import ObjectReader, ObjectWriter, Store


@dataclass(slots=True)
class Call:
    """One call; `read_bytes` grows as what was opened is read."""

    verb: str
    key: str
    read_bytes: int = 0


@dataclass(slots=True)
class RecordedStore:
    """Implements `Store` by handing everything on to another one."""

    store: Store
    calls: list[Call] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.store.url

    @property
    def place(self) -> str:
        return self.store.place

    def of(self, verb: str, kind: str = "") -> list[Call]:
        """The calls of one verb, for keys that start with `kind`."""
        return [call for call in self.calls if call.verb == verb and call.key.startswith(kind)]

    def read_bytes(self, kind: str = "") -> int:
        return sum(call.read_bytes for call in self.of("open", kind))

    def create(self, key: str, *, replaces: bool = False) -> ObjectWriter:
        self._record("create", key)
        return self.store.create(key, replaces=replaces)

    def replace(self, key: str, data: bytes) -> None:
        self._record("replace", key)
        self.store.replace(key, data)

    def put_unlocked(self, key: str, data: bytes) -> None:
        self._record("put_unlocked", key)
        self.store.put_unlocked(key, data)

    def open(self, key: str, *, offset: int = 0, length: int | None = None) -> ObjectReader:
        call = self._record("open", key)
        return RecordedReader(self.store.open(key, offset=offset, length=length), call)

    def size(self, key: str) -> int:
        self._record("size", key)
        return self.store.size(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._record("list", prefix)
        return self.store.list(prefix)

    def delete(self, key: str) -> None:
        self._record("delete", key)
        self.store.delete(key)

    def protect(self, keys: Iterable[str]) -> None:
        self.store.protect(keys)

    def abort_uploads(self) -> int:
        return self.store.abort_uploads()

    def now(self) -> datetime:
        return self.store.now()

    def clean(self) -> None:
        self._record("clean", "")
        self.store.clean()

    def _record(self, verb: str, key: str) -> Call:
        call = Call(verb, key)
        self.calls.append(call)
        return call


@dataclass(slots=True)
class RecordedReader:
    """Implements `ObjectReader`."""

    reader: ObjectReader
    call: Call

    def read(self, size: int) -> bytes:
        data = self.reader.read(size)
        self.call.read_bytes += len(data)
        return data

    def __enter__(self) -> Self:
        self.reader.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.reader.__exit__(kind, error, trace)
