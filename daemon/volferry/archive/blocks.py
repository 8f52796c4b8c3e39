"""Blocks of large files: what was read of a file in one pass, so that a later one can tell, without sending all of it, where the
file has changed since (docs/design.md, "Standing still").

A block is 32 KiB of a file's content, named by XXH3-128: a change of it goes unseen with a chance of one in 2^128.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xxhash import xxh3_128_digest

from volferry.archive.commands import MOST_EMPTY_READS
from volferry.archive.read_script import READ_SCRIPT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from volferry.archive.listing import Entry
    from volferry.archive.tarstream import Member

BLOCK_BYTES = 32 << 10
DIGEST_BYTES = 16
# Smaller ones are read whole in no time.
LEAST_BYTES = 8 << 20
# Each costs a start of tar.
MOST_FILES = 64

digest = xxh3_128_digest


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Of one file: its size, and where the digests of its blocks are."""

    size: int
    offset: int

    @property
    def blocks(self) -> int:
        return -(-self.size // BLOCK_BYTES)


class Fingerprints:
    """Of the large files of one pass, in a local file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")
        self._offset = 0
        self._found: dict[bytes, Fingerprint] = {}

    def watch(self, entry: Entry, member: Member) -> Callable[[memoryview], None] | None:
        """What is to be told of the payload of a member; None for one that is of no interest."""
        # A sparse file has less in the stream than its size says.
        if (
            entry.kind != b"f"
            or member.size < LEAST_BYTES
            or not 0 <= member.payload_bytes - member.size < 512
            or b"GNU.sparse" in member.header
        ):
            return None
        return _Hasher(self, entry.path, member.size).update

    def add(self, path: bytes, size: int, digests: bytes) -> None:
        self._file.write(digests)
        self._found[path] = Fingerprint(size, self._offset)
        self._offset += len(digests)

    def close(self) -> None:
        """All of them are there."""
        self._file.close()

    def of(self, path: bytes) -> Fingerprint | None:
        return self._found.get(path)

    def digests(self, fingerprint: Fingerprint) -> bytes:
        with self._path.open("rb") as file:
            file.seek(fingerprint.offset)
            return file.read(fingerprint.blocks * DIGEST_BYTES)


class _Hasher:
    """Of one file's content, which comes in pieces of any size, and then some padding."""

    def __init__(self, into: Fingerprints, path: bytes, size: int) -> None:
        self._into = into
        self._path = path
        self._size = size
        self._left = size
        self._begun = bytearray()
        self._digests = bytearray()

    def update(self, piece: memoryview) -> None:
        piece = piece[: self._left]
        self._left -= len(piece)
        if self._begun:
            missing = BLOCK_BYTES - len(self._begun)
            self._begun += piece[:missing]
            piece = piece[missing:]
            if len(self._begun) == BLOCK_BYTES or not self._left:
                self._digests += digest(self._begun)
                self._begun.clear()
        whole = len(piece) if not self._left else len(piece) // BLOCK_BYTES * BLOCK_BYTES
        for start in range(0, whole, BLOCK_BYTES):
            self._digests += digest(piece[start : min(start + BLOCK_BYTES, whole)])
        self._begun += piece[whole:]
        if not self._left and self._path:
            self._into.add(self._path, self._size, bytes(self._digests))
            self._path = b""


# Runs in the helper, twice, each for half of the blocks. Arguments: the size of a block, the directory, and tar's command
# without that. On stdin, for each part of a file: length (4 bytes, big-endian) and path, number of the first block, of the last
# one and how many digests (8 bytes each), digests. On stdout, for each part: `H`, length (4) and the beginning of what tar says of
# the file, before its first block; `B`, number (8), length (4) and content of each block that is another one now, or a new one;
# `E`, the file's size (8) and modification time (nanoseconds, 16, signed) once it was read, or `X` where it cannot be read, or does not
# end where its size says.
COMPARE_SCRIPT = rf"""
import os, sys, time
{READ_SCRIPT}
from xxhash import xxh3_128_digest as digest
block, tar = int(sys.argv[1]), sys.argv[3:]
os.chdir(sys.argv[2])
source, out = sys.stdin.buffer, sys.stdout.buffer
memory = bytearray(128 * block)
view = memoryview(memory)
def number():
    return int.from_bytes(source.read(8), "big")
def fill(file, offset):
    size = 0
    while size < len(memory) and (more := read_into(file, view[size:], offset + size)):
        size += more
    return size
def reads(process):
    try:
        with open(f"/proc/{{process}}/io") as lines:
            return [int(next(lines).split()[1]) for _ in range(3)]
    except (OSError, StopIteration):
        return None
def begin_of(stream, process):
    # The first megabyte of what it writes. Raises OSError if it reads again and again, and never comes to a byte.
    said, first = b"", None
    os.set_blocking(stream, False)
    while len(said) < 1 << 20:
        for _ in range(1000):
            try:
                more = os.read(stream, 1 << 20)
                break
            except BlockingIOError:
                time.sleep(0.002)
        else:
            now = reads(process)
            if now is None or first is None or now[:2] != first[:2]:
                first = now
            elif now[2] - first[2] > {MOST_EMPTY_READS}:
                raise OSError("its reads are interrupted without end")
            continue
        if not more:
            break
        said += more
    return said
def header(path):
    paths, give = os.pipe()
    os.write(give, path + b"\0")
    os.close(give)
    take, stream = os.pipe()
    hear, complaints = os.pipe()
    os.set_blocking(complaints, False)  # nobody reads all of them
    ends = [(os.POSIX_SPAWN_DUP2, end, number) for number, end in enumerate((paths, stream, complaints))]
    process = os.posix_spawnp(tar[0], tar, os.environ, file_actions=ends)
    for end in (paths, stream, complaints):
        os.close(end)
    with os.fdopen(hear, "rb") as lines:
        try:
            said = begin_of(take, process)
        finally:
            os.kill(process, 9)  # while it still writes: of a closed pipe it would complain
            os.waitpid(process, 0)
            os.close(take)
        # What there is of the content is read below.
        if any(b": File shrank by " not in line for line in lines):
            raise OSError("the header lacks what tar could not read")
    return said
def part(path, first, last, digests):
    file = open_file(path)
    try:
        if not first:
            read_into(file, view[:1], 0)  # this shows sooner than `tar` that it cannot be read
            said = header(path)
            out.write(b"H" + len(said).to_bytes(4, "big") + said)
        at = first
        known = first + len(digests) // 16
        read = first * block
        size = len(memory)
        while at < last and size == len(memory):  # less is the end
            size = min(fill(file, at * block), (last - at) * block)
            for start in range(0, size, block):
                piece = view[start:min(start + block, size)]
                place = (at - first) * 16
                if at >= known or digest(piece) != digests[place:place + 16]:
                    out.write(b"B" + at.to_bytes(8, "big") + len(piece).to_bytes(4, "big"))
                    out.write(piece)
                at += 1
            read += size
        now = os.fstat(file)
    finally:
        os.close(file)
    # Blocks that were not read are none that have not changed.
    if read != max(first * block, min(last * block, now.st_size)):
        raise OSError("it does not end where its size says")
    out.write(b"E" + now.st_size.to_bytes(8, "big") + now.st_mtime_ns.to_bytes(16, "big", signed=True))
while length := source.read(4):
    path = source.read(int.from_bytes(length, "big"))
    first, last, count = number(), number(), number()
    digests = source.read(16 * count)
    try:
        part(path, first, last, digests)
    except OSError:
        out.write(b"X")
out.flush()
"""

# Writes the file that the second argument names, as it is now, to stdout.
CONTENT_SCRIPT = f"""
import os, sys
{READ_SCRIPT}
os.chdir(sys.argv[1])
path = sys.stdin.buffer.read()
file = open_file(path)
memory = bytearray(1 << 20)
view = memoryview(memory)
at = 0
while size := read_into(file, view, at):
    at += size
    left = view[:size]
    while left:
        left = left[os.write(1, left):]
"""
