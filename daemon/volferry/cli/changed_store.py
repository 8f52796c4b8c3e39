"""A store's settings while a command runs: the file that has them may be changed meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volferry.config import load_config
from volferry.errors import VolferryError

if TYPE_CHECKING:
    from pathlib import Path

    from volferry.store_config import StoreConfig


class ChangedStore:
    """One store's settings, where the file that has them was changed; None where it was not, or cannot be used as it is."""

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        self._seen = self._mark()

    def _mark(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino

    def __call__(self) -> StoreConfig | None:
        mark = self._mark()
        if mark is None or mark == self._seen:
            return None
        self._seen = mark
        try:
            return load_config(self._path).stores.get(self._name)
        except VolferryError:
            return None
