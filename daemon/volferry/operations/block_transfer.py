"""Large files that the target has already, brought up to date in place: only blocks that are others go there."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from volferry.archive.patch_scripts import (
    DIGEST_BYTES,
    block_bytes,
    changed_command,
    fingerprint_command,
    patch_command,
)
from volferry.errors import CommandFailed, VolferryError
from volferry.interrupts import held_back

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from volferry.archive.extractlog import ExtractLog
    from volferry.engine.channel import Process
    from volferry.observer import Observer
    from volferry.operations.places import Place

_PROCESSES = 2  # that compare, each a part of the file
_READ_BYTES = 1 << 20
_NO_FILE = (1 << 64) - 1
_ALL = (1 << 63) - 1
_META_BYTES = 4 * 3 + 16
_NO_SOURCE = "could not be read to its end"
_NO_TARGET = "could not be compared: it cannot be read to its end in the target"
# Of digests that are in memory at once.
_MOST_DIGEST_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class LargeFile:
    path: bytes
    size: int  # in the source

    @property
    def block_bytes(self) -> int:
        return block_bytes(self.size)


def _batches(files: Sequence[LargeFile]) -> Iterator[list[LargeFile]]:
    batch: list[LargeFile] = []
    left = _MOST_DIGEST_BYTES
    for each in files:
        needed = (each.size // each.block_bytes + 1) * DIGEST_BYTES
        if batch and needed > left:
            yield batch
            batch, left = [], _MOST_DIGEST_BYTES
        batch.append(each)
        left -= needed
    if batch:
        yield batch


@dataclass(slots=True)
class BlockTransfer:
    """Of one volume. Its target must be written by nobody else."""

    source: Place
    target: Place
    observer: Observer
    log: ExtractLog | None = None  # gets what of files cannot be set, where that is no reason to fail
    _digests: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)  # block size, digests

    def send(self, files: Sequence[LargeFile], *, keep: bool) -> tuple[int, dict[bytes, str]]:
        """Returns how many bytes went over, and the paths of files that did not, each with why. With `keep`, what the next one needs to
        know of the target is found out now. Raises VolferryError.
        """
        sent_bytes, unread = 0, dict[bytes, str]()
        for batch in _batches(files):
            self._fingerprint([each for each in batch if not self._is_known(each)])
            there = [each for each in batch if each.path in self._digests]
            unread |= {each.path: _NO_TARGET for each in batch if each.path not in self._digests}
            sending = _Sending(self.source, self.target, there, self._digests, self.observer, self.log)
            more, failed = sending.run()
            sent_bytes, unread = sent_bytes + more, unread | dict.fromkeys(failed, _NO_SOURCE)
        self._digests.clear()
        if keep and files:
            self._fingerprint([each for each in next(_batches(files)) if each.path not in unread])
        return sent_bytes, unread

    def _is_known(self, file: LargeFile) -> bool:
        return file.path in self._digests and self._digests[file.path][0] == file.block_bytes

    def _fingerprint(self, files: Sequence[LargeFile]) -> None:
        """Of the target's files, as they are."""
        if not files:
            return
        self.observer.phase("looking at large files of the target", total_entries=len(files))
        lines: list[bytes] = []
        process = self.target.helper.start(
            fingerprint_command(self.target.directory), stdin=True, on_stderr=lines.append
        )
        take = _exactly(process, lines, "reading the target")
        for done, each in enumerate(files):
            process.write(len(each.path).to_bytes(4, "big") + each.path + each.block_bytes.to_bytes(8, "big"))
            count = int.from_bytes(take(8), "big")
            if count == _NO_FILE:
                continue
            self._digests[each.path] = (each.block_bytes, take(count * DIGEST_BYTES))
            self.observer.advance(done_bytes=0, done_entries=done)
        process.close_stdin()
        _end(process, lines, "reading the target")


class _Sending:
    """Two processes that compare parts of the same file, and one that writes it."""

    def __init__(
        self,
        source: Place,
        target: Place,
        files: Sequence[LargeFile],
        digests: dict[bytes, tuple[int, bytes]],
        observer: Observer,
        log: ExtractLog | None,
    ) -> None:
        self._files = files
        self._log = log
        self._digests = digests
        self._observer = observer
        self._source_lines: list[bytes] = []
        self._target_lines: list[bytes] = []
        self._readers = [
            source.helper.start(
                changed_command(source.directory),
                stdin=True,
                on_stderr=self._source_lines.append,
                bulk="stdout",
            )
            for _ in range(_PROCESSES)
        ]
        self._writer = target.helper.start(
            patch_command(target.directory),
            stdin=True,
            on_stderr=self._target_lines.append if log is None else log.line,
            bulk="stdin",
        )
        self._writing = threading.Lock()
        self._sent_bytes = 0
        self._unread: set[bytes] = set()

    def run(self) -> tuple[int, set[bytes]]:
        self._observer.phase("sending blocks", total_entries=len(self._files))
        takes = [_exactly(reader, self._source_lines, "reading the volume") for reader in self._readers]
        feeders = [
            threading.Thread(target=self._feed, args=(number,), daemon=True, name="feed")
            for number in range(_PROCESSES)
        ]
        with held_back():
            for feeder in feeders:
                feeder.start()
        try:
            for done, each in enumerate(self._files):
                self._file(each, takes)
                self._observer.advance(done_bytes=self._sent_bytes, done_entries=done)
            self._writer.close_stdin()
        except BrokenPipeError:
            pass  # its status and words say why
        for feeder in feeders:
            feeder.join()
        self._check_written()
        for reader in self._readers:
            _end(reader, self._source_lines, "reading the volume")
        for line in self._target_lines:
            self._observer.note(line.decode("utf-8", "backslashreplace"))
        return self._sent_bytes, self._unread

    def _check_written(self) -> None:
        """Raises CommandFailed."""
        if self._log is None:
            _end(self._writer, self._target_lines, "writing the volume")
            return
        while self._writer.read(_READ_BYTES):
            pass
        status = self._writer.wait()
        if not self._log.succeeded(status):
            raise CommandFailed(self._log.failure("the volume", status))

    def _feed(self, number: int) -> None:
        try:
            for each in self._files:
                self._readers[number].write(self._request(each, number))
            self._readers[number].close_stdin()
        except (BrokenPipeError, VolferryError):
            pass  # it ended: what it says tells that not all was done

    def _request(self, file: LargeFile, number: int) -> bytes:
        block, digests = self._digests[file.path]
        half = file.size // block // 2
        first, last = ((0, half), (half, _ALL))[number]
        mine = digests[first * DIGEST_BYTES : last * DIGEST_BYTES]
        numbers = (block, first, last, len(mine) // DIGEST_BYTES)
        head = len(file.path).to_bytes(4, "big") + file.path
        return head + b"".join(each.to_bytes(8, "big") for each in numbers) + mine

    def _file(self, file: LargeFile, takes: Sequence[Callable[[int], bytes]]) -> None:
        head = b"F" + len(file.path).to_bytes(4, "big") + file.path
        self._write(head + file.block_bytes.to_bytes(8, "big"))
        ends: list[bytes | BaseException] = [b"", b""]

        def take_part(number: int) -> None:
            try:
                ends[number] = self._part(takes[number])
            except BaseException as error:  # noqa: BLE001 -- raised below
                ends[number] = error

        other = threading.Thread(target=take_part, args=(1,), daemon=True, name="blocks")
        with held_back():
            other.start()
        take_part(0)
        other.join()
        for end in ends:
            if isinstance(end, BaseException):
                raise end
        if b"" in ends:
            self._unread.add(file.path)
            return
        self._write(bytes(ends[1]))  # type: ignore[arg-type]

    def _part(self, take: Callable[[int], bytes]) -> bytes:
        """Passes blocks on; returns what ends the file, or nothing if it could not be read."""
        while (kind := take(1)) == b"B":
            head = take(12)
            self._write(b"B" + head + take(int.from_bytes(head[8:], "big")))
        if kind != b"E":
            return b""
        end = bytearray(b"E" + take(8 + _META_BYTES + 2))
        for _ in range(int.from_bytes(end[-2:], "big")):
            sizes = take(6)
            end += sizes
            end += take(int.from_bytes(sizes[:2], "big") + int.from_bytes(sizes[2:], "big"))
        return bytes(end)

    def _write(self, data: bytes) -> None:
        with self._writing:
            self._writer.write(data)
            self._sent_bytes += len(data)


def _exactly(process: Process, lines: Iterable[bytes], what: str) -> Callable[[int], bytes]:
    """Takes so many bytes. Raises CommandFailed at the end."""
    rest = bytearray()

    def take(size: int) -> bytes:
        while len(rest) < size:
            more = process.read(_READ_BYTES)
            if not more:
                _end(process, lines, what)
                raise CommandFailed(f"{what} failed: it ended early")
            rest.extend(more)
        found = bytes(memoryview(rest)[:size])
        del rest[:size]
        return found

    return take


def _end(process: Process, lines: Iterable[bytes], what: str) -> None:
    while process.read(_READ_BYTES):
        pass
    if status := process.wait():
        why = next((line.decode("utf-8", "backslashreplace") for line in _last(lines)), f"status {status}")
        raise CommandFailed(f"{what} failed: {why}")


def _last(lines: Iterable[bytes]) -> Iterator[bytes]:
    return reversed([line for line in lines if line])
