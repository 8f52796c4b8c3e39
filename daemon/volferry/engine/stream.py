"""The channel for any engine: `exec` in the helper, its stdin, stdout and stderr over the connection to the engine.

The helper's first process ends when its stdin does, which is attached to a connection of ours: so it ends with us.
The output of an `exec` reaches no log driver.

Proxies end connections on which nothing happens for some minutes: where nobody else writes, a line is sent now and then.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import docker.errors
import zstandard

from volferry.engine.channel import READ_BYTES, InputRefused, LineSplitter
from volferry.engine.client import DEATH_SECONDS, Engine, translated
from volferry.engine.gateway import keep_alive
from volferry.errors import EngineError, HelperDied
from volferry.interrupts import held_back

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from volferry.engine.channel import Bulk
    from volferry.engine.client import Death

# The first process, and what every command waits for: docker-py's reader could have taken bytes that came with the
# response's headers, so nothing may come before we have the bare socket.
SHELL = ["sh", "-c", "while read -r _; do :; done"]
_AFTER_GO = ["sh", "-c", 'read -r _; exec "$0" "$@"']
# Of a command without stdin nobody reads what keeps its connection from being quiet: a byte each time, and a pipe takes 65,536.
_AFTER_GO_WITHOUT_STDIN = ["sh", "-c", 'read -r _; exec "$0" "$@" </dev/null']
_SETTLE_SECONDS = 2.0
_LOOK_SECONDS = 0.05
_BEAT = b"\n"
_BEAT_SECONDS = 20.0
_CUT = (
    "the connection to a command in the helper was cut while the command was at work: if a proxy between volferry and the engine ends quiet connections, "
    "raise its timeout (HAProxy: timeout client, server and tunnel)"
)
_GO = b"go\n"
_LEVEL = 1
# The status is that of the command, whatever becomes of zstd: what that does not write to its end is known as cut off.
_COMPRESSED_OUT = f"""
exec 4>&1
status=$({{ {{ "$@" 3>&- 4>&-; echo $? >&3; }} | zstd -q -{_LEVEL} -c >&4 3>&- 4>&-; }} 3>&1)
exit "${{status:-1}}"
"""
_COMPRESSED_IN = 'zstd -q -d -c | "$@"'
_FRAME = struct.Struct(">BxxxL")
_STDOUT = 1
_KILLED = 128  # statuses from here on name a signal


class StreamChannel:
    """Implements `Channel`."""

    def __init__(self, engine: Engine, container_id: str, *, compress: bool) -> None:
        self._engine = engine
        self._container_id = container_id
        self._compress = compress
        self._death: Death | None = None
        self._processes: set[StreamProcess] = set()
        with translated("the helper"):
            self._attached = _bare(
                engine.api.attach_socket(
                    container_id, params={"stdin": 1, "stream": 1, "stdout": 0, "stderr": 0}
                )
            )
        self._closed = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True, name="beat")
        with held_back():
            self._beating.start()

    def watch(self, death: Death) -> None:
        """Must be called before the first command."""
        self._death = death

    def start(
        self,
        command: Sequence[str],
        *,
        stdin: bool,
        on_stderr: Callable[[bytes], None],
        bulk: Bulk | None = None,
    ) -> StreamProcess:
        if self._death is None:
            raise RuntimeError("the helper is not watched")
        api = self._engine.api
        compressed = bulk if self._compress else None
        if compressed is not None:
            script = _COMPRESSED_IN if compressed == "stdin" else _COMPRESSED_OUT
            command = ["sh", "-c", script, "sh", *command]
        try:
            with translated("the helper"):
                # The environment of an exec is that of the container: LC_ALL comes from there.
                after_go = _AFTER_GO if stdin else _AFTER_GO_WITHOUT_STDIN
                exec_id = api.exec_create(
                    self._container_id, [*after_go, *command], stdin=True, stdout=True, stderr=True
                )["Id"]
                connection = _bare(api.exec_start(exec_id, socket=True))
        except EngineError as error:
            if self._death.happened or "not running" in str(error):
                raise HelperDied(f"the helper ended before its work did: {self._death.reason}") from error
            raise
        process = StreamProcess(
            self._engine,
            exec_id,
            connection,
            self._death,
            on_stderr,
            compressed,
            stdin=stdin,
            ended=self._processes.discard,
        )
        self._processes.add(process)
        return process

    def _beat(self) -> None:
        while not self._closed.wait(_BEAT_SECONDS):
            _send_at_once(self._attached)
            for process in [*self._processes]:
                process.beat()

    def close(self) -> None:
        self._closed.set()
        self._beating.join()
        for process in [*self._processes]:
            process.close()
        self._attached.close()


class StreamProcess:
    """Implements `Process`."""

    def __init__(
        self,
        engine: Engine,
        exec_id: str,
        connection: socket.socket,
        death: Death,
        on_stderr: Callable[[bytes], None],
        compressed: Bulk | None,
        *,
        stdin: bool,
        ended: Callable[[StreamProcess], object],
    ) -> None:
        self._engine = engine
        self._stdin = stdin
        self._connecting = threading.Lock()  # held by whoever closes the connection, and whoever beats
        self._ended = ended
        self._closed = False
        self._refused = False  # something that we wrote
        self._exec_id = exec_id
        self._connection = connection
        self._death = death
        self._lines = LineSplitter(on_stderr)
        self._out, self._out_end = os.pipe()
        self._failure: BaseException | None = None
        self._compressor = (
            zstandard.ZstdCompressor(level=_LEVEL).compressobj() if compressed == "stdin" else None
        )
        self._decompressor = zstandard.ZstdDecompressor().decompressobj() if compressed == "stdout" else None
        self._demultiplexer = threading.Thread(target=self._demultiplex, daemon=True, name="stream")
        connection.settimeout(None)
        self._send(_GO)
        with held_back():
            self._demultiplexer.start()

    def read(self, size: int) -> bytes:
        return os.read(self._out, size)

    def read_into(self, buffer: memoryview) -> int:
        return os.readv(self._out, [buffer])

    def write(self, data: bytes | memoryview) -> None:
        self._send(self._compressor.compress(data) if self._compressor else data)

    def close_stdin(self) -> None:
        compressor, self._compressor = self._compressor, None
        if compressor is not None:
            self._send(compressor.flush())
        self._shut(socket.SHUT_WR)

    def beat(self) -> None:
        """Keeps the connection from being quiet, if the command reads nothing from it."""
        with self._connecting:
            if not self._stdin and not self._closed:
                _send_at_once(self._connection)

    def wait(self) -> int:
        self._demultiplexer.join()
        self.close()  # a helper has thousands of processes, and we have a limit of descriptors
        if self._failure is not None:
            raise HelperDied(f"the connection to the helper broke: {self._failure}") from self._failure
        status = self._status()
        if status is None or status >= _KILLED or self._refused:
            # Was it the command that ended, or the helper with it? That takes a moment to become known. Of a command that
            # died with its helper some engines say 0; one that did its work has read what it was given.
            self._death.wait(DEATH_SECONDS)
        if self._death.happened:
            raise HelperDied(f"the helper ended before its work did: {self._death.reason}")
        if status is None:
            raise HelperDied(_CUT)
        if status == 0 and self._decompressor is not None and not self._decompressor.eof:
            raise HelperDied("what the helper sent is cut off")
        return status

    def _status(self) -> int | None:
        """None if the command is still at work. That it has ended may be known a moment after its output has."""
        end = time.monotonic() + _SETTLE_SECONDS
        while True:
            with translated("the helper"):
                try:
                    found = self._engine.api.exec_inspect(self._exec_id)
                except docker.errors.NotFound:  # an engine forgets the commands of a container that has ended
                    return None
            # Podman says 0 as long as it runs.
            if not found.get("Running") and found.get("ExitCode") is not None:
                return int(found["ExitCode"])
            if self._death.wait(_LOOK_SECONDS) or time.monotonic() > end:
                return None

    def close(self) -> None:
        """Once the helper is gone: the connection is at its end then, and the reader with it."""
        if self._closed:
            return
        with self._connecting:
            self._closed = True
        self._shut(socket.SHUT_RDWR)
        os.close(self._out)  # a demultiplexer that still has bytes gets EPIPE
        self._out = -1
        self._demultiplexer.join()
        self._connection.close()
        self._ended(self)

    def _send(self, data: bytes | memoryview) -> None:
        try:
            self._connection.sendall(data)
        except OSError as error:
            self._refused = True
            raise InputRefused from error

    def _shut(self, how: int) -> None:
        try:
            self._connection.shutdown(how)
        except OSError:  # the other side was faster
            pass

    def _demultiplex(self) -> None:
        """Docker's stream format: a byte that says which, three zero bytes, the length (4 bytes, big-endian), data."""
        try:
            while header := self._receive(_FRAME.size, or_nothing=True):
                which, left = _FRAME.unpack(header)
                while left:
                    data = self._receive(min(left, READ_BYTES))
                    left -= len(data)
                    if which == _STDOUT:
                        self._give(self._decompressor.decompress(data) if self._decompressor else data)
                    else:
                        self._lines.feed(data)
        except BaseException as error:  # noqa: BLE001 -- raised by `wait`, in the thread that can handle it
            self._failure = error
        finally:
            # The engine takes nothing from us any longer, and does not say so: a writer would wait for ever.
            self._shut(socket.SHUT_RDWR)
            self._lines.finish()
            os.close(self._out_end)

    def _give(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._out_end, view) :]

    def _receive(self, size: int, *, or_nothing: bool = False) -> bytes:
        """Exactly `size` bytes of a header, or up to `size` of data."""
        try:
            data = self._connection.recv(size)
        except ConnectionResetError:
            # Of a gateway that has ended, with something from us unread: as its end.
            data = b""
        if not data and not or_nothing:
            raise ConnectionError("it was cut off")
        if or_nothing:
            while data and len(data) < size:
                more = self._connection.recv(size - len(data))
                if not more:
                    raise ConnectionError("it was cut off")
                data += more
        return data


def _send_at_once(connection: socket.socket) -> None:
    """What takes nothing at the moment is not quiet, and what has ended is noticed elsewhere."""
    with suppress(OSError):
        connection.send(_BEAT, socket.MSG_DONTWAIT)


def _bare(found: Any) -> socket.socket:
    """A socket of our own on the connection that docker-py opened, whose own is closed."""
    bare = socket.socket(fileno=os.dup(found.fileno()))
    # docker-py hangs the response on it, which holds the connection.
    getattr(found, "_response", found).close()
    keep_alive(bare)
    return bare
