"""Whether what looks like the rest of an interrupted restore is one: whoever writes a volume can make all of it but our mark."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volferry.errors import CommandFailed
from volferry.model import Finding
from volferry.operations.restore import content_if_marked

if TYPE_CHECKING:
    from volferry.archive.restore_mark import KnownMarks
    from volferry.engine.helper import Helper

_NOT_OURS = (
    " in its root, which no restore has put there that this machine or its stores know of: it is left out; if a restore, an import or a "
    "migration into the volume was interrupted, run that again, else delete it"
)


class HalfRestored(Exception):
    """The volume holds half of a backup."""


class Rests:
    """Looks at those of one volume."""

    def __init__(self, helper: Helper, directory: str, marks: KnownMarks) -> None:
        self._helper = helper
        self._directory = directory
        self._marks = marks
        self.findings: list[Finding] = []

    def look(self, name: str) -> None:
        """At what has that name in the root. Raises HalfRestored."""
        if self.findings:
            return
        if is_half(self._helper, self._directory, self._marks):
            raise HalfRestored
        self.findings.append(Finding("marked", b"", f"has {name}{_NOT_OURS}"))


def is_half(helper: Helper, directory: str, marks: KnownMarks) -> bool:
    """Whether a volume holds half of a backup that has a mark, or a directory that comes with one."""
    try:
        return marks.is_ours(content_if_marked(helper, directory))
    except CommandFailed:  # a mark that cannot be read may be ours
        return True
