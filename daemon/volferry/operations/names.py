"""Names that were listed with one inode number: whether they are names of one file.

`tar` takes them for that, and so does who restores. It is wrong where a file system makes its numbers of something longer (FUSE, 9p, SMB), so that two
files may have the same. And of a file with holes, which is read alone, `tar` sees one name only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from volferry.archive.listing import parse_record
from volferry.archive.tree_scripts import (
    DIGEST_BYTES,
    UNREADABLE,
    digest_command,
    has_own_numbers,
    identity_command,
    reads_are_whole,
)
from volferry.operations.streams import feeding

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from volferry.archive.listing import Entry
    from volferry.engine.helper import Helper

_READ_BYTES = 1 << 16
_TRIES = 3  # it may have changed between the one name and the other


class Names:
    """What of a listing is not left to a `tar` that reads everything: files with holes, and names that are looked at once more in their turn."""

    def __init__(self, file_system: Callable[[], str] = lambda: "") -> None:
        """`file_system` gives its name as `find -printf %F` has it, known once a name is added."""
        self._file_system = file_system
        self.holes: set[bytes] = set()  # paths of large files with holes
        self.later: dict[bytes, bytes] = {}  # path -> the first path that was listed with its inode number
        self._inodes: set[bytes] = set()

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
            return True
        self._inodes.add(inode)
        self.later[path] = first_path
        return False

    def end(self, *, holes: bool) -> None:
        """`holes`: whether the file system's word is taken for what is a hole."""
        if not (holes and reads_are_whole(self._file_system())):
            self.holes.clear()

    def is_same(self, helper: Helper, directory: str, first: bytes, later: Entry) -> bool:
        """Whether the first path is a name of the file that `later` was listed as."""
        paths = (first, later.path)
        for _ in range(_TRIES):
            lines = _answer(helper, identity_command(directory), paths).splitlines()
            if len(lines) != len(paths) or b"!" in lines:
                return False
            one, other = (line.split() for line in lines)
            inode, _, links, *_ = other
            if inode != later.stat.inode or links == b"1" or one[:2] != other[:2]:
                return False
            if one == other:
                return not self._may_be_another(later.meta) or _have_same_content(helper, directory, paths)
        return False

    def _may_be_another(self, meta: bytes) -> bool:
        """Whether two files may have one inode number and the same attributes: of a change time to the nanosecond, hardly ever."""
        changed = meta.split(b" ", 7)[6]
        return not has_own_numbers(self._file_system()) and not changed.partition(b".")[2].strip(b"0")


def _have_same_content(helper: Helper, directory: str, paths: Sequence[bytes]) -> bool:
    found = _answer(helper, digest_command(directory), paths)
    one, other = found[:DIGEST_BYTES], found[DIGEST_BYTES:]
    return one == other and len(one) == DIGEST_BYTES and one[:1] != UNREADABLE


def _answer(helper: Helper, command: Sequence[str], paths: Sequence[bytes]) -> bytes:
    """Empty if there is none."""
    process = helper.start(command, stdin=True, on_stderr=lambda _: None)
    with feeding(process, paths):
        answer = b"".join(iter(lambda: process.read(_READ_BYTES), b""))
    return answer if process.wait() == 0 else b""
