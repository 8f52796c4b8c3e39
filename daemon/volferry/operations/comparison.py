"""Compares what should be in a volume with what is: the entries of two listings, in all but inode and change time."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeAlias

from volferry.archive.listing import UNTRUSTED, Entry, Stat, paired
from volferry.errors import RestoreMismatch
from volferry.model import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from volferry.observer import Observer

_PROGRESS_ENTRIES = 4096
_SET_GROUP_ID = 0o2000
_MOST_INHERITED = 4096  # directories that are set right at once

# Gives directories the modes that their entries say; whether they have them then (directory_modes.py).
SetModes: TypeAlias = "Callable[[Sequence[Entry]], bool]"


@dataclass(frozen=True, slots=True)
class Wording:
    """What a difference is said in."""

    unexpected: str  # of an entry that should not be there
    summary: str  # after how many there are
    origin: str  # where they are as they should be


RESTORED = Wording(
    "was not in the backup", "entries that were restored are not as they were backed up", "the backup"
)
MIGRATED = Wording(
    "is not in the source", "entries of the target volume are not as they are in the source", "the source"
)
IMPORTED = Wording(
    "is not in the archive", "entries of the volume are not as they are in the archive", "the archive"
)


def check_same(
    expected: Iterable[Entry],
    found: Iterable[Entry],
    observer: Observer,
    *,
    wording: Wording = RESTORED,
    set_modes: SetModes | None = None,
) -> None:
    """Compares what should be there with what is. Raises RestoreMismatch if there is any difference. With `set_modes`, a directory that
    inherited a bit of its mode is set right, and is no difference then.
    """
    _Comparison(observer, wording, strict=True, set_modes=set_modes).run(paired(expected, found))


def check_restored(
    expected: Iterable[Entry],
    found: Iterable[Entry],
    observer: Observer,
    *,
    times_refused: bool = False,
    set_modes: SetModes | None = None,
) -> dict[str, str]:
    """As `check_same`, but that a file system may hold owners, modes and times in another way, or not at all: by kind (owner, mode,
    time), a line with their number and the first one. Raises RestoreMismatch for any other difference, and for times that somebody
    else has changed: those that differ by more than any file system rounds, where others of the same kind of entry are as they were.
    `times_refused`: `tar` could not set them all.
    """
    return check_held(
        paired(expected, found), observer, wording=RESTORED, times_refused=times_refused, set_modes=set_modes
    )


def check_held(
    pairs: Iterable[tuple[Entry | None, Entry | None]],
    observer: Observer,
    *,
    wording: Wording,
    times_refused: bool = False,
    set_modes: SetModes | None = None,
) -> dict[str, str]:
    """As `check_restored`, of pairs: what is expected, and what is there."""
    comparison = _Comparison(
        observer, wording, strict=False, times_refused=times_refused, set_modes=set_modes
    )
    comparison.run(pairs)
    return comparison.tolerated()


def has_inherited_bit(was: Stat, now: Stat) -> bool:
    """Whether a directory has the set-group-ID bit, and should have its mode without it: mkdir(2) takes it over from the directory above."""
    if was.kind != b"d" or now.kind != b"d" or was.mode == now.mode:
        return False
    mode = int(was.mode, 8)
    return not mode & _SET_GROUP_ID and int(now.mode, 8) == mode | _SET_GROUP_ID


@dataclass(slots=True)
class _Differences:
    count: int = 0
    first: str = ""

    def add(self, path: bytes, what: str) -> None:
        self.count += 1
        self.first = self.first or f"{printable(path) or 'the root directory'!r} {what}"

    def add_all(self, others: _Differences) -> None:
        self.count += others.count
        self.first = self.first or others.first


# What a file system may be unable to hold, and what it is called.
_METADATA = {"mode": "mode", "uid": "owner", "gid": "owner", "mtime": "time"}
_GRAIN_SECONDS = 2.0  # FAT's, the coarsest
# From FAT's first year to the last one of 32 bits: what lies beyond becomes another time on some file systems.
_FIRST_TIME = datetime(1980, 1, 2, tzinfo=UTC).timestamp()
_LAST_TIME = datetime(2038, 1, 18, tzinfo=UTC).timestamp()


@dataclass(slots=True)
class _Times:
    """Of entries of one kind."""

    held: int = 0  # how many are as they were, or rounded down
    other: _Differences = field(default_factory=_Differences)


class _Comparison:
    """Compares the entries of two listings, in the order of both."""

    def __init__(
        self,
        observer: Observer,
        wording: Wording,
        *,
        strict: bool,
        times_refused: bool = False,
        set_modes: SetModes | None = None,
    ) -> None:
        self._observer = observer
        self._wording = wording
        self._strict = strict
        self._differences = _Differences()
        self._unexpected: list[bytes] = []  # directories that what is expected next may be below
        self._made = _Differences()  # of these, those that `tar` has made
        self._times_refused = times_refused
        self._set_modes = set_modes
        self._inherited: list[Entry] = []  # directories to be set right, as they should be
        self._tolerated: dict[str, _Differences] = {}
        self._times: defaultdict[bytes, _Times] = defaultdict(_Times)
        self._found: dict[tuple[bytes, ...], bytes] = {}  # what was one file -> the inode that it has now
        self._expected: dict[bytes, tuple[bytes, ...]] = {}  # its inverse

    def run(self, pairs: Iterable[tuple[Entry | None, Entry | None]]) -> None:
        """Raises RestoreMismatch if there is any difference, with the first one."""
        for done, (expected, actual) in enumerate(pairs):
            if self._unexpected and expected is not None:
                self._settle_unexpected(expected.path)
            if actual is None:
                self._differences.add(expected.path if expected else b"", "is missing")
            elif expected is None and actual.kind == b"d" and not self._strict:
                self._unexpected.append(actual.path)
            elif expected is None:
                self._differences.add(actual.path, self._wording.unexpected)
            else:
                self._compare(expected, actual)
            if done % _PROGRESS_ENTRIES == 0:
                self._observer.advance(done_bytes=0, done_entries=done)
        self._settle_unexpected(b"")
        self._settle_inherited()
        for times in self._times.values():
            if times.other.count:
                # A file system that ignores times, as some of FUSE do, holds none of a kind.
                ignored = self._times_refused or not times.held
                (self._tolerate("time") if ignored else self._differences).add_all(times.other)
        if self._differences.count:
            raise RestoreMismatch(
                f"{self._differences.count} {self._wording.summary}; the first: {self._differences.first}"
            )

    def _settle_unexpected(self, expected: bytes) -> None:
        """Of a backup that has an entry and not the directory that it is in, as earlier versions made them, `tar` makes the directory:
        without it, nothing of what is below could be restored.
        """
        for path in self._unexpected:
            found = self._made if expected.startswith(path + b"/") else self._differences
            found.add(path, self._wording.unexpected)
        self._unexpected = []

    def _settle_inherited(self) -> None:
        entries, self._inherited = self._inherited, []
        if not entries or (self._set_modes is not None and self._set_modes(entries)):
            return
        found = self._differences if self._strict else self._tolerate("mode")
        for entry in entries:
            mode = int(entry.stat.mode, 8)
            found.add(entry.path, f"has mode {mode | _SET_GROUP_ID:o} instead of {mode:o}")

    def tolerated(self) -> dict[str, str]:
        """What differed and was no reason to fail, by kind."""
        made = self._made
        which = (
            "directory was made for what is below it"
            if made.count == 1
            else "directories were made for what is below"
        )
        lines = {"directory": f"{made.count} {which}; the first: {made.first}"} if made.count else {}
        return lines | {
            kind: f"{found.count} {'entry has' if found.count == 1 else 'entries have'} another {kind} than in {self._wording.origin}; "
            f"the first: {found.first}"
            for kind, found in sorted(self._tolerated.items())
        }

    def _compare(self, expected: Entry, actual: Entry) -> None:
        if (kind := _plain_and_same(expected.meta, actual.meta)) is not None:
            self._times[kind].held += 1
            return
        was, now = expected.stat, actual.stat
        if self._set_modes is not None and has_inherited_bit(was, now):
            now = now._replace(mode=was.mode)
            self._inherited.append(expected)
            if len(self._inherited) == _MOST_INHERITED:
                self._settle_inherited()
        for name in ("kind", "mode", "uid", "gid", "mtime", "target"):
            if getattr(was, name) != getattr(now, name):
                text = f"has {name} {_text(getattr(now, name))} instead of {_text(getattr(was, name))}"
                if self._strict or name not in _METADATA:
                    self._differences.add(expected.path, text)
                    return
                if name == "mtime" and not _may_be_rounded(was.mtime, now.mtime):
                    self._times[was.kind].other.add(expected.path, text)
                    continue
                if name != "gid" or was.uid == now.uid:  # an owner that differs in both is one
                    self._tolerate(_METADATA[name]).add(expected.path, text)
            if name == "mtime" and not self._strict and _is_held(was.mtime, now.mtime):
                self._times[was.kind].held += 1
        if was.kind == b"f" and was.size != now.size:
            self._differences.add(expected.path, f"has {_text(now.size)} bytes instead of {_text(was.size)}")
        elif was.kind in {b"f", b"l"} and was.links != b"1" and was.ctime != UNTRUSTED:
            # Of other kinds, tar stores every name on its own.
            self._compare_links(expected, was, now)

    def _tolerate(self, kind: str) -> _Differences:
        return self._tolerated.setdefault(kind, _Differences())

    def _compare_links(self, expected: Entry, was: Stat, now: Stat) -> None:
        """Names of one file must be names of one file again, and of no other. Two may have had the same inode number (names.py)."""
        file = (was.inode, was.kind, was.mode, was.uid, was.gid, was.size, was.mtime)
        same = self._found.setdefault(file, now.inode) == now.inode
        if not same or self._expected.setdefault(now.inode, file) != file:
            self._differences.add(expected.path, "is not the hard link that it was")


def _plain_and_same(was: bytes, now: bytes) -> bytes | None:
    """The kind of an entry that differs in nothing and is no hard link, as nearly all are; None of any other."""
    fields, others = was.split(b" ", 9), now.split(b" ", 9)
    same = fields[:4] == others[:4] and fields[5] == others[5] and fields[9] == others[9]
    plain = fields[0] == b"d" or (fields[8] == b"1" and fields[4] == others[4])
    return fields[0] if same and plain else None


def _may_be_rounded(was: bytes, now: bytes) -> bool:
    """Whether a file system that holds times may have made the one of the other."""
    time = float(was)
    return abs(time - float(now)) <= _GRAIN_SECONDS or not _FIRST_TIME <= time <= _LAST_TIME


def _is_held(was: bytes, now: bytes) -> bool:
    """Whether the one is the other, or rounded down, as all but a few file systems do. What was written just now may be near by chance,
    and is later.
    """
    return was == now or 0 <= float(was) - float(now) <= _GRAIN_SECONDS


def _text(value: bytes) -> str:
    return printable(value) or "none"
