"""What later backups cost: time when nothing changed, storage when little did, and what a single file takes to restore.

`./dev bench incremental [PART]`, with PART one of those of `_PARTS`; default: all of them
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.bench.measuring import VOLFERRY, megabytes, mixed_data, timed, volume, workplace

if TYPE_CHECKING:
    from pathlib import Path

_NAME = "volferry-bench-incremental"
_ROUNDS = 3
_SETTLED_SECONDS = (
    3  # what changed just before a listing is read again next time, and would blur what is measured
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where one measurement keeps its stores."""

    directory: Path
    data: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "VOLFERRY_STATE_DIR": str(self.directory / "state"),
            "VOLFERRY_STORE": str(self.directory / "store"),
            "RESTIC_PASSWORD": "bench",
            "RESTIC_REPOSITORY": str(self.directory / "restic"),
            "RESTIC_CACHE_DIR": str(self.directory / "cache"),
        }

    def volferry(self) -> float:
        return timed([*VOLFERRY, "backup", _NAME], environment=self.environment).seconds

    def restic(self) -> float:
        return timed(["restic", "backup", "."], environment=self.environment, cwd=self.data).seconds

    def begin(self) -> None:
        time.sleep(_SETTLED_SECONDS)
        timed(["restic", "init"], environment=self.environment)
        self.restic()
        self.volferry()

    def stored(self, store: str) -> int:
        """Bytes of a store on disk."""
        found = (self.directory / store).rglob("*")
        return sum(path.stat().st_size for path in found if path.is_file())


def main(arguments: list[str]) -> None:
    for name in arguments or _PARTS:
        _PARTS[name]()


def _unchanged_mixed() -> None:
    _unchanged(
        "nothing changed, 12,000 files",
        0.6,
        lambda data: mixed_data(data, size_bytes=1_500_000_000, files=12_000),
    )


def _unchanged_small() -> None:
    _unchanged("nothing changed, 500,000 small files", 0.5, lambda data: _small_files(data, 500_000))


def _say(what: str, result: str, bar: str) -> None:
    print(f"{what:58} {result:>44}   (bar: {bar})", flush=True)


def _unchanged(what: str, bar: float, fill: object) -> None:
    assert callable(fill)
    with workplace() as directory, volume(_NAME) as data:
        fill(data)
        place = Place(directory, data)
        place.begin()
        rounds = [(place.volferry(), place.restic()) for _ in range(_ROUNDS)]
    ours, theirs = (statistics.median(each) for each in zip(*rounds, strict=True))
    _say(what, f"{ours:.2f} s, restic {theirs:.2f} s: {ours / theirs:.2f}", f"{bar} of restic's time")


def _pages_rewritten() -> None:
    with workplace() as directory, volume(_NAME) as data:
        noise = random.Random(1)
        path = data / "database"
        with path.open("wb") as file:
            for _ in range(2000):
                file.write(noise.randbytes(1 << 20))
        place = Place(directory, data)
        place.begin()
        before = place.stored("store"), place.stored("restic")
        pages = (2000 << 20) // 8192
        with path.open("r+b") as file:
            for _ in range(20):
                start = noise.randrange(pages - pages // 2000)
                for page in range(start, start + pages // 2000):
                    file.seek(page * 8192)
                    file.write(noise.randbytes(8192))
        time.sleep(_SETTLED_SECONDS)
        place.volferry()
        place.restic()
        ours, theirs = place.stored("store") - before[0], place.stored("restic") - before[1]
    result = f"{megabytes(ours)}, restic {megabytes(theirs)}: {ours / theirs:.2f}"
    _say("1 % of the pages of 2 GB rewritten, in 20 places", result, "1.3 of what restic stores")


def _inserted_at_the_start() -> None:
    with workplace() as directory, volume(_NAME) as data:
        noise = random.Random(1)
        content = b"".join(noise.randbytes(1_000_000) for _ in range(500))
        (data / "file").write_bytes(content)
        place = Place(directory, data)
        time.sleep(_SETTLED_SECONDS)
        place.volferry()
        before = place.stored("store")
        (data / "file").write_bytes(noise.randbytes(1_000_000) + content)
        time.sleep(_SETTLED_SECONDS)
        place.volferry()
        stored = place.stored("store") - before
    _say("1 MB inserted at the start of 500 MB", megabytes(stored), "12 MB")


def _single_file() -> None:
    with workplace() as directory, volume(_NAME) as data:
        noise = random.Random(1)
        for number in range(100_000):
            folder = data / f"d{number // 1000}"
            if number % 1000 == 0:
                folder.mkdir()
            (folder / f"file-{number}").write_bytes(noise.randbytes(10_000 if number == 54321 else 100))
        place = Place(directory, data)
        place.volferry()
        wanted = str((data / "d54" / "file-54321").relative_to(data))
        done = subprocess.run(
            [*VOLFERRY, "restore", _NAME, wanted, "--to", str(directory / "out"), "--json"],
            env=place.environment,
            capture_output=True,
            check=True,
        )
    fetched = json.loads(done.stdout)["fetched_bytes"]
    _say("one 10 KB file out of 100,000 restored", f"{megabytes(fetched)} fetched", "8 MB, index included")


def _killed() -> None:
    with workplace() as directory, volume(_NAME) as data:
        noise = random.Random(1)
        for number in range(40):
            (data / f"file{number}").write_bytes(noise.randbytes(100_000_000))
        place = Place(directory, data)
        time.sleep(_SETTLED_SECONDS)
        process = subprocess.Popen(
            [*VOLFERRY, "backup", _NAME],
            env=place.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while place.directory.joinpath("store").exists() is False or place.stored("store") < 2_800_000_000:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        done = subprocess.run(
            [*VOLFERRY, "backup", _NAME, "--json"], env=place.environment, capture_output=True, check=True
        )
        stats = json.loads(done.stdout)["backups"][0]
    share = stats["stored_bytes"] / stats["source_bytes"]
    _say("killed at 70 % of 4 GB, run again", f"{share:.0%} stored", "40 %")


def _small_files(data: Path, count: int) -> None:
    for number in range(count):
        folder = data / f"d{number // 100_000}" / f"folder-{number // 1000}"
        if number % 1000 == 0:
            folder.mkdir(parents=True)
        (folder / f"file-with-a-usual-name-{number}.txt").write_bytes(b"%d\n" % number)


_PARTS = {
    "unchanged": _unchanged_mixed,
    "small": _unchanged_small,
    "pages": _pages_rewritten,
    "inserted": _inserted_at_the_start,
    "file": _single_file,
    "killed": _killed,
}
