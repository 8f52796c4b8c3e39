"""Takes dumps: what commands in containers write to stdout becomes files of the backup."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import zstandard

from volferry.archive.dumps import DumpFile
from volferry.engine.exec import run_in_container, said_of
from volferry.errors import DumpFailed, EngineError, NotRunning, VolferryError, reason
from volferry.model import Finding, size_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from volferry.engine.client import Engine
    from volferry.labels import Dump
    from volferry.observer import Observer

_LEVEL = 1
_MOST_LINES = 20
_LOOK_BYTES = 8 << 20
# What a dump leaves of the state directory's disk, for all that runs need there: a twentieth, or so much.
_MOST_RESERVE = 1 << 30
_SHARE_OF_RESERVE = 20


@dataclass(frozen=True, slots=True)
class TakenDump:
    """One dump, in the spool, and what it took."""

    file: DumpFile
    container: str
    seconds: float


def take_dumps(
    engine: Engine, dumps: Sequence[Dump], *, spool: Path, environment: Mapping[str, str], observer: Observer
) -> tuple[list[TakenDump], list[Finding]]:
    """One after another; each is whole, or none is. One whose container is off is a finding: nobody writes to its files then, and
    there is no better time to back them up. Raises DumpFailed, or VolferryError where the spool cannot be written.
    """
    taken: list[TakenDump] = []
    findings: list[Finding] = []
    for dump in dumps:
        state = dump.state
        if state == "running":
            path = spool / f"dump.{dump.name}.zst"
            try:
                taken.append(_taken(engine, dump, path, environment=environment, observer=observer))
                continue
            except DumpFailed as error:
                path.unlink(missing_ok=True)
                if not isinstance(error.__cause__, NotRunning):
                    raise
                state = "off by now"
            except BaseException:
                path.unlink(missing_ok=True)
                raise
        detail = f"dump {dump.name} was not taken: container {dump.command.container} is {state}"
        findings.append(Finding("undumped", b"", detail))
    return taken, findings


def _taken(
    engine: Engine, dump: Dump, path: Path, *, environment: Mapping[str, str], observer: Observer
) -> TakenDump:
    started, taken_at = time.monotonic(), time.time_ns()
    what = f"dump {dump.name} of container {dump.command.container}"
    observer.phase(f"dump {dump.name}")
    lines: list[bytes] = []
    done = room_at = 0
    try:
        # Its size must be known before its first byte is in the tar stream.
        with path.open("wb") as file, zstandard.ZstdCompressor(level=_LEVEL).stream_writer(file) as writer:

            def write(data: bytes) -> None:
                nonlocal done, room_at
                if done >= room_at:
                    _check_room(path.parent, what)
                    room_at = done + _LOOK_BYTES
                writer.write(data)
                done += len(data)
                observer.advance(done_bytes=done, done_entries=0)

            status = run_in_container(
                engine,
                dump.command,
                environment=environment,
                on_stdout=write,
                on_stderr=lambda line: lines.append(line) if len(lines) < _MOST_LINES else None,
            )
    except EngineError as error:
        raise DumpFailed(f"{what} failed: {error}") from error
    except OSError as error:
        raise VolferryError(f"{what} cannot be written to {path.parent}: {reason(error)}") from error
    if status:
        said = said_of(engine, dump.command, lines)
        raise DumpFailed(f"{what} failed with status {status}{said}")
    if not done:
        raise DumpFailed(
            f"{what} is empty: the command of its label {dump.command.label} wrote nothing to stdout"
        )
    return TakenDump(
        DumpFile(dump.name, path, done, taken_at),
        dump.command.container,
        round(time.monotonic() - started, 3),
    )


def _check_room(directory: Path, what: str) -> None:
    """Raises VolferryError while a dump is written, before it takes what other runs need."""
    found = os.statvfs(directory)
    reserve = min(_MOST_RESERVE, found.f_blocks * found.f_frsize // _SHARE_OF_RESERVE)
    if found.f_bavail * found.f_frsize < reserve:
        raise VolferryError(
            f"{what} is too large: it would leave less than {size_text(reserve)} free on the disk of the state directory, "
            f"{directory}: make room there, or set state_dir to a larger disk"
        )
