"""Whether a stored tar stream holds what its index says, and nothing else, looked at on its way to `tar`.

`tar` does what a stream says. One that somebody has made up could write through a symlink that it has made itself, link to what lies
elsewhere, or hide members where only `tar` finds them. So each member must be the one that the index has next; the index itself leads
nowhere (index_check.py). Headers are read more strictly than `tar` reads them: whatever the two could take for different things is
refused. Of sparse files, `tar` goes by the map at the beginning of the payload, so that must fit to what is stored (sparse_map.py). Other
payloads are passed over, not copied.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING
from zlib import adler32

from volferry.archive.sparse_map import SparseMap, sparse_size
from volferry.archive.tarstream import BLOCK, HARD_LINK, KIND_OF_TYPEFLAG, LARGEST_EXTENDED_HEADER
from volferry.model import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_EXTENDED = b"x"
_MAGIC = b"ustar\00000"
_ROOT = frozenset({b".", b"./"})
_NO_NAMES = frozenset({b"", b".", b".."})
_SIZE = re.compile(rb"[0-7]{11}\0")
_DECIMAL = re.compile(rb"[0-9]{1,18}")
_PAX_KEY = re.compile(rb"([1-9][0-9]{0,8}) ([^=]+)=")
_NAME_BYTES = 100
_NO_PAX: dict[bytes, bytes] = {}


def checked_stream(
    pieces: Iterable[bytes], records: Iterator[bytes], is_directory: Callable[[bytes], bool]
) -> Iterator[bytes]:
    """The pieces of a stream, as they are, each once all headers and maps that end in it were looked at. Raises ValueError for the first member
    that is not what `records`, the entries of a checked index, have next.

    `is_directory` says whether something of the index is in a directory of that path. It is asked of few hard links.
    """
    check = _Members(records, is_directory)
    left = b""  # the beginning of a header
    payload = 0  # bytes of it that are still to come
    ended = False
    for piece in pieces:
        data = left + piece if left else piece
        left = b""
        at, size = 0, len(data)
        while not ended:
            if check.sparse is not None:
                taken = check.map(check.sparse, data, at)
                at += taken
                payload -= taken
                if check.sparse is not None:
                    break
            if payload >= size - at:
                payload -= size - at
                break
            at += payload
            payload = 0
            header_bytes = _header_bytes(data, at)
            if size - at < header_bytes:
                left = data[at:]
                break
            if data[at] == 0:
                ended = True
            else:
                payload = check.member(data, at, header_bytes)
                at += header_bytes
        if ended and data[at:].strip(b"\0"):
            raise ValueError("there is something after the end of its tar stream")
        yield piece
    if not ended:
        raise ValueError("its tar stream has no end")
    check.end()


def _header_bytes(data: bytes, at: int) -> int:
    """Of the member that begins there; those of the first block, as long as that is not whole."""
    if data[at + 156 : at + 157] != _EXTENDED or len(data) - at < BLOCK:
        return BLOCK
    size = _octal(data[at + 124 : at + 136])
    if size > LARGEST_EXTENDED_HEADER:
        raise ValueError("it has an extended header of a size that none has")
    return 2 * BLOCK + _padded(size)


class _Members:
    """Takes the members one by one."""

    def __init__(self, records: Iterator[bytes], is_directory: Callable[[bytes], bool]) -> None:
        self._records = records
        self._is_directory = is_directory
        self._linked: set[bytes] = set()  # paths of what has more names than one
        self._path = b""
        self.sparse: SparseMap | None = None  # of the member, as long as its map is not whole

    def member(self, data: bytes, at: int, header_bytes: int) -> int:
        """The bytes of its payload. Raises ValueError."""
        block_at = at + header_bytes - BLOCK
        block = data[block_at : block_at + BLOCK]
        pax = _NO_PAX
        if header_bytes > BLOCK:
            extended = data[at : at + BLOCK]
            _check_block(extended)
            pax = placing_records(data[at + BLOCK : at + BLOCK + _octal(extended[124:136])])
        _check_block(block)
        path, _, meta = next(self._records, b"").partition(b"//")
        typeflag = block[156:157]
        # Most members are files of one name, with a short path.
        plain = typeflag == b"0" and not pax and meta[:1] == b"f" and meta[-3:] == b" 1 " and not block[345]
        if plain and len(path) < _NAME_BYTES and block.startswith(path + b"\0"):
            return _padded(_octal(block[124:136]))
        return self._other_member(block, pax, typeflag, path, meta)

    def _other_member(
        self, block: bytes, pax: dict[bytes, bytes], typeflag: bytes, path: bytes, meta: bytes
    ) -> int:
        kind = KIND_OF_TYPEFLAG.get(typeflag)
        self._path = path
        try:
            real_size = sparse_size(pax, typeflag)
        except ValueError as error:
            raise ValueError(f"'{printable(path)}' {error}") from error
        name = pax.get(b"GNU.sparse.name") or pax.get(b"path") or _name(block)
        if not meta or not _is_named(name, path, directory=kind == b"d"):
            raise ValueError(
                f"its frames hold '{printable(name[:200])}', and its index does not, or not there"
            )
        stored = pax.get(b"size")
        size = int(stored) if stored is not None else _octal(block[124:136])
        if kind == meta[:1]:
            if kind == b"f":
                if meta[-3:] != b" 1 ":
                    self._linked.add(path)
                if real_size is not None:
                    if real_size != int(meta.split(b" ", 9)[4]):
                        raise ValueError(
                            f"'{printable(path)}' has another size in its frames than in its index"
                        )
                    self.sparse = SparseMap(_padded(size), real_size)
                return _padded(size)
            if kind == b"l" and _link_target(pax, block) != meta.split(b" ", 9)[9]:
                raise ValueError(f"'{printable(path)}' leads elsewhere in its frames than in its index")
            if kind != b"d" and meta.split(b" ", 9)[8] != b"1":
                self._linked.add(path)
        elif typeflag == HARD_LINK and meta[:1] != b"d":
            self._check_link(path, _link_target(pax, block))
        else:
            raise ValueError(f"'{printable(path)}' is of another kind in its frames than in its index")
        if size:
            raise ValueError(f"'{printable(path)}' has a content in its frames, and is no file")
        return 0

    def map(self, sparse: SparseMap, data: bytes, at: int) -> int:
        """Takes what there is of the member's map, and returns how many bytes that is. Raises ValueError."""
        try:
            taken = sparse.feed(data, at)
        except ValueError as error:
            raise ValueError(f"'{printable(self._path)}' {error}") from error
        if sparse.is_whole:
            self.sparse = None
        return taken

    def end(self) -> None:
        if record := next(self._records, b""):
            raise ValueError(f"its frames do not hold '{printable(record.partition(b'//')[0][:200])}'")

    def _check_link(self, path: bytes, target: bytes) -> None:
        if target in self._linked:
            return
        # Below a symlink there is nothing in an index: so no symlink is on the way to where something is.
        above = target.rpartition(b"/")[0]
        if (
            b"\0" in target
            or not _NO_NAMES.isdisjoint(target.split(b"/"))
            or (above and not self._is_directory(above))
        ):
            raise ValueError(
                f"'{printable(path)}' is a hard link to '{printable(target[:200])}', which is not in its index"
            )


def _is_named(name: bytes, path: bytes, *, directory: bool) -> bool:
    if not directory:
        return name == path
    return name.rstrip(b"/") == path if path else name in _ROOT


def _check_block(block: bytes) -> None:
    """Raises ValueError for a block that `tar` would not take for a header, and look for one in what follows."""
    field = block[148:156]
    # Adler-32 has the sum of the bytes, plus one, in its lower half, as long as that is below 65,521. The field itself counts as eight
    # blanks.
    if block.isascii():
        total = (adler32(block) & 0xFFFF) - (adler32(field) & 0xFFFF) + 1
    else:
        total = (adler32(block[:256]) & 0xFFFF) + (adler32(block[256:]) & 0xFFFF) - (adler32(field) & 0xFFFF)
    if field != _sum_field(total + 255) or block[257:265] != _MAGIC:
        raise ValueError("a header of its tar stream is damaged")


@lru_cache(1 << 14)
def _sum_field(total: int) -> bytes:
    return b"%06o\0 " % total


def placing_records(data: bytes) -> dict[bytes, bytes]:
    """Records of an extended header that say where a member goes and how long it is; all others may be missing."""
    # What changes where a member goes or how long it is has one of these in it, however it is spelled.
    if b"path=" not in data and b"size=" not in data and b"GNU." not in data:
        return _NO_PAX
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        match = _PAX_KEY.match(data, at)
        end = at + int(match[1]) if match is not None else 0
        if match is None or not match.end() < end <= len(data) or data[end - 1 : end] != b"\n":
            raise ValueError("an extended header of its tar stream is damaged")
        key, value = match[2], data[match.end() : end - 1]
        if key in records or (not value and key.endswith(b"path")):
            raise ValueError("an extended header of its tar stream says two things")
        records[key] = value
        at = end
    if b"size" in records and _DECIMAL.fullmatch(records[b"size"]) is None:
        raise ValueError("an extended header of its tar stream has a size that is none")
    return records


def _link_target(pax: dict[bytes, bytes], block: bytes) -> bytes:
    return pax.get(b"linkpath") or block[157:257].rstrip(b"\0")


def _name(block: bytes) -> bytes:
    name = block[:100].rstrip(b"\0")
    prefix = block[345:500].rstrip(b"\0")
    return prefix + b"/" + name if prefix else name


@lru_cache(1 << 12)
def _octal(field: bytes) -> int:
    if _SIZE.fullmatch(field) is None:
        raise ValueError("a header of its tar stream has a size that is none")
    return int(field[:11], 8)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
