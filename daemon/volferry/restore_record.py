"""Restores into volumes that have begun, in the state directory: one that is killed leaves its record, until the volume is whole again."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from volferry.errors import VolferryError, reason
from volferry.volume_lock import is_written

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_NAME = "restore.json"


@dataclass(frozen=True, slots=True)
class BegunRestore:
    """Of one volume."""

    backup: str  # host/volume@id
    began: datetime
    running: bool

    @property
    def volume(self) -> str:
        """That was backed up, which need not be the one that the record is of."""
        return self.backup.rpartition("@")[0].rpartition("/")[2]


@contextmanager
def recorded_restore(
    directory: Path, backup: str, *, is_marked: Callable[[], bool], in_part: bool = False
) -> Iterator[None]:
    """Around what changes a volume, which `directory` belongs to. Where that fails, the record stays if the volume `is_marked` as half of a
    backup, or cannot be asked; where a restore is `in_part`, also if it ends well: it may be the rest of another one.
    Raises VolferryError if the state directory cannot be written.
    """
    document = {"backup": backup, "began": datetime.now(UTC).isoformat()}
    beginning = directory / f"{_NAME}.new"
    try:
        with beginning.open("w") as file:
            json.dump(document, file)
            file.flush()
            os.fsync(file.fileno())
        beginning.rename(directory / _NAME)
    except OSError as error:
        raise VolferryError(f"cannot write to the state directory {directory}: {reason(error)}") from error
    try:
        yield
    except BaseException:
        with suppress(VolferryError, OSError):
            if not is_marked():
                forget_restore(directory)
        raise
    if not (in_part and is_marked()):
        forget_restore(directory)


def forget_restore(directory: Path) -> None:
    """The volume is whole, or gone."""
    with suppress(OSError):
        (directory / _NAME).unlink(missing_ok=True)


def begun_restore(directory: Path) -> BegunRestore | None:
    """One that runs, or that was killed; a damaged record is none."""
    try:
        document = json.loads((directory / _NAME).read_bytes())
        began = datetime.fromisoformat(document["began"])
        return BegunRestore(str(document["backup"]), began, is_written(directory))
    except (OSError, ValueError, KeyError, TypeError, VolferryError):
        return None
