"""Takes chosen members out of a tar stream, with every hard link among them whole.

A chosen name may be a hard link to one that was not chosen. It is then made a regular file: the content of the other
name follows at the end of the excerpt, under the chosen one. docs/format.md, "Tar stream", has the dialect.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from volferry.archive.selection import is_below
from volferry.archive.tarstream import BLOCK, HARD_LINK, Member, TarReader, parse_pax

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_DIRECTORY = b"5"
_NAME_BYTES = 100
# Of a further name of the same inode: what says how it is stored is the first one's.
_LINK_KEYS = (b"mtime", b"uid", b"gid")


@dataclass(slots=True)
class Excerpt:
    """One excerpt. `wanted` says of each path whether it is part of it.

    Give out `members` of the stream, then `content` of what `missing` names as long as it names any, then `closing`.
    """

    wanted: Callable[[bytes], bool]
    entries: int = 0  # that were given out
    missing: dict[bytes, list[bytes]] = field(
        default_factory=dict
    )  # a path -> chosen names that are links to it
    _source: dict[bytes, bytes] = field(default_factory=dict)  # the same, by chosen name
    _touched: dict[bytes, bytes] = field(default_factory=dict)  # headers of directories that get a name later

    def members(self, reader: TarReader) -> Iterator[bytes | memoryview]:
        """The chosen members, as they are in the stream. Each piece is valid until the next one is asked for."""
        above: list[Member] = []
        for member in reader:
            while above and not is_below(member.path, above[-1].path):
                above.pop()
            if not self.wanted(member.path):
                _skip(reader)
                continue
            if member.typeflag == HARD_LINK and (source := self._unresolved(member)) is not None:
                self._source[member.path] = source
                self.missing.setdefault(source, []).append(member.path)
                parent = member.path.rpartition(b"/")[0]
                if above and above[-1].path == parent:
                    self._touched[parent] = above[-1].header
                continue
            if member.typeflag == _DIRECTORY:
                above.append(member)
            self.entries += 1
            yield member.header
            yield from reader.payload()

    def content(
        self, reader: TarReader, missing: Mapping[bytes, list[bytes]]
    ) -> Iterator[bytes | memoryview]:
        """The members that `missing` names, under the names that were chosen. Those that are links themselves are
        in `self.missing` afterwards, with what they lead to.
        """
        for member in reader:
            names = missing.get(member.path)
            if names is None:
                _skip(reader)
            elif member.typeflag == HARD_LINK and self.wanted(member.target):
                self.entries += len(names)
                for name in names:
                    yield link_to(member, name, member.target)
            elif member.typeflag == HARD_LINK:
                self.missing.setdefault(member.target, []).extend(names)
            else:
                self.entries += len(names)
                yield renamed(member, names[0])
                yield from reader.payload()
                for name in names[1:]:
                    yield link_to(member, name, names[0])

    def closing(self) -> Iterator[bytes]:
        """Headers of the directories that got names out of their turn, so that their times are set once more."""
        yield from self._touched.values()

    def _unresolved(self, link: Member) -> bytes | None:
        """The member that has the link's content, if it is not part of the excerpt."""
        if link.target in self._source:
            return self._source[link.target]
        return None if self.wanted(link.target) else link.target


def renamed(member: Member, path: bytes) -> bytes:
    """The member's header, under another name."""
    pax, block = _split(member.header)
    pax[b"path"] = path
    if b"GNU.sparse.name" in pax:
        pax[b"GNU.sparse.name"] = path
    return _header(pax, block, path)


def link_to(member: Member, path: bytes, target: bytes) -> bytes:
    """The header of `path` as a hard link to `target`, which is what `member` says."""
    pax, block = _split(member.header)
    pax = {key: value for key, value in pax.items() if key in _LINK_KEYS}
    pax |= {b"path": path, b"linkpath": target}
    size = b"%011o\0" % 0
    link = (
        block[:124] + size + block[136:156] + HARD_LINK + target[:_NAME_BYTES].ljust(100, b"\0") + block[257:]
    )
    return _header(pax, link, path)


def _skip(reader: TarReader) -> None:
    for _ in reader.payload():
        pass


def _split(header: bytes) -> tuple[dict[bytes, bytes], bytes]:
    """Extended records and the last block of a member's header."""
    block = header[-BLOCK:]
    if len(header) == BLOCK:
        return {}, block
    size = int(header[124:136].strip(b"\0 "), 8)
    return parse_pax(header[BLOCK : BLOCK + size]), block


def _header(pax: Mapping[bytes, bytes], block: bytes, path: bytes) -> bytes:
    data = b"".join(_record(key, value) for key, value in pax.items())
    name = path[:_NAME_BYTES].ljust(_NAME_BYTES, b"\0")
    extended = (
        b"PaxHeaders/volferry".ljust(_NAME_BYTES, b"\0")
        + b"0000644\0" + b"0000000\0" * 2
        + b"%011o\0" % len(data)
        + b"%011o\0" % 0
        + b" " * 8
        + b"x"
    ).ljust(257, b"\0") + b"ustar\00000"  # fmt: skip
    plain = name + block[_NAME_BYTES:345] + bytes(155) + block[500:]
    padding = bytes(-len(data) % BLOCK)
    return _summed(extended.ljust(BLOCK, b"\0")) + data + padding + _summed(plain)


def _record(key: bytes, value: bytes) -> bytes:
    r"""`LENGTH KEY=VALUE\n`, where the length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) != len(str(rest)):
        length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _summed(block: bytes) -> bytes:
    unsummed = block[:148] + b" " * 8 + block[156:]
    return unsummed[:148] + b"%06o\0 " % sum(unsummed) + unsummed[156:]
