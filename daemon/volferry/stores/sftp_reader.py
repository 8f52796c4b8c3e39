"""Objects on their way from an SFTP server: several pieces of one are asked for ahead."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple, Self

from volferry.errors import DamagedObject, StoreError
from volferry.stores.sftp_client import MOST_LOSSES
from volferry.stores.sftp_connection import Connection, Lost
from volferry.stores.sftp_packets import (
    CLOSE,
    EOF,
    FAILURE,
    LSTAT,
    NO_ATTRIBUTES,
    NO_SUCH_FILE,
    OPEN,
    OPEN_READ,
    READ,
    Garbled,
    Refused,
    large_number,
    number,
    string,
)

if TYPE_CHECKING:
    from concurrent.futures import Future
    from datetime import datetime
    from types import TracebackType

    from volferry.stores.sftp_access import Access
    from volferry.stores.sftp_packets import Reply

_AHEAD_BYTES = 4 << 20
_MOST_AHEAD = 64  # requests
_LIMITED_AHEAD = 4


class _Piece(NamedTuple):
    """One that was asked for."""

    offset: int
    size: int
    future: Future[Reply]


class SftpReader:
    """Implements `ObjectReader`."""

    def __init__(self, access: Access, path: str, key: str, offset: int, length: int | None) -> None:
        """Raises NoSuchObject, StoreError."""
        self._client = access.client
        self._throttle = access.throttle.down
        self._path = path
        self._key = key
        self._connection: Connection | None = None
        self._handle = b""
        self._ahead: deque[_Piece] = deque()
        self._data = memoryview(b"")
        self._at = offset  # of what is given next, `_data` aside
        self._asked = offset  # up to there
        self._wanted_end = None if length is None else offset + length
        self._end = offset
        self._was: tuple[int, datetime | None] | None = None
        self._failed_before = False
        self._losses = 0  # since anything came
        self._client_call_open()

    def read(self, size: int) -> bytes:
        while not self._data and self._at < self._end:
            self._data = self._next()
        piece = bytes(self._data[:size])
        self._data = self._data[size:]
        return piece

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _client_call_open(self) -> None:
        what = f"read {self._key}"
        try:
            self._client.call(what, self._open)
        except Refused as error:
            raise self._refusal(error) from error

    def _refusal(self, error: Refused) -> StoreError:
        if error.code == NO_SUCH_FILE:
            return self._client.missing(self._key)
        return self._client.error(f"read {self._key}", error)

    def _open(self, connection: Connection) -> None:
        """From `_at` on. A link or a FIFO is none of ours, and nothing waits for one."""
        self._leave()
        found = connection.call(LSTAT, string(self._path)).attributes()
        if not found.is_file or found.size is None:
            raise self._client.missing(self._key, ": something else is in its place")
        if self._was not in {None, (found.size, found.modified)}:
            raise StoreError(f"cannot read {self._key} in the store {self._client.url}: it changed meanwhile")
        self._was = (found.size, found.modified)
        self._end = found.size if self._wanted_end is None else min(found.size, self._wanted_end)
        self._asked = self._at
        if self._at >= self._end:
            return
        self._handle = connection.call(OPEN, string(self._path), number(OPEN_READ), NO_ATTRIBUTES).handle()
        self._connection = connection
        connection.opened(1)
        self._ask_ahead()

    def _ask_ahead(self) -> None:
        connection = self._connection
        if connection is None:
            return
        most = min(_MOST_AHEAD, max(2, _AHEAD_BYTES // connection.read_bytes))
        while self._asked < self._end and len(self._ahead) < most:
            # Asking for little at a time is what slows a server down.
            if self._ahead and self._throttle.is_limited and len(self._ahead) >= _LIMITED_AHEAD:
                return
            size = min(connection.read_bytes, self._throttle.piece_bytes, self._end - self._asked)
            self._throttle.take(size)
            self._ahead.append(self._piece(connection, self._asked, size))
            self._asked += size

    def _piece(self, connection: Connection, offset: int, size: int) -> _Piece:
        future = connection.ask(READ, string(self._handle), large_number(offset), number(size))
        return _Piece(offset, size, future)

    def _next(self) -> memoryview:
        """What comes next. Raises StoreError, DamagedObject."""
        while True:
            try:
                return self._taken()
            except Lost as error:
                self._losses += 1
                if self._losses > MOST_LOSSES:
                    raise self._client.unreachable(f"read {self._key}", error) from error
            except Refused as error:
                # A disk, or a cable, may do better the second time.
                if error.code != FAILURE or self._failed_before:
                    raise self._unreadable(error) from error
                self._failed_before = True
            except Garbled as error:
                raise StoreError(
                    f"cannot read {self._key} in the store {self._client.url}: what the server answers is not SFTP: {error}"
                ) from error
            self._client_call_open()

    def _taken(self) -> memoryview:
        """Raises Lost, Refused, Garbled: then nothing was taken."""
        # After an error, also one that somebody else met, only what follows on `_at` may be given.
        if self._connection is None or not self._ahead or self._ahead[0].offset != self._at:
            raise Lost("the connection was lost")
        piece = self._ahead.popleft()
        reply = self._connection.wait(piece.future)
        try:
            data = reply.data()
        except Refused as error:
            if error.code != EOF:
                raise
            data = memoryview(b"")
        if not data:
            raise StoreError(f"cannot read {self._key} in the store {self._client.url}: it changed meanwhile")
        if len(data) > piece.size:
            raise Garbled("more comes than was asked for")
        self._at += len(data)
        self._failed_before = False
        self._losses = 0
        try:
            if len(data) < piece.size:  # a server may give less: the rest comes first
                rest = self._piece(self._connection, self._at, piece.size - len(data))
                self._ahead.appendleft(rest)
            self._ask_ahead()
        except Lost:
            self._ahead.clear()  # what has come is good; the rest is asked for anew when it is wanted
        return data

    def _unreadable(self, error: Refused) -> StoreError | DamagedObject:
        if error.code == FAILURE:
            return DamagedObject(self._key, f'the server cannot read it ("{error.text}")')
        return self._refusal(error)

    def _leave(self) -> None:
        """Closes it, and waits for nothing."""
        connection, self._connection = self._connection, None
        self._ahead.clear()
        if connection is None:
            return
        connection.opened(-1)
        try:
            connection.ask(CLOSE, string(self._handle))
        except Lost:
            pass
