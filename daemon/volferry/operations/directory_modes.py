"""Takes the set-group-ID bit from directories that have it only because the directory that they were made in has it.

mkdir(2) hands that bit on, and GNU tar sets no mode where it believes that mkdir has given it already: for root, of a new directory that only
its owner may enter; for others, of nearly all. It sets the mode of a directory that was there, so such directories are given to it once more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from volferry.archive.commands import modes_command, sync_command
from volferry.archive.extractlog import ExtractLog
from volferry.archive.made_members import directory_member
from volferry.archive.tarstream import END_OF_ARCHIVE
from volferry.operations.comparison import has_inherited_bit
from volferry.operations.streams import give, run

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from volferry.archive.listing import Entry
    from volferry.engine.helper import Helper
    from volferry.operations.comparison import SetModes


def modes_in(helper: Helper, directory: str) -> SetModes:
    """In a directory of a helper that may write. They are on the disk then."""

    def set_modes(entries: Sequence[Entry]) -> bool:
        log = ExtractLog()
        process = helper.start(modes_command(directory), stdin=True, on_stderr=log.line)
        give(process, modes_stream(entries))
        done = have_modes(log, process.wait())
        run(helper, sync_command(directory), "writing the volume to the disk")
        return done

    return set_modes


def modes_stream(entries: Iterable[Entry]) -> Iterator[bytes]:
    """For `modes_command`."""
    yield from (directory_member(entry) for entry in entries)
    yield END_OF_ARCHIVE


def have_modes(log: ExtractLog, status: int) -> bool:
    """Whether a `modes_command` with that log has set all modes."""
    return log.succeeded(status) and "mode" not in log.refused


def settle_made(pairs: Iterable[tuple[Entry | None, Entry | None]], set_modes: SetModes) -> bool:
    """Of directories that were made on the way to what is compared: expected, and there. Whether they have their modes."""
    inherited = [one for one, other in pairs if one and other and has_inherited_bit(one.stat, other.stat)]
    return not inherited or set_modes(inherited)
