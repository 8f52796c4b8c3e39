"""An archive that others have made, into a volume."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volferry.archive.commands import foreign_extract_command, sync_command
from volferry.archive.extractlog import ExtractLog
from volferry.archive.listing import parse_record
from volferry.archive.tarstream import END_OF_ARCHIVE
from volferry.errors import CommandFailed
from volferry.operations.directory_modes import modes_in
from volferry.operations.place_listing import list_place
from volferry.operations.restore import unmark, warnings_of
from volferry.operations.squashed import USUAL_GROUND, Ground
from volferry.operations.streams import counted, give, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from volferry.archive.foreign_tar import ForeignTar
    from volferry.observer import Observer
    from volferry.operations.archive_members import ArchiveMembers
    from volferry.operations.places import Place

_END = len(END_OF_ARCHIVE)
# What is no matter: such names are where they belong nonetheless.
_EXPECTED = (b"tar: Removing leading", b"tar: A lone zero block")

_NO_ACCESS_LIST = b"Cannot acl_from_text"


def import_tar(
    archive: ForeignTar,
    members: ArchiveMembers,
    strip: int,
    target: Place,
    volume: str,
    spool: Path,
    observer: Observer,
    check_free: Callable[[], None] = lambda: None,
    ground: Ground = USUAL_GROUND,
) -> tuple[str, ...]:
    """All of it is on the disk when it returns, and the mark of what is not whole is gone from `volume`. Returns a line for each kind of
    thing that the file system could not hold as it was. `members` gets those of `archive` while it is read.

    Raises VolferryError; the target then holds anything. RestoreMismatch where it does not hold what the archive does. `check_free` is
    called when all of it is on the disk: if it raises, the mark stays.
    """
    observer.phase("importing")
    writing = _Writing(target, observer)
    writing.extract(foreign_extract_command(target.directory, strip), archive.pieces(widened=ground.squashed))
    root = archive.seen.root
    if root and strip:  # its name had parts that were left out
        writing.extract(
            foreign_extract_command(target.directory, 0), [ground.root(root[:-_END]), root[-_END:]]
        )
    observer.phase("comparing", total_entries=archive.seen.entries)
    there = list_place(target, spool / "imported", marked=True)
    found = (parse_record(record) for record in there.records())
    differing = members.check(
        found,
        observer,
        times_refused="time" in writing.log.refused,
        set_modes=modes_in(target.helper, target.directory),
        ground=ground,
    )
    if ground.squashed:
        directories = members.directories(parse_record(record) for record in there.records())
        ground.set_modes(target.helper, target.directory, directories, writing.log)
    run(target.helper, sync_command(target.directory), "writing the volume to the disk")
    check_free()
    unmark(target.helper, volume)
    if ground.squashed:  # it may not be opened afterwards
        run(target.helper, sync_command(target.directory), "writing the volume to the disk")
    if root:
        # Once more: taking the mark away has changed its time. What of it could not be set is counted already.
        _Writing(target, observer).extract(foreign_extract_command(target.directory, 0), [root])
    else:
        ground.give_back(target.helper, target.directory)
    if not ground.squashed:
        run(target.helper, sync_command(target.directory), "writing the volume to the disk")
    if not members.have_access_lists:
        writing.log.had_no_access_lists()
    writing.note_left_out()
    # Remarks, as about keywords of other programs, have cost nothing.
    remarks = writing.log.others
    return tuple(line for line in warnings_of(writing.log, differing, observer) if line not in remarks)


class _Writing:
    """Runs `tar` on the target, and gathers its messages."""

    def __init__(self, target: Place, observer: Observer) -> None:
        self._target = target
        self._observer = observer
        self._left_out = 0  # access lists
        self.log = ExtractLog()

    def extract(self, command: list[str], pieces: Iterable[bytes]) -> None:
        """Raises CommandFailed."""
        process = self._target.helper.start(command, stdin=True, on_stderr=self._line, bulk="stdin")
        give(process, counted(pieces, self._observer))
        status = process.wait()
        if not self.log.succeeded(status):
            raise CommandFailed(self.log.failure("the volume", status))

    def note_left_out(self) -> None:
        if self._left_out:
            were = "1 access list was" if self._left_out == 1 else f"{self._left_out} access lists were"
            self._observer.note(f"{were} left out: the archive has users' names in them, and not numbers")
        for line in self.log.others:
            self._observer.note(line)

    def _line(self, line: bytes) -> None:
        if _NO_ACCESS_LIST in line:
            self._left_out += 1
        elif not line.startswith(_EXPECTED):
            self.log.line(line)
