"""What a target lacks of a source: two listings in, what is to be sent, deleted and cleared out."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

from volferry.archive.blocks import LEAST_BYTES
from volferry.archive.index import file_blocks
from volferry.archive.listing import parse_record, path_of, split_records, walk_key
from volferry.operations.block_transfer import LargeFile
from volferry.operations.names import Names

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Iterator
    from pathlib import Path

    from volferry.archive.listing import Entry


@dataclass(frozen=True, slots=True)
class ListingFile:
    """Records of a listing in a local file, without sockets and without a mark."""

    path: Path
    trusted_seconds: (
        int  # a change time after this one says nothing: the entry may have changed after it was listed
    )
    entries: int
    source_bytes: int  # sum of the apparent sizes of the regular files
    holes: bool = True  # whether the file system's word is taken for what is a hole
    names: Names = field(default_factory=Names)

    def records(self) -> Iterator[bytes]:
        return split_records(file_blocks(self.path))


@dataclass(frozen=True, slots=True)
class Known:
    """What a target is known to hold: as a listing of the source has it."""

    path: Path
    trusted_seconds: int
    doubted: Collection[bytes] = frozenset()  # paths of what was listed, and not read as it is

    def records(self) -> Iterator[bytes]:
        return split_records(file_blocks(self.path))

    def holds(self, record: bytes) -> bool:
        """Whether a record that stands in both listings is of an entry that is the same."""
        path, _, meta = record.partition(b"//")
        changed = meta.split(b" ", 7)[6]
        return int(changed.partition(b".")[0]) <= self.trusted_seconds and path not in self.doubted


@dataclass(slots=True)
class Changes:
    """In local files, NUL-ended paths, in the order of a tree walk; `.` is the root."""

    send: Path
    series: Path  # what could be taken for another file (names.py): no member of it becomes a link
    clear: Path  # directories that are there already: attributes that they have no longer must go
    delete: list[bytes] = field(default_factory=list)  # each with all below it
    patch: list[LargeFile] = field(default_factory=list)  # which the target has, as they were
    alone: list[Entry] = field(default_factory=list)  # each of which is sent in a stream of its own
    entries: int = 0
    source_bytes: int = 0

    @property
    def paths(self) -> Iterator[bytes]:
        return split_records(file_blocks(self.send))

    @property
    def paths_in_series(self) -> Iterator[bytes]:
        return split_records(file_blocks(self.series))


def changes_between(now: ListingFile, known: Known | None, directory: Path) -> Changes:
    """Without `known`, all is to be sent to a target that is empty."""
    found = Changes(directory / "send", directory / "series", directory / "clear")
    linked = _linked(now, known) if known is not None else set()
    with ExitStack() as stack:
        walk = _Walk(
            found,
            stack.enter_context(found.send.open("wb")),
            stack.enter_context(found.series.open("wb")),
            stack.enter_context(found.clear.open("wb")),
            names=now.names,
            patches=now.holes,  # which pass over what is a hole
        )
        for record, before in _paired(now, known):
            if record is None:
                walk.delete(path_of(before or b""))
            elif before is None:
                walk.send(record)
            elif (
                record == before
                and known is not None
                and known.holds(record)
                and not _is_one_of(record, linked)
            ):
                walk.pass_by(record)
            else:
                walk.replace(record, before)
    return found


class _Walk:
    """Keeps the directories above, each of which is sent too where something in it is: writing there changes its time."""

    def __init__(
        self,
        found: Changes,
        send: BinaryIO,
        series: BinaryIO,
        clear: BinaryIO,
        *,
        names: Names,
        patches: bool,
    ) -> None:
        self._found = found
        self._alone: Container[bytes] = names.holes | names.later.keys() | set(names.later.values())
        self._holes = names.holes
        self._in_series = names.in_series
        self._patches = patches
        self._send = send
        self._series = series
        self._clear = clear
        self._above: list[tuple[bytes, bytes]] = []  # prefix of what is below, record
        self._sent: list[bool] = []
        self._deleted: bytes | None = None  # prefix of what is below

    def pass_by(self, record: bytes) -> None:
        self._enter(record)
        if path_of(record) == b"":
            self._give(record)  # the mark changes the root's time
            self._sent[-1] = True

    def send(self, record: bytes) -> None:
        """A new one."""
        self._give_parent(path_of(record))
        self._give(record)
        self._enter(record, sent=True)

    def replace(self, record: bytes, before: bytes) -> None:
        path, was, now = path_of(record), _kind(before), _kind(record)
        size = _size_to_patch(record, before) if self._patches and was == now == b"f" else 0
        if size and not (path in self._holes and size > _MOST_HOLLOW_BYTES):
            self._found.patch.append(LargeFile(path, size))
            self._found.entries += 1
            self._leave(path)
            return
        if was != now and b"d" in (was, now):
            self._found.delete.append(path)
            self._deleted = path + b"/"
        elif now == b"d":
            self._clear.write((path or b".") + b"\0")
        self.send(record)

    def delete(self, path: bytes) -> None:
        if self._deleted is not None and path.startswith(self._deleted):
            return
        self._found.delete.append(path)
        self._deleted = path + b"/"
        self._give_parent(path)

    def _give_parent(self, path: bytes) -> None:
        self._leave(path)
        if self._above and not self._sent[-1]:
            self._give(self._above[-1][1])
            self._sent[-1] = True

    def _give(self, record: bytes) -> None:
        entry = parse_record(record)
        if entry.path in self._alone:
            self._found.alone.append(entry)
        else:
            file = self._series if self._in_series(entry) else self._send
            file.write((entry.path or b".") + b"\0")
        self._found.entries += 1
        self._found.source_bytes += entry.size

    def _enter(self, record: bytes, *, sent: bool = False) -> None:
        path = path_of(record)
        self._leave(path)
        if _kind(record) == b"d":
            self._above.append((path + b"/" if path else b"", record))
            self._sent.append(sent)

    def _leave(self, path: bytes) -> None:
        while self._above and (not path or not path.startswith(self._above[-1][0])):
            self._above.pop()
            self._sent.pop()


# Of what has holes. The blocks that are compared grow with a file's size, and a byte in each of them makes all of it read: of ten terabytes of holes, too.
_MOST_HOLLOW_BYTES = 64 << 30


def _size_to_patch(record: bytes, before: bytes) -> int:
    """Of a large file with one name, that was large before; 0 for any other."""
    now, then = parse_record(record).stat, parse_record(before).stat
    if now.links != b"1" or then.links != b"1" or min(int(now.size), int(then.size)) < LEAST_BYTES:
        return 0
    return int(now.size)


def _linked(now: ListingFile, known: Known | None) -> set[bytes]:
    """Inodes of which a name is to be sent: then all of them are, or they would be names of two."""
    found = set()
    for record, before in _paired(now, known):
        if record is None:
            continue
        kind, *_, inode, links, _ = record.partition(b"//")[2].split(b" ", 9)
        if links != b"1" and kind != b"d" and (record != before or known is None or not known.holds(record)):
            found.add(inode)
    return found


def _is_one_of(record: bytes, linked: Collection[bytes]) -> bool:
    return bool(linked) and record.partition(b"//")[2].split(b" ", 8)[7] in linked and _kind(record) != b"d"


def _kind(record: bytes) -> bytes:
    return record.partition(b"//")[2][:1]


def _paired(now: ListingFile, known: Known | None) -> Iterator[tuple[bytes | None, bytes | None]]:
    """Records of both by path, in the order of both."""
    return paired_records(now.records(), known.records() if known is not None else iter(()))


def paired_records(
    lefts: Iterator[bytes], rights: Iterator[bytes]
) -> Iterator[tuple[bytes | None, bytes | None]]:
    """Pairs the records of two listings by path."""
    one, other = next(lefts, None), next(rights, None)
    while one is not None or other is not None:
        if one == other:
            yield one, other
            one, other = next(lefts, None), next(rights, None)
            continue
        left = walk_key(path_of(one)) if one is not None else None
        right = walk_key(path_of(other)) if other is not None else None
        if right is None or (left is not None and left < right):
            yield one, None
            one = next(lefts, None)
        elif left is None or left > right:
            yield None, other
            other = next(rights, None)
        else:
            yield one, other
            one, other = next(lefts, None), next(rights, None)
