"""Directories of a store on an SFTP server, and how its objects are laid out in them: as those of a local store are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volferry.errors import NoSuchStore, StoreError
from volferry.stores.sftp_packets import (
    CLOSE,
    EOF,
    LSTAT,
    MKDIR,
    NO_SUCH_FILE,
    OPENDIR,
    READDIR,
    STAT,
    Garbled,
    Refused,
    mode,
    string,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Future

    from volferry.stores.sftp_client import Client
    from volferry.stores.sftp_connection import Connection
    from volferry.stores.sftp_packets import Entry, Reply

TEMPORARY = ".tmp"  # a name that no key has
DIRECTORY_MODE = 0o700
_ATTEMPTS = 20  # to make a directory that other runs remove
_AT_ONCE = 32  # directories that are read
_FIRST_READS = 2  # the names of a small directory, and its end
_MORE_READS = 8
_MOST_NAMES = 1_000_000  # in one directory: a server may go on for ever


class Directories:
    """Of one store."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._root = client.remote.path
        self._there: set[str] = set()
        self._exact: set[str] = set()
        self.was_there = False  # a store that was there and is gone is not made anew: its share was unmounted

    def path(self, key: str) -> str:
        """On the server."""
        return f"{self._root}/{key}" if key else self._root

    def make(self, connection: Connection, directory: str, *, exact_names: bool = True) -> None:
        """With all above it. Without `exact_names`, it is looked whether the server keeps the name as it is. Raises Refused, StoreError."""
        if directory in self._there:
            return
        if not directory:
            self._make_root(connection)
        else:
            self.make(connection, directory.rpartition("/")[0], exact_names=exact_names)
            self._make_one(connection, self.path(directory))
            if not exact_names and directory != TEMPORARY:
                self.check_exact(connection, directory)
        self._there.add(directory)

    def forget(self) -> None:
        """Which of them are there: another run has removed an empty one."""
        self._there.clear()

    def _make_root(self, connection: Connection) -> None:
        if self.was_there:
            try:
                connection.call(STAT, string(self._root)).attributes()
            except Refused as error:
                if error.code == NO_SUCH_FILE:
                    raise NoSuchStore(
                        f"the store {self._client.url} is gone: is it still mounted there?"
                    ) from error
                raise
            return
        self._make_with_parents(connection, self._root)

    def _make_with_parents(self, connection: Connection, path: str) -> None:
        try:
            found = connection.call(STAT, string(path)).attributes()
        except Refused as error:
            if error.code != NO_SUCH_FILE:
                raise
        else:
            if found.mode is not None and not found.is_directory:
                raise StoreError(
                    f"{path} at {self._client.url} is not a directory: a store needs one of its own"
                )
            return
        parent = path.rpartition("/")[0]
        if parent:
            self._make_with_parents(connection, parent)
        self._make_one(connection, path)

    @staticmethod
    def _make_one(connection: Connection, path: str) -> None:
        """One that is there will do. Raises Refused."""
        for attempt in range(_ATTEMPTS):
            try:
                return connection.call(MKDIR, string(path), mode(DIRECTORY_MODE)).done()
            except Refused as refused:
                try:
                    found = connection.call(LSTAT, string(path)).attributes()
                except Refused as missing:
                    # It was there, and another run has just removed it; or it is refused for another reason.
                    if missing.code == NO_SUCH_FILE == refused.code or attempt == _ATTEMPTS - 1:
                        raise refused from None
                else:
                    if not found.is_directory:
                        raise
                    return None
        raise AssertionError

    def check_exact(self, connection: Connection, directory: str) -> None:
        """Raises StoreError if a directory that is there has another name there: a server that does not tell upper case from lower, or
        that drops a dot at the end, would mix the objects of two.
        """
        if not self.is_exact(connection, directory):
            raise StoreError(
                f"the store {self._client.url} cannot hold {directory.rpartition('/')[2]!r}: its file system takes that for the name of "
                "another directory; use one that tells upper case from lower"
            )

    def is_exact(self, connection: Connection, directory: str) -> bool:
        """Whether each directory on the way has just that name there."""
        if not directory or directory in self._exact:
            return True
        parent, _, name = directory.rpartition("/")
        if not self.is_exact(connection, parent):
            return False
        for _, entries in read_directories(connection, [self.path(parent)]):
            if name not in {each.name for each in entries or ()}:
                return False
        self._exact.add(directory)
        return True


def read_directories(
    connection: Connection, paths: Sequence[str]
) -> Iterator[tuple[str, list[Entry] | None]]:
    """The entries of each, several asked for at once; None for one that is gone. Raises Lost, Refused, Garbled."""
    for start in range(0, len(paths), _AT_ONCE):
        some = paths[start : start + _AT_ONCE]
        opening = [(path, connection.ask(OPENDIR, string(path))) for path in some]
        reading: list[tuple[str, bytes | None, list[Future[Reply]]]] = []
        for path, future in opening:
            try:
                handle = connection.wait(future).handle()
            except Refused as error:
                if error.code != NO_SUCH_FILE:
                    raise
                reading.append((path, None, []))
            else:
                asked = [connection.ask(READDIR, string(handle)) for _ in range(_FIRST_READS)]
                reading.append((path, handle, asked))
        for path, opened, asked in reading:
            if opened is None:
                yield path, None
                continue
            found = _entries(connection, opened, asked)
            connection.ask(CLOSE, string(opened))
            yield path, found


def _entries(connection: Connection, handle: bytes, asked: list[Future[Reply]]) -> list[Entry]:
    found: list[Entry] = []
    ended = False
    replies = 0
    while asked:
        replies += len(asked)  # there may be none in any of them
        if len(found) + replies > _MOST_NAMES:
            raise Garbled("a directory that has no end")
        for future in asked:
            try:
                found += connection.wait(future).entries()
            except Refused as error:
                if error.code != EOF:
                    raise
                ended = True
        asked = [] if ended else [connection.ask(READDIR, string(handle)) for _ in range(_MORE_READS)]
    return found
