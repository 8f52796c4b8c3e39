"""How `tar` and `find` put what they have to say about one entry: the name, quoted, and the system's reason at the end.

A line is only understood if it is matched from its first to its last character; a name cannot pass for anything else, since all that
could end a line or a quotation in it is escaped.
"""

from __future__ import annotations

import errno
import os
import re

_ESCAPES = {b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_ESCAPE = re.compile(rb"\\([0-7]{3}|.)", re.DOTALL)


def _texts(*numbers: int) -> frozenset[bytes]:
    return frozenset(os.strerror(number).encode() for number in numbers)


_UNKNOWN = b"Unknown error"

# The name is not there any longer, or became another thing: `tar` opens nothing through a symlink, which is ELOOP.
GONE = _texts(errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
# The file system has no such attributes at all; 524 is the kernel's own number for that, which some let out.
UNSUPPORTED = _texts(errno.EOPNOTSUPP, errno.ENOSYS, 524)

# Every reason that the C library of the helper can give, in the C locale. For some numbers it has no text: those that a FUSE server makes up, and
# those that the kernel's file systems are not meant to give, as 524 (ENOTSUPP) of NFS and overlayfs.
_HIGHEST = 200
REASON = (
    b"("
    + b"|".join(
        re.escape(text) for text in sorted(_texts(*range(1, _HIGHEST))) if not text.startswith(_UNKNOWN)
    )
    + rb"|%s \d{1,10})" % _UNKNOWN
)


def unquote(quoted: bytes) -> bytes:
    """The bytes of a name that was printed as in C, quotation marks included."""
    return _ESCAPE.sub(
        lambda match: bytes([int(match[1], 8)]) if match[1].isdigit() else _ESCAPES.get(match[1], match[1]),
        quoted[1:-1],
    )


def asked(path: bytes) -> bytes:
    """The path of an entry as a listing has it, of one as it was asked for: `.` is the root, and has no name."""
    path = path.rstrip(b"/")
    return b"" if path == b"." else path.removeprefix(b"./")
