"""Sorts the lines that `tar` writes to stderr while it fills a volume: metadata that the file system cannot hold, remarks, failures."""

from __future__ import annotations

import re

# With these, a file system says that it has no such thing, or that it is not ours to set: 524 is the kernel's own ENOTSUPP, and an id that a mount
# with mapped ids cannot hold is too large for it. Any other error may have cost bytes.
_NONE = (
    rb"(?:Operation not supported|Function not implemented|Inappropriate ioctl for device|Unknown error 524)"
)
_REFUSED = (
    rb"(?:%s|Operation not permitted|Permission denied|Invalid argument|Value too large for defined data type)"
    % _NONE
)
# Attributes have limits of their own: an ext4 says of a value that is too large for it that there is no space. Where there is none for
# contents either, those fail.
_TOO_LARGE = (
    rb"(?:%s|Argument list too long|Numerical result out of range|No space left on device|Disk quota exceeded)"
    % _REFUSED
)
_NAME = rb'"(?:[^"\\]|\\.)*"'
_DROPPED = rb"tar: acl_delete_def_file(?:_at)?: Cannot drop default POSIX ACLs for file '.*': "
# Whole lines of GNU tar with `--quoting-style=c`, in the C locale, and what of an entry could not be set. tar goes on after each, and ends with
# status 2. The table is compared with what the real tar says under injected errors (tests/safety/test_write_faults.py).
_KINDS = (
    ("owner", re.compile(rb"tar: %s: Cannot change ownership to uid \d+, gid \d+: %s" % (_NAME, _REFUSED))),
    ("mode", re.compile(rb"tar: %s: Cannot change mode to [-rwxsStT]{9}: %s" % (_NAME, _REFUSED))),
    ("time", re.compile(rb"tar: %s: Cannot utime: %s" % (_NAME, _REFUSED))),
    # These have the name as it is, with any newline, and leave the status at 0 on their own.
    (
        "attribute",
        re.compile(
            rb"tar: [fl]?setxattr(?:at)?: Cannot set '[^']*' extended attribute for file '.*': %s"
            % _TOO_LARGE,
            re.DOTALL,
        ),
    ),
    (
        "access list",
        re.compile(
            rb"tar: acl_set_file(?:_at)?: Cannot set POSIX ACLs for file '.*': %s" % _TOO_LARGE, re.DOTALL
        ),
    ),
    # Of a directory without a default list; where there are no lists at all, this one has none indeed.
    (None, re.compile(rb"%s%s" % (_DROPPED, _NONE), re.DOTALL)),
    ("inherited access list", re.compile(rb"%s%s" % (_DROPPED, _REFUSED), re.DOTALL)),
    (
        "context",
        re.compile(
            rb"tar: [fl]?setfilecon(?:at)?: Cannot set SELinux context for file '.*': %s" % _TOO_LARGE,
            re.DOTALL,
        ),
    ),
)
# How such a line begins; it goes on after the newline of a name.
_UNQUOTED = re.compile(rb"tar: [a-z_]+: Cannot (?:set|drop) [^/]* for file '")
# A name's later line that begins so is taken for a message of its own: so no failure is taken for a part of a name.
_NEXT = b"tar: "
_MOST_NEWLINES = 4096  # a path's bytes
# Of contents; a short write is one that has met the end of the disk or quota.
_NO_SPACE = re.compile(
    rb"(?:tar|sync): .*: (?:No space left on device|Disk quota exceeded|Wrote only \d+ of \d+ bytes)",
    re.DOTALL,
)
# By what brings to the disk what `tar` writes (commands.py).
_SYNC = "sync: "
_SUMMARY = b"tar: Exiting with failure status due to previous errors"
_MOST_LINES = 20
_LIST = b"SCHILY.acl."


class ExtractLog:
    """Takes the lines one by one."""

    def __init__(self) -> None:
        self.refused: dict[str, tuple[int, str]] = {}  # by kind: how often, and the first line
        self._others: list[str] = []
        self._no_space = ""  # the first line about a full disk
        self._begun: list[bytes] = []  # a message that has no end yet

    @property
    def others(self) -> list[str]:
        """The first lines of all else. To be asked for when there are no more."""
        self._give_up()
        return self._others

    def line(self, line: bytes) -> None:
        if self._begun and not line.startswith(_NEXT) and len(self._begun) <= _MOST_NEWLINES:
            self._begun.append(line)
            if self._count(b"\n".join(self._begun)):
                self._begun = []
            return
        self._give_up()
        if not line or line == _SUMMARY or self._count(line):
            return
        if _UNQUOTED.match(line):
            self._begun = [line]
        else:
            self._add(line)

    def had_no_access_lists(self) -> None:
        """Of a stream without any, `tar` writes the modes as lists, too: where they are refused, nothing is lost."""
        self.refused.pop("access list", None)

    def _count(self, message: bytes) -> bool:
        """Whether it is about what could not be set."""
        for kind, pattern in _KINDS:
            if pattern.fullmatch(message):
                if kind is not None:
                    text = message.decode("utf-8", "backslashreplace").replace("\n", "\\n")
                    count, first = self.refused.get(kind, (0, text))
                    self.refused[kind] = count + 1, first
                return True
        return False

    def _give_up(self) -> None:
        """Ends a message that began as one of the table and is none: all of its lines are others."""
        begun, self._begun = self._begun, []
        for line in begun:
            if line:
                self._add(line)

    def _add(self, line: bytes) -> None:
        if not self._no_space and _NO_SPACE.fullmatch(line):
            self._no_space = line.decode("utf-8", "backslashreplace")
        if len(self._others) < _MOST_LINES:
            self._others.append(line.decode("utf-8", "backslashreplace"))

    def succeeded(self, status: int) -> bool:
        """Whether all bytes were written, at a `tar` that ended so: every complaint was about what the file system cannot hold."""
        return status == 0 or (status == 2 and bool(self.refused) and not self.others)

    def failure(self, where: str, status: int) -> str:
        """The error of a `tar` that has not succeeded in writing `where`."""
        self._give_up()
        if self._no_space:
            return f"no space is left in {where}: {self._no_space}"
        if (why := self.why()).startswith(_SYNC):
            return f"writing {where} to the disk failed: {why}"
        return f"writing {where} failed: tar exited with status {status}: {why}"

    def why(self) -> str:
        """The first thing that can be the reason of a failure."""
        return next(iter(self.others), "") or next(
            (first for _, first in self.refused.values()), "with no message"
        )


class AccessLists:
    """Whether a tar stream has any, by the word before them in its headers. The word in a content counts too: it makes one warning."""

    def __init__(self) -> None:
        self.found = False
        self._end = b""

    def look(self, piece: bytes) -> None:
        """At the stream's pieces, in order."""
        if not self.found:
            self.found = _LIST in piece or _LIST in self._end + piece[: len(_LIST)]
            self._end = (
                (self._end + piece)[-len(_LIST) :] if len(piece) < len(_LIST) else piece[-len(_LIST) :]
            )
