"""Looks for directories of which not all names were listed, though it seems so.

Where a file system says "no such file" in the middle of a directory, the C library takes that for the end of a directory that has been removed, and so do `find`
and `tar`: they leave out the names after that place, without an error. Nor does `find` walk a directory that its file system calls something else, and it reports no error.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING

from volferry.archive.commands import OWN_TREES
from volferry.archive.excludes import LeftOut
from volferry.archive.index import file_blocks
from volferry.archive.listing import split_records, times_of
from volferry.archive.names_script import directory_line, names_command
from volferry.archive.tree_scripts import is_foreign
from volferry.errors import CommandFailed, HiddenNames
from volferry.model import printable
from volferry.operations.streams import Lines, answered, feeding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from typing import BinaryIO

    from volferry.archive.findlog import FindLog
    from volferry.archive.listing import ListingReader
    from volferry.engine.helper import Helper

_READ_BYTES = 1 << 16


class NamesListed:
    """Counts the names of each directory while a volume is listed, in a local file. Of file systems that are not asked, it counts nothing."""

    def __init__(self, path: Path, reader: ListingReader) -> None:
        self._path = path
        self._reader = reader

    def records(self, left_out: LeftOut | None = None) -> Iterator[bytes]:
        """The reader's. A directory that is `left_out` before the next one is taken is not asked, nor is one that is never walked."""
        records = self._reader.records()
        left_out = left_out or LeftOut()
        above: list[_Directory] = []
        with self._path.open("wb") as out:
            first = list(islice(records, 1))  # with it, the file system is known
            if not is_foreign(self._reader.file_system):
                yield from chain(first, records)
                return
            for record in chain(first, records):
                path, _, meta = record.partition(b"//")
                while above and above[-1].path and not path.startswith(above[-1].path + b"/"):
                    above.pop().write(out)
                if above:
                    above[-1].names += 1
                if not meta.startswith(b"d "):
                    yield record
                    continue
                before = left_out.entries
                yield record
                is_asked = left_out.entries == before and path not in OWN_TREES
                above.append(_Directory(path, times_of(meta), is_asked))
            while above:
                above.pop().write(out)

    def note_missing(
        self,
        helper: Helper,
        directory: str,
        log: FindLog,
        *,
        one_file_system: bool = False,
        is_last: bool = False,
    ) -> None:
        """Once all records were taken: `log` gets the directories that break off. Raises HiddenNames, without `is_last`, if there are names that another
        way of listing may find. Nothing is asked where the helper's image lacks volferry's Python.
        """
        known = {path for path, finding in log.findings.items() if finding.kind == "unreadable"}
        known |= {path.rpartition(b"/")[0] for path in log.loops}
        lines = (
            line
            for line in split_records(file_blocks(self._path))
            if not known or line.split(b" ", 3)[3] not in known
        )
        first = next(lines, None)
        if first is None:
            return
        hidden = _ask(
            helper,
            directory,
            chain([first], lines),
            log.breaks_off,
            began=self._reader.listed_at,
            one_file_system=one_file_system,
            is_last=is_last,
        )
        if hidden is not None:
            raise HiddenNames(
                f"listing the volume failed: {printable(hidden) or 'the root directory'!r} has names that were not listed"
            )


@dataclass(slots=True)
class _Directory:
    path: bytes
    times: bytes
    is_asked: bool
    names: int = 0

    def write(self, out: BinaryIO) -> None:
        if self.is_asked:
            out.write(directory_line(self.names, self.times, self.path) + b"\0")


def has_names(helper: Helper, directory: str) -> bool:
    """Whether any are there that `find` has not seen. Raises CommandFailed if that cannot be found out, though the directory is there. Does nothing where the
    helper's image lacks volferry's Python.
    """
    errors: list[int] = []
    hidden = _ask(
        helper, directory, [directory_line(0, b"- -", b"")], lambda _, number: errors.append(number)
    )
    if errors:
        raise CommandFailed(
            f"looking into the volume failed: the root directory could not be listed to its end: {os.strerror(errors[0]).lower()}"
        )
    return hidden is not None


def _ask(
    helper: Helper,
    directory: str,
    lines: Iterable[bytes],
    breaks_off: Callable[[bytes, int], object],
    *,
    began: float = 0.0,
    one_file_system: bool = False,
    is_last: bool = False,
) -> bytes | None:
    """Returns the path of a directory with names that were not listed."""
    said = Lines()
    process = helper.start(
        names_command(directory, began=began, one_file_system=one_file_system, is_last=is_last),
        stdin=True,
        on_stderr=said.add,
        bulk="stdout",
    )
    rest, hidden = b"", None
    with feeding(process, lines):
        while more := process.read(_READ_BYTES):
            *answers, rest = (rest + more).split(b"\0")
            for answer in answers:
                number, _, path = answer.partition(b" ")
                if number == b"0":
                    hidden = path
                else:
                    breaks_off(path, int(number))
    answered(process.wait(), said, "asking the volume's directories for their names")
    return hidden
