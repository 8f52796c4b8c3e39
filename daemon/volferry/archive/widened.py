"""Directories that their owner may do anything in: their entries, and their members of a tar stream.

Where the file system treats root as any other user, nothing can be put into a directory that its owner may not write, nor be seen in one that
its owner may not read. So directories are made with the owner's bits set, and get their own modes last. The bits of all others are as they
were backed up meanwhile: nobody else gains anything.
"""

from __future__ import annotations

import tarfile
from typing import TYPE_CHECKING

from volferry.archive.listing import Entry
from volferry.archive.tarstream import BLOCK, DIRECTORY, END_OF_ARCHIVE, TarReader, reading

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_OWNER = 0o700
_PERMISSIONS = 0o7777
_MODE = slice(100, 108)
_SIZE = slice(124, 136)
_SUM = slice(148, 156)
_TYPEFLAG = slice(156, 157)
# How an access list of GNU tar's begins: with the owner's bits again.
_LIST = b"SCHILY.acl.access=user::"


def is_narrow(entry: Entry) -> bool:
    """Whether it is a directory that its owner may not do anything in."""
    return entry.kind == b"d" and int(entry.stat.mode, 8) & _OWNER != _OWNER


def widened(entries: Iterable[Entry]) -> Iterator[Entry]:
    for entry in entries:
        if is_narrow(entry):
            stat = entry.stat
            wide = stat._replace(mode=b"%o" % (int(stat.mode, 8) | _OWNER))
            yield Entry(entry.path, b" ".join(wide))
        else:
            yield entry


def widened_stream(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Of a tar stream as `create_command` writes it. Raises CommandFailed."""
    reader = TarReader(reading(iter(pieces)))
    for member in reader:
        yield widened_headers(member.header) if member.typeflag == DIRECTORY else member.header
        for piece in reader.payload():
            yield bytes(piece)
    yield END_OF_ARCHIVE


def widened_headers(headers: bytes) -> bytes:
    """Of a directory's member, whose own header comes last. They are as long as they were. Raises tarfile.HeaderError for numbers that are none."""
    extended, block = headers[:-BLOCK], headers[-BLOCK:]
    mode = _number(block[_MODE]) & _PERMISSIONS | _OWNER
    block = block[: _MODE.start] + b"%07o\0" % mode + block[_MODE.stop :]
    unsummed = block[: _SUM.start] + b" " * 8 + block[_SUM.stop :]
    return _widened_lists(extended) + block[: _SUM.start] + b"%06o\0 " % sum(unsummed) + block[_SUM.stop :]


def _widened_lists(extended: bytes) -> bytes:
    """Of the extended headers before a member's own, each with what follows it."""
    position = 0
    while position < len(extended):
        size = max(_number(extended[position:][_SIZE]), 0)
        begin = position + BLOCK
        if extended[position:][_TYPEFLAG] == b"x" and (bits := _owner_bits(extended, begin, begin + size)):
            extended = extended[:bits] + b"rwx" + extended[bits + 3 :]
        position = begin + -(-size // BLOCK) * BLOCK
    return extended


def _owner_bits(extended: bytes, position: int, end: int) -> int:
    """Where those of an access list are, in the records of a header; 0 if there is none."""
    while position < end:
        space = extended.find(b" ", position, end)
        length = extended[position : max(space, position)]
        if not (length.isdigit() and int(length)):  # what ends the records for whoever reads them
            return 0
        if extended.startswith(_LIST, space + 1):
            return space + 1 + len(_LIST)
        position += int(length)
    return 0


def _number(field: bytes) -> int:
    """As `tarfile` reads a header's numbers: octal up to the first NUL, or base 256."""
    number: int = tarfile.nti(field)  # type: ignore[attr-defined]
    return number
