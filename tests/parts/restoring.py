"""A backup, verified and restored without an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from tests.parts.local_helper import LocalHelper
from volferry.observer import Silent
from volferry.operations.backup_reader import BackupReader
from volferry.operations.restore import restore_backup
from volferry.operations.verify import Verifier

if TYPE_CHECKING:
    from pathlib import Path

    from volferry.model import BackupRef
    from volferry.repository import Repository


def restored_whole(repository: Repository, ref: BackupRef, place: Path) -> Path:
    """Where it is, once verify has found nothing."""
    target, spool = place / "target", place / "spool"
    for each in (target, spool):
        each.mkdir(parents=True)
    assert Verifier(repository, read=True, spool=spool, observer=Silent()).verify(ref).findings == ()
    helper = LocalHelper(target, spool)
    try:
        backup = BackupReader(repository, ref, spool=spool)
        restore_backup(backup, "v", helper=cast("Any", helper), observer=Silent(), empty_first=False)
    finally:
        helper.end()
    return target
