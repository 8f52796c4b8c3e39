"""A new object on an SFTP server: written beside the others, and given its name when it is whole."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from volferry.errors import ObjectExists, StoreError
from volferry.interrupts import held_back
from volferry.stores.sftp_abilities import FILE_MODE
from volferry.stores.sftp_attributes import attributes_of_open
from volferry.stores.sftp_client import MOST_LOSSES
from volferry.stores.sftp_connection import Lost
from volferry.stores.sftp_directories import TEMPORARY
from volferry.stores.sftp_packets import (
    CLOSE,
    DENIED,
    EXTENDED,
    FAILURE,
    FSYNC,
    HARDLINK,
    LSTAT,
    NO_ATTRIBUTES,
    NO_SUCH_FILE,
    OPEN,
    OPEN_CREATE,
    OPEN_EXCLUSIVE,
    OPEN_READ,
    OPEN_WRITE,
    POSIX_RENAME,
    REMOVE,
    RENAME,
    WRITE,
    Garbled,
    Refused,
    large_number,
    mode,
    number,
    string,
)
from volferry.stores.unfinished import foreign_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from volferry.stores.sftp_abilities import Abilities
    from volferry.stores.sftp_access import Access
    from volferry.stores.sftp_connection import Connection
    from volferry.stores.sftp_packets import Reply

_ATTEMPTS = (
    100  # to name an object, each lost to another run that removed an empty directory in the moment before
)
# What the server has not brought to stable storage stays in memory, to be sent again: a server that starts anew forgets the rest.
_SYNC_BYTES = 16 << 20
_MOST_KEPT = 2 * _SYNC_BYTES
_MOST_UNANSWERED = 8 << 20


class _Sent(NamedTuple):
    """A request on its way."""

    future: Future[Reply]
    size: int
    safe_until: int  # bytes of the object that are safe when it is done; 0 for one that says nothing of that
    end: int  # of the bytes that were sent by then


class SftpWriter:
    """Implements `ObjectWriter`. Memory: 32 MiB."""

    def __init__(self, access: Access, key: str, *, replaces: bool = False) -> None:
        """With `replaces`, an object of that key is overwritten. Raises StoreError."""
        self._access = access
        self._client = access.client
        self._key = key
        self._replaces = replaces
        self.name = foreign_name()
        self._path = access.directories.path(f"{TEMPORARY}/{self.name}")
        self._connection: Connection | None = None
        self._handle = b""
        self._may_be_there = False
        self._packet_bytes = 0
        self._waiting: list[memoryview] = []  # less than a packet
        self._waiting_bytes = 0
        self._bytes = 0  # that were sent, or are to be sent again
        self._kept: deque[tuple[int, bytes]] = deque()  # with their offsets: not safe yet
        self._kept_bytes = 0
        self._safe = 0  # up to there, the server has it on stable storage
        self._syncing = 0  # up to there, that was asked for
        self._sent: deque[_Sent] = deque()
        self._unanswered = 0
        self._losses = 0  # of connections, since anything was answered
        self._naming = 0  # times that a name was asked for
        self._open = True
        access.uploads.begun(self.name, self.name)
        try:
            self._call(self._begin)
        except BaseException:
            self.abort()
            raise

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            piece = view[: self._packet_bytes - self._waiting_bytes]
            view = view[len(piece) :]
            self._waiting.append(piece)
            self._waiting_bytes += len(piece)
            if self._waiting_bytes >= self._packet_bytes:
                self._flush()

    def commit(self) -> None:
        try:
            if self._waiting:
                self._flush()
            self._carried(self._settle)
            self._call(self._name_it)
            self._may_be_there = False
        finally:
            self.abort()

    def abort(self) -> None:
        if not self._open:
            return
        with held_back():
            self._open = False
            self._waiting = []
            self._kept.clear()
            self._leave()
            if not self._may_be_there or self._client.quietly(REMOVE, string(self._path)):
                self._access.uploads.ended(self.name)

    # --- one object, on as many connections as it takes -------------------------------------------------

    def _call(self, request: Callable[[Connection], None]) -> None:
        """Raises StoreError."""
        asked: Connection | None = None

        def remembering(connection: Connection) -> None:
            nonlocal asked
            asked = connection
            request(connection)

        what = f"write {self._key}"
        try:
            self._client.call(what, remembering)
        except Refused as error:
            raise self._refusal(error, asked) from error

    def _carried(self, request: Callable[[Connection], None]) -> None:
        """As `_call`, on the connection that has the file open; where that is lost, on another one that goes on. Raises StoreError."""
        while True:
            try:
                if self._connection is None:
                    raise Lost("the connection was lost")
                request(self._connection)
            except Lost as error:
                self._losses += 1
                if self._losses > MOST_LOSSES:
                    raise self._client.unreachable(f"write {self._key}", error) from error
                self._call(self._begin)
            except Refused as error:
                raise self._refusal(error, self._connection) from error
            except Garbled as error:
                raise StoreError(
                    f"cannot write {self._key} to the store {self._client.url}: what the server answers is not SFTP: {error}"
                ) from error
            else:
                return

    def _refusal(self, error: Refused, connection: Connection | None) -> StoreError:
        try:
            return self._client.error(f"write {self._key}", error, connection)
        except Lost:
            return self._client.error(f"write {self._key}", error)

    def _begin(self, connection: Connection) -> None:
        """Opens the unfinished file, and sends once more what is not safe in it."""
        self._leave()
        flags = OPEN_WRITE
        if (
            not self._safe
        ):  # nobody else has its name: one that is there is our own, of which the answer was lost
            flags |= OPEN_CREATE if self._may_be_there else OPEN_CREATE | OPEN_EXCLUSIVE
        directories = self._access.directories
        self._access.abilities(connection)  # before much is sent that could get no name
        self._may_be_there = True
        for attempt in range(_ATTEMPTS):
            directories.make(connection, TEMPORARY)
            try:
                self._handle = connection.call(
                    OPEN, string(self._path), number(flags), mode(FILE_MODE)
                ).handle()
                break
            except Refused as error:
                if error.code != NO_SUCH_FILE or attempt == _ATTEMPTS - 1 or self._safe:
                    raise
                directories.forget()
        directories.was_there = True
        self._connection = connection
        connection.opened(1)
        self._packet_bytes = connection.write_bytes
        self._syncing = self._safe
        if self._safe and (self._written(connection) or 0) < self._safe:
            raise StoreError(
                f"cannot write {self._key} to the store {self._client.url}: the server has lost what it had of it"
            )
        for offset, data in list(self._kept):
            self._send(connection, offset, data)

    def _flush(self) -> None:
        """What waits becomes a packet on its way."""
        data = b"".join(self._waiting)
        self._waiting, self._waiting_bytes = [], 0
        offset = self._bytes
        with held_back():
            self._kept.append((offset, data))
            self._kept_bytes += len(data)
            self._bytes += len(data)
        sent = False

        def send(connection: Connection) -> None:
            nonlocal sent
            if not sent:
                sent = True  # also where it is not: what is kept is sent again
                self._send(connection, offset, data)
            while self._kept_bytes > _MOST_KEPT:
                if not self._sent:
                    self._sync(connection)
                self._take_answer(connection)

        self._carried(send)

    def _send(self, connection: Connection, offset: int, data: bytes) -> None:
        while self._sent and self._unanswered + len(data) > _MOST_UNANSWERED:
            self._take_answer(connection)
        # Packets of the connection before may be larger than this one takes.
        for start in range(0, len(data), connection.write_bytes):
            piece = memoryview(data)[start : start + connection.write_bytes]
            end = offset + start + len(piece)
            self._access.throttle.up.take(len(piece))
            future = connection.ask(
                WRITE, string(self._handle) + large_number(offset + start) + number(len(piece)), piece
            )
            safe = 0 if self._access.can_sync(connection) else end
            self._sent.append(_Sent(future, len(piece), safe, end))
            self._unanswered += len(piece)
        if offset + len(data) - self._syncing >= _SYNC_BYTES:
            self._sync(connection)

    def _sync(self, connection: Connection) -> None:
        """Of all that was sent: a server does what concerns one file in the order in which it was asked (section 3 of the draft)."""
        until = self._sent[-1].end if self._sent else self._bytes
        if not self._access.can_sync(connection) or until <= self._syncing:
            return
        future = connection.ask(EXTENDED, string(FSYNC), string(self._handle))
        self._sent.append(_Sent(future, 0, until, until))
        self._syncing = until

    def _take_answer(self, connection: Connection) -> None:
        """Raises Lost, Refused, Garbled."""
        sent = self._sent[0]
        reply = connection.wait(sent.future)
        self._sent.popleft()
        self._unanswered -= sent.size
        try:
            reply.done()
        except Refused as error:
            if sent.size or error.code not in DENIED:
                raise
            self._access.syncs_nothing()
        self._losses = 0
        if sent.safe_until:
            self._safe = sent.safe_until
            while self._kept and self._kept[0][0] + len(self._kept[0][1]) <= self._safe:
                self._kept_bytes -= len(self._kept.popleft()[1])

    def _settle(self, connection: Connection) -> None:
        """All of it is on the server, on stable storage as far as that can be asked for, and closed."""
        self._sync(connection)
        while self._sent:
            self._take_answer(connection)
        size = self._written(connection)
        if size != self._bytes:
            raise StoreError(
                f"cannot write {self._key} to the store {self._client.url}: the server has {size} of {self._bytes} bytes"
            )
        connection.call(CLOSE, string(self._handle)).done()
        connection.opened(-1)
        self._connection = None

    def _written(self, connection: Connection) -> int | None:
        """Bytes that the server has of it."""
        return attributes_of_open(connection, self._handle, self._path).size

    def _leave(self) -> None:
        connection, self._connection = self._connection, None
        self._sent.clear()
        self._unanswered = 0
        if connection is not None:
            connection.opened(-1)
            with suppress(Lost):
                connection.ask(CLOSE, string(self._handle))

    # --- its name ---------------------------------------------------------------------------------------

    def _name_it(self, connection: Connection) -> None:
        """On stable storage, as far as that can be asked for."""
        abilities = self._access.abilities(connection)
        directories = self._access.directories
        parent = self._key.rpartition("/")[0]
        final = directories.path(self._key)
        for attempt in range(_ATTEMPTS):
            try:
                directories.make(connection, parent, exact_names=abilities.exact_names)
                self._give_name(connection, final, abilities)
                break
            except Refused as error:
                there = self._size(connection, final)
                unfinished = self._size(connection, self._path) is not None
                if (
                    there == self._bytes
                    and self._was_named
                    and not (unfinished and abilities.rename == "keeps")
                ):
                    break  # by an attempt whose answer was lost
                if there is not None and not self._replaces:
                    raise self._exists() from error
                if not unfinished or error.code != NO_SUCH_FILE or attempt == _ATTEMPTS - 1:
                    if error.code in DENIED:
                        self._access.forget()
                    raise
                # Another run has deleted the last object of the directory, and the directory with it.
                directories.forget()
        self._sync_name(connection, final)

    def _give_name(self, connection: Connection, final: str, abilities: Abilities) -> None:
        names = string(self._path), string(final)
        renames = abilities.rename != "denied"
        if self._replaces and abilities.rename != "overwrites" and abilities.replaces:
            self._naming += 1
            connection.extended(POSIX_RENAME, *names).done()
        elif renames and (self._replaces or abilities.rename == "keeps" or not abilities.links):
            # For servers that do not do it: nobody else writes the same key on purpose, for ids are random.
            if (
                abilities.rename == "overwrites"
                and not self._replaces
                and self._size(connection, final) is not None
            ):
                raise Refused(FAILURE, "it is there")
            self._naming += 1
            connection.call(RENAME, *names).done()
        else:
            self._naming += 1
            connection.extended(HARDLINK, *names).done()
            with suppress(Refused):
                connection.call(REMOVE, names[0]).done()

    @property
    def _was_named(self) -> bool:
        """Whether it may have been, by an attempt before the last."""
        return self._naming > 1

    def _sync_name(self, connection: Connection, final: str) -> None:
        """A directory cannot be synced. A file that is, is with the name that it has by now, on most file systems."""
        if not self._access.can_sync(connection):
            return
        handle = connection.call(OPEN, string(final), number(OPEN_READ), NO_ATTRIBUTES).handle()
        synced = connection.ask(EXTENDED, string(FSYNC), string(handle))
        connection.ask(CLOSE, string(handle))
        try:
            connection.wait(synced).done()
        except Refused as error:
            if error.code not in DENIED:
                raise
            self._access.syncs_nothing()

    @staticmethod
    def _size(connection: Connection, path: str) -> int | None:
        """None where nothing is."""
        try:
            return connection.call(LSTAT, string(path)).attributes().size or 0
        except Refused:
            return None

    def _exists(self) -> ObjectExists:
        return ObjectExists(f"{self._key} is in the store {self._client.url} already")
