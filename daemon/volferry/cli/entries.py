"""How an entry of a backup looks: as a line of `ls -l`, and as JSON."""

from __future__ import annotations

import stat
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from volferry.archive.listing import NANOSECONDS, Entry, Stat, nanoseconds
from volferry.cli.text import local_time_text
from volferry.model import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

# Kind of `find -printf %y` -> its bits in a mode, and its name
_TYPES = {
    b"f": (stat.S_IFREG, "file"),
    b"d": (stat.S_IFDIR, "directory"),
    b"l": (stat.S_IFLNK, "symlink"),
    b"p": (stat.S_IFIFO, "fifo"),
    b"c": (stat.S_IFCHR, "character device"),
    b"b": (stat.S_IFBLK, "block device"),
}


def mode_text(found: Stat) -> str:
    """As in `-rw-r--r--`."""
    return _mode(found.kind, found.mode)


@lru_cache(maxsize=4096)
def _mode(kind: bytes, mode: bytes) -> str:
    bits, _ = _TYPES.get(kind, (0, ""))
    return stat.filemode(bits | int(mode, 8))


def owner_text(found: Stat) -> str:
    return f"{found.uid.decode()}:{found.gid.decode()}"


def mtime_text(found: Stat) -> str:
    """Local time, to the second; what no calendar has, in seconds since 1970."""
    return _local_time(nanoseconds(found.mtime) // NANOSECONDS)


@lru_cache(maxsize=4096)
def _local_time(seconds: int) -> str:
    try:
        return local_time_text(datetime.fromtimestamp(seconds, UTC))
    except (OverflowError, ValueError, OSError):
        return f"@{seconds}"


def mtime_iso(found: Stat) -> str:
    """UTC, to the nanosecond: `2026-01-02T03:04:05.123456789Z`; what no calendar has as `@SECONDS.FRACTION`."""
    seconds, fraction = divmod(nanoseconds(found.mtime), NANOSECONDS)
    start, end = _iso_time(seconds)
    return f"{start}.{fraction:09d}{end}"


@lru_cache(maxsize=4096)
def _iso_time(seconds: int) -> tuple[str, str]:
    """Splits a time before and after its fraction of a second."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}", "Z"
    except (OverflowError, ValueError, OSError):
        return f"@{seconds}", ""


def target_text(found: Stat) -> str:
    return f" -> {printable(found.target)}" if found.kind == b"l" else ""


def path_text(path: bytes) -> str:
    return printable(path) or "."


class LongListing:
    """Lines like those of `ls -l`; columns are as wide as the widest of `entries`, which are looked at once."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.count = self._owner_width = self._size_width = 0
        for entry in entries:
            found = entry.stat
            self.count += 1
            self._owner_width = max(self._owner_width, len(found.uid) + len(found.gid) + 1)
            self._size_width = max(self._size_width, len(found.size))

    def line(self, entry: Entry, name: str) -> str:
        found = entry.stat
        return (
            f"{mode_text(found)}  {owner_text(found):<{self._owner_width}}  "
            f"{found.size.decode():>{self._size_width}}  {mtime_text(found)}  {name}{target_text(found)}"
        )


def stat_document(found: Stat) -> dict[str, Any]:
    _, name = _TYPES.get(found.kind, (0, "unknown"))
    return {
        "type": name,
        "mode": f"{int(found.mode, 8):04o}",
        "uid": int(found.uid),
        "gid": int(found.gid),
        "size": int(found.size) if found.size.isdigit() else None,
        "mtime": mtime_iso(found),
        "target": printable(found.target) if found.kind == b"l" else None,
    }


def entry_document(entry: Entry) -> dict[str, Any]:
    """Size is in bytes; `links` counts the names of the inode, those outside the backup among them."""
    found = entry.stat
    return {"path": path_text(entry.path), **stat_document(found), "links": int(found.links)}
