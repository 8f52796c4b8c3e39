"""Matches the members of a tar stream with the entries that `tar` was asked for, and cuts them into frames.

Between the listing and the reading, a live volume goes on: an entry without a member has vanished, and an entry
whose member says something else is recorded as what was read, not as what was listed.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from volferry.archive.frames import FrameCutter
from volferry.archive.listing import UNTRUSTED, Entry, Stat, nanoseconds, time_text
from volferry.archive.tarstream import BLOCK, HARD_LINK, KIND_OF_TYPEFLAG, Member, TarReader
from volferry.errors import CommandFailed
from volferry.model import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


# In place of a group's number: the entry is read so that `tar` knows its inode, and its member is dropped.
ANCHOR = -1


def align(
    reader: TarReader,
    asked: Iterator[tuple[int, Entry]],
    *,
    entry_asked: Callable[[bytes], Entry | None],
    stored: Callable[[int, Entry], None],
    vanished: Callable[[Entry], None],
    watch: Callable[[Entry, Member], Callable[[memoryview], None] | None] = lambda *_: None,
) -> Iterator[tuple[int, memoryview]]:
    """Yields the raw frames of the stream with their group's number; they lie in the reader's own memory, which is
    used again once they are let go.

    Calls `stored` for each entry that the frames hold and `vanished` for each that they do not, in order; what `watch` gives is
    called with the pieces of a member's payload.
    `entry_asked` gives one of `asked` by its path; it is used sparingly.
    Raises CommandFailed if a member, or what it is a link to, was not asked for.
    """
    cutter = FrameCutter(reader.buffer)
    settle = _Settler(entry_asked)
    current = ANCHOR
    for member in reader:
        group, entry = _asked_for(member, asked, vanished)
        if group != current:
            yield from cutter.begin(None if group == ANCHOR else group, last=len(member.header))
            current = group
        if group == ANCHOR:
            settle.remember(entry.path, entry.stat)
        else:
            stored(group, settle(entry, member))
        told = watch(entry, member)
        for piece in chain((memoryview(b""),), reader.payload()):
            if told is not None:
                told(piece)
            if reader.buffer.is_nearly_full:
                yield from cutter.certain()
    for group, entry in asked:
        if group != ANCHOR:
            vanished(entry)
    yield from cutter.begin(None, last=BLOCK)


def _asked_for(
    member: Member, asked: Iterator[tuple[int, Entry]], vanished: Callable[[Entry], None]
) -> tuple[int, Entry]:
    """The entry that `member` is the answer to; those before it have none."""
    for group, entry in asked:
        if entry.path == member.path:
            return group, entry
        if group != ANCHOR:
            vanished(entry)
    raise CommandFailed(f"reading the volume failed: tar sent {printable(member.path)!r} out of order")


class _Settler:
    """Turns an entry into what its member says, where the two differ; such an entry is read again next time.

    A hard link's member brings what the file had become by then, but what is restored is what the member of its first
    name says: so all names of a file are recorded alike.
    """

    def __init__(self, entry_asked: Callable[[bytes], Entry | None]) -> None:
        self._entry_asked = entry_asked
        # What was recorded of files that have more than one name, and of those that are not what was listed.
        self._recorded: dict[bytes, Stat] = {}
        self._inodes: set[bytes] = set()

    def remember(self, path: bytes, stat: Stat) -> None:
        """What holds the data of hard links to it."""
        self._recorded[path] = stat
        self._inodes.add(stat.inode)

    def __call__(self, entry: Entry, member: Member) -> Entry:
        listed = entry.stat
        read = self._read(listed, member)
        if read == listed and member.typeflag != HARD_LINK and self._was_a_name_of_another(listed):
            # Another file by now, though it looks the same: its names are not those of one file any longer.
            read = read._replace(ctime=UNTRUSTED)
        if read == listed:
            if listed.links != b"1" and listed.kind != b"d" and member.typeflag != HARD_LINK:
                self.remember(entry.path, listed)
            return entry
        read = read._replace(ctime=UNTRUSTED)
        if member.typeflag != HARD_LINK:
            self.remember(entry.path, read)
        return Entry(entry.path, b" ".join(read))

    def _was_a_name_of_another(self, listed: Stat) -> bool:
        """Of files and symlinks; of other kinds, tar stores every name on its own."""
        return listed.kind in {b"f", b"l"} and listed.inode in self._inodes

    def _read(self, listed: Stat, member: Member) -> Stat:
        """`listed` itself if the member says the same."""
        if member.typeflag == HARD_LINK:
            first = self._first(member.target)
            same = first.ctime != UNTRUSTED and first.inode == listed.inode
            return first._replace(
                ctime=listed.ctime if same else UNTRUSTED, inode=listed.inode, links=listed.links
            )
        kind = KIND_OF_TYPEFLAG.get(member.typeflag, b"?")
        if (
            kind == listed.kind
            and (kind != b"f" or member.size == int(listed.size))
            and (kind != b"l" or member.target == listed.target)
            and nanoseconds(listed.mtime) == member.mtime_ns
            and int(listed.mode, 8) == member.mode
            and int(listed.uid) == member.uid
            and int(listed.gid) == member.gid
        ):
            return listed
        return listed._replace(
            kind=kind,
            mode=b"%o" % member.mode,
            uid=b"%d" % member.uid,
            gid=b"%d" % member.gid,
            size=b"%d" % member.size if kind == b"f" else listed.size,
            mtime=time_text(member.mtime_ns),
            target=member.target if kind == b"l" else b"",
        )

    def _first(self, path: bytes) -> Stat:
        """What was recorded of the first name of a file."""
        if (recorded := self._recorded.get(path)) is not None:
            return recorded
        # It had one name only when it was listed, and was read as it was listed.
        if (entry := self._entry_asked(path)) is not None:
            return entry.stat
        raise CommandFailed(
            f"reading the volume failed: tar sent a link to {printable(path)!r}, not asked for"
        )
