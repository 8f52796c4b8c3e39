"""One SFTP connection: requests of several threads on their way at once, each with the reply that comes for it."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO, cast

from volferry.interrupts import held_back
from volferry.stores.sftp_packets import (
    EXTENDED,
    FSYNC,
    HARDLINK,
    INIT,
    LIMITS,
    LONGEST_PACKET,
    MOST_BYTES,
    POSIX_RENAME,
    SAFE_BYTES,
    STATVFS,
    VERSION,
    Garbled,
    Refused,
    Reply,
    extensions_of,
    number,
    request_name,
    string,
)

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping

    from volferry.stores.sftp_ssh import Ssh

_READ_BYTES = 512 << 10
_MOST_QUEUED = 4 << 20  # bytes that wait for ssh to take them
_MOST_BUFFERS = 256  # of one call to the kernel, which takes 1024
_ANSWER_SECONDS = 120.0  # without anything from the server, while something is asked for: disks may have to start, or be synced
FIRST_SECONDS = 60.0  # until a server has greeted: a login may be slow, and disks may have to start
_IDLE_SECONDS = 30.0
_LOOK_SECONDS = 5.0
_WORDS_BYTES = 16 << 10
_END_SECONDS = 5
_LEAST_BYTES = 1024


class Lost(Exception):
    """The connection has ended: what was asked for may have been done or not."""

    def __init__(self, text: str, *, may_pass: bool = True) -> None:
        """`may_pass` if a new one is worth trying."""
        super().__init__(text)
        self.text = text
        self.may_pass = may_pass


class Connection:
    """Of one process of ssh. It ends by itself when nothing was asked for, and nothing open, for half a minute."""

    def __init__(self, ssh: Ssh) -> None:
        """Raises Lost, StoreUnreachable, ConfigError."""
        self._ssh = ssh
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._queue: deque[bytes | memoryview] = deque()
        self._queued_bytes = 0
        self._waiting: dict[int, tuple[Future[Reply], str]] = {}
        self._next_id = 1
        self._lost: Lost | None = None
        self._heard = time.monotonic()
        self._words = b""
        self._open_files = 0  # while there are any, it is not idle
        with held_back():
            self._process = ssh.start()
            threads = [
                threading.Thread(target=each, daemon=True, name="sftp")
                for each in (self._listen, self._take, self._send)
            ]
            self._listener = threads[0]  # begun first: the others may wait for it
            self._first: Future[Reply] = Future()
            self._queue.append(_packet(INIT, number(VERSION)))
            for thread in threads:
                thread.start()
        try:
            self.extensions = self._hello()
            self.write_bytes, self.read_bytes = self._limits()
        except BaseException:
            self.end(Lost("it was given up"))
            raise

    # --- what is asked for -------------------------------------------------------------------------

    def ask(self, kind: int, *parts: bytes | memoryview) -> Future[Reply]:
        """Sends a request; the reply comes into the future. Waits only where very much waits to be sent. Raises Lost."""
        future: Future[Reply] = Future()
        size = sum(len(part) for part in parts)
        name = request_name(kind, parts[0])
        with self._changed:
            while self._lost is None and self._queued_bytes > _MOST_QUEUED:
                self._changed.wait(_LOOK_SECONDS)
                self._check_heard()
            if self._lost is not None:
                raise self._lost
            with held_back():  # a request is sent whole
                request = self._next_id
                self._next_id = (request + 1) & 0xFFFFFFFF
                if not self._waiting:
                    self._heard = time.monotonic()
                self._waiting[request] = future, name
                self._queue.append(_header(kind, size + 4, request))
                self._queue.extend(parts)
                self._queued_bytes += size
                self._changed.notify_all()
        return future

    def wait(self, future: Future[Reply]) -> Reply:
        """Raises Lost."""
        while True:
            try:
                return future.result(_LOOK_SECONDS)
            except NotYet:
                with self._lock:
                    self._check_heard()

    def call(self, kind: int, *parts: bytes | memoryview) -> Reply:
        """Sends a request, and waits for the reply. Raises Lost."""
        return self.wait(self.ask(kind, *parts))

    def extended(self, name: str, *parts: bytes) -> Reply:
        return self.call(EXTENDED, string(name), *parts)

    def opened(self, files: int) -> None:
        """So many more of them, or, below 0, fewer."""
        with self._lock:
            self._open_files += files

    @property
    def is_lost(self) -> bool:
        return self._lost is not None

    @property
    def pending(self) -> int:
        """How many requests it has."""
        return len(self._waiting)

    @property
    def has_links(self) -> bool:
        return HARDLINK in self.extensions

    @property
    def can_replace(self) -> bool:
        return POSIX_RENAME in self.extensions

    @property
    def can_sync(self) -> bool:
        return FSYNC in self.extensions

    @property
    def tells_space(self) -> bool:
        return STATVFS in self.extensions

    # --- its life ----------------------------------------------------------------------------------

    def end(self, why: Lost) -> None:
        """From here on every request has failed."""
        with self._changed:
            if self._lost is None:
                self._lost = why
            waiting, self._waiting = [future for future, _ in self._waiting.values()], {}
            self._queue.clear()
            self._queued_bytes = 0
            self._changed.notify_all()
        with suppress(OSError):
            self._process.kill()
        for future in [*waiting, self._first]:
            if not future.done():
                with suppress(Exception):  # it was cancelled just now
                    future.set_exception(self._lost)

    def close(self) -> None:
        """With no request on its way."""
        self.end(Lost("the connection was closed"))

    def _hello(self) -> Mapping[str, bytes]:
        try:
            return extensions_of(self._first.result(FIRST_SECONDS))
        except NotYet:
            raise Lost(
                f"no SFTP began within {FIRST_SECONDS:.0f} seconds: see what keeps it waiting with: {self._ssh.command_for_people}"
            ) from None
        except Garbled as error:
            raise Lost(f"what it answers is not SFTP: {error}", may_pass=False) from error

    def _limits(self) -> tuple[int, int]:
        """Bytes of a WRITE and of a READ."""
        if LIMITS not in self.extensions:
            return SAFE_BYTES, SAFE_BYTES
        try:
            reply = self.extended(LIMITS).extended()
            _packet_bytes, reading, writing = (reply.large_number() for _ in range(3))
        except (Refused, Garbled):
            return SAFE_BYTES, SAFE_BYTES
        return _within(writing), _within(reading)

    def _check_heard(self) -> None:
        """Raises Lost if the server has said nothing for long."""
        if self._lost is None and self._waiting and time.monotonic() - self._heard > _ANSWER_SECONDS:
            self._lost = Lost(f"it has not answered for {_ANSWER_SECONDS:.0f} seconds")
            with suppress(OSError):
                self._process.kill()  # whoever waits hears of it from the thread that listens
        if self._lost is not None:
            raise self._lost

    def _send(self) -> None:
        """In a thread of its own: no signal leaves half a packet behind."""
        descriptor = cast("BinaryIO", self._process.stdin).fileno()
        try:
            while (buffers := self._to_send()) is not None:
                _write_all(descriptor, buffers)
        except OSError:
            pass  # why, ssh says
        finally:
            with suppress(OSError):
                cast("BinaryIO", self._process.stdin).close()

    def _to_send(self) -> list[bytes | memoryview] | None:
        """None at the end."""
        with self._changed:
            idle_since = time.monotonic()
            while self._lost is None and not self._queue:
                self._changed.wait(_LOOK_SECONDS)
                if self._is_new or self._waiting or self._open_files:
                    idle_since = time.monotonic()
                elif time.monotonic() - idle_since > _IDLE_SECONDS:
                    self._lost = Lost("the connection was idle")
            if self._lost is not None:
                return None
            buffers = [self._queue.popleft() for _ in range(min(len(self._queue), _MOST_BUFFERS))]
            self._queued_bytes -= min(self._queued_bytes, sum(len(each) for each in buffers))
            self._changed.notify_all()
            return buffers

    def _listen(self) -> None:
        stderr = cast("BinaryIO", self._process.stderr)
        with suppress(OSError, ValueError):
            while more := stderr.read(4096):
                self._words = (self._words + more)[-_WORDS_BYTES:]

    def _take(self) -> None:
        """Replies, until the connection ends."""
        why: Lost | None = None
        stream = os.fdopen(os.dup(cast("BinaryIO", self._process.stdout).fileno()), "rb", _READ_BYTES)
        try:
            with stream:
                self._take_from(stream)
        except (Garbled, OSError, ValueError, OverflowError) as error:
            why = Lost(f"what it answers is not SFTP: {error}", may_pass=not self._is_new)
        finally:
            self.end(why or self._last_words())
            self._tidy(self._process)

    def _take_from(self, stream: BinaryIO) -> None:
        while len(head := stream.read(4)) == 4:
            size = int.from_bytes(head, "big")
            if not 1 <= size <= LONGEST_PACKET:
                text = (head + os.read(stream.fileno(), 100) if self._is_new else head).decode(
                    "ascii", "replace"
                )
                raise Garbled(f"it begins with {' '.join(text.split())!r}")
            data = stream.read(size)
            if len(data) != size:
                return
            reply = Reply(data)
            self._heard = time.monotonic()
            if not self._first.done():
                self._first.set_result(reply)
                continue
            with self._lock:
                asked = self._waiting.pop(reply.number(), None)
            if asked is None:
                raise Garbled("it answers what nobody has asked")
            future, reply.request = asked
            with suppress(Exception):  # it was cancelled just now
                future.set_result(reply)

    @property
    def _is_new(self) -> bool:
        return not self._first.done()

    def _last_words(self) -> Lost:
        """Once ssh has ended its output."""
        try:
            code = self._process.wait(_END_SECONDS)
        except Exception:  # noqa: BLE001 -- it is ended below
            code = 0
        self._listener.join(_END_SECONDS)
        why = self._ssh.why(self._words, code)
        if self._is_new:
            return Lost(why.text, may_pass=why.may_pass)
        return Lost(f"the connection was lost: {why.text}")

    def _tidy(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()
        self._listener.join(_END_SECONDS)
        for stream in (process.stdout, process.stderr):
            with suppress(OSError):
                cast("BinaryIO", stream).close()


def _packet(kind: int, body: bytes) -> bytes:
    return number(len(body) + 1) + bytes([kind]) + body


def _header(kind: int, size: int, request: int) -> bytes:
    return number(size + 1) + bytes([kind]) + number(request)


def _within(limit: int) -> int:
    """A server that says 0 has none."""
    return min(max(limit, _LEAST_BYTES), MOST_BYTES) if limit else SAFE_BYTES


def _write_all(descriptor: int, buffers: list[bytes | memoryview]) -> None:
    while buffers:
        written = os.writev(descriptor, buffers)
        while buffers and written >= len(buffers[0]):
            written -= len(buffers.pop(0))
        if written:
            buffers[0] = memoryview(buffers[0])[written:]
