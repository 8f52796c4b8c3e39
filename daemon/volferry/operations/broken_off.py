"""Looks for directories whose names the kernel does not give to their end, though it seems so.

Where a file system says "no such file" in the middle of a directory, the C library takes that for the end of a directory that has been removed, and so do `find`
and `tar`: what comes after that place is not in the listing, and nobody says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from volferry.archive.tree_scripts import is_foreign, names_command
from volferry.operations.streams import feeding

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from volferry.archive.findlog import FindLog
    from volferry.engine.helper import Helper

_READ_BYTES = 1 << 16


def note_broken_off(
    helper: Helper,
    directory: str,
    file_system: str,
    records: Iterable[bytes],
    log: FindLog,
    *,
    one_file_system: bool = False,
) -> None:
    """Of a listing's records, once it is whole. Nothing is asked where the helper's image lacks volferry's Python."""
    if not is_foreign(file_system):
        return
    process = helper.start(
        names_command(directory, one_file_system=one_file_system),
        stdin=True,
        on_stderr=lambda _: None,
        bulk="stdout",
    )
    rest = b""
    with feeding(process, _directories(records)):
        while more := process.read(_READ_BYTES):
            *answers, rest = (rest + more).split(b"\0")
            for answer in answers:
                number, _, path = answer.partition(b" ")
                log.breaks_off(path, int(number))
    process.wait()


def _directories(records: Iterable[bytes]) -> Iterator[bytes]:
    for record in records:
        if b"//d " in record:  # or in the target of a link
            path, _, meta = record.partition(b"//")
            if meta.startswith(b"d "):
                yield path
