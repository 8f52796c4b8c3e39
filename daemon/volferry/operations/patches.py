"""Large files that changed in places: while the volume stands still, only the blocks that are others than a pass before are taken; the
rest is read again afterwards, and is what it was if its digests say so.
"""

from __future__ import annotations

import shutil
import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO

from volferry.archive.blocks import (
    BLOCK_BYTES,
    COMPARE_SCRIPT,
    CONTENT_SCRIPT,
    DIGEST_BYTES,
    LEAST_BYTES,
    MOST_FILES,
    digest,
)
from volferry.archive.commands import create_command
from volferry.archive.frames import decode_frame
from volferry.archive.listing import nanoseconds, path_of
from volferry.archive.streambuffer import SEGMENT_BYTES
from volferry.archive.tarstream import BLOCK, END_OF_ARCHIVE, TarReader, reading
from volferry.archive.tree_scripts import python_command
from volferry.errors import CommandFailed, DamagedObject, VolferryError
from volferry.interrupts import held_back
from volferry.layout import pack_key
from volferry.model import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from volferry.archive.blocks import Fingerprint, Fingerprints
    from volferry.archive.index import FrameLocation
    from volferry.archive.listing import Entry
    from volferry.engine.channel import Process
    from volferry.engine.helper import Helper
    from volferry.model import BackupRef
    from volferry.operations.base import Source
    from volferry.repository import Repository

_PROCESSES = 2
_READ_BYTES = 1 << 20
_ALL = (1 << 63) - 1
_FREE = 0.5  # of the spool's disk


@dataclass(slots=True)
class Patch:
    """One file: its header as it was while the volume stood still, and the blocks that had changed."""

    entry: Entry
    fingerprint: Fingerprint
    header: bytes = b""
    unchanged: bool = True  # since it was listed
    parts: int = 0  # that were compared
    blocks: dict[int, tuple[Path, int, int]] = field(
        default_factory=dict
    )  # where each is: file, offset, length

    @property
    def whole(self) -> bool:
        """Whether all that is needed is there, and the file is what was listed."""
        return bool(self.header) and self.unchanged and self.parts == _PROCESSES

    @property
    def size(self) -> int:
        return self.entry.size


class _GaveUpError(Exception):
    pass


def take_patches(
    helper: Helper, directory: str, asked: Sequence[Entry], known: Fingerprints, spool: Path
) -> list[Patch]:
    """Of the files in `asked` that have a fingerprint, those that could be dealt with; the others are to be read as ever."""
    found = ((entry, known.of(entry.path)) for entry in asked)
    fitting = [Patch(entry, fingerprint) for entry, fingerprint in found if fingerprint is not None]
    fitting = sorted(fitting, key=lambda each: -each.entry.size)[:MOST_FILES]
    if not fitting:
        return []
    most_bytes = int(shutil.disk_usage(spool).free * _FREE) // _PROCESSES
    comparisons = [
        _Comparison(helper, directory, _parts(fitting, known, number), spool / f"blocks.{number}", most_bytes)
        for number in range(_PROCESSES)
    ]
    for each in comparisons:
        each.join()
    if any(each.failed for each in comparisons):
        return []
    return [patch for patch in fitting if patch.whole]


@dataclass(frozen=True, slots=True)
class _Part:
    """Some blocks of one file, for one process."""

    patch: Patch
    first: int
    last: int
    digests: bytes

    @property
    def request(self) -> bytes:
        path = self.patch.entry.path
        numbers = (self.first, self.last, len(self.digests) // DIGEST_BYTES)
        head = len(path).to_bytes(4, "big") + path
        return head + b"".join(each.to_bytes(8, "big") for each in numbers) + self.digests


def _parts(patches: Sequence[Patch], known: Fingerprints, number: int) -> Iterator[_Part]:
    """The first or the second half of each."""
    for patch in patches:
        digests = known.digests(patch.fingerprint)
        half = patch.fingerprint.blocks // 2
        first, last = ((0, half), (half, _ALL))[number]
        yield _Part(patch, first, last, digests[first * DIGEST_BYTES : last * DIGEST_BYTES])


class _Comparison:
    """One process of the helper, and a thread that takes what it says."""

    def __init__(
        self, helper: Helper, directory: str, parts: Iterator[_Part], place: Path, most_bytes: int
    ) -> None:
        self._parts = list(parts)
        self._place = place
        self._most_bytes = most_bytes
        self.failed = False
        tar = [each for each in create_command(directory) if not each.startswith("--blocking-factor")]
        self._process: Process = helper.start(
            python_command(COMPARE_SCRIPT, str(BLOCK_BYTES), directory, *tar),
            stdin=True,
            on_stderr=lambda _: None,
            bulk="stdout",
        )
        self._threads = [
            threading.Thread(target=each, daemon=True, name="blocks") for each in (self._give, self._take)
        ]
        with held_back():
            for thread in self._threads:
                thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _give(self) -> None:
        try:
            for part in self._parts:
                self._process.write(part.request)
            self._process.close_stdin()
        except (BrokenPipeError, VolferryError):
            pass  # it ended: what it says tells that not all was done

    def _take(self) -> None:
        try:
            with self._place.open("wb") as file:
                take = _exactly(self._process)
                position = 0
                for part in self._parts:
                    position = self._take_part(part, take, file, position)
            if self._process.wait():
                raise _GaveUpError
        except (_GaveUpError, OSError, VolferryError):
            # Not what it is for: then the files are read as ever. Nobody waits for a process that goes on.
            self.failed = True

    def _take_part(self, part: _Part, take: Callable[[int], bytes], file: BinaryIO, position: int) -> int:
        """Returns where the next block goes."""
        patch = part.patch
        while (kind := take(1)) not in {b"E", b"X"}:
            if kind == b"H":
                patch.header = _header(take(_number(take(4))), patch.entry)
                continue
            number, length = _number(take(8)), _number(take(4))
            file.write(take(length))
            patch.blocks[number] = (self._place, position, length)
            position += length
            if position > self._most_bytes:
                raise _GaveUpError
        if kind == b"X":
            patch.unchanged = False
            return position
        size, modified = _number(take(8)), int.from_bytes(take(16), "big", signed=True)
        stat = patch.entry.stat
        # Whoever still writes to it, tar is to say that.
        patch.unchanged = patch.unchanged and (size, modified) == (int(stat.size), nanoseconds(stat.mtime))
        patch.parts += 1
        return position


def _header(said: bytes, entry: Entry) -> bytes:
    """The header of the file's member; none if it is not the file that was listed, or a sparse one."""
    try:
        member = next(iter(TarReader(BytesIO(said).readinto)), None)
    except CommandFailed:
        return b""
    stat = entry.stat
    fits = (
        member is not None
        and member.path == entry.path
        and member.size == entry.size
        and member.mtime_ns == nanoseconds(stat.mtime)
        and (member.mode, member.uid, member.gid) == (int(stat.mode, 8), int(stat.uid), int(stat.gid))
        and 0 <= member.payload_bytes - member.size < BLOCK
        and b"GNU.sparse" not in member.header
    )
    return member.header if member is not None and fits else b""


def _exactly(process: Process) -> Callable[[int], bytes]:
    """Takes so many bytes. Raises _GaveUpError at the end."""
    rest = bytearray()

    def take(size: int) -> bytes:
        while len(rest) < size:
            more = process.read(_READ_BYTES)
            if not more:
                raise _GaveUpError
            rest.extend(more)
        found = bytes(rest[:size])
        del rest[:size]
        return found

    return take


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")


class PatchedContent:
    """The files as they were while the volume stood still, once it does not any longer."""

    def __init__(
        self,
        helper: Helper,
        directory: str,
        known: Fingerprints,
        before: Source,
        repository: Repository,
        ref: BackupRef,
    ) -> None:
        """`before` is the index of the pass that `known` is of; its packs are those of backups of the volume of `ref`."""
        self._helper = helper
        self._directory = directory
        self.known = known
        self._before = before
        self._repository = repository
        self._ref = ref

    def may_be_patched(self, entry: Entry) -> bool:
        return (
            entry.size >= LEAST_BYTES and entry.stat.links == b"1" and self.known.of(entry.path) is not None
        )

    def reader(self, patch: Patch) -> TarReader:
        """A tar stream of the one file. It raises CommandFailed or StoreError where the content cannot be had any longer."""
        return TarReader(reading(self._stream(patch)), segment_bytes=SEGMENT_BYTES)

    def _stream(self, patch: Patch) -> Iterator[bytes]:
        yield patch.header
        yield from self._content(patch)
        yield bytes(-patch.size % BLOCK)
        yield END_OF_ARCHIVE

    def _content(self, patch: Patch) -> Iterator[bytes]:
        """Block by block: the one that was taken, else what is there now, if it is what was there; else what was stored of it
        in the pass before.
        """
        digests = self.known.digests(patch.fingerprint)
        earlier: _EarlierContent | None = None
        take = self._now(patch.entry.path)
        with ExitStack() as stack:
            files: dict[Path, BinaryIO] = {}
            for number in range(-(-patch.size // BLOCK_BYTES)):
                now = take(min(BLOCK_BYTES, patch.size - number * BLOCK_BYTES))
                if (place := patch.blocks.get(number)) is not None:
                    path, offset, length = place
                    if path not in files:
                        files[path] = stack.enter_context(path.open("rb"))
                    files[path].seek(offset)
                    yield files[path].read(length)
                    continue
                expected = digests[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]
                if digest(now) != expected:
                    earlier = earlier or self._earlier(patch)
                    now = earlier.block(number)
                    if digest(now) != expected:
                        raise CommandFailed(
                            f"reading the volume failed: {printable(patch.entry.path)!r} changed, and what was stored "
                            "of it is damaged"
                        )
                yield now

    def _now(self, path: bytes) -> Callable[[int], bytes]:
        """Reads the file as it is, which may end sooner than it did, or be gone."""
        process = self._helper.start(
            python_command(CONTENT_SCRIPT, self._directory),
            stdin=True,
            on_stderr=lambda _: None,
            bulk="stdout",
        )
        try:
            process.write(path)
            process.close_stdin()
        except BrokenPipeError:
            pass
        rest = bytearray()

        def take(size: int) -> bytes:
            while len(rest) < size and (more := process.read(_READ_BYTES)):
                rest.extend(more)
            found = bytes(rest[:size])
            del rest[:size]
            return found

        return take

    def _earlier(self, patch: Patch) -> _EarlierContent:
        group = next(
            (
                number
                for number, records in self._before.groups()
                if len(records) == 1 and path_of(records[0]) == patch.entry.path
            ),
            -1,
        )
        frames = [frame for frame in self._before.frames() if frame.group == group]
        return _EarlierContent(self._repository, self._ref, frames, patch.fingerprint.size)


class _EarlierContent:
    """A file as the pass before has stored it. Asked for a few blocks, in order."""

    def __init__(
        self, repository: Repository, ref: BackupRef, frames: Sequence[FrameLocation], size: int
    ) -> None:
        self._repository = repository
        self._ref = ref
        self._frames = frames
        self._size = size
        # What the frames hold before the content: the header.
        self._header_bytes = sum(frame.raw_bytes for frame in frames) - (size + -size % BLOCK)
        self._last: tuple[FrameLocation, bytes] | None = None

    def block(self, number: int) -> bytes:
        """Raises StoreError, DamagedObject."""
        start = self._header_bytes + number * BLOCK_BYTES
        end = min(start + BLOCK_BYTES, self._header_bytes + self._size)
        found = bytearray()
        position = 0
        for frame in self._frames:
            low, high = max(start, position), min(end, position + frame.raw_bytes)
            if low < high:
                found += self._raw(frame)[low - position : high - position]
            position += frame.raw_bytes
        return bytes(found)

    def _raw(self, frame: FrameLocation) -> bytes:
        if self._last is None or self._last[0] != frame:
            key = pack_key(self._ref, frame.pack)
            with self._repository.store.open(key, offset=frame.offset, length=frame.stored_bytes) as reader:
                stored = b"".join(iter(lambda: reader.read(_READ_BYTES), b""))
            try:
                raw = decode_frame(stored, digest=frame.digest, raw_bytes=frame.raw_bytes)
            except ValueError as error:
                raise DamagedObject(key, str(error)) from error
            self._last = frame, raw
        return self._last[1]
