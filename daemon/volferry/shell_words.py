"""Words of a line for `sh`: which of them may hold a secret, and which are plain names of programs and options.

It is no shell: where it is not certain what a shell would make of a line, every word may hold a secret.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_TOKEN = re.compile(
    r"""
    (?P<blank>(?:[ \t\r]|\\\n)+)
  | (?P<comment>(?<!\S)\#[^\n]*)
  | (?P<operator>\n|\|\||&&|;;|<<<|<<-?|\$\(|[<>]\(|[;|&(){}`](?=\s|$)|[;|&()`])
  | (?P<redirection>\d*(?:>>|>&|<&|<>|>\||&>|[<>]))
  | (?P<word>(?:'[^']*'|"(?:[^"\\]|\\.)*"|\\.|[^\s;|&()<>`'"\\$]|\$(?!\())+)
  | (?P<rest>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_PART = re.compile(r"""'([^']*)'|"((?:[^"\\]|\\.)*)"|\\(.)|([^'"\\]+)""", re.DOTALL)
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*\+?=")
_PROGRAM = re.compile(r"[A-Za-z_./~][\w./+~-]*")
_OPTION = re.compile(r"-[A-Za-z0-9]|--[a-z]+(?:-[a-z]+)*")
_LONG_OPTION = re.compile(r"(--?[A-Za-z][\w-]*)=")
# After which a command begins; and `exec` and its like, which run one.
_BEFORE_COMMANDS = frozenset(
    {"if", "then", "else", "elif", "while", "until", "do", "{", "!", "exec", "command", "nohup", "time"}
)
_OTHER_KEYWORDS = frozenset(
    {"fi", "done", "esac", "}", "for", "in", "return", "exit", "set", "true", "false"}
)
# What follows them is no command, though it looks like one.
_HARD = frozenset({"case", "select", "function"})
_TO_STDERR = frozenset({(">&", "2"), ("1>&", "2"), (">", "/dev/stderr")})
_DEVICES = frozenset({"/dev/null", "/dev/stderr", "/dev/stdout"})
_USUAL_REDIRECTION = re.compile(r"\d*[<>]&?>?(?:/dev/(?:null|stderr|stdout)|\d)[;)&|]*")
_SAYS = frozenset({"echo", "printf"})


@dataclass(slots=True)
class ShellWords:
    """Of one or several lines."""

    secret: list[str] = field(
        default_factory=list
    )  # whole words, as they stand there and as a shell would have them
    values: list[str] = field(default_factory=list)  # may be parts of a word that wants quotes, however short
    plain: set[str] = field(default_factory=set)

    @staticmethod
    def of(text: str) -> ShellWords:
        tokens = [(str(match.lastgroup), match[0]) for match in _TOKEN.finditer(text)]
        hard = any(
            kind == "rest" or (kind == "operator" and value.startswith("<<")) for kind, value in tokens
        )
        found = ShellWords()
        if hard or any(value in _HARD for _, value in tokens):
            for each in (*text.split(), *(value for _, value in tokens)):
                found.take(each)
            return found
        command: list[str] = []
        for number, (kind, value) in enumerate(tokens):
            if run := _run_from(tokens, number):
                # It may be one word that wants quotes.
                if kind == "word":
                    command.append(run)
                else:
                    found.take(run)
            if _breaks_a_word(tokens, number):
                found.values += [tokens[number - 1][1], tokens[number + 1][1]]
            if kind == "operator":
                found._end(command, piped=value in {"|", "`"})
                command = []
                found._starts = _begins_command(tokens, number)
            elif kind == "redirection":
                found._redirection = value
            elif kind == "comment":
                found.take(value)
            elif kind == "word":
                found._word(value, command)
        found._end(command, piped=False)
        return found

    _starts: bool = True  # whether a command begins here
    _redirection: str = ""  # whose place comes next
    _to_stderr: bool = False
    _says: bool = False

    def take(self, word: str) -> None:
        """One that may hold a secret."""
        if _OPTION.fullmatch(word):
            self.plain.add(word)
            return
        if match := _LONG_OPTION.match(word):
            self.plain.add(match[1])
        self.secret += [word, unquoted(word)]

    def _word(self, word: str, command: list[str]) -> None:
        if self._redirection:
            self._to_stderr = self._to_stderr or (self._redirection, word) in _TO_STDERR
            if word in _DEVICES:
                self.plain.add(word)
            elif not word.isdigit():
                self.take(word)
            self._redirection = ""
        elif not self._starts:
            command.append(word)
        elif _ASSIGNMENT.match(word):
            self.take(word)
        elif word in _BEFORE_COMMANDS:
            self.plain.add(word)
        else:
            self._starts = False
            if word in _OTHER_KEYWORDS or _PROGRAM.fullmatch(word):
                self.plain |= {word, word.rpartition("/")[2]}
                self._says = word in _SAYS
            else:
                self.take(word)

    def _end(self, command: Sequence[str], *, piped: bool) -> None:
        """Of a command, by its arguments. Those that it says on stderr, it says for people."""
        if not (self._says and self._to_stderr) or piped:
            for word in command:
                self.take(word)
        self._redirection, self._to_stderr, self._says = "", False, False


def unquoted(word: str) -> str:
    """As a shell would have it, but for what it would put in."""
    parts = []
    for match in _PART.finditer(word):
        single, double, escaped, bare = match.groups()
        parts.append(
            re.sub(r'\\([\\"$`\n])', r"\1", double) if double is not None else single or escaped or bare or ""
        )
    return "".join(parts)


def _breaks_a_word(tokens: Sequence[tuple[str, str]], number: int) -> bool:
    around = tokens[number - 1 : number + 2] if number else []
    return [kind for kind, _ in around] == ["word", "operator", "word"] and "\n" not in around[1][1]


def _run_from(tokens: Sequence[tuple[str, str]], number: int) -> str:
    """Without blanks, where operators are in it; empty if none begins here."""
    if number and not _is_blank(tokens[number - 1]):
        return ""
    run = list(takewhile(lambda token: not _is_blank(token), tokens[number:]))
    text = "".join(value for _, value in run)
    is_word = all(kind == "word" for kind, _ in run)
    return "" if is_word or _USUAL_REDIRECTION.fullmatch(text) else text


def _is_blank(token: tuple[str, str]) -> bool:
    return token[0] in {"blank", "comment"} or token[1] == "\n"


def _begins_command(tokens: Sequence[tuple[str, str]], number: int) -> bool:
    """Whether a command begins after an operator. Without a blank, it may stand in the middle of a password that wants quotes."""
    operator = tokens[number][1]
    if operator == "\n":
        return True
    if operator == "$(":
        before = tokens[number - 1] if number else ("blank", "")
        return before[0] != "word" or before[1].endswith("=")
    if operator in {")", "}", "<(", ">("}:
        return False
    return number + 1 < len(tokens) and (tokens[number + 1][0] == "blank" or tokens[number + 1][1] == "\n")
