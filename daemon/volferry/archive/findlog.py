"""Sorts the lines that `find` and `sync` write to stderr while a volume is listed, as tarlog.py does: findings, failures.

A message is about an entry that could not be looked at, which the listing then lacks, or about a directory, of which the listing then lacks
some or all of what is in it.
"""

from __future__ import annotations

import errno
import os
import re

from volferry.archive.complaints import GONE, REASON, asked, unquote
from volferry.model import Finding

_NAMED = re.compile(rb"find: ('(?:[^'\\]|\\.)*'): %s" % REASON, re.DOTALL)
_LOOP = re.compile(
    rb"find: File system loop detected; ('(?:[^'\\]|\\.)*') is part of the same file system loop as '(?:[^'\\]|\\.)*'\.",
    re.DOTALL,
)
_NOT_WRITTEN_BACK = re.compile(rb"sync: error syncing '\.': %s" % REASON)
# Of a file system that does no such thing, or not for us: nothing of what it holds is lost. With any other error, the kernel says that it could not
# write pages, which it may have dropped since.
_NOT_ASKED_FOR = frozenset(
    os.strerror(number).encode()
    for number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EROFS, errno.EPERM, errno.EACCES)
)

_MOST_UNEXPLAINED = 20
_MOST_FINDINGS = 100_000


class FindLog:
    """Takes the lines one by one."""

    def __init__(self) -> None:
        self.findings: dict[bytes, Finding] = {}  # by path
        self.of_all: list[Finding] = []  # of the volume as a whole
        self.loops: set[bytes] = (
            set()
        )  # paths of directories that contain themselves, which the listing may lack
        self.notes: list[str] = []
        self.unexplained: list[str] = []

    def line(self, line: bytes) -> None:
        if line and not self._explained(line) and len(self.unexplained) < _MOST_UNEXPLAINED:
            self.unexplained.append(line.decode("utf-8", "backslashreplace"))

    def why_failed(self, status: int, *, entries: int = 0) -> str | None:
        """Why a listing of so many `entries` that ended with `status` is not to be used; None if all that is wrong with it are findings."""
        if status or self.unexplained:
            return (self.unexplained or [f"status {status}"])[0]
        root = self.findings.get(b"")
        if root is not None and (entries <= 1 or root.kind != "unreadable"):
            return f"the root directory {root.detail}"
        if len(self.findings) > _MOST_FINDINGS:
            return f"more than {_MOST_FINDINGS:,} entries could not be looked at"
        return None

    def breaks_off(self, path: bytes, number: int) -> None:
        """Of a directory that is there, with the number of the error, or -1 if it gave fewer names than it has."""
        why = os.strerror(number).lower() if number > 0 else "it gave fewer names than it has"
        known = self.findings.get(path)
        if known is not None and known.kind == "vanished":
            del self.findings[path]
        self._add(Finding("unreadable", path, f"could not be listed to its end: {why}"))

    def _explained(self, line: bytes) -> bool:
        if named := _NAMED.fullmatch(line):
            path, reason = asked(unquote(named[1])), named[2]
            detail = f"could not be listed: {reason.decode().lower()}"
            self._add(Finding("vanished" if reason in GONE else "unreadable", path, detail))
        elif loop := _LOOP.fullmatch(line):
            path = asked(unquote(loop[1]))
            self.loops.add(path)
            self._add(Finding("unreadable", path, "is a directory that contains itself"))
        elif failed := _NOT_WRITTEN_BACK.fullmatch(line):
            self._not_written_back(failed[1])
        else:
            return False
        return True

    def _not_written_back(self, reason: bytes) -> None:
        text = reason.decode().lower()
        if reason in _NOT_ASKED_FOR:
            self.notes.append(
                f"the volume's pages could not be written back: {text}; what is written through a mapping may be missed"
            )
        else:
            detail = f"what was written to its file system last could not be written to the disk: {text}"
            self.of_all.append(Finding("unwritten", b"", detail))

    def _add(self, finding: Finding) -> None:
        if len(self.findings) <= _MOST_FINDINGS:
            self.findings.setdefault(finding.path, finding)
