"""The rules that the entries of an index keep, looked at before anything is done with them.

Digests find what broke by itself. An index that somebody has made up has the right digests; by these rules it leads no reader out of
its target.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from volferry.archive.listing import Entry, parse_record, walk_key
from volferry.model import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_TIME = rb"-?\d{1,19}\.\d{9}0"
_FIELDS = re.compile(
    rb"(?:[fdpcb]|l) [0-7]{1,4} \d{1,20} \d{1,20} \d{1,20} %b (?:-|%b) \d{1,20} \d{1,20} [^\0]*"
    % (_TIME, _TIME)
)


def checked_groups(groups: Iterable[tuple[int, list[bytes]]]) -> Iterator[tuple[int, list[Entry]]]:
    """The groups of `parse_groups`, as entries, each before it is given out: numbers rise; paths are relative, without an empty part,
    `.`, `..` or NUL, and rise in walk order, so none is there twice; below what is no directory there is nothing. Raises ValueError.
    """
    last_number = -1
    last: Entry | None = None
    last_key = b""
    for number, records in groups:
        if number <= last_number:
            raise ValueError(f"group {number} is out of order")
        last_number = number
        entries = []
        for record in records:
            entry = parse_record(record)
            path = entry.path
            if _FIELDS.fullmatch(entry.meta) is None:
                raise ValueError(f"the record of {_text(path)} is not one")
            if path and (b"\0" in path or not {b"", b".", b".."}.isdisjoint(path.split(b"/"))):
                raise ValueError(f"{_text(path)} is not the path of an entry")
            key = walk_key(path)
            if last is None:
                if path or entry.kind != b"d":
                    raise ValueError("its first entry is not the root directory")
            elif key <= last_key:
                raise ValueError(f"{_text(path)} is out of order, or there twice")
            # Between an entry and what is below it there is nothing else, so neighbours tell.
            elif last.kind != b"d" and path.startswith(last.path + b"/"):
                raise ValueError(f"{_text(last.path)} is not a directory, and something is below it")
            last, last_key = entry, key
            entries.append(entry)
        yield number, entries


def _text(path: bytes) -> str:
    return f"'{printable(path[:200])}'"
