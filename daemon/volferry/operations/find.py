"""Finds paths in many backups of a volume, and the states that each of them had, from the indexes alone.

One backup after another is merged into a file of what was found so far, sorted as listings are. So neither memory
nor open files grow with the number of backups or of matches, and the file grows only with what changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from volferry.archive.index import file_blocks
from volferry.archive.listing import Entry, Stat, split_records, walk_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

_NOT_KEPT = b"-"


@dataclass(slots=True)
class State:
    """What an entry was, and in which backups: runs of their numbers, first and last."""

    meta: bytes
    runs: list[tuple[int, int]]

    @property
    def backups(self) -> list[int]:
        return [number for first, last in self.runs for number in range(first, last + 1)]

    @property
    def stat(self) -> Stat:
        """Without what is not part of a state: ctime, inode and link count, and the size of a directory."""
        return Stat(*self.meta.split(b" ", 9))

    def seen(self, number: int) -> None:
        first, last = self.runs[-1]
        if number == last + 1:
            self.runs[-1] = (first, number)
        else:
            self.runs.append((number, number))


@dataclass(slots=True)
class History:
    """One path, with its states in the order in which they first were."""

    path: bytes
    states: list[State]

    def seen(self, entry: Entry, number: int) -> None:
        meta = _state(entry)
        for state in self.states:
            if state.meta == meta:
                state.seen(number)
                return
        self.states.append(State(meta, [(number, number)]))

    @property
    def record(self) -> bytes:
        parts = [self.path, b"%d" % len(self.states)]
        for state in self.states:
            parts += [state.meta, b",".join(b"%d-%d" % run for run in state.runs)]
        return b"\0".join([*parts, b""])

    @classmethod
    def read(cls, records: Iterator[bytes]) -> Self | None:
        """The next one, None at the end."""
        if (path := next(records, None)) is None:
            return None
        states = []
        for _ in range(int(next(records))):
            meta, runs = next(records), next(records)
            pairs = [tuple(map(int, run.split(b"-"))) for run in runs.split(b",")]
            states.append(State(meta, [(first, last) for first, last in pairs]))
        return cls(path, states)


class Histories:
    """What was found so far. Backups are added in the order of their numbers, the oldest first."""

    def __init__(self, matches: Callable[[bytes], bool], *, spool: Path) -> None:
        self._matches = matches
        self._path = spool / "histories"
        self._next_path = spool / "histories.next"
        self._path.write_bytes(b"")

    def add(self, number: int, entries: Iterable[Entry]) -> None:
        """If `entries` raises, nothing of that backup is added."""
        matching = (entry for entry in entries if self._matches(entry.path))
        with self._next_path.open("wb") as file:
            for history in _merged(iter(self), matching, number):
                file.write(history.record)
        self._next_path.rename(self._path)

    def __iter__(self) -> Iterator[History]:
        records = split_records(file_blocks(self._path))
        while (history := History.read(records)) is not None:
            yield history


def _merged(histories: Iterator[History], entries: Iterator[Entry], number: int) -> Iterator[History]:
    history, entry = next(histories, None), next(entries, None)
    while history is not None or entry is not None:
        if entry is None or (history is not None and walk_key(history.path) < walk_key(entry.path)):
            if history is not None:
                yield history
            history = next(histories, None)
            continue
        if history is None or history.path != entry.path:
            yield History(entry.path, [State(_state(entry), [(number, number)])])
        else:
            history.seen(entry, number)
            yield history
            history = next(histories, None)
        entry = next(entries, None)


def _state(entry: Entry) -> bytes:
    stat = entry.stat
    return b" ".join(
        stat._replace(
            ctime=_NOT_KEPT,
            inode=_NOT_KEPT,
            links=_NOT_KEPT,
            size=_NOT_KEPT if stat.kind == b"d" else stat.size,
        )
    )
