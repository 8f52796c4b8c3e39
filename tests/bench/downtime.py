"""How long a container stands still for a warm backup of 4 GB of which 1 % changes meanwhile, over its own stop and start.

Once as 4,000 files of 1 MB, of which 40 change, and once as four files of 1 GB, of which each hundredth page does.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import docker

from tests.bench.measuring import volume, workplace
from tests.parts.world import IDLE, IMAGE, shell_image

if TYPE_CHECKING:
    from pathlib import Path

    from docker.models.containers import Container

_MEGABYTES = 4000
_PAGE = 8192


def main(arguments: list[str]) -> None:
    rounds = int(arguments[0]) if arguments else 3
    client = docker.DockerClient.from_env(timeout=120)
    client.api.import_image_from_data(shell_image(), repository=IMAGE, tag="latest")
    for name, megabytes_a_file in (("files", 1), ("pages", 1000)):
        with workplace() as place, volume(f"volferry-bench-{name}") as data:
            noise = random.Random(1)
            fill(data, noise, megabytes_a_file)
            container = client.containers.run(
                f"{IMAGE}:latest",
                IDLE,
                detach=True,
                stdin_open=True,
                network_mode="none",
                stop_signal="SIGKILL",
                volumes=[f"volferry-bench-{name}:/data"],
            )
            try:
                _measure(name, rounds, place, data, container, noise)
            finally:
                container.remove(force=True)
    client.close()


def _measure(
    name: str, rounds: int, place: Path, data: Path, container: Container, noise: random.Random
) -> None:
    environment = {
        **os.environ,
        "VOLFERRY_STATE_DIR": str(place / "state"),
        "VOLFERRY_STORE": str(place / "store"),
    }
    paused = [sys.executable, "-m", "tests.parts.between_passes", str(place)]
    command = [*paused, "backup", f"volferry-bench-{name}", "--quiesce", "stop", "--warm", "--json"]
    down, own = [], []
    for _ in range(rounds):
        change(data, noise)  # since the last backup, and once more meanwhile
        os.sync()
        running = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        _at(place / "first", running)
        change(data, noise)
        os.sync()
        (place / "first").unlink()
        _at(place / "second", running)  # it stands still no longer than it takes to get there
        (place / "second").unlink()
        output, _ = running.communicate()
        down.append(float(json.loads(output)["backups"][0]["downtime_seconds"]))
        began = time.monotonic()
        container.stop()
        container.start()
        own.append(time.monotonic() - began)
    print(
        f"{name}: {statistics.median(down):.2f} s down, of which its own stop and start "
        f"{statistics.median(own):.2f} s   (medians of {rounds}: {down})",
        flush=True,
    )


def _at(place: Path, running: subprocess.Popen[str]) -> None:
    while not place.exists():
        if running.poll() is not None:
            raise SystemExit("the backup ended before it paused")
        time.sleep(0.002)


def fill(data: Path, noise: random.Random, megabytes_a_file: int) -> None:
    """4 GB."""
    for number in range(_MEGABYTES // megabytes_a_file):
        _write(data / f"file{number}", noise, megabytes_a_file)


def _write(path: Path, noise: random.Random, megabytes: int) -> None:
    with path.open("wb") as file:
        for _ in range(megabytes):
            file.write(noise.randbytes(500_000) * 2)


def change(data: Path, noise: random.Random) -> None:
    """1 % of it."""
    paths = sorted(data.iterdir())
    if len(paths) > 100:
        for path in noise.sample(paths, len(paths) // 100):
            _write(path, noise, 1)
        return
    for path in paths:
        pages = path.stat().st_size // _PAGE
        with path.open("r+b") as file:
            for page in noise.sample(range(pages), pages // 100):
                file.seek(page * _PAGE)
                file.write(noise.randbytes(_PAGE))
