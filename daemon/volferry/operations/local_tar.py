"""`tar` that extracts into a directory of this machine, and reaches nothing else of it."""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import socket
import struct
import subprocess
import tempfile
import termios
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, BinaryIO, cast

from volferry.archive.commands import local_extract_command
from volferry.archive.confined_script import CONFINED, confined_command, warm_up
from volferry.errors import VolferryError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from volferry.archive.extractlog import ExtractLog

_POLL_MS = 1


class LocalTar:
    """GNU tar of this machine. Where root runs it, it changes nothing but the directory, whatever others do in there meanwhile; `confined` says whether that could be had."""

    def __init__(self, directory: Path) -> None:
        """Raises VolferryError if there is no GNU tar."""
        self.confined = True
        self._program = _gnu_tar()
        self._directory = directory
        self._is_root = (
            os.geteuid() == 0
        )  # nobody else may change a root, nor need he be able to run our interpreter

    def extract(self, pieces: Iterable[bytes], log: ExtractLog, *, attributes: bool = True) -> int:
        """Returns its exit status; `log` gets what it says."""
        command = local_extract_command(".", root=self._is_root, attributes=attributes)
        with tempfile.TemporaryFile() as stderr, ExitStack() as stack:
            control, theirs = map(stack.enter_context, socket.socketpair())
            before = b""
            if self._is_root:
                pattern, before = warm_up()
                command = confined_command(theirs.fileno(), self._program, [*command, f"--exclude={pattern}"])
            process = stack.enter_context(
                subprocess.Popen(
                    command,
                    executable=None if self._is_root else self._program,
                    bufsize=0,
                    cwd=self._directory,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                    env={**os.environ, "LC_ALL": "C"},
                    pass_fds=[theirs.fileno()] if self._is_root else [],
                )
            )
            theirs.close()
            try:
                self._feed(process, before, pieces, control if self._is_root else None)
            except BrokenPipeError:
                pass  # its exit status says why
            except BaseException:
                # Before it sees an end of the archive, which would have it extract what it has.
                process.kill()
                process.wait()
                raise
            cast("BinaryIO", process.stdin).close()
            control.close()  # where nothing came, the other end still waits
            status = process.wait()
            stderr.seek(0)
            for line in stderr:
                log.line(line.rstrip(b"\n"))
        return status

    def _feed(
        self,
        process: subprocess.Popen[bytes],
        before: bytes,
        pieces: Iterable[bytes],
        control: socket.socket | None,
    ) -> None:
        stdin = cast("BinaryIO", process.stdin)
        for piece in pieces:
            view = memoryview(piece)
            if control is not None and view:
                _write(stdin, memoryview(before))
                self._confine(stdin, view[:1], control)
                control, view = None, view[1:]
            _write(stdin, view)

    def _confine(self, stdin: BinaryIO, byte: memoryview, control: socket.socket) -> None:
        """Once it has read a byte, it is loaded, and has done with what came before; it can do nothing more before it has a whole record. Raises BrokenPipeError if it
        has ended.
        """
        _write(stdin, byte)
        ended = select.poll()
        ended.register(stdin, 0)  # POLLERR is always looked for: nobody reads
        while _unread(stdin):
            if ended.poll(_POLL_MS):
                raise BrokenPipeError
        with suppress(BrokenPipeError):  # it has said how it is, and gone on
            control.sendall(b"g")
        self.confined = control.recv(1) == CONFINED


def _write(pipe: BinaryIO, view: memoryview) -> None:
    while view:
        view = view[pipe.write(view) :]


def _unread(pipe: BinaryIO) -> int:
    """Bytes."""
    (count,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))
    return int(count)


def _gnu_tar() -> str:
    tar = shutil.which("tar")
    if tar is None:
        raise VolferryError(
            "GNU tar is needed to restore into a directory, and there is no tar on this machine"
        )
    said = subprocess.run([tar, "--version"], capture_output=True, check=False).stdout
    if b"GNU tar" not in said:
        raise VolferryError(f"GNU tar is needed to restore into a directory, and {tar} is another one")
    return tar
