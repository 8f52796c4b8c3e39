"""Which paths of a backup are meant: what a user typed for them, shell patterns, and what a choice covers."""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from fnmatch import translate
from typing import TYPE_CHECKING

from volferry.archive.listing import walk_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(\\)|)")


class Selection:
    """Chosen paths, each with everything below it; none is below another. In the order of a tree walk."""

    def __init__(self, paths: Iterable[bytes]) -> None:
        roots: list[bytes] = []
        for path in sorted(set(paths), key=walk_key):
            if not roots or not is_below(path, roots[-1]):
                roots.append(path)
        self.roots = tuple(roots)
        self._keys = [walk_key(root) for root in roots]
        self.parents = frozenset(parent for path in roots for parent in parents_of(path))

    def covers(self, path: bytes) -> bool:
        """Whether `path` was chosen, or is below what was. In the order of a tree walk, nothing comes between a directory and what is below it."""
        last = bisect_right(self._keys, walk_key(path)) - 1
        return last >= 0 and (path == self.roots[last] or is_below(path, self.roots[last]))

    @property
    def everything(self) -> bool:
        return self.roots[:1] == (b"",)


def parents_of(path: bytes) -> Iterator[bytes]:
    """The directories above `path`, the nearest first; the last is the root, b""."""
    while path:
        path = path.rpartition(b"/")[0]
        yield path


def is_below(path: bytes, directory: bytes) -> bool:
    return path.startswith(directory + b"/") if directory else path != b""


def meanings(argument: str) -> tuple[bytes, ...]:
    r"""The paths that a user may mean, the likeliest first: as typed, and with `\xNN` and `\\` undone.

    A leading `/` or `./` is as good as none. Raises ValueError for an empty argument: a shell's variable that is
    not set is not the root.
    """
    typed = os.fsencode(argument)
    if not typed:
        raise ValueError("an empty path names nothing: / is the root of the backup")
    found = [_normal(typed)]
    if b"\\" in typed:
        unescaped = _normal(_ESCAPE.sub(_unescaped, typed))
        if unescaped not in found:
            found.append(unescaped)
    return tuple(found)


def matcher(pattern: str) -> Callable[[bytes], bool]:
    """Says of a path whether the shell pattern fits: the whole path if the pattern holds a `/`, else its last name.

    `*` and `?` stand for any bytes, `/` among them. The root has no name, and is never met.
    """
    # Bytes as the characters of the same number: what fnmatch(3) does in the C locale.
    typed = os.fsencode(pattern).decode("latin-1")
    whole = "/" in typed
    expression = re.compile(translate(typed.removeprefix("./").lstrip("/")).encode("latin-1"), re.DOTALL)

    def matches(path: bytes) -> bool:
        return path != b"" and expression.match(path if whole else path.rpartition(b"/")[2]) is not None

    return matches


def _normal(path: bytes) -> bytes:
    return b"/".join(name for name in path.split(b"/") if name not in {b"", b"."})


def _unescaped(match: re.Match[bytes]) -> bytes:
    if match[1]:
        return bytes([int(match[1], 16)])
    return b"\\"
