"""A first backup and a restore of 1.5 GB in 12,000 files, beside restic, borg and plain `tar | zstd`.

Each round runs all of them once, in turn; what counts is the median, and the ratio to restic's.
"""

from __future__ import annotations

import os
import statistics
from typing import TYPE_CHECKING

from tests.bench.measuring import VOLFERRY, kept_volumes, megabytes, mixed_data, timed, volume, workplace

if TYPE_CHECKING:
    from pathlib import Path

_SIZE_BYTES = 1_500_000_000
_FILES = 12_000
_NAME = "volferry-bench-full"


def main(arguments: list[str]) -> None:
    rounds = int(arguments[0]) if arguments else 3
    backups: dict[str, list[float]] = {}
    restores: dict[str, list[float]] = {}
    peaks: list[int] = []
    with workplace() as place, volume(_NAME) as data, kept_volumes() as kept:
        mixed_data(data, size_bytes=_SIZE_BYTES, files=_FILES)
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", flush=True)
            for tool in (_volferry, _restic, _borg, _tar):
                here = place / f"{tool.__name__}{number}"
                here.mkdir()
                took = tool(here, data, kept)
                backups.setdefault(took[0], []).append(took[1])
                restores.setdefault(took[0], []).append(took[2])
                peaks.extend(took[3:])
    reference = statistics.median(backups["restic"]), statistics.median(restores["restic"])
    print(
        f"\n{'':12}{'backup':>9}{'/ restic':>10}{'restore':>10}{'/ restic':>10}   (medians of {rounds}, seconds)"
    )
    for name, seconds in backups.items():
        backup, restore = statistics.median(seconds), statistics.median(restores[name])
        print(
            f"{name:12}{backup:9.2f}{backup / reference[0]:10.2f}{restore:10.2f}{restore / reference[1]:10.2f}"
        )
    print(f"\npeak memory of volferry: {megabytes(max(peaks))}")


def _volferry(place: Path, _data: Path, kept: list[str]) -> tuple[str, float, float, int, int]:
    environment = {
        **os.environ,
        "VOLFERRY_STATE_DIR": str(place / "state"),
        "VOLFERRY_STORE": str(place / "store"),
    }
    backup = timed([*VOLFERRY, "backup", _NAME], environment=environment)
    kept.append(f"{_NAME}{place.name}")
    restore = timed([*VOLFERRY, "restore", _NAME, "--into", kept[-1]], environment=environment)
    return "volferry", backup.seconds, restore.seconds, backup.peak_bytes, restore.peak_bytes


def _restic(place: Path, data: Path, _kept: list[str]) -> tuple[str, float, float]:
    environment = {**os.environ, "RESTIC_PASSWORD": "bench", "RESTIC_REPOSITORY": str(place / "r")}
    environment["RESTIC_CACHE_DIR"] = str(place / "cache")
    timed(["restic", "init"], environment=environment)
    backup = timed(["restic", "backup", "."], environment=environment, cwd=data)
    restore = timed(["restic", "restore", "latest", "--target", str(place / "out")], environment=environment)
    return "restic", backup.seconds, restore.seconds


def _borg(place: Path, data: Path, _kept: list[str]) -> tuple[str, float, float]:
    environment = {
        **os.environ,
        "BORG_BASE_DIR": str(place),
        "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
    }
    repository = str(place / "b")
    timed(["borg", "init", "--encryption", "none", repository], environment=environment)
    archive = f"{repository}::one"
    backup = timed(
        ["borg", "create", "--compression", "zstd,1", archive, "."], environment=environment, cwd=data
    )
    out = place / "out"
    out.mkdir()
    restore = timed(["borg", "extract", "--sparse", archive], environment=environment, cwd=out)
    return "borg", backup.seconds, restore.seconds


def _tar(place: Path, data: Path, _kept: list[str]) -> tuple[str, float, float]:
    out = place / "out"
    out.mkdir()
    backup = timed(
        ["sh", "-c", 'tar -c -C "$0" . | zstd -q -1 -T0 >"$1"', str(data), str(place / "x.tar.zst")]
    )
    restore = timed(["sh", "-c", 'zstd -dc "$0" | tar -x -C "$1"', str(place / "x.tar.zst"), str(out)])
    return "tar | zstd", backup.seconds, restore.seconds
