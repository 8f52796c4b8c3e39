"""Makes the manifest of a volume that was read, and says what its backup cost."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from volferry import __version__
from volferry.archive.index import unread_of
from volferry.archive.manifest import (
    FORMAT_VERSION,
    MOST_FINDINGS,
    ContainerPart,
    CountsPart,
    DumpPart,
    ExcludedPart,
    FindingPart,
    IndexObjectPart,
    IndexPart,
    Manifest,
    PackPart,
    VolumePart,
)
from volferry.label_rights import labels_of_retention
from volferry.model import BackupStats, Finding, Volume, printable
from volferry.operations.suspicion import suspicion

if TYPE_CHECKING:
    from collections.abc import Sequence

    from volferry.archive.digests import ObjectDigest
    from volferry.index_cache import IndexFiles
    from volferry.operations.dumps import TakenDump
    from volferry.operations.volume_pass import Read, Work


@dataclass(frozen=True, slots=True)
class Cost:
    """Of a pass."""

    read_bytes: int = 0
    stored_bytes: int = 0


def with_findings_of_all(
    work: Work,
    found: Read,
    index: IndexFiles,
    stats: BackupStats,
    manifest: Manifest,
    listed_first: Sequence[Finding],
    stood: Sequence[Finding],
) -> tuple[BackupStats, Manifest]:
    """With what is found of the volume as a whole: that it is suspiciously unlike the backup before, in memory, or on a disk that takes
    no more. `listed_first` are findings of a pass before, `stood` those of what came before, and of what was to stand still.
    """
    found_of_all = [*stood]
    if work.settings.suspicious and found.base.newest is not None:
        finding = suspicion(
            work.repository,
            manifest,
            found.base.manifest,
            files=index.files,
            cache=work.state.cache,
            spool=work.spool,
            observer=work.observer,
        )
        found_of_all += [finding] if finding is not None else []
    found_of_all += _volatile(work.volume)
    found_of_all += {each.kind: each for each in [*listed_first, *found.listing.of_all]}.values()
    for each in found_of_all:
        work.observer.finding(each)
    total = stats.findings_total + len(found_of_all)
    # First: of very many, the last are not kept.
    stats = replace(stats, findings=(*found_of_all, *stats.findings)[:MOST_FINDINGS], findings_total=total)
    parts = [FindingPart(kind=each.kind, path="", detail=each.detail) for each in found_of_all]
    findings = (*parts, *manifest.findings)[:MOST_FINDINGS]
    return stats, msgspec.structs.replace(manifest, findings=findings, findings_total=total)


def _volatile(volume: Volume) -> list[Finding]:
    if volume.in_memory:
        return [Finding("volatile", b"", "is in memory, and empty once its last container stops")]
    return []


def stats_of(
    found: Read,
    earlier: Cost,
    digests: tuple[ObjectDigest, ObjectDigest],
    started: float,
    downtime_seconds: float,
    dumps: Sequence[TakenDump],
) -> BackupStats:
    totals = found.reading.totals
    return BackupStats(
        ref=found.ref,
        base=found.base.id,
        entries=totals.entries,
        source_bytes=totals.source_bytes,
        read_bytes=earlier.read_bytes + found.reading.read_bytes,
        stored_bytes=earlier.stored_bytes
        + sum(pack.stored_bytes for pack in found.packs.packs)
        + sum(digest.stored_bytes for digest in digests),
        seconds=round(time.monotonic() - started, 3),
        downtime_seconds=downtime_seconds,
        findings=tuple(found.reading.account.findings),
        findings_total=found.reading.account.findings_total,
        dumps=tuple(dump.file.name for dump in dumps),
    )


def manifest_of(
    work: Work,
    found: Read,
    stats: BackupStats,
    digests: tuple[ObjectDigest, ObjectDigest],
    started_at: datetime,
    consistency: str,
    dumps: Sequence[TakenDump],
) -> Manifest:
    volume, listing = work.volume, found.listing
    kinds = found.reading.totals.kinds
    known = {kind: kinds.get(kind, 0) for kind in (b"f", b"d", b"l")}
    unread_entries, unread_bytes = unread_of(found.checkpoint.group_blocks(), found.reading.zeros_from)
    return Manifest(
        format=FORMAT_VERSION,
        id=stats.ref.id,
        host=stats.ref.host,
        volume=VolumePart(
            name=volume.name,
            driver=volume.driver,
            options=dict(volume.options),
            labels=dict(volume.labels),
            scope=volume.scope,
            created_at=volume.created_at,
            anonymous=volume.anonymous,
        ),
        store_id=work.repository.id,
        base=stats.base,
        written_by=f"volferry {__version__}",
        engine=work.settings.engine,
        started_at=started_at,
        listed_at=listing.at,
        finished_at=datetime.now(UTC),
        seconds=stats.seconds,
        downtime_seconds=stats.downtime_seconds,
        consistency=consistency,
        containers=tuple(
            ContainerPart(
                name=use.container,
                id=use.container_id,
                image=use.image,
                state=use.state,
                destination=use.destination,
                read_write=use.read_write,
                project=use.project,
                labels=labels_of_retention(use),
                image_gone=not use.image_known,
            )
            for use in volume.uses
        ),
        counts=CountsPart(
            entries=stats.entries,
            files=known[b"f"],
            directories=known[b"d"],
            symlinks=known[b"l"],
            others=sum(kinds.values()) - sum(known.values()),
            sockets_left_out=listing.sockets,
            frames=found.assembly.frames,
            source_bytes=stats.source_bytes,
            tar_bytes=found.assembly.tar_bytes,
            read_bytes=stats.read_bytes,
            stored_bytes=stats.stored_bytes,
            unread_entries=unread_entries,
            unread_bytes=unread_bytes,
            unreadable=found.reading.account.unreadable,
        ),
        excluded=ExcludedPart(
            patterns=work.settings.excludes.patterns,
            caches=work.settings.excludes.caches,
            one_file_system=work.settings.one_file_system,
            entries=listing.left_out.entries,
            source_bytes=listing.left_out.source_bytes,
            paths=tuple(printable(path) for path in listing.left_out.paths),
        ),
        dumps=tuple(
            DumpPart(
                name=dump.file.name,
                container=dump.container,
                source_bytes=dump.file.source_bytes,
                seconds=dump.seconds,
            )
            for dump in dumps
        ),
        findings=tuple(
            FindingPart(kind=finding.kind, path=printable(finding.path), detail=finding.detail)
            for finding in stats.findings
        ),
        findings_total=stats.findings_total,
        packs=tuple(PackPart.of(pack) for pack in found.assembly.packs()),
        index=IndexPart(
            frames=IndexObjectPart(stored_bytes=digests[0].stored_bytes, blake3=digests[0].hex),
            files=IndexObjectPart(stored_bytes=digests[1].stored_bytes, blake3=digests[1].hex),
        ),
    )
