"""The state of the store for `status`: backups that need missing or damaged objects, and how far verifying is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from volferry.cli.surroundings import zone_of
from volferry.cli.text import local_time_text, size_text
from volferry.errors import DamagedObject, NoSuchStore, VolferryError
from volferry.model import BackupRef
from volferry.schedule import due
from volferry.verification_log import VerificationLog

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from volferry.cli.session import Session
    from volferry.damage import Trouble
    from volferry.history import PastRun
    from volferry.schedule import Due
    from volferry.verification_log import VerifyRun


@dataclass(frozen=True, slots=True)
class StoredOfHost:
    """By a LIST of the store."""

    newest: dict[str, BackupRef] = field(
        default_factory=dict
    )  # of each volume, also one that is in `troubles`
    troubles: dict[BackupRef, Trouble] = field(
        default_factory=dict
    )  # of those that cannot be restored as a whole
    unknown: str = ""  # why nothing is known


def stored_of_host(session: Session, done: Mapping[str, str], *, needs_store: bool) -> StoredOfHost:
    """The backups of this host. Of `done`, ids of the last backups by their volumes, those are in trouble that the store does not have, nor a newer
    one: the newest is never let go. Raises UnknownStore where the store is needed: else there may be none yet.
    """
    from volferry.archive.manifest import Manifest  # noqa: PLC0415
    from volferry.damage import Condition, Trouble, next_step_of_manifest, troubled  # noqa: PLC0415
    from volferry.layout import manifest_key  # noqa: PLC0415
    from volferry.operations.verdicts import newest_of  # noqa: PLC0415

    try:
        repository, host = session.repository, session.host
        found = repository.manifests(host=host, cache=session.manifest_cache(repository))
        backups = [(ref, manifest) for ref, manifest in found if isinstance(manifest, Manifest)]
        troubles = troubled(repository, Condition.of(repository, host), backups) if backups else {}
        refs = [ref for ref, _ in found]
        whole = [ref for ref, _ in backups if ref not in troubles]
        for ref, manifest in found:
            if isinstance(manifest, DamagedObject):
                step = next_step_of_manifest(ref, refs, whole)
                key = manifest_key(ref)
                troubles[ref] = Trouble({key: str(manifest).removeprefix(f"{key} ")}, next_step=step)
        gone = session.lost(refs, host)
        there = {ref.volume: ref for ref in newest_of([*refs, *gone])}
        for volume, backup in done.items():
            if volume not in there or backup > there[volume].id:
                ref = BackupRef(host, volume, backup)
                step = next_step_of_manifest(ref, refs, whole)
                troubles[ref] = Trouble({manifest_key(ref): "is missing"}, next_step=step)
        return StoredOfHost(there, troubles | gone)
    except NoSuchStore:
        if needs_store:
            raise
        return StoredOfHost()
    except VolferryError as error:
        return StoredOfHost(unknown=str(error))


def accepted_volumes(session: Session, runs: Iterable[PastRun]) -> set[str]:
    """Those of which the backup of the run was suspicious, and a person has accepted it; none where the store cannot say."""
    from volferry.operations.acceptance import accepted_ids  # noqa: PLC0415 -- slow to import

    try:
        return {
            run.volume
            for run in runs
            if run.good
            and run.findings
            and run.backup in accepted_ids(session.repository, run.host, run.volume)
        }
    except VolferryError:
        return set()


class VerifyStatus:
    """Of what the daemon, or `verify --share`, reads again."""

    def __init__(self, session: Session, now: datetime, stored: StoredOfHost) -> None:
        log = VerificationLog(session.config.state_dir, session.config.store_config.place)
        recent = log.recent(1)
        self.last: VerifyRun | None = recent[0] if recent else None
        # By the store as it is now: of those that the share found, each was mended or forgotten since.
        self.over = bool(
            self.last and self.last.outcome == "hurt" and self.last.listed
            and not stored.unknown and not stored.troubles
        )  # fmt: skip
        self._volumes = log.volumes()
        self._schedule = session.config.verify.schedule
        self._due: Due | None = None
        if self._schedule is not None:
            done = log.last_done()
            self._due = due(
                self._schedule,
                done.ended if done else None,
                now,
                zone_of(session.config),
                seen=log.since("", now),
            )

    @property
    def late(self) -> bool:
        return self._due is not None and self._due.late

    @property
    def bad(self) -> bool:
        return self.late or (
            self.last is not None and self.last.outcome == "failed" and self._schedule is not None
        )

    def verified(self, volume: str) -> datetime | None:
        """Since when each object that its newest backup needs was read whole, or written."""
        return self._volumes[volume].oldest if volume in self._volumes else None

    @property
    def document(self) -> dict[str, Any]:
        last = self.last
        return {
            "schedule": self._schedule,
            "last": {
                "began": last.began.isoformat(),
                "ended": last.ended.isoformat(),
                "outcome": last.outcome,
                "objects": last.objects,
                "read_bytes": last.read_bytes,
                "total_bytes": last.total_bytes,
                "error": last.error,
                "over": self.over,
            }
            if last
            else None,
            "next": self._due.at.isoformat() if self._due else None,
            "late": self._due.late if self._due else None,
        }

    def lines(self, now: datetime) -> list[str]:
        """For a person; nothing where nothing was ever verified, nor is to be."""
        found = []
        if self.last is not None:
            last = self.last
            found.append(
                f"Verified: {local_time_text(last.began)}, {last.outcome}, {size_text(last.read_bytes)} "
                f"of {size_text(last.total_bytes)} read{f': {last.error}' if last.error else ''}"
                f"{'; no backup is hurt any longer' if self.over else ''}"
            )
        if self._due is not None:
            when = "now" if self._due.at <= now else local_time_text(self._due.at)
            found.append(f"Next to be verified: {when}{' (late)' if self._due.late else ''}")
        return found
