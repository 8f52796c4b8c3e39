"""Manifests that were read before, kept in the state directory: they never change, so none is fetched twice. Of those that were only written, it knows the names.

Packs are deleted by what manifests name, and SQLite has no checksums: each row has a digest of its key and its bytes. Nor is a row believed of an object that
was written since, as by somebody who edited it.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from blake3 import blake3

from volferry.layout import manifest_key, ref_of_manifest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import datetime
    from pathlib import Path

    from volferry.model import BackupRef

_SCHEMA = """
CREATE TABLE IF NOT EXISTS manifests (
    key TEXT PRIMARY KEY, data BLOB NOT NULL, digest BLOB NOT NULL, written TEXT NOT NULL
) WITHOUT ROWID
"""
_SCHEMA_VERSION = 3
_BUSY_SECONDS = 10


class ManifestCache:
    """Of one place, which may share the file with copies of its store. Losing it costs requests, nothing else: whatever is wrong with
    it, it is as if it were empty.
    """

    def __init__(self, path: Path, place: str = "") -> None:
        self._path = path
        self._place = f"{place}\n" if place else ""  # before each key

    def all(self, prefix: str, written: Mapping[str, datetime] | None = None) -> dict[str, bytes]:
        """The known manifests whose keys start with `prefix`, by key. Leaves out rows of which a bit has changed, and those of objects for which `written` has another
        time.
        """
        if not self._path.exists():
            return {}
        try:
            with self._opened() as database:
                # "0" is what comes after "/", with which a prefix ends.
                wanted = f"{self._place}{prefix}"
                rows = database.execute(
                    "SELECT key, data, digest, written FROM manifests WHERE key >= ? AND key < ?",
                    (wanted, f"{wanted[:-1]}0"),
                )
                times = written or {}
                found = {
                    key.removeprefix(self._place): (data, time)
                    for key, data, digest, time in rows
                    if _is_whole(key, data, digest) and data
                }
                return {
                    key: data
                    for key, (data, time) in found.items()
                    if key not in times or _text(times[key]) == time
                }
        except (sqlite3.Error, OSError):
            return {}

    def refs(self, prefix: str) -> set[BackupRef]:
        """Of all manifests that are known, of the keys that start with `prefix`."""
        if not self._path.exists():
            return set()
        wanted = f"{self._place}{prefix}"
        try:
            with self._opened() as database:
                rows = database.execute(
                    "SELECT key FROM manifests WHERE key >= ? AND key < ?", (wanted, f"{wanted[:-1]}0")
                )
                keys = [key.removeprefix(self._place) for (key,) in rows if isinstance(key, str)]
        except (sqlite3.Error, OSError):
            return set()
        return {ref for key in keys if (ref := ref_of_manifest(key)) is not None}

    def note(self, ref: BackupRef) -> None:
        """Of a backup that this machine has just made: from now on, it is among `refs`."""
        self.update({manifest_key(ref): b""}, ())

    def update(
        self, new: Mapping[str, bytes], gone: Iterable[str], written: Mapping[str, datetime] | None = None
    ) -> None:
        """Keeps what was fetched, with the times of the objects, and forgets what is `gone` for good."""
        gone = list(gone)
        if not new and not gone:
            return
        try:
            self._path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
            with self._opened() as database, database:
                database.executemany(
                    "INSERT OR REPLACE INTO manifests VALUES (?, ?, ?, ?)",
                    [
                        (key, data, _digest(key, data), _text((written or {}).get(name)))
                        for key, name, data in (
                            (f"{self._place}{name}", name, data) for name, data in new.items()
                        )
                    ],
                )
                database.executemany(
                    "DELETE FROM manifests WHERE key = ?", [(f"{self._place}{key}",) for key in gone]
                )
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


def _text(time: datetime | None) -> str:
    return "" if time is None else time.isoformat()


def _digest(key: str, data: bytes) -> bytes:
    return blake3(key.encode() + b"\0" + data).digest()


def _is_whole(key: object, data: object, digest: object) -> bool:
    """A flipped bit may also have made something else than text or bytes of a field."""
    return isinstance(key, str) and isinstance(data, bytes) and _digest(key, data) == digest
