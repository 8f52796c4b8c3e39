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
    from collections.abc import Callable, Iterator
    from pathlib import Path

_NAME = "restore.json"
_COMPLETED = "completed.json"

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
) -> Iterator[Callable[[], None]]:
    """Around what changes a volume, which `directory` belongs to. If it is `spared` at first, the function that this gives must be called before
    it is changed. Where the restore fails, the record says what is `left` in the volume, and stays if that cannot be found out; where it is
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
    note_completed(directory)


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


def note_completed(directory: Path) -> None:
    """The volume is whole from now on, as far as anybody knows. Without it, nothing but a remark of `status` is lost."""
    with suppress(VolferryError):
        _replace(directory, _COMPLETED, {"completed": datetime.now(UTC).isoformat()})


def last_completed(directory: Path) -> datetime | None:
    """When a restore, an import or a migration into the volume was completed last."""
    try:
        return datetime.fromisoformat(json.loads((directory / _COMPLETED).read_bytes())["completed"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


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
    beginning = directory / f"{name}.new"
    try:
        with beginning.open("w") as file:
            json.dump(document, file)
            file.flush()
            os.fsync(file.fileno())
        beginning.rename(directory / name)
    except OSError as error:
        raise VolferryError(f"cannot write to the state directory {directory}: {reason(error)}") from error
