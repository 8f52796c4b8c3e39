"""Restores some paths of a backup into a volume; what else is in the volume stays."""

from __future__ import annotations

import time
from itertools import chain
from typing import TYPE_CHECKING

from volferry.archive.listing import Entry, paired, read_listing, walk_key
from volferry.archive.scripts import SCRIPT_COMMAND, delete_paths_script, list_paths_script
from volferry.archive.tarstream import END_OF_ARCHIVE
from volferry.errors import CommandFailed, PathExists
from volferry.model import RestoreStats, printable
from volferry.observer import Silent
from volferry.operations.comparison import check_restored
from volferry.operations.directory_modes import modes_in, settle_made
from volferry.operations.restore import NO_MARKS, begin, extract, flushing, mark, unmark, warnings_of
from volferry.operations.room import Wanted, check_volume_room
from volferry.operations.squashed import keeping_modes
from volferry.operations.unfinished_paths import UnfinishedPaths, left_of, to_text, unfinished_paths

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from volferry.archive.restore_mark import KnownMarks
    from volferry.archive.selection import Selection
    from volferry.engine.channel import Process
    from volferry.engine.helper import Helper
    from volferry.observer import Observer
    from volferry.operations.excerpt import BackupExcerpt

_READ_BYTES = 1 << 20
_MOST_LINES = 20
# That an entry takes beside what it holds: the rest of its last block, and attributes.
_MOST_ENTRY_BYTES = 8 << 10
_NOT_THERE = (b"No such file or directory", b"Not a directory")


def restore_paths(
    excerpt: BackupExcerpt,
    volume: str,
    *,
    helper: Helper,
    observer: Observer,
    replace: bool,
    empty: bool,
    looks_for_room: bool = True,
    check_free: Callable[[], None] = lambda: None,
    marks: KnownMarks = NO_MARKS,
) -> RestoreStats:
    """Puts the chosen paths into `volume`, and the directories above them where they are missing.

    An `empty` volume's root directory becomes as it was backed up; one that holds something keeps its own.
    Raises PathExists before anything is changed, if a chosen path is there already and `replace` does not say that it
    goes first, NoRoom if the paths cannot fit even then (unless not even `looks_for_room`), and VolumeNotEmpty if a restore of everything did not end there. Raises VolferryError; the chosen paths may then be there
    in part. Raises RestoreMismatch if they are not what was backed up. `check_free` is called when all of them are on the disk: if it
    raises, the volume keeps the mark. So it does as long as paths of another restore may be there in part, by a mark that counts.
    """
    started = time.monotonic()
    target = _Target(helper, helper.directory(volume))
    selection = excerpt.selection
    above = sorted(selection.parents - {b""}, key=walk_key)
    with keeping_modes(helper, target.directory) as kept:
        there = {}
        if not empty:
            there = {b"": b"d", **kept.reached(lambda: target.kinds(places(selection)), above)}
        doomed, parents = plan(selection, there, replace=replace, where=f"volume {volume}")
        if looks_for_room:
            wanted = Wanted(excerpt.backup, selection, excerpt.source_bytes)
            check_volume_room(wanted, volume, helper=helper, freed=lambda: target.most_bytes(doomed))
        known = marks.of(volume, excerpt.backup.store_id)
        left = () if empty else left_of(unfinished_paths(helper, volume, known), selection)
        ground = begin(
            helper,
            volume,
            to_text([*left, UnfinishedPaths.of(str(excerpt.backup.ref), selection)]),
            excerpt.backup.store_id,
            marks,
        )
        if not empty:
            kept.open(ground, above)
        if doomed:
            observer.phase("deleting what is replaced")
            target.delete(doomed)
        observer.phase("restoring", total_bytes=excerpt.source_bytes)
        set_modes = modes_in(helper, target.directory)
        with flushing(helper, volume) as all_written:
            first, log = extract(
                excerpt.tar_stream(parents), target.directory, ground, helper=helper, observer=observer
            )
            all_written()
            observer.phase("comparing", total_entries=excerpt.count)
            differing = check_restored(
                ground.expected(excerpt.entries()),
                target.listing(selection.roots, below=True),
                observer,
                times_refused="time" in log.refused,
                set_modes=set_modes,
            )
        made = sorted(parents - {b""}, key=walk_key)
        made_entries = [entry for entry in excerpt.backup.entries() if entry.path in parents] if made else []
        if made:
            expected = ground.expected(entry for entry in made_entries if entry.path)
            settle_made(paired(expected, target.listing(made, below=False)), set_modes)
        ground.set_modes(helper, target.directory, chain(made_entries, excerpt.entries()), log)
        check_free()
        if left:
            mark(helper, volume, to_text(left), excerpt.backup.store_id, marks)
            observer.note(
                f"it still holds the rest of an interrupted restore ({'; '.join(map(str, left))}), and is not backed up until that is "
                "restored too, with --replace"
            )
        else:
            unmark(helper, volume)
        if empty:
            # Taking the mark away has changed the time of the root, which was the first member.
            extract(iter([first + END_OF_ARCHIVE]), target.directory, helper=helper, observer=Silent())
    return RestoreStats(
        ref=excerpt.backup.ref,
        volume=volume,
        entries=excerpt.count,
        source_bytes=excerpt.source_bytes,
        fetched_bytes=excerpt.backup.fetched_bytes,
        seconds=round(time.monotonic() - started, 3),
        warnings=warnings_of(log, differing, observer),
    )


def places(selection: Selection) -> list[bytes]:
    """Where something could be in the way: the chosen paths and the directories above them, but the root."""
    return sorted((selection.parents | set(selection.roots)) - {b""}, key=walk_key)


def plan(
    selection: Selection, there: Mapping[bytes, bytes], *, replace: bool, where: str
) -> tuple[list[bytes], frozenset[bytes]]:
    """The paths to delete first and the directories above the chosen paths to make, given what is there: path ->
    kind. Raises PathExists.
    """
    for parent in sorted(selection.parents):
        if there.get(parent, b"d") != b"d":
            raise PathExists(
                f"'{printable(parent)}' in {where} is not a directory, so nothing can be put below it"
            )
    doomed = [path for path in selection.roots if path in there]
    if doomed and not replace:
        rest = f" and {len(doomed) - 1} more" if len(doomed) > 1 else ""
        exist, them = ("exist", "them") if rest else ("exists", "it")
        raise PathExists(f"'{printable(doomed[0])}'{rest} {exist} in {where}: --replace deletes {them} first")
    return doomed, frozenset(parent for parent in selection.parents if parent not in there)


class _Target:
    """Chosen paths in one directory of the helper."""

    def __init__(self, helper: Helper, directory: str) -> None:
        self.directory = directory
        self._helper = helper

    def kinds(self, paths: Sequence[bytes]) -> dict[bytes, bytes]:
        """The kinds of those that are there, by path."""
        return {entry.path: entry.kind for entry in self.listing(paths, below=False)}

    def listing(self, paths: Sequence[bytes], *, below: bool) -> Iterator[Entry]:
        """Those of `paths` that are there, and all below them if asked for. Raises CommandFailed."""
        if not paths:
            return
        lines: list[bytes] = []
        process = self._start(
            list_paths_script(self.directory, self._helper.spool, paths, below=below), lines
        )
        for entry in read_listing(iter(lambda: process.read(_READ_BYTES), b"")):
            yield Entry(entry.path.removeprefix(b"./"), entry.meta)
        _check(process.wait(), lines, "listing the volume")

    def most_bytes(self, paths: Sequence[bytes]) -> int:
        """That are free once they and all below them are deleted."""
        return sum(entry.size + _MOST_ENTRY_BYTES for entry in self.listing(paths, below=True))

    def delete(self, paths: Sequence[bytes]) -> None:
        """With all below them. Raises CommandFailed."""
        lines: list[bytes] = []
        process = self._start(delete_paths_script(self.directory, paths), lines)
        while process.read(_READ_BYTES):
            pass
        _check(process.wait(), lines, "deleting what is replaced")

    def _start(self, script: Iterable[bytes], lines: list[bytes]) -> Process:
        """Runs a script; what it says on stderr, but for what is not there, is in `lines` at its end."""
        process = self._helper.start(SCRIPT_COMMAND, stdin=True, on_stderr=lambda line: _keep(lines, line))
        try:
            for part in script:
                process.write(part)
            process.close_stdin()
        except BrokenPipeError:
            pass  # its exit status says why
        return process


def _keep(lines: list[bytes], line: bytes) -> None:
    """What is not there is no trouble; of what is, the first lines say enough."""
    if len(lines) < _MOST_LINES and not line.endswith(_NOT_THERE):
        lines.append(line)


def _check(status: int, lines: Sequence[bytes], what: str) -> None:
    if status or lines:
        raise CommandFailed(f"{what} failed: {printable(lines[0]) if lines else f'status {status}'}")
