"""Moving 4 GB between two engines of this machine: how long a container stands still where 1 % changes between passes, and how fast it
all goes, beside `tar | tar` through two containers by hand.

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
from typing import TYPE_CHECKING, Any

import docker

from tests.bench.downtime import change, fill
from tests.bench.measuring import VOLFERRY, Measured, timed, volume, workplace
from tests.parts.engine import private_engine
from tests.parts.world import IDLE, IMAGE, shell_image
from volferry.engine.image import host_root_filesystem

if TYPE_CHECKING:
    from pathlib import Path

    from docker.models.containers import Container

    from tests.parts.engine import PrivateEngine

_MEGABYTES = 4000


def main(arguments: list[str]) -> None:
    rounds = int(arguments[0]) if arguments else 3
    client = docker.DockerClient.from_env(timeout=120)
    client.api.import_image_from_data(shell_image(), repository=IMAGE, tag="latest")
    with private_engine() as other:
        for name, megabytes_a_file in (("files", 1), ("pages", 1000)):
            with workplace() as place, volume(f"volferry-bench-{name}") as data:
                noise = random.Random(1)
                fill(data, noise, megabytes_a_file)
                if name == "files":
                    _throughput(rounds, place, other, f"volferry-bench-{name}")
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
                    _downtime(name, rounds, place, data, container, noise, other)
                finally:
                    container.remove(force=True)
    client.close()


def _environment(place: Path) -> dict[str, str]:
    return {**os.environ, "VOLFERRY_STATE_DIR": str(place / "state")}


def _throughput(rounds: int, place: Path, other: PrivateEngine, name: str) -> None:
    """Of all of it, into a new volume: plan, passes, comparison and all."""
    by_hand, ours = [], []
    for _ in range(rounds):
        by_hand.append(_by_hand(name, other))
        _remove(other, name)
        ours.append(
            timed([*VOLFERRY, "migrate", name, "--to", other.docker_host], environment=_environment(place))
        )
        _remove(other, name)
    one, two = (statistics.median(each.seconds for each in found) for found in (by_hand, ours))
    print(
        f"throughput: tar | tar {_MEGABYTES / one:.0f} MB/s, volferry migrate {_MEGABYTES / two:.0f} MB/s, ratio {one / two:.2f}   "
        f"(medians of {rounds}: {_seconds(by_hand)} and {_seconds(ours)}), "
        f"peak {max(each.peak_bytes for each in ours) / 1e6:.0f} MB",
        flush=True,
    )


def _by_hand(name: str, other: PrivateEngine) -> Measured:
    """Two containers, and a pipe between them; ended by a sync, as volferry ends. Without the time that the containers take to start."""
    engines = {"from": os.environ["DOCKER_HOST"], "to": other.docker_host}
    containers: dict[str, Any] = {}
    for side, host in engines.items():
        client = docker.DockerClient(base_url=host, timeout=120)
        client.api.import_image_from_data(host_root_filesystem(), repository="by-hand", tag="latest")
        containers[side] = client.containers.run(
            "by-hand:latest",
            ["sleep", "1000"],
            detach=True,
            network_mode="none",
            volumes=[f"{name}:/data"],
            environment={"PATH": "/bin"},
        )
    try:
        script = (
            f"docker --host {engines['from']} exec {containers['from'].id} tar -C /data -c . | "
            f"docker --host {engines['to']} exec -i {containers['to'].id} tar -C /data -x && "
            f"docker --host {engines['to']} exec {containers['to'].id} sync -f /data"
        )
        return timed(["bash", "-o", "pipefail", "-c", script])
    finally:
        for each in containers.values():
            each.remove(force=True)
            each.client.close()


def _remove(engine: PrivateEngine, name: str) -> None:
    client = docker.DockerClient(base_url=engine.docker_host, timeout=900)
    client.volumes.get(name).remove(force=True)
    client.close()


def _downtime(
    name: str,
    rounds: int,
    place: Path,
    data: Path,
    container: Container,
    noise: random.Random,
    other: PrivateEngine,
) -> None:
    paused = [sys.executable, "-m", "tests.parts.between_migration_passes", str(place)]
    command = [*paused, "migrate", f"volferry-bench-{name}", "--to", other.docker_host, "--json"]
    down, own, passes = [], [], []
    for _ in range(rounds):
        running = subprocess.Popen(
            command, env=_environment(place), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        while running.poll() is None:
            if (place / "pass").exists():
                change(data, noise)
                os.sync()
                (place / "pass").unlink()
            time.sleep(0.002)
        report = json.loads(running.communicate()[0])
        down.append(float(report["downtime_seconds"]))
        passes.append(len(report["volumes"][0]["passes"]))
        began = time.monotonic()
        container.stop()
        own.append(time.monotonic() - began)
        container.start()
        _remove(other, f"volferry-bench-{name}")
    print(
        f"{name}: {statistics.median(down):.2f} s down, of which its own stop {statistics.median(own):.2f} s   "
        f"(medians of {rounds}: {down}; passes: {passes})",
        flush=True,
    )


def _seconds(found: list[Measured]) -> list[float]:
    return [round(each.seconds, 2) for each in found]
