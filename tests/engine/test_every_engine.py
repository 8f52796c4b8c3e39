"""What people rely on, on every engine that volferry works with: all of it through containers, whose ids may be others outside of them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import docker
import pytest

from tests.parts.world import World, shell_image, world_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docker.models.containers import Container

    from tests.parts.engine import PrivateEngine

pytestmark = [pytest.mark.engines, pytest.mark.timeout(240)]

TOOLS_IMAGE = "volferry-test-tools"
TOOLS = (
    "find",
    "sort",
    "sha256sum",
    "chmod",
    "chown",
    "ln",
    "mkdir",
    "mkfifo",
    "touch",
    "head",
    "setfattr",
    "getfattr",
    "mv",
    "od",
)
TREE = r"""
set -e
cd /data
mkdir -p dir/below/empty "with
newline" && printf one >dir/one && printf '%s' "$(head -c 300000 /dev/urandom | sha256sum)" >dir/below/hash
head -c 3000000 /dev/urandom >big; : >empty; ln big hard; ln -s dir/one relative; ln -s /nowhere/at/all absolute; mkfifo pipe
printf x >"-option"; printf x >"with
newline/$(printf '\377\376')"; head -c 10 /dev/urandom >holes; printf end >/tmp/end
chmod 4755 dir/one; chmod 0000 dir/below/hash; chmod 1777 dir; chmod 02750 dir/below
chown 1000:2000 dir/one; chown 33:33 dir; chown -h 70:70 relative; chown 1:1 pipe
setfattr -n user.comment -v kept big
touch -d 2001-02-03T04:05:06.123456789 dir/one; touch -h -d 1999-12-31T23:59:59.5 absolute; touch -d 2020-01-01 dir
chown 999:999 .; chmod 0711 .
"""
# As a container sees a volume: every entry, and every byte. Some engines' logs take only characters.
LOOK = r"""
cd /data
{ find . ! -type d -printf '%p %y %m %U %G %s %T@ %l %n\0' -o -printf '%p %y %m %U %G %T@\0' | sort -z
find . -type f -exec sha256sum -z {} + | sort -z
getfattr --absolute-names -n user.comment big; } | od -An -v -c
"""
PAIRS = "i=0; while :; do i=$((i+1)); for each in a b; do echo $i >/data/new; mv /data/new /data/$each; done; done"
STOPS_LATE = r"""
trap 'asked=yes; : >/data/asked' TERM
i=0; while [ -z "$asked" ] || ! [ -e /data/may-end ]; do
    i=$((i+1)); for each in a b; do echo $i >/data/new; mv /data/new /data/$each; done
done
"""


def tools(world: World) -> str:
    if not world.client.images.list(TOOLS_IMAGE):
        world.client.api.import_image_from_data(shell_image(*TOOLS), repository=TOOLS_IMAGE, tag="latest")
    return f"{TOOLS_IMAGE}:latest"


def in_container(world: World, volume: str, script: str) -> bytes:
    """What a container says that runs the script with the volume at /data."""
    made = world.client.api.create_container(
        tools(world),
        ["sh", "-c", script],
        host_config=world.client.api.create_host_config(
            binds=[f"{volume}:/data"], network_mode="none", tmpfs={"/tmp": ""}
        ),
    )
    try:
        world.client.api.start(made["Id"])
        status = world.client.api.wait(made["Id"])["StatusCode"]
        said: bytes = world.client.api.logs(made["Id"], stdout=True, stderr=False)
        assert status == 0, world.client.api.logs(made["Id"])
        return said
    finally:
        world.client.api.remove_container(made["Id"], force=True, v=True)


def filled(world: World) -> tuple[str, bytes]:
    """A volume, and what a container sees in it."""
    volume = world.volume()
    in_container(world, volume, TREE)
    return volume, in_container(world, volume, LOOK)


def writing(world: World, volume: str) -> Container:
    container = world.container(
        volume, image=tools(world), command=["sh", "-c", PAIRS], stop_signal="SIGKILL"
    )
    in_container(world, volume, "while ! cat /data/b; do :; done")
    return container


def state(container: Container) -> str:
    container.reload()
    return str(container.attrs["State"]["Status"])


@pytest.fixture
def there(unlike_engine: PrivateEngine, tmp_path: Path) -> Iterator[World]:
    """An engine of another kind, or of another year."""
    client = docker.DockerClient(base_url=unlike_engine.docker_host, timeout=120)
    directory = tmp_path / "there"
    directory.mkdir()
    with world_of(unlike_engine, client, directory) as world:
        yield world
        for each in client.api.containers(all=True, filters={"label": "volferry.incomplete"}):
            client.api.remove_container(each["Id"], force=True)
    client.close()


def test_doctor_finds_nothing_wrong(world: World) -> None:
    for _ in range(2):
        world.cli("doctor").exits(0)
    assert world.own_containers() == []


@pytest.mark.parametrize("channel", ["auto", "stream"])
def test_what_a_container_wrote_comes_back(world: World, channel: str) -> None:
    volume, expected = filled(world)
    world.cli = world.cli.having(VOLFERRY_HELPER__CHANNEL=channel)
    world.cli("backup", volume).exits(0)
    into = world.name()
    world.cli("restore", volume, "--into", into).exits(0)
    assert in_container(world, into, LOOK) == expected
    in_container(world, volume, "printf changed >/data/dir/one; chown 5:6 /data/empty")
    changed = in_container(world, volume, LOOK)
    assert changed != expected
    (again,) = world.cli("backup", volume, "--json").exits(0).json["backups"]
    assert again["base"] is not None
    world.cli("restore", volume, "--into", into, "--replace").exits(0)
    assert in_container(world, into, LOOK) == changed
    assert world.own_containers() == []


@pytest.mark.parametrize("mode", ["stop", "pause"])
def test_a_service_stands_still_and_runs_again(world: World, mode: str) -> None:
    volume = world.volume()
    container = writing(world, volume)
    if mode == "pause" and world.engine.edition.rootless and not Path("/sys/fs/cgroup/cgroup.procs").exists():
        # Without control groups of version 2, no rootless engine can pause: nothing is backed up as if it had.
        world.cli("backup", volume, "--quiesce", mode).fails_with("pausing container")
        assert state(container) == "running"
        return
    world.cli("backup", volume, "--quiesce", mode).exits(0)
    assert world.cli("show", volume, "--json").json["consistency"] == mode
    assert state(container) == "running"
    into = world.name()
    world.cli("restore", volume, "--into", into).exits(0)
    one, other = in_container(world, into, "cat /data/a; echo; cat /data/b").split()
    assert int(one) - int(other) in {0, 1}  # not of two moments


def test_what_a_killed_run_has_stopped_is_brought_back(world: World) -> None:
    volume = world.volume()
    in_container(world, volume, "head -c 200000000 /dev/urandom >/data/large")
    container = writing(world, volume)
    running = world.cli.start("backup", volume, "--quiesce", "stop")
    assert running.until(lambda: state(container) == "exited")
    running.send(signal.SIGKILL)
    running.outcome().exits(-signal.SIGKILL)
    assert "volferry recover" in world.cli("status").stdout + world.cli("doctor").exits(1).stdout
    world.cli("recover").exits(0)
    assert state(container) == "running"
    world.cli("backup", volume).exits(0, 3)
    assert world.own_containers() == []


def test_what_somebody_is_stopping_is_not_taken_for_stopped(world: World) -> None:
    """It writes until it has ended: Podman lists it as "stopping", and without `all` not at all."""
    volume = world.volume()
    command = ["sh", "-c", STOPS_LATE]
    container = world.container(volume, image=tools(world), command=command, stop_signal="SIGTERM")
    in_container(world, volume, "while ! [ -e /data/b ]; do :; done")
    world.cli("backup", volume).exits(0, 3)
    stopping = Thread(target=container.stop, kwargs={"timeout": 60})
    stopping.start()
    try:
        in_container(world, volume, "while ! [ -e /data/asked ]; do :; done")
        world.cli("restore", volume, "--replace").fails_with(f"is in use by {container.name}")
        running = world.cli.start("backup", volume, "--quiesce", "stop")
        assert running.until(lambda: any(world.cli.state.glob("journal/*.jsonl")))
    finally:
        in_container(world, volume, "touch /data/may-end")
        stopping.join()
    running.outcome().exits(0)
    assert world.cli("show", volume, "--json").json["consistency"] == "stop"
    into = world.name()
    world.cli("restore", volume, "--into", into).exits(0)
    one, other = in_container(world, into, "cat /data/a; echo; cat /data/b").split()
    assert int(one) - int(other) in {0, 1}  # not of two moments


def test_a_new_volume_is_seen_by_the_daemon(world: World) -> None:
    daemon = world.cli.having(VOLFERRY_DEFAULTS__SCHEDULE="every 1h", VOLFERRY_DAEMON__LISTEN="off").start(
        "daemon"
    )
    time.sleep(1)
    volume = world.volume()
    in_container(world, volume, "printf x >/data/x")
    found: list[Any] = []

    def is_there() -> bool:
        found[:] = world.cli("list", "--json").json["backups"] if world.store.exists() else []
        return bool(found)

    try:
        assert daemon.until(is_there)
    finally:
        daemon.send(signal.SIGTERM)
        daemon.outcome().exits(0)
    assert found[0]["volume"] == volume


@pytest.mark.parametrize("direction", ["away", "here"])
def test_a_service_moves_with_its_volume(world: World, there: World, direction: str) -> None:
    """Between an engine of this kind and one of another."""
    source, target = (world, there) if direction == "away" else (there, world)
    volume, expected = filled(source)
    name = f"app-{os.getpid()}-{direction}"
    app = source.container(
        volume,
        name=name,
        image=tools(source),
        network_disabled=False,
        network_mode="none",
        environment={"A": "b"},
        labels={"kept": "yes"},
        restart_policy={"Name": "unless-stopped"},
        stop_signal="SIGKILL",
    )
    said = source.cli("migrate", volume, "--to", target.engine.docker_host, "--with-containers", "--json")
    assert said.exits(0).json["took_over"] is True
    try:
        assert in_container(target, volume, LOOK) == expected
        assert state(app) == "exited"
        moved = target.client.containers.get(name)
        assert moved.attrs["State"]["Status"] == "running"
        assert "A=b" in moved.attrs["Config"]["Env"]
        assert moved.attrs["Config"]["Labels"]["kept"] == "yes"
        assert moved.attrs["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
        assert [mount["Name"] for mount in moved.attrs["Mounts"]] == [volume]
    finally:
        target.client.api.kill(name)
        target.client.api.remove_container(name, force=True)
    assert source.own_containers() == target.own_containers() == []
