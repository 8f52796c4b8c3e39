"""The text of a mark that restores of paths leave where they did not end: it names the paths that may be there in part."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volferry.archive.restore_mark import text_of
from volferry.archive.selection import Selection
from volferry.errors import CommandFailed, VolumeNotEmpty
from volferry.model import is_backup_id, printable
from volferry.operations.restore import content_if_marked, is_marked, mark_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from volferry.archive.restore_mark import KnownMarks
    from volferry.engine.helper import Helper

# How such a mark begins: that of a restore of everything is the backup's name alone.
_BEGIN = "paths of "
# The mark is an argument of a command, and Linux takes none above 128 KiB.
_MOST_PATHS_CHARS = 4096
_MOST_CHARS = 64 << 10
# The mark of an import is that word, and that of a migration begins with this one.
IMPORT = "import"
MIGRATION = "migration of "
_RESTORE_COMPLETES = "`volferry restore BACKUP --replace` completes it"
_PLAIN_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class UnfinishedPaths:
    """Of one restore."""

    ref: str
    paths: tuple[bytes, ...]  # empty if they are too many for a mark
    digest: str  # of all of them

    @staticmethod
    def of(ref: str, selection: Selection) -> UnfinishedPaths:
        digest = hashlib.sha256(b"\0".join(selection.roots)).hexdigest()
        short = len(json.dumps(_texts(selection.roots))) <= _MOST_PATHS_CHARS
        return UnfinishedPaths(ref, selection.roots if short else (), digest)

    def without(self, restored: Selection) -> UnfinishedPaths | None:
        """The rest of it once `restored` is there whole, from whichever backup; None if there is no rest."""
        if not self.paths:
            return None if self.digest == UnfinishedPaths.of("", restored).digest else self
        left = Selection(path for path in self.paths if not restored.covers(path))
        return UnfinishedPaths.of(self.ref, left) if left.roots else None

    def __str__(self) -> str:
        if not self.paths:
            return f"paths of {self.ref}, all of which the same command restores"
        rest = f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else ""
        return f"'{printable(self.paths[0])}'{rest} of {self.ref}"


def left_of(unfinished: Sequence[UnfinishedPaths], restored: Selection) -> tuple[UnfinishedPaths, ...]:
    """Those that are not whole when `restored` is."""
    return tuple(left for each in unfinished if (left := each.without(restored)) is not None)


def to_text(unfinished: Sequence[UnfinishedPaths]) -> str:
    """One line. The inverse of `from_text`."""
    return _BEGIN + json.dumps(
        [[each.ref, _texts(each.paths) if each.paths else each.digest] for each in unfinished]
    )


def from_text(text: str) -> tuple[UnfinishedPaths, ...] | None:
    """None for any other text: whoever can write the volume can write the mark, too."""
    if not text.startswith(_BEGIN) or len(text) > _MOST_CHARS:
        return None
    try:
        match json.loads(text.removeprefix(_BEGIN)):
            case [_, *_] as records:
                return tuple(_from_record(record) for record in records)
    except (ValueError, RecursionError):
        pass
    return None


def unfinished_paths(helper: Helper, volume: str, marks: KnownMarks) -> tuple[UnfinishedPaths, ...]:
    """By the mark in the volume; none if it has none that counts: what another one says would be sealed with the rest. Raises VolumeNotEmpty
    if only a restore of everything completes what is there.
    """
    content = content_if_marked(helper, helper.directory(volume))
    if content is None or not marks.is_ours(content):
        return ()
    text = text_of(content)
    found = from_text(text)
    # One more must fit into the mark.
    if found is None or len(to_text(found)) > _MOST_CHARS - 2 * _MOST_PATHS_CHARS:
        kind, step = rest_of(text)
        if kind != "restore":  # a whole backup in its place is what a restore can do
            step = f"{step}; or {_RESTORE_COMPLETES}"
        raise VolumeNotEmpty(f"volume {volume} holds the rest of an interrupted {kind}: {step}")
    return found


def rest_of(text: str) -> tuple[str, str]:
    """What the work was that has left such a mark, and what completes it."""
    if text == IMPORT:
        return "import", "the same `volferry import`, with --replace, begins anew"
    if text.startswith(MIGRATION):
        return "migration", "the same `volferry migrate`, run again, goes on from there"
    return "restore", _RESTORE_COMPLETES


def is_rest_of_import(helper: Helper, volume: str) -> bool:
    """Whether the volume was empty, or new, until an import broke off."""
    return is_marked(helper, volume) and mark_text(helper, volume) == IMPORT


def half_restored(helper: Helper, volume: str) -> str:
    """Why a volume with a mark is not backed up, and the next step."""
    try:
        text = mark_text(helper, volume)
    except CommandFailed:  # it is gone by now
        text = ""
    # Whoever writes to the volume can write the mark: it may lead a person to no other volume, nor to another command.
    kind, step = rest_of(text)
    if kind != "restore":
        return f"it holds the rest of an interrupted {kind}: {step}"
    host, _, rest = text.rpartition("/")
    name, _, backup_id = rest.rpartition("@")
    if name == volume and is_backup_id(backup_id) and _PLAIN_HOST.fullmatch(host):
        return (
            f"it holds the rest of an interrupted restore: `volferry restore {text} --replace` completes it"
        )
    return "it holds the rest of an interrupted restore: the same `volferry restore`, with --replace, completes it"


def _from_record(record: object) -> UnfinishedPaths:
    """Raises ValueError."""
    match record:
        case [str(ref), str(digest)]:
            return UnfinishedPaths(ref, (), digest)
        case [str(ref), [_, *_] as texts]:
            return UnfinishedPaths.of(ref, Selection(_path(text) for text in texts))
    raise ValueError


def _path(text: object) -> bytes:
    if not isinstance(text, str):
        raise ValueError
    return text.encode("utf-8", "surrogateescape")


def _texts(paths: Sequence[bytes]) -> list[str]:
    return [path.decode("utf-8", "surrogateescape") for path in paths]
