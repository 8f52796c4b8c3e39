"""What was run on this machine, and how it went: in the state directory, for `status`, metrics and notifications. Losing it costs
the past, nothing else.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal, Self

from volferry.errors import Unfinished, VolferryError, VolumeBusy
from volferry.interrupts import held_back
from volferry.run import is_alive
from volferry.schedule import Schedule
from volferry.seen_volumes import SEEN_SCHEMA, first_seen

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from types import TracebackType

    from volferry.model import BackupStats

_FILE = "history.sqlite"
_BUSY_SECONDS = 10
_KEPT = timedelta(days=400)
_KEPT_OF_A_VOLUME = 1000
_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    number INTEGER PRIMARY KEY,
    run TEXT NOT NULL,
    host TEXT NOT NULL,
    volume TEXT NOT NULL,
    began REAL NOT NULL,
    ended REAL,
    outcome TEXT,
    backup TEXT,
    error TEXT NOT NULL DEFAULT '',
    entries INTEGER NOT NULL DEFAULT 0,
    source_bytes INTEGER NOT NULL DEFAULT 0,
    read_bytes INTEGER NOT NULL DEFAULT 0,
    stored_bytes INTEGER NOT NULL DEFAULT 0,
    seconds REAL NOT NULL DEFAULT 0,
    downtime_seconds REAL NOT NULL DEFAULT 0,
    findings INTEGER NOT NULL DEFAULT 0,
    store TEXT NOT NULL DEFAULT '',
    cause TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS runs_of_a_volume ON runs (volume, number);
CREATE INDEX IF NOT EXISTS runs_by_end ON runs (ended);
CREATE TABLE IF NOT EXISTS scheduled (volume TEXT PRIMARY KEY, schedule TEXT NOT NULL, newest REAL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS totals (volume TEXT, outcome TEXT, count INTEGER NOT NULL, PRIMARY KEY (volume, outcome));
"""

# Of a database that an earlier version has made, in this order. Its runs are of a store that nobody knows: they count for each.
_LATER_COLUMNS = ("store", "cause")
_ADD_COLUMN = "ALTER TABLE runs ADD COLUMN {} TEXT NOT NULL DEFAULT ''"
_SELECT = (
    "SELECT number, run, host, volume, began, ended, outcome, backup, error, entries, source_bytes, read_bytes, stored_bytes, seconds, "
    "downtime_seconds, findings, store, cause FROM runs "
)
# The newest run of each volume, by an index: there may be a thousand of each.
_NEWEST = """WHERE number IN (
    WITH RECURSIVE each(volume) AS (
        SELECT min(volume) FROM runs
        UNION ALL SELECT (SELECT min(volume) FROM runs WHERE volume > each.volume) FROM each WHERE each.volume IS NOT NULL
    )
    SELECT (
        SELECT number FROM runs WHERE runs.volume = each.volume AND (?1 = '' OR store IN ('', ?1)) {} ORDER BY number DESC LIMIT 1
    ) FROM each WHERE each.volume IS NOT NULL
)"""
# Of a run that was refused because the volume held the rest of something that was interrupted.
UNFINISHED = "unfinished"

# `troubled`: the backup is good, but something after it was not: a service that could not be started, a hook that failed.
Outcome = Literal["running", "done", "findings", "troubled", "failed", "interrupted"]
GOOD: frozenset[Outcome] = frozenset({"done", "findings", "troubled"})


@dataclass(frozen=True, slots=True)
class PastRun:
    """One run of one volume; `running` if it has not ended yet. Sizes are 0 where there is no backup."""

    run: str
    host: str
    volume: str
    began: datetime
    ended: datetime | None
    outcome: Outcome
    backup: str | None  # its id
    error: str
    entries: int = 0
    source_bytes: int = 0
    read_bytes: int = 0
    stored_bytes: int = 0
    seconds: float = 0.0
    downtime_seconds: float = 0.0
    findings: int = 0
    store: str = ""  # its place; empty where an earlier version has kept the run
    cause: str = ""  # of the error, where that can be over: UNFINISHED

    @property
    def good(self) -> bool:
        return self.outcome in GOOD


class History:
    """Of one state directory. What is wrong with its file is never a reason not to back up."""

    def __init__(self, state_directory: Path, store: str = "") -> None:
        """Runs are kept as those of `store`, a place, and only those of it are shown; all of them where it is empty."""
        self.store = store
        self._state = state_directory
        self._path = state_directory / _FILE

    def begin(self, run: str, host: str, volume: str, now: datetime) -> int:
        """A number for `end`; 0 if it cannot be kept."""
        try:
            with self._opened() as database, database:
                cursor = database.execute(
                    "INSERT INTO runs (run, host, volume, began, store) VALUES (?, ?, ?, ?, ?)",
                    (run, host, volume, now.timestamp(), self.store),
                )
                return int(cursor.lastrowid or 0)
        except sqlite3.OperationalError:
            return 0
        except sqlite3.DatabaseError:  # damaged by a power failure: the past is gone, the future need not be
            self._path.unlink(missing_ok=True)
            return 0
        except OSError:
            return 0

    def end(
        self,
        number: int,
        now: datetime,
        outcome: Outcome,
        *,
        stats: BackupStats | None = None,
        error: str = "",
        cause: str = "",
    ) -> None:
        if not number:
            return
        values = (
            (stats.ref.id, stats.entries, stats.source_bytes, stats.read_bytes, stats.stored_bytes,
             stats.seconds, stats.downtime_seconds, stats.findings_total)
            if stats is not None
            else (None, 0, 0, 0, 0, 0.0, 0.0, 0)
        )  # fmt: skip
        try:
            with self._opened() as database, database:
                database.execute(
                    "UPDATE runs SET ended = ?, outcome = ?, error = ?, backup = ?, entries = ?, source_bytes = ?, "
                    "read_bytes = ?, stored_bytes = ?, seconds = ?, downtime_seconds = ?, findings = ?, cause = ? WHERE number = ?",
                    (now.timestamp(), outcome, error, *values, cause, number),
                )
                (volume,) = database.execute("SELECT volume FROM runs WHERE number = ?", (number,)).fetchone()
                self._count(database, volume, outcome)
                self._forget(database, volume, now)
        except (sqlite3.Error, OSError, TypeError):  # TypeError: its row is gone
            return

    def cancel(self, number: int) -> None:
        """As if it had not begun."""
        try:
            with self._opened() as database, database:
                database.execute("DELETE FROM runs WHERE number = ?", (number,))
        except (sqlite3.Error, OSError):
            return

    def settle(self, now: datetime) -> list[PastRun]:
        """Gives runs whose process has died the outcome `interrupted`; returns these."""
        try:
            with self._opened() as database, database:
                rows = database.execute(_SELECT + "WHERE ended IS NULL").fetchall()
                dead = [row for row in rows if not is_alive(self._state, row[1])]
                for row in dead:
                    database.execute(
                        "UPDATE runs SET ended = ?, outcome = 'interrupted', error = ? WHERE number = ?",
                        (now.timestamp(), _KILLED, row[0]),
                    )
                    self._count(database, row[3], "interrupted")
        except (sqlite3.Error, OSError, VolferryError):
            return []
        return [_run((*row[1:6], "interrupted", row[7], _KILLED, *row[9:])) for row in dead]

    def last(self) -> dict[str, PastRun]:
        """The newest run of each volume, by its name."""
        found = self._select(_NEWEST.format(""), self.store)
        return {run.volume: run for run in found}

    def failed(self) -> set[str]:
        """Volumes whose newest run has failed."""
        return {volume for volume, run in self.last().items() if run.outcome == "failed"}

    def last_good(self) -> dict[str, PastRun]:
        """The newest run of each volume that has made a backup."""
        found = self._select(_NEWEST.format("AND outcome IN ('done', 'findings', 'troubled')"), self.store)
        return {run.volume: run for run in found}

    def good_since(self, time: datetime) -> list[PastRun]:
        """Those that have ended since, and have made a backup."""
        which = "WHERE (?1 = '' OR store IN ('', ?1)) AND ended >= ?2 AND outcome IN ('done', 'findings', 'troubled')"
        return self._select(which, self.store, time.timestamp())

    def recent(self, count: int, *, since: datetime | None = None) -> list[PastRun]:
        """The newest ones, newest last."""
        after = since.timestamp() if since is not None else 0.0
        return self._select(
            "WHERE (?1 = '' OR store IN ('', ?1)) AND began >= ?2 ORDER BY number DESC LIMIT ?3",
            self.store,
            after,
            count,
        )[::-1]

    def has(self, run: str, volume: str) -> bool:
        """Whether that run is kept, of whatever store."""
        return bool(self._select("WHERE run = ? AND volume = ? LIMIT 1", run, volume))

    def volumes_of(self, run: str) -> list[str]:
        """Those that it was to back up, of whatever store."""
        return [found.volume for found in self._select("WHERE run = ? ORDER BY number", run)]

    def first_seen(self, volumes: Iterable[str], now: datetime) -> dict[str, datetime]:
        """When each of these volumes was seen first, which may be now."""
        try:
            with self._opened() as database, database:
                return first_seen(database, volumes, now)
        except (sqlite3.Error, OSError):
            return {}

    def keep_scheduled(self, scheduled: Iterable[tuple[str, str, datetime | None]]) -> None:
        """Volumes, their schedules, and when the newest backup of each began: for `scheduled`."""
        rows = [
            (volume, text, None if time is None else time.timestamp()) for volume, text, time in scheduled
        ]
        try:
            with self._opened() as database, database:
                database.execute("DELETE FROM scheduled")
                database.executemany(
                    "INSERT INTO scheduled (volume, schedule, newest) VALUES (?, ?, ?)", rows
                )
        except (sqlite3.Error, OSError):
            return

    def scheduled(self) -> list[tuple[str, str, datetime | None]]:
        """As they were kept last; without those whose schedule this version does not know, as a later one may have written it."""
        if not self._path.exists():
            return []
        try:
            with self._opened() as database:
                rows = database.execute("SELECT volume, schedule, newest FROM scheduled").fetchall()
        except (sqlite3.Error, OSError):
            return []
        found: list[tuple[str, str, datetime | None]] = []
        for volume, text, time in rows:
            with suppress(ValueError, TypeError):
                found.append((volume, Schedule.of_document(text), None if time is None else _time(time)))
        return found

    def totals(self) -> dict[tuple[str, str], int]:
        """How often each volume had each outcome, ever."""
        try:
            with self._opened() as database:
                rows = database.execute("SELECT volume, outcome, count FROM totals").fetchall()
        except (sqlite3.Error, OSError):
            return {}
        return {(volume, outcome): count for volume, outcome, count in rows}

    def _select(self, which: str, *values: object) -> list[PastRun]:
        if not self._path.exists():
            return []
        try:
            with self._opened() as database:
                rows = database.execute(_SELECT + which, values).fetchall()
        except (sqlite3.Error, OSError):
            return []
        found = []
        for row in rows:
            with suppress(ValueError, TypeError, OverflowError):  # of a later version, or of a flipped bit
                found.append(_run(row[1:]))
        return found

    @staticmethod
    def _count(database: sqlite3.Connection, volume: str, outcome: Outcome) -> None:
        database.execute(
            "INSERT INTO totals (volume, outcome, count) VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET count = count + 1",
            (volume, outcome),
        )

    @staticmethod
    def _forget(database: sqlite3.Connection, volume: str, now: datetime) -> None:
        database.execute(
            "DELETE FROM runs WHERE volume = ? AND number NOT IN "
            "(SELECT number FROM runs WHERE volume = ? ORDER BY number DESC LIMIT ?)",
            (volume, volume, _KEPT_OF_A_VOLUME),
        )
        database.execute("DELETE FROM runs WHERE ended < ?", ((now - _KEPT).timestamp(),))

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        self._state.mkdir(parents=True, mode=0o700, exist_ok=True)
        with closing(sqlite3.connect(self._path, timeout=_BUSY_SECONDS)) as database:
            # Of what a power failure takes, none is worth waiting for the disk.
            database.execute("PRAGMA synchronous = OFF")
            database.executescript(_SCHEMA + SEEN_SCHEMA)
            columns = {column[1] for column in database.execute("PRAGMA table_info(runs)")}
            for column in _LATER_COLUMNS:
                if column not in columns:
                    with suppress(sqlite3.OperationalError):  # another process was faster
                        database.execute(_ADD_COLUMN.format(column))
            yield database


class Record:
    """Keeps one run of one volume, from entering the `with` to leaving it."""

    def __init__(self, state_directory: Path, run: str, host: str, volume: str, store: str = "") -> None:
        self._history = History(state_directory, store)
        self._begun = (run, host, volume)
        self._stats: BackupStats | None = None
        self._problems: list[str] = []
        self._number = 0

    def made(self, stats: BackupStats, problems: list[str]) -> None:
        """The backup is good; `problems` are what went wrong besides."""
        self._stats, self._problems = stats, problems

    def __enter__(self) -> Self:
        self._number = self._history.begin(*self._begun, datetime.now(UTC))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        outcome: Outcome = "failed" if isinstance(error, Exception) else "interrupted"
        message = str(error)
        if error is None and self._stats is not None:
            message = "; ".join(self._problems)
            outcome = "troubled" if message else "findings" if self._stats.findings_total else "done"
            message = message or self._stats.suspicious
        with held_back():
            if isinstance(error, VolumeBusy):  # the other run is the one that says how the volume fares
                self._history.cancel(self._number)
                return
            cause = UNFINISHED if isinstance(error, Unfinished) else ""
            self._history.end(
                self._number, datetime.now(UTC), outcome, stats=self._stats, error=message, cause=cause
            )


_KILLED = "it was killed, or the machine went down"


def _run(row: tuple[object, ...]) -> PastRun:
    run, host, volume, began, ended, outcome, *rest = row
    return PastRun(
        str(run),
        str(host),
        str(volume),
        _time(began),
        None if ended is None else _time(ended),
        outcome or "running",  # type: ignore[arg-type]
        *rest,  # type: ignore[arg-type]
    )


def _time(seconds: object) -> datetime:
    return datetime.fromtimestamp(float(seconds), UTC)  # type: ignore[arg-type]
