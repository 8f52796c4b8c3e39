"""Commands in containers of applications: their output, as it comes, and their exit status."""

from __future__ import annotations

import struct
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import docker.errors
from docker.types import CancellableStream
from urllib3.exceptions import HTTPError

from volferry.engine.channel import READ_BYTES, LineSplitter
from volferry.engine.client import Engine, explanation, translated
from volferry.errors import EngineError, EngineUnreachable, NotRunning
from volferry.interrupts import held_back

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from volferry.labels import ContainerCommand

_FRAME = struct.Struct(">BxxxL")
_STDOUT = 1
_CONFLICT = 409  # of a container that is off, paused or starting again and again
_SETTLE_SECONDS = 5
_LOOK_SECONDS = 0.05


def run_in_container(
    engine: Engine,
    command: ContainerCommand,
    *,
    environment: Mapping[str, str],
    on_stdout: Callable[[bytes], object],
    on_stderr: Callable[[bytes], None],
    whole: bool = True,
) -> int:
    """Its exit status, after all of its output was delivered: stdout as bytes, stderr line by line. Without `whole`, the rest of it may be lost: where the connection is
    cut, as by a proxy that ends quiet ones, the command is waited for all the same.

    Raises NotRunning where the container is off or gone, EngineError where it cannot be run, its output is cut off, or it takes longer than it may; nothing ends it then: an
    engine has no call for that.
    """
    what = f"running {command.label or 'a command'} in container {command.container}"
    began = time.monotonic()
    lines = LineSplitter(on_stderr)
    late = threading.Event()
    with translated(what), _told(what, command):
        exec_id = engine.api.exec_create(
            command.container_id,
            list(command.arguments),
            stdout=True,
            stderr=True,
            user=command.user,
            environment=dict(environment),
        )["Id"]
        response = _started(engine.api, exec_id)
    with _ended_after(command, response, late):
        cut_off = False
        try:
            for which, data in _pieces(response.raw):
                if which == _STDOUT:
                    on_stdout(data)
                else:
                    lines.feed(data)
        except _CutOffError:
            cut_off = True
        except Exception:
            if not late.is_set():
                raise
    lines.finish()
    if late.is_set():
        raise EngineError(f"{what}: it took longer than its timeout, {command.timeout}")
    try:
        status = _status(engine, exec_id, what)
    except EngineUnreachable as error:  # it has run, and may have ended well: it is not to be run again
        raise EngineError(f"{what}: how it ended is not known: {error}") from error
    if status is None and not whole:
        status = _awaited(engine, exec_id, command, what, began)
    if (cut_off and whole) or status is None:
        raise EngineError(
            f"{what}: its output is cut off: the container or the engine has ended, or a proxy between volferry and the engine ends quiet connections: raise its timeout"
        )
    return status


def said_of(engine: Engine, command: ContainerCommand, lines: Iterable[bytes]) -> str:
    """The first line of what it has said that may be shown, for the end of a message; nothing where that is not known."""
    try:
        environment = _environment(engine, command.container_id)
    except EngineError:
        return ""
    said = command.redaction(environment).first_of(lines)
    return f": {said}" if said else ""


def _environment(engine: Engine, container_id: str) -> dict[str, str]:
    """Of a container: there are passwords in it, which `sh` puts into a command. Raises EngineError."""
    with translated("the environment of a container"):
        found = engine.api.inspect_container(container_id)
    pairs = (str(each).partition("=") for each in (found.get("Config") or {}).get("Env") or ())
    return {name: value for name, _, value in pairs}


class _CutOffError(Exception):
    pass


@contextmanager
def _told(what: str, command: ContainerCommand) -> Iterator[None]:
    """Engines quote what they cannot run. Raises NotRunning, APIError."""
    try:
        yield
    except docker.errors.APIError as error:
        error.explanation = command.hidden_in(explanation(error)) or "the engine does not run it"
        if error.status_code != _CONFLICT and not isinstance(error, docker.errors.NotFound):
            raise
        raise NotRunning(f"{what}: {explanation(error)}") from error


def _started(api: Any, exec_id: str) -> Any:
    """The response, of which what the command says is the body.

    Without the upgrade that docker-py asks for: it reads from the bare socket then, past what came with the response's header.
    """
    response = api._post_json(  # noqa: SLF001
        api._url("/exec/{0}/start", exec_id),  # noqa: SLF001
        data={"Tty": False, "Detach": False},
        stream=True,
        # It may be silent for as long as it likes: the command has a timeout of its own.
        timeout=(api.timeout, None),
    )
    api._raise_for_status(response)  # noqa: SLF001
    return response


@contextmanager
def _ended_after(command: ContainerCommand, response: Any, late: threading.Event) -> Iterator[None]:
    """Closes the connection once the command takes too long, and at the end."""
    connection = CancellableStream(iter(()), response)

    def too_long() -> None:
        late.set()
        connection.close()

    timer = threading.Timer(command.timeout.total_seconds(), too_long) if command.timeout else None
    try:
        if timer is not None:
            with held_back():
                timer.start()
        yield
    finally:
        if timer is not None:
            timer.cancel()
            timer.join()
        if not late.is_set():
            connection.close()


def _pieces(raw: Any) -> Iterator[tuple[int, bytes]]:
    """Docker's stream format: a byte that says which, three zero bytes, the length (4 bytes, big-endian), data."""
    while header := _read(raw, _FRAME.size):
        if len(header) < _FRAME.size:
            raise _CutOffError
        which, left = _FRAME.unpack(header)
        while left:
            data = _read(raw, min(left, READ_BYTES))
            if not data:
                raise _CutOffError
            left -= len(data)
            yield which, data


def _read(raw: Any, size: int) -> bytes:
    try:
        return bytes(raw.read(size))
    except (OSError, HTTPError) as error:  # the connection broke
        raise _CutOffError from error


def _awaited(engine: Engine, exec_id: str, command: ContainerCommand, what: str, began: float) -> int:
    """Its exit status, once it has ended. Raises EngineError where it takes longer than its timeout, or the engine does not answer any longer."""
    while True:
        try:
            status = _status(engine, exec_id, what)
        except EngineUnreachable as error:
            raise EngineError(f"{what}: how it ended is not known: {error}") from error
        if status is not None:
            return status
        if command.timeout and time.monotonic() - began > command.timeout.total_seconds():
            raise EngineError(f"{what}: it took longer than its timeout, {command.timeout}")


def _status(engine: Engine, exec_id: str, what: str) -> int | None:
    """Its exit status. The output may be at its end a moment before that is known; None if it is not known at all."""
    end = time.monotonic() + _SETTLE_SECONDS
    while True:
        with translated(what):
            found = engine.api.exec_inspect(exec_id)
        if not found.get("Running") and found.get("ExitCode") is not None:
            return int(found["ExitCode"])
        if time.monotonic() > end:
            return None
        time.sleep(_LOOK_SECONDS)
