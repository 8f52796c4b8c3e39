"""The newest index of each volume, kept in the state directory: the next backup compares with it without fetching it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volferry.archive.digests import digested
from volferry.archive.index import file_blocks

if TYPE_CHECKING:
    from pathlib import Path

    from volferry.archive.manifest import IndexObjectPart, Manifest
    from volferry.model import BackupRef


@dataclass(frozen=True, slots=True)
class IndexFiles:
    """Local copies of the two index objects, as they are stored."""

    frames: Path
    files: Path


class IndexCache:
    """At most one index a volume. Losing it costs a transfer, nothing else."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def find(self, ref: BackupRef, manifest: Manifest) -> IndexFiles | None:
        """The index of that very backup, if it is here and every byte of it is what the manifest says."""
        found = IndexFiles(self._directory / f"{ref.id}.frames.zst", self._directory / f"{ref.id}.files.zst")
        try:
            good = _matches(found.frames, manifest.index.frames) and _matches(
                found.files, manifest.index.files
            )
        except OSError:
            return None
        return found if good else None

    def keep(self, ref: BackupRef, files: IndexFiles) -> None:
        """Moves the index of a new backup here, in place of the older one. It is no error if that fails."""
        try:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory.mkdir(parents=True, mode=0o700)
            files.files.replace(self._directory / f"{ref.id}.files.zst")
            files.frames.replace(self._directory / f"{ref.id}.frames.zst")
        except OSError:
            return


def _matches(path: Path, expected: IndexObjectPart) -> bool:
    return digested(file_blocks(path)) == expected.digest
