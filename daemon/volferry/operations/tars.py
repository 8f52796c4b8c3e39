"""The processes of `tar` that read a volume: the common one, one for what that would take for names of other files, and those of single files."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from volferry.archive.alone import SeriesStream
from volferry.archive.commands import create_command
from volferry.operations.streams import feeding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from volferry.archive.listing import Entry
    from volferry.engine.channel import Process
    from volferry.engine.helper import Helper
    from volferry.operations.volume_listing import Listing

_READ_BYTES = 1 << 20


class Tars:
    """Of one volume that was listed. What they say goes to `on_line`, and their status to `check`, which raises VolferryError."""

    def __init__(
        self,
        helper: Helper,
        directory: str,
        listing: Listing,
        on_line: Callable[[bytes], None],
        check: Callable[[int], object],
    ) -> None:
        self._helper = helper
        self._directory = directory
        self._listing = listing
        self._on_line = on_line
        self._check = check

    @contextmanager
    def common(self) -> Iterator[Process]:
        process = self._start(links=self._listing.names.any_links)
        with feeding(process, self._listing.paths_asked()):
            yield process

    @property
    def has_series(self) -> bool:
        """Whether there is anything in the series."""
        wanted = self._listing.names.may_be_in_series
        return wanted and next(self._listing.paths_asked(in_series=True), None) is not None

    @contextmanager
    def series(self) -> Iterator[Process]:
        process = self._start(links=False)
        with feeding(process, self._listing.paths_asked(in_series=True)):
            yield process

    @contextmanager
    def series_stream(self) -> Iterator[SeriesStream | None]:
        """None if there is nothing in the series."""
        if not self.has_series:
            yield None
            return
        with self.series() as process:
            stream = SeriesStream(process.read_into)
            try:
                yield stream
            finally:
                if stream.reader.at_end:  # it broke off: why that is in tar's own words
                    self._check(process.wait())
            while process.read(_READ_BYTES):  # of what is below a directory that is gone
                pass
        self._check(process.wait())

    def alone(self, entry: Entry) -> Process:
        process = self._start(holes=entry.path in self._listing.names.holes)
        with suppress(BrokenPipeError):  # its status says why
            process.write(entry.path + b"\0")
            process.close_stdin()
        return process

    def _start(self, *, links: bool = True, holes: bool = False) -> Process:
        command = create_command(
            self._directory, holes=holes, links=links, watched=self._listing.names.is_foreign
        )
        return self._helper.start(command, stdin=True, on_stderr=self._on_line, bulk="stdout")
