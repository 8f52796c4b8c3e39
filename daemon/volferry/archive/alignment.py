"""Matches the members of a tar stream with the entries that `tar` was asked for, and cuts them into frames.

Between the listing and the reading, a live volume goes on: an entry without a member has vanished, and an entry
whose member says something else is recorded as what was read, not as what was listed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby, islice
from typing import TYPE_CHECKING

from volferry.archive.agreement import difference
from volferry.archive.frames import FrameCutter
from volferry.archive.listing import UNTRUSTED, Entry, Stat, time_text
from volferry.archive.made_members import directory_member, link_member
from volferry.archive.tarstream import BLOCK, DIRECTORY, HARD_LINK, KIND_OF_TYPEFLAG, Member, TarReader
from volferry.errors import CommandFailed
from volferry.model import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from volferry.archive.alone import AloneStream, SeriesStream


@dataclass(frozen=True, slots=True)
class Apart:
    """Files that are not in the common stream: each is read from one of its own, in its turn, or is a hard link to one that was stored."""

    paths: Container[bytes]
    later: Mapping[
        bytes, bytes
    ]  # of these, names that may be of a file that has an earlier one, which is given
    same: Callable[
        [bytes, Sequence[Entry]], Container[bytes]
    ]  # the paths of those that are, of the one and its later names
    opened: Callable[[int, Entry], AbstractContextManager[AloneStream | SeriesStream]]
    torn: Callable[[bytes, str], object]
    unreadable: Callable[[bytes, str], object]
    in_series: Callable[[Entry], bool] = lambda _: False  # whether it is one of them, though not of `paths`


_TRIES = 3
_MOST_NAMES = 1000

# In place of a group's number: the entry is read so that `tar` knows its inode, and its member is dropped.
ANCHOR = -1


def names_of_one(
    entries: Iterable[tuple[int, Entry]], later: Mapping[bytes, bytes]
) -> Iterator[tuple[bytes, list[tuple[int, Entry]]]]:
    """Runs of entries that may be names of one file, with its first name, which is empty for those that are not later names."""
    for first, run in groupby(entries, lambda each: later.get(each[1].path, b"")):
        while some := list(islice(run, _MOST_NAMES)):
            yield first, some


def align(
    reader: TarReader,
    asked: Iterator[tuple[int, Entry]],
    *,
    stored: Callable[[int, Entry], None],
    missing: Callable[[int, Entry], None],
    reused_below: Callable[[int, Entry], bool] = lambda *_: False,
    as_listed: Callable[[Entry], bool] = lambda _: False,
    is_unread: Callable[[Entry], bool] = lambda _: False,
    watch: Callable[[Entry, Member], Callable[[memoryview], None] | None] = lambda *_: None,
    apart: Apart | None = None,
) -> Iterator[tuple[int, memoryview]]:
    """Yields the raw frames of the stream with their group's number; they lie in the reader's own memory, which is
    used again once they are let go.

    Calls `stored` for each entry that the frames hold and `missing` for each that was not read, in order; what `watch` gives is
    called with the pieces of a member's payload.
    A hard link that is none by the listing (an inode number that was given anew, or that several files have) is read alone, and is missing without `apart`.
    Below a directory that was not read, or that another kind of thing was read for, no member is taken. If there are reused entries below it (`reused_below`), the directory is stored all the same, as it was listed. So is a directory that is to be
    stored `as_listed`, since `tar` cannot read it, and one that `is_unread`, as `tar` itself has said; what is below it is taken.
    `asked` has those of `apart`, too.
    Raises CommandFailed if a member was not asked for.
    """
    cutter = FrameCutter(reader.buffer)
    settle = _Settler()
    wait: list[tuple[int, Entry]] = []
    lost = _Lost(wait, missing, reused_below, as_listed, is_unread, anchor_missing=settle.keep_apart)
    current = ANCHOR
    others = _Others(wait, apart, lost, settle, stored)
    for member in reader:
        while (found := others.before(member, asked)) is None:
            yield from cutter.begin(None, last=len(member.header))
            current = ANCHOR
            yield from others.frames()
        group, entry = found
        if wait:
            yield from cutter.begin(None, last=len(member.header))
            current = ANCHOR
            yield from others.frames()
        taken = group if others.take(group, entry, member) else ANCHOR
        if taken != current:
            yield from cutter.begin(None if taken == ANCHOR else taken, last=len(member.header))
            current = taken
        if group == ANCHOR:
            settle.remember(entry.path, entry.stat)
        elif taken != ANCHOR:
            stored(group, settle(entry, member))
        told = watch(entry, member) if taken == group else None
        for piece in chain((memoryview(b""),), reader.payload()):
            if told is not None:
                told(piece)
            if reader.buffer.is_nearly_full:
                yield from cutter.certain()
    yield from cutter.begin(None, last=BLOCK)
    yield from others.rest(asked)


class _Lost:
    """Keeps account of entries that were to be read and are not taken, and of the topmost directory among them, as long as the walk is
    below it.

    Nothing is taken from below a directory that was not read as one: a symlink may be in its place, so it may lie anywhere, and it
    could not be restored.
    """

    def __init__(
        self,
        wait: list[tuple[int, Entry]],
        missing: Callable[[int, Entry], None],
        reused_below: Callable[[int, Entry], bool],
        as_listed: Callable[[Entry], bool],
        is_unread: Callable[[Entry], bool],
        *,
        anchor_missing: Callable[[Entry], None],
    ) -> None:
        self._anchor_missing = anchor_missing
        self._wait = wait
        self._missing = missing
        self._reused_below = reused_below
        self._as_listed = as_listed
        self._is_unread = is_unread
        self._directory: bytes | None = None

    def add(self, group: int, entry: Entry) -> None:
        """An entry that is not taken."""
        if group == ANCHOR:
            self._anchor_missing(entry)
        elif entry.kind == b"d":
            if not self.covers(entry.path) and (self._as_listed(entry) or self._is_unread(entry)):
                self._wait.append((group, entry))
                return
            self._lose_directory(group, entry)
        self._missing(group, entry)

    def take(self, group: int, entry: Entry, member: Member) -> bool:
        """Whether the member is taken; anchors never are."""
        if group == ANCHOR:
            return False
        if self.covers(entry.path):
            self.add(group, entry)
        elif entry.kind == b"d" and member.typeflag != DIRECTORY and self._lose_directory(group, entry):
            self._missing(group, entry)
        else:
            return True
        return False

    def _lose_directory(self, group: int, entry: Entry) -> bool:
        """Returns whether it is stored as it was listed."""
        if not self.covers(entry.path):
            self._directory = entry.path
        if not self._reused_below(group, entry):
            return False
        self._wait.append((group, entry))
        return True

    def covers(self, path: bytes) -> bool:
        directory = self._directory
        return directory is not None and (not directory or path.startswith(directory + b"/"))


class _Others:
    """Entries that come before the next member of the common stream, and have none there."""

    def __init__(
        self,
        wait: list[tuple[int, Entry]],
        apart: Apart | None,
        lost: _Lost,
        settle: _Settler,
        stored: Callable[[int, Entry], None],
    ) -> None:
        """`wait` is for those that come next, in order: what is to be read from a stream of its own, and directories, which are stored as they were listed."""
        self._wait = wait
        self._apart = apart
        self._lost = lost
        self._settle = settle
        self._stored = stored

    def before(self, member: Member, asked: Iterator[tuple[int, Entry]]) -> tuple[int, Entry] | None:
        """The entry that `member` is the answer to; None if many are before it. Raises CommandFailed."""
        for group, entry in asked:
            if entry.path == member.path and not self._is_apart(entry):
                return group, entry
            self._add(group, entry)
            if len(self._wait) >= _MOST_NAMES:
                return None
        raise CommandFailed(f"reading the volume failed: tar sent {printable(member.path)!r} out of order")

    def rest(self, asked: Iterator[tuple[int, Entry]]) -> Iterator[tuple[int, memoryview]]:
        """As `frames`, of all that are left."""
        for group, entry in asked:
            self._add(group, entry)
            if len(self._wait) >= _MOST_NAMES:
                yield from self.frames()
        yield from self.frames()

    def take(self, group: int, entry: Entry, member: Member) -> bool:
        """Whether the member is taken from the common stream. Of what came as a link and is none, nothing has been read."""
        if not self._lost.take(group, entry, member):
            return False
        if member.typeflag != HARD_LINK or self._settle.are_one(entry, member.target):
            return True
        # Nothing is left of a directory that became another name of a file.
        if self._apart is None or entry.kind == b"d":
            self._lost.add(group, entry)
        else:
            self._wait.append((group, entry))
        return False

    def _is_apart(self, entry: Entry) -> bool:
        apart = self._apart
        return apart is not None and (entry.path in apart.paths or apart.in_series(entry))

    def _add(self, group: int, entry: Entry) -> None:
        if not self._is_apart(entry) or self._lost.covers(entry.path):
            self._lost.add(group, entry)
        elif group == ANCHOR:
            self._settle.remember(entry.path, entry.stat)
        else:
            self._wait.append((group, entry))

    def frames(self) -> Iterator[tuple[int, memoryview]]:
        """Of those that wait, with the members that `tar` did not write."""
        wait = self._wait.copy()
        self._wait.clear()
        later = self._apart.later if self._apart is not None else {}
        for first, names in names_of_one(wait, later):
            may_be = [entry for _, entry in names if first and self._settle.may_be_same(first, entry)]
            same = self._apart.same(first, may_be) if self._apart is not None and may_be else ()
            for group, entry in names:
                if entry.kind == b"d":
                    yield group, memoryview(directory_member(entry))
                    self._stored(group, Entry(entry.path, b" ".join(entry.stat._replace(ctime=UNTRUSTED))))
                elif entry.path in same:
                    link = _link(entry, first)
                    yield group, memoryview(link.header)
                    self._store(group, entry, link)
                else:
                    yield from self._read(group, entry)

    def _read(self, group: int, entry: Entry) -> Iterator[tuple[int, memoryview]]:
        assert self._apart is not None  # noqa: S101 -- nothing waits otherwise
        why = ""
        for _ in range(_TRIES):  # it may have changed just then
            with self._apart.opened(group, entry) as stream:
                member = stream.member(entry.path)
                if member is None:
                    break
                stored = partial(self._store, group, entry, member)
                try:
                    yield from stream.frames(member, group, stored, partial(self._apart.torn, entry.path))
                except ValueError as error:
                    why = str(error)
                else:
                    return
        if why:
            self._apart.unreadable(entry.path, why)
        self._lost.add(group, entry)

    def _store(self, group: int, entry: Entry, member: Member) -> None:
        self._stored(group, self._settle(entry, member))


def _link(entry: Entry, target: bytes) -> Member:
    """One that `tar` did not write."""
    header = link_member(entry, target)
    return Member(entry.path, HARD_LINK, 0, 0, 0, 0, 0, target, header, 0, sparse=False)


class _Settler:
    """Turns an entry into what its member says, where the two differ; such an entry is read again next time.

    A hard link's member brings what the file had become by then, but what is restored is what the member of its first
    name says: so all names of a file are recorded alike.
    """

    def __init__(self) -> None:
        # What was recorded of files that have more than one name, and of those that are not what was listed.
        self._recorded: dict[bytes, Stat] = {}
        self._inodes: set[bytes] = set()

    def remember(self, path: bytes, stat: Stat) -> None:
        """Records the member that holds the data of hard links to it."""
        self._recorded[path] = stat
        self._inodes.add(stat.inode)

    def may_be_same(self, path: bytes, later: Entry) -> bool:
        """Whether what was stored at that path may be what `later` is another name of. If it is not what was listed, it was changed, or replaced
        by what is another file: whoever did that, and put the old one back, would say what is in the other.
        """
        first, listed = self._recorded.get(path), later.stat
        if first is None or first.ctime == UNTRUSTED:
            return False
        own = {name: getattr(listed, name) for name in ("size", "mtime", "ctime", "links")}
        return first._replace(**own) == listed

    def are_one(self, later: Entry, first: bytes) -> bool:
        """Whether they were listed as names of one file, and the first is stored. What `tar` calls a link otherwise has an inode number that another file
        had before it, or has, too; or it became a link after it was listed, which none but the next listing can tell from that.
        """
        recorded, listed = self._recorded.get(first), later.stat
        return (
            recorded is not None
            and recorded.inode == listed.inode
            and b"1" not in {recorded.links, listed.links}
            and listed.kind != b"d"
        )

    def keep_apart(self, anchor: Entry) -> None:
        """It is stored, and was not read: what has been another name of it is a file of its own."""
        self._inodes.add(anchor.stat.inode)

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
        return listed.links != b"1" and listed.kind in {b"f", b"l"} and listed.inode in self._inodes

    def _read(self, listed: Stat, member: Member) -> Stat:
        """`listed` itself if the member says the same."""
        if member.typeflag == HARD_LINK:
            first = self._recorded[member.target]
            ctime = listed.ctime if first.ctime == listed.ctime else UNTRUSTED
            return first._replace(ctime=ctime, inode=listed.inode, links=listed.links)
        if not difference(listed, member):
            return listed
        kind = KIND_OF_TYPEFLAG.get(member.typeflag, b"?")
        return listed._replace(
            kind=kind,
            mode=b"%o" % member.mode,
            uid=b"%d" % member.uid,
            gid=b"%d" % member.gid,
            size=b"%d" % member.size if kind == b"f" else listed.size,
            mtime=time_text(member.mtime_ns),
            target=member.target if kind == b"l" else b"",
        )
