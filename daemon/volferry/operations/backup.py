"""Backs up one volume: list it, read it, store packs, index and manifest, in this order."""

from __future__ import annotations

import time
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from volferry import __version__
from volferry.archive.excludes import Excludes
from volferry.archive.frames import Frame, ReusedGroup, encode_frames
from volferry.archive.index import FrameLocation, compress_file, distrusted
from volferry.archive.manifest import (
    FORMAT_VERSION,
    ContainerPart,
    CountsPart,
    ExcludedPart,
    FindingPart,
    IndexObjectPart,
    IndexPart,
    Manifest,
    PackPart,
    VolumePart,
)
from volferry.archive.packs import PACK_BYTES, PackWriter
from volferry.checkpoint import CheckpointWriter, find_checkpoints, remove_checkpoints
from volferry.index_cache import IndexFiles
from volferry.model import BackupRef, BackupStats, PackInfo, Volume, new_backup_id, printable
from volferry.operations.base import find_base
from volferry.operations.plan import Planner, ReusedFrames
from volferry.operations.volume_reading import Listing, VolumeReading, list_volume

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from volferry.archive.digests import ObjectDigest
    from volferry.engine.helper import HelperInBackground
    from volferry.index_cache import IndexCache
    from volferry.observer import Observer
    from volferry.operations.base import Base
    from volferry.operations.plan import Plan
    from volferry.repository import BackupWriter, Repository


@dataclass(frozen=True, slots=True)
class BackupSettings:
    host: str
    engine: str  # its name and version, for the manifest
    compression_level: int = 1
    excludes: Excludes = field(default_factory=Excludes)
    full: bool = False  # read everything, also what has not changed
    pack_bytes: int = PACK_BYTES


@dataclass(frozen=True, slots=True)
class VolumeState:
    """What this machine keeps of one volume in one store. Losing it costs time, nothing else."""

    checkpoints: Path
    cache: IndexCache


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
) -> BackupStats:
    """Reads `volume` through `helper`, which is released once that is done, into `repository`.

    `spool` is a directory for temporary files; the time that it took counts from `started` (of `time.monotonic`), for
    a helper takes its time to come up. `still` begins just before the volume is listed, and ends with the last byte that is
    read.

    What the newest backup of the volume, or a run that died, has stored is not stored again.
    Raises VolferryError; then there is no backup, and the next run goes on from the packs that were stored.
    """
    started_at = datetime.now(UTC)
    work = _Work(volume, helper, repository, settings, state, spool, observer)
    earlier = _Cost()
    if still.warm and not settings.full:
        # Its packs and their checkpoint are the base of what follows, as if it had died.
        with _read(work, started_at, MOVING, full=False) as found:
            earlier = _Cost(found.reading.read_bytes, sum(pack.stored_bytes for pack in found.packs.packs))
    with _read(work, started_at, still, full=settings.full) as found:
        # What is left to do needs the store, and the store alone.
        helper.release()
        observer.phase("storing")
        index = IndexFiles(spool / "frames.zst", spool / "files.zst")
        digests = (
            compress_file(index.frames, found.checkpoint.frame_blocks()),
            compress_file(index.files, distrusted(found.checkpoint.group_blocks(), found.reading.torn)),
        )
        stats = _stats(found, earlier, digests, started, still.downtime_seconds)
        manifest = _manifest(work, found, stats, digests, started_at, still.mode)
        found.writer.put_index(index.frames, index.files)
        # The last look before it exists: another machine's prune may have had a clock that is wrong.
        repository.require(found.ref, manifest)
        repository.protect(found.ref, manifest)
        found.writer.put_manifest(manifest)
    state.cache.keep(found.ref, index)
    remove_checkpoints(state.checkpoints)
    return stats


class Stillness(Protocol):
    """What keeps a volume from changing while it is read."""

    @property
    def mode(self) -> str:
        """As the manifest has it."""

    @property
    def warm(self) -> bool:
        """Whether the volume is to be read once before, too."""

    @property
    def downtime_seconds(self) -> float: ...

    def begin(self) -> None:
        """Raises VolferryError."""

    def end(self) -> None:
        """May be called more than once, also before `begin`."""


class _Moving:
    """Nothing keeps it from that."""

    mode = "none"
    warm = False
    downtime_seconds = 0.0

    def begin(self) -> None:
        pass

    def end(self) -> None:
        pass


MOVING: Stillness = _Moving()


@dataclass(frozen=True, slots=True)
class _Work:
    """What a pass over the volume needs."""

    volume: Volume
    helper: HelperInBackground
    repository: Repository
    settings: BackupSettings
    state: VolumeState
    spool: Path
    observer: Observer


@dataclass(frozen=True, slots=True)
class _Cost:
    """Of a pass."""

    read_bytes: int = 0
    stored_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Read:
    """A volume whose frames are all in packs; what it lacks for a backup is index and manifest."""

    ref: BackupRef
    base: Base
    listing: Listing
    reading: VolumeReading
    assembly: _Assembly
    packs: PackWriter
    checkpoint: CheckpointWriter
    writer: BackupWriter


@contextmanager
def _read(work: _Work, started_at: datetime, still: Stillness, *, full: bool) -> Iterator[_Read]:
    """One pass. What it has stored is dropped if the block fails, but for packs that the next run can go on from."""
    volume, observer, checkpoints = work.volume, work.observer, work.state.checkpoints
    base = find_base(
        work.repository,
        work.settings.host,
        volume.name,
        cache=work.state.cache,
        checkpoints=find_checkpoints(checkpoints),
        excludes=work.settings.excludes,
        spool=work.spool,
        observer=observer,
    )
    ref = BackupRef(work.settings.host, volume.name, new_backup_id(started_at, newest=base.newest))
    planner = Planner(base, full=full)  # before the wait: it reads ahead
    observer.phase("listing")
    running = work.helper.wait()
    with _until_read(still):
        listing = list_volume(running, volume, work.spool, planner, work.settings.excludes, observer)
        if not listing.read.entries:
            still.end()
        observer.phase("reading", total_bytes=listing.read.source_bytes, total_entries=listing.read.entries)
        writer = work.repository.writer(ref)
        with CheckpointWriter(
            checkpoints / ref.id, packs=base.packs, excludes=work.settings.excludes
        ) as checkpoint:
            packs = PackWriter(
                ref.id,
                writer.open_pack,
                on_committed=checkpoint.pack_committed,
                pack_bytes=work.settings.pack_bytes,
            )
            try:
                reading = VolumeReading(listing, checkpoint, observer)
                assembly = _Assembly(base, listing.plan, packs, checkpoint)
                with (
                    closing(reading.frames(running, volume, on_end=still.end)) as raw_frames,
                    closing(
                        encode_frames(raw_frames, level=work.settings.compression_level, known=base.known)
                    ) as encoded,
                ):
                    for item in encoded:
                        assembly.add(item)
                packs.finish()
                checkpoint.finish()
                yield _Read(ref, base, listing, reading, assembly, packs, checkpoint, writer)
            except BaseException:
                still.end()  # first: what follows asks the store, which may be what failed
                packs.abort()
                writer.discard(but_packs=bool(packs.packs))
                if not packs.packs:
                    remove_checkpoints(checkpoints / ref.id)
                raise


@contextmanager
def _until_read(still: Stillness) -> Iterator[None]:
    try:
        still.begin()
        yield
    finally:
        still.end()


class _Assembly:
    """Puts the frames of the new index together: new ones go into packs, known and reused ones are referred to."""

    def __init__(self, base: Base, plan: Plan, packs: PackWriter, checkpoint: CheckpointWriter) -> None:
        self._base = base
        self._packs = packs
        self._checkpoint = checkpoint
        self._reused = ReusedFrames(base, plan)
        self._live_bytes: dict[str, int] = {}
        self.frames = 0
        self.tar_bytes = 0

    def add(self, item: Frame | ReusedGroup) -> None:
        """Raises ValueError if the base turns out to be damaged."""
        if isinstance(item, ReusedGroup):
            for location in self._reused.of(item.number):
                self._place(location)
        elif item.stored:
            self._place(self._packs.add(item))
        else:
            known = self._base.known[bytes.fromhex(item.digest)]
            self._place(
                FrameLocation(
                    item.group, known.pack, known.offset, known.stored_bytes, item.raw_bytes, item.digest
                )
            )

    def _place(self, location: FrameLocation) -> None:
        self._checkpoint.frame(location)
        self._live_bytes[location.pack] = self._live_bytes.get(location.pack, 0) + location.stored_bytes
        self.frames += 1
        self.tar_bytes += location.raw_bytes

    def packs(self) -> list[PackInfo]:
        """Every pack that the backup refers to, with what it needs of it (a frame that is met twice counts twice,
        up to the size of the pack).
        """
        known = {**self._base.packs, **{pack.name: pack for pack in self._packs.packs}}
        return [
            PackInfo(
                name, known[name].stored_bytes, min(live_bytes, known[name].stored_bytes), known[name].digest
            )
            for name, live_bytes in sorted(self._live_bytes.items())
        ]


def _stats(
    found: _Read,
    earlier: _Cost,
    digests: tuple[ObjectDigest, ObjectDigest],
    started: float,
    downtime_seconds: float,
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
        findings=tuple(found.reading.findings),
        findings_total=found.reading.findings_total,
    )


def _manifest(
    work: _Work,
    found: _Read,
    stats: BackupStats,
    digests: tuple[ObjectDigest, ObjectDigest],
    started_at: datetime,
    consistency: str,
) -> Manifest:
    volume, listing = work.volume, found.listing
    kinds = found.reading.totals.kinds
    known = {kind: kinds.get(kind, 0) for kind in (b"f", b"d", b"l")}
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
                labels={key: value for key, value in use.labels.items() if key.startswith("volferry.")},
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
        ),
        excluded=ExcludedPart(
            patterns=work.settings.excludes.patterns,
            caches=work.settings.excludes.caches,
            entries=listing.left_out.entries,
            source_bytes=listing.left_out.source_bytes,
            paths=tuple(printable(path) for path in listing.left_out.paths),
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
