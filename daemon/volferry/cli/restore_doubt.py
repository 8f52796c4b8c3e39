"""Warns before a suspicious backup is restored, and refuses to empty a volume in favour of one that nobody has named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from volferry.cli.output import say
from volferry.cli.session import Session
from volferry.errors import SuspiciousBackup, VolferryError

if TYPE_CHECKING:
    from volferry.model import BackupRef
    from volferry.operations.backup_reader import BackupReader


_NONE_LEFT = "no earlier one that is not is left"


@dataclass(frozen=True, slots=True)
class Doubt:
    """About a backup that nobody has accepted."""

    ref: BackupRef
    finding: str
    good: BackupRef | None  # the last one before it that gives no reason to doubt
    session: Session
    empties: bool  # it has next to nothing of what the one before has, and nobody has named this very backup

    def note(self) -> None:
        """Before anything is written."""
        better = f"the last one that is not: `volferry restore {self.good}`" if self.good else _NONE_LEFT
        say(self.session.typed(f"this backup is {self.finding}; {better}"))

    def check(self, target: str, *, replaces: bool, named: bool) -> None:
        """Raises SuspiciousBackup where next to nothing would replace what a volume holds, though nobody has named the backup; else it is a note."""
        if not (replaces and self.empties):
            self.note()
            return
        options = f"{f' --into {target}' if named else ''} --replace"
        better = (
            f"`volferry restore {self.good}{options}` restores the last one that is not"
            if self.good
            else _NONE_LEFT
        )
        raise SuspiciousBackup(
            self.session.typed(
                f"volume {target} holds data, and the newest backup is {self.finding}: nothing was changed; {better}; "
                f"`volferry restore {self.ref}{options}` restores this one, if it is meant"
            )
        )


def doubt_about(session: Session, backup: BackupReader, name: str, *, deletes_none: bool) -> Doubt | None:
    """About the backup of that `name`, if it is suspicious and nobody has accepted it. Of one that takes the place of no volume's content, a note is
    all that there is to it. Raises StoreError.
    """
    from volferry.layout import parse_backup_name  # noqa: PLC0415
    from volferry.operations.acceptance import accepted_ids, suspicion_in  # noqa: PLC0415

    found = suspicion_in(backup.manifest)
    if found is None:
        return None
    ref = backup.ref
    accepted = accepted_ids(session.repository, ref.host, ref.volume)
    if ref.id in accepted:
        return None
    finding = f"{found.kind}: {found.detail}"
    empties = found.kind == "shrunk" and parse_backup_name(name).id_start is None
    doubt = Doubt(ref, finding, _last_good(session, ref, accepted), session, empties)
    if deletes_none:
        doubt.note()
        return None
    return doubt


def _last_good(session: Session, ref: BackupRef, accepted: set[str]) -> BackupRef | None:
    from volferry.archive.manifest import Manifest  # noqa: PLC0415
    from volferry.damage import Condition  # noqa: PLC0415
    from volferry.operations.acceptance import last_good_before  # noqa: PLC0415
    from volferry.operations.verdicts import unsound_of  # noqa: PLC0415

    repository = session.repository
    try:
        found = repository.manifests(
            host=ref.host, volume=ref.volume, cache=session.manifest_cache(repository)
        )
        manifests = {each: manifest for each, manifest in found if isinstance(manifest, Manifest)}
        hollow, damaged = unsound_of(Condition.of(repository, ref.host, ref.volume), manifests)
    except VolferryError:
        return None  # the restore says it, if it matters
    return last_good_before(ref, manifests, accepted=accepted, unsound={*hollow, *damaged})
