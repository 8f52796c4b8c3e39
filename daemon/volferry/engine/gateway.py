"""Ways to engines that docker-py cannot stream to: over ssh, and over TLS, where it cannot say that its input has ended.

A gateway is a unix socket of our own, in a directory that nobody else can enter. Each connection to it is one to the
engine, so all that works with a local engine works with these.
"""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

from volferry.errors import EngineUnreachable, reason
from volferry.interrupts import held_back

if TYPE_CHECKING:
    from volferry.engine_address import Address, Tls

_CONNECT_SECONDS = 30
_ALIVE_SECONDS = 15  # between questions whether the other end is still there
_ALIVE_QUESTIONS = 4
KEEP_ALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _ALIVE_SECONDS),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _ALIVE_SECONDS),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _ALIVE_QUESTIONS),
)
_LOOK_SECONDS = 0.02
_END_SECONDS = 5
_WORDS_SECONDS = 1
_READ_BYTES = 256 << 10
_MOST_WORDS = 400


class Dialler(Protocol):
    """Connects what came in with the engine."""

    def dial(self, connection: socket.socket) -> None:
        """Owns the connection from here on. Raises nothing."""

    def why(self) -> str:
        """What the other side had to say when a connection failed last; may be empty."""

    def close(self) -> None: ...


class Gateway:
    def __init__(self, dialler: Dialler) -> None:
        self._dialler = dialler
        self._directory = Path(tempfile.mkdtemp(prefix="volferry-"))
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        path = self._directory / "engine.sock"
        self._listener.bind(str(path))
        self._listener.listen(64)
        self.url = f"unix://{path}"
        self._thread = threading.Thread(target=self._accept, name="gateway", daemon=True)
        with held_back():
            self._thread.start()

    def why(self) -> str:
        return self._dialler.why()

    def close(self) -> None:
        with held_back():
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._thread.join()
            self._listener.close()
            self._dialler.close()
            shutil.rmtree(self._directory, ignore_errors=True)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._dialler.dial(connection)


def gateway_to(address: Address) -> Gateway | None:
    """None where docker-py can connect by itself. Raises EngineUnreachable."""
    if address.scheme == "ssh":
        return Gateway(SshDialler(address))
    if address.tls is not None:
        return Gateway(TlsDialler(address, address.tls))
    return None


class SshDialler:
    """`docker system dial-stdio` on the other machine, by the system's ssh, with its configuration, agent and known hosts.

    All of them share one connection, which ends with us: what holds it open on the other side waits for the end of its input.
    """

    def __init__(self, address: Address) -> None:
        """Raises EngineUnreachable."""
        self._shown = address.shown
        parts = urlsplit(address.url)
        self._program = shutil.which("ssh")
        if self._program is None:
            raise EngineUnreachable(f"{self._shown}: this machine has no ssh: install it (openssh-client)")
        user = ["-l", unquote(parts.username)] if parts.username else []
        port = ["-p", str(parts.port)] if parts.port else []
        self._host = [*user, *port, "--", str(parts.hostname)]
        docker = ["docker"]
        if parts.path not in {"", "/"}:
            docker += ["--host", f"unix://{parts.path}"]
        self._remote = [*docker, "system", "dial-stdio"]
        self._control = Path(tempfile.mkdtemp(prefix="volferry-"))
        self._lock = threading.Lock()
        self._words = ""
        self._closed = False
        self._options = [
            *("-T", "-o", f"ConnectTimeout={_CONNECT_SECONDS}"),
            *("-o", "ForwardAgent=no", "-o", "ForwardX11=no", "-o", "ClearAllForwardings=yes"),
            *self._alive_options(),
        ]
        self._master: subprocess.Popen[bytes] | None = None
        self._open_master()

    def dial(self, connection: socket.socket) -> None:
        try:
            with self._lock:
                if self._closed:
                    return
                process = self._started(
                    [
                        *("-o", "ControlMaster=no", "-S", str(self._control / "ssh")),
                        *self._host,
                        *self._remote,
                    ],
                    connection,
                )
            threading.Thread(target=self._until_end, args=(process,), daemon=True, name="ssh").start()
        except OSError as error:
            self._words = reason(error)
        finally:
            connection.close()

    def why(self) -> str:
        end = time.monotonic() + _WORDS_SECONDS
        while not self._words and time.monotonic() < end:  # the connection ends first
            time.sleep(_LOOK_SECONDS)
        return self._words

    def close(self) -> None:
        with self._lock:
            self._closed = True
            master, self._master = self._master, None
        if master is not None and master.stdin is not None:
            master.stdin.close()  # what it runs over there ends by that, and it with it
            try:
                master.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                master.kill()
                master.wait()
        shutil.rmtree(self._control, ignore_errors=True)

    def _alive_options(self) -> list[str]:
        """A network that is gone must be noticed. Who has said how in the configuration of ssh is left alone."""
        said = subprocess.run(
            [str(self._program), "-G", *self._host],
            capture_output=True,
            text=True,
            check=False,
            errors="replace",
        )
        found = dict(line.partition(" ")[::2] for line in said.stdout.splitlines())
        if found.get("serveraliveinterval", "0") != "0":
            return []
        return [
            *("-o", f"ServerAliveInterval={_ALIVE_SECONDS}"),
            *("-o", f"ServerAliveCountMax={_ALIVE_QUESTIONS}"),
        ]

    def _open_master(self) -> None:
        """The connection that the others go through. Raises EngineUnreachable with what ssh says."""
        control = self._control / "ssh"
        with held_back():
            self._master = subprocess.Popen(
                [
                    *(str(self._program), *self._options),
                    *("-o", "ControlMaster=yes", "-o", "ControlPersist=no", "-S", str(control)),
                    *(*self._host, "cat"),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for us: we still need it to put things right
            )
            threading.Thread(target=self._until_end, args=(self._master,), daemon=True, name="ssh").start()
        while not control.exists():
            if self._master.poll() is not None:
                time.sleep(_LOOK_SECONDS)  # for its words
                self.close()
                raise EngineUnreachable(
                    f"cannot reach {self._shown}: {self._words or 'ssh ended without a word'}"
                )
            time.sleep(_LOOK_SECONDS)

    def _started(self, arguments: list[str], connection: socket.socket) -> subprocess.Popen[bytes]:
        # ssh makes it so itself, and takes that back when its input ends (`restore_block` in channels.c): of a socket, which is its
        # output too, for both. Then what one connection does not take would hold up all the others, which are of the same process.
        connection.setblocking(False)
        return subprocess.Popen(
            [str(self._program), *self._options, *arguments],
            stdin=connection.fileno(),
            stdout=connection.fileno(),
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def _until_end(self, process: subprocess.Popen[bytes]) -> None:
        """Takes in what it says, which is not needed where all is well."""
        said = b""
        if process.stderr is not None:
            with process.stderr as stderr:
                while more := os.read(stderr.fileno(), _READ_BYTES):
                    said = (said + more)[-_READ_BYTES:]
        if process.wait() and (lines := said.decode("utf-8", "replace").split("\n")):
            told = [line.strip() for line in lines if line.strip() and "mux_client" not in line]
            self._words = " ".join(told)[-_MOST_WORDS:] or self._words


class TlsDialler:
    """TLS as Docker does it: both sides may show a certificate."""

    def __init__(self, address: Address, tls: Tls) -> None:
        """Raises EngineUnreachable for certificates that cannot be used."""
        parts = urlsplit(address.url)
        self._server = (str(parts.hostname), address.port)
        self._words = ""
        try:
            self._context = ssl.create_default_context(cafile=str(tls.authority) if tls.authority else None)
            if not tls.verify:
                self._context.check_hostname = False
                self._context.verify_mode = ssl.CERT_NONE
            if tls.certificate and tls.key:
                self._context.load_cert_chain(tls.certificate, tls.key)
        except (OSError, ssl.SSLError) as error:
            raise EngineUnreachable(
                f"the TLS settings for {address.shown} cannot be used: {reason(error)}"
            ) from error

    def dial(self, connection: socket.socket) -> None:
        threading.Thread(target=self._serve, args=(connection,), daemon=True, name="tls").start()

    def why(self) -> str:
        return self._words

    def close(self) -> None:
        pass

    def _serve(self, local: socket.socket) -> None:
        with local:
            try:
                with socket.create_connection(self._server, timeout=_CONNECT_SECONDS) as remote:
                    keep_alive(remote)
                    _TlsPump(local, remote, self._context, self._server[0]).run()
            except ssl.SSLCertVerificationError as error:
                self._words = f"its certificate is not accepted: {error.verify_message}"
            except OSError as error:
                self._words = reason(error)


class _TlsPump:
    """Both directions of one connection, each of which can end on its own (RFC 8446, 6.1), which SSLSocket does not allow."""

    def __init__(
        self, local: socket.socket, remote: socket.socket, context: ssl.SSLContext, name: str
    ) -> None:
        self._local = local
        self._remote = remote
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self._state = threading.Lock()  # of the TLS engine; never held while waiting
        # What the engine gives is passed on in that order.
        self._sending, self._giving = threading.Lock(), threading.Lock()

    def run(self) -> None:
        """Until both have ended. Raises OSError where no TLS comes about."""
        self._handshake()
        self._remote.settimeout(None)
        up = threading.Thread(target=self._up, daemon=True, name="tls-up")
        up.start()
        self._down()
        # The engine has ended: nothing that is still to come has anywhere to go.
        with suppress(OSError):
            self._local.shutdown(socket.SHUT_RDWR)
        up.join()

    def _handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._remote.sendall(self._outgoing.read())
                data = self._remote.recv(_READ_BYTES)
                if not data:
                    raise ConnectionResetError("it ends the connection") from None
                self._incoming.write(data)
            else:
                self._remote.sendall(self._outgoing.read())
                return

    def _up(self) -> None:
        try:
            while data := self._local.recv(_READ_BYTES):
                with self._sending:
                    with self._state:
                        self._tls.write(data)
                        out = self._outgoing.read()
                    self._remote.sendall(out)
            with self._giving, self._sending:
                with self._state:
                    # With something to read left, the end could not be said without losing it.
                    rest, _ = self._read()
                    with suppress(ssl.SSLError):
                        self._tls.unwrap()
                    out = self._outgoing.read()
                self._remote.sendall(out)
                self._local.sendall(rest)
        except OSError:
            with suppress(OSError):
                self._remote.shutdown(socket.SHUT_RDWR)

    def _down(self) -> None:
        try:
            ended = False
            while not ended and (data := self._remote.recv(_READ_BYTES)):
                with self._giving:
                    with self._state:
                        self._incoming.write(data)
                        plain, ended = self._read()
                    self._local.sendall(plain)
        except OSError:
            pass

    def _read(self) -> tuple[bytes, bool]:
        """All that there is, and whether that is the end."""
        found = bytearray()
        while True:
            try:
                data = self._tls.read(_READ_BYTES)
            except ssl.SSLWantReadError:
                return bytes(found), False
            except ssl.SSLError:
                return bytes(found), True
            if not data:
                return bytes(found), True
            found += data


def keep_alive(connection: socket.socket) -> None:
    """A network that is gone is noticed, also by who only waits."""
    if connection.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    for option in KEEP_ALIVE:
        connection.setsockopt(*option)
