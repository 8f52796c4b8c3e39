"""Digests of stored objects, each written with how it was made: `blake3:<hex>` or `xxh128:<hex>`.

Packs have XXH128 (XXH3), ten times as fast: it finds what broke by itself, and against what somebody has made up each frame
has its BLAKE3 digest in the index (docs/decisions/0013-digests-of-packs.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from blake3 import blake3
from xxhash import xxh3_128

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_ALGORITHMS: dict[str, Callable[[], Hasher]] = {"blake3": blake3, "xxh128": xxh3_128}


class Hasher(Protocol):
    def update(self, data: bytes, /) -> object: ...
    def hexdigest(self) -> str: ...


class ObjectHasher:
    """The digest of an object, as its bytes come: by `algorithm`, or in the way of a digest to compare with."""

    def __init__(self, algorithm: str = "blake3") -> None:
        self._name = algorithm.partition(":")[0]
        self._hasher = _ALGORITHMS[self._name]()
        self.stored_bytes = 0

    def update(self, data: bytes) -> None:
        self._hasher.update(data)
        self.stored_bytes += len(data)

    @property
    def digest(self) -> str:
        return f"{self._name}:{self._hasher.hexdigest()}"

    @property
    def found(self) -> ObjectDigest:
        return ObjectDigest(self.stored_bytes, self.digest)


@dataclass(frozen=True, slots=True)
class ObjectDigest:
    """What a finished object must be."""

    stored_bytes: int
    digest: str

    @property
    def hex(self) -> str:
        return self.digest.partition(":")[2]

    def other_size(self, stored_bytes: int) -> str | None:
        """What is wrong with an object of so many bytes, or None."""
        if stored_bytes == self.stored_bytes:
            return None
        return f"it has {stored_bytes} bytes instead of {self.stored_bytes}"

    def difference(self, expected: ObjectDigest) -> str | None:
        """What is wrong with an object that should be as `expected`, or None."""
        if wrong := expected.other_size(self.stored_bytes):
            return wrong
        if self.digest != expected.digest:
            return f"its content does not match its {expected.digest.partition(':')[0].upper()} digest"
        return None


def digested(
    blocks: Iterable[bytes], write: Callable[[bytes], object] | None = None, *, algorithm: str = "blake3"
) -> ObjectDigest:
    """What the blocks are, all together; each is handed to `write`. `algorithm` as for ObjectHasher."""
    hasher = ObjectHasher(algorithm)
    for block in blocks:
        hasher.update(block)
        if write is not None:
            write(block)
    return hasher.found
