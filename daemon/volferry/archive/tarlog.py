"""What `tar` says on stderr while it reads a volume that is in use, told apart: findings, the expected, failures."""

from __future__ import annotations

import re

from volferry.model import Finding

_NAMED = re.compile(rb'tar: ("(?:[^"\\]|\\.)*"): (.*)', re.DOTALL)
_SHRANK = re.compile(rb"File shrank by (\d+) bytes?; padding with zeros")
_ESCAPES = {b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_ESCAPE = re.compile(rb"\\([0-7]{3}|.)", re.DOTALL)

# The entry went away, or became something else, between the listing and the reading: its member is missing, and
# that is how it is found (alignment.py).
_GONE = (
    b"No such file or directory",
    b"Not a directory",
    b"Too many levels of symbolic links",
    b"Stale file handle",
    b"File removed before we read it",
)
_HARMLESS = (b"socket ignored", b"Operation not supported")
_SUMMARY = (
    b"tar: Exiting with failure status due to previous errors",
    b"tar: Error exit delayed from previous errors",
)

_MOST_UNEXPLAINED = 20


def unquote(quoted: bytes) -> bytes:
    """The bytes of a name that `--quoting-style=c` printed, quotes included."""
    return _ESCAPE.sub(
        lambda match: bytes([int(match[1], 8)]) if match[1].isdigit() else _ESCAPES.get(match[1], match[1]),
        quoted[1:-1],
    )


class TarLog:
    """Takes the lines one by one; `torn`, `gone` and `unexplained` say what they were."""

    def __init__(self) -> None:
        self.torn: dict[bytes, Finding] = {}
        self.gone: set[bytes] = set()  # paths that `tar` was asked for
        self.unexplained: list[str] = []

    def line(self, line: bytes) -> None:
        if not line or line in _SUMMARY:
            return
        if named := _NAMED.fullmatch(line):
            path = unquote(named[1])
            if self._explained(b"" if path == b"." else path, named[2]):
                return
        if len(self.unexplained) < _MOST_UNEXPLAINED:
            self.unexplained.append(line.decode("utf-8", "backslashreplace"))

    def _explained(self, path: bytes, message: bytes) -> bool:
        if shrank := _SHRANK.fullmatch(message):
            detail = f"shrank by {int(shrank[1])} bytes while it was read; its end is filled with zeros"
            self.torn[path] = Finding("torn", path, detail)
            return True
        if message == b"file changed as we read it":
            self.torn.setdefault(path, Finding("torn", path, "changed while it was read"))
            return True
        if message.endswith(_GONE):
            self.gone.add(path)
            return True
        return message.endswith(_HARMLESS)
