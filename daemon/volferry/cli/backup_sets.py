"""Sets of backups, as `list` and `show` name them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from volferry.sets import set_of

if TYPE_CHECKING:
    from volferry.archive.manifest import Manifest
    from volferry.model import BackupRef
    from volferry.repository import Repository
    from volferry.sets import BackupSet


def sets_of(repository: Repository, found: list[tuple[BackupRef, Manifest]]) -> dict[BackupRef, BackupSet]:
    """Those that the backups belong to; nothing more is asked of the store where none does."""
    hosts = {ref.host for ref, manifest in found if manifest.set is not None}
    there = {ref for host in sorted(hosts) for ref in repository.refs(host=host)}
    sets = {ref: set_of(ref, manifest, there) for ref, manifest in found}
    return {ref: each for ref, each in sets.items() if each is not None}


def set_document(found: BackupSet | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "id": found.id,
        "backups": [str(ref) for ref in found.backups.values()],
        "missing": [str(ref) for ref in found.missing],
    }


def set_text(found: BackupSet | None) -> str:
    """Short, as a table has it."""
    if found is None:
        return "-"
    return f"{found.id.partition('-')[0]}{', not complete' if found.missing else ''}"


def set_line(found: BackupSet) -> str:
    others = f"{found.id}, with {', '.join(f'{ref.volume}@{ref.id}' for ref in found.backups.values())}"
    missing = ", ".join(f"{ref.volume}@{ref.id}" for ref in found.missing)
    return f"{others}; not complete, without {missing}" if missing else others
