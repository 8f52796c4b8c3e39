"""Finds the paths that a user named in the index of a backup."""

from __future__ import annotations

import os
from difflib import get_close_matches
from typing import TYPE_CHECKING

from volferry.archive.selection import Selection, is_below, matcher, meanings, parents_of
from volferry.errors import NoSuchPath, UsageError
from volferry.model import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from volferry.operations.backup_reader import BackupIndex

_MOST_NAMES = 5000


def find_path(index: BackupIndex, argument: str) -> bytes:
    """The one path that `argument` means. Raises NoSuchPath."""
    return find_paths(index, [argument])[0]


def select_paths(index: BackupIndex, arguments: Sequence[str]) -> Selection:
    """What `arguments` name, one path each. Raises NoSuchPath if the backup does not hold one of them."""
    return Selection(find_paths(index, arguments))


def select_matching(index: BackupIndex, patterns: Sequence[str]) -> Selection:
    """All paths that fit a shell pattern. Raises NoSuchPath if nothing fits one of them."""
    matchers = [matcher(pattern) for pattern in patterns]
    met = [False] * len(matchers)
    found: list[bytes] = []
    for entry in index.entries():
        matching = [number for number, matches in enumerate(matchers) if matches(entry.path)]
        for number in matching:
            met[number] = True
        # In the order of a tree walk, what is below a chosen path follows it at once.
        if matching and not (found and is_below(entry.path, found[-1])):
            found.append(entry.path)
    for pattern, was_met in zip(patterns, met, strict=True):
        if not was_met:
            raise NoSuchPath(f"nothing in {index.ref} fits the pattern '{printable(os.fsencode(pattern))}'")
    return Selection(found)


def find_paths(index: BackupIndex, arguments: Sequence[str]) -> list[bytes]:
    """The path that each of `arguments` means, in one pass over the index. Raises NoSuchPath for the first that
    means none.
    """
    try:
        wanted = [meanings(argument) for argument in arguments]
    except ValueError as error:
        raise UsageError(str(error)) from error
    sought = {path for paths in wanted for path in paths}
    there: set[bytes] = set()
    for entry in index.entries():
        if entry.path in sought:
            there.add(entry.path)
            if len(there) == len(sought):
                break
    found = []
    for paths in wanted:
        path = next((path for path in paths if path in there), None)
        if path is None:
            raise NoSuchPath(f"'{printable(paths[0])}' is not in {index.ref}{_hint(index, paths[0])}")
        found.append(path)
    return found


def _hint(index: BackupIndex, missing: bytes) -> str:
    """What comes nearest: a name like it in the same directory, or the last directory on the way that is there."""
    parents = set(parents_of(missing))
    directory = missing.rpartition(b"/")[0]
    nearest = b""
    names: list[str] = []
    for entry in index.entries():
        if entry.path in parents and entry.kind == b"d" and len(entry.path) > len(nearest):
            nearest = entry.path
        if entry.path and entry.path.rpartition(b"/")[0] == directory and len(names) < _MOST_NAMES:
            names.append(printable(entry.path))
    if close := get_close_matches(printable(missing), names, n=1, cutoff=0.8):
        return f"; did you mean '{close[0]}'?"
    return f"; its directory '{printable(nearest)}' is" if nearest else ""
