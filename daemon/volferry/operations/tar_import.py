"""An archive that others have made, into a volume."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volferry.archive.commands import extract_command, foreign_extract_command, sync_command
from volferry.operations.restore import unmark
from volferry.operations.transfer import Lines, checked, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from volferry.archive.foreign_tar import ForeignTar
    from volferry.observer import Observer
    from volferry.operations.places import Place

_READ_BYTES = 1 << 20
# What is no matter: such names are where they belong nonetheless.
_EXPECTED = ("tar: Removing leading", "tar: A lone zero block")

_NO_ACCESS_LIST = "Cannot acl_from_text"


def import_tar(
    archive: ForeignTar,
    strip: int,
    target: Place,
    volume: str,
    observer: Observer,
    check_free: Callable[[], None] = lambda: None,
) -> None:
    """All of it is on the disk when it returns, and the mark of what is not whole is gone from `volume`. Raises VolferryError; the
    target then holds anything. `check_free` is called when all of it is on the disk: if it raises, the mark stays.
    """
    observer.phase("importing")
    _extract(foreign_extract_command(target.directory, strip), archive.pieces(), target, observer)
    run(target, sync_command(target.directory), "writing the volume to the disk")
    check_free()
    unmark(target.helper, volume)
    if archive.seen.root:
        _extract(extract_command(target.directory), [archive.seen.root], target, observer)
    run(target, sync_command(target.directory), "writing the volume to the disk")


def _extract(command: list[str], pieces: Iterable[bytes], target: Place, observer: Observer) -> None:
    lines = Lines()
    process = target.helper.start(command, stdin=True, on_stderr=lines.add, bulk="stdin")
    done = 0
    try:
        for piece in pieces:
            process.write(piece)
            done += len(piece)
            observer.advance(done_bytes=done, done_entries=0)
        process.close_stdin()
    except BrokenPipeError:
        pass  # its status and words say why
    while process.read(_READ_BYTES):
        pass
    checked(process.wait(), lines, "writing the volume")
    lists = sum(_NO_ACCESS_LIST in line for line in lines.kept)
    if lists:
        were = "1 access list was" if lists == 1 else f"{lists} access lists were"
        observer.note(f"{were} left out: the archive has users' names in them, and not numbers")
    for line in lines.kept:
        if not line.startswith(_EXPECTED) and _NO_ACCESS_LIST not in line:
            observer.note(line)
