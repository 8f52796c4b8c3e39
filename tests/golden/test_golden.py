"""Stores that earlier versions wrote are read as they were written: `format-N/store`, with `expected.json` beside it.

A store is added for each change of the format and never changed. `python -m tests.golden.test_golden DIRECTORY` writes
what is expected of a new one.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from volferry.model import printable
from volferry.operations.backup_reader import BackupReader
from volferry.repository import Repository
from volferry.stores.local import LocalStore

HERE = Path(__file__).parent
STORES = sorted(path.parent for path in HERE.glob("*/store"))


def content(directory: Path, spool: Path) -> dict[str, Any]:
    """Backup -> what it holds."""
    repository = Repository.open(LocalStore(directory / "store"))
    found: dict[str, Any] = {}
    for ref in repository.refs():
        backup = BackupReader(repository, ref, spool=spool)
        tar = b"".join(backup.tar_stream())
        found[str(ref)] = {
            "tar_sha256": hashlib.sha256(tar).hexdigest(),
            "entries": [printable(entry.record) for entry in backup.entries()],
            "labels": dict(backup.manifest.volume.labels),
            "base": backup.manifest.base,
            "excluded": list(backup.manifest.excluded.patterns),
        }
    return found


@pytest.mark.parametrize("directory", STORES, ids=lambda path: path.name)
def test_a_store_of_an_earlier_version_is_read_as_it_was_written(directory: Path, tmp_path: Path) -> None:
    expected = json.loads((directory / "expected.json").read_text())
    assert len(expected) >= 2
    assert content(directory, tmp_path) == expected


def test_there_is_a_store_of_this_version() -> None:
    assert [path.name for path in STORES] == ["format-1", "format-2"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as spool:
        place = Path(sys.argv[1])
        (place / "expected.json").write_text(json.dumps(content(place, Path(spool)), indent=1) + "\n")
