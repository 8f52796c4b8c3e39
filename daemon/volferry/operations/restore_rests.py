"""What whoever writes a volume can put there that is not backed up: what only looks like the rest of an interrupted restore, and what no restore
could make.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from volferry.model import Finding
from volferry.operations.restore import is_half

if TYPE_CHECKING:
    from volferry.archive.restore_mark import KnownMarks
    from volferry.engine.helper import Helper

_NOT_OURS = (
    " in its root, which no restore has put there that this machine or its stores know of: it is left out; if a restore, an import or a "
    "migration into the volume was interrupted, run that again, else delete it"
)


# Of what `tar` can make: it puts a slash after the path of a directory, and Linux takes 4,095 bytes.
LONGEST_PATH = 4094
_MOST_TOO_DEEP = 1000  # of which each is remembered


class HalfRestored(Exception):
    """The volume holds half of a backup."""


class Rests:
    """Looks at those of one volume."""

    def __init__(self, helper: Helper, directory: str, marks: KnownMarks) -> None:
        self._helper = helper
        self._directory = directory
        self._marks = marks
        self.findings: list[Finding] = []  # of the volume as a whole
        self.too_deep: dict[bytes, Finding] = {}  # by path

    def is_too_deep(self, record: bytes) -> bool:
        """Whether an entry has a path with which no restore could make it: it would fail as a whole."""
        path, _, meta = record.partition(b"//")
        if len(path) <= LONGEST_PATH + (meta[:1] != b"d"):
            return False
        if len(self.too_deep) < _MOST_TOO_DEEP:
            self.too_deep[path] = Finding("unreadable", path, "has a path that is too long for a restore")
        return True

    def look(self, name: str) -> None:
        """At what has that name in the root. Raises HalfRestored."""
        if self.findings:
            return
        if is_half(self._helper, self._directory, self._marks):
            raise HalfRestored
        self.findings.append(Finding("marked", b"", f"has {name}{_NOT_OURS}"))
