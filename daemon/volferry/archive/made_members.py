"""Members of a tar stream that `tar` did not write: directories, as a record has them, hard links, and small files of ours."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from volferry.archive.listing import NANOSECONDS, nanoseconds
from volferry.archive.tarstream import BLOCK

if TYPE_CHECKING:
    from collections.abc import Mapping

    from volferry.archive.listing import Entry

_LONGEST_NAME = 100
_LARGEST_ID = 0o7777777
_LATEST = 0o77777777777


def file_member(name: bytes, content: bytes) -> bytes:
    """A file of root's that nobody else can read. `name` has at most 100 bytes."""
    header = _block(name, b"0", mode=0o600, uid=0, gid=0, size=len(content), mtime=0)
    return header + content + bytes(-len(content) % BLOCK)


def link_member(path: bytes, target: bytes) -> bytes:
    """The headers of a hard link's member, which says nothing else."""
    pax = {
        key: value for key, value in ((b"path", path), (b"linkpath", target)) if len(value) > _LONGEST_NAME
    }
    header = _block(path, b"1", mode=0, uid=0, gid=0, size=0, mtime=0, target=target)
    return _extended(b"PaxHeaders/link", pax) + header


def directory_member(entry: Entry, attributes: Mapping[bytes, bytes] = MappingProxyType({})) -> bytes:
    """The headers of a directory's member, as POSIX.1-2001 (pax) has them; with extended attributes, by the keys that headers have for
    them, where they are known: a listing lacks them.
    """
    stat = entry.stat
    name = (entry.path or b".") + b"/"
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
        b"5",
        mode=int(stat.mode, 8),
        uid=min(uid, _LARGEST_ID),
        gid=min(gid, _LARGEST_ID),
        size=0,
        mtime=min(max(seconds, 0), _LATEST),
    )
    return _extended(b"PaxHeaders/directory", pax) + header


def _extended(name: bytes, pax: Mapping[bytes, bytes]) -> bytes:
    """The extended header of a member, if it needs one."""
    if not pax:
        return b""
    records = b"".join(_record(key, value) for key, value in pax.items())
    header = _block(name, b"x", mode=0o644, uid=0, gid=0, size=len(records), mtime=0)
    return header + records + bytes(-len(records) % BLOCK)


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
