"""What `tar` says on stderr while it writes a volume, told apart: what the file system cannot hold, remarks, and failures."""

from __future__ import annotations

import re

# With these, a file system says that it has no such thing, or that it is not ours to set. Any other error may have cost bytes.
_REFUSED = (
    rb"(?:Operation not (?:permitted|supported)|Permission denied|Function not implemented|Invalid argument)"
)
_NAME = rb'"(?:[^"\\]|\\.)*"'
# Whole lines of GNU tar with `--quoting-style=c`, in the C locale, and what of an entry could not be set. tar goes on after each, and ends with
# status 2. The table is compared with what the real tar says under injected errors (tests/safety/test_write_faults.py).
_KINDS = (
    ("owner", re.compile(rb"tar: %s: Cannot change ownership to uid \d+, gid \d+: %s" % (_NAME, _REFUSED))),
    ("mode", re.compile(rb"tar: %s: Cannot change mode to [-rwxsStT]{9}: %s" % (_NAME, _REFUSED))),
    ("time", re.compile(rb"tar: %s: Cannot utime: %s" % (_NAME, _REFUSED))),
    # These have the name as it is, and leave the status at 0 on their own.
    (
        "attribute",
        re.compile(
            rb"tar: [fl]?setxattr(?:at)?: Cannot set '[^']*' extended attribute for file '.*': %s" % _REFUSED
        ),
    ),
    (
        "access list",
        re.compile(
            rb"tar: acl_(?:set|delete_def)_file(?:_at)?: Cannot set POSIX ACLs for file '.*': %s" % _REFUSED
        ),
    ),
    (
        "context",
        re.compile(rb"tar: [fl]?setfilecon(?:at)?: Cannot set SELinux context for file '.*': %s" % _REFUSED),
    ),
)
_SUMMARY = b"tar: Exiting with failure status due to previous errors"
_MOST_LINES = 20


class ExtractLog:
    """Takes the lines one by one."""

    def __init__(self) -> None:
        self.refused: dict[str, tuple[int, str]] = {}  # by kind: how often, and the first line
        self.others: list[str] = []

    def line(self, line: bytes) -> None:
        if not line or line == _SUMMARY:
            return
        text = line.decode("utf-8", "backslashreplace")
        for kind, pattern in _KINDS:
            if pattern.fullmatch(line):
                count, first = self.refused.get(kind, (0, text))
                self.refused[kind] = count + 1, first
                return
        if len(self.others) < _MOST_LINES:
            self.others.append(text)

    def succeeded(self, status: int) -> bool:
        """Whether all bytes were written, at a `tar` that ended so: every complaint was about what the file system cannot hold."""
        return status == 0 or (status == 2 and bool(self.refused) and not self.others)

    def why(self) -> str:
        """The first thing that can be the reason of a failure."""
        return next(iter(self.others), "") or next(
            (first for _, first in self.refused.values()), "without a word"
        )
