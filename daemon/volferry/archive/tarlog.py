"""Sorts the lines that `tar` writes to stderr while it reads a volume in use: findings, the expected, failures.

The table was made by running GNU tar under injected errors (tests/safety/test_read_faults.py); what is not in it is `unexplained`, and fails
whatever was being done.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from volferry.archive.commands import READ_AGAIN
from volferry.archive.complaints import GONE, REASON, UNSUPPORTED, asked, unquote
from volferry.model import Finding, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Container

_NAMED = re.compile(rb'tar: ("(?:[^"\\]|\\.)*"): (.*)', re.DOTALL)
_SHRANK = re.compile(rb"File shrank by (\d+) bytes?; padding with zeros")
# After the member's header: `tar` fills the rest of the member with zeros.
_NOT_READ = re.compile(rb"Read error at byte (\d+), while reading \d+ bytes?: %s" % REASON)
# Before it: there is no member. "stat" is also what it says if its last look, after the content, fails.
_NOT_BEGUN = re.compile(rb"(?:Warning: )?Cannot (open|stat|readlink|savedir): %s" % REASON)
_NOT_ENDED = re.compile(rb"(?:Warning: )?Cannot (read|close|seek|seek to \d+): %s" % REASON)
_NO_ATTRIBUTES = re.compile(
    rb"Warning: Cannot (?:[fl]?listxattr(?:at)?|[fl]?getxattr(?:at)?|[fl]?getfilecon(?:at)?|file_has_acl(?:_at)?"
    rb"|acl_get_f(?:ile|d)(?:_at)?|acl_to_text): %s" % REASON
)
_CHANGED = b"file changed as we read it"
_REMOVED = b"File removed before we read it"
_SOCKET = b"socket ignored"
_UNKNOWN_KIND = b"Unknown file type; file ignored"
_PLAIN = frozenset({_CHANGED, _REMOVED, _SOCKET, _UNKNOWN_KIND})
_SUMMARY = (
    b"tar: Exiting with failure status due to previous errors",
    b"tar: Error exit delayed from previous errors",
)

_OUT_OF_MEMORY = "tar: memory exhausted"
_READ_AGAIN = READ_AGAIN.encode()
NEVER_READ = "could not be read: each time, its file system says that it was interrupted"

_MOST_UNEXPLAINED = 20
_TRIES = 100
_PAUSE_SECONDS = 0.02
_MOST_PAUSES = 10 * _TRIES  # of one stream, in which very many entries may be gone


class TarLog:
    """Takes the lines one by one. `doubted` is called with the path of each entry whose record must not be trusted, as soon as it
    is known, from the thread that delivers the lines.
    """

    def __init__(self, doubted: Callable[[bytes], object] = lambda _: None) -> None:
        self._doubted = doubted
        self.torn: dict[bytes, Finding] = {}
        self.unreadable: dict[bytes, Finding] = {}
        self.gone: set[bytes] = set()  # paths that `tar` was asked for
        self.unexplained: list[str] = []
        self.never_read = b""  # path of a file at which `tar` was ended, for it never would have
        self.some_was_read: set[bytes] = set()  # of those that could not be read to their end
        # Of files that `tar` found shorter than their sizes, by how many bytes: also where the rest could not be read.
        self.shrank: dict[bytes, int] = {}
        # From which byte on the member of a file may hold zeros in place of what was not read; negative: so many bytes before its end.
        self.zeros_from: dict[bytes, int] = {}
        self._without_member: set[bytes] = set()
        self._pauses = _MOST_PAUSES

    @property
    def is_out_of_memory(self) -> bool:
        """It may be of one entry, which is not named."""
        return _OUT_OF_MEMORY in self.unexplained

    @property
    def doubted(self) -> set[bytes]:
        """Paths of entries that may not be in the stream as they are in the volume."""
        return self.torn.keys() | self.unreadable.keys()

    def line(self, line: bytes) -> None:
        if not line or line in _SUMMARY:
            return
        if line.startswith(_READ_AGAIN):
            directory, _, path = line.removeprefix(_READ_AGAIN).partition(b"//")
            self.never_read = path.replace(b"\0", b"\n").removeprefix(directory + b"/")
        if (named := _NAMED.fullmatch(line)) and self._explained(asked(unquote(named[1])), named[2]):
            return
        if len(self.unexplained) < _MOST_UNEXPLAINED:
            self.unexplained.append(line.decode("utf-8", "backslashreplace"))

    def says_unread(self, path: bytes) -> bool:
        """Whether an entry without a member could not be read, and is not gone. What `tar` says of it may arrive later than members that come next."""
        for _ in range(_TRIES):
            if path in self.gone or path in self.unreadable or not self._pauses:
                break
            self._pauses -= 1
            time.sleep(_PAUSE_SECONDS)
        return path in self.unreadable and path not in self.gone

    def contradiction(self, missing: Container[bytes]) -> str | None:
        """A path of which `tar` said that it has no member, and there is one: then it was not understood. `missing` are the paths
        that have none.
        """
        found = next((path for path in sorted(self._without_member) if path not in missing), None)
        return None if found is None else f"tar stored {printable(found)!r} and said that it could not"

    def why_failed(self, status: int) -> str | None:
        """Why a `tar` that ended with `status` failed; None if all that it said is about single entries. 1: some changed. 2: some
        could not be read.
        """
        if status in {0, 1, 2} and not self.unexplained:
            return None
        if self.never_read:
            return f"reading the volume failed: {printable(self.never_read)!r} {NEVER_READ}"
        why = self.unexplained[0] if self.unexplained else "without a reason"
        return f"reading the volume failed: tar exited with status {status}: {why}"

    def _explained(self, path: bytes, message: bytes) -> bool:
        if path.startswith(b"/"):  # the volume's own directory, which `tar` could not go into
            return False
        if message in _PLAIN:
            self._say(path, message)
        elif shrank := _SHRANK.fullmatch(message):
            self.shrank[path] = int(shrank[1])
            self.zeros_from.setdefault(path, -int(shrank[1]))
            detail = f"shrank by {int(shrank[1])} bytes while it was read; its end is filled with zeros"
            self.tear(path, detail)
        elif failed := _NOT_READ.fullmatch(message):
            if int(failed[1]):
                self.some_was_read.add(path)
            self.zeros_from.setdefault(path, int(failed[1]))
            self.spoil(
                path,
                f"could not be read from byte {int(failed[1])} on: {_text(failed[2])}; zeros stand there",
            )
        elif failed := _NOT_BEGUN.fullmatch(message):
            self._not_begun(path, failed[1], failed[2])
        elif failed := _NOT_ENDED.fullmatch(message):
            if failed[1] != b"close":
                self.zeros_from.setdefault(path, 0)  # nobody knows from where on
            self.spoil(path, f"could not be read to its end: {_text(failed[2])}")
        elif failed := _NO_ATTRIBUTES.fullmatch(message):
            if failed[1] not in UNSUPPORTED:
                self.some_was_read.add(path)
                self.spoil(path, f"some of its attributes could not be read: {_text(failed[1])}")
        else:
            return False
        return True

    def _say(self, path: bytes, message: bytes) -> None:
        """One of the messages that always are the same."""
        if message == _CHANGED:
            if path not in self.torn:
                self.tear(path, "changed while it was read")
        elif message == _REMOVED:
            self.gone.add(path)
            self._without_member.add(path)
        elif message == _UNKNOWN_KIND:
            self._without_member.add(path)
            self.spoil(path, "is of a kind that tar does not know")

    def _not_begun(self, path: bytes, call: bytes, reason: bytes) -> None:
        if call != b"stat":
            self._without_member.add(path)
            if path in self.some_was_read:  # of its attributes, and that is all
                self.some_was_read.discard(path)
                self.unreadable.pop(path, None)
        if reason in GONE:
            self.gone.add(path)
        else:
            self.spoil(path, f"could not be read: {_text(reason)}")

    def tear(self, path: bytes, detail: str) -> None:
        """The entry changed while it was read."""
        self.torn[path] = Finding("torn", path, detail)
        self._doubted(path)

    def was_not_torn(self, path: bytes, detail: str) -> None:
        """It did not change: it could not be read."""
        self.torn.pop(path, None)
        self.spoil(path, detail)

    def spoil(self, path: bytes, detail: str) -> None:
        """The entry could not be read, or not to its end."""
        if path not in self.unreadable:
            self.unreadable[path] = Finding("unreadable", path, detail)
            self._doubted(path)


def _text(reason: bytes) -> str:
    return reason.decode().lower()
