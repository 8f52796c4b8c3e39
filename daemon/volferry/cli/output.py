"""stdout and stderr, as a command gets them: what cannot be written to stdout is an error of its own, and not one of the work; what cannot be
written to stderr, as on a full disk or where nobody reads it any longer, is lost, and no work with it. And nothing that a store or an engine calls
something drives the terminal: its control characters are written as escapes.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from volferry.errors import VolferryError, reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_STANDARD = ((0, "stdin", os.O_RDONLY), (1, "stdout", os.O_WRONLY), (2, "stderr", os.O_WRONLY))


class OutputFailed(VolferryError):
    """Not an OSError: those are of what is being worked on, and some are no reason to stop."""


class NobodyReads(BaseException):
    """The reader of stdout has gone. No `except Exception` catches it, as with Interrupted: the work ends."""


class _Text(io.TextIOWrapper):
    def write(self, text: str, /) -> int:
        return super().write(plain(text))


class _Stdout(io.FileIO):
    def write(self, data: Any, /) -> int | None:  # type: ignore[override]  # None: the reader is slow, and does not block
        try:
            return super().write(data)
        except BrokenPipeError as error:
            raise NobodyReads from error
        except OSError as error:
            raise OutputFailed(f"cannot write to stdout: {reason(error)}") from error


class _Stderr(io.FileIO):
    def write(self, data: Any, /) -> int:
        with suppress(OSError):  # a slow reader who does not block has had a part at most
            super().write(data)
        return memoryview(data).nbytes


def prepare() -> None:
    """Raises OutputFailed where stdout is closed. No file that is opened later can take the place of what is closed."""
    closed = [name for number, name, mode in _STANDARD if _filled(number, name, mode)]
    complaints = io.BufferedWriter(_Stderr(2, "w", closefd=False))
    sys.stderr = io.TextIOWrapper(
        complaints, sys.stderr.encoding, "backslashreplace", line_buffering=True, write_through=True
    )
    if "stdout" in closed:
        raise OutputFailed("stdout is closed: send it to /dev/null if nobody is to read it")
    before = sys.stdout
    raw = _Stdout(1, "w", closefd=False)
    sys.stdout = _Text(io.BufferedWriter(raw), before.encoding, before.errors, line_buffering=before.isatty())


def plain(text: str) -> str:
    r"""Without control characters but newlines and tabs: ESC is `\u001b`, as in JSON."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def give_up() -> None:
    """Nothing more may be written to stdout, not even by the interpreter's end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _filled(number: int, name: str, mode: int) -> bool:
    """Whether it was closed; it leads nowhere then."""
    try:
        os.fstat(number)
    except OSError:
        os.open(os.devnull, mode)  # the lowest number that is free
        setattr(sys, name, os.fdopen(number, "r" if mode == os.O_RDONLY else "w", closefd=False))
        return True
    return False


def say(line: str) -> None:
    """One line for a person, on stderr."""
    print(plain(line), file=sys.stderr, flush=True)


def print_json(document: dict[str, Any] | list[Any]) -> None:
    """The one document on stdout."""
    print(json.dumps(document, indent=2, ensure_ascii=False, default=str))


def print_json_stream(
    head: dict[str, Any],
    name: str,
    items: Iterable[dict[str, Any]],
    tail: Callable[[], dict[str, Any]] = dict,
) -> None:
    """The one document on stdout, with a list that is not held in memory: the keys of `head`, `name` with `items`,
    then the keys of `tail`, which is asked once all items have been printed.
    """
    write = sys.stdout.write
    write("{\n")
    for key, value in head.items():
        write(f"  {_json(key)}: {_json(value)},\n")
    write(f"  {_json(name)}: [")
    separator = "\n"
    for item in items:
        write(f"{separator}    {_json(item)}")
        separator = ",\n"
    write("\n  ]" if separator != "\n" else "]")
    for key, value in tail().items():
        write(f",\n  {_json(key)}: {_json(value)}")
    write("\n}\n")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
