"""Which objects of stores were read whole when, and what came of it: in the state directory, for `verify --share`, `status` and
metrics. Losing it costs reading again, nothing else.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from pathlib import Path

_FILE = "verified.sqlite"
_BUSY_SECONDS = 10
_KEPT_RUNS = 1000
_SCHEMA = """
CREATE TABLE IF NOT EXISTS since (store TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS objects (store TEXT, key TEXT, at REAL NOT NULL, PRIMARY KEY (store, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS shares (store TEXT, host TEXT, at REAL NOT NULL, PRIMARY KEY (store, host)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS told (store TEXT, what TEXT, PRIMARY KEY (store, what)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS states (
    store TEXT, volume TEXT, host TEXT NOT NULL, oldest REAL, hurt INTEGER NOT NULL, PRIMARY KEY (store, volume)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outcomes (
    number INTEGER PRIMARY KEY,
    store TEXT NOT NULL,
    began REAL NOT NULL,
    ended REAL NOT NULL,
    outcome TEXT NOT NULL,
    objects INTEGER NOT NULL,
    read_bytes INTEGER NOT NULL,
    total_bytes INTEGER NOT NULL,
    error TEXT NOT NULL,
    listed INTEGER NOT NULL
);
"""
_RUNS = (
    "SELECT began, ended, outcome, objects, read_bytes, total_bytes, error, listed FROM outcomes "
    "WHERE (?1 = '' OR store = ?1) "
)

VerifyOutcome = Literal["good", "hurt", "failed"]


@dataclass(frozen=True, slots=True)
class VerifyRun:
    """One share that was read, or was to be."""

    began: datetime
    ended: datetime
    outcome: VerifyOutcome  # `hurt`: it was read, and there are backups that cannot be restored
    objects: int
    read_bytes: int
    total_bytes: int  # of all that backups need
    error: str
    listed: bool = False  # of one that is `hurt`: a LIST of the store, with its marks, shows all of it


@dataclass(frozen=True, slots=True)
class VolumeState:
    """Of one volume, after the last share."""

    oldest: datetime | None  # since when each object that its newest backup needs was read whole, or written
    hurt: int  # how many of its backups need what is damaged or missing


class VerificationLog:
    """Of one state directory. Whatever is wrong with its file, it is as if it were empty.

    Runs, and the states of volumes, are kept as those of `place`, the place of a store, and only those of it are given; all of them where it is empty.
    A `store` is a `Repository.place`.
    """

    def __init__(self, state_directory: Path, place: str = "") -> None:
        self._path = state_directory / _FILE
        self.place = place

    def since(self, store: str, now: datetime) -> datetime:
        """When a share of the store was asked for first, which may be now."""
        self._write("INSERT OR IGNORE INTO since VALUES (?, ?)", [(store, now.timestamp())])
        # One that was written while the clock was ahead.
        self._write("UPDATE since SET at = ?1 WHERE at > ?1", [(now.timestamp(),)])
        rows = self._read("SELECT at FROM since WHERE store = ?", store)
        return _time(rows[0][0]) if rows else now

    def read_at(self, store: str) -> dict[str, datetime]:
        """When each object was read whole last, and was good; by its key."""
        return {
            key: _time(at) for key, at in self._read("SELECT key, at FROM objects WHERE store = ?", store)
        }

    def keep_read(self, store: str, keys: Iterable[str], now: datetime) -> None:
        self._write(
            "INSERT OR REPLACE INTO objects VALUES (?, ?, ?)", [(store, key, now.timestamp()) for key in keys]
        )

    def forget(self, store: str, keys: Iterable[str]) -> None:
        """Of what is not in the store any longer."""
        self._write("DELETE FROM objects WHERE store = ? AND key = ?", [(store, key) for key in keys])

    def last_share(self, store: str, host: str) -> datetime | None:
        """When the last share of a host's objects began of which all was read."""
        rows = self._read("SELECT at FROM shares WHERE store = ? AND host = ?", store, host)
        return _time(rows[0][0]) if rows else None

    def keep_share(self, store: str, host: str, began: datetime) -> None:
        self._write("INSERT OR REPLACE INTO shares VALUES (?, ?, ?)", [(store, host, began.timestamp())])

    def news(self, store: str, found: Collection[str]) -> set[str]:
        """Of all that is wrong now, what was not the last time that this was asked."""
        before = {what for (what,) in self._read("SELECT what FROM told WHERE store = ?", store)}
        self._write(
            "DELETE FROM told WHERE store = ? AND what = ?", [(store, each) for each in before - set(found)]
        )
        self._write("INSERT OR IGNORE INTO told VALUES (?, ?)", [(store, each) for each in found])
        return set(found) - before

    def keep_run(self, run: VerifyRun) -> None:
        self._write(
            "INSERT INTO outcomes (store, began, ended, outcome, objects, read_bytes, total_bytes, error, listed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (self.place, run.began.timestamp(), run.ended.timestamp(), run.outcome, run.objects, run.read_bytes,
                 run.total_bytes, run.error, run.listed)
            ],
        )  # fmt: skip
        self._write(
            "DELETE FROM outcomes WHERE number <= (SELECT max(number) FROM outcomes) - ?", [(_KEPT_RUNS,)]
        )

    def recent(self, count: int) -> list[VerifyRun]:
        """The newest ones, newest last."""
        rows = self._read(f"{_RUNS} ORDER BY number DESC LIMIT ?2", self.place, count)
        return [_run(row) for row in reversed(rows)]

    def last_done(self) -> VerifyRun | None:
        """The newest one that read all of its share."""
        rows = self._read(f"{_RUNS} AND outcome <> 'failed' ORDER BY number DESC LIMIT 1", self.place)
        return _run(rows[0]) if rows else None

    def keep_volumes(self, host: str, volumes: Mapping[str, VolumeState]) -> None:
        """In place of what was known of all of the host's."""
        self._write("DELETE FROM states WHERE store = ? AND host = ?", [(self.place, host)])
        self._write(
            "INSERT OR REPLACE INTO states VALUES (?, ?, ?, ?, ?)",
            [
                (self.place, volume, host, state.oldest.timestamp() if state.oldest else None, state.hurt)
                for volume, state in volumes.items()
            ],
        )

    def volumes(self) -> dict[str, VolumeState]:
        rows = self._read("SELECT volume, oldest, hurt FROM states WHERE (?1 = '' OR store = ?1)", self.place)
        return {
            volume: VolumeState(None if oldest is None else _time(oldest), hurt)
            for volume, oldest, hurt in rows
        }

    def _read(self, query: str, *values: object) -> list[Any]:
        if not self._path.exists():
            return []
        try:
            with self._opened() as database:
                return database.execute(query, values).fetchall()
        except (sqlite3.Error, OSError):
            return []

    def _write(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        try:
            with self._opened() as database, database:
                database.executemany(statement, rows)
        except sqlite3.OperationalError:
            return
        except sqlite3.DatabaseError:  # damaged by a power failure
            self._path.unlink(missing_ok=True)
        except OSError:
            return

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        self._path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        with closing(sqlite3.connect(self._path, timeout=_BUSY_SECONDS)) as database:
            # Of what a power failure takes, none is worth waiting for the disk.
            database.execute("PRAGMA synchronous = OFF")
            database.executescript(_SCHEMA)
            yield database


def _run(row: tuple[object, ...]) -> VerifyRun:
    began, ended, *between, listed = row
    rest = (*between, bool(listed))
    return VerifyRun(_time(began), _time(ended), *rest)  # type: ignore[arg-type]


def _time(seconds: object) -> datetime:
    return datetime.fromtimestamp(float(seconds), UTC)  # type: ignore[arg-type]
