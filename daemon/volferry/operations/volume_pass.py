"""One pass over a volume: list it, read what is not reused, and store its frames in packs."""

from __future__ import annotations

import shutil
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from volferry.archive.excludes import Excludes
from volferry.archive.frames import Frame, ReusedGroup, encode_frames
from volferry.archive.index import FrameLocation
from volferry.archive.packs import PACK_BYTES, PackWriter
from volferry.archive.restore_mark import KnownMarks
from volferry.checkpoint import CheckpointWriter, find_checkpoints, remove_checkpoints
from volferry.errors import BeginAgain, HiddenNames, NeverRead
from volferry.model import BackupRef, Finding, PackInfo, Volume, new_backup_id
from volferry.operations.base import find_base
from volferry.operations.patches import PatchedContent
from volferry.operations.plan import Planner, ReusedFrames
from volferry.operations.volume_listing import Listing, list_volume
from volferry.operations.volume_reading import VolumeReading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from volferry.archive.blocks import Fingerprints
    from volferry.archive.dumps import DumpFile
    from volferry.engine.helper import HelperInBackground
    from volferry.index_cache import IndexCache
    from volferry.observer import Observer
    from volferry.operations.base import Base
    from volferry.operations.plan import Plan
    from volferry.repository import BackupWriter, Repository


_MOST_NEVER_READ = 10


@dataclass(frozen=True, slots=True)
class BackupSettings:
    host: str
    engine: str  # its name and version, for the manifest
    compression_level: int = 1
    excludes: Excludes = field(default_factory=Excludes)
    one_file_system: bool = False  # leave out what is mounted below the volume's directory
    full: bool = False  # read everything, also what has not changed
    pack_bytes: int = PACK_BYTES
    suspicious: bool = True  # compare the backup with the one before
    marks: KnownMarks = field(default_factory=KnownMarks)  # that keep the volume from being backed up


@dataclass(frozen=True, slots=True)
class VolumeState:
    """What this machine keeps of one volume in one store. Losing it costs time, nothing else."""

    checkpoints: Path
    cache: IndexCache


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

    def findings(self) -> list[Finding]:
        """What kept it from standing still, once it has ended. Raises DowntimeExceeded where it was not read by then."""


class _Moving:
    """Nothing keeps it from that."""

    mode = "none"
    warm = False
    downtime_seconds = 0.0

    def begin(self) -> None:
        pass

    def end(self) -> None:
        pass

    def findings(self) -> list[Finding]:
        return []


MOVING: Stillness = _Moving()


def begun(still: Stillness) -> Stillness:
    """What stands still already."""
    return _Begun(still)


class _Begun:
    def __init__(self, still: Stillness) -> None:
        self._still = still
        self.mode = still.mode
        self.warm = still.warm
        self.end = still.end
        self.findings = still.findings

    @property
    def downtime_seconds(self) -> float:
        return self._still.downtime_seconds

    def begin(self) -> None:
        pass


@dataclass(slots=True)
class Learned:
    """What passes have found out of the volume's file system."""

    never_read: dict[bytes, str] = field(
        default_factory=dict
    )  # by path, entries at which `tar` does not go on
    distrusted: bool = False  # `find` does not see all names
    passes: set[str] = field(default_factory=set)  # ids of those so far


@dataclass(frozen=True, slots=True)
class Work:
    """What a pass over the volume needs."""

    volume: Volume
    helper: HelperInBackground
    repository: Repository
    settings: BackupSettings
    state: VolumeState
    spool: Path
    observer: Observer
    dumps: Sequence[DumpFile]
    learned: Learned = field(default_factory=Learned)


@dataclass(frozen=True, slots=True)
class Read:
    """A volume whose frames are all in packs; what it lacks for a backup is index and manifest."""

    ref: BackupRef
    base: Base
    listing: Listing
    reading: VolumeReading
    assembly: Assembly
    packs: PackWriter
    checkpoint: CheckpointWriter
    writer: BackupWriter


@contextmanager
def read_volume(
    work: Work,
    started_at: datetime,
    still: Stillness,
    *,
    full: bool,
    fingerprints: Fingerprints | None = None,
    known: Fingerprints | None = None,
    then: Callable[[], object] | None = None,
) -> Iterator[Read]:
    """One pass. What it has stored is dropped if the block fails, but for packs that the next run can go on from.

    With `fingerprints`, these are taken of large files that are read. With those of the pass before (`known`), what changed since is
    first taken into the spool, and `still` ends then. With `then`, that is called once the volume was read, in place of `still.end`, for other volumes
    that are read in the same stillness. At an entry at which `tar` does not go on, all is listed and read again without it, and where `find` does not see all names, in another
    way; `still` goes on.
    """
    with ExitStack() as tried:
        tried.callback(still.end)
        stillness, tries = still, 0
        found: Read | None = None
        while found is None:
            attempt = _attempt(
                work, started_at, stillness, full=full, fingerprints=fingerprints, known=known, then=then
            )
            try:
                found = tried.enter_context(attempt)
            except NeverRead as error:
                tries += 1
                if tries > _MOST_NEVER_READ or error.details.keys() <= work.learned.never_read.keys():
                    raise
                work.learned.never_read.update(error.details)
            except HiddenNames:
                work.learned.distrusted = True
            stillness = begun(still)
        yield found


@contextmanager
def _attempt(
    work: Work,
    started_at: datetime,
    still: Stillness,
    *,
    full: bool,
    fingerprints: Fingerprints | None,
    known: Fingerprints | None,
    then: Callable[[], object] | None,
) -> Iterator[Read]:
    """As `read_volume`, but that `still` goes on at BeginAgain."""
    was_read = _Once(then or still.end)
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
        own=work.learned.passes,
    )
    ref = BackupRef(work.settings.host, volume.name, new_backup_id(started_at, newest=base.newest))
    work.learned.passes.add(ref.id)
    planner = Planner(base, full=full)  # before the wait: it reads ahead
    observer.phase("listing")
    running = work.helper.wait()
    with _until_read(still):
        listing = list_volume(
            running,
            volume,
            work.spool,
            planner,
            work.settings.excludes,
            work.dumps,
            observer,
            one_file_system=work.settings.one_file_system,
            distrusted=work.learned.distrusted,
            marks=work.settings.marks.of(volume.name, work.repository.id),
        )
        if not listing.read.entries:
            was_read()
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
                reading = VolumeReading(listing, checkpoint, work.dumps, observer)
                reading.fingerprints = fingerprints
                reading.leave_out(work.learned.never_read)
                if (
                    known is not None
                    and listing.read.entries
                    and base.sources
                    and _has_room(work.spool, listing)
                ):
                    content = PatchedContent(
                        running, running.directory(volume.name), known, base.sources[-1], work.repository, ref
                    )
                    reading.capture(running, volume, work.spool, content)
                    was_read()
                    observer.phase(
                        "storing", total_bytes=listing.read.source_bytes, total_entries=listing.read.entries
                    )
                assembly = Assembly(base, listing.plan, packs, checkpoint)
                # With others to come, all of it is stored first: as much of each would be held in memory otherwise.
                on_end = was_read if then is None else _nothing
                with (
                    closing(reading.frames(running, volume, on_end=on_end)) as raw_frames,
                    closing(
                        encode_frames(raw_frames, level=work.settings.compression_level, known=base.known)
                    ) as encoded,
                ):
                    for item in encoded:
                        assembly.add(item)
                checkpoint.all_there()
                packs.finish()
                checkpoint.finish()
                was_read()
                yield Read(ref, base, listing, reading, assembly, packs, checkpoint, writer)
            except BaseException as error:
                if not isinstance(error, BeginAgain):
                    still.end()  # first: what follows asks the store, which may be what failed
                packs.abort()
                writer.discard(but_packs=bool(packs.packs))
                if not packs.packs:
                    remove_checkpoints(checkpoints / ref.id)
                raise


def _nothing() -> None:
    pass


class _Once:
    """Calls something, the first time."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call: Callable[[], object] | None = call

    def __call__(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call()


def _has_room(spool: Path, listing: Listing) -> bool:
    """Whether all that is to be read can be put aside."""
    return shutil.disk_usage(spool).free > 2 * listing.read.source_bytes


@contextmanager
def _until_read(still: Stillness) -> Iterator[None]:
    try:
        still.begin()
        yield
    except BeginAgain:
        raise
    except BaseException:
        still.end()
        raise
    still.end()


class Assembly:
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
        elif item.stored and (self._packs.is_open or bytes.fromhex(item.digest) not in self._base.known):
            # The end of the archive, too, where a pack is written anyway: or it would keep an old one that nothing else needs.
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
