"""Restores and imports into volumes that have begun, in the state directory: one that is killed leaves its record, until nothing of it is left in the
volume. Beside it, when what was written into the volume was whole last.
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from volferry.errors import VolferryError, reason
from volferry.volume_lock import is_written

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

_NAME = "restore.json"
_COMPLETED = "completed.json"
_MOST_ENDED = 64  # older ones do not count by their time

# In the volume: the mark of what did not end, or no mark but what was restored beside what the volume holds.
Left = Literal["nothing", "beside", "half"]


@dataclass(frozen=True, slots=True)
class BegunRestore:
    """Of one volume."""

    backup: str  # host/volume@id; empty for an import
    began: datetime
    running: bool = False
    in_part: bool = False  # of some paths
    spared: bool = False  # the volume holds what it held
    command: str = ""  # by which an import begins anew
    store: str = ""  # that was named on the command line

    @property
    def volume(self) -> str:
        """That was backed up, which need not be the one that the record is of."""
        return self.backup.rpartition("@")[0].rpartition("/")[2]


@contextmanager
def recorded_restore(
    directory: Path,
    backup: str,
    *,
    left: Callable[[], Left],
    in_part: bool = False,
    spared: bool = False,
    command: str = "",
    store: str = "",
    ended: Sequence[str] = (),
) -> Iterator[Callable[[], None]]:
    """Around what changes a volume, which `directory` belongs to. If it is `spared` at first, the function that this gives must be called before
    it is changed. `ended` are seals of marks that are over once this is completed. Where the restore fails, the record says what is `left` in the volume, and stays if that cannot be found out; where it is
    `in_part`, also if it ends well: the rest may be of another one. Raises VolferryError if the state directory cannot be written.
    """
    earlier = begun_restore(directory, running=False)
    begun = BegunRestore(backup, datetime.now(UTC), in_part=in_part, command=command, store=store)
    _write(directory, replace(begun, spared=spared))

    def settle() -> Left:
        found = left()
        if found == "half":
            _write(directory, begun)
        elif found == "beside" and not in_part:
            _write(directory, replace(begun, spared=True))
        elif found == "beside" and earlier is not None and earlier.spared:
            _write(directory, earlier)
        else:
            forget_restore(directory)
        return found

    try:
        yield lambda: _write(directory, begun)
    except BaseException:
        with suppress(VolferryError, OSError):
            settle()
        raise
    if not in_part:
        forget_restore(directory)
    elif settle() == "half":
        return
    note_completed(directory, ended)


def forget_restore(directory: Path) -> None:
    """The volume is whole, or gone."""
    with suppress(OSError):
        (directory / _NAME).unlink(missing_ok=True)


def settle_after_backup(directory: Path, left: Callable[[], Left]) -> None:
    """Of half of a restore there would have been no backup; what is left beside takes room, and is remembered."""
    begun = begun_restore(directory, running=False)
    if begun is None:
        return
    try:
        beside = left() == "beside"
    except VolferryError:
        beside = begun.spared
    with suppress(VolferryError):
        if beside:
            _write(directory, replace(begun, spared=True))
        else:
            forget_restore(directory)


def begun_restore(directory: Path, *, running: bool | None = None) -> BegunRestore | None:
    """One that runs, or that was killed; a damaged record is none. Unless it is known whether it is `running`, that is found out."""
    try:
        document = json.loads((directory / _NAME).read_bytes())
        return BegunRestore(
            str(document["backup"]),
            datetime.fromisoformat(document["began"]),
            is_written(directory) if running is None else running,
            document.get("in_part") is True,
            document.get("spared") is True,
            str(document.get("command", "")),
            str(document.get("store", "")),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, VolferryError):
        return None


@dataclass(frozen=True, slots=True)
class KnownWhole:
    """When a volume was whole, as far as this machine knows."""

    completed: datetime | None = None  # a restore, an import or a migration into it, last
    backed_up: datetime | None = None  # when its last backup began
    ended: tuple[str, ...] = ()  # seals of marks that were there before it was completed, the newest last


def known_whole(directory: Path) -> KnownWhole:
    try:
        document = json.loads((directory / _COMPLETED).read_bytes())
        completed, backed_up = (
            datetime.fromisoformat(document[key]) if document.get(key) else None
            for key in ("completed", "backed_up")
        )
        return KnownWhole(completed, backed_up, tuple(str(each) for each in document.get("ended") or ()))
    except (OSError, ValueError, TypeError, AttributeError):
        return KnownWhole()


def last_completed(directory: Path) -> datetime | None:
    """When a restore, an import or a migration into the volume was completed last."""
    return known_whole(directory).completed


def note_completed(directory: Path, ended: Sequence[str] = ()) -> None:
    """The volume is whole from now on, as far as anybody knows. Without it, a mark that somebody has kept keeps the volume from being backed up,
    until the next restore.
    """
    known = known_whole(directory)
    seals = tuple(dict.fromkeys((*known.ended, *(each for each in ended if each))))[-_MOST_ENDED:]
    _note(directory, replace(known, completed=datetime.now(UTC), ended=seals))


def note_backed_up(directory: Path, began: datetime) -> None:
    """No restore into the volume was under way, or had been interrupted, when the backup began."""
    _note(directory, replace(known_whole(directory), backed_up=began))


def _note(directory: Path, known: KnownWhole) -> None:
    document: dict[str, Any] = {
        "completed": known.completed.isoformat() if known.completed else None,
        "backed_up": known.backed_up.isoformat() if known.backed_up else None,
        "ended": list(known.ended),
    }
    with suppress(VolferryError):
        _replace(directory, _COMPLETED, document)


def _write(directory: Path, begun: BegunRestore) -> None:
    document = {
        "backup": begun.backup,
        "began": begun.began.isoformat(),
        "in_part": begun.in_part,
        "spared": begun.spared,
        "command": begun.command,
        "store": begun.store,
    }
    _replace(directory, _NAME, document)


def _replace(directory: Path, name: str, document: dict[str, Any]) -> None:
    """On stable storage when it returns. Raises VolferryError."""
    beginning = directory / f"{name}.{os.getpid()}.new"  # backups to several stores may run side by side
    try:
        with beginning.open("w") as file:
            json.dump(document, file)
            file.flush()
            os.fsync(file.fileno())
        beginning.rename(directory / name)
    except OSError as error:
        raise VolferryError(f"cannot write to the state directory {directory}: {reason(error)}") from error
