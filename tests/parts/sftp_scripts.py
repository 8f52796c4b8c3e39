"""SFTP servers that do what a test says: in a thread, with no ssh in between. They are asked what a real one cannot be made to do."""

from __future__ import annotations

import io
import os
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from volferry.stores.sftp_packets import (
    ATTRS,
    CLOSE,
    DATA,
    EOF,
    HANDLE,
    LSTAT,
    NO_SUCH_FILE,
    OK,
    OPEN,
    READ,
    STATUS,
    UNSUPPORTED,
    VERSION,
    VERSION_REPLY,
    Reply,
    large_number,
    number,
    string,
)
from volferry.stores.sftp_ssh import Ssh

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pytest

    # What is said to a request: its kind, its id as it came, and what follows. Packets, or None for silence.
    Answers = Callable[[int, bytes, Reply], bytes | None]


def packet(kind: int, *parts: bytes) -> bytes:
    body = bytes([kind]) + b"".join(parts)
    return number(len(body)) + body


def status(request: bytes, code: int) -> bytes:
    return packet(STATUS, request, number(code), string("said by a script"), string(""))


GREETING = packet(VERSION_REPLY, number(VERSION))


class _Request(Reply):
    """What follows the id."""

    def __init__(self, data: bytes) -> None:
        super().__init__(b"\0" + data)


class ScriptedProcess:
    """Stands for a process of ssh, and for the server behind it."""

    def __init__(self, answers: Answers, greeting: bytes, may_greet: threading.Event) -> None:
        self._ours, self._theirs = socket.socketpair()
        self.stdin = os.fdopen(os.dup(self._ours.fileno()), "wb", 0)
        self.stdout = os.fdopen(os.dup(self._ours.fileno()), "rb", 0)
        self.stderr = io.BytesIO()
        self._answers = answers
        self._greeting = greeting
        self._may_greet = may_greet
        self.killed = threading.Event()
        threading.Thread(target=self._serve, daemon=True, name="scripted").start()

    def kill(self) -> None:
        self.killed.set()
        with suppress(OSError):
            self._ours.shutdown(socket.SHUT_RDWR)

    def wait(self, _seconds: float | None = None) -> int:
        self._ours.close()
        return 255

    def _serve(self) -> None:
        with suppress(OSError), self._theirs, self._theirs.makefile("rb") as requests:
            first = True
            while len(head := requests.read(4)) == 4:
                body = requests.read(int.from_bytes(head, "big"))
                if first:
                    first = False
                    while not (self._may_greet.wait(0.01) or self.killed.is_set()):
                        pass
                    self._theirs.sendall(self._greeting)
                elif (said := self._answers(body[0], body[1:5], _Request(body[5:]))) is not None:
                    self._theirs.sendall(said)


class Files:
    """Answers of a server that has one directory of files. With `most`, it gives no more bytes at once, whatever it is asked for."""

    def __init__(self, files: Mapping[str, bytes], most: int = 1 << 20) -> None:
        self._files = files
        self._most = most

    def __call__(self, kind: int, request: bytes, body: Reply) -> bytes | None:
        if kind == CLOSE:
            return status(request, OK)
        if kind not in {LSTAT, OPEN, READ}:
            return status(request, UNSUPPORTED)
        name = body.text()
        data = self._files.get(name)
        if data is None:
            return status(request, NO_SUCH_FILE)
        if kind == LSTAT:
            return packet(ATTRS, request, number(0x5), large_number(len(data)), number(0o100600))
        if kind == OPEN:
            return packet(HANDLE, request, string(name))
        offset = body.large_number()
        found = data[offset : offset + min(body.number(), self._most)]
        return packet(DATA, request, string(found)) if found else status(request, EOF)


def serve(
    monkeypatch: pytest.MonkeyPatch,
    answers: Answers,
    greeting: bytes = GREETING,
    may_greet: threading.Event | None = None,
) -> list[ScriptedProcess]:
    """From here on, each connection is one to such a server; it greets when it may. Returns those that there were."""
    begun: list[ScriptedProcess] = []
    if may_greet is None:
        may_greet = threading.Event()
        may_greet.set()

    def start(_ssh: Ssh) -> ScriptedProcess:
        begun.append(ScriptedProcess(answers, greeting, may_greet))
        return begun[-1]

    monkeypatch.setattr(Ssh, "start", start)
    return begun
