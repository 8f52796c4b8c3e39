"""What a command has printed, for a message: without what stands in the command itself, or in its environment.

There may be passwords in a command, and shells and programs print parts of it: the line in which they find a mistake, a word that is no
program, an argument that they do not take. All of the command may be a secret but the names of programs and options, and what it says on
stderr by itself (docs/configuration.md, "Hooks").
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

from volferry.model import printable
from volferry.shell_words import ShellWords, unquoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_HIDDEN = "…"
# A word of a command is hidden wherever it stands. A value may be as short as this, and is then hidden where it stands alone.
_LONG_CHARS = 4
_SHORT_CHARS = 2
# What programs print of a word need not be the whole of it.
_PIECE_CHARS = 6
_LONGEST_LINE = 4096  # of which something is shown
_TRACE = re.compile(r"\++ ")  # what `set -x` prints
_SHELLS = frozenset({"sh", "ash", "bash", "dash", "ksh", "zsh"})
_SHELL_LINE = re.compile(r"-[a-z]*c")
_PROGRAM = re.compile(r"[\w./+~-]+")
_VALUE = re.compile(r"(?:--?[A-Za-z][\w-]*|[A-Za-z_]\w*\+?)=(.*)", re.DOTALL)
_GLUED = re.compile(r"-[A-Za-z0-9](.+)", re.DOTALL)
_PARTS_OF_URLS = re.compile(r"[:/@?&=,;\s]+")
_EXPANSIONS = re.compile(r"\$\w+|\$\{[^}]*\}|\$\([^)]*\)|`[^`]*`")
_NO_WORD = re.compile(r"\W+")
_QUOTED = re.compile(r"""'([^']*)'|"([^"]*)\"""")
_HIDDEN_RUN = re.compile(rf"{_HIDDEN}(?:\s+{_HIDDEN})+")
# Variables of which everybody knows the values, or may.
_PUBLIC = re.compile(
    r"PATH|HOME|PWD|OLDPWD|LANG|LANGUAGE|LC_\w+|TERM|SHELL|SHLVL|USER|LOGNAME|HOSTNAME|TZ|EDITOR|PAGER|_|VOLFERRY_(?:VOLUME|HOST|RUN|ERROR)"
)
_PRIVATE = re.compile(r"PASS|PW|SECRET|TOKEN|KEY|CRED|AUTH|PIN|PRIVATE|SALT|URL|URI|DSN", re.IGNORECASE)


@dataclass(frozen=True)
class Redaction:
    """Of the output of one command."""

    command: Sequence[str]
    environment: Mapping[str, str]

    def __call__(self, text: str) -> str:
        """One line; empty for one that is not shown."""
        if len(text) > _LONGEST_LINE or _TRACE.match(text):
            return ""
        low = _low(text)
        kept = [
            found.span()
            for each in self._plain
            for found in re.finditer(rf"(?<![\w./+~-]){re.escape(each)}(?![\w/+~-])", low)
        ]
        hidden = [
            (start, end)
            for start, end in _merged([*self._found_in(low), *self._pieces_in(low)])
            if not any(first <= start and end <= last for first, last in kept)
        ]
        shown, at = [], 0
        for start, end in _merged([*hidden, *self._lines_in(low)]):
            shown += [text[at:start], _HIDDEN]
            at = end
        return _HIDDEN_RUN.sub(_HIDDEN, "".join([*shown, text[at:]]))

    def first_of(self, lines: Iterable[bytes]) -> str:
        """The first of which anything is shown; empty if there is none."""
        shown = (self(each.decode("utf-8", "surrogateescape").strip()) for each in lines)
        return printable(next(filter(None, shown), "").encode("utf-8", "surrogateescape"))

    def _found_in(self, low: str) -> Iterator[tuple[int, int]]:
        for word in self._words:
            yield from (found.span() for found in re.finditer(re.escape(word), low))
        for value in self._short:
            yield from (found.span() for found in re.finditer(rf"(?<!\w){re.escape(value)}(?!\w)", low))

    def _pieces_in(self, low: str) -> Iterator[tuple[int, int]]:
        for start in range(len(low) - _PIECE_CHARS + 1):
            if low[start : start + _PIECE_CHARS] in self._pieces:
                yield start, start + _PIECE_CHARS

    def _lines_in(self, low: str) -> Iterator[tuple[int, int]]:
        for line in self._lines:
            yield from (found.span() for found in re.finditer(re.escape(line), low))

    @cached_property
    def _shell_words(self) -> ShellWords:
        found = ShellWords()
        name = self.command[0].rpartition("/")[2] if self.command else ""
        for number, argument in enumerate(self.command):
            if number == 0 and _PROGRAM.fullmatch(argument):
                found.plain |= {argument, name}
            elif number > 1 and name in _SHELLS and _SHELL_LINE.fullmatch(self.command[number - 1]):
                words = ShellWords.of(argument)
                found.secret += words.secret
                found.values += words.values
                found.plain |= words.plain
            else:
                found.take(argument)
        return found

    @cached_property
    def _plain(self) -> frozenset[str]:
        return frozenset(_low(each) for each in self._shell_words.plain)

    @cached_property
    def _lines(self) -> frozenset[str]:
        """Whole ones, longer than a word."""
        lines = (line for argument in self.command for line in (argument, *argument.splitlines()))
        return frozenset(_low(line.strip()) for line in lines if len(line.split()) > 1)

    @cached_property
    def _values(self) -> frozenset[str]:
        """What may be a secret by itself, however short."""
        words = self._shell_words
        found = {value for word in (*words.secret, *words.values) for value in _values_in(word)} | {
            *words.values
        }
        for name, value in self.environment.items():
            if _PRIVATE.search(name) and not _PUBLIC.fullmatch(name):
                found |= {value, *_PARTS_OF_URLS.split(value)}
        return frozenset(found)

    @cached_property
    def _parts(self) -> frozenset[str]:
        found = {part for word in self._shell_words.secret for part in _parts_of(word)} | self._values
        for name, value in self.environment.items():
            if not _PUBLIC.fullmatch(name):
                found |= {
                    value,
                    *value.splitlines(),
                    *(_PARTS_OF_URLS.split(value) if "://" in value else ()),
                }
        return frozenset(_low(part) for part in found)

    @cached_property
    def _words(self) -> frozenset[str]:
        return frozenset(part.strip() for part in self._parts if len(part.strip()) >= _LONG_CHARS)

    @cached_property
    def _short(self) -> frozenset[str]:
        low = (_low(value.strip()) for value in self._values)
        return frozenset(each for each in low if _SHORT_CHARS <= len(each) < _LONG_CHARS and each.isalnum())

    @cached_property
    def _pieces(self) -> frozenset[str]:
        words = (_low(word) for word in self._shell_words.secret)
        return frozenset(
            word[start : start + _PIECE_CHARS]
            for word in words
            for start in range(len(word) - _PIECE_CHARS + 1)
            if not word[start].isspace() and not word[start + _PIECE_CHARS - 1].isspace()
        )


def _values_in(word: str) -> Iterator[str]:
    """`KEY=value`, `--option=value`, `-pvalue`, `user:password@host`."""
    for pattern in (_VALUE, _GLUED):
        if match := pattern.fullmatch(word):
            yield from (match[1], *_PARTS_OF_URLS.split(match[1]))
    who, at, _ = word.rpartition("@")
    if at:
        who = who.rpartition("://")[2]
        yield from (who, who.partition(":")[2], *_PARTS_OF_URLS.split(word))


def _parts_of(word: str) -> Iterator[str]:
    """As it stands there, and as shells and programs may print it, or parts of it. It may be a line for another shell."""
    inner = {part for each in word.split() for part in (each, unquoted(each))}
    words = {each for whole in (word, *inner) for each in (whole, *_values_in(whole))}
    for each in words | {
        unquote_plus(part) for whole in words for part in (whole, *_PARTS_OF_URLS.split(whole))
    }:
        yield each
        yield from each.splitlines()
        for separator in (_PARTS_OF_URLS, _NO_WORD, _EXPANSIONS):
            yield from separator.split(each)
        yield from (part for found in _QUOTED.findall(each) for part in found)


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def _low(text: str) -> str:
    """Of the same length: programs may print names in another case."""
    return "".join(low if len(low := char.lower()) == 1 else char for char in text)
