"""Takes dumps: what commands in containers write to stdout becomes files of the backup."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import zstandard

from volferry.archive.dumps import DumpFile
from volferry.engine.exec import run_in_container
from volferry.errors import DumpFailed, EngineError, VolferryError, reason
from volferry.model import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from volferry.engine.client import Engine
    from volferry.labels import Dump
    from volferry.observer import Observer

_LEVEL = 1
_MOST_LINES = 20


@dataclass(frozen=True, slots=True)
class TakenDump:
    """One dump, in the spool, and what it took."""

    file: DumpFile
    container: str
    seconds: float


def take_dumps(
    engine: Engine, dumps: Sequence[Dump], *, spool: Path, environment: Mapping[str, str], observer: Observer
) -> list[TakenDump]:
    """One after another; each is whole, or none is. Raises DumpFailed, or VolferryError where the spool cannot be written."""
    return [
        _taken(engine, dump, spool / f"dump.{dump.name}.zst", environment=environment, observer=observer)
        for dump in dumps
    ]


def _taken(
    engine: Engine, dump: Dump, path: Path, *, environment: Mapping[str, str], observer: Observer
) -> TakenDump:
    started, taken_at = time.monotonic(), time.time_ns()
    what = f"dump {dump.name} of container {dump.command.container}"
    observer.phase(f"dump {dump.name}")
    lines: list[bytes] = []
    done = 0
    try:
        # Its size must be known before its first byte is in the tar stream.
        with path.open("wb") as file, zstandard.ZstdCompressor(level=_LEVEL).stream_writer(file) as writer:

            def write(data: bytes) -> None:
                nonlocal done
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
        said = f": {printable(lines[0])}" if lines else ""
        raise DumpFailed(f"{what} failed with status {status}{said}")
    if not done:
        raise DumpFailed(f"{what} is empty: {dump.command.text!r} wrote nothing to stdout")
    return TakenDump(
        DumpFile(dump.name, path, done, taken_at),
        dump.command.container,
        round(time.monotonic() - started, 3),
    )
