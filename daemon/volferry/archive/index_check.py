"""The rules that the entries of an index keep, looked at before anything is done with them.

Digests find what broke by itself. An index that somebody has made up has the right digests; by these rules it leads no reader out of
its target.
"""

from __future__ import annotations

import re
from itertools import compress
from operator import lt, ne
from typing import TYPE_CHECKING

from volferry.archive.listing import Entry, parse_record, walk_key
from volferry.model import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# Possessive: what was matched is not tried in another way, or a group of bad records would take very long.
_NUMBER = rb"[0-9]{1,20}+"
_TIME = rb"-?+[0-9]{1,19}+\.[0-9]{9}0"
_FIELDS = rb" ".join((
    rb"[fdlpcb] [0-7]{1,4}+", _NUMBER, _NUMBER, _NUMBER, _TIME, rb"(?:%b|-)" % _TIME, _NUMBER, _NUMBER, rb"[^\0]*+",
))  # fmt: skip
_RECORD_FIELDS = re.compile(_FIELDS)
_GROUP_FIELDS = re.compile(rb"(?:%b\0)++" % _FIELDS)
_NO_NAMES = (b"//", b"/./", b"/../")


def checked_groups(
    groups: Iterable[tuple[int, list[bytes]]], *, parents: bool = False
) -> Iterator[tuple[int, list[bytes]]]:
    """The groups of `parse_groups`, each before it is given out: numbers rise, and none is empty; paths are relative, without an
    empty part, `.`, `..` or NUL, and rise in walk order, so none is there twice; below what is no directory there is nothing; the
    first entry is the root. With `parents`, all directories above an entry come before it. Raises ValueError.

    A group is looked at as a whole: a record at a time would cost several times as much as parsing it.
    """
    last_number = -1
    last: Entry | None = None
    for number, records in groups:
        if number <= last_number:
            raise ValueError(f"group {number} is out of order")
        if not records:
            raise ValueError(f"group {number} has no entry")
        if not _keeps_rules(records, last, parents=parents):
            _blame(records, last, parents=parents)
        last_number, last = number, parse_record(records[-1])
        yield number, records


def _keeps_rules(records: Sequence[bytes], last: Entry | None, *, parents: bool) -> bool:
    """Whether a group does, after `last`. Says the same as `_wrong`, of many records at once."""
    parts = [record.split(b"//", 1) for record in records]
    if min(map(len, parts)) < 2:
        return False
    paths, metas = zip(*parts, strict=True)
    if _GROUP_FIELDS.fullmatch(b"\0".join([*metas, b""])) is None:
        return False
    if last is None:
        if paths[0] or metas[0][:1] != b"d":
            return False
        last = Entry(paths[0], metas[0])
        paths, metas = paths[1:], metas[1:]
    if not paths:
        return True
    names = b"/%b/" % b"/\0/".join(paths)
    if any(no_name in names for no_name in _NO_NAMES):
        return False
    paths, metas = (last.path, *paths), (last.meta, *metas)
    keys = walk_key(b"\0".join(paths)).split(b"\0")
    if not all(map(lt, keys, keys[1:])):
        return False
    above = [path.rpartition(b"/")[0] for path in paths]
    # Siblings have the directories above them in common.
    return all(
        _is_placed(paths[at], paths[at + 1], metas[at], parents=parents)
        for at in compress(range(len(paths) - 1), map(ne, above, above[1:]))
    )


def _is_placed(before: bytes, path: bytes, before_meta: bytes, *, parents: bool) -> bool:
    """Whether an entry may come after the one before, as far as directories are concerned. Between an entry and what is below it
    there is nothing else, so neighbours tell.
    """
    if before_meta[:1] != b"d" and path.startswith(before + b"/"):
        return False
    if not parents:
        return True
    above = path.rpartition(b"/")[0]
    return above in {b"", before} or before.startswith(above + b"/")


def _blame(records: Sequence[bytes], last: Entry | None, *, parents: bool) -> None:
    """Raises ValueError that names the first entry that breaks a rule."""
    for record in records:
        entry = parse_record(record)
        if wrong := _wrong(entry, last, parents=parents):
            raise ValueError(wrong)
        last = entry
    raise ValueError("its entries break a rule")


def _wrong(entry: Entry, last: Entry | None, *, parents: bool) -> str:
    """Names the rule that an entry breaks, after `last`; empty if it breaks none."""
    path = entry.path
    if _RECORD_FIELDS.fullmatch(entry.meta) is None:
        return f"the record of {_text(path)} is not one"
    if last is None:
        return "its first entry is not the root directory" if path or entry.kind != b"d" else ""
    if b"\0" in path or not {b"", b".", b".."}.isdisjoint(path.split(b"/")):
        return f"{_text(path)} is not the path of an entry"
    if walk_key(path) <= walk_key(last.path):
        return f"{_text(path)} is out of order, or there twice"
    if last.kind != b"d" and path.startswith(last.path + b"/"):
        return f"{_text(last.path)} is not a directory, and something is below it"
    if not _is_placed(last.path, path, last.meta, parents=parents):
        return f"{_text(path)} is in a directory that is not there"
    return ""


def _text(path: bytes) -> str:
    return f"'{printable(path[:200])}'"
