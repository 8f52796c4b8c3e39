"""Some paths of a backup as a tar stream: only the groups that hold them are fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volferry.archive.excerpt import Excerpt
from volferry.archive.tarstream import END_OF_ARCHIVE, TarReader, reading
from volferry.errors import DamagedObject
from volferry.layout import files_key
from volferry.model import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Container, Iterator

    from volferry.archive.listing import Entry
    from volferry.archive.selection import Selection
    from volferry.operations.backup_reader import BackupReader

_WRITE_BYTES = 1 << 18


class BackupExcerpt:
    """The chosen paths of one backup, each with all below it."""

    def __init__(self, backup: BackupReader, selection: Selection) -> None:
        self.backup = backup
        self.selection = selection
        self.count = 0
        self.source_bytes = 0
        for entry in self.entries():
            self.count += 1
            self.source_bytes += entry.size

    def entries(self) -> Iterator[Entry]:
        """The entries of the index that were chosen, in its order."""
        return (entry for entry in self.backup.entries() if self.selection.covers(entry.path))

    def tar_stream(self, parents: Container[bytes] = frozenset()) -> Iterator[bytes]:
        """A tar stream of the chosen paths, and before them of those directories above them that are in `parents`.

        Raises DamagedObject, StoreError.
        """

        def wanted(path: bytes) -> bool:
            return self.selection.covers(path) or path in parents

        excerpt = Excerpt(wanted)
        groups, expected = self._groups(wanted)
        yield from _gathered(excerpt.members(TarReader(reading(self.backup.group_stream(groups)))))
        asked: set[bytes] = set()
        while missing := excerpt.missing:
            excerpt.missing = {}
            self._check_progress(asked, missing)
            groups, _ = self._groups(missing.__contains__)
            reader = TarReader(reading(self.backup.group_stream(groups)))
            yield from _gathered(excerpt.content(reader, missing))
        yield from excerpt.closing()
        yield END_OF_ARCHIVE
        if excerpt.entries != expected:
            raise DamagedObject(
                files_key(self.backup.ref),
                f"{expected} of its entries were chosen, and its frames hold {excerpt.entries} of them",
            )

    def _groups(self, wanted: Callable[[bytes], bool]) -> tuple[frozenset[int], int]:
        """The groups that hold what is wanted, and the number of its entries."""
        groups: set[int] = set()
        count = 0
        for number, entries in self.backup.groups():
            held = sum(wanted(entry.path) for entry in entries)
            if held:
                groups.add(number)
                count += held
        return frozenset(groups), count

    def _check_progress(self, asked: set[bytes], missing: Collection[bytes]) -> None:
        """Links lead to links only as long as each is met once."""
        for path in missing:
            if path in asked:
                raise DamagedObject(
                    files_key(self.backup.ref), f"'{printable(path)}' is a hard link that leads to itself"
                )
        asked.update(missing)


def _gathered(pieces: Iterator[bytes | memoryview]) -> Iterator[bytes]:
    """The same bytes in fewer pieces: a small file makes two, and each costs a write."""
    gathered = bytearray()
    for piece in pieces:
        gathered += piece
        if len(gathered) >= _WRITE_BYTES:
            yield bytes(gathered)
            gathered.clear()
    if gathered:
        yield bytes(gathered)
