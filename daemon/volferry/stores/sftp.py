"""A store in a directory on another machine, by SFTP: laid out as a local store is, so that one can be copied to become the other.

An object is written to `.tmp/`, synced where the server can do that, and renamed: it is there whole or not at all. What dead writers
left there is known from this machine's state directory, or by its age.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from volferry.errors import DeletionDenied, ObjectExists, StoreError
from volferry.stores.base import is_valid_key, validate_key, write_whole
from volferry.stores.places import remote_of
from volferry.stores.sftp_abilities import FILE_MODE
from volferry.stores.sftp_access import Access
from volferry.stores.sftp_attributes import attributes_of, attributes_of_open
from volferry.stores.sftp_directories import DIRECTORY_MODE, TEMPORARY, read_directories
from volferry.stores.sftp_listing import entries_in, info_of, objects_below
from volferry.stores.sftp_packets import (
    CLOSE,
    DENIED,
    LSTAT,
    MKDIR,
    NO_SUCH_FILE,
    OPEN,
    OPEN_CREATE,
    OPEN_TRUNCATE,
    OPEN_WRITE,
    REMOVE,
    RMDIR,
    WRITE,
    Refused,
    large_number,
    mode,
    number,
    string,
)
from volferry.stores.sftp_probe import probe
from volferry.stores.sftp_reader import SftpReader
from volferry.stores.sftp_writer import SftpWriter
from volferry.stores.throttle import Throttle
from volferry.stores.unfinished import UNFINISHED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from volferry.model import ObjectInfo
    from volferry.store_config import StoreConfig
    from volferry.stores.probe import Probe
    from volferry.stores.sftp_connection import Connection
    from volferry.stores.sftp_packets import Attributes

_LEFT_FOR = timedelta(days=1)  # what writers of other machines have not touched for so long, they have left
_CLOCK = "clock"

T = TypeVar("T")


class SftpStore:
    """Implements `Store`. Nothing is sent before the first call; the directory is made by the first `create`, not before.

    `state` is a directory for what this machine remembers of the server; `note` is told what a user should know, once.
    """

    def __init__(
        self,
        settings: StoreConfig,
        *,
        state: Path | None = None,
        note: Callable[[str], None] = lambda _: None,
        throttle: Throttle | None = None,
    ) -> None:
        """Raises UsageError for a URL that cannot be one."""
        self._access = Access(remote_of(settings.url), settings, state, note)
        self._client = self._access.client
        self._access.throttle = throttle or Throttle()
        self._directories = self._access.directories

    @property
    def url(self) -> str:
        return self._client.url

    @property
    def place(self) -> str:
        return self.url

    def close(self) -> None:
        """Ends the connections. The store can be used again."""
        self._client.close()

    def create(self, key: str, *, replaces: bool = False) -> SftpWriter:
        validate_key(key)
        if replaces:
            self._call(f"write {key}", lambda connection: self._check_replacing(connection, key))
        return SftpWriter(self._access, key, replaces=replaces)

    def _check_replacing(self, connection: Connection, key: str) -> None:
        """Raises DeletionDenied for an object that nobody here can put another one in place of."""
        if not self._access.abilities(connection).replaces and self._attributes(connection, key) is not None:
            raise DeletionDenied(
                f"{key} in the store {self.url} stays: this account may not rename over it (posix-rename@openssh.com)"
            )

    def replace(self, key: str, data: bytes) -> None:
        write_whole(self.create(key, replaces=True), data)

    def put_unlocked(self, key: str, data: bytes) -> None:
        validate_key(key)
        # Where nothing can be deleted, each attempt to write over it would leave a file behind.
        if self._call(f"write {key}", lambda connection: self._attributes(connection, key)) is not None:
            raise ObjectExists(f"{key} is in the store {self.url} already")
        write_whole(self.create(key), data)

    def open(self, key: str, *, offset: int = 0, length: int | None = None) -> SftpReader:
        path = self._directories.path(validate_key(key))
        reader = SftpReader(self._access, path, key, offset, length)
        self._directories.was_there = True
        return reader

    def size(self, key: str) -> int:
        validate_key(key)
        found = self._call(f"read {key}", lambda connection: self._attributes(connection, key))
        if found is None:
            raise self._client.missing(key)
        if not found.is_file or found.size is None:
            raise self._client.missing(key, ": something else is in its place")
        return found.size

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        path = prefix.rpartition("/")[0]
        if path and not is_valid_key(path):
            return
        if not prefix:  # there may be much in it that is none of ours, and the first of it says so
            yield from self._list_all()
            return
        found = self._call(
            f"list {path or 'the objects'}",
            lambda connection: objects_below(connection, self._access, path, prefix),
        )
        yield from sorted(found, key=lambda info: info.key)

    def _list_all(self) -> Iterator[ObjectInfo]:
        top = self._call(
            "list the objects", lambda connection: entries_in(connection, self._access, [""], "")
        )
        for key, attributes in sorted(
            top, key=lambda each: f"{each[0]}/" if each[1].is_directory else each[0]
        ):
            if attributes.is_directory:
                yield from self.list(f"{key}/")
            else:
                yield info_of(key, attributes)

    def delete(self, key: str) -> None:
        path = self._directories.path(validate_key(key))
        try:
            self._client.call(f"delete {key}", lambda connection: self._delete(connection, path))
        except Refused as error:
            if error.code in DENIED:
                raise self._client.delete_denied(key, error) from error
            raise self._client.error(f"delete {key}", error) from error

    def _delete(self, connection: Connection, path: str) -> None:
        try:
            connection.call(REMOVE, string(path)).done()
        except Refused as error:
            if error.code == NO_SUCH_FILE:
                return
            try:  # a directory is no object
                if not connection.call(LSTAT, string(path)).attributes().is_file:
                    return
            except Refused as gone:
                if gone.code == NO_SUCH_FILE:
                    return
            raise
        parent = path.rpartition("/")[0]
        while parent != self._directories.path(""):
            try:
                connection.call(RMDIR, string(parent)).done()
            except Refused:
                return  # there is something in it, or it may not be
            self._directories.forget()
            parent = parent.rpartition("/")[0]

    def protect(self, keys: Iterable[str]) -> None:
        """A directory keeps nobody from deleting. A server may: by what an account may do."""

    def now(self) -> datetime:
        # What the server says of a file that was written just now.
        return self._call("ask for the time", self._time)

    def _time(self, connection: Connection) -> datetime:
        path = self._directories.path(f"{TEMPORARY}/{_CLOCK}")
        request = string(path), number(OPEN_WRITE | OPEN_CREATE | OPEN_TRUNCATE), mode(FILE_MODE)
        try:
            handle = connection.call(OPEN, *request).handle()
        except Refused as error:
            if error.code != NO_SUCH_FILE:
                raise
            # In the store, which is not made for this.
            connection.call(MKDIR, string(self._directories.path(TEMPORARY)), mode(DIRECTORY_MODE)).done()
            handle = connection.call(OPEN, *request).handle()
        connection.call(WRITE, string(handle), large_number(0), string(b"\n")).done()
        modified = attributes_of_open(connection, handle, path).modified
        connection.ask(CLOSE, string(handle))
        connection.ask(REMOVE, string(path))
        if modified is None:
            raise StoreError(f"the server of {self.url} does not say when a file was written")
        return modified

    def clean(self) -> None:
        for uploads in self._access.uploads.of_the_dead():
            for upload in uploads:
                self._remove_unfinished(upload.name)

    def abort_uploads(self) -> int:
        """Removes unfinished objects of dead runs, those of other machines when nothing was heard of them for a day. Returns how many."""
        self.clean()
        living = self._access.uploads.of_the_living()
        left = [info for info in self._unfinished() if info.key not in living]
        if not left:
            return 0
        oldest = self.now() - _LEFT_FOR
        return sum(self._remove_unfinished(info.key) for info in left if info.modified < oldest)

    def _unfinished(self) -> Sequence[ObjectInfo]:
        """Files, by their names."""

        def look(connection: Connection) -> Sequence[ObjectInfo]:
            ((_, entries),) = read_directories(connection, [self._directories.path(TEMPORARY)])
            # Nothing else: nobody knows whose it is.
            return [
                info_of(each.name, each.attributes)
                for each in entries or ()
                if each.name.endswith(UNFINISHED)
            ]

        return self._call("list unfinished objects", look)

    def _remove_unfinished(self, name: str) -> bool:
        """Whether it is gone. What cannot be removed is tried again by a later run."""
        if "/" in name:
            return False
        path = string(self._directories.path(f"{TEMPORARY}/{name}"))
        try:
            self._client.call("remove an unfinished object", lambda c: c.call(REMOVE, path).done())
        except Refused as error:
            return error.code == NO_SUCH_FILE
        except StoreError:
            return False
        return True

    def probe(self) -> Probe:
        """Tries the server. Raises StoreError where it cannot keep a store."""
        return self._call("try", lambda connection: probe(connection, self._access))

    def _attributes(self, connection: Connection, key: str) -> Attributes | None:
        return attributes_of(connection, self._directories.path(key))

    def _call(self, what: str, request: Callable[[Connection], T]) -> T:
        """Raises StoreError."""
        try:
            return self._client.call(what, request)
        except Refused as error:
            raise self._client.error(what, error) from error
