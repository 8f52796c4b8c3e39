"""Groups: runs of consecutive entries that are read, stored and reused together.

Where a group ends is a function of the entries alone, never of what was stored before: an insertion or a deletion
moves no boundary but its own (docs/format.md, "Groups").
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from zlib import crc32

from volferry.archive.listing import is_reserved

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LARGE_FILE_BYTES = 1 << 20
BOUNDARY_ONE_IN = 64
# What changes has its whole group read again: many files of middling size must not become one of tens of megabytes.
_BOUNDARY_BYTES = 1 << 16
# Both bound memory: against names chosen so that no hash ends a group, and against long ones.
MOST_ENTRIES = 4096
MOST_RECORD_BYTES = 64 << 20  # of all its records


@dataclass(slots=True)
class Group:
    """Records of a listing, and what is needed of them all, from looking at each once."""

    number: int
    records: list[bytes] = field(default_factory=list)
    record_bytes: int = 0  # of the listing
    source_bytes: int = 0  # sum of the apparent sizes of the regular files
    kinds: dict[bytes, int] = field(default_factory=dict)  # how many of each, as `find -printf %y`
    linked: list[tuple[bytes, bytes]] = field(default_factory=list)  # inode and record of what has more names


def split_groups(records: Iterable[bytes]) -> Iterator[Group]:
    """The groups of a listing, numbered from 0. Raises ValueError for what is not a record."""
    group = Group(0)
    for record in records:
        path, _, meta = record.partition(b"//")
        kind, _, _, _, size, _, _, inode, links, _ = meta.split(b" ", 9)
        size_bytes = int(size) if kind == b"f" else 0
        alone = size_bytes >= LARGE_FILE_BYTES or is_reserved(path)
        if group.records and (alone or group.record_bytes + len(record) > MOST_RECORD_BYTES):
            yield group
            group = Group(group.number + 1)
        group.records.append(record)
        group.record_bytes += len(record)
        group.source_bytes += size_bytes
        group.kinds[kind] = group.kinds.get(kind, 0) + 1
        if links != b"1" and kind != b"d":
            group.linked.append((inode, record))
        ends = crc32(path) % BOUNDARY_ONE_IN <= size_bytes // _BOUNDARY_BYTES
        if alone or ends or len(group.records) == MOST_ENTRIES:
            yield group
            group = Group(group.number + 1)
    if group.records:
        yield group
