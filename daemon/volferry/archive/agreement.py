"""Whether the members of a tar stream say what the records of an index do: what a restore would leave, without one.

`difference` looks at one member and its record; `Names` at what leads from one to another: hard links.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from volferry.archive.listing import UNTRUSTED, nanoseconds
from volferry.archive.tarstream import HARD_LINK, KIND_OF_TYPEFLAG
from volferry.model import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from volferry.archive.listing import Entry, Stat
    from volferry.archive.tarstream import Member

# Of other kinds, tar stores every name on its own.
_LINKED_KINDS = frozenset({b"f", b"l"})
# What all names of one file have in common.
_SHARED = ("kind", "mode", "uid", "gid", "size", "mtime", "target")


def difference(stat: Stat, member: Member) -> str:
    """Empty if a member says of its kind, mode, owner, size, time and target what the record does; else the first
    thing that differs. The change time is in no member. A hard link says nothing of its own: see `Names`.

    Raises ValueError for a record whose numbers are none.
    """
    if member.typeflag == HARD_LINK:
        return ""
    kind = KIND_OF_TYPEFLAG.get(member.typeflag, b"?")
    for name, recorded, read in (
        ("kind", stat.kind, kind),
        ("mode", int(stat.mode, 8), member.mode),
        ("uid", int(stat.uid), member.uid),
        ("gid", int(stat.gid), member.gid),
        ("size", int(stat.size) if kind == b"f" else 0, member.size if kind == b"f" else 0),
        ("mtime", nanoseconds(stat.mtime), member.mtime_ns),
        ("target", stat.target, member.target if kind == b"l" else b""),
    ):
        if recorded != read:
            return f"has {name} {_text(name, read)}, and its record has {_text(name, recorded)}"
    return ""


def _text(name: str, value: bytes | int) -> str:
    if isinstance(value, bytes):
        return printable(value) or "none"
    return f"{value:o}" if name == "mode" else str(value)


class Names:
    """The names of a backup that hard links may lead to, group by group, in order."""

    def __init__(self, earlier: Callable[[bytes, bytes], Stat | None]) -> None:
        """`earlier(path, before)` gives the record at `path` if it comes before that of `before`; it is asked only for files
        that had one name when they were listed.
        """
        self._earlier = earlier
        self._stats: dict[bytes, Stat] = {}  # of all that has more names than one
        self._first: dict[bytes, bytes] = {}  # the name that holds the data of each of these
        self._first_of_inode: dict[bytes, bytes] = {}
        self._inode_of_first: dict[bytes, bytes] = {}

    def pass_over(self, entries: Sequence[Entry]) -> None:
        """A group of which nothing can be read."""
        for entry in entries:
            if _has_others(entry):
                self._stats[entry.path] = entry.stat
                self._first[entry.path] = entry.path

    def add(self, entries: Sequence[Entry], links: Mapping[bytes, bytes]) -> str:
        """A group, and which of its members are links to where. Returns what is wrong, empty if nothing is."""
        wrong = ""
        for entry in entries:
            target = links.get(entry.path)
            if target is None and not _has_others(entry):
                continue
            stat = entry.stat
            said = self._wrong_link(entry.path, stat, target) if target is not None else ""
            self._stats[entry.path] = stat
            self._first[entry.path] = entry.path if target is None else self._first.get(target, target)
            said = said or self._wrong_inode(entry.path, stat)
            wrong = wrong or (f"{printable(entry.path)!r} {said}" if said else "")
        return wrong

    def _wrong_link(self, path: bytes, stat: Stat, target: bytes) -> str:
        first = self._stats.get(target) or self._earlier(target, path)
        if first is None:
            return f"is a hard link to {printable(target)!r}, which does not come before it"
        if first.kind == b"d":
            return f"is a hard link to {printable(target)!r}, which is a directory"
        for name in _SHARED:
            if getattr(first, name) != getattr(stat, name):
                return f"is a hard link to {printable(target)!r}, and their records differ in their {name}"
        if UNTRUSTED not in {first.ctime, stat.ctime} and first.inode != stat.inode:
            return f"is a hard link to {printable(target)!r}, and their records are of two files"
        return ""

    def _wrong_inode(self, path: bytes, stat: Stat) -> str:
        """Names of one file must be links to one name, and to no other's."""
        if stat.kind not in _LINKED_KINDS or stat.links == b"1" or stat.ctime == UNTRUSTED:
            return ""
        first = self._first[path]
        same = self._first_of_inode.setdefault(stat.inode, first) == first
        if same and self._inode_of_first.setdefault(first, stat.inode) == stat.inode:
            return ""
        return "is not the hard link that its record says"


def _has_others(entry: Entry) -> bool:
    """Whether its record says that the file has more names than one."""
    return entry.kind != b"d" and entry.meta.split(b" ", 9)[8] != b"1"
