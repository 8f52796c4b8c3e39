"""The store interface: a flat set of named objects that are written once and never changed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

from volferry.errors import ObjectTooLarge

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime
    from types import TracebackType

    from volferry.model import ObjectInfo

MOST_KEY_CHARACTERS = 1024
# Below it, objects that are there for moments, or left by whoever may not delete: they say nothing of a backup.
PROBES = "probes/"
# Percent-encoded segments: no empty one, none that a filesystem takes for "here", "up" or hidden.
_KEY = re.compile(r"[A-Za-z0-9_%~-][A-Za-z0-9_%.~-]*(/[A-Za-z0-9_%~-][A-Za-z0-9_%.~-]*)*")


def is_valid_key(key: str) -> bool:
    """Whether it stays in the store, on the way in and on the way out."""
    return len(key) <= MOST_KEY_CHARACTERS and _KEY.fullmatch(key) is not None


def validate_key(key: str) -> str:
    """`key` itself. Raises ValueError."""
    if not is_valid_key(key):
        raise ValueError(f"not an object key: {key[:100]!r}")
    return key


class ObjectWriter(Protocol):
    """A new object. It exists once `commit` has returned, on stable storage, and not at all after `abort`: what it replaces is there
    until then, whole.
    """

    def write(self, data: bytes) -> None:
        """Raises StoreError: disk full, no permission, server gone."""

    def commit(self) -> None:
        """Raises ObjectExists if there is an object of that key, unless the writer `replaces` it."""

    def abort(self) -> None:
        """Drops what was written. Never raises; may be called at any time, also after `commit`."""


class ObjectReader(Protocol):
    """The bytes of an object, or of a range of it, in order."""

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, and b"" only at the end. Fewer than asked for are no sign of the end."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Store(Protocol):
    """All methods raise StoreError when the store cannot be read or written, and NoSuchObject for a missing key. Opening and reading
    an object raise DamagedObject where it alone cannot be read.
    """

    @property
    def url(self) -> str:
        """As a user would write it."""

    @property
    def place(self) -> str:
        """Where it is. A copy of a store has its id: what was read in one place says nothing of another."""

    def create(self, key: str, *, replaces: bool = False) -> ObjectWriter:
        """Begins a new object. With `replaces`, it takes the place of one that is there, in one step, at the end. Raises ObjectLocked
        for one that may not be deleted yet.
        """

    def replace(self, key: str, data: bytes) -> None:
        """Puts a small object in place of a damaged one. At any moment there is the one or the other, whole."""

    def put_unlocked(self, key: str, data: bytes) -> None:
        """Writes a small object that is soon deleted again: the store was told to keep others from that."""

    def open(self, key: str, *, offset: int = 0, length: int | None = None) -> ObjectReader:
        """Reads from `offset`, `length` bytes or to the end."""

    def size(self, key: str) -> int: ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose key starts with `prefix`, sorted by key. Objects that are being written are not seen."""

    def delete(self, key: str) -> bool | None:
        """No error if it is not there. Returns True where it still takes up room: a bucket may keep older versions. Raises ObjectLocked
        for one that may not be deleted yet.
        """

    def protect(self, keys: Iterable[str]) -> None:
        """Keeps objects from being deleted, for as long as the store was told to. Nothing where it was not."""

    def now(self) -> datetime:
        """By the clock that objects get their times from."""

    def clean(self) -> None:
        """Removes what dead writers of this machine left behind; what a living one has begun stays."""

    def abort_uploads(self) -> int:
        """As `clean`, and what writers of other machines left behind long ago. Returns how much of that there was."""


@runtime_checkable
class KeepsVersions(Protocol):
    """A store that may have what is deleted still, behind a marker."""

    def keeps_versions(self) -> bool: ...


def put(store: Store, key: str, data: bytes) -> None:
    """Writes a small object at once. Raises ObjectExists."""
    write_whole(store.create(key), data)


def write_whole(writer: ObjectWriter, data: bytes) -> None:
    """All that the object is to hold."""
    try:
        writer.write(data)
        writer.commit()
    except BaseException:
        writer.abort()
        raise


def get(store: Store, key: str, *, limit: int = 64 << 20) -> bytes:
    """All bytes of a small object. Raises ObjectTooLarge for one that is larger than `limit`."""
    parts = []
    total = 0
    with store.open(key) as reader:
        while data := reader.read(1 << 20):
            parts.append(data)
            total += len(data)
            if total > limit:
                raise ObjectTooLarge(
                    f"{key} in {store.url} is larger than {limit} bytes: that is not what volferry wrote"
                )
    return b"".join(parts)
