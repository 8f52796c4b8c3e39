"""Looks for directories whose names the kernel does not give to their end, though it seems so.

Where a file system says "no such file" in the middle of a directory, the C library takes that for the end of a directory that has been removed, and so do `find`
and `tar`: they leave out the names after that place, without an error. Nor does `find` walk a directory that its file system calls something else, and it reports no error.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from volferry.archive.names_script import names_command
from volferry.archive.tree_scripts import is_foreign
from volferry.errors import CommandFailed
from volferry.model import printable
from volferry.operations.streams import feeding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

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
) -> bytes | None:
    """Of a listing's records, once it is whole. Returns the path of the first directory with names that `find` does not see, if there is one: nothing is noted then.
    Nothing is asked where the helper's image lacks volferry's Python.
    """
    return (
        _ask(helper, directory, _directories(records), log.breaks_off, one_file_system=one_file_system)
        if is_foreign(file_system)
        else None
    )


def has_names(helper: Helper, directory: str) -> bool:
    """Whether any are there that `find` has not seen. Raises CommandFailed if that cannot be found out, though the directory is there. Does nothing where the
    helper's image lacks volferry's Python.
    """
    errors: list[int] = []
    hidden = _ask(helper, directory, [b"/"], lambda _, number: errors.append(number))
    if errors:
        raise CommandFailed(
            f"looking into the volume failed: the root directory could not be listed to its end: {os.strerror(errors[0]).lower()}"
        )
    return hidden is not None


def hidden_in(path: bytes) -> str:
    """The message about a listing that lacks them."""
    return f"listing the volume failed: {printable(path) or 'the root directory'!r} has names that programs do not see"


def _ask(
    helper: Helper,
    directory: str,
    directories: Iterable[bytes],
    breaks_off: Callable[[bytes, int], object],
    *,
    one_file_system: bool = False,
) -> bytes | None:
    process = helper.start(
        names_command(directory, one_file_system=one_file_system),
        stdin=True,
        on_stderr=lambda _: None,
        bulk="stdout",
    )
    rest, hidden = b"", None
    with feeding(process, directories):
        while more := process.read(_READ_BYTES):
            *answers, rest = (rest + more).split(b"\0")
            for answer in answers:
                number, _, path = answer.partition(b" ")
                if number == b"0":
                    hidden = path
                else:
                    breaks_off(path, int(number))
    process.wait()
    return hidden


def _directories(records: Iterable[bytes]) -> Iterator[bytes]:
    """Their paths, with a "/" behind those with nothing below."""
    last = None
    for record in records:
        if last is not None:
            yield last if record.startswith(last + b"/" if last else b"") else last + b"/"
            last = None
        if b"//d " in record:  # or in the target of a link
            path, _, meta = record.partition(b"//")
            if meta.startswith(b"d "):
                last = path
    if last is not None:
        yield last + b"/"
