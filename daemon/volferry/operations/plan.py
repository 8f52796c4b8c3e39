"""Decides, group by group, what is read again and what is reused: two sorted listings merged as streams."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING

from volferry.archive.index import FrameLocation
from volferry.archive.listing import path_of, walk_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from volferry.archive.groups import Group
    from volferry.operations.base import Base, Source

READ = -1
# Of an earlier listing, taken while the helper comes up: some ten megabytes.
_GROUPS_AHEAD = 1024


@dataclass(slots=True)
class Plan:
    """For each group of the new listing: the source and the group of it that is reused, or READ."""

    sources: array[int] = field(default_factory=lambda: array("i"))
    groups: array[int] = field(default_factory=lambda: array("q"))
    # Group -> records of what `tar` must have seen before it, so that its hard links to reused entries are hard links.
    anchors: dict[int, list[bytes]] = field(default_factory=dict)

    def is_read(self, group: int) -> bool:
        return self.sources[group] == READ


class Planner:
    """Takes the groups of the new listing, in order. With `full`, nothing is reused."""

    def __init__(self, base: Base, *, full: bool) -> None:
        self.plan = Plan()
        self._links = _Links(self.plan)
        self._cursors = (
            []
            if full
            else [
                _GroupCursor(source, unusable)
                for source, unusable in zip(base.sources, base.unusable_groups, strict=True)
            ]
        )

    def first_name(self, inode: bytes) -> bytes:
        """The record of the first name that was listed with that number, of what has more than one."""
        return self._links.first[inode][1]

    def add(self, group: Group) -> bool:
        """Whether the group is to be read. Raises ValueError or OSError if a source turns out to be damaged."""
        source = reused = READ
        for index, cursor in enumerate(self._cursors):
            found = cursor.find(group.records)
            if found is not None and self._links.lead_to_the_same(group.linked, cursor):
                # Of the newest backup and a checkpoint, the later one: the checkpoint has seen the volume last.
                source, reused = index, found
        if source != READ and self._links.depend_on_what_is_read(group.linked):
            source = reused = READ
        self.plan.sources.append(source)
        self.plan.groups.append(reused)
        self._links.add(group.number, group.linked)
        return source == READ


class _GroupCursor:
    """Finds the groups of a listing in an earlier one; both are asked in order."""

    def __init__(self, source: Source, unusable: set[int]) -> None:
        self._source = source
        self._first_names: dict[bytes, bytes] | None = None  # only where there are hard links
        groups = source.groups()
        self._groups = chain(list(islice(groups, _GROUPS_AHEAD)), groups)
        self._unusable = unusable
        self._number = -1
        self._records: list[bytes] = []
        self._key = b""
        self._advance()

    def find(self, records: list[bytes]) -> int | None:
        """Number of the group that has exactly these records, if there is one."""
        key = _key(records[0])
        while self._records and self._key < key:
            self._advance()
        # A record that may not be trusted has no change time, and so equals none of a new listing.
        return self._number if self._records == records and self._number not in self._unusable else None

    def first_name(self, inode: bytes) -> bytes | None:
        """The path that holds the data of an inode with several names, in the earlier listing."""
        if self._first_names is None:
            self._first_names = {}
            for _, records in self._source.groups():
                for record in records:
                    path, _, meta = record.partition(b"//")
                    kind, *_, of, links, _ = meta.split(b" ", 9)
                    if links != b"1" and kind != b"d":
                        self._first_names.setdefault(of, path)
        return self._first_names.get(inode)

    def _advance(self) -> None:
        self._number, self._records = next(self._groups, (-1, []))
        self._key = _key(self._records[0]) if self._records else b""


class _Links:
    """Hard links across groups. The first entry of an inode holds the data; the others are links to its path.

    A group with such a link is read again when the group of its first entry is: should that one have vanished by
    then, `tar` stores the next one as a file, and nothing links to a path that is not there. Links to the first
    entry of a reused group need that entry as an anchor.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.first: dict[bytes, tuple[int, bytes]] = {}  # inode -> group and record
        self._anchored: set[bytes] = set()

    def lead_to_the_same(self, linked: list[tuple[bytes, bytes]], cursor: _GroupCursor) -> bool:
        """Whether the first name of each inode is the one that it was.

        The change time of a file does not tell: moving a directory above its first name leaves all records of its
        other names as they were, and these would be links to a path that is gone.
        """
        return all(
            cursor.first_name(inode) == path_of(self.first[inode][1] if inode in self.first else record)
            for inode, record in _first_of_each(linked)
        )

    def depend_on_what_is_read(self, linked: list[tuple[bytes, bytes]]) -> bool:
        return any(inode in self.first and self._plan.is_read(self.first[inode][0]) for inode, _ in linked)

    def add(self, number: int, linked: list[tuple[bytes, bytes]]) -> None:
        for inode, record in linked:
            group, first = self.first.setdefault(inode, (number, record))
            if (
                self._plan.is_read(number)
                and group != number
                and not self._plan.is_read(group)
                and inode not in self._anchored
            ):
                self._anchored.add(inode)
                self._plan.anchors.setdefault(number, []).append(first)


class ReusedFrames:
    """The frames of reused groups, which must be asked for in order."""

    def __init__(self, base: Base, plan: Plan) -> None:
        self._plan = plan
        self._frames = [source.frames() for source in base.sources]
        self._next: list[FrameLocation | None] = [next(frames, None) for frames in self._frames]

    def of(self, number: int) -> Iterator[FrameLocation]:
        """Frames of group `number` of the new listing, as frames of that group."""
        source, group = self._plan.sources[number], self._plan.groups[number]
        frames = self._frames[source]
        location = self._next[source]
        while location is not None and location.group < group:
            location = next(frames, None)
        while location is not None and location.group == group:
            yield FrameLocation(
                number,
                location.pack,
                location.offset,
                location.stored_bytes,
                location.raw_bytes,
                location.digest,
            )
            location = next(frames, None)
        self._next[source] = location


def _key(record: bytes) -> bytes:
    return walk_key(path_of(record))


def _first_of_each(linked: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Of several names of one inode, the first."""
    first: dict[bytes, bytes] = {}
    for inode, record in linked:
        first.setdefault(inode, record)
    return list(first.items())
