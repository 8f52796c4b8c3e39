"""Looks whether files end where their sizes say, and can be read there.

`tar` says of a read error in the middle of a file that the file shrank, since the bytes before the bad page come first. And of a file whose size is smaller than
its content, as a FUSE server makes them that does not know sizes, it reads no more than that.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from volferry.archive.alignment import ANCHOR
from volferry.archive.exhausting_script import exhausting_command
from volferry.archive.tree_scripts import end_command
from volferry.operations.streams import Lines, answered, feeding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from volferry.archive.tarlog import TarLog
    from volferry.engine.helper import Helper
    from volferry.operations.volume_listing import Listing

_READ_BYTES = 1 << 16
ENDLESS_BYTES = 1 << 40  # a file that large is looked at before it is read
MORE = "holds more than its size says, and no more than that was read"


class OddEnd(NamedTuple):
    """Of a file that does not end where its size says."""

    path: bytes
    place: int  # in bytes, where it was looked at
    more: bool  # content follows after its size
    error: int  # number of the error that reading gave there; 0 if nothing is there

    @property
    def detail(self) -> str:
        if self.more:
            return MORE
        why = os.strerror(self.error).lower() if self.error else "nothing is there, though its size says so"
        return f"could not be read from byte {self.place} on: {why}; zeros stand there"


def odd_ends(helper: Helper, directory: str, files: Iterable[tuple[bytes, int]]) -> Iterator[OddEnd]:
    """Of files by their paths, each looked at so many bytes before its end: those that do not end where their sizes say. None where the helper's image
    lacks volferry's Python. Raises CommandFailed.
    """
    lines = Lines()
    process = helper.start(end_command(directory), stdin=True, on_stderr=lines.add, bulk="stdout")
    rest = b""
    with feeding(process, (b"%d %s" % (before, path) for path, before in files)):
        while more := process.read(_READ_BYTES):
            *records, rest = (rest + more).split(b"\0")
            for record in records:
                what, place, path = record.split(b" ", 2)
                if what != b"=":
                    yield OddEnd(path, int(place), what == b"+", int(what) if what.isdigit() else 0)
    answered(process.wait(), lines, "looking whether files end where their sizes say")


def leave_out_endless(helper: Helper, directory: str, listing: Listing, log: TarLog) -> None:
    """Files that a file system calls larger than any disk, and that are not: `tar` would fill them with zeros for years."""
    if listing.names.is_remote:
        large = ((path, 1) for path, size in _files_asked(listing) if size >= ENDLESS_BYTES)
        for end in odd_ends(helper, directory, large):
            if not end.more and not end.error:
                listing.endless.add(end.path)
                log.spoil(
                    end.path, f"could not be read: its size is {end.place + 1} bytes, and it ends before"
                )


def look_at_ends(helper: Helper, directory: str, listing: Listing, log: TarLog) -> None:
    """Once `tar` has read all of them: whether what it calls changed could not be read, and whether it has read all that there is."""
    for end in odd_ends(helper, directory, list(log.shrank.items())) if log.shrank else ():
        if end.place:
            log.some_was_read.add(end.path)
        log.was_not_torn(end.path, end.detail)
    if listing.names.is_remote:
        files = ((path, 1) for path, _ in _files_asked(listing) if path not in log.doubted)
        for end in odd_ends(helper, directory, files):
            if end.more:
                log.some_was_read.add(end.path)
                log.spoil(end.path, end.detail)


def exhausting(helper: Helper, directory: str, asked: Callable[[], Iterable[bytes]]) -> dict[bytes, str]:
    """Of entries by their paths: those at which `tar` ends, since it takes what a file system says of them for want of memory."""
    process = helper.start(exhausting_command(directory), stdin=True, on_stderr=lambda _: None, bulk="stdout")
    with feeding(process, asked()):
        answer = b"".join(iter(lambda: process.read(_READ_BYTES), b""))
    process.wait()
    found = (record.partition(b" ") for record in answer.split(b"\0")[:-1])
    return {
        b"" if path == b"." else path: f"could not be read: {os.strerror(int(number)).lower()}"
        for number, _, path in found
    }


def _files_asked(listing: Listing) -> Iterator[tuple[bytes, int]]:
    """Paths and sizes."""
    return (
        (entry.path, entry.size) for group, entry in listing.asked() if group != ANCHOR and entry.kind == b"f"
    )
