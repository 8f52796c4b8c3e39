"""Engines of other machines, by every way to them: what works with the local one works there."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import docker
import pytest

from tests.engine.test_quiesce import large, state_of, writing
from tests.parts.engine import private_engine
from tests.parts.s3_servers import free_ports
from tests.parts.tls import CONTEXT, engine_options, make_certificates, make_context
from tests.parts.world import World, world_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.parts.engine import PrivateEngine
    from tests.parts.sshd import Sshd


@pytest.fixture
def other(other_engine: PrivateEngine, sshd: Sshd, tmp_path: Path) -> Iterator[World]:
    """Another machine, reached from here by ssh only."""
    client = docker.DockerClient(base_url=other_engine.docker_host, timeout=120)
    with world_of(other_engine, client, tmp_path) as world:
        world.cli = world.cli.having(
            DOCKER_HOST="",
            PATH=sshd.path,
            VOLFERRY_ENGINE=sshd.url(other_engine),
            VOLFERRY_HELPER__COMPRESS="always",
        )
        yield world
    client.close()


def test_a_volume_of_another_machine_is_backed_up_and_comes_back(other: World) -> None:
    volume = other.filled()
    large(other, volume, 60)
    container = writing(other, volume)
    (done,) = other.cli("backup", volume, "--quiesce", "stop", "--json").exits(0).json["backups"]
    assert done["downtime_seconds"] > 0
    assert state_of(container)["Status"] == "running"
    again = other.name()
    other.cli("restore", volume, "--into", again).exits(0)
    assert other.data(again).joinpath("one").read_text() == "1"
    assert {each["name"] for each in other.cli("volumes", "--json").exits(0).json["volumes"]} >= {
        volume,
        again,
    }
    # Nothing has changed but what the container writes, and little is read again.
    container.kill()
    other.cli("backup", volume).exits(0, 3)
    (done,) = other.cli("backup", volume, "--json").exits(0).json["backups"]
    assert done["read_bytes"] < 10_000_000
    assert "channel: stream" in other.cli("doctor").exits(0).stdout
    assert other.own_containers() == []


def test_a_connection_that_is_cut_fails_the_backup_and_the_service_is_up(other: World, sshd: Sshd) -> None:
    volume = other.volume()
    large(other, volume)
    container = writing(other, volume)
    running = other.cli.start("backup", volume, "--quiesce", "stop")
    assert running.until(lambda: state_of(container)["Status"] == "exited")
    sshd.cut()
    outcome = running.outcome()
    assert outcome.code == 1, outcome.story
    assert state_of(container)["Status"] == "running", outcome.story
    other.cli("backup", volume).exits(0, 3)
    assert other.own_containers() == []


def test_what_was_stopped_on_another_machine_is_brought_back_by_a_command_for_this_one(
    other: World, engine: PrivateEngine, docker_client: docker.DockerClient
) -> None:
    volume = other.volume()
    large(other, volume)
    container = writing(other, volume)
    running = other.cli.start("backup", volume, "--quiesce", "stop")
    assert running.until(lambda: state_of(container)["Status"] == "exited")
    running.send(signal.SIGKILL)
    running.outcome()
    assert state_of(container)["Status"] == "exited"
    with world_of(engine, docker_client, other.directory) as world:
        here = world.filled()
        other.cli("backup", here, "--engine", engine.docker_host).exits(0)
    assert state_of(container)["Status"] == "running"


def test_an_engine_behind_tls_is_reached_by_its_context(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    (port,) = free_ports(1)
    make_context(tmp_path / "docker", tmp_path, port)
    (tmp_path / "docker" / "config.json").write_text(json.dumps({"currentContext": CONTEXT}))
    with private_engine(None, *engine_options(tmp_path, port)) as private:
        client = docker.DockerClient(base_url=private.docker_host, timeout=120)
        with world_of(private, client, tmp_path) as world:
            world.cli = world.cli.having(DOCKER_HOST="", DOCKER_CONFIG=str(tmp_path / "docker"))
            volume = world.filled()
            world.cli("backup", volume).exits(0)
            world.cli("restore", volume, "--into", "again").exits(0)
            assert world.data("again").joinpath("one").read_text() == "1"
            # The same by its address; and not without what proves who is there.
            by_address = world.cli.having(
                DOCKER_HOST=f"tcp://127.0.0.1:{port}", DOCKER_TLS_VERIFY="1", DOCKER_CERT_PATH=str(tmp_path)
            )
            by_address("volumes").exits(0)
            os.truncate(tmp_path / "ca.pem", 0)
            by_address("volumes").fails_with("TLS settings")
            world.cli("volumes", "--engine", f"tcp://127.0.0.1:{port}").exits(1)
        client.close()


@pytest.mark.parametrize(
    ("address", "words", "code"),
    [
        ("ssh://nobody@127.0.0.1:{port}", "Permission denied", 1),
        ("ssh://root@127.0.0.1:{port}/nowhere.sock", "no such file", 1),
        ("ssh://root@127.0.0.1:1", "Connection refused", 1),
        ("elsewhere", "there is no Docker context 'elsewhere'", 2),
        ("ftp://host", "'ftp://host' is not an engine's address", 2),
    ],
)
def test_what_cannot_be_reached_is_one_line(
    other: World, sshd: Sshd, address: str, words: str, code: int
) -> None:
    other.cli("volumes", "--engine", address.format(port=sshd.port)).fails_with(words, code=code)
