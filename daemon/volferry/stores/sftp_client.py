"""Talks to an SFTP server: a few connections, what is tried again, and what an error means, in one line."""

from __future__ import annotations

import random
import threading
import time
import weakref
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from volferry.errors import DeletionDenied, NoSuchObject, StoreError, StoreUnreachable
from volferry.stores.sftp_connection import FIRST_SECONDS, Connection, Lost
from volferry.stores.sftp_packets import (
    DENIED,
    NO_SPACE,
    NO_SUCH_FILE,
    QUOTA_EXCEEDED,
    STATVFS,
    Garbled,
    Refused,
    string,
)
from volferry.stores.sftp_ssh import Ssh

if TYPE_CHECKING:
    from collections.abc import Callable

    from volferry.store_config import StoreConfig
    from volferry.stores.places import Remote

# Of one call, with up to 0.5, 1, 2 … 20 s in between: some 40 s, as for buckets.
_ATTEMPTS = 8
_FIRST_ATTEMPTS = 4  # as long as the server has never answered: it may be mistyped
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 20
# Servers refuse more: MaxStartups of sshd begins to at 10, storage boxes at 10 for all machines of an account.
_MOST_CONNECTIONS = 3
_BUSY_REQUESTS = 4  # that a connection has on its way, where another one may be worth it
_NEARLY_FULL = 1 << 20
_QUIET_SECONDS = 10
MOST_LOSSES = 8  # of connections, one after the other, that carried nothing

T = TypeVar("T")


class Space(NamedTuple):
    """Of the server's file system."""

    free_bytes: int
    free_files: int


class Client:
    """One account on one server. Nothing is sent before the first call."""

    def __init__(self, remote: Remote, settings: StoreConfig) -> None:
        self.remote = remote
        self.url = remote.url
        self._ssh = Ssh(remote, settings)
        self._connections: list[Connection] = []
        self._most = _MOST_CONNECTIONS
        self._has_answered = False
        self._opening = threading.Lock()
        # Threads of a connection hold it: only so does it end with the last user of this.
        weakref.finalize(self, _close, self._connections)

    def call(self, what: str, request: Callable[[Connection], T]) -> T:
        """The result of `request`, which is tried again on a new connection where the one before was lost, with pauses that grow.

        `what` completes "cannot …", such as `write KEY`. Raises Refused for an answer of the server's own, else StoreError.
        """
        began = time.monotonic()
        for attempt in range(_ATTEMPTS):
            try:
                result = request(self._connection())
            except Lost as error:
                if not error.may_pass or self._is_enough(attempt + 1, time.monotonic() - began):
                    raise self.unreachable(what, error) from error
            except Refused:
                self._has_answered = True
                raise
            except (Garbled, ValueError, OverflowError) as error:
                raise StoreError(
                    f"cannot {what} in the store {self.url}: what the server answers is not SFTP: {error}"
                ) from error
            else:
                self._has_answered = True
                return result
            pause = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2**attempt)
            time.sleep(random.uniform(0.5, 1) * pause)  # noqa: S311 -- jitter
        raise AssertionError("unreachable")

    def _is_enough(self, attempts: int, seconds: float) -> bool:
        """One that has never answered, and takes its time for that, is not waited for again and again."""
        if self._has_answered:
            return attempts >= _ATTEMPTS
        return attempts >= _FIRST_ATTEMPTS or seconds >= FIRST_SECONDS

    def _connection(self) -> Connection:
        """The one with the least to do, or a new one where all have much. Raises Lost, StoreError."""
        with self._opening:  # one after the other: servers drop who comes with many at once
            living = [each for each in self._connections if not each.is_lost]
            self._connections[:] = living
            best = min(living, key=lambda each: each.pending, default=None)
            if best is not None and (best.pending < _BUSY_REQUESTS or len(living) >= self._most):
                return best
            try:
                new = Connection(self._ssh)
            except Lost:
                if best is None:
                    raise
                self._most = len(living)  # it has what it gets
                return best
            self._connections.append(new)
            return new

    def quietly(self, kind: int, *parts: bytes) -> bool:
        """Whether a server that can be reached by now has done it, or says that there is no such file. Never raises."""
        connection = next((each for each in self._connections if not each.is_lost), None)
        if connection is None:
            return False
        try:
            connection.ask(kind, *parts).result(_QUIET_SECONDS).done()
        except Refused as error:
            return error.code == NO_SUCH_FILE
        except (Lost, Garbled, TimeoutError):
            return False
        return True

    def close(self) -> None:
        with self._opening:
            _close(self._connections)

    def unreachable(self, what: str, error: Lost) -> StoreError:
        """What a user is told of a connection that cannot be had, or is lost each time."""
        if not self._has_answered or not error.may_pass:
            return StoreUnreachable(f"cannot reach {self.url}: {error.text}")
        return StoreError(f"cannot {what} in the store {self.url}: {error.text}")

    def error(self, what: str, refused: Refused, connection: Connection | None = None) -> StoreError:
        """What a user is told of an answer. With a connection, it is asked whether there is room."""
        said = f'the server says "{refused.text}"'
        if refused.code in {NO_SPACE, QUOTA_EXCEEDED}:
            return StoreError(f"cannot {what} in the store {self.url}: no space is left on it: {said}")
        if connection is not None and refused.code not in {*DENIED, NO_SUCH_FILE}:
            space = self.space(connection)
            if space is not None and (space.free_bytes < _NEARLY_FULL or not space.free_files):
                said = f"no space is left on it: {said}"
            elif space is None or refused.text.lower() == "failure":
                said += ", which may be a full disk or a quota that is used up"
        elif refused.code in DENIED:
            request = f' to "{refused.request}"' if refused.request else ""
            said += f"{request}: check what this account may do there"
        return StoreError(f"cannot {what} in the store {self.url}: {said}")

    def missing(self, key: str, why: str = "") -> NoSuchObject:
        return NoSuchObject(f"{key} is missing from the store {self.url}{why}")

    def delete_denied(self, key: str, refused: Refused) -> DeletionDenied:
        return DeletionDenied(
            f'{key} in the store {self.url} stays: this account may not delete it (the server says "{refused.text}")'
        )

    def space(self, connection: Connection, path: str = "") -> Space | None:
        """For this account; None where the server does not tell. Never raises but Lost."""
        if not connection.tells_space:
            return None
        try:
            reply = connection.extended(STATVFS, string(path or self.remote.path)).extended()
            numbers = [reply.large_number() for _ in range(11)]
        except (Refused, Garbled):
            return None
        _, fragment, blocks, _, available, files, _, free_files, *_ = numbers
        if not blocks:
            return None
        return Space(available * fragment, free_files if files else 1)


def _close(connections: list[Connection]) -> None:
    for each in connections:
        each.close()
    connections.clear()
