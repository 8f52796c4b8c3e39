"""The members of an archive, and whether a volume holds them: on disk meanwhile, for an archive has any order, and the same name twice."""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING, Self

from volferry.archive.foreign_tar import member_record
from volferry.archive.listing import Entry, paired, walk_key
from volferry.operations.comparison import IMPORTED, check_held
from volferry.operations.squashed import USUAL_GROUND, Ground

if TYPE_CHECKING:
    import tarfile
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from types import TracebackType

    from volferry.observer import Observer
    from volferry.operations.comparison import SetModes

_KINDS = {
    b"0": b"f",
    b"\0": b"f",
    b"7": b"f",
    b"2": b"l",
    b"3": b"c",
    b"4": b"b",
    b"5": b"d",
    b"6": b"p",
    b"S": b"f",
}
_HARD_LINK = b"1"  # a name of an entry: all else was said of the other one


class ArchiveMembers:
    """`add` each, in the archive's order; then compare."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        # It is of one run: what a power failure takes is gone anyway.
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute(
            "CREATE TABLE members (key BLOB PRIMARY KEY, path BLOB, meta BLOB) WITHOUT ROWID"
        )
        self._database.execute("BEGIN")
        self.have_access_lists = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    def add(self, parts: tuple[str, ...], member: tarfile.TarInfo) -> None:
        """A later member of the same name takes the place of an earlier one, as with `tar`. The root's has no parts."""
        if any(name.startswith("SCHILY.acl.") for name in member.pax_headers):
            self.have_access_lists = True
        # `tar` takes names that lead upwards for others.
        if ".." not in parts and (meta := _meta(member)) is not None:
            path = b"/".join(os.fsencode(part) for part in parts)
            self._database.execute(
                "INSERT OR REPLACE INTO members VALUES (?, ?, ?)", (walk_key(path), path, meta)
            )

    def check(
        self,
        found: Iterable[Entry],
        observer: Observer,
        *,
        times_refused: bool,
        set_modes: SetModes | None = None,
        ground: Ground = USUAL_GROUND,
    ) -> dict[str, str]:
        """How many of what there is have another owner, mode or time, by kind. Raises RestoreMismatch where something is missing or
        differs in anything else.
        """
        return check_held(
            self._pairs(found, ground),
            observer,
            wording=IMPORTED,
            times_refused=times_refused,
            set_modes=set_modes,
        )

    def directories(self, found: Iterable[Entry]) -> Iterator[Entry]:
        """Those that are where they belong, as they are in the archive."""
        for expected, actual in self._pairs(found, USUAL_GROUND):
            if expected is not None and actual is not None and expected.kind == actual.kind == b"d":
                yield expected

    def _pairs(self, found: Iterable[Entry], ground: Ground) -> Iterator[tuple[Entry | None, Entry | None]]:
        rows = self._database.execute("SELECT path, meta FROM members ORDER BY key")
        for expected, actual in paired(ground.expected(Entry(path, meta) for path, meta in rows), found):
            if expected is None:
                continue  # a directory that the archive has no member for
            if actual is None and self._is_elsewhere(expected.path):
                continue
            yield (actual if actual is not None and expected.kind == _HARD_LINK else expected), actual

    def _is_elsewhere(self, path: bytes) -> bool:
        """Whether a link of the archive's own led `tar` to another directory."""
        while b"/" in path:
            path = path.rpartition(b"/")[0]
            row = self._database.execute(
                "SELECT meta FROM members WHERE key = ?", (walk_key(path),)
            ).fetchone()
            if row is not None and row[0].startswith(b"l "):
                return True
        return False


def _meta(member: tarfile.TarInfo) -> bytes | None:
    """As in a record of a listing; None for what is no entry."""
    if member.type == _HARD_LINK:
        return b"1 0 0 0 0 0.0 0.0 0 1 "
    kind = _KINDS.get(member.type)
    if kind is None:
        return None
    return member_record(kind, member) + (os.fsencode(member.linkname) if kind == b"l" else b"")
