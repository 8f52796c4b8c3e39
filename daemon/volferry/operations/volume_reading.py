"""Reads what is not reused of one volume that was listed, as a tar stream."""

from __future__ import annotations

import io
from collections import deque
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from volferry.archive.alignment import ANCHOR, Apart, align, names_of_one
from volferry.archive.alone import AloneStream, SeriesStream
from volferry.archive.dumps import DumpFile, dump_frames
from volferry.archive.frames import ReusedGroup
from volferry.archive.listing import NANOSECONDS, UNTRUSTED, Entry, nanoseconds, parse_record
from volferry.archive.streambuffer import SEGMENT_BYTES
from volferry.archive.tarlog import NEVER_READ, TarLog
from volferry.archive.tarstream import END_OF_ARCHIVE, TarReader
from volferry.errors import CommandFailed, NeverRead
from volferry.operations.ends import exhausting, leave_out_endless, look_at_ends
from volferry.operations.patches import PatchedContent, take_patches
from volferry.operations.reading_account import ReadingAccount
from volferry.operations.tars import Tars
from volferry.operations.volume_listing import Totals

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Generator, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from volferry.archive.blocks import Fingerprints
    from volferry.checkpoint import CheckpointWriter
    from volferry.engine.channel import Process
    from volferry.engine.helper import Helper
    from volferry.model import Volume
    from volferry.observer import Observer
    from volferry.operations.volume_listing import Listing

_READ_BYTES = 1 << 20
_PROGRESS_ENTRIES = 256


class VolumeReading:
    """Reads what is to be read, and keeps account of all entries in the checkpoint."""

    def __init__(
        self, listing: Listing, checkpoint: CheckpointWriter, dumps: Sequence[DumpFile], observer: Observer
    ) -> None:
        self._listing = listing
        self._dumps = dumps
        self._checkpoint = checkpoint
        self._observer = observer
        self._log = TarLog(checkpoint.doubt)
        self.account = ReadingAccount(listing, self._log, observer)
        self._newest_trusted = listing.trusted_seconds * NANOSECONDS
        self._groups = listing.groups()
        self._recorded = -1  # the entries of groups up to this one are in the checkpoint, if they are reused
        self._ready: deque[int] = deque()  # of those, and of dumps, the groups that have not been passed on
        self._dump_paths: dict[int, bytes] = {}
        self._captured: Path | None = None
        self._captured_series: Path | None = None
        # Of what has no member in the common stream; None for a name of a file that has an earlier one.
        self._captured_apart: dict[bytes, Path | None] = {}
        self._content: PatchedContent | None = None
        self.fingerprints: Fingerprints | None = (
            None  # of large files that are read, where somebody wants them
        )
        self._exhausting: Callable[[], dict[bytes, str]] = dict
        self._read = Totals()
        self.read_bytes = 0

    def leave_out(self, never_read: Mapping[bytes, str]) -> None:
        """Entries by their paths that cannot be read, each with the reason, and would hold up all others."""
        for path, detail in never_read.items():
            if self._listing.entry_asked(path) is not None:
                self._listing.endless.add(path)
                self._log.spoil(path, detail)

    @property
    def totals(self) -> Totals:
        totals = Totals()
        for part in (self._read, self._listing.reused):
            totals.add(part.entries, part.source_bytes, part.kinds)
        return totals

    @property
    def doubted(self) -> set[bytes]:
        """Paths of entries that may not be in the backup as they are in the volume."""
        return self._log.doubted

    @property
    def zeros_from(self) -> dict[bytes, int]:
        """From which byte on a file has zeros for what could not be read; negative: so many bytes before its end."""
        return self._log.zeros_from

    def capture(self, helper: Helper, volume: Volume, spool: Path, content: PatchedContent | None) -> None:
        """Takes all that is to be read into `spool`; what becomes of it then costs the volume no time any longer. With `content`,
        of large files only the blocks that changed, where the file system's word is taken for what is a hole.

        Raises CommandFailed if anything but a finding was in the way.
        """
        directory = helper.directory(volume.name)
        if content is not None and self._listing.holes:  # patches pass over what is a hole
            apart = self._listing.apart
            asked = {
                entry.path: group
                for group, entry in self._listing.asked()
                if group != ANCHOR and entry.path not in apart and content.may_be_patched(entry)
            }
            entries = [entry for _, entry in self._listing.asked() if entry.path in asked]
            patches = take_patches(helper, directory, entries, content.known, spool)
            self._listing.patched = {asked[patch.entry.path]: patch for patch in patches}
            self._content = content
        self._captured = spool / "captured"
        self._exhausting = partial(exhausting, helper, directory, self._listing.paths_asked)
        leave_out_endless(helper, directory, self._listing, self._log)
        tars = self._tars(helper, directory)
        with tars.common() as process:
            self._capture(process, self._captured)
        if tars.has_series:
            self._captured_series = spool / "captured-series"
            with tars.series() as process:
                self._capture(process, self._captured_series)
        names = self._listing.names
        for first, some in names_of_one(self._listing.asked_apart(), names.later):
            entries = [entry for _, entry in some]
            same = names.same(helper, directory, first, entries) if first else ()
            for entry in entries:
                path = None if entry.path in same else spool / f"captured.{len(self._captured_apart)}"
                self._captured_apart[entry.path] = path
                if path is not None:
                    self._capture(tars.alone(entry), path)
        look_at_ends(helper, directory, self._listing, self._log)

    def _capture(self, process: Process, path: Path) -> None:
        with path.open("wb", buffering=0) as file:
            while data := process.read(_READ_BYTES):
                file.write(data)
        self._check(process.wait())

    def _tars(self, helper: Helper, directory: str) -> Tars:
        return Tars(helper, directory, self._listing, self._log.line, self._check)

    def frames(
        self, helper: Helper, volume: Volume, *, on_end: Callable[[], object]
    ) -> Generator[tuple[int, bytes | memoryview] | ReusedGroup, None, None]:
        """The raw frames of what is read and, in their places, the groups that are reused; last, in a group of its
        own, the end-of-archive marker. `on_end` is called once the last byte of the volume has been read.

        Raises CommandFailed if anything but a finding was in the way.
        """
        if self._listing.read.entries:
            for group, raw in (
                self._frames_captured() if self._captured else self._frames_read(helper, volume)
            ):
                yield from self._others_before(group)
                yield group, raw
        on_end()
        last = len(self._listing.plan.sources)
        yield from self._others_before(last)
        yield last, END_OF_ARCHIVE
        captured = self._captured_apart.items()
        self.account.settle(self.totals.kinds, {path for path, capture in captured if capture is None})

    def _frames_read(self, helper: Helper, volume: Volume) -> Iterator[tuple[int, memoryview]]:
        directory = helper.directory(volume.name)
        self._exhausting = partial(exhausting, helper, directory, self._listing.paths_asked)
        leave_out_endless(helper, directory, self._listing, self._log)
        tars = self._tars(helper, directory)
        with tars.common() as process, tars.series_stream() as series:
            reader = TarReader(process.read_into, segment_bytes=SEGMENT_BYTES)
            try:
                yield from self._aligned(
                    reader,
                    partial(self._opened_alone, tars, series),
                    partial(self._listing.names.same, helper, directory),
                )
            except CommandFailed:
                # Why the stream broke off is in tar's own words, if it had any. One that did not end is not waited
                # for: nobody reads it any longer.
                if reader.at_end:
                    self._check(process.wait())
                raise
            self.read_bytes += reader.bytes_read + (series.reader.bytes_read if series else 0)
            self._check(process.wait())
        look_at_ends(helper, directory, self._listing, self._log)

    def _frames_captured(self) -> Iterator[tuple[int, memoryview]]:
        assert self._captured is not None  # noqa: S101 -- that is when this is called
        with ExitStack() as stack:

            def opened(path: Path) -> Callable[[memoryview], int]:
                file = stack.enter_context(path.open("rb", buffering=0))
                return lambda view: file.readinto(view) or 0

            reader = TarReader(opened(self._captured), segment_bytes=SEGMENT_BYTES)
            series = SeriesStream(opened(self._captured_series)) if self._captured_series else None
            same = {path for path, captured in self._captured_apart.items() if captured is None}
            yield from self._aligned(reader, partial(self._opened_capture, series), lambda *_: same)
            self.read_bytes += reader.bytes_read + (series.reader.bytes_read if series else 0)

    @contextmanager
    def _opened_capture(
        self, series: SeriesStream | None, _group: int, entry: Entry
    ) -> Iterator[AloneStream | SeriesStream]:
        if series is not None and self._listing.names.in_series(entry):
            yield series
            return
        path = self._captured_apart.get(entry.path)
        if entry.path not in self._captured_apart:
            self._log.spoil(
                entry.path, "could not be read: it became, for `tar`, another name of a file meanwhile"
            )
        if path is None:  # its earlier name could not be read, which is said of that
            yield AloneStream(io.BytesIO(END_OF_ARCHIVE).readinto)
            return
        with path.open("rb", buffering=0) as file:
            stream = AloneStream(lambda view: file.readinto(view) or 0)
            yield stream
            self.read_bytes += stream.reader.bytes_read

    @contextmanager
    def _opened_alone(
        self, tars: Tars, series: SeriesStream | None, _group: int, entry: Entry
    ) -> Iterator[AloneStream | SeriesStream]:
        if series is not None and self._listing.names.in_series(entry):
            yield series
            return
        process = tars.alone(entry)
        stream = AloneStream(process.read_into)
        try:
            yield stream
        except CommandFailed:
            if stream.reader.at_end:  # it broke off, as the common one does
                self._check(process.wait())
            raise
        while process.read(_READ_BYTES):
            pass
        self.read_bytes += stream.reader.bytes_read
        self._check(process.wait())

    def _aligned(
        self,
        reader: TarReader,
        opened: Callable[[int, Entry], AbstractContextManager[AloneStream | SeriesStream]],
        same: Callable[[bytes, Sequence[Entry]], Container[bytes]],
    ) -> Iterator[tuple[int, memoryview]]:
        return align(
            reader,
            self._listing.asked(),
            stored=self._stored,
            missing=self.account.note_missing,
            reused_below=self.account.is_reused_below,
            as_listed=self.account.is_broken,
            is_unread=self.account.is_unread,
            watch=self.fingerprints.watch if self.fingerprints is not None else lambda *_: None,
            apart=Apart(
                self._listing.apart,
                self._listing.names.later,
                same,
                opened,
                self._log.tear,
                self._log.spoil,
                in_series=self._listing.names.in_series,
            ),
        )

    def _frames_patched(self, group: int) -> Iterator[tuple[int, memoryview]]:
        assert self._content is not None  # noqa: S101 -- no patches without it
        patch = self._listing.patched[group]
        reader = self._content.reader(patch)
        yield from align(
            reader, iter([(group, patch.entry)]), stored=lambda *_: None, missing=lambda *_: None
        )
        self.read_bytes += reader.bytes_read

    def _others_before(self, group: int) -> Iterator[tuple[int, memoryview] | ReusedGroup]:
        """What `tar` was not asked for, before `group`, and has not been passed on: reused groups, dumps, patched files."""
        self._record_others_before(group)
        while self._ready and self._ready[0] < group:
            number = self._ready.popleft()
            if number in self._listing.dumped:
                yield from dump_frames(self._dumps, self._dump_paths.pop(number), number)
            elif number in self._listing.patched:
                yield from self._frames_patched(number)
            else:
                yield ReusedGroup(number)

    def _record_others_before(self, group: int) -> None:
        """Their entries: those of `group` come next."""
        while self._recorded < group - 1:
            self._recorded, records = next(self._groups, (group - 1, []))
            if not records:
                continue
            if self._recorded in self._listing.dumped:
                (entry,) = (parse_record(record) for record in records)
                self._dump_paths[self._recorded] = entry.path
                self._read.add(1, entry.size, {entry.kind: 1})
            elif self._recorded in self._listing.patched:
                (entry,) = (self._trusted(parse_record(record)) for record in records)
                records = [entry.record]
                self._count(entry)
            elif self._listing.plan.is_read(self._recorded):
                continue
            self._checkpoint.group(self._recorded, records)
            self._ready.append(self._recorded)

    def _stored(self, group: int, entry: Entry) -> None:
        self._record_others_before(group)
        entry = self._trusted(entry)
        self._checkpoint.entry(group, entry.record)
        self._count(entry)

    def _trusted(self, entry: Entry) -> Entry:
        """Without its change time, if that cannot be relied on."""
        stat = entry.stat
        if stat.ctime != UNTRUSTED and (
            nanoseconds(stat.ctime) >= self._newest_trusted or nanoseconds(stat.mtime) >= self._newest_trusted
        ):
            # It could change again within the same tick of the clock, and look as if it had not.
            return Entry(entry.path, b" ".join(stat._replace(ctime=UNTRUSTED)))
        return entry

    def _count(self, entry: Entry) -> None:
        size = entry.size
        self._read.add(1, size, {entry.kind: 1})
        if self._read.entries % _PROGRESS_ENTRIES == 0 or size > _READ_BYTES:
            self._observer.advance(done_bytes=self._read.source_bytes, done_entries=self._read.entries)

    def _check(self, status: int) -> None:
        if (why := self._log.why_failed(status)) is not None:
            if self._log.never_read:
                raise NeverRead({self._log.never_read: NEVER_READ}, why)
            if self._log.is_out_of_memory and (details := self._exhausting()):
                raise NeverRead(details, why)
            raise CommandFailed(why)
