"""Manifests that were read before, kept in the state directory: they never change, so none is fetched twice."""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

_SCHEMA = "CREATE TABLE IF NOT EXISTS manifests (key TEXT PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID"
_BUSY_SECONDS = 10


class ManifestCache:
    """Of one store. Losing it costs requests, nothing else: whatever is wrong with it, it is as if it were empty."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def all(self, prefix: str) -> dict[str, bytes]:
        """What is known, by key, of the keys that start with `prefix`."""
        if not self._path.exists():
            return {}
        try:
            with self._opened() as database:
                # "0" is what comes after "/", with which a prefix ends.
                rows = database.execute(
                    "SELECT key, data FROM manifests WHERE key >= ? AND key < ?", (prefix, f"{prefix[:-1]}0")
                )
                return dict(rows)
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
                database.executemany("INSERT OR REPLACE INTO manifests VALUES (?, ?)", new.items())
                database.executemany("DELETE FROM manifests WHERE key = ?", [(key,) for key in gone])
        except (sqlite3.Error, OSError):
            self._path.unlink(missing_ok=True)

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._path, timeout=_BUSY_SECONDS)) as database:
            database.execute(_SCHEMA)
            yield database
