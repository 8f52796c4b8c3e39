"""The listing: every entry of a volume as one record of bytes, in the order of a tree walk.

A record is `PATH//TYPE MODE UID GID SIZE MTIME CTIME INODE LINKS TARGET` (docs/format.md, "Listing"). Paths are
bytes from end to end: they are compared, never decoded. The root is an entry, with an empty path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from volferry.archive.commands import END_RECORD, STATUS_RECORD
from volferry.errors import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

NANOSECONDS = 1_000_000_000
CHANGED_WITHIN_SECONDS = 2
_MOST_LAG_SECONDS = 3600
_BLOCK_BYTES = 512  # of `find -printf %b`
_LONGEST_RECORD = 16 << 20  # a path of 65,536 names
# File systems whose times the engine's own kernel sets. All others, such as NFS, CIFS and FUSE, may have the clock of a server.
_OWN_CLOCK = frozenset({
    "bcachefs", "btrfs", "ecryptfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "nilfs2", "ntfs3", "overlay", "ramfs", "reiserfs", "tmpfs",
    "xfs", "zfs",
})  # fmt: skip

# In place of CTIME in an index: never equal to what a later listing says, so the entry is read again next time.
UNTRUSTED = b"-"
# In a volume's root: what a backup holds besides the volume (docs/format.md, "Dumps").
RESERVED = b".volferry"

_SWAP = bytes.maketrans(b"/\x01", b"\x01/")


def walk_key(path: bytes) -> bytes:
    """Sorts paths as a listing is sorted: a directory, everything below it, its next sibling."""
    return path.translate(_SWAP)


def times_of(meta: bytes) -> bytes:
    """Both times of a record's fields after the path, with a blank between."""
    return b" ".join(meta.split(b" ", 7)[5:7])


def is_reserved(path: bytes) -> bool:
    """Whether it is where dumps are."""
    return path == RESERVED or path.startswith(RESERVED + b"/")


def nanoseconds(text: bytes) -> int:
    """Time of a record (`%T@`: seconds rounded down, a dot, ten digits of which the last is 0) as an integer."""
    seconds, _, fraction = text.partition(b".")
    return int(seconds) * NANOSECONDS + int(fraction[:9].ljust(9, b"0"))


def time_text(ns: int) -> bytes:
    """The inverse of `nanoseconds`."""
    seconds, fraction = divmod(ns, NANOSECONDS)
    return b"%d.%09d0" % (seconds, fraction)


class Stat(NamedTuple):
    """The fields after the path, as they stand in the record."""

    kind: bytes  # f d l p c b s, as `find -printf %y`
    mode: bytes  # octal
    uid: bytes
    gid: bytes
    size: bytes
    mtime: bytes
    ctime: bytes
    inode: bytes
    links: bytes
    target: bytes


class Entry(NamedTuple):
    """One record, split at its `//` only: most entries are passed on without a closer look."""

    path: bytes
    meta: bytes

    @property
    def kind(self) -> bytes:
        return self.meta[:1]

    @property
    def stat(self) -> Stat:
        return Stat(*self.meta.split(b" ", 9))

    @property
    def record(self) -> bytes:
        return self.path + b"//" + self.meta

    @property
    def size(self) -> int:
        """Apparent size in bytes of a regular file, 0 of anything else."""
        return int(self.meta.split(b" ", 5)[4]) if self.meta[:1] == b"f" else 0


def parse_record(record: bytes) -> Entry:
    """Raises ValueError if the record has no `//` or not ten fields."""
    path, separator, meta = record.partition(b"//")
    if not separator or meta.count(b" ") < 9:
        raise ValueError(f"not a listing record: {record[:80]!r}")
    return Entry(path, meta)


def path_of(record: bytes) -> bytes:
    """The path alone."""
    return record.partition(b"//")[0]


def split_records(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """NUL-ended records out of blocks of any size. Raises ValueError if the last one is cut off, or if one has no end."""
    rest = b""
    for block in blocks:
        records = (rest + block).split(b"\0")
        rest = records.pop()
        yield from records
        if len(rest) > _LONGEST_RECORD:
            raise ValueError("a record is longer than any can be")
    if rest:
        raise ValueError("the last record is cut off")


def read_listing(blocks: Iterable[bytes], *, may_have_missed: bool = True) -> Iterator[Entry]:
    """The entries of what `list_command` wrote. Raises as `ListingReader.records` does and, without `may_have_missed`, if `find` could
    not look at something.
    """
    reader = ListingReader(blocks)
    for record in reader.records():
        if reader.find_status and not may_have_missed:
            break
        yield parse_record(record)
    if reader.find_status and not may_have_missed:
        raise CommandFailed(f"listing the volume failed: `find` exited with status {reader.find_status}")


class ListingReader:
    """Reads the output of `list_command`: its records, without the first and the last, and without the field that is not stored."""

    def __init__(
        self,
        blocks: Iterable[bytes],
        *,
        listed_at: float = 0.0,
        unallocated: Callable[[bytes], object] = lambda _: None,
        sparse: Callable[[bytes], object] = lambda _: None,
    ) -> None:
        """`listed_at` is when the listing was begun, by the engine's clock. `unallocated` is called with the record of each regular file that has a size and, as the file system has it, no block,
        `sparse` with that of each large one that has fewer blocks than its size needs; just before the record is yielded.
        """
        self._blocks = blocks
        self.listed_at = listed_at
        self._unallocated = unallocated
        self._sparse = sparse
        self.find_status = 0  # 1: something could not be looked at, and `find` has named it
        # As `find -printf %F` has it; behind a blank each, those of mounts below the directory.
        self.file_system = ""
        # Of entries that did not change later than `listed_at`, in seconds since the epoch; where another clock sets it.
        self._newest_change = 0

    def records(self) -> Iterator[bytes]:
        """Raises CommandFailed if `find` or `sort` failed or if the listing is cut off anywhere. Whether what `find` missed matters is
        for the caller to say.
        """
        records = split_records(self._blocks)
        try:
            first = next(records, b"")
            if not first.startswith(STATUS_RECORD):
                raise CommandFailed("listing the volume failed: no status of `find` arrived")
            status, _, file_system = first[len(STATUS_RECORD) :].partition(b" ")
            self.find_status, self.file_system = int(status), file_system.decode("utf-8", "replace")
            if self.find_status > 1:
                raise CommandFailed(
                    f"listing the volume failed: `find` exited with status {self.find_status}"
                )
            other_clock = not self._has_own_clock
            for record in _each_once(records):
                if record.startswith(b"///"):
                    if record != END_RECORD or next(records, None) is not None:
                        raise CommandFailed("listing the volume failed: it does not end where it says")
                    return
                stored = record[:-2]
                behind = record[-2:]
                if behind[:1] != b" ":
                    stored = self._large(record)
                elif behind == b" 0" and _is_file_with_size(record):
                    self._unallocated(stored)
                if other_clock and (changed := _change_seconds(record)) <= self.listed_at:
                    self._newest_change = max(self._newest_change, changed)
                yield stored
        except ValueError as error:
            raise CommandFailed(f"listing the volume failed: {error}") from error
        raise CommandFailed("listing the volume failed: it is cut off")

    def _large(self, record: bytes) -> bytes:
        """The record without its number of blocks, once that was looked at."""
        stored, _, blocks = record.rpartition(b" ")
        if not blocks.startswith(b"+"):
            raise ValueError(f"no number of blocks behind {record[:80]!r}")
        if int(blocks) * _BLOCK_BYTES < int(stored.partition(b"//")[2].split(b" ", 5)[4]):
            self._sparse(stored)
            if blocks == b"+0":
                self._unallocated(stored)
        return stored

    @property
    def _has_own_clock(self) -> bool:
        return _OWN_CLOCK.issuperset(self.file_system.split(" "))

    @property
    def trusted_seconds(self) -> int:
        """An entry that changed at this second or later may have changed once more without another time. Known once all records were
        read.

        A server's clock may be behind that of the engine, by no more than its newest change time is: up to an hour, entries within
        2 seconds of that one are not trusted either. A time after `listed_at` is from a clock that was wrong, and bounds nothing.
        Of several file systems, nothing tells whose the newest change is: then it is an hour.
        """
        trusted = int(self.listed_at - CHANGED_WITHIN_SECONDS)
        if self._has_own_clock:
            return trusted
        if " " in self.file_system:
            return trusted - _MOST_LAG_SECONDS
        lagging = max(self._newest_change - CHANGED_WITHIN_SECONDS, trusted - _MOST_LAG_SECONDS)
        return min(trusted, lagging)


def _each_once(records: Iterator[bytes]) -> Iterator[bytes]:
    """Without the older record of what is there twice: of a name that was replaced while its directory was read, some file systems (btrfs,
    XFS, tmpfs) give both. The last record, of the end, has no path.
    """
    last, last_path = b"", None
    for record in records:
        path = record.partition(b"//")[0] or record[:3]
        if path == last_path:
            last = max(last, record, key=_changed_at)
            continue
        if last:
            yield last
        last, last_path = record, path
        if path == b"///":
            break
    if last:
        yield last


def _changed_at(record: bytes) -> int:
    return nanoseconds(record.partition(b"//")[2].split(b" ", 7)[6])


def _change_seconds(record: bytes) -> int:
    return int(record.partition(b"//")[2].split(b" ", 7)[6].partition(b".")[0])


def _is_file_with_size(record: bytes) -> bool:
    meta = record.partition(b"//")[2]
    return meta[:1] == b"f" and meta.split(b" ", 5)[4] != b"0"


def paired(left: Iterable[Entry], right: Iterable[Entry]) -> Iterator[tuple[Entry | None, Entry | None]]:
    """Pairs the entries of two listings by path, in the order of both."""
    lefts, rights = iter(left), iter(right)
    one, other = next(lefts, None), next(rights, None)
    while one is not None or other is not None:
        if other is None or (one is not None and walk_key(one.path) < walk_key(other.path)):
            yield one, None
            one = next(lefts, None)
        elif one is None or one.path != other.path:
            yield None, other
            other = next(rights, None)
        else:
            yield one, other
            one, other = next(lefts, None), next(rights, None)
