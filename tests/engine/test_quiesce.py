"""Containers that write to a volume stand still while it is read, and are as they were afterwards, whatever happens."""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import docker
import pytest
from docker.types import Mount, ServiceMode

from tests.parts.engine import private_engine
from tests.parts.s3_servers import free_ports
from tests.parts.warm import warm_process
from tests.parts.world import IDLE, World, world_of
from volferry.cli.post_hooks import ConfiguredHooks
from volferry.config import load_config
from volferry.engine import containers
from volferry.engine.client import Engine, connect
from volferry.errors import EngineError
from volferry.journal import Journal
from volferry.operations import coming_back, halting
from volferry.operations.quiesce import Limits, Quiesced
from volferry.operations.recovery import Recovery
from volferry.run import begin_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from docker.models.containers import Container

# Both files hold the same, but for the moment between the two writes. It ends between two rounds.
PAIRS = [
    "sh",
    "-c",
    "trap 'end=1' TERM; i=0; while [ -z \"$end\" ]; do i=$((i+1)); echo $i >/data/a; echo $i >/data/b; done",
]


def state_of(container: Container) -> dict[str, Any]:
    container.reload()
    found: dict[str, Any] = container.attrs["State"]
    return found


def writing(world: World, volume: str, **more: Any) -> Container:
    return world.container(volume, **{"command": PAIRS, **more})


def large(world: World, volume: str, megabytes: int = 300) -> None:
    """So that reading it takes a moment."""
    with (world.data(volume) / "large").open("wb") as file:
        for _ in range(megabytes):
            file.write(b"%d" % file.tell() * 100_000)


def restored(world: World, volume: str) -> Path:
    other = world.name()
    world.cli("restore", volume, "--into", other).exits(0)
    return world.data(other)


@pytest.mark.parametrize("mode", ["stop", "pause"])
@pytest.mark.parametrize("warm", [False, True])
def test_who_writes_stands_still_while_the_volume_is_read(world: World, mode: str, warm: bool) -> None:
    volume = world.volume(labels={"volferry.quiesce": mode, "volferry.warm": str(warm).lower()})
    container = writing(world, volume)
    before = state_of(container)["StartedAt"]
    outcome = world.cli("backup", volume, "--json").exits(0)
    (backup,) = outcome.json["backups"]
    after = state_of(container)
    assert after["Status"] == "running"
    assert (after["StartedAt"] != before) == (mode == "stop")
    assert backup["downtime_seconds"] > 0
    manifest = world.cli("show", volume, "--json").exits(0).json
    assert manifest["consistency"] == mode
    assert f"Stood still  {mode}, for " in world.cli("show", volume).exits(0).stdout
    assert manifest["downtime_seconds"] == backup["downtime_seconds"]
    assert backup["findings"] == []
    data = restored(world, volume)
    if mode == "stop":
        assert (data / "a").read_text() == (data / "b").read_text() != ""
    assert list(world.cli.state.glob("journal/*.jsonl")) == []


def test_what_does_not_write_or_does_not_run_is_left_alone(world: World) -> None:
    volume = world.filled()
    reader = world.container(volume, volumes=[f"{volume}:/data:ro"])
    stopped, created, paused = (world.container(volume, state) for state in ("stopped", "created", "paused"))
    others = [reader, stopped, created, paused]
    before = [state_of(each) for each in others]
    (backup,) = world.cli("backup", volume, "--quiesce", "stop", "--json").exits(0).json["backups"]
    assert [state_of(each) for each in others] == before
    assert backup["downtime_seconds"] == 0


def test_containers_stop_in_reverse_order_of_what_they_depend_on_and_start_in_order(world: World) -> None:
    volume = world.filled()

    def service(name: str, depends_on: str = "", project: str = "shop") -> Container:
        labels = {"com.docker.compose.project": project, "com.docker.compose.service": name}
        if depends_on:
            labels["com.docker.compose.depends_on"] = depends_on
        return world.container(volume, labels=labels, stop_signal="SIGKILL")

    web = service("web", "db:service_started:false,cache:service_healthy:true")
    cache = service("cache", "db:service_started:false")
    other = service("web", project="another")
    db = service("db")
    world.cli("backup", volume, "--quiesce", "stop").exits(0)
    states = {each.name: state_of(each) for each in (web, cache, other, db)}
    assert {state["Status"] for state in states.values()} == {"running"}
    stopped = sorted((web, cache, db), key=lambda each: states[each.name]["FinishedAt"])
    started = sorted((web, cache, db), key=lambda each: states[each.name]["StartedAt"])
    assert [each.name for each in stopped] == [web.name, cache.name, db.name]
    assert [each.name for each in started] == [db.name, cache.name, web.name]


def test_a_container_that_would_be_removed_is_paused(world: World) -> None:
    volume = world.filled()
    container = world.container(volume, auto_remove=True)
    before = state_of(container)["StartedAt"]
    outcome = world.cli("backup", volume, "--quiesce", "stop").exits(0)
    assert "paused instead" in outcome.stderr
    state = state_of(container)
    assert (state["Status"], state["StartedAt"]) == ("running", before)
    container.remove(force=True)


def test_a_container_with_a_restart_policy_is_back_with_it(world: World) -> None:
    volume = world.filled()
    container = world.container(
        volume, restart_policy={"Name": "always", "MaximumRetryCount": 0}, stop_signal="SIGKILL"
    )
    world.cli("backup", volume, "--quiesce", "stop").exits(0)
    state = state_of(container)
    assert (state["Status"], container.attrs["HostConfig"]["RestartPolicy"]["Name"]) == ("running", "always")


def test_a_container_of_two_volumes_is_up_after_both(world: World) -> None:
    first, second = world.filled(), world.filled()
    container = world.container(first, volumes=[f"{first}:/data", f"{second}:/other"], stop_signal="SIGKILL")
    found = world.cli("backup", first, second, "--quiesce", "stop", "--json").exits(0).json["backups"]
    assert len(found) == 2
    assert all(backup["downtime_seconds"] > 0 for backup in found)
    assert state_of(container)["Status"] == "running"


def test_what_is_not_healthy_again_makes_the_run_fail(world: World) -> None:
    volume = world.filled()
    once = "if [ -e /once ]; then : >/bad; fi; : >/once; while read -r _; do :; done"
    container = world.container(
        volume,
        stop_signal="SIGKILL",
        command=["sh", "-c", once],
        healthcheck={
            "test": ["CMD", "sh", "-c", "[ ! -e /bad ]"],
            "interval": 10**8,
            "timeout": 10**9,
            "retries": 1,
        },
    )
    await_true(lambda: state_of(container)["Health"]["Status"] == "healthy")
    outcome = world.cli("backup", volume, "--quiesce", "stop", "--json").exits(1)
    assert f"{container.name} is not up again: it is unhealthy" in outcome.stderr
    assert len(outcome.json["backups"]) == 1
    run = world.cli("status", "--json").exits(1).json["down"][0]["run"]
    assert outcome.json["down"] == [{"name": container.name, "error": "it is unhealthy", "run": run}]
    assert state_of(container)["Status"] == "running"
    (line,) = [line for line in world.cli("status").exits(1).stderr.splitlines() if "is not up again" in line]
    assert "it is unhealthy" in line
    world.cli("recover").fails_with(f"{container.name} is not up again: it is unhealthy")


def test_a_run_that_fails_or_is_interrupted_brings_the_service_back(world: World) -> None:
    volume = world.filled()
    large(world, volume)
    container = writing(world, volume)
    for number in (signal.SIGINT, signal.SIGTERM):
        running = world.cli.start("backup", volume, "--quiesce", "stop", "--full")
        assert running.until(lambda: state_of(container)["Status"] == "exited")
        running.send(number)
        running.outcome().exits(130)
        assert state_of(container)["Status"] == "running"
    running = world.cli.start("backup", volume, "--quiesce", "stop", "--full")
    assert running.until(lambda: state_of(container)["Status"] == "exited")
    (helper,) = [each for each in world.own_containers() if each["State"] == "running"]
    world.client.api.kill(helper["Id"])
    running.outcome().exits(1)
    assert state_of(container)["Status"] == "running"


def test_a_run_that_was_killed_has_its_service_brought_back_by_the_next(world: World) -> None:
    volume = world.filled()
    large(world, volume)
    container = writing(world, volume)
    running = world.cli.start("backup", volume, "--quiesce", "stop")
    assert running.until(lambda: state_of(container)["Status"] == "exited")
    running.send(signal.SIGSTOP)
    assert still_down(world) == []  # of a run that lives
    running.send(signal.SIGKILL)
    running.outcome().exits(-signal.SIGKILL)
    world.cli("status").exits(1)
    (line,) = still_down(world)
    assert line.startswith(f"volferry: container {container.name} is still stopped, since 20")
    assert f"the backup of {volume} " in line
    assert "the next `volferry backup`" in line
    (down,) = world.cli("status", "--json").exits(1).json["down"]
    assert (down["name"], down["action"], down["engine"]) == (container.name, "stop", None)
    assert state_of(container)["Status"] == "exited"
    other = world.filled()
    outcome = world.cli("backup", other).exits(0)
    assert still_down(world) == []
    assert f"bringing back what an interrupted run had stopped: {container.name}" in outcome.stderr
    assert state_of(container)["Status"] == "running"
    assert list(world.cli.state.glob("journal/*.jsonl")) == []


def test_a_service_comes_back_first_whatever_is_wrong_with_what_is_to_be_backed_up(world: World) -> None:
    volume = world.filled()
    large(world, volume)
    container = writing(world, volume)
    running = world.cli.start("backup", volume, "--quiesce", "stop")
    assert running.until(lambda: state_of(container)["Status"] == "exited")
    running.send(signal.SIGKILL)
    running.outcome()
    wrong = world.volume(labels={"volferry.quiese": "stop"})
    world.cli("backup", wrong, "--store", "ftp://nowhere").fails_with("ftp://nowhere", code=2)
    assert state_of(container)["Status"] == "running"


def replay(engine: Engine, state: Path) -> list[str]:
    """What could not be brought back."""
    recovery = Recovery(state, ConfiguredHooks(load_config(None, {})), print, 1.0)
    recovery.on(engine)
    recovery.finish()
    return [each.text for each in recovery.left]


def still_down(world: World) -> list[str]:
    """As status says."""
    return [line for line in world.cli("status").stderr.splitlines() if " is still " in line]


def test_what_a_killed_run_left_paused_is_named_until_somebody_brings_it_back(world: World) -> None:
    volume = world.filled()
    large(world, volume)
    container = writing(world, volume)
    running = world.cli.start("backup", volume, "--quiesce", "pause")
    assert running.until(lambda: state_of(container)["Status"] == "paused")
    running.send(signal.SIGKILL)
    running.outcome()
    (line,) = still_down(world)
    assert f"container {container.name} is still paused" in line
    assert state_of(container)["Status"] == "paused"
    container.unpause()
    assert still_down(world) == []


def killed_at(world: World, volume: str, mode: str, step: int) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    code, out, err = warm_process().run(
        [world.engine.docker_host, str(world.cli.state), volume, mode, str(step)],
        world.cli.environment,
        60,
        program="tests.parts.quiesce_step",
    )
    return code, out.decode(), err.decode()


@pytest.mark.parametrize("mode", ["stop", "pause"])
def test_a_run_that_is_killed_at_any_step_leaves_nothing_down(
    world: World, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    # These containers end at once, though they say nothing of that.
    monkeypatch.setattr(coming_back, "LONGER_SECONDS", -9.5)
    monkeypatch.setattr(coming_back, "STEADY_SECONDS", 0.1)
    volume = world.filled()
    containers = [world.container(volume, stop_signal="SIGKILL") for _ in range(2)]
    engine = connect(world.engine.docker_host)
    code, out, err = killed_at(world, volume, mode, 0)
    assert code == 0, err
    steps = int(out.split()[-1])
    assert steps > 10
    for step in range(1, steps + 1):
        code, out, err = killed_at(world, volume, mode, step)
        if code != 0 or int(out.split()[-1]) >= step:  # one more look, or one less, is a matter of time
            assert code == -signal.SIGKILL, (step, out, err)
        assert replay(engine, world.cli.state) == []
        assert {state_of(each)["Status"] for each in containers} == {"running"}, step
        assert list(world.cli.state.glob("journal/*.jsonl")) == []
    engine.close()


def test_a_container_that_a_person_has_touched_meanwhile_is_left_as_it_is(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coming_back, "LONGER_SECONDS", -9.5)
    monkeypatch.setattr(coming_back, "STEADY_SECONDS", 0.1)
    volume = world.filled()
    containers = [world.container(volume, stop_signal="SIGKILL") for _ in range(3)]
    started, restarted, untouched = containers
    engine = connect(world.engine.docker_host)
    still = int(killed_at(world, volume, "stop", 0)[1].split()[0])
    killed_at(world, volume, "stop", still + 1)
    assert {state_of(each)["Status"] for each in containers} == {"exited"}
    started.start()
    at = state_of(started)["StartedAt"]
    restarted.start()
    restarted.stop()
    assert replay(engine, world.cli.state) == []
    assert state_of(started)["StartedAt"] == at
    assert state_of(restarted)["Status"] == "exited"
    assert state_of(untouched)["Status"] == "running"
    engine.close()


@pytest.mark.parametrize("label", ["volferry.quiesce", "volferry.warm"])
def test_a_label_that_says_nothing_known_is_refused_before_anything_is_done(world: World, label: str) -> None:
    volume = world.volume(labels={label: "perhaps"})
    container = world.container(volume)
    before = state_of(container)
    world.cli("backup", volume).fails_with(f"label {label} is 'perhaps'", code=2)
    assert state_of(container) == before
    assert not world.store.exists()


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[World]:
    """A swarm of one node, of the test's own: an engine in a swarm is another one for everybody."""
    with private_engine() as private:
        client = docker.DockerClient(base_url=private.docker_host, timeout=120)
        (port,) = free_ports(1)
        client.swarm.init(advertise_addr="127.0.0.1", listen_addr=f"127.0.0.1:{port}")
        with world_of(private, client, tmp_path) as world:
            yield world
            # Nothing may make another container while the volumes are removed.
            services: Any = client.services
            for each in services.list():
                each.remove()
            client.swarm.leave(force=True)
            while left := client.containers.list(all=True, ignore_removed=True):
                for container in left:
                    with suppress(docker.errors.APIError):  # its task is ending, too
                        container.remove(force=True)
        client.close()


def service(world: World, volume: str, mode: ServiceMode, **more: Any) -> Any:
    mount = Mount("/data", volume, type="volume")
    services: Any = world.client.services
    return services.create(
        world.image,
        command=IDLE,
        open_stdin=True,
        mounts=[mount],
        mode=mode,
        networks=["host"],
        stop_grace_period=10**8,
        restart_policy={"Condition": "any", "Delay": 0},
        **more,
    )


def tasks(world: World) -> int:
    return len(world.client.api.containers(filters={"label": "com.docker.swarm.service.id"}))


def test_swarm_services_are_scaled_to_nothing_and_back(swarm: World) -> None:
    volume = swarm.filled()
    replicated = service(swarm, volume, ServiceMode("replicated", replicas=2))
    await_true(lambda: tasks(swarm) == 2)
    (backup,) = swarm.cli("backup", volume, "--quiesce", "stop", "--json").exits(0).json["backups"]
    assert backup["downtime_seconds"] > 0
    replicated.reload()
    assert replicated.attrs["Spec"]["Mode"]["Replicated"]["Replicas"] == 2
    await_true(lambda: tasks(swarm) == 2)
    replicated.remove()
    await_true(lambda: tasks(swarm) == 0)
    service(swarm, volume, ServiceMode("global"))
    await_true(lambda: tasks(swarm) == 1)
    swarm.cli("backup", volume, "--quiesce", "stop").fails_with("cannot be scaled: use quiesce = pause")
    assert tasks(swarm) == 1


def test_labels_of_a_swarm_service_count_as_those_of_its_containers(swarm: World) -> None:
    """A compose file has them below `deploy:`."""
    volume = swarm.filled()
    said = {
        "volferry.quiesce": "stop",
        "volferry.hook.pre": "echo x >/data/hooked",
        "volferry.dump": "printf content",
    }
    of_stack = {"com.docker.stack.namespace": "shop"}
    made = service(
        swarm, volume, ServiceMode("replicated", replicas=1), labels=said, container_labels=of_stack
    )
    await_true(lambda: tasks(swarm) == 1)
    (backup,) = swarm.cli("backup", "--project", "shop", "--json").exits(0).json["backups"]
    assert (backup["volume"], backup["dumps"]) == (volume, ["dump"])
    assert backup["downtime_seconds"] > 0
    assert (swarm.data(volume) / "hooked").exists()
    assert swarm.cli("show", volume, "--json").exits(0).json["consistency"] == "stop"
    made.remove()
    await_true(lambda: tasks(swarm) == 0)
    service(swarm, volume, ServiceMode("global"), labels={"volferry.quiese": "stop"})
    await_true(lambda: tasks(swarm) == 1)
    swarm.cli("backup", volume).fails_with("there is no label 'volferry.quiese'", code=2)


def await_true(reached: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_what_could_not_be_brought_back_after_one_volume_is_not_forgotten_with_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = sorted([world.filled(), world.filled()])
    container = world.container(first, stop_signal="SIGKILL")
    engine = connect(world.engine.docker_host)

    def refuses(*_: object) -> None:
        raise EngineError("port is already allocated")

    with begin_run(world.cli.state) as run:
        with monkeypatch.context() as patched:
            patched.setattr(coming_back, "start", refuses)
            stopped = quiesced(engine, world, first, run.id)
            stopped.limits = Limits(bring_back=timedelta(seconds=1))
            stopped.begin()
            stopped.end()
            stopped.await_up()
        assert [str(container.name) in problem for problem in stopped.problems] == [True]
        other = quiesced(engine, world, second, run.id)
        other.begin()
        other.end()
        other.await_up()
    assert state_of(container)["Status"] == "exited"
    assert replay(engine, world.cli.state) == []
    assert state_of(container)["Status"] == "running"
    engine.close()


def quiesced(engine: Engine, world: World, volume: str, run_id: str) -> Quiesced:
    journal = Journal.of_run(world.cli.state, run_id)
    return Quiesced(engine, [volume], "stop", warm=False, journal=journal, own=[], note=print)


def test_a_container_that_was_restarted_meanwhile_is_stopped_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = world.filled()
    first, second = (world.container(volume, stop_signal="SIGKILL") for _ in range(2))
    engine = connect(world.engine.docker_host)
    stop = containers.stop

    def stop_and_restart_the_other(engine: Engine, stopped: Any) -> None:
        stop(engine, stopped)
        if stopped.id == second.id:
            first.restart()

    monkeypatch.setattr(halting, "stop", stop_and_restart_the_other)
    with begin_run(world.cli.state) as run:
        both = quiesced(engine, world, volume, run.id)
        both.begin()
        assert {state_of(each)["Status"] for each in (first, second)} == {"exited"}
        both.end()
        both.await_up()
    assert {state_of(each)["Status"] for each in (first, second)} == {"running"}
    engine.close()


def test_a_container_has_as_much_time_to_stop_as_it_wants(world: World) -> None:
    volume = world.filled()
    deaf = ["sh", "-c", "trap '' TERM; while read -r _; do :; done"]
    made = world.client.api.create_container(
        world.image,
        deaf,
        stdin_open=True,
        stop_timeout=1,
        host_config=world.client.api.create_host_config(binds=[f"{volume}:/data"], network_mode="none"),
    )
    container = world.client.containers.get(made["Id"])
    try:
        container.start()
        (backup,) = world.cli("backup", volume, "--quiesce", "stop", "--json").exits(0).json["backups"]
        # Not at once, and not after the ten seconds of one that says nothing.
        assert 1 <= backup["downtime_seconds"] < 8
        assert state_of(container)["Status"] == "running"
    finally:
        container.remove(force=True)


@pytest.mark.parametrize("waits", [False, True])
def test_an_engine_that_is_killed_meanwhile_has_its_service_brought_back(tmp_path: Path, waits: bool) -> None:
    with private_engine() as private:
        client = docker.DockerClient(base_url=private.docker_host, timeout=120)
        with world_of(private, client, tmp_path) as world:
            volume = world.volume()
            large(world, volume)
            container = writing(world, volume)
            cli = world.cli if waits else world.cli.having(VOLFERRY_BRING_BACK="1s")
            running = cli.start("backup", volume, "--quiesce", "stop")
            assert running.until(lambda: state_of(container)["Status"] == "exited")
            client.close()  # what it has open would end with the engine
            private.kill()
            if not waits:
                running.outcome().exits(1)
            private.start()
            if waits:
                running.outcome().exits(1)
                assert state_of(container)["Status"] == "running"
                assert list(world.cli.state.glob("journal/*.jsonl")) == []
                return
            assert state_of(container)["Status"] == "exited"
            outcome = world.cli("backup", volume).exits(0, 3)  # it is written to
            assert f"bringing back what an interrupted run had stopped: {container.name}" in outcome.stderr
            assert state_of(container)["Status"] == "running"
            assert world.own_containers() == []
        client.close()
