"""Names that were listed with one inode number: whether they are names of one file.

`tar` takes them for names of one file, whatever their numbers of links are, and so does whoever restores. That is wrong where a file system makes its numbers of something longer
(FUSE, 9p, SMB), so that two files may have the same one. Of a file with holes, which is read alone, `tar` sees one name only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from volferry.archive.listing import parse_record
from volferry.archive.scripts import SCRIPT_COMMAND, identity_script
from volferry.archive.tree_scripts import DIGEST_BYTES, UNREADABLE, digest_command, is_foreign, is_remote
from volferry.operations.streams import feeding, writing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from volferry.archive.listing import Entry
    from volferry.engine.helper import Helper

_READ_BYTES = 1 << 16
_LONGEST_PATH = 4000  # Linux takes none above 4096 bytes, "./" and an end included
_SLOTS = 1 << 22
_TRIES = 3  # it may have changed between the one name and the other


class Names:
    """The entries of a listing that the common `tar` does not read: files with holes, and names that volferry looks at once more in their turn."""

    def __init__(self, file_system: Callable[[], str] = lambda: "") -> None:
        """`file_system` gives the names of all file systems of the volume, as ListingReader has them, known once a name is added."""
        self._file_system = file_system
        self.holes: set[bytes] = set()  # paths of large files with holes
        self.later: dict[bytes, bytes] = {}  # path -> the first path that was listed with its inode number
        self._inodes: set[bytes] = set()
        self._met: _Numbers | None = None  # of all but directories, where two files may have one
        self.any_links = False  # whether a name is left to `tar` that is not the first one of its file

    def meet(self, records: Iterable[bytes]) -> None:
        """All that is to be read, or to be a link's target."""
        if self._met is None:
            if not self.is_foreign:
                return
            self._met = _Numbers()
        for record in records:
            kind, _, _, _, _, _, _, inode, links, _ = record.partition(b"//")[2].split(b" ", 9)
            if kind != b"d":
                self._met.add(inode, times=1 if links == b"1" else 2)

    def in_series(self, entry: Entry) -> bool:
        """Whether it has one name, may have the inode number of another one, and is to be read by a `tar` that makes no links: by one more than the common one, if
        that has to.
        """
        if not self.may_be_in_series or self._met is None or entry.path in self.holes:
            return False
        stat = entry.stat
        return stat.links == b"1" and stat.kind != b"d" and self._met.has_twice(stat.inode)

    @property
    def may_be_in_series(self) -> bool:
        """Whether any entry may be."""
        return self.any_links and self._met is not None

    def add_holes(self, record: bytes) -> None:
        """A large file with holes; its other names come after it."""
        entry = parse_record(record)
        self.holes.add(entry.path)
        if entry.stat.links != b"1":
            self._inodes.add(entry.stat.inode)

    def add(self, inode: bytes, record: bytes, first: bytes) -> bool:
        """One of several names, with the record of the first that was listed with that number. Returns whether it is left to `tar`."""
        path, _, meta = record.partition(b"//")
        first_path, _, first_meta = first.partition(b"//")
        if path == first_path:
            return True
        if meta == first_meta and inode not in self._inodes and not self._may_be_another(meta):
            self.any_links = True
            return True
        self._inodes.add(inode)
        self.later[path] = first_path
        return False

    def end(self, *, holes: bool) -> None:
        """`holes`: whether the file system's word is taken for what is a hole."""
        if not holes or self.is_remote:
            self.holes.clear()

    @property
    def is_remote(self) -> bool:
        """As `is_remote`, of the volume's file systems."""
        return is_remote(self._file_system())

    @property
    def is_foreign(self) -> bool:
        """As `is_foreign`, of the volume's file systems."""
        return is_foreign(self._file_system())

    def same(self, helper: Helper, directory: str, first: bytes, later: Sequence[Entry]) -> set[bytes]:
        """The paths of those of `later` that are names of the file that the first path is a name of, and as which they were listed."""
        same: set[bytes] = set()
        left = later
        for _ in range(_TRIES):
            found = _identities(helper, directory, [first, *(each.path for each in left)])
            one = found.get(first)
            if one is None:
                break
            changed = []
            for each in left:
                other = found.get(each.path, b"")
                if one.split()[:2] != other.split()[:2] or one.split()[0] != each.stat.inode:
                    continue
                if one != other:
                    changed.append(each)
                elif not self._may_be_another(each.meta) or _have_same_content(
                    helper, directory, (first, each.path)
                ):
                    same.add(each.path)
            left = changed
            if not left:
                break
        return same

    def _may_be_another(self, meta: bytes) -> bool:
        """Whether two files may have one inode number and the same attributes: of a change time to the nanosecond, hardly ever."""
        changed = meta.split(b" ", 7)[6]
        return self.is_remote and not changed.partition(b".")[2].strip(b"0")


class _Numbers:
    """Which numbers came more than once, in memory that does not grow with them. It may be wrong about some that did not."""

    def __init__(self) -> None:
        self._times = bytearray(_SLOTS)

    def add(self, number: bytes, *, times: int) -> None:
        slot = hash(number) % _SLOTS
        self._times[slot] = min(2, self._times[slot] + times)

    def has_twice(self, number: bytes) -> bool:
        return self._times[hash(number) % _SLOTS] > 1


def _identities(helper: Helper, directory: str, paths: Sequence[bytes]) -> dict[bytes, bytes]:
    """By path, what tells one file from another: of those that are there, and have other names."""
    process = helper.start(SCRIPT_COMMAND, stdin=True, on_stderr=lambda _: None)
    found: dict[bytes, bytes] = {}
    with writing(process, identity_script(directory, [each for each in paths if len(each) <= _LONGEST_PATH])):
        answer = b"".join(iter(lambda: process.read(_READ_BYTES), b""))
    for record in answer.split(b"\0")[:-1]:
        identity, _, path = record.partition(b"//./")
        if identity.split()[2] != b"1":
            found[path] = identity
    process.wait()
    return found


def _have_same_content(helper: Helper, directory: str, paths: Sequence[bytes]) -> bool:
    process = helper.start(digest_command(directory), stdin=True, on_stderr=lambda _: None)
    with feeding(process, paths):
        found = b"".join(iter(lambda: process.read(_READ_BYTES), b""))
    one, other = found[:DIGEST_BYTES], found[DIGEST_BYTES:]
    return process.wait() == 0 and one == other and one[:1] not in {b"", UNREADABLE}
