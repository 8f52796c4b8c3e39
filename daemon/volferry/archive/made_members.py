"""Members of a tar stream that `tar` did not write: directories, as a record has them, hard links, and small files of ours."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from volferry.archive.listing import NANOSECONDS, nanoseconds
from volferry.archive.tarstream import BLOCK

if TYPE_CHECKING:
    from collections.abc import Mapping

    from volferry.archive.listing import Entry, Stat

_LONGEST_NAME = 100
_LARGEST_ID = 0o7777777
_LATEST = 0o77777777777


def file_member(name: bytes, content: bytes) -> bytes:
    """A file of root's that nobody else can read. `name` has at most 100 bytes."""
    header = _block(name, b"0", mode=0o600, uid=0, gid=0, size=len(content), mtime=0)
    return header + content + bytes(-len(content) % BLOCK)


def link_member(entry: Entry, target: bytes) -> bytes:
    """The headers of a hard link's member. It has the attributes of the file, as those of `tar` do: some programs set them through the link."""
    more = {b"linkpath": target} if len(target) > _LONGEST_NAME else {}
    return _member(entry.path, b"1", entry.stat, more, target=target)


def directory_member(entry: Entry, attributes: Mapping[bytes, bytes] = MappingProxyType({})) -> bytes:
    """The headers of a directory's member, as POSIX.1-2001 (pax) has them; with extended attributes, by the keys that headers have for
    them, where they are known: a listing lacks them.
    """
    return _member((entry.path or b".") + b"/", b"5", entry.stat, attributes)


def _member(
    name: bytes, typeflag: bytes, stat: Stat, attributes: Mapping[bytes, bytes], *, target: bytes = b""
) -> bytes:
    uid, gid = int(stat.uid), int(stat.gid)
    seconds, fraction = divmod(nanoseconds(stat.mtime), NANOSECONDS)
    pax = dict(attributes)
    if len(name) > _LONGEST_NAME:
        pax[b"path"] = name
    if fraction or not 0 <= seconds <= _LATEST:
        pax[b"mtime"] = _decimal(nanoseconds(stat.mtime))
    pax |= {key: b"%d" % number for key, number in ((b"uid", uid), (b"gid", gid)) if number > _LARGEST_ID}
    header = _block(
        name,
        typeflag,
        mode=int(stat.mode, 8),
        uid=min(uid, _LARGEST_ID),
        gid=min(gid, _LARGEST_ID),
        size=0,
        mtime=min(max(seconds, 0), _LATEST),
        target=target,
    )
    if not pax:
        return header
    records = b"".join(_record(key, value) for key, value in pax.items())
    # The name is of no meaning, and as long as it is the same, so are the bytes of a directory.
    extended = _block(b"PaxHeaders/directory", b"x", mode=0o644, uid=0, gid=0, size=len(records), mtime=0)
    return extended + records + bytes(-len(records) % BLOCK) + header


def _decimal(ns: int) -> bytes:
    sign = b"-" if ns < 0 else b""
    seconds, fraction = divmod(abs(ns), NANOSECONDS)
    return b"%s%d.%09d" % (sign, seconds, fraction)


def _record(key: bytes, value: bytes) -> bytes:
    rest = b" %s=%s\n" % (key, value)
    size = len(rest) + 1
    while len(b"%d" % size) + len(rest) != size:
        size = len(b"%d" % size) + len(rest)
    return b"%d%s" % (size, rest)


def _block(
    name: bytes, typeflag: bytes, *, mode: int, uid: int, gid: int, size: int, mtime: int, target: bytes = b""
) -> bytes:
    fields = (
        name[:_LONGEST_NAME].ljust(_LONGEST_NAME, b"\0")
        + b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (mode, uid, gid, size, mtime)
        + b" " * 8
        + typeflag
        + target[:_LONGEST_NAME].ljust(_LONGEST_NAME, b"\0")
        + b"ustar\x0000"
    ).ljust(BLOCK, b"\0")
    return fields[:148] + b"%06o\0 " % sum(fields) + fields[156:]
