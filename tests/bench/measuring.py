"""What the benchmarks share: data, timed commands, and a place for both that is gone afterwards."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import docker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_REMOVAL_SECONDS = 900  # the engine deletes a million files before it answers

VOLFERRY = [sys.executable, "-m", "volferry"]


@dataclass(frozen=True, slots=True)
class Measured:
    seconds: float
    peak_bytes: int  # resident set of the process and of those that it waited for, each on its own


def timed(
    command: Sequence[str], *, environment: dict[str, str] | None = None, cwd: Path | None = None
) -> Measured:
    """Runs a command that must succeed; its output goes to stderr if it does not."""
    os.sync()
    with tempfile.TemporaryFile() as output:
        started = time.monotonic()
        process = subprocess.Popen(
            command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=cwd, env=environment
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            sys.stderr.write(output.read().decode("utf-8", "replace"))
            raise SystemExit(f"failed with status {process.returncode}: {' '.join(command)}")
    return Measured(seconds, usage.ru_maxrss * 1024)


@contextmanager
def workplace() -> Iterator[Path]:
    """A directory on disk for stores and state."""
    directory = Path(tempfile.mkdtemp(prefix="volferry-bench-", dir="/var/tmp"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def volume(name: str) -> Iterator[Path]:
    """A new volume on the engine of DOCKER_HOST; yields where its data is. It must be an engine on this machine."""
    client = docker.DockerClient.from_env(timeout=_REMOVAL_SECONDS)
    try:
        made = client.volumes.create(name)
        try:
            yield Path(made.attrs["Mountpoint"])
        finally:
            made.remove(force=True)
    finally:
        client.close()


@contextmanager
def kept_volumes() -> Iterator[list[str]]:
    """Names of volumes to be removed at the end, and not before: for minutes, ext4 searches past the inodes of files that
    were deleted (`recently_deleted` in fs/ext4/ialloc.c), and whoever makes files next pays for it.
    """
    names: list[str] = []
    try:
        yield names
    finally:
        for name in names:
            remove_volume(name)


def remove_volume(name: str) -> None:
    client = docker.DockerClient.from_env(timeout=_REMOVAL_SECONDS)
    try:
        client.volumes.get(name).remove(force=True)
    finally:
        client.close()


def mixed_data(directory: Path, *, size_bytes: int, files: int, seed: int = 1) -> None:
    """Files of all sizes, half of the bytes incompressible: most files small, most bytes in large ones."""
    noise = random.Random(seed)
    text = _text(noise, 8 << 20)
    written = 0
    for number in range(files):
        folder = directory / f"d{number % 10}" / f"s{number // 100}"
        folder.mkdir(parents=True, exist_ok=True)
        size = min(int(noise.lognormvariate(9.5, 1.3)), 1 << 20)
        (folder / f"f{number}").write_bytes(_piece(noise, text, size, number))
        written += size
    number = 0
    while written < size_bytes:
        size = min(noise.randint(5 << 20, 40 << 20), size_bytes - written)
        with (directory / f"large{number}").open("wb") as file:
            left = size
            while left:
                piece = _piece(noise, text, min(left, 1 << 16), number)
                file.write(piece)
                left -= len(piece)
        written += size
        number += 1


def _piece(noise: random.Random, text: bytes, size: int, number: int) -> bytes:
    if number % 2:
        return noise.randbytes(size)
    start = noise.randrange(len(text) - size)
    return text[start : start + size]


def _text(noise: random.Random, size: int) -> bytes:
    words = [bytes(noise.choices(b"abcdefghijklmnopqrstuvwxyz", k=noise.randint(2, 10))) for _ in range(5000)]
    parts = []
    total = 0
    while total < size:
        part = b" ".join(noise.choices(words, k=2000)) + b"\n"
        parts.append(part)
        total += len(part)
    return b"".join(parts)[:size]


def megabytes(size: float) -> str:
    return f"{size / 1e6:,.0f} MB"
