"""Peak memory of a backup and a restore: of 20 GB in large files, and of 1,000,000 small ones.

`./dev bench memory [GIGABYTES] [THOUSANDS OF FILES]` does it with less.
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

from tests.bench.measuring import VOLFERRY, megabytes, remove_volume, timed, volume, workplace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_NAME = "volferry-bench-memory"
_LIMITS_MB = {"large files": 300, "small files": 500}


def main(arguments: list[str]) -> None:
    gigabytes = int(arguments[0]) if arguments else 20
    thousands = int(arguments[1]) if len(arguments) > 1 else 1000
    if gigabytes:
        _measure("large files", f"{gigabytes} GB", lambda data: _large_files(data, gigabytes))
    if thousands:
        _measure("small files", f"{thousands:,},000 files", lambda data: _small_files(data, thousands * 1000))


def _measure(kind: str, what: str, fill: Callable[[Path], None]) -> None:
    with workplace() as place, volume(_NAME) as data:
        fill(data)
        environment = {
            **os.environ,
            "VOLFERRY_STATE_DIR": str(place / "state"),
            "VOLFERRY_STORE": str(place / "store"),
        }
        backup = timed([*VOLFERRY, "backup", _NAME], environment=environment)
        print(f"{what}: backup: {backup.seconds:.0f} s, peak {megabytes(backup.peak_bytes)}", flush=True)
        restore = timed([*VOLFERRY, "restore", _NAME, "--into", f"{_NAME}-restored"], environment=environment)
        remove_volume(f"{_NAME}-restored")
        print(f"{what}: restore: {restore.seconds:.0f} s, peak {megabytes(restore.peak_bytes)}", flush=True)
        peak = max(backup.peak_bytes, restore.peak_bytes) / 1e6
        print(
            f"{what}: {'below' if peak < _LIMITS_MB[kind] else 'NOT below'} {_LIMITS_MB[kind]} MB", flush=True
        )


def _large_files(data: Path, gigabytes: int) -> None:
    """No holes, every MiB unlike the others, mostly compressible so that the store needs little room."""
    noise = random.Random(1)
    filler = noise.randbytes(1 << 14) * 60
    for number in range(gigabytes):
        with (data / f"file{number}").open("wb") as file:
            for _ in range(1000):
                file.write((noise.randbytes(1 << 16) + filler)[:1_000_000])


def _small_files(data: Path, count: int) -> None:
    for number in range(count):
        folder = data / f"d{number // 100_000}" / f"folder-{number // 1000}"
        if number % 1000 == 0:
            folder.mkdir(parents=True)
        (folder / f"file-with-a-usual-name-{number}.txt").write_bytes(b"%d\n" % number)
