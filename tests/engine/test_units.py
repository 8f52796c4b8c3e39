"""Volumes that belong together: one stop, hooks once, backups of one moment, all of them or none."""

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.engine.test_daemon import LOG, outcome_of, scheduled_now
from tests.engine.test_hooks import hook, log
from tests.engine.test_quiesce import large, restored, state_of
from tests.parts.world import IDLE

if TYPE_CHECKING:
    from pathlib import Path

    from docker.models.containers import Container

    from tests.parts.world import World

# Both files hold the same, but for the moment between the two writes. It ends between two rounds.
PAIRS = [
    "sh",
    "-c",
    "trap 'end=1' TERM; i=0; while [ -z \"$end\" ]; do i=$((i+1)); echo $i >/one/n; echo $i >/two/n; done",
]


@pytest.fixture
def pair(world: World) -> list[str]:
    return sorted([world.filled(), world.filled()])


def app(world: World, pair: list[str], **more: Any) -> Container:
    first, second = pair
    volumes = [f"{first}:/one", f"{second}:/two"]
    return world.container(first, volumes=volumes, **{"command": PAIRS, **more})


def ends(world: World, container: Container, since: float) -> int:
    """How often it has ended."""
    found = world.client.events(
        since=int(since),
        until=int(time.time()) + 1,
        filters={"event": "die", "container": container.id},
        decode=True,
    )
    return len([*found])


@pytest.mark.parametrize("warm", [False, True])
def test_a_container_of_two_volumes_is_stopped_once_for_both(
    world: World, pair: list[str], warm: bool
) -> None:
    count = "echo $VOLFERRY_VOLUME >>/one/log"
    container = app(world, pair, labels={**hook("pre", count), **hook("post", count)})
    began = time.time()
    options = ("--warm",) if warm else ()
    outcome = world.cli("backup", *pair, "--quiesce", "stop", *options, "--json").exits(0)
    assert ends(world, container, began) == 1
    assert state_of(container)["Status"] == "running"
    made = outcome.json["backups"]
    assert [each["volume"] for each in made] == pair
    assert made[0]["set"] == made[1]["set"] is not None
    assert made[0]["downtime_seconds"] == made[1]["downtime_seconds"] > 0
    assert log(world, pair[0]) == [" ".join(pair)] * 2
    for each in pair:
        manifest = world.cli("show", each, "--json").exits(0).json
        assert manifest["consistency"] == "stop"
        assert manifest["set"] == {
            "id": made[0]["set"],
            "backups": [{"volume": stats["volume"], "id": stats["id"]} for stats in made],
        }
    numbers = {(restored(world, each) / "n").read_text() for each in pair}
    assert len(numbers) == 1
    assert [*world.cli.state.glob("journal/*.jsonl")] == []


def test_one_that_nobody_stops_is_backed_up_by_itself(world: World, pair: list[str]) -> None:
    app(world, pair)
    made = world.cli("backup", *pair, "--json")
    assert made.code in {0, 3}
    assert [each["set"] for each in made.json["backups"]] == [None, None]
    assert "set" not in world.cli("show", pair[0], "--json").json


def test_a_project_that_says_so_is_a_set_though_its_containers_have_nothing_in_common(world: World) -> None:
    labels = {"com.docker.compose.project": "shop", "volferry.group": "project", "volferry.quiesce": "pause"}
    names = sorted([world.volume(labels=labels), world.volume(labels={**labels, "volferry.quiesce": "none"})])
    alone = world.volume(labels={"com.docker.compose.project": "shop"})
    containers = [world.container(each) for each in names]
    before = [state_of(each)["StartedAt"] for each in containers]
    made = world.cli("backup", "--project", "shop", "--json").exits(0).json["backups"]
    sets = {each["volume"]: each["set"] for each in made}
    assert sets[names[0]] == sets[names[1]] is not None
    assert sets[alone] is None
    said = world.cli("backup", "--project", "shop").exits(0).stderr
    assert "the volumes of shop were backed up at 2 moments: the label `volferry.group: project`" in said
    refused = world.cli("restore", "--project", "shop").exits(1)
    assert "not of one moment" not in refused.stderr
    assert "moments" not in world.cli("backup", *names).stderr
    manifest = [world.cli("show", each, "--json").exits(0).json for each in names]
    assert {each["consistency"] for each in manifest} == {"pause"}  # the strictest
    assert [state_of(each)["StartedAt"] for each in containers] == before


def test_where_one_cannot_be_backed_up_there_is_none_of_any(world: World, pair: list[str]) -> None:
    """The lock of the second is another run's."""
    large(world, pair[1])
    container = app(world, pair, stop_signal="SIGKILL")
    other = world.cli.start("backup", pair[1])
    assert other.until(world.reading_begins)
    before = state_of(container)["StartedAt"]
    other.send(signal.SIGSTOP)
    outcome = world.cli("backup", *pair, "--quiesce", "stop", "--json").exits(1)
    assert outcome.json["backups"] == []
    assert [each["busy"] for each in outcome.json["failed"]] == [True, True]
    assert state_of(container)["StartedAt"] == before
    other.send(signal.SIGCONT)
    other.outcome()
    assert {path.parent.name for path in world.objects("manifests")} == {pair[1]}


def test_a_wrong_label_of_one_leaves_the_other(world: World, pair: list[str]) -> None:
    container = app(world, pair, stop_signal="SIGKILL")
    wrong = world.volume(labels={"volferry.quiese": "stop"})
    outcome = world.cli("backup", *pair, wrong, "--quiesce", "stop", "--json").exits(1)
    assert [each["volume"] for each in outcome.json["backups"]] == pair
    assert [each["volume"] for each in outcome.json["failed"]] == [wrong]
    assert state_of(container)["Status"] == "running"


def test_killed_in_the_middle_it_has_made_none_and_the_next_run_brings_all_back(
    world: World, pair: list[str]
) -> None:
    large(world, pair[1])
    container = app(world, pair, stop_signal="SIGKILL", labels=hook("post", "echo post >>/one/log"))
    running = world.cli.start("backup", *pair, "--quiesce", "stop")
    # The first was read by then.
    assert running.until(lambda: bool(world.objects(f"packs/{world.host}/{pair[0]}")))
    assert running.until(lambda: state_of(container)["Status"] == "exited")
    running.send(signal.SIGKILL)
    running.outcome()
    assert world.objects("manifests") == []
    made = world.cli("backup", *pair, "--quiesce", "stop", "--json").exits(0).json["backups"]
    assert len({each["set"] for each in made}) == 1
    assert state_of(container)["Status"] == "running"
    assert log(world, pair[0]) == ["post"] * 2  # of both runs


def test_a_set_is_restored_and_shown_as_one_and_says_where_it_is_not_complete(
    world: World, pair: list[str]
) -> None:
    container = app(world, pair, labels={"com.docker.compose.project": "shop"}, stop_signal="SIGTERM")
    first = world.cli("backup", "--project", "shop", "--quiesce", "stop", "--json").exits(0).json["backups"]
    second = world.cli("backup", "--project", "shop", "--quiesce", "stop", "--json").exits(0).json["backups"]
    world.cli("restore", "--project", "shop", "--replace").fails_with("is in use by", "nothing was restored")
    container.stop()
    world.cli("restore", "--project", "shop").fails_with(*pair, "hold data", "nothing was restored")
    restored_now = world.cli("restore", "--project", "shop", "--replace", "--json").exits(0).json
    assert restored_now["sets"] == [second[0]["set"]]
    assert [each["id"] for each in restored_now["restored"]] == [each["id"] for each in second]
    assert len({(world.data(each) / "n").read_text() for each in pair}) == 1
    container.remove()
    for each in pair:
        world.client.api.remove_volume(each)
    outcome = world.cli("restore", "--project", f"shop@{first[0]['set']}").exits(0)
    assert outcome.stdout.count("compared and equal") == 2
    assert len({(world.data(each) / "n").read_text() for each in pair}) == 1
    assert (
        f"{first[0]['set']}, with {pair[0]}@"
        in world.cli("show", f"{pair[0]}@{first[0]['id']}").exits(0).stdout
    )
    world.cli("forget", f"{pair[1]}@{first[1]['id']}").exits(0)
    listed = world.cli("list", "--json").exits(0).json["backups"]
    missing = {each["id"]: each["set"]["missing"] for each in listed}
    assert missing[first[0]["id"]] == [f"{world.host}/{pair[1]}@{first[1]['id']}"]
    assert missing[second[0]["id"]] == missing[second[1]["id"]] == []
    assert "not complete" in world.cli("list", pair[0]).exits(0).stdout
    world.cli("restore", "--project", f"shop@{first[0]['set']}", "--replace").fails_with("is not complete")
    world.cli("restore", "--project", "shop", pair[0]).fails_with("a BACKUP, or --project", code=2)
    world.cli("restore", "--project", "shop", "--to", "here").fails_with("--project restores each", code=2)
    world.cli("restore").fails_with("a BACKUP, or --project", code=2)


def test_the_daemon_stops_a_container_once_for_volumes_that_are_due_together(
    world: World, tmp_path: Path
) -> None:
    config = tmp_path / "volferry.toml"
    config.write_text(LOG)
    world.cli = world.cli.having(VOLFERRY_CONFIG=str(config))
    labels = {**scheduled_now(), "volferry.quiesce": "stop"}
    pair = sorted([world.volume(labels=labels), world.volume(labels=labels)])
    container = app(world, pair, stop_signal="SIGTERM")
    began = time.time()
    daemon = world.cli.start("daemon")
    assert daemon.until(lambda: all(outcome_of(world, each) == "done" for each in pair))
    assert daemon.until(lambda: daemon.so_far.count("a run has ended") == len(pair))
    daemon.send(signal.SIGTERM)
    lines = [json.loads(line) for line in daemon.outcome().exits(0).stderr.splitlines()]
    assert ends(world, container, began) == 1
    assert state_of(container)["Status"] == "running"
    assert [line["volume"] for line in lines if line["event"] == "a run begins"] == [", ".join(pair)]
    assert sorted(line["volume"] for line in lines if line["event"] == "a run has ended") == pair
    sets = {world.cli("show", each, "--json").exits(0).json["set"]["id"] for each in pair}
    assert len(sets) == 1


GROUPED = {"com.docker.compose.project": "shop", "volferry.group": "project"}


def settings(world: World, tmp_path: Path, text: str) -> None:
    path = tmp_path / "volferry.toml"
    path.write_text(text)
    world.cli = world.cli.having(VOLFERRY_CONFIG=str(path))


def test_hooks_of_one_container_are_run_by_one_backup_at_a_time(world: World, pair: list[str]) -> None:
    large(world, pair[0])
    labels = {
        **hook("pre", "echo on $VOLFERRY_VOLUME >>/one/log"),
        **hook("post", "echo off $VOLFERRY_VOLUME >>/one/log"),
    }
    app(world, pair, labels=labels, command=IDLE)
    other = world.cli.start("backup", pair[0])
    assert other.until(lambda: len(log(world, pair[0])) == 1)
    outcome = world.cli("backup", pair[1]).exits(0)
    other.outcome().exits(0, 3)
    assert "waiting: another run has hooks of container" in outcome.stderr
    assert log(world, pair[0]) == [f"{what} {volume}" for volume in pair for what in ("on", "off")]


def test_a_line_on_this_machine_is_run_once_whatever_else_is_said(world: World, tmp_path: Path) -> None:
    pair = sorted([world.volume(labels=GROUPED), world.volume(labels=GROUPED)])
    told = tmp_path / "told"
    freeze, thaw = (f'"echo {what} $VOLFERRY_VOLUME >>{told}"' for what in ("freeze", "thaw"))
    lines = f"hooks.pre = {freeze}\nhooks.post = {thaw}\n"
    rule = f'[[rules]]\nmatch = "{pair[1]}"\n{lines}hooks.timeout = "20m"\nhooks.on_error = "true"\n'
    settings(world, tmp_path, f"[defaults]\n{lines}{rule}")
    world.cli("backup", *pair).exits(0)
    assert told.read_text().splitlines() == [f"{what} {' '.join(pair)}" for what in ("freeze", "thaw")]


def test_where_it_fails_before_anything_was_begun_those_who_wait_for_that_are_told(
    world: World, tmp_path: Path
) -> None:
    pair = sorted([world.volume(labels=GROUPED), world.volume(labels=GROUPED)])
    world.container(pair[0], labels=hook("pre", "exit 1"))
    world.container(pair[1], labels=hook("on-error", "echo no backup >>/data/log"))
    world.cli("backup", *pair).exits(1)
    assert log(world, pair[1]) == ["no backup"]
    gone = world.volume(labels=GROUPED, options={"type": "none", "o": "bind", "device": "/nowhere"})
    told = tmp_path / "told"
    settings(world, tmp_path, f'[defaults.hooks]\non_error = "echo $VOLFERRY_VOLUME >>{told}"\n')
    outcome = world.cli("backup", pair[1], gone, "--json").exits(1)
    errors = {each["volume"]: each["error"] for each in outcome.json["failed"]}
    assert told.read_text().split() == sorted([pair[1], gone])
    assert "/nowhere" in errors[gone]
    assert "/nowhere" in errors[pair[1]]


def test_one_that_is_gone_or_wrong_by_then_costs_the_others_nothing(world: World) -> None:
    names = sorted(world.volume(labels=GROUPED) for _ in range(3))
    first = world.volume(f"a{names[0]}")
    world.container(first, labels=hook("pre", ": >/data/begun; while [ ! -e /data/go ]; do :; done"))
    running = world.cli.start("backup", first, *names, "--json")
    assert running.until((world.data(first) / "begun").exists)
    world.client.api.remove_volume(names[0])
    world.container(names[1], labels={"volferry.exclud": "x"})
    time.sleep(5)  # for so long, a list is believed
    (world.data(first) / "go").touch()
    outcome = running.outcome().exits(1)
    assert [each["volume"] for each in outcome.json["backups"]] == [first, names[2]]
    assert [each["volume"] for each in outcome.json["failed"]] == names[:2]


def test_a_container_that_has_the_processes_of_another_is_stopped_once(world: World, pair: list[str]) -> None:
    server = world.container(pair[0], stop_signal="SIGKILL")
    sidecar = world.container(pair[1], stop_signal="SIGKILL", pid_mode=f"container:{server.id}")
    began = time.time()
    made = world.cli("backup", *pair, "--quiesce", "stop", "--json").exits(0).json["backups"]
    assert made[0]["set"] == made[1]["set"] is not None
    assert [ends(world, each, began) for each in (server, sidecar)] == [1, 1]


def test_what_is_to_be_run_afterwards_is_run_also_where_the_first_volume_is_gone(
    world: World, tmp_path: Path
) -> None:
    pair = sorted([world.volume(labels=GROUPED), world.volume(labels=GROUPED)])
    large(world, pair[1])
    told = tmp_path / "told"
    settings(world, tmp_path, f'[[rules]]\nproject = "shop"\nhooks.post = "echo $VOLFERRY_VOLUME >>{told}"\n')
    running = world.cli.start("backup", *pair)
    assert running.until(world.reading_begins)
    running.send(signal.SIGKILL)
    running.outcome()
    for each in world.own_containers():
        world.client.api.remove_container(each["Id"], force=True)
    world.client.api.remove_volume(pair[0])
    world.cli("recover").exits(0)
    assert told.read_text().splitlines() == [" ".join(pair)]
