"""Manifests that were read before, kept in the state directory: they never change, so none is fetched twice.

Packs are deleted by what manifests name, and SQLite has no checksums: each row has a digest of its key and its bytes.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from blake3 import blake3

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

_SCHEMA = """
CREATE TABLE IF NOT EXISTS manifests (key TEXT PRIMARY KEY, data BLOB NOT NULL, digest BLOB NOT NULL) WITHOUT ROWID
"""
_SCHEMA_VERSION = 2
_BUSY_SECONDS = 10


class ManifestCache:
    """Of one store. Losing it costs requests, nothing else: whatever is wrong with it, it is as if it were empty."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def all(self, prefix: str) -> dict[str, bytes]:
        """What is known, by key, of the keys that start with `prefix`. A row of which a bit has changed is not."""
        if not self._path.exists():
            return {}
        try:
            with self._opened() as database:
                # "0" is what comes after "/", with which a prefix ends.
                rows = database.execute(
                    "SELECT key, data, digest FROM manifests WHERE key >= ? AND key < ?",
                    (prefix, f"{prefix[:-1]}0"),
                )
                return {key: data for key, data, digest in rows if _is_whole(key, data, digest)}
        except (sqlite3.Error, OSError):
            return {}

    def update(self, new: Mapping[str, bytes], gone: Iterable[str]) -> None:
        """Keeps what was fetched, and forgets what is not in the store any longer."""
        gone = list(gone)
        if not new and not gone:
            return
        try:
            self._path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
            with self._opened() as database, database:
                database.executemany(
                    "INSERT OR REPLACE INTO manifests VALUES (?, ?, ?)",
                    [(key, data, _digest(key, data)) for key, data in new.items()],
                )
                database.executemany("DELETE FROM manifests WHERE key = ?", [(key,) for key in gone])
        except (sqlite3.Error, OSError):
            self._path.unlink(missing_ok=True)

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._path, timeout=_BUSY_SECONDS)) as database:
            if database.execute("PRAGMA user_version").fetchone() != (_SCHEMA_VERSION,):
                database.executescript(
                    f"BEGIN; DROP TABLE IF EXISTS manifests; {_SCHEMA}; PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT"
                )
            yield database


def _digest(key: str, data: bytes) -> bytes:
    return blake3(key.encode() + b"\0" + data).digest()


def _is_whole(key: object, data: object, digest: object) -> bool:
    """A flipped bit may also have made something else than text or bytes of a field."""
    return isinstance(key, str) and isinstance(data, bytes) and _digest(key, data) == digest
