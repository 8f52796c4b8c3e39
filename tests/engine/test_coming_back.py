"""After a backup, what it had stopped is up, or that it is not is told until it is; and whether it stood still is looked at."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import pytest
from blake3 import blake3

from tests.engine.test_hooks import hook, log, marked
from tests.engine.test_quiesce import await_true, large, state_of, still_down
from volferry.cli.post_hooks import ConfiguredHooks
from volferry.config import load_config
from volferry.engine import engine_lock
from volferry.engine.client import connect
from volferry.engine.engine_lock import abandoned
from volferry.journal import Halt, Journal
from volferry.operations.recovery import Recovery

if TYPE_CHECKING:
    from pathlib import Path

    from docker.models.containers import Container

    from tests.parts.cli import Running
    from tests.parts.world import World

DEAD = "0123456789ab"
# Ends by itself, in a moment, whenever it is started a second time.
ONLY_ONCE = "if [ -e /once ]; then exit 3; fi; : >/once; while read -r _; do :; done"


def stopped_in(world: World, volume: str, container: Container, *options: str) -> Running:
    """A backup, in the moment when it has stopped the container."""
    running = world.cli.start("backup", volume, "--quiesce", "stop", "--full", *options)
    assert running.until(lambda: state_of(container)["Status"] == "exited")
    return running


def journals(world: World) -> list[Path]:
    return list(world.cli.state.glob("journal/*.jsonl"))


def shown(world: World, volume: str) -> dict[str, Any]:
    found: dict[str, Any] = world.cli("show", volume, "--json").exits(0).json
    return found


def test_one_that_was_removed_is_told_until_another_runs_in_its_place(world: World) -> None:
    volume = world.volume()
    large(world, volume)
    container = world.container(volume, stop_signal="SIGKILL")
    name = str(container.name)
    running = stopped_in(world, volume, container)
    container.remove()
    running.outcome().fails_with(
        f"container {name} was removed while it was stopped, and nothing has taken its place"
    )
    assert len(world.objects("manifests")) == 1
    (line,) = [line for line in world.cli("status").exits(1).stderr.splitlines() if "is not up again" in line]
    assert name in line
    run = world.cli("status", "--json").exits(1).json["down"][0]["run"]
    world.cli("recover").exits(1)
    world.container(volume, name=name)
    assert "up again" in world.cli("recover").exits(0).stdout
    assert journals(world) == []
    world.cli("recover", "--forget", run).fails_with("has left nothing down")


def test_one_that_compose_has_recreated_is_up(world: World) -> None:
    volume = world.volume()
    large(world, volume)
    labels = {
        "com.docker.compose.project": "shop",
        "com.docker.compose.service": "db",
        "com.docker.compose.container-number": "1",
    }
    container = world.container(volume, stop_signal="SIGKILL", labels=labels)
    running = stopped_in(world, volume, container)
    container.remove()
    world.container(volume, labels=labels)
    # It writes while the volume is read.
    outcome = running.outcome().exits(3)
    assert "was replaced while it was stopped" in outcome.stderr
    assert shown(world, volume)["consistency"] == "none"
    assert journals(world) == []


def test_one_that_ends_again_is_told_and_tried_again_by_recover(world: World) -> None:
    volume = world.filled()
    container = world.container(volume, command=["sh", "-c", ONLY_ONCE], stop_signal="SIGKILL")
    outcome = world.cli("backup", volume, "--quiesce", "stop", "--json").exits(1)
    assert f"{container.name} is not up again: it has ended with status 3" in outcome.stderr
    assert outcome.json["down"][0]["name"] == container.name
    document = world.cli("recover", "--json").exits(1).json
    assert [each["name"] for each in document["left"]] == [container.name]
    world.cli("recover", "--forget", document["left"][0]["run"]).exits(0)
    assert world.cli("recover").exits(0).stdout == "nothing is down\n"
    assert world.cli("status", "--json").exits(1).json["down"] == []  # the run itself was troubled


@pytest.mark.parametrize("how", ["started", "new"])
@pytest.mark.parametrize("warm", [False, True])
def test_who_writes_while_all_should_stand_still_is_a_finding(world: World, how: str, warm: bool) -> None:
    volume = world.volume()
    large(world, volume, 600)
    container = world.container(volume, stop_signal="SIGKILL")
    running = stopped_in(world, volume, container, *(["--warm"] if warm else []), "--json")
    other = container if how == "started" else world.container(volume, state="created")
    other.start()
    other.kill()  # it runs no longer when the reading ends
    outcome = running.outcome().exits(3)
    (backup,) = outcome.json["backups"]
    (finding,) = [each for each in backup["findings"] if each["kind"] == "disturbed"]
    assert str(other.name) in finding["detail"]
    assert shown(world, volume)["consistency"] == "none"
    if how == "new":
        assert state_of(container)["Status"] == "running"


def test_a_service_that_stands_still_for_too_long_is_brought_back_whatever_the_reading_does(
    world: World,
) -> None:
    volume = world.volume(labels={"volferry.max-downtime": "2s"})
    large(world, volume)
    container = world.container(volume, stop_signal="SIGKILL", labels=marked("post"))
    running = stopped_in(world, volume, container)
    (helper,) = [each for each in world.own_containers() if each["State"] == "running"]
    world.client.api.pause(helper["Id"])  # as a hung share would be
    await_true(lambda: state_of(container)["Status"] == "running", seconds=20)
    running.outcome().fails_with("stood still for 2 s (max_downtime)")
    assert [line.split()[0] for line in log(world, volume)] == ["post"]
    assert journals(world) == []


def test_a_service_comes_back_in_time_while_the_engine_still_stops_another(world: World) -> None:
    volume = world.volume(labels={"volferry.max-downtime": "2s"})
    deaf = world.client.containers.create(
        world.image,
        ["sh", "-c", "trap '' TERM; while read -r _; do :; done"],
        stdin_open=True,
        network_mode="none",
        volumes=[f"{volume}:/data"],
    )
    try:
        deaf.start()
        container = world.container(volume, stop_signal="SIGKILL")  # stopped first, as it was started last
        running = world.cli.start("backup", volume, "--quiesce", "stop")
        await_true(lambda: state_of(container)["Status"] == "exited")
        await_true(lambda: state_of(container)["Status"] == "running")
        assert state_of(deaf)["FinishedAt"].startswith("0001")  # it has ten seconds
        running.outcome().fails_with("stood still for 2 s (max_downtime)")
        assert state_of(deaf)["Status"] == "running"
        assert not state_of(deaf)["FinishedAt"].startswith("0001")
        assert journals(world) == []
    finally:
        deaf.remove(force=True)


def test_a_scheduled_run_does_not_stop_what_has_only_just_started(world: World) -> None:
    volume = world.volume(labels={"volferry.quiesce": "stop", "volferry.quiesce-after": "4s"})
    container = world.container(volume, stop_signal="SIGKILL")
    before = state_of(container)["StartedAt"]
    outcome = world.cli("backup", volume, "--scheduled").exits(0)
    assert "waiting until" in outcome.stderr
    assert state_of(container)["StartedAt"] != before  # it was waited for
    assert shown(world, volume)["consistency"] == "stop"
    # One that starts again all the time is never old enough.
    loop = world.container(
        volume,
        command=["sh", "-c", "i=0; while [ $i -lt 90000 ]; do i=$((i+1)); done; exit 1"],
        restart_policy={"Name": "always", "MaximumRetryCount": 0},
    )
    outcome = world.cli("backup", volume, "--scheduled", "--json").exits(3)
    (finding,) = outcome.json["backups"][0]["findings"]
    assert finding["kind"] == "unstopped"
    assert str(loop.name) in finding["detail"]
    assert shown(world, volume)["consistency"] == "none"
    loop.remove(force=True)


def test_nothing_is_stopped_for_a_store_that_cannot_be_written(world: World) -> None:
    volume = world.filled()
    container = world.container(volume, stop_signal="SIGKILL")
    world.cli("backup", volume).exits(0)
    before = state_of(container)["StartedAt"]
    trials = world.store / "trials"
    trials.write_text("in the way")
    world.cli("backup", volume, "--quiesce", "stop").exits(1)
    assert state_of(container)["StartedAt"] == before
    trials.unlink()
    world.cli("backup", volume, "--quiesce", "stop").exits(0)
    assert world.objects("trials") == []


def test_who_shares_a_network_goes_along_and_a_job_is_paused(world: World) -> None:
    volume = world.filled()
    lender = world.container(volume, stop_signal="SIGKILL")
    user = world.container(
        world.filled(), network_disabled=False, network_mode=f"container:{lender.id}", stop_signal="SIGKILL"
    )
    job = world.container(volume, labels={"com.docker.compose.oneoff": "True"})
    before = [state_of(each)["StartedAt"] for each in (lender, user, job)]
    outcome = world.cli("backup", volume, "--quiesce", "stop").exits(0)
    after = [state_of(each) for each in (lender, user, job)]
    assert [each["Status"] for each in after] == ["running"] * 3
    assert after[2]["StartedAt"] == before[2]
    assert all(now["StartedAt"] != then for now, then in zip(after[:2], before[:2], strict=True))
    assert after[1]["StartedAt"] > after[0]["StartedAt"]
    assert "would begin its work again" in outcome.stderr


def test_a_post_hook_waits_for_its_container_and_runs_once(world: World) -> None:
    volume = world.volume()
    large(world, volume)
    container = world.container(volume, stop_signal="SIGKILL", labels=marked("post"))
    running = stopped_in(world, volume, container)
    container.remove()
    outcome = running.outcome().exits(1)
    assert "is still to be run" in outcome.stderr
    world.cli("recover").exits(1)
    assert log(world, volume) == []
    world.container(volume, name=str(container.name), labels=marked("post"))
    world.cli("recover").exits(0)
    world.cli("backup", world.filled()).exits(0)
    assert log(world, volume) == [f"post {volume} the run was interrupted"]


def dead_journal(world: World, run: str, *halts: Halt, engine: tuple[str, str] | None = None) -> Path:
    """As a run leaves it that was killed."""
    lock = world.cli.state / "runs" / run / "lock"
    lock.parent.mkdir(parents=True, mode=0o700)
    lock.touch()
    connected = connect(world.engine.docker_host)
    journal = Journal.of_run(world.cli.state, run, engine or (connected.id, connected.url), "host")
    connected.close()
    journal.write(*halts)
    journal.end(over=False)
    return journal.path


def down(container: Container, **more: Any) -> Halt:
    finished = state_of(container)["FinishedAt"]
    return Halt("stop", str(container.id), str(container.name), 0, "", "done", finished, **more)


def test_a_journal_of_a_machine_that_has_another_name_now_is_replayed(world: World) -> None:
    container = world.container(world.filled(), "stopped")
    dead_journal(world, DEAD, down(container), engine=("another id", "unix:///nowhere.sock"))
    assert len(still_down(world)) == 1
    world.cli("recover").exits(0)
    assert state_of(container)["Status"] == "running"


def test_what_is_on_no_engine_that_answers_is_told_until_it_is_forgotten(world: World) -> None:
    halt = Halt("stop", "f" * 64, "db", 0, "", "done", "yesterday")
    dead_journal(world, DEAD, halt, engine=("another id", "unix:///nowhere.sock"))
    outcome = world.cli("recover").exits(1)
    assert "db is not up again" in outcome.stderr
    assert (
        f"volferry recover --forget {DEAD}"
        in world.cli("backup", world.filled()).exits(0).stderr + outcome.stderr
    )
    assert "db" in world.cli("recover", "--forget", DEAD).exits(0).stdout
    world.cli("recover").exits(0)


def test_a_forged_journal_has_nothing_run_and_nothing_started(world: World, tmp_path: Path) -> None:
    volume, proof = world.filled(), tmp_path / "proof"
    container = world.container(volume, "stopped", labels=hook("post", "echo run >>/data/log"))
    real = dead_journal(world, DEAD, down(container))
    known = world.cli.state / "runs" / DEAD
    text = real.read_text()
    real.unlink()
    halt = {"action": "stop", "id": container.id, "name": "x", "order": 0, "before": "", "state": "done"}
    command = json.dumps(["", [f"id >{proof}"], "", 60, {}])
    old = ["hook", "", "this machine", 0, command, "under way", ""]
    sealed = [
        f"{blake3(line.encode()).hexdigest()} {line}"
        for line in (json.dumps({"halt": halt}), json.dumps(old))
    ]
    forged = {
        f"{DEAD}.000001.jsonl": "\n".join(sealed) + "\n",  # without the key
        "aaaaaaaaaaaa.000001.jsonl": text,  # with it, and of another run
    }
    for name, content in forged.items():
        (real.parent / name).write_text(content)
    assert known.exists()
    outcome = world.cli("backup", volume).exits(0)
    assert outcome.stderr.count("nothing of it is brought back") == 2
    world.cli("recover").exits(1)
    assert not proof.exists()
    assert state_of(container)["Status"] == "exited"
    assert log(world, volume) == []
    assert len(still_down(world)) == 0
    assert world.cli("status").exits(1).stderr.count("nothing of it is brought back") == 2
    for run in (DEAD, "aaaaaaaaaaaa"):
        world.cli("recover", "--forget", run).exits(0)
    world.cli("status").exits(0)
    assert (real.parent / "key").stat().st_mode & 0o777 == 0o600


def test_recover_needs_no_engine_where_nothing_is_down(world: World) -> None:
    cli = world.cli.having(DOCKER_HOST="unix:///nowhere.sock")
    assert cli("recover").exits(0).stdout == "nothing is down\n"
    dead_journal(world, DEAD, Halt("stop", "f" * 64, "db", 0, "", "done", "yesterday"))
    cli("recover").fails_with("no Docker engine answers")


def test_what_a_volferry_of_another_machine_has_left_down_is_brought_back_by_one_that_is_there(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = world.volume()
    large(world, volume)
    first, second = (world.container(volume, stop_signal="SIGKILL") for _ in range(2))
    other = world.cli.having(VOLFERRY_STATE_DIR=str(tmp_path / "of the laptop"))
    running = other.start("backup", volume, "--quiesce", "stop")
    assert running.until(lambda: state_of(first)["Status"] == state_of(second)["Status"] == "exited")
    running.send(signal.SIGKILL)
    running.outcome()
    second.start()
    second.kill()  # somebody wants it to be off
    engine = connect(world.engine.docker_host)
    recovery = Recovery(world.cli.state, ConfiguredHooks(load_config(None, {})), print, 5.0)
    recovery.of_others(engine, "0" * 16)  # its run may still be bringing back
    assert recovery.brought_back == []
    monkeypatch.setattr(engine_lock, "_ABANDONED_SECONDS", -1)
    await_true(lambda: abandoned(engine, "0" * 16) is not None)  # its helper ends
    recovery.of_others(engine, "0" * 16)
    assert (recovery.brought_back, recovery.left) == ([first.name], [])
    assert [state_of(each)["Status"] for each in (first, second)] == ["running", "exited"]
    assert abandoned(engine, "0" * 16) is None
    engine.close()
    other("recover").exits(0)
    assert [state_of(each)["Status"] for each in (first, second)] == ["running", "exited"]
