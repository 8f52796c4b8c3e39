"""The daemon: volumes are backed up when they are due, and it ends well."""

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.engine.test_quiesce import large, state_of, writing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.parts.cli import Running
    from tests.parts.world import World

DUE = {"volferry.schedule": "@yearly"}  # at once, for there is no backup yet, and then not again
_STOP_SECONDS = 10


@pytest.fixture
def config(world: World, tmp_path: Path) -> Path:
    """Its file."""
    path = tmp_path / "volferry.toml"
    path.write_text('[daemon]\nlog = "json"\n')
    world.cli = world.cli.having(VOLFERRY_CONFIG=str(path))
    return path


@pytest.fixture
def daemon(world: World, config: Path) -> Iterator[Running]:
    del config
    running = world.cli.start("daemon")
    yield running
    running.end()


def replace(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


def backups(world: World, volume: str) -> int:
    return len(list((world.store / "manifests").rglob(f"{volume}/*.json")))


def ended(running: Running) -> list[dict[str, str]]:
    """What it said, until it ended well."""
    began = time.monotonic()
    running.send(signal.SIGTERM)
    outcome = running.outcome().exits(0)
    assert time.monotonic() - began < _STOP_SECONDS
    return [json.loads(line) for line in outcome.stderr.splitlines()]


def test_what_is_due_is_backed_up_and_what_comes_later_too(world: World, config: Path) -> None:
    scheduled = world.volume(labels=DUE)
    others = [
        world.volume(),
        world.volume(labels={**DUE, "volferry.enable": "false"}),
        world.volume("0" * 64, labels={**DUE, "com.docker.volume.anonymous": ""}),
    ]
    wrong = world.volume(labels={"volferry.schedule": "now and then"})
    daemon = world.cli.start("daemon")
    assert daemon.until(lambda: backups(world, scheduled) == 1)
    later = world.volume(labels=DUE)
    assert daemon.until(lambda: backups(world, later) == 1)
    by_container = world.volume()
    world.container(by_container, labels=DUE)
    assert daemon.until(lambda: backups(world, by_container) == 1)
    # A change of the configuration is noticed; a wrong one is said, and does no harm.
    replace(config, '[daemon]\nlog = "xml"\n')
    daemon.send(signal.SIGHUP)
    time.sleep(0.5)  # nothing else shows that it was read
    replace(config, '[daemon]\nlog = "json"\n[defaults]\nschedule = "@yearly"\n')
    assert daemon.until(lambda: backups(world, others[0]) == 1)
    lines = ended(daemon)
    assert [backups(world, each) for each in (scheduled, later, *others[1:], wrong)] == [1, 1, 0, 0, 0]
    assert [line["error"] for line in lines if "the one before stays" in line["event"]] == [
        f"{config}: daemon.log: expected 'console' or 'json', got 'xml'"
    ]
    left_out = [line for line in lines if line["event"] == "a volume is left out"]
    assert {line["volume"] for line in left_out} == {wrong}
    assert "label volferry.schedule: 'now and then' has 3 fields" in left_out[0]["error"]
    assert len([line for line in lines if line["event"] == "a run begins"]) == 4
    assert world.own_containers() == []


def test_a_run_that_fails_is_said_and_tried_again_later(world: World, daemon: Running) -> None:
    volume = world.volume(
        labels={**DUE, "volferry.exclude": "ok"}, options={"type": "none", "o": "bind", "device": "/nowhere"}
    )
    good = world.volume(labels=DUE)
    assert daemon.until(lambda: backups(world, good) == 1)
    lines = ended(daemon)
    (failed,) = [line for line in lines if line["event"] == "the run failed"]
    assert failed["volume"] == volume
    assert f"volume {volume} cannot be mounted" in failed["error"]
    assert failed["again"]


def test_a_run_is_stopped_with_the_daemon_and_its_service_is_up(world: World, daemon: Running) -> None:
    volume = world.volume(labels={**DUE, "volferry.quiesce": "stop"})
    large(world, volume)
    container = writing(world, volume)
    assert daemon.until(lambda: state_of(container)["Status"] == "exited")
    ended(daemon)
    assert state_of(container)["Status"] == "running"
    assert world.own_containers() == []
    assert backups(world, volume) == 0


def test_what_a_power_failure_left_down_is_brought_back(world: World, config: Path) -> None:
    volume = world.volume(labels={**DUE, "volferry.quiesce": "stop"})
    large(world, volume)
    container = writing(world, volume)
    run = world.cli.start("backup", volume)
    assert run.until(lambda: state_of(container)["Status"] == "exited")
    run.send(signal.SIGKILL)
    run.outcome()
    assert state_of(container)["Status"] == "exited"
    daemon = world.cli.start("daemon")
    assert daemon.until(lambda: backups(world, volume) == 1)
    assert state_of(container)["Status"] == "running"
    ended(daemon)
    assert config.exists()


def test_a_wrong_configuration_ends_it_before_it_begins(world: World, config: Path) -> None:
    config.write_text('[daemon]\ntimezone = "Middle/Earth"\n')
    world.cli("daemon").fails_with("daemon.timezone: there is no time zone 'Middle/Earth'", code=2)
