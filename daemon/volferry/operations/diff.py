"""Compares two backups by their indexes alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from volferry.archive.listing import Entry, paired

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Change = Literal["added", "removed", "modified", "metadata"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One path that is not the same in both. `before` is None for what was added, `after` for what was removed."""

    change: Change
    before: Entry | None
    after: Entry | None

    @property
    def path(self) -> bytes:
        either = self.after or self.before
        return either.path if either else b""


def compare(before: Iterable[Entry], after: Iterable[Entry]) -> Iterator[Difference]:
    """The differences between two listings, in their order; memory does not grow with them."""
    for old, new in paired(before, after):
        if old is None:
            yield Difference("added", None, new)
        elif new is None:
            yield Difference("removed", old, None)
        elif (change := change_between(old, new)) is not None:
            yield Difference(change, old, new)


def change_between(old: Entry, new: Entry) -> Change | None:
    """How two entries of one path differ. An inode, a link count or a ctime alone is no difference: a restore
    changes all of them. The size of a directory says how its file system keeps it, and no more.
    """
    if old.meta == new.meta:
        return None
    was, now = old.stat, new.stat
    if (was.kind, was.mtime, was.target, old.size) != (now.kind, now.mtime, now.target, new.size):
        return "modified"
    if (was.mode, was.uid, was.gid) != (now.mode, now.uid, now.gid):
        return "metadata"
    return None
