"""Keeps account of entries that were to be read, and are not in a backup as they were in the volume."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volferry.archive.manifest import MOST_FINDINGS
from volferry.errors import CommandFailed
from volferry.model import Finding, printable

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from volferry.archive.listing import Entry
    from volferry.archive.tarlog import TarLog
    from volferry.observer import Observer
    from volferry.operations.volume_listing import Listing


class ReadingAccount:
    """Once it is settled, its findings are all that is known; `log` has the words of `tar`."""

    def __init__(self, listing: Listing, log: TarLog, observer: Observer) -> None:
        self._listing = listing
        self._log = log
        self._observer = observer
        self._missing: dict[bytes, None] = {}  # paths of what was to be read and is not taken, in order
        self._broken = 0  # directories below the root of which not all names are known
        # Paths of directories that `tar` did not read, and that are stored as they were listed.
        self._made: set[bytes] = set()
        self.findings: list[Finding] = []
        self.findings_total = 0
        self.unreadable = 0  # of these

    # As `align` asks, of one entry at a time.

    def note_missing(self, _group: int, entry: Entry) -> None:
        self._missing[entry.path] = None

    def is_broken(self, entry: Entry) -> bool:
        broken = self._listing.is_broken(entry)
        self._broken += broken and bool(entry.path)
        return broken

    def is_reused_below(self, group: int, entry: Entry) -> bool:
        reused = self._listing.reuses_below(group, entry.path)
        if reused:
            self._made.add(entry.path)
        return reused

    def is_unread(self, entry: Entry) -> bool:
        """Of a directory without a member."""
        unread = self._log.says_unread(entry.path)
        if unread:
            self._made.add(entry.path)
            self._broken += bool(entry.path)
        return unread

    def settle(self, kinds: Mapping[bytes, int], denied: Container[bytes]) -> None:
        """Finds out all that is missing or in doubt, once `tar` has said all that it had to say of it. `kinds` are the numbers of entries of each kind that the backup has,
        `denied` the paths of those whose earlier names could not be read.

        Raises CommandFailed if there is nothing to be called a backup, or if it was not understood.
        """
        log, listing = self._log, self._listing
        if b"" in self._missing:
            why = log.unreadable.get(b"")
            raise CommandFailed(
                f"reading the volume failed: its root directory {why.detail if why else 'is gone'}"
            )
        if (contradiction := log.contradiction(self._missing.keys() | self._made)) is not None:
            raise CommandFailed(f"reading the volume failed: {contradiction}")
        self._check_not_all_unreadable(kinds)
        for path in log.gone - self._missing.keys():
            log.tear(path, "was gone when it had been read")
        for finding in listing.findings.values():
            self._found(finding)
        for path in self._missing:
            if path in listing.findings:
                continue
            self._found(log.unreadable.get(path) or self._why_missing(path, denied))
        for finding in (*log.unreadable.values(), *log.torn.values()):
            if finding.path not in self._missing and finding.path not in listing.findings:
                self._found(finding)

    def _why_missing(self, path: bytes, denied: Container[bytes]) -> Finding:
        if path in denied:
            first = printable(self._listing.names.later[path])
            return Finding(
                "unreadable", path, f"is another name of {first!r}, which changed while it was read"
            )
        above = path
        while b"/" in above:
            above = above.rpartition(b"/")[0]
            if above in self._log.unreadable:
                return Finding("unreadable", path, "is in a directory that could not be read")
        return Finding("vanished", path, "was listed, and gone when it was to be read")

    def _check_not_all_unreadable(self, kinds: Mapping[bytes, int]) -> None:
        """Raises CommandFailed if nothing but directories was read, and not because nothing else is there."""
        unreadable = self._log.unreadable | {
            path: finding for path, finding in self._listing.findings.items() if finding.kind == "unreadable"
        }
        if not unreadable:
            return
        passed = self._log.some_was_read | self._missing.keys() | self._made
        not_read = sum(path not in passed for path in self._log.unreadable)
        whole = sum(kinds.values()) - kinds.get(b"d", 0) - not_read
        directories = kinds.get(b"d", 0) - 1 - self._broken
        listed = self._listing.read.kinds.keys() | self._listing.reused.kinds.keys()
        if whole > 0 or (directories > 0 and listed == {b"d"}):
            return
        first = next(iter(unreadable.values()))
        if not first.path:
            raise CommandFailed(f"reading the volume failed: its root directory {first.detail}")
        raise CommandFailed(
            f"reading the volume failed: nothing of it could be read; the first: {printable(first.path)!r} {first.detail}"
        )

    def _found(self, finding: Finding) -> None:
        self.findings_total += 1
        self.unreadable += finding.kind == "unreadable"
        if len(self.findings) < MOST_FINDINGS:
            self.findings.append(finding)
            self._observer.finding(finding)
