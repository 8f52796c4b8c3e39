"""What became of copies and prunes, by store and volume: in the history's database, for `status`, metrics, and what is still to be done.
Losing it costs the past, nothing else.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from pathlib import Path

_FILE = "history.sqlite"
_BUSY_SECONDS = 10
_KEPT = timedelta(days=400)
_FIRST_RETRY = timedelta(minutes=1)
_LAST_RETRY = timedelta(hours=4)
# A table of its own: earlier versions, which know the database, leave it alone.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS upkeep (
    work TEXT, store TEXT, host TEXT, volume TEXT,
    tried REAL,
    succeeded REAL,
    failures INTEGER NOT NULL DEFAULT 0,
    error TEXT NOT NULL DEFAULT '',
    owed INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (work, store, host, volume)
) WITHOUT ROWID
"""
_SELECT = "SELECT work, store, host, volume, tried, succeeded, failures, error, owed FROM upkeep "

Work = Literal["copy", "prune"]


@dataclass(frozen=True, slots=True)
class Upkeep:
    """The copies, or the prunes, of one volume in one store."""

    work: Work
    store: str  # its place; of a copy, that of the store that it is sent to
    host: str
    volume: str
    tried: datetime | None  # when the last one ended
    succeeded: datetime | None  # when the last one ended that went well
    failures: int = 0  # since then
    error: str = ""  # of the last one; empty if it went well
    owed: bool = (
        False  # one is to be made: of a backup that was not copied yet, or because the last one failed
    )

    def due(self, now: datetime) -> datetime:
        """When one that is owed is to be made: later and later after failures, four hours at most."""
        if not self.failures or self.tried is None or self.tried > now:  # else the clock was put back since
            return now
        return self.tried + min(_LAST_RETRY, _FIRST_RETRY * (1 << min(self.failures - 1, 10)))


class UpkeepLog:
    """Of one state directory. What is wrong with its file is never a reason not to copy or prune."""

    def __init__(self, state_directory: Path) -> None:
        self._path = state_directory / _FILE

    def owe(self, stores: Iterable[str], host: str, volume: str) -> None:
        """A copy of the volume is to be made to each of these places."""
        self._write(
            "INSERT INTO upkeep (work, store, host, volume, owed) VALUES ('copy', ?, ?, ?, 1) ON CONFLICT DO UPDATE SET owed = 1",
            [(store, host, volume) for store in stores],
        )

    def done(self, work: Work, store: str, host: str, volume: str, now: datetime) -> None:
        time = now.timestamp()
        self._write(
            "INSERT INTO upkeep (work, store, host, volume, tried, succeeded) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
            "tried = excluded.tried, succeeded = excluded.succeeded, failures = 0, error = '', owed = 0",
            [(work, store, host, volume, time, time)],
        )
        self._write("DELETE FROM upkeep WHERE tried < ?", [((now - _KEPT).timestamp(),)])

    def failed(
        self, work: Work, store: str, host: str, volumes: Iterable[str], now: datetime, error: str
    ) -> None:
        self._write(
            "INSERT INTO upkeep (work, store, host, volume, tried, failures, error, owed) VALUES (?, ?, ?, ?, ?, 1, ?, 1) "
            "ON CONFLICT DO UPDATE SET tried = excluded.tried, failures = failures + 1, error = excluded.error, owed = 1",
            [(work, store, host, volume, now.timestamp(), error or "it failed") for volume in volumes],
        )

    def all(self, work: Work, stores: Collection[str]) -> list[Upkeep]:
        """By store, host and volume; of these places."""
        if not stores or not self._path.exists():
            return []
        which = f"WHERE work = ? AND store IN ({', '.join('?' * len(stores))}) ORDER BY store, host, volume"
        try:
            with self._opened() as database:
                rows = database.execute(_SELECT + which, (work, *stores)).fetchall()
        except (sqlite3.Error, OSError):
            return []
        return [_upkeep(row) for row in rows]

    def due(
        self, work: Work, stores: Collection[str], host: str, volumes: Collection[str], now: datetime
    ) -> tuple[dict[str, list[Upkeep]], datetime | None]:
        """Of these volumes, those that are to be copied, or pruned, now, by place; and when the first of the others is due. All that is owed to a place is
        due with the first of it: one command does it, or several, so that what is due first comes first.
        """
        owed: dict[str, list[Upkeep]] = {}
        for each in self.all(work, stores):
            if each.owed and each.host == host and each.volume in volumes:
                owed.setdefault(each.store, []).append(each)
        times = {store: min(each.due(now) for each in found) for store, found in owed.items()}
        due = {
            store: sorted(owed[store], key=lambda each: (each.due(now), each.volume))
            for store, at in times.items()
            if at <= now
        }
        return due, min((at for at in times.values() if at > now), default=None)

    def _write(self, statement: str, rows: list[tuple[object, ...]]) -> None:
        try:
            with self._opened() as database, database:
                database.executemany(statement, rows)
        except (sqlite3.Error, OSError):
            return

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        self._path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        with closing(sqlite3.connect(self._path, timeout=_BUSY_SECONDS)) as database:
            database.execute("PRAGMA synchronous = OFF")  # as of the history
            database.execute(_SCHEMA)
            yield database


def _upkeep(row: tuple[object, ...]) -> Upkeep:
    work, store, host, volume, tried, succeeded, failures, error, owed = row
    return Upkeep(
        "copy" if work == "copy" else "prune",
        str(store),
        str(host),
        str(volume),
        _time(tried),
        _time(succeeded),
        int(failures),  # type: ignore[call-overload]
        str(error),
        bool(owed),
    )


def _time(seconds: object) -> datetime | None:
    try:
        return None if seconds is None else datetime.fromtimestamp(float(seconds), UTC)  # type: ignore[arg-type]
    except (OverflowError, ValueError, OSError):  # a damaged row: as if it had never been tried
        return None
