"""The daemon as config/compose.yaml deploys it: what siblings have, and how it stands among them."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.engine.test_quiesce import await_true, state_of
from tests.parts.commands import executed, tried
from tests.parts.compose import Project
from tests.parts.schedules import due_now

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.parts.world import World

PROJECT = Path(__file__).resolve().parents[2]
SOCKET = "/var/run/docker.sock"
# A private engine has no network to give; health is asked for more often than in earnest.
HERE = """
services:
  volferry:
    network_mode: none
    healthcheck:
      interval: 1s
"""
# A stand-in for the proxy's image, which heeds the same options.
PROXY_HERE = """
  socket-proxy:
    entrypoint: ["python3", "-u", "/proxy.py"]
    volumes:
      - {program}:/proxy.py:ro
"""
# What a helper has at /spool, in the state directory: a directory of one run.
SHARED = r"runs/[0-9a-f]{12}/shared-[0-9a-f]{8}"
# Run in the daemon's container: all that a helper sees, while another run is at work.
LOOK = """
from volferry.cli.session import Session
from volferry.engine.helper import open_helper
from volferry.run import begin_run

session = Session.load()
with begin_run(session.config.state_dir), session.run() as run:
    with open_helper(session.engine, run, session.helper_settings(), []) as helper:
        process = helper.start(["find", "/spool", "-printf", r"%P\\n"], on_stderr=print)
        names = b"".join(iter(lambda: process.read(1 << 16), b""))
        assert process.wait() == 0
        print(names.decode())
"""
# An application. All that volferry is told of it are labels.
SHOP = """
version: "3.8"
services:
  web:
    image: {image}
    network_mode: none
    stdin_open: true
    init: true
    command: ["sh", "-c", "while read -r _; do :; done"]
    volumes:
      - uploads:/uploads
      - /etc/hostname:/etc/host:ro
volumes:
  uploads:
    labels:
      volferry.schedule: "{due}"
      volferry.quiesce: stop
      volferry.quiesce-after: 0s
"""


def deployed(world: World, image: str, directory: Path, file: str, here: str, **more: str) -> Project:
    """By a file of config/; not up yet."""
    override = directory / "here.yaml"
    override.write_text(here)
    return Project(
        world.engine,
        world.client,
        f"volferry{time.monotonic_ns()}",
        [PROJECT / "config" / file, override],
        {
            "VOLFERRY_IMAGE": image,
            "SOCKET_PROXY_IMAGE": image,
            "DOCKER_SOCKET": world.engine.docker_host.removeprefix("unix://"),
            **more,
        },
    )


def shares_parts(world: World) -> bool:
    """Whether the engine can mount a part of a volume: since Docker 26."""
    major, minor = str(world.client.api.version()["ApiVersion"]).split(".")
    return (int(major), int(minor)) >= (1, 45)


@pytest.fixture
def volferry(world: World, image: str, tmp_path: Path) -> Iterator[Project]:
    project = deployed(world, image, tmp_path, "compose.yaml", HERE)
    yield project
    project.down()


def proxied(world: World, image: str, directory: Path, **more: str) -> Project:
    here = HERE + PROXY_HERE.format(program=PROJECT / "tests/parts/api_proxy.py")
    return deployed(world, image, directory, "compose.socket-proxy.yaml", here, **more)


@pytest.fixture
def behind_a_proxy(world: World, image: str, tmp_path: Path) -> Iterator[Project]:
    more = {} if shares_parts(world) else {"ENGINE_VOLUMES": str(world.engine.data_root / "volumes")}
    project = proxied(world, image, tmp_path, **more)
    yield project
    project.down()


@pytest.fixture
def shop(world: World, tmp_path: Path) -> Iterator[Project]:
    file = tmp_path / "shop.yaml"
    file.write_text(SHOP.format(image=world.image, due=due_now()))
    project = Project(world.engine, world.client, f"shop{time.monotonic_ns()}", [file])
    yield project
    project.down()


def backups(project: Project, volume: str) -> list[Any]:
    store = project.engine.data_root / "volumes" / project.volume("backups") / "_data"
    return list((store / "manifests").rglob(f"{volume}/*.json"))


def test_a_siblings_volume_is_backed_up_by_its_labels_alone(
    world: World, shop: Project, volferry: Project
) -> None:
    uploads, state = shop.volume("uploads"), volferry.volume("state")
    shop.up()
    with (world.data(uploads) / "large").open("wb") as file:
        for number in range(200):
            file.write(b"%d" % number * 500_000)
    helpers: dict[str, Any] = {}

    def is_backed_up() -> bool:
        for each in world.client.api.containers(filters={"label": "volferry.role=helper"}):
            helpers.setdefault(each["Id"], world.client.api.inspect_container(each["Id"]))
        return bool(backups(volferry, uploads))

    began = state_of(shop.container("web"))["StartedAt"]
    volferry.up()
    await_true(is_backed_up)
    await_true(lambda: world.own_containers() == [])

    # The helper had the volume, and the directory that the FIFOs are in; nothing else that the daemon has.
    (helper,) = helpers.values()
    mounts = {each["Destination"]: each for each in helper["Mounts"]}
    assert mounts.keys() == {f"/volumes/{uploads}", "/spool"}
    assert (mounts[f"/volumes/{uploads}"]["Name"], mounts[f"/volumes/{uploads}"]["RW"]) == (uploads, False)
    (spool,) = (each for each in helper["HostConfig"]["Mounts"] if each["Target"] == "/spool")
    if shares_parts(world):
        assert (spool["Type"], spool["Source"]) == ("volume", state)
        assert re.fullmatch(SHARED, spool["VolumeOptions"]["Subpath"])
    else:
        assert spool["Type"] == "bind"
        assert re.fullmatch(SHARED, str(Path(spool["Source"]).relative_to(world.data(state))))
    assert helper["HostConfig"]["Binds"] is None
    assert SOCKET not in json.dumps(helper["HostConfig"])
    assert helper["HostConfig"]["NetworkMode"] == "none"
    assert helper["Image"] == volferry.container("volferry").attrs["Image"]
    assert helper["Path"] == "sh"
    assert 'exec sh "$0/control"' in helper["Args"][1]  # by FIFO: the shell reads from one
    assert helper["Args"][2] == "/spool"

    web = state_of(shop.container("web"))
    assert web["Status"] == "running"
    assert web["StartedAt"] != began  # it was stopped meanwhile
    copy = world.name()
    executed(world.engine, volferry.container("volferry"), "volferry", "restore", uploads, "--into", copy)
    assert (world.data(copy) / "large").read_bytes() == (world.data(uploads) / "large").read_bytes()


def test_a_helper_sees_nothing_of_the_state_directory(world: World, volferry: Project) -> None:
    """It has to do with what a tenant has written: what it sees is a directory that was made for it."""
    volferry.up()
    daemon = volferry.container("volferry")
    await_true(lambda: state_of(daemon)["Health"]["Status"] == "healthy")
    state = executed(world.engine, daemon, "ls", "/var/lib/volferry").decode().split()
    assert {"accepted.toml", "history.sqlite"} <= set(state)
    seen = executed(world.engine, daemon, "python3", "-c", LOOK).decode().split()
    assert {re.sub(r"^\d+\.", "", name) for name in seen} == {
        "control", "answer", "out", "err", "status"
    }  # fmt: skip


def test_where_nothing_can_be_shared_its_helpers_are_reached_by_streams(
    world: World, shop: Project, image: str, tmp_path: Path
) -> None:
    """An engine that mounts no parts of volumes, behind a proxy that lets no directory be mounted."""
    shop.up()
    uploads, copy = shop.volume("uploads"), world.volume()
    (world.data(uploads) / "one").write_text("1")
    project = proxied(world, image, tmp_path)
    project.up()
    try:
        await_true(lambda: bool(backups(project, uploads)))
        daemon = project.container("volferry")
        said = executed(world.engine, daemon, "volferry", "doctor").decode()
        if not shares_parts(world):
            assert "channel: stream: no bind mount of the run's directory: a helper: Forbidden\n" in said
        executed(world.engine, daemon, "volferry", "restore", uploads, "--into", copy)
        assert (world.data(copy) / "one").read_text() == "1"
    finally:
        project.down()


def test_it_is_healthy_and_ends_well_and_soon(volferry: Project) -> None:
    volferry.up()
    container = volferry.container("volferry")
    await_true(lambda: state_of(container)["Health"]["Status"] == "healthy")
    began = time.monotonic()
    volferry("stop")
    assert time.monotonic() - began < 10
    assert state_of(container)["ExitCode"] == 0
    assert "the daemon has stopped" in container.logs().decode()


def test_it_never_stops_itself(volferry: Project) -> None:
    volferry.up()
    container = volferry.container("volferry")
    before = state_of(container)["StartedAt"]
    # Neither its state nor its store is backed up into that store, even where it is asked to.
    command = ["volferry", "backup", "--container", str(container.name), "--quiesce", "stop"]
    code, said = tried(volferry.engine, container, *command)
    assert code == 0, said
    for name in ("state", "backups"):
        assert volferry.volume(name) in str(said)
        assert backups(volferry, volferry.volume(name)) == []
    after = state_of(container)
    assert (after["Status"], after["StartedAt"]) == ("running", before)


def test_behind_a_proxy_it_needs_neither_the_socket_nor_root(
    world: World, shop: Project, behind_a_proxy: Project
) -> None:
    shop.up()
    uploads, copy = shop.volume("uploads"), world.volume()  # it may make none
    (world.data(uploads) / "one").write_text("1")
    behind_a_proxy.up()
    await_true(lambda: bool(backups(behind_a_proxy, uploads)))
    await_true(lambda: world.own_containers() == [])
    assert state_of(shop.container("web"))["Status"] == "running"
    daemon = behind_a_proxy.container("volferry")
    executed(world.engine, daemon, "volferry", "restore", uploads, "--into", copy)
    assert world.data(copy).stat().st_mtime_ns == world.data(uploads).stat().st_mtime_ns
    assert SOCKET not in {mount["Destination"] for mount in daemon.attrs["Mounts"]}
    assert executed(world.engine, daemon, "id", "-un") == b"volferry\n"
    await_true(lambda: state_of(daemon)["Health"]["Status"] == "healthy")
    way = "volume subpath" if shares_parts(world) else "bind mount of the run's directory"
    assert f"channel: FIFO, {way}\n" in executed(world.engine, daemon, "volferry", "doctor").decode()
    assert behind_a_proxy.container("socket-proxy").logs() == b""  # nothing was refused
