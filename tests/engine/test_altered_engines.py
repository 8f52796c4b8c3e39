"""Engines behind a local socket that are not on this machine, or have other directories, and some that cannot set limits: the real engine, by a
socket that changes what it is asked for.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.parts.altered_engine import altered_engine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.parts.altered_engine import AlteredEngine, Document
    from tests.parts.cli import Cli
    from tests.parts.world import World

pytestmark = pytest.mark.timeout(120)

# No case takes the minutes of a connection's time-out.
SOON_SECONDS = 30.0
# In the words of crun, of runc on control groups of version 2, and of Podman.
REFUSALS = [
    "crun: the requested cgroup controller `io` is not available: OCI runtime error",
    "failed to create shim task: OCI runtime create failed: runc create failed: unable to apply cgroup configuration: io.weight: no such file",
    "invalid configuration, cannot specify resource limits without cgroups v2 and --cgroup-manager=systemd",
]


@contextmanager
def altered(world: World) -> Iterator[tuple[AlteredEngine, Cli]]:
    with altered_engine(world.engine.docker_host) as engine:
        yield engine, world.cli.having(DOCKER_HOST=engine.docker_host)


def sharing(directory: Path) -> Any:
    """The directory of a run is another one for the engine."""

    def creating(asked: Document) -> None:
        for mount in asked["HostConfig"].get("Mounts") or []:
            if mount["Target"] == "/spool" and mount["Type"] == "bind":
                mount["Source"] = str(directory)

    return creating


def spools(engine: AlteredEngine) -> list[str]:
    """What each helper has there."""
    mounts = [mount for asked in engine.created for mount in asked["HostConfig"].get("Mounts") or []]
    return [mount["Type"] for mount in mounts if mount["Target"] == "/spool"]


@pytest.mark.parametrize("there", ["fifos", "files", "nothing", "no directory"])
def test_where_the_engine_has_another_directory_it_is_the_stream(world: World, there: str) -> None:
    volumes = [world.filled(one="1"), world.filled(two="2")]
    elsewhere = world.directory / "elsewhere"
    if there != "no directory":
        elsewhere.mkdir()
    for name in ("answer", "control") if there in {"fifos", "files"} else ():
        os.mkfifo(elsewhere / name) if there == "fifos" else (elsewhere / name).write_text("exit 0\n")
    with altered(world) as (engine, cli):
        engine.creating = sharing(elsewhere)
        found = cli("doctor", seconds=SOON_SECONDS).exits(0)
        assert "channel: stream: no bind mount of the run's directory: " in found.stdout
        engine.created.clear()
        done = cli("backup", *volumes, seconds=SOON_SECONDS).exits(0)
        assert done.stderr.count('helper.channel = "stream" spares the try') == 1
        assert spools(engine) == ["bind", "volume", "volume"], "tried once, and not for each volume"
        cli("restore", volumes[0], "--into", f"{volumes[0]}-again", seconds=SOON_SECONDS).exits(0)
        assert (world.data(f"{volumes[0]}-again") / "one").read_text() == "1"
        only = cli.having(VOLFERRY_HELPER__CHANNEL="fifo")
        only("backup", volumes[0], seconds=SOON_SECONDS).fails_with(
            "no FIFO can be shared", 'set helper.channel = "stream"'
        )
        assert 'set helper.channel = "stream"' in only("doctor", seconds=SOON_SECONDS).exits(1).stdout
        engine.created.clear()
        quiet = cli.having(VOLFERRY_HELPER__CHANNEL="stream")("backup", volumes[0]).exits(0)
        assert "spares the try" not in quiet.stderr
        assert spools(engine) == ["volume"]
    assert not elsewhere.exists() or {each.name for each in elsewhere.iterdir()} <= {"answer", "control"}
    assert world.own_containers() == []


def test_a_fifo_that_was_asked_for_is_not_blamed_for_a_volume(world: World) -> None:
    volume = world.volume(options={"type": "none", "o": "bind", "device": "/nonexistent/place"})
    only = world.cli.having(VOLFERRY_HELPER__CHANNEL="fifo")
    failed = only("backup", volume).exits(1)
    assert "/nonexistent/place" in failed.stderr
    assert "helper.channel" not in failed.stderr


@pytest.mark.parametrize("words", REFUSALS)
def test_weights_that_cannot_be_set_are_left_out(world: World, words: str) -> None:
    volumes = [world.filled(one="1"), world.filled(two="2")]
    with altered(world) as (engine, cli):
        engine.starting = lambda asked: words if asked["HostConfig"].get("BlkioWeight") else None
        found = cli("doctor").exits(0).stdout
        (note,) = [line for line in found.splitlines() if line.startswith("note  helper: ")]
        assert "run without I/O weight" in note
        assert words in note
        assert 'helper.io_weight = "off"' in note
        engine.created.clear()
        done = cli("backup", *volumes).exits(0)
        assert done.stderr.count(words) == 1
        hosts = [
            asked["HostConfig"] for asked in engine.created if asked["Labels"]["volferry.role"] == "helper"
        ]
        assert [bool(host.get("BlkioWeight")) for host in hosts].count(True) == 3, (
            "each way once, and once alone"
        )
        for host in hosts:
            assert (host["NetworkMode"], host["ReadonlyRootfs"], host["CapDrop"]) == ("none", True, ["ALL"])
            assert "no-new-privileges" in host["SecurityOpt"]
        for host in hosts[-2:]:
            assert (host["Memory"], host["PidsLimit"], host["CpuShares"]) == (512 << 20, 64, 512)
        engine.created.clear()
        off = cli.having(VOLFERRY_HELPER__IO_WEIGHT="off")("backup", volumes[0]).exits(0)
        assert words not in off.stderr
        assert len(engine.created) == 2, "carrier and helper"


def test_no_limit_at_all_is_no_obstacle(world: World) -> None:
    volume = world.filled(one="1")
    limits = ("Memory", "PidsLimit", "CpuShares", "BlkioWeight")
    with altered(world) as (engine, cli):
        engine.creating = lambda asked: (
            REFUSALS[2] if any(asked["HostConfig"].get(each) for each in limits) else None
        )
        done = cli("backup", volume).exits(0)
        assert "without memory limit and limit of processes and CPU weight and I/O weight" in done.stderr


def test_limits_are_not_blamed_for_what_else_fails(world: World) -> None:
    volume = world.volume(options={"type": "none", "o": "bind", "device": "/nonexistent/place"})
    with altered(world) as (engine, cli):
        failed = cli("backup", volume).exits(1)
        assert "/nonexistent/place" in failed.stderr
        assert "without" not in failed.stderr
        assert all(
            asked["HostConfig"].get("Memory")
            for asked in engine.created
            if asked["Labels"]["volferry.role"] == "helper"
        )
