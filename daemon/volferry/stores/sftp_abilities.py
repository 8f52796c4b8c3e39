"""What an SFTP server, and an account on it, can do: found out by trying, once, beside the objects."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from volferry.stores.sftp_directories import TEMPORARY
from volferry.stores.sftp_packets import (
    CLOSE,
    EXTENDED,
    HARDLINK,
    LSTAT,
    OPEN,
    OPEN_CREATE,
    OPEN_EXCLUSIVE,
    OPEN_WRITE,
    POSIX_RENAME,
    REMOVE,
    RENAME,
    Refused,
    mode,
    number,
    string,
)

if TYPE_CHECKING:
    from volferry.stores.sftp_connection import Connection
    from volferry.stores.sftp_directories import Directories

FILE_MODE = 0o600


@dataclass(frozen=True, slots=True)
class Abilities:
    """Of one account."""

    # `keeps`: a name that is taken stays with the file that has it, as the protocol wants it; `overwrites`: it does not.
    rename: Literal["keeps", "overwrites", "denied"]
    rename_words: str  # of the server, where it is denied
    links: bool
    replaces: bool  # in one step
    deletes: bool
    exact_names: bool  # upper case is not lower, and a dot at the end stays


def find_abilities(connection: Connection, directories: Directories) -> Abilities:
    """By small files of its own. What cannot be removed stays. Raises Refused where none can be made."""
    directories.make(connection, TEMPORARY)
    mark = secrets.token_hex(8)

    def path(name: str) -> str:
        return directories.path(f"{TEMPORARY}/{mark}.{name}.part")

    dotted = f"{path('dot')}."
    made = [*(path(name) for name in "abcd"), dotted]
    try:
        for each in made:
            make_file(connection, each)
        over, words = _tried(connection, RENAME, string(path("a")), string(path("b")))
        renames = over or _tried(connection, RENAME, string(path("a")), string(path("e")))[0]
        linked = string(HARDLINK), string(path("c")), string(path("f"))
        links = connection.has_links and _tried(connection, EXTENDED, *linked)[0]
        replaced = string(POSIX_RENAME), string(path("c")), string(path("d"))
        replaces = connection.can_replace and _tried(connection, EXTENDED, *replaced)[0]
        exact = not _is_there(connection, path("B")) and not _is_there(connection, path("dot"))
    finally:
        left = [each for each in (*made, path("e"), path("f"), path("dot")) if not _removed(connection, each)]
    return Abilities(
        rename="overwrites" if over else "keeps" if renames else "denied",
        rename_words="" if renames else words,
        links=links,
        replaces=replaces or over,
        deletes=not left,
        exact_names=exact,
    )


def make_file(connection: Connection, path: str) -> None:
    """An empty one, which is not there yet. Raises Refused."""
    flags = number(OPEN_WRITE | OPEN_CREATE | OPEN_EXCLUSIVE)
    handle = connection.call(OPEN, string(path), flags, mode(FILE_MODE)).handle()
    connection.call(CLOSE, string(handle)).done()


def _tried(connection: Connection, kind: int, *parts: bytes) -> tuple[bool, str]:
    """Whether it was done, and else what the server says."""
    try:
        connection.call(kind, *parts).done()
    except Refused as error:
        return False, error.text
    return True, ""


def _is_there(connection: Connection, path: str) -> bool:
    try:
        connection.call(LSTAT, string(path)).attributes()
    except Refused:
        return False
    return True


def _removed(connection: Connection, path: str) -> bool:
    """Whether it is gone, or never was."""
    return _tried(connection, REMOVE, string(path))[0] or not _is_there(connection, path)
