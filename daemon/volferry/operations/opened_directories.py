"""Directories of this machine that their owner may not do anything in, for a restore by one who has no more rights than the owner."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from volferry.errors import VolferryError, reason

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_OWNER = 0o700
_LOOKING = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC  # needs no right to read it


def is_squashed(directory: Path) -> bool:
    """Whether whoever asks can make nothing in a directory there that its owner may not write; its times are as before. Raises OSError."""
    times = directory.stat()
    probe = Path(tempfile.mkdtemp(prefix=".volferry-probe-", dir=directory))
    inner = probe / "in"
    try:
        probe.chmod(0o500)
        inner.mkdir()
        inner.rmdir()
    except PermissionError:
        return True
    finally:
        probe.rmdir()
        with suppress(OSError):  # of somebody else's directory
            os.utime(directory, ns=(times.st_atime_ns, times.st_mtime_ns))
    return False


@contextmanager
def opened_below(directory: Path) -> Iterator[OpenedDirectories]:
    """Those that are opened have the modes that they had at the end. Raises VolferryError."""
    opened = OpenedDirectories(directory)
    try:
        yield opened
    except BaseException:
        with suppress(VolferryError):  # the first error says more
            opened.close()
        raise
    opened.close()


class OpenedDirectories:
    """Their owner may do anything in them, until `close` gives each the mode that it had."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._modes: list[tuple[bytes, int]] = []

    def open(self, paths: Sequence[bytes]) -> None:
        """In the order of a tree walk; what is none, or somebody else's, stays as it is. The directory itself has the path b""."""
        for path in paths:
            try:
                with _looking(self._directory, path) as place:
                    if (mode := _opened(place)) is not None:
                        self._modes.append((path, mode))
            except OSError:
                continue  # writing into it says why

    def close(self) -> None:
        """Raises VolferryError."""
        modes, self._modes = self._modes, []
        try:
            for path, mode in reversed(modes):
                with _looking(self._directory, path) as place:
                    _set_mode(place, mode)
        except OSError as error:
            raise VolferryError(f"cannot write to {self._directory}: {reason(error)}") from error


def open_below(name: bytes, place: int) -> None:
    """All directories from `name` on, in the directory of that descriptor: to be deleted. What is none, or somebody else's, stays as it is."""
    _open_one(name, place)
    for _, names, _, inner in os.fwalk(name, dir_fd=place):
        for each in names:  # also links to directories
            _open_one(each, inner)


def _open_one(name: str | bytes, place: int) -> None:
    with (
        suppress(OSError),  # deleting it says why
        _held(os.open(name, _LOOKING | os.O_NOFOLLOW, dir_fd=place)) as directory,
    ):
        _opened(directory)


@contextmanager
def _looking(directory: Path, path: bytes) -> Iterator[int]:
    """A descriptor of a directory; no link is followed below the first one. Raises OSError."""
    place = os.open(directory, _LOOKING)
    try:
        for part in path.split(b"/") if path else ():
            inner = os.open(part, _LOOKING | os.O_NOFOLLOW, dir_fd=place)
            os.close(place)
            place = inner
        yield place
    finally:
        os.close(place)


@contextmanager
def _held(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _opened(place: int) -> int | None:
    """The mode that it had, if it has another one now. Raises OSError."""
    mode = stat.S_IMODE(os.fstat(place).st_mode)
    if mode & _OWNER == _OWNER:
        return None
    _set_mode(place, mode | _OWNER)
    return mode


def _set_mode(place: int, mode: int) -> None:
    os.chmod(f"/proc/self/fd/{place}", mode)  # noqa: PTH101 -- a descriptor that may only look is set by no other call
