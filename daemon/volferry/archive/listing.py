"""The listing: every entry of a volume as one record of bytes, in the order of a tree walk.

A record is `PATH//TYPE MODE UID GID SIZE MTIME CTIME INODE LINKS TARGET` (docs/format.md, "Listing"). Paths are
bytes from end to end: they are compared, never decoded. The root is an entry, with an empty path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from volferry.archive.commands import END_RECORD, STATUS_RECORD
from volferry.errors import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NANOSECONDS = 1_000_000_000
CHANGED_WITHIN_SECONDS = 2

# In place of CTIME in an index: never equal to what a later listing says, so the entry is read again next time.
UNTRUSTED = b"-"
# In a volume's root: what a backup holds besides the volume (docs/format.md, "Dumps").
RESERVED = b".volferry"

_SWAP = bytes.maketrans(b"/\x01", b"\x01/")


def walk_key(path: bytes) -> bytes:
    """Sorts paths as a listing is sorted: a directory, everything below it, its next sibling."""
    return path.translate(_SWAP)


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
    """NUL-ended records out of blocks of any size. Raises ValueError if the last one is cut off."""
    rest = b""
    for block in blocks:
        records = (rest + block).split(b"\0")
        rest = records.pop()
        yield from records
    if rest:
        raise ValueError("the last record is cut off")


def read_listing(blocks: Iterable[bytes], *, may_have_missed: bool = True) -> Iterator[Entry]:
    """As `listing_records`, split."""
    for record in listing_records(blocks, may_have_missed=may_have_missed):
        yield parse_record(record)


def listing_records(blocks: Iterable[bytes], *, may_have_missed: bool = True) -> Iterator[bytes]:
    """Records of what `list_command` wrote, without its first and last record.

    Raises CommandFailed if `find` or `sort` failed or if the listing is cut off anywhere. `find` exits 1 when a
    directory vanished while it looked; whether that was all is for the caller to say (`may_have_missed`).
    """
    records = split_records(blocks)
    try:
        first = next(records, b"")
        if not first.startswith(STATUS_RECORD):
            raise CommandFailed("listing the volume failed: no status of `find` arrived")
        status = int(first[len(STATUS_RECORD) :])
        if status > 1 or (status == 1 and not may_have_missed):
            raise CommandFailed(f"listing the volume failed: `find` exited with status {status}")
        for record in records:
            if record.startswith(b"///"):
                if record != END_RECORD or next(records, None) is not None:
                    raise CommandFailed("listing the volume failed: it does not end where it says")
                return
            yield record
    except ValueError as error:
        raise CommandFailed(f"listing the volume failed: {error}") from error
    raise CommandFailed("listing the volume failed: it is cut off")


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
