"""Tries all that a local store does on the file system that is to hold it, before the first backup finds out."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from volferry.errors import StoreError, reason
from volferry.interrupts import held_back
from volferry.stores.file_system import FileSystem, Name, has_own_name, time_of
from volferry.stores.unfinished import remove_dead, temporary_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

_CONTENT = b"volferry doctor\n" * 512
_PREFIX = ".volferry-doctor-"
_LONGEST_NAME = 220  # bytes of a host's or volume's name in a key
_SHORTEST_LIMIT = 64  # bytes of names that volferry gives itself


@dataclass(frozen=True, slots=True)
class Probe:
    """The abilities of a file system."""

    free_bytes: int | None  # None: it does not tell
    lacks: tuple[str, ...]  # a sentence each: what it lacks, and what volferry does instead


def probe(root: Path) -> Probe:
    """Of a store in `root`, or where it is to be made. Nothing stays there; what a killed probe left goes with the next.

    Raises StoreError where no store can be kept safely.
    """
    place = root
    try:
        while not place.exists() and place != place.parent:
            place = place.parent
        _clean(place)
        with _directory(place) as directory:
            lacks = tuple(_lacks(directory, place))
        status = os.statvfs(place)
    except OSError as error:
        raise StoreError(f"{place} cannot hold a store: {reason(error)}") from error
    return Probe(status.f_bavail * status.f_frsize if status.f_blocks else None, lacks)


def _clean(place: Path) -> None:
    """Removes what a killed probe left."""
    with _opened(place) as parent:
        left = [each.name for each in place.iterdir() if each.name.startswith(_PREFIX)]
        remove_dead(parent, left, lambda: _now(place), partial(shutil.rmtree, dir_fd=parent))


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _directory(place: Path) -> Iterator[Path]:
    """A locked one, removed with all that is in it."""
    directory = place / f"{_PREFIX}{temporary_name()}"
    descriptor: int | None = None
    try:
        with held_back():
            directory.mkdir(mode=0o700)
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # a share without locks: see `_locks`
            pass
        yield directory
    finally:
        with held_back():
            if descriptor is not None:
                os.close(descriptor)
            if directory.exists():
                _remove(directory, place)


def _remove(directory: Path, place: Path) -> None:
    try:
        shutil.rmtree(directory)
    except OSError as error:
        raise _unsafe(place, f"does not delete {directory.name} ({reason(error)})") from error


def _lacks(directory: Path, place: Path) -> Iterator[str]:
    """Raises StoreError, OSError."""
    for name in ("from", "to"):
        (directory / name).mkdir(mode=0o700)
    _write(directory / "from" / "file", place)
    _exclusive(directory / "from" / "file", place)
    yield from _names(directory, place)
    yield from _directory_sync(directory, place)
    yield from _locks(directory / "from" / "file", place)
    yield from _rename_over(directory)
    yield from _exact_names(directory)
    yield from _length(directory, place)
    try:
        _now(directory)
    except OSError as error:
        raise _unsafe(
            place, f"has no unnamed files ({reason(error)}), by which volferry asks for its clock"
        ) from error


def _write(path: Path, place: Path) -> None:
    with path.open("xb") as file:
        file.write(_CONTENT)
        file.flush()
        try:
            os.fsync(file.fileno())
        except OSError as error:
            raise _unsafe(place, f"cannot bring files to stable storage ({reason(error)})") from error
    if path.read_bytes() != _CONTENT:
        raise _unsafe(place, "gives back other bytes than were written")


def _exclusive(path: Path, place: Path) -> None:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return
    raise _unsafe(place, "lets two writers create one file, each for itself")


def _names(directory: Path, place: Path) -> Iterator[str]:
    """The way in which a store names its objects, from one directory to another."""
    file_system = FileSystem(directory, lambda _: None)
    source, target = directory / "from", directory / "to"
    with _opened(source) as from_, _opened(target) as to:
        final = Name(to, "named", "named")
        (source / "first").write_bytes(_CONTENT)
        file_system.name(Name(from_, "first"), final)
        (source / "first").unlink(missing_ok=True)
        (source / "second").write_bytes(b"other")
        try:
            file_system.name(Name(from_, "second"), final)
        except FileExistsError:
            pass
        else:
            raise _unsafe(place, "gives a file the name of another one")
    if (target / "named").read_bytes() != _CONTENT:
        raise _unsafe(place, "loses a file when it gets its name")
    if not file_system.has_links:
        yield "no hard links: objects get their names by renaming, one writer at a time"


def _directory_sync(directory: Path, place: Path) -> Iterator[str]:
    file_system = FileSystem(directory, lambda _: None)
    try:
        with _opened(directory / "to") as to:
            file_system.sync_directory(to)
    except OSError as error:
        raise _unsafe(place, f"cannot bring directories to stable storage ({reason(error)})") from error
    if not file_system.syncs_directories:
        yield (
            "no fsync of directories: volferry syncs each object once more under its name, "
            "but a power failure may cost the newest ones"
        )


def _locks(path: Path, place: Path) -> Iterator[str]:
    with path.open("rb") as mine, path.open("rb") as another:
        try:
            fcntl.flock(mine.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield "no locks: what dead runs leave behind is removed after a day, not at once"
            return
        try:
            fcntl.flock(another.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
    raise _unsafe(place, "gives one lock to two: a run would delete what another one is writing")


def _rename_over(directory: Path) -> Iterator[str]:
    old, new = directory / "from" / "old", directory / "from" / "new"
    for path in (old, new):
        path.write_bytes(b"")
    try:
        new.replace(old)
    except OSError:
        yield "no renaming over an existing file: a store never does that"


def _exact_names(directory: Path) -> Iterator[str]:
    (directory / "Case").mkdir()
    if (directory / "case").exists():
        yield "no difference between upper and lower case: volferry refuses a second volume or host of the same letters"
    dotted = directory / "dot."
    try:
        dotted.mkdir()
        with _opened(directory) as parent:
            kept = has_own_name(parent, dotted.name)
    except OSError:
        kept = False
    if not kept:
        yield "no dot at the end of a name: volferry refuses volumes and hosts with such names"


def _length(directory: Path, place: Path) -> Iterator[str]:
    limit = _LONGEST_NAME
    while not _holds(directory, limit):
        limit -= 1
        if limit < _SHORTEST_LIMIT:
            raise _unsafe(place, f"has no names of {_SHORTEST_LIMIT} bytes")
    if limit < _LONGEST_NAME:
        yield f"no names of more than {limit} bytes: volferry cannot back up volumes and hosts with longer ones"


def _holds(directory: Path, length: int) -> bool:
    """Whether a name may be so long."""
    path = directory / ("n" * length)
    try:
        path.mkdir()
        with _opened(directory) as parent:
            return has_own_name(parent, path.name)
    except OSError as error:
        if error.errno in {errno.ENAMETOOLONG, errno.EINVAL, errno.ENOENT}:
            return False
        raise


def _now(place: Path) -> datetime:
    with tempfile.TemporaryFile(dir=place) as file:
        return time_of(os.fstat(file.fileno()))


def _unsafe(place: Path, what: str) -> StoreError:
    return StoreError(f"the file system of {place} {what}: keep the store on another one")
