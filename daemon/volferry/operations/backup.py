"""Backs up one volume: list it, read it, store packs, index and manifest, in this order."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from volferry.archive.blocks import Fingerprints
from volferry.archive.index import compress_file, distrusted
from volferry.checkpoint import remove_checkpoints
from volferry.index_cache import IndexFiles
from volferry.operations.backup_manifest import Cost, manifest_of, stats_of, with_findings_of_all
from volferry.operations.volume_pass import MOVING, Work, read_volume

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from volferry.engine.helper import HelperInBackground
    from volferry.model import BackupStats, Finding, Volume
    from volferry.observer import Observer
    from volferry.operations.dumps import TakenDump
    from volferry.operations.volume_pass import BackupSettings, Stillness, VolumeState
    from volferry.repository import Repository


def backup_volume(
    volume: Volume,
    *,
    helper: HelperInBackground,
    repository: Repository,
    settings: BackupSettings,
    state: VolumeState,
    spool: Path,
    started: float,
    observer: Observer,
    still: Stillness,
    dumps: Sequence[TakenDump] = (),
    findings: Sequence[Finding] = (),
) -> BackupStats:
    """Reads `volume` through `helper`, which is released once that is done, into `repository`.

    `spool` is a directory for temporary files; the time that it took counts from `started` (of `time.monotonic`), for
    a helper takes its time to come up. `dumps` become files of the backup, `findings` are of what came before. `still` begins just before the volume is listed, and ends with the last byte that is
    read.

    What the newest backup of the volume, or a run that died, has stored is not stored again.
    Raises VolferryError; then there is no backup, and the next run goes on from the packs that were stored.
    """
    started_at = datetime.now(UTC)
    work = Work(volume, helper, repository, settings, state, spool, observer, [dump.file for dump in dumps])
    earlier = Cost()
    known: Fingerprints | None = None
    listed_first: list[Finding] = []  # the kernel says once what it could not write
    if still.warm and not settings.full:
        # Its packs and their checkpoint are the base of what follows, as if it had died.
        known = Fingerprints(spool / "fingerprints")
        with closing(known), read_volume(work, started_at, MOVING, full=False, fingerprints=known) as found:
            listed_first = found.listing.of_all
            earlier = Cost(found.reading.read_bytes, sum(pack.stored_bytes for pack in found.packs.packs))
    with read_volume(work, started_at, still, full=settings.full, known=known) as found:
        # What is left to do needs the store, and the store alone.
        helper.release()
        stood = still.findings()
        observer.phase("storing")
        index = IndexFiles(spool / "frames.zst", spool / "files.zst")
        digests = (
            compress_file(index.frames, found.checkpoint.frame_blocks()),
            compress_file(index.files, distrusted(found.checkpoint.group_blocks(), found.reading.doubted)),
        )
        stats = stats_of(found, earlier, digests, started, still.downtime_seconds, dumps)
        manifest = manifest_of(work, found, stats, digests, started_at, still.mode, dumps)
        stats, manifest = with_findings_of_all(
            work, found, index, stats, manifest, listed_first, [*findings, *stood]
        )
        found.writer.put_index(index.frames, index.files)
        # The last look before it exists: another machine's prune may have had a clock that is wrong.
        repository.require(found.ref, manifest)
        repository.protect(found.ref, manifest)
        found.writer.put_manifest(manifest)
    state.cache.keep(found.ref, index)
    remove_checkpoints(state.checkpoints)
    return stats
