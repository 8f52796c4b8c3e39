"""Volumes move from one real engine to another, by the local socket and by ssh, and whatever is killed, the service is up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import docker
import pytest

from tests.engine.test_quiesce import await_true, large, state_of, writing
from tests.parts.engine import private_engine
from tests.parts.http_answers import Answer, answering_server
from tests.parts.mounts import in_memory
from tests.parts.trees import SOCKET, assert_same, build_nasty_tree, snapshot
from tests.parts.world import World, world_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from docker.models.containers import Container

    from tests.parts.cli import Outcome
    from tests.parts.engine import PrivateEngine
    from tests.parts.sshd import Sshd


@pytest.fixture
def there(other_engine: PrivateEngine, tmp_path: Path) -> Iterator[World]:
    """The other machine."""
    client = docker.DockerClient(base_url=other_engine.docker_host, timeout=120)
    directory = tmp_path / "there"
    directory.mkdir()
    with world_of(other_engine, client, directory) as world:
        yield world
        for each in client.api.containers(all=True, filters={"label": "volferry.incomplete"}):
            client.api.remove_container(each["Id"], force=True)
    client.close()


@pytest.fixture
def to(request: pytest.FixtureRequest, world: World, there: World, sshd: Sshd) -> str:
    """How the other machine is reached: from here by its socket, or by ssh with what goes there compressed."""
    if getattr(request, "param", "unix") == "unix":
        return there.engine.docker_host
    world.cli = world.cli.having(PATH=sshd.path, VOLFERRY_HELPER__COMPRESS="always")
    return sshd.url(there.engine)


def expected_of(world: World, volume: str) -> dict[bytes, Any]:
    expected = snapshot(world.data(volume))
    expected.pop(SOCKET, None)
    return expected


def incomplete(world: World) -> list[str]:
    found = world.client.api.containers(all=True, filters={"label": "volferry.incomplete"})
    return [name.lstrip("/") for each in found for name in each["Names"]]


def moved(world: World, volume: str, to: str, *more: str) -> dict[str, Any]:
    found: dict[str, Any] = world.cli("migrate", volume, "--to", to, "--json", *more).exits(0).json
    return found


@pytest.mark.parametrize("to", ["unix", "ssh"], indirect=True)
def test_everything_that_a_volume_can_hold_moves(world: World, there: World, to: str) -> None:
    volume = world.volume(labels={"com.docker.compose.project": "shop", "kept": "yes"})
    build_nasty_tree(world.data(volume))
    expected = expected_of(world, volume)
    report = moved(world, volume, to, "--checksum")
    assert_same(expected, snapshot(there.data(volume)))
    assert_same(expected, expected_of(world, volume))
    assert report["compared"] == "contents"
    assert report["volumes"][0]["state"] == "new"
    assert there.client.volumes.get(volume).attrs["Labels"] == {
        "com.docker.compose.project": "shop",
        "kept": "yes",
    }
    assert world.own_containers() == there.own_containers() == []
    assert incomplete(there) == []


@pytest.mark.parametrize("to", ["unix", "ssh"], indirect=True)
def test_a_service_is_stopped_for_the_last_pass_only_and_runs_again(
    world: World, there: World, to: str
) -> None:
    volume = world.volume()
    large(world, volume, 100)
    container = writing(world, volume)
    report = moved(world, volume, to)
    assert state_of(container)["Status"] == "running"
    assert report["stopped"] == [container.name]
    assert report["took_over"] is False
    assert 0 < report["downtime_seconds"] < report["seconds"]
    first, *_, last = report["volumes"][0]["passes"]
    assert last["sent_bytes"] < first["sent_bytes"] / 10
    data = there.data(volume)
    assert (data / "a").read_text() == (data / "b").read_text() != ""


def test_the_target_takes_over(world: World, there: World, to: str) -> None:
    volume = world.filled()
    container = writing(world, volume, restart_policy={"Name": "always"})
    there.volume(volume)
    successor = there.container(volume, state="created", name="successor")
    said = world.cli("migrate", volume, "--to", to, "--start", "successor").exits(0)
    assert state_of(container)["Status"] == "exited"
    assert state_of(successor)["Status"] == "running"
    assert "started on the target: successor" in said.stdout
    assert "docker update --restart=unless-stopped" in said.stderr
    # No later command takes it for what a dead run left down.
    world.cli("backup", world.filled()).exits(0)
    assert state_of(container)["Status"] == "exited"


def test_the_source_stays_stopped_where_that_is_asked_for(world: World, there: World, to: str) -> None:
    volume = world.filled()
    container = writing(world, volume)
    assert moved(world, volume, to, "--leave-stopped")["took_over"] is True
    assert state_of(container)["Status"] == "exited"
    assert expected_of(world, volume).keys() == expected_of(there, volume).keys()


def test_a_successor_that_does_not_start_leaves_the_source_running(
    world: World, there: World, to: str
) -> None:
    volume = world.filled()
    container = writing(world, volume)
    there.volume(volume)
    there.container(volume, state="created", name="good")
    broken = there.container(volume, state="created", name="broken", command=["/no/such/program"])
    outcome = world.cli("migrate", volume, "--to", to, "--start", "good", "--start", "broken").exits(1)
    assert "starting container broken" in outcome.complaints[-1]
    assert state_of(container)["Status"] == "running"
    assert state_of(there.client.containers.get("good"))["Status"] != "running"
    assert state_of(broken)["Status"] != "running"


def test_a_plan_changes_nothing(world: World, there: World, to: str) -> None:
    volume = world.filled()
    container = writing(world, volume)
    before = there.volumes()
    plan = world.cli("migrate", volume, "--to", to, "--dry-run", "--json").exits(0).json
    (planned,) = plan["volumes"]
    assert (planned["state"], planned["stopped"]) == ("new", [container.name])
    assert planned["entries"] >= 3
    shown = (
        world.cli("migrate", volume, "--to", to, "--dry-run", "--rename", f"{volume}=other").exits(0).stdout
    )
    assert "is made" in shown
    assert "other" in shown
    assert there.volumes() == before
    assert state_of(container)["Status"] == "running"


def test_several_volumes_of_a_project_move_at_once_and_its_containers_stop_once(
    world: World, there: World, to: str
) -> None:
    labels = {"com.docker.compose.project": "shop"}
    one, two = world.volume(labels=labels), world.volume(labels=labels)
    container = world.container(one, volumes=[f"{one}:/data", f"{two}:/more"], labels=labels)
    report = (
        world.cli("migrate", "--project", "shop", "--to", to, "--rename", f"{two}=renamed", "--json")
        .exits(0)
        .json
    )
    assert report["stopped"] == [container.name]
    assert {each["target"] for each in report["volumes"]} == {one, "renamed"}
    assert {one, "renamed"} <= there.volumes()


def test_a_target_that_holds_data_is_refused_or_made_the_same(world: World, there: World, to: str) -> None:
    volume = world.filled(one="1", same="same")
    there.filled(volume, one="other", more="more", same="same")
    before = expected_of(there, volume)
    world.cli("migrate", volume, "--to", to).fails_with("holds data", "--into-existing")
    assert_same(before, expected_of(there, volume))
    moved(world, volume, to, "--into-existing", "--checksum")
    assert_same(expected_of(world, volume), expected_of(there, volume))


def test_what_is_in_the_way_is_said_before_anything_happens(
    world: World, there: World, to: str, tmp_path: Path
) -> None:
    volume = world.filled()
    container = writing(world, volume)
    began = state_of(container)["StartedAt"]
    before = there.volumes()
    here = tmp_path / "bound"
    here.mkdir()
    bound = world.volume_at(here)
    here.rename(tmp_path / "elsewhere")  # in the engine of the other machine, it is not there
    there.volume("used")
    there.container("used")
    for arguments, words, code in (
        ((volume, "--rename", f"{volume}=used"), "is in use by", 1),
        ((volume, "--start", "nobody"), "there is no container 'nobody' on the target", 1),
        ((volume, "--driver", f"{volume}=nfs"), "has the driver 'nfs', which the target lacks", 1),
        (("no-such",), "there is no volume 'no-such'", 1),
        ((), "nothing to move", 2),
        ((volume, "--rename", "other=new"), "--rename other: that volume is not among those to move", 2),
        ((volume, "--rename", "new"), "it is OLD=NEW", 2),
        ((volume, "--option", "new"), "it is VOLUME:KEY=VALUE", 2),
        ((volume, "--remove-source", "--yes"), "--remove-source needs --checksum", 2),
        ((volume, "--remove-source", "--checksum"), "--yes answers", 2),
    ):
        world.cli("migrate", *arguments, "--to", to).fails_with(words, code=code)
    world.cli("migrate", volume, "--to", world.engine.docker_host).fails_with("is to become itself")
    world.cli("migrate", volume, "--to", "nowhere").fails_with("there is no Docker context 'nowhere'", code=2)
    assert there.volumes() == before | {"used"}
    assert state_of(container)["StartedAt"] == began
    world.remove(bound)


def test_options_that_make_no_sense_there_are_said_with_what_changes_them(
    world: World, there: World, to: str, tmp_path: Path
) -> None:
    volume = world.volume(options={"type": "none", "o": "bind", "device": "/nowhere"})
    with pytest.raises(AssertionError):
        moved(world, volume, to)
    # Where the source can be read, as where the path is on that machine alone.
    data = tmp_path / "data"
    data.mkdir()
    (data / "file").write_text("content")
    volume = world.volume_at(data)
    other = tmp_path / "other"
    other.mkdir()
    moved(world, volume, to, "--option", f"{volume}:device={other}")
    assert (other / "file").read_text() == "content"
    plain = [part for key in ("type", "o", "device") for part in ("--option", f"{volume}:{key}=")]
    moved(world, volume, to, "--rename", f"{volume}=plain", *plain)
    assert (there.data("plain") / "file").read_text() == "content"
    assert not there.client.volumes.get("plain").attrs["Options"]
    world.cli(
        "migrate", volume, "--to", to, "--rename", f"{volume}=third", "--option", f"{volume}:device=/nowhere"
    ).fails_with("has its data at /nowhere, which the target lacks", f"--option {volume}:device=PATH")


def test_the_source_is_removed_only_where_nothing_uses_it(world: World, there: World, to: str) -> None:
    volume, used = world.filled(), world.filled()
    container = world.container(used, state="stopped")
    outcome = world.cli("migrate", volume, used, "--to", to, "--checksum", "--remove-source", "--yes").exits(
        1
    )
    assert f"volume {used} stays on the source: {container.name} still mounts it" in outcome.stderr
    assert not world.exists(volume)
    assert world.exists(used)
    assert (there.data(volume) / "one").read_text() == "1"


# --- interrupted ------------------------------------------------------------------------------------


def completes(world: World, there: World, volume: str, to: str) -> dict[str, Any]:
    """The same command once more."""
    report = moved(world, volume, to, "--checksum")
    assert_same(
        {path: node for path, node in expected_of(world, volume).items() if path not in {b"a", b"b", b""}},
        {path: node for path, node in expected_of(there, volume).items() if path not in {b"a", b"b", b""}},
    )
    assert incomplete(there) == []
    assert world.own_containers() == there.own_containers() == []
    return report


def passed(there: World, volume: str, megabytes: int) -> bool:
    """Whether so much of the large file has gone over."""
    try:
        return (there.data(volume) / "large").stat().st_size > megabytes << 20
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("to", ["unix", "ssh"], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_migration_is_marked_and_gone_on_with(
    world: World, there: World, to: str, number: signal.Signals
) -> None:
    volume = world.volume()
    large(world, volume)
    for each in range(100):
        (world.data(volume) / f"file{each}").write_bytes(os.urandom(10_000))
    container = writing(world, volume)
    running = world.cli.start("migrate", volume, "--to", to)
    assert running.until(lambda: passed(there, volume, 50))
    running.send(number)
    outcome = running.outcome()
    if number == signal.SIGINT:
        assert outcome.code == 130
        assert "the same command, run again, goes on from there" in outcome.stderr
    assert state_of(container)["Status"] == "running"
    assert incomplete(there) == [f"volferry-incomplete-{volume}"]
    there.cli("backup", volume).fails_with("its migration has not ended")
    assert there.objects("manifests") == []
    report = completes(world, there, volume, to)
    assert report["volumes"][0]["state"] == "resumed"
    assert state_of(container)["Status"] == "running"


def cut_over_begins(world: World, container: Container) -> bool:
    del world
    return bool(state_of(container)["Status"] == "exited")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_cut_over_that_is_interrupted_leaves_the_service_up(
    world: World, there: World, to: str, number: signal.Signals
) -> None:
    volume = world.volume()
    large(world, volume)
    container = writing(world, volume)
    running = world.cli.start("migrate", volume, "--to", to, "--leave-stopped", "--checksum")
    assert running.until(lambda: cut_over_begins(world, container))
    running.send(number)
    running.outcome()
    if number == signal.SIGKILL:
        world.cli("backup", world.filled()).exits(0)  # whatever comes next brings it back
    assert state_of(container)["Status"] == "running"
    completes(world, there, volume, to)


def test_interrupted_once_both_sides_are_equal_it_says_how_to_go_on(
    world: World, there: World, to: str
) -> None:
    volume = world.filled()
    never_healthy = {"test": ["CMD-SHELL", "true"], "interval": 3600 * 10**9, "start_period": 3600 * 10**9}
    container = world.container(volume, healthcheck=never_healthy)
    running = world.cli.start("migrate", volume, "--to", to)
    assert running.until(lambda: incomplete(there) != [])
    assert running.until(lambda: incomplete(there) == [])
    running.until(lambda: running.send(signal.SIGINT))  # which waits for the service no longer
    outcome = running.outcome()
    assert outcome.code == 130
    assert "the volumes on the target are complete" in outcome.stderr
    assert "the same command with --into-existing sends what has changed since" in outcome.stderr
    assert state_of(container)["Status"] == "running"
    world.cli("migrate", volume, "--to", to).fails_with("holds data", "--into-existing")
    container.remove(force=True)
    moved(world, volume, to, "--into-existing", "--checksum")


@pytest.mark.parametrize("to", ["ssh"], indirect=True)
def test_a_connection_that_is_cut_in_the_cut_over_leaves_the_service_up(
    world: World, there: World, to: str, sshd: Sshd
) -> None:
    volume = world.volume()
    large(world, volume)
    container = writing(world, volume)
    running = world.cli.start("migrate", volume, "--to", to, "--checksum")
    assert running.until(lambda: cut_over_begins(world, container))
    sshd.cut()
    outcome = running.outcome()
    assert outcome.code == 1, outcome.story
    assert state_of(container)["Status"] == "running"
    completes(world, there, volume, to)


@pytest.mark.parametrize("killed", ["source", "target"])
def test_an_engine_that_is_killed_leaves_the_service_up_once_it_is_back(tmp_path: Path, killed: str) -> None:
    with private_engine() as one, private_engine() as two:
        clients = [docker.DockerClient(base_url=each.docker_host, timeout=120) for each in (one, two)]
        (tmp_path / "there").mkdir()
        with (
            world_of(one, clients[0], tmp_path) as world,
            world_of(two, clients[1], tmp_path / "there") as there,
        ):
            volume = world.volume()
            large(world, volume)
            container = writing(world, volume)
            cli = world.cli.having(VOLFERRY_BRING_BACK="1s")  # else it waits for the source
            running = cli.start("migrate", volume, "--to", two.docker_host, "--checksum")
            assert running.until(lambda: cut_over_begins(world, container))
            for client in clients:
                client.close()
            engine = one if killed == "source" else two
            engine.kill()
            outcome: Outcome = running.outcome()
            assert outcome.code == 1, outcome.story
            engine.start()
            # What is left of helpers on the engine that was away is removed, and the service brought back.
            world.cli("volumes").exits(0)
            if killed == "source":
                world.cli("backup", world.filled()).exits(0)
            await_true(lambda: state_of(container)["Status"] == "running")
            completes(world, there, volume, two.docker_host)
        for client in clients:
            client.close()


# --- unlike engines ---------------------------------------------------------------------------------


def test_a_target_with_too_little_room_is_refused(
    world: World, there: World, to: str, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    volume = world.volume()
    large(world, volume, 30)
    with in_memory(small, "10M"):
        there.volume("small", options={"type": "none", "o": "bind", "device": str(small)})
        world.cli("migrate", volume, "--to", to, "--rename", f"{volume}=small").fails_with(
            "volume small on the target has room for 0.01 GB"
        )
        there.remove("small")


def test_clocks_and_storage_drivers_may_differ(tmp_path: Path, world: World) -> None:
    with private_engine(None, "--storage-driver=vfs") as two:
        client = docker.DockerClient(base_url=two.docker_host, timeout=120)
        (tmp_path / "there").mkdir()
        with world_of(two, client, tmp_path / "there") as there:
            volume = world.filled()
            future = time.time() + 30 * 86400
            os.utime(world.data(volume) / "one", (future, future))
            container = writing(world, volume)
            moved(world, volume, two.docker_host, "--checksum")
            assert (there.data(volume) / "one").stat().st_mtime == (
                world.data(volume) / "one"
            ).stat().st_mtime
            assert state_of(container)["Status"] == "running"
        client.close()


@pytest.mark.parametrize("days", [-30, 30])
def test_the_clock_of_this_machine_may_be_a_month_off(
    world: World, there: World, sshd: Sshd, days: int
) -> None:
    volume = world.filled()
    container = writing(world, volume)
    command = [sys.executable, "-m", "tests.parts.other_clock", str(days), "migrate", volume]
    engines = ["--engine", sshd.url(world.engine), "--to", sshd.url(there.engine)]
    done = subprocess.run(
        [*command, *engines, "--checksum", "--json"],
        env={**world.cli.environment, "PATH": sshd.path},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["compared"] == "contents"
    assert state_of(container)["Status"] == "running"
    assert (there.data(volume) / "one").stat().st_mtime == (world.data(volume) / "one").stat().st_mtime
    # The container writes the same line to both, one after the other: at the cut-over they were equal.
    assert (there.data(volume) / "a").read_text() == (there.data(volume) / "b").read_text() != ""


def test_a_target_whose_engine_is_too_old_is_refused(world: World) -> None:
    volume = world.filled()
    container = writing(world, volume)
    version = json.dumps({"Version": "19.03.15", "ApiVersion": "1.40", "MinAPIVersion": "1.12"})
    with answering_server(lambda _: Answer(body=version)) as old:
        to = old.endpoint.replace("http", "tcp")
        world.cli("migrate", volume, "--to", to).fails_with("too old", "1.40", "Docker 20.10")
    assert state_of(container)["Status"] == "running"
