"""Multipart uploads that this machine has begun, on its own disk: what a run that died has begun can be found and ended.

One file a process, locked by it (flock) for as long as it lives, with one line a change: `+ UPLOAD NAME` or `- UPLOAD`.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
from typing import TYPE_CHECKING, NamedTuple

from volferry.errors import StoreError, VolferryError, reason
from volferry.state_lock import lock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Upload(NamedTuple):
    """One that was begun."""

    name: str  # of the object, in the bucket
    id: str


class Uploads:
    """Of one store. Without a directory, nothing is kept."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._descriptor: int | None = None
        self._lock = threading.Lock()
        self._open: set[str] = set()

    def begun(self, name: str, upload: str) -> None:
        """Raises StoreError if it cannot be kept."""
        with self._lock:
            self._open.add(upload)
            self._write(f"+ {upload} {name}\n")

    def ended(self, upload: str) -> None:
        """No error if it cannot be kept: ending it once more does no harm."""
        with self._lock:
            self._open.discard(upload)
            try:
                self._write(f"- {upload}\n")
            except StoreError:
                pass

    def of_the_dead(self) -> Iterator[list[Upload]]:
        """Of each process that died, what it had not ended; forgotten once the next is asked for."""
        for path in self._files():
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield _not_ended(path)
                path.unlink(missing_ok=True)
            except OSError:  # it lives
                continue
            finally:
                os.close(descriptor)

    def of_the_living(self) -> set[str]:
        """Ids of what other processes of this machine are at."""
        found: set[str] = set(self._open)
        for path in self._files():
            try:
                found.update(upload.id for upload in _not_ended(path))
            except OSError:
                continue
        return found

    def _files(self) -> list[Path]:
        try:
            return sorted(self._directory.glob("*.uploads")) if self._directory else []
        except OSError:
            return []

    def _write(self, line: str) -> None:
        if self._directory is None:
            return
        try:
            if self._descriptor is None:
                self._descriptor = _locked_file(self._directory)
            os.write(self._descriptor, line.encode())
        except OSError as error:
            raise StoreError(
                f"cannot write to the state directory {self._directory}: {reason(error)}"
            ) from error
        except VolferryError as error:
            raise StoreError(str(error)) from error


def _locked_file(directory: Path) -> int:
    """A new one, locked from the moment that it has its name."""
    directory.mkdir(parents=True, mode=0o700, exist_ok=True)
    path = directory / f"{secrets.token_hex(8)}.new"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, directory)
        path.rename(path.with_suffix(".uploads"))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _not_ended(path: Path) -> list[Upload]:
    open_ones: dict[str, Upload] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        sign, _, rest = line.partition(" ")
        upload, _, name = rest.partition(" ")
        if sign == "+" and name:
            open_ones[upload] = Upload(name, upload)
        elif sign == "-":
            open_ones.pop(upload, None)
    return list(open_ones.values())
