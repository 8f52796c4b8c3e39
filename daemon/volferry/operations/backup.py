"""Backs up volumes that belong together: list them, read them, store packs and indexes, then all manifests, in this order."""

from __future__ import annotations

import sys
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from volferry.archive.blocks import Fingerprints
from volferry.archive.index import compress_file, distrusted
from volferry.archive.manifest import SetPart
from volferry.checkpoint import remove_checkpoints
from volferry.errors import BeginAgain, CommandFailed
from volferry.index_cache import IndexFiles
from volferry.operations.backup_manifest import Cost, manifest_of, stats_of, with_findings_of_all
from volferry.operations.volume_pass import MOVING, Learned, Work, begun, read_volume

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from volferry.archive.manifest import Manifest
    from volferry.engine.helper import HelperInBackground
    from volferry.model import BackupRef, BackupStats, Finding, Volume
    from volferry.observer import Observer
    from volferry.operations.dumps import TakenDump
    from volferry.operations.volume_pass import BackupSettings, Read, Stillness, VolumeState
    from volferry.repository import Repository

_FRAMES = 1000
_FRAMES_OF_ONE = 30


@dataclass(slots=True)
class Part:
    """One volume of a unit. `spool` is a directory of its own for temporary files; `dumps` become files of the backup, `findings` are of what
    came before. Both may be set until everything stands still.
    """

    volume: Volume
    helper: HelperInBackground  # released once its volume was read
    settings: BackupSettings
    state: VolumeState
    spool: Path
    observer: Observer
    dumps: Sequence[TakenDump] = ()
    findings: Sequence[Finding] = ()
    learned: Learned = field(default_factory=Learned)  # by all passes
    # Of the pass before, while it was written to.
    earlier: Cost = field(default_factory=Cost)
    known: Fingerprints | None = None
    listed_first: list[Finding] = field(default_factory=list)  # the kernel says once what it could not write

    def work(self, repository: Repository) -> Work:
        files = [dump.file for dump in self.dumps]
        return Work(
            self.volume,
            self.helper,
            repository,
            self.settings,
            self.state,
            self.spool,
            self.observer,
            files,
            self.learned,
        )


@dataclass(slots=True)
class Unit:
    """Volumes that are read while all that writes to any of them stands still once: their backups are of one moment, and there are all of them or
    none.

    The time that it takes counts from `started` (of `time.monotonic`), for helpers take their time to come up. `still` begins just before the
    first volume is listed, and ends with the last byte that is read of the last one. `before` is called just before that, once there is nothing left to be done
    while they run. `set_id` is in each manifest; None of one volume that belongs to no others.
    """

    parts: Sequence[Part]
    repository: Repository
    started: float
    still: Stillness
    before: Callable[[], object] = lambda: None
    set_id: str | None = None
    # Entered before the first manifest is written, left after the last one.
    around_manifests: Callable[[list[tuple[BackupRef, Manifest]]], AbstractContextManager[None]] = lambda _: (
        nullcontext()
    )
    blamed: str = ""  # the volume for which it has failed; empty where that is none of them
    _found: list[Read] = field(default_factory=list)

    def back_up(self) -> list[BackupStats]:
        """What the newest backup of a volume, or a run that died, has stored is not stored again.

        Raises VolferryError; then there is no backup of any, and the next run goes on from the packs that were stored.
        """
        started_at = datetime.now(UTC)
        if self.still.warm:
            for part in self.parts:
                with self._blaming(part):
                    self._read_moving(part, started_at)
        for part in self.parts[1:]:  # one that is started later would be somebody who writes meanwhile
            with self._blaming(part):
                part.helper.wait()
        self.before()
        # Each of them is read within the one before.
        sys.setrecursionlimit(max(sys.getrecursionlimit(), _FRAMES + _FRAMES_OF_ONE * len(self.parts)))
        with ExitStack() as stack:
            self._read(stack, started_at, 0)
            stood = self.still.findings()
            of_set = self._set_part()
            made = []
            for part, found in zip(self.parts, self._found, strict=True):
                with self._blaming(part):
                    made.append(self._indexed(part, found, started_at, stood, of_set))
            # The last look before they exist: another machine's prune may have had a clock that is wrong.
            for part, found, (_, manifest, _) in zip(self.parts, self._found, made, strict=True):
                with self._blaming(part):
                    self.repository.require(found.ref, manifest)
                    self.repository.protect(found.ref, manifest)
            # If one cannot be put, those that were are taken back with all else that the passes have stored.
            with self.around_manifests([(stats.ref, manifest) for stats, manifest, _ in made]):
                for part, found, (_, manifest, _) in zip(self.parts, self._found, made, strict=True):
                    with self._blaming(part):
                        found.writer.put_manifest(manifest)
        for part, found, (_, _, index) in zip(self.parts, self._found, made, strict=True):
            part.state.cache.keep(found.ref, index)
            remove_checkpoints(part.state.checkpoints)
        return [stats for stats, _, _ in made]

    def _read_moving(self, part: Part, started_at: datetime) -> None:
        """While it is written to. Its packs and their checkpoint are the base of what follows, as if it had died."""
        if part.settings.full:
            return
        known = part.known = Fingerprints(part.spool / "fingerprints")
        work = part.work(self.repository)
        with closing(known), read_volume(work, started_at, MOVING, full=False, fingerprints=known) as found:
            part.listed_first = found.listing.of_all
            stored_bytes = sum(pack.stored_bytes for pack in found.packs.packs)
            part.earlier = Cost(found.reading.read_bytes, stored_bytes)

    def _read(self, stack: ExitStack, started_at: datetime, number: int) -> None:
        """This part's volume, and, while all still stands, those of the ones that follow."""
        part = self.parts[number]
        following = number + 1
        then = (
            partial(self._read_following, stack, started_at, following)
            if following < len(self.parts)
            else None
        )
        with self._blaming(part):
            found = stack.enter_context(
                read_volume(
                    part.work(self.repository),
                    started_at,
                    self.still if number == 0 else begun(self.still),
                    full=part.settings.full,
                    known=part.known,
                    then=then,
                )
            )
        # What is left to do needs the store, and the store alone.
        part.helper.release()
        self._found.insert(0, found)

    def _read_following(self, stack: ExitStack, started_at: datetime, number: int) -> None:
        """Raises no BeginAgain: that would have the volume before read again."""
        try:
            self._read(stack, started_at, number)
        except BeginAgain as error:
            raise CommandFailed(str(error)) from error

    def _indexed(
        self, part: Part, found: Read, started_at: datetime, stood: Sequence[Finding], of_set: SetPart | None
    ) -> tuple[BackupStats, Manifest, IndexFiles]:
        part.observer.phase("storing")
        index = IndexFiles(part.spool / "frames.zst", part.spool / "files.zst")
        digests = (
            compress_file(index.frames, found.checkpoint.frame_blocks()),
            compress_file(index.files, distrusted(found.checkpoint.group_blocks(), found.reading.doubted)),
        )
        work = part.work(self.repository)
        stats = stats_of(found, part.earlier, digests, self.started, self.still.downtime_seconds, part.dumps)
        stats = replace(stats, set_id=self.set_id)
        manifest = manifest_of(work, found, stats, digests, started_at, self.still.mode, part.dumps)
        stats, manifest = with_findings_of_all(
            work, found, index, stats, manifest, part.listed_first, [*part.findings, *stood]
        )
        found.writer.put_index(index.frames, index.files)
        return stats, msgspec.structs.replace(manifest, set=of_set), index

    def _set_part(self) -> SetPart | None:
        if self.set_id is None:
            return None
        return SetPart.of(self.set_id, [found.ref for found in self._found])

    @contextmanager
    def _blaming(self, part: Part) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.blamed = self.blamed or part.volume.name
            raise
