"""Tar streams from one place into another, and commands that must succeed there."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from volferry.archive.alone import AloneStream
from volferry.archive.commands import create_command, extract_command
from volferry.archive.made_members import link_member
from volferry.archive.scripts import SCRIPT_COMMAND
from volferry.archive.tarlog import TarLog
from volferry.archive.tarstream import END_OF_ARCHIVE
from volferry.archive.widened import widened_stream
from volferry.errors import CommandFailed, VolferryError
from volferry.interrupts import held_back

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from volferry.archive.extractlog import AccessLists, ExtractLog
    from volferry.archive.listing import Entry
    from volferry.engine.channel import Process
    from volferry.engine.helper import Helper
    from volferry.observer import Observer
    from volferry.operations.places import Place

_READ_BYTES = 1 << 20
_FEED_BYTES = 16 << 10
_MOST_LINES = 20
_NO_PROGRAM = {126, 127}  # as shells and engines have it


@dataclass(frozen=True, slots=True)
class Stream:
    """The outcome of `send`."""

    stream_bytes: int
    doubted: dict[bytes, str]  # by path: what may not have gone over as it is in the source, and why


def send(
    source: Place,
    target: Place,
    paths: Iterator[bytes],
    observer: Observer,
    *,
    log: ExtractLog | None = None,
    lists: AccessLists | None = None,
    widens: bool = False,
    watched: bool = False,
    links: bool = True,
) -> Stream:
    """Entries of the source, without what is below them, into the target; `watched` and `links` as in `create_command`. With `log`, which gets them all, complaints about what its file system cannot
    hold are no reason to fail; `lists` gets the stream, too. If it `widens`, directories come as `widened_stream` gives them.
    """
    said, lines = TarLog(), Lines()
    reading = source.helper.start(
        create_command(source.directory, watched=watched, links=links),
        stdin=True,
        on_stderr=said.line,
        bulk="stdout",
    )
    writing = _writing(target, lines, log)
    look = lists.look if log is not None and lists is not None else None
    pumping = _pump_widened if widens else pump
    done = pumping(reading, writing, paths, observer, look)
    _read_out(writing)
    if (why := said.why_failed(reading.wait())) is not None:
        raise CommandFailed(why)
    _check_written(writing.wait(), lines, log, observer)
    return Stream(done, _doubted(said))


def send_alone(
    source: Place,
    target: Place,
    path: bytes,
    observer: Observer,
    *,
    holes: bool,
    log: ExtractLog | None = None,
    lists: AccessLists | None = None,
    watched: bool = False,
) -> Stream:
    """One entry: its member is looked at on its way (alone.py), and with `holes`, these are not read. The directories above it get their
    attributes with the next `send` that has them.
    """
    said, lines = TarLog(), Lines()
    reading = source.helper.start(
        create_command(source.directory, holes=holes, watched=watched),
        stdin=True,
        on_stderr=said.line,
        bulk="stdout",
    )
    reading.write(path + b"\0")
    reading.close_stdin()
    stream = AloneStream(reading.read_into)
    done = 0

    def pieces() -> Iterator[bytes]:
        nonlocal done
        if (member := stream.member(path)) is not None:
            try:
                for _, view in stream.frames(member, 0, lambda: None, partial(said.tear, path)):
                    piece = bytes(view)
                    if log is not None and lists is not None:
                        lists.look(piece)
                    yield piece
                    done += len(piece)
                    observer.advance(done_bytes=done, done_entries=0)
            except ValueError as error:
                said.spoil(path, str(error))
        yield END_OF_ARCHIVE

    writing = _writing(target, lines, log)
    give(writing, pieces())
    _read_out(reading)
    if (why := said.why_failed(reading.wait())) is not None:
        raise CommandFailed(why)
    _check_written(writing.wait(), lines, log, observer)
    return Stream(done, _doubted(said))


def send_links(
    target: Place,
    entries: Iterable[Entry],
    first: bytes,
    observer: Observer,
    *,
    log: ExtractLog | None = None,
) -> Stream:
    """Other names of what was sent before."""
    lines = Lines()
    members = [link_member(entry, first) for entry in entries]
    writing = _writing(target, lines, log)
    give(writing, [*members, END_OF_ARCHIVE])
    _check_written(writing.wait(), lines, log, observer)
    return Stream(sum(map(len, members)), {})


def _writing(target: Place, lines: Lines, log: ExtractLog | None) -> Process:
    return target.helper.start(
        extract_command(target.directory),
        stdin=True,
        on_stderr=lines.add if log is None else log.line,
        bulk="stdin",
    )


def _check_written(status: int, lines: Lines, log: ExtractLog | None, observer: Observer) -> None:
    """Raises CommandFailed."""
    if log is None:
        checked(status, lines, "writing the volume")
        for line in lines.kept:
            observer.note(line)
    elif not log.succeeded(status):
        raise CommandFailed(log.failure("the volume", status))


def _doubted(said: TarLog) -> dict[bytes, str]:
    findings = said.torn | said.unreadable
    gone = dict.fromkeys(said.gone, "was gone when it was to be read")
    return gone | {path: finding.detail for path, finding in findings.items()}


def pump(
    reading: Process,
    writing: Process,
    paths: Iterable[bytes],
    observer: Observer,
    look: Callable[[bytes], None] | None = None,
) -> int:
    """Returns the bytes that went through, at which `look` looks. Who takes no more has its status say why."""
    buffer = memoryview(bytearray(_READ_BYTES))
    done = 0
    with feeding(reading, paths):
        taken = True
        while size := reading.read_into(buffer):
            if look is not None:
                look(bytes(buffer[:size]))
            if taken:
                try:
                    writing.write(buffer[:size])
                except BrokenPipeError:
                    taken = False
            done += size
            observer.advance(done_bytes=done, done_entries=0)
        if taken:
            try:
                writing.close_stdin()
            except BrokenPipeError:
                pass
    return done


def _pump_widened(
    reading: Process,
    writing: Process,
    paths: Iterable[bytes],
    observer: Observer,
    look: Callable[[bytes], None] | None,
) -> int:
    """As `pump`."""
    done = 0

    def pieces() -> Iterator[bytes]:
        nonlocal done
        while piece := reading.read(_READ_BYTES):
            if look is not None:
                look(piece)
            yield piece
            done += len(piece)
            observer.advance(done_bytes=done, done_entries=0)

    with feeding(reading, paths):
        source = pieces()
        give(writing, widened_stream(source))
        for _ in source:  # who takes no more has its status say why, and the source must end nonetheless
            continue
    return done


def run(helper: Helper, command: Sequence[str], what: str) -> bytes:
    """The stdout of a command that must succeed. Raises CommandFailed, with `what` it was to do."""
    lines = Lines()
    process = helper.start(command, on_stderr=lines.add)
    output = b"".join(iter(lambda: process.read(_READ_BYTES), b""))
    checked(process.wait(), lines, what)
    return output


def run_script(helper: Helper, script: Iterable[bytes]) -> None:
    """Through the stdin of a shell, which must succeed."""
    lines = Lines()
    process = helper.start(SCRIPT_COMMAND, stdin=True, on_stderr=lines.add)
    give(process, script)
    checked(process.wait(), lines, "writing the volume")


def counted(pieces: Iterable[bytes], observer: Observer) -> Iterator[bytes]:
    """The pieces; `observer` gets the number of bytes of those that whoever takes them is done with."""
    done = 0
    for piece in pieces:
        yield piece
        done += len(piece)
        observer.advance(done_bytes=done, done_entries=0)


def give(process: Process, pieces: Iterable[bytes]) -> None:
    """Writes to the stdin of a process, and reads its stdout to the end. If it takes no more, its status says why. If `pieces` raises, it
    has ended with what it had got by then: its work meets nothing that is done next.
    """
    try:
        for piece in pieces:
            process.write(piece)
        process.close_stdin()
    except BrokenPipeError:
        pass
    except BaseException:
        cut_off(process)
        raise
    _read_out(process)


def cut_off(process: Process) -> None:
    """Of one whose work is given up: its own error would say less than the first one."""
    try:
        process.close_stdin()
        _read_out(process)
        process.wait()
    except (BrokenPipeError, VolferryError):
        pass


def _read_out(process: Process) -> None:
    while process.read(_READ_BYTES):
        pass


class Lines:
    def __init__(self) -> None:
        self.kept: list[str] = []

    def add(self, line: bytes) -> None:
        if line and len(self.kept) < _MOST_LINES:
            self.kept.append(line.decode("utf-8", "backslashreplace"))


def checked(status: int, lines: Lines, what: str) -> None:
    if status:
        raise CommandFailed(f"{what} failed: {lines.kept[0] if lines.kept else f'status {status}'}")


def answered(status: int, lines: Lines, what: str) -> None:
    """As `checked`, of a script that reports only what is wrong, so that one that failed would have found nothing. Accepts that the helper's image lacks the Python to run it."""
    if status not in _NO_PROGRAM:
        checked(status, lines, what)


def feeding(process: Process, paths: Iterable[bytes]) -> AbstractContextManager[None]:
    """Feeds NUL-ended paths to `process` from a thread of its own."""
    return writing(process, _batches(paths))


def _batches(paths: Iterable[bytes]) -> Iterator[bytes]:
    batch = bytearray()
    for path in paths:
        batch += path + b"\0"
        if len(batch) > _FEED_BYTES:
            yield bytes(batch)
            batch.clear()
    yield bytes(batch)


@contextmanager
def writing(process: Process, pieces: Iterable[bytes]) -> Iterator[None]:
    """Writes to the stdin of a process from a thread of its own, for whoever reads the answer at the same time: pipes hold no more than
    64 KiB each way, and neither side must wait for the other.
    """
    failure: list[BaseException] = []

    def feed() -> None:
        try:
            for piece in pieces:
                process.write(piece)
            process.close_stdin()
        except BrokenPipeError:
            pass  # its exit status says why
        except BaseException as error:  # noqa: BLE001 -- raised below, in the thread that can handle it
            failure.append(error)

    thread = threading.Thread(target=feed, daemon=True, name="feed")
    with held_back():
        thread.start()
    yield
    thread.join()
    if failure:
        raise failure[0]
