"""When volumes were seen first: in the history's database, and forgotten once they have been gone for a month."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

_KEPT_SECONDS = timedelta(days=30).total_seconds()
_TIDIED_SECONDS = timedelta(days=1).total_seconds()
_PARAMETERS = 500  # of one statement; old SQLites take 999
# Two tables: earlier versions write rows of two fields into the first.
SEEN_SCHEMA = """
CREATE TABLE IF NOT EXISTS seen (volume TEXT PRIMARY KEY, first REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS seen_last (volume TEXT PRIMARY KEY, last REAL NOT NULL) WITHOUT ROWID;
"""


def first_seen(database: sqlite3.Connection, volumes: Iterable[str], now: datetime) -> dict[str, datetime]:
    """Of these volumes, which are there; it may be now. Nothing of others is read: an engine may have had a thousand a day."""
    names, seconds = list(dict.fromkeys(volumes)), now.timestamp()
    found: dict[str, float] = {}
    for at in range(0, len(names), _PARAMETERS):
        some = names[at : at + _PARAMETERS]
        marks = ", ".join("?" * len(some))
        found |= database.execute(f"SELECT volume, first FROM seen WHERE volume IN ({marks})", some)  # noqa: S608 -- question marks
    # Those that are new, and those that were seen while the clock was ahead.
    changed = {name: seconds for name in names if not 0 <= found.get(name, -1) <= seconds}
    if changed:
        database.executemany("INSERT OR REPLACE INTO seen (volume, first) VALUES (?, ?)", changed.items())
    _tidy(database, names, seconds)
    return {volume: datetime.fromtimestamp(first, UTC) for volume, first in (found | changed).items()}


def _tidy(database: sqlite3.Connection, names: Iterable[str], now: float) -> None:
    """Once a day. How long those have been gone that an earlier version has seen, nobody knows: the month begins now."""
    # No volume has the empty name: its row says when this was done last.
    (done,) = database.execute("SELECT max(last) FROM seen_last WHERE volume = ''").fetchone()
    if done is not None and now - _TIDIED_SECONDS < done <= now:
        return
    database.executemany(
        "INSERT OR REPLACE INTO seen_last (volume, last) VALUES (?, ?)",
        [("", now), *((name, now) for name in names)],
    )
    database.execute("INSERT OR IGNORE INTO seen_last (volume, last) SELECT volume, ?1 FROM seen", (now,))
    database.execute("UPDATE seen_last SET last = ?1 WHERE last > ?1", (now,))
    gone = (now - _KEPT_SECONDS,)
    database.execute("DELETE FROM seen WHERE volume IN (SELECT volume FROM seen_last WHERE last < ?)", gone)
    database.execute("DELETE FROM seen_last WHERE last < ?", gone)
    database.execute("DELETE FROM totals WHERE volume NOT IN (SELECT volume FROM runs)")
