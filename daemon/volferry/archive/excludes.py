"""Leaves entries out of a backup on purpose: patterns as in a `.gitignore`, and caches that say so themselves.

Patterns: https://git-scm.com/docs/gitignore#_pattern_format; the root of the volume is where the `.gitignore` would be.
Caches: https://bford.info/cachedir/, a directory with a file CACHEDIR.TAG that begins with a known signature.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from volferry.archive.listing import parse_record

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from pathspec import GitIgnoreSpec

CACHE_TAG = b"CACHEDIR.TAG"
CACHE_SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55"
MOST_PATHS = 1000


@dataclass(frozen=True, slots=True)
class Excludes:
    """Patterns that a user gave, and whether caches are left out."""

    patterns: tuple[str, ...] = ()
    caches: bool = False

    def __bool__(self) -> bool:
        return bool(self.patterns or self.caches)

    def check(self) -> None:
        """Raises ValueError for a pattern that cannot be understood."""
        if self.patterns:
            _spec(self.patterns)

    @property
    def not_walked(self) -> list[str]:
        """Regular expressions for `list_command`: they match no directory that is not excluded. Excluded directories that they do not
        match are walked, and left out afterwards.
        """
        if any(pattern.startswith("!") for pattern in self.patterns):
            return []  # which of them wins is for the patterns' own library to say
        expressions = (_expression(pattern) for pattern in self.patterns)
        return [expression for expression in expressions if expression is not None]


def _expression(pattern: str) -> str | None:
    """A pattern of names and `*` as a POSIX extended regular expression for paths such as `./a/b`; None for any other pattern. It
    matches no path with a newline: whether the pattern does is a matter of its own.
    """
    plain = pattern.rstrip(" \t\r\n")
    if plain != pattern.rstrip():  # other white space at its end is for the patterns' own library
        return None
    pattern = plain
    if not pattern or pattern.startswith("#") or re.search(r"[?\[\]\\\n]", pattern):
        return None
    anchored = "/" in pattern.rstrip("/")
    parts = pattern.strip("/").split("/")
    if pattern.startswith("//") or pattern.endswith("//") or not all(parts):
        return None
    above = r"\./" if anchored else "\\./([^\n]*/)?"
    if parts[0] == "**":
        above = "\\./([^\n]*/)?"
        parts = parts[1:]
    if not parts or any("**" in part for part in parts):
        return None
    return above + "/".join(
        re.sub(r"[.^$+(){}|]", r"\\\g<0>", part).replace("*", "[^/\n]*") for part in parts
    )


@dataclass(slots=True)
class LeftOut:
    """Counts the entries that were listed and left out, and names the topmost of them. A directory that was not walked is one entry."""

    entries: int = 0
    source_bytes: int = 0
    paths: list[bytes] = field(default_factory=list)

    def add(self, path: bytes, *, top: bool, source_bytes: int) -> None:
        self.entries += 1
        self.source_bytes += source_bytes
        if top and len(self.paths) < MOST_PATHS:
            self.paths.append(path)


def without_excluded(
    records: Iterable[bytes], excludes: Excludes, *, cache_directories: Collection[bytes], left_out: LeftOut
) -> Iterator[bytes]:
    """The records of a listing that are not excluded. An excluded directory takes all below it along; of a cache,
    the directory itself and its tag stay. The root is never excluded.
    """
    spec = _spec(excludes.patterns)
    below = b""  # the excluded directory that the walk is in, with its slash
    cache = b""  # the same, of a cache
    for record in records:
        entry = parse_record(record)
        path = entry.path
        if below and path.startswith(below):
            left_out.add(path, top=False, source_bytes=entry.size)
            continue
        below = b""
        directory = entry.kind == b"d"
        if cache and not path.startswith(cache):
            cache = b""
        in_cache = cache and path != cache + CACHE_TAG
        if path and (in_cache or spec.match_file(_text(path) + ("/" if directory else ""))):
            left_out.add(path, top=True, source_bytes=entry.size)
            below = path + b"/" if directory else b""
            continue
        if directory and path in cache_directories:
            cache = path + b"/" if path else b""
        yield record


def _spec(patterns: tuple[str, ...]) -> GitIgnoreSpec:
    from pathspec import GitIgnoreSpec  # noqa: PLC0415 -- takes its time, and most backups leave nothing out

    for pattern in patterns:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "error"
                )  # of what Python's expressions will understand in another way one day
                GitIgnoreSpec.from_lines([pattern])
        except (ValueError, re.error, Warning) as error:
            raise ValueError(f"{pattern!r} is no pattern of excludes: {error}") from error
    return GitIgnoreSpec.from_lines(patterns)


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")
