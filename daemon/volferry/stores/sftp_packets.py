"""Packets of SFTP version 3, the one that all servers speak (draft-ietf-secsh-filexfer-02), and OpenSSH's extensions to it
(PROTOCOL, section 4). Every reply is checked: a server may send anything.
"""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from volferry.model import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

VERSION = 3

INIT, VERSION_REPLY = 1, 2
OPEN, CLOSE, READ, WRITE, LSTAT, FSTAT = 3, 4, 5, 6, 7, 8
OPENDIR, READDIR, REMOVE, MKDIR, RMDIR = 11, 12, 13, 14, 15
STAT, RENAME, EXTENDED = 17, 18, 200
STATUS, HANDLE, DATA, NAME, ATTRS, EXTENDED_REPLY = 101, 102, 103, 104, 105, 201

OPEN_READ, OPEN_WRITE, OPEN_CREATE, OPEN_TRUNCATE, OPEN_EXCLUSIVE = 0x01, 0x02, 0x08, 0x10, 0x20

(
    OK,
    EOF,
    NO_SUCH_FILE,
    PERMISSION_DENIED,
    FAILURE,
    BAD_MESSAGE,
    NO_CONNECTION,
    CONNECTION_LOST,
    UNSUPPORTED,
) = range(9)
# Of later versions; some servers say them in this one.
FILE_EXISTS, NO_SPACE, QUOTA_EXCEEDED = 11, 14, 15
DENIED = frozenset({PERMISSION_DENIED, UNSUPPORTED})

HARDLINK = "hardlink@openssh.com"
POSIX_RENAME = "posix-rename@openssh.com"
FSYNC = "fsync@openssh.com"
STATVFS = "statvfs@openssh.com"
LIMITS = "limits@openssh.com"

# What every server takes and gives in one packet, and the most that we ask of one that tells its limits.
SAFE_BYTES = 32 << 10
MOST_BYTES = 255 << 10
LONGEST_PACKET = (256 << 10) + 1024

# As OpenSSH's server has them, whose options allow and deny requests by these names.
_REQUESTS = {
    OPEN: "open",
    CLOSE: "close",
    READ: "read",
    WRITE: "write",
    LSTAT: "lstat",
    FSTAT: "fstat",
    OPENDIR: "opendir",
    READDIR: "readdir",
    REMOVE: "remove",
    MKDIR: "mkdir",
    RMDIR: "rmdir",
    STAT: "stat",
    RENAME: "rename",
}

_SIZE, _OWNERS, _PERMISSIONS, _TIMES, _MORE = 0x1, 0x2, 0x4, 0x8, 0x80000000
_MOST_TEXT = 300
_NAMES = {
    OK: "ok",
    EOF: "end of file",
    NO_SUCH_FILE: "no such file",
    PERMISSION_DENIED: "permission denied",
    FAILURE: "failure",
    BAD_MESSAGE: "bad message",
    UNSUPPORTED: "operation unsupported",
    FILE_EXISTS: "file already exists",
    NO_SPACE: "no space on the file system",
    QUOTA_EXCEEDED: "quota exceeded",
}


class Garbled(Exception):
    """What came cannot be SFTP."""


class Refused(Exception):
    """The server's own answer: it does not do what it was asked for."""

    def __init__(self, code: int, text: str, request: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.text = text  # the server's words
        self.request = request  # what was asked for, where that is known


@dataclass(frozen=True, slots=True)
class Attributes:
    """Of a file. What a server does not tell is None."""

    size: int | None = None
    mode: int | None = None
    modified: datetime | None = None

    @property
    def is_directory(self) -> bool:
        return self.mode is not None and stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return self.mode is not None and stat.S_ISREG(self.mode)


@dataclass(frozen=True, slots=True)
class Entry:
    """Of a directory."""

    name: str
    attributes: Attributes


class Reply:
    """One packet from the server, read from its beginning."""

    def __init__(self, data: bytes | memoryview) -> None:
        self.request = ""  # to which it is the reply, for people
        self._data = memoryview(data)
        self.kind = self.byte()

    def byte(self) -> int:
        return self._taken(1)[0]

    def number(self) -> int:
        return int.from_bytes(self._taken(4), "big")

    def large_number(self) -> int:
        return int.from_bytes(self._taken(8), "big")

    def string(self) -> memoryview:
        return self._taken(self.number())

    def text(self) -> str:
        return bytes(self.string()).decode("utf-8", "surrogateescape")

    @property
    def has_more(self) -> bool:
        return bool(self._data)

    def _taken(self, size: int) -> memoryview:
        if size > len(self._data):
            raise Garbled("a packet ends before it is whole")
        found, self._data = self._data[:size], self._data[size:]
        return found

    # What it is, for who asked. Each raises Refused for a status, and Garbled for anything else.

    def done(self) -> None:
        """A status that says so."""
        if self.kind != STATUS:
            raise Garbled(f"a reply of an unexpected kind ({self.kind})")
        code = self.number()
        if code != OK:
            raise Refused(code, self._words(code), self.request)

    def handle(self) -> bytes:
        return bytes(self._expected(HANDLE).string())

    def data(self) -> memoryview:
        return self._expected(DATA).string()

    def attributes(self) -> Attributes:
        self._expected(ATTRS)
        return self._attributes()

    def entries(self) -> list[Entry]:
        self._expected(NAME)
        return list(self._entries())

    def extended(self) -> Reply:
        return self._expected(EXTENDED_REPLY)

    def _expected(self, kind: int) -> Reply:
        if self.kind != kind:
            self.done()
            raise Garbled("success is said where something was asked for")
        return self

    def _entries(self) -> Iterator[Entry]:
        for _ in range(self.number()):
            name = self.text()
            self.string()  # as `ls -l` shows it: for people
            yield Entry(name, self._attributes())

    def _attributes(self) -> Attributes:
        flags = self.number()
        size = self.large_number() if flags & _SIZE else None
        if flags & _OWNERS:
            self._taken(8)
        mode = self.number() if flags & _PERMISSIONS else None
        modified = None
        if flags & _TIMES:
            self.number()
            modified = datetime.fromtimestamp(self.number(), UTC)
        if flags & _MORE:
            for _ in range(self.number()):
                self.string()
                self.string()
        return Attributes(size, mode, modified)

    def _words(self, code: int) -> str:
        """What a server says beside the number; some say nothing."""
        said = bytes(self.string()) if self.has_more else b""
        text = printable(said[:_MOST_TEXT]).strip().rstrip(".")
        return text or _NAMES.get(code, f"error {code}")


def request_name(kind: int, first: bytes | memoryview) -> str:
    """For people, by the kind of a request and the beginning of what follows."""
    if kind != EXTENDED:
        return _REQUESTS.get(kind, "")
    return bytes(first[4:]).decode("ascii", "replace").partition("@")[0]


def extensions_of(reply: Reply) -> Mapping[str, bytes]:
    """Of the first packet that a server sends. Raises Garbled."""
    if reply.kind != VERSION_REPLY:
        raise Garbled("its first packet is no version")
    version = reply.number()
    if version < VERSION:
        raise Garbled(f"it speaks version {version} only")
    found = {}
    while reply.has_more:
        name = reply.text()
        found[name] = bytes(reply.string())
    return found


def number(value: int) -> bytes:
    return struct.pack(">I", value)


def large_number(value: int) -> bytes:
    return struct.pack(">Q", value)


def string(value: bytes | str) -> bytes:
    data = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
    return struct.pack(">I", len(data)) + data


def mode(value: int) -> bytes:
    """Attributes of what is to be made."""
    return struct.pack(">II", _PERMISSIONS, value)


NO_ATTRIBUTES = number(0)
