"""The moments in which a migration decides which side runs: the last pass, and the start of the target's containers."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import docker
import pytest

from tests.engine.test_quiesce import await_true, state_of
from tests.parts.warm import warm_process
from tests.parts.world import World, world_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docker.models.containers import Container

    from tests.parts.engine import PrivateEngine

ROOT = Path(__file__).resolve().parents[2]


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


def runs(container: Container) -> bool:
    return bool(state_of(container)["Status"] == "running")


@pytest.mark.parametrize("how", ["another", "the one that was stopped"])
def test_who_writes_in_the_last_pass_keeps_the_target_from_taking_over(
    world: World, there: World, tmp_path: Path, how: str
) -> None:
    """Also where what was written is not to be seen any longer: nobody knows what the last pass has read."""
    volume = world.filled()
    container = world.container(volume, stop_signal="SIGKILL")
    there.volume(volume)
    successor = there.container(volume, state="created")
    other = world.container(volume, state="created", command=["sh", "-c", ":"])
    place = tmp_path / "in the last pass"
    running = subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.parts.in_last_pass", str(place)),
            *("migrate", volume, "--to", there.engine.docker_host, "--start", str(successor.name)),
        ],
        cwd=ROOT,
        env={**world.cli.environment, "PYTHONPATH": f"{ROOT}:{ROOT / 'daemon'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    await_true(lambda: place.exists() or running.poll() is not None)
    if how == "another":
        other.start()
    else:
        other = container
        other.start()
        other.kill()
    place.unlink()
    _, said = running.communicate(timeout=60)
    assert running.returncode == 1, said
    (line,) = [each for each in said.splitlines() if each.startswith("volferry: ")]
    assert f"not all stood still: {other.name} ran while it was read" in line
    assert state_of(successor)["Status"] == "created"
    if how == "another":
        assert runs(container)
    world.cli("status").exits(0)
    assert journals(world) == []
    # What is there is not taken for whole.
    there.cli("backup", volume).fails_with("its migration has not ended")


def killed_at(world: World, step: int, *arguments: str) -> tuple[int, str]:
    """Exit code, and what it said."""
    code, _, err = warm_process().run(
        [str(step), *arguments], world.cli.environment, 120, program="tests.parts.hand_over_step"
    )
    return code, err.decode()


def journals(world: World) -> list[Path]:
    return list(world.cli.state.glob("journal/*.jsonl"))


def test_killed_at_any_step_of_the_hand_over_never_both_sides_run_and_one_of_them_soon_does(
    world: World, there: World
) -> None:
    ways: list[str] = []
    for step in range(1, 100):
        volume = world.filled()
        container = world.container(volume, stop_signal="SIGKILL")
        there.volume(volume)
        successor = there.container(volume, state="created")
        to = ("migrate", volume, "--to", there.engine.docker_host, "--start", str(successor.name))
        code, said = killed_at(world, step, *to)
        if code == 0:
            assert not runs(container)
            assert runs(successor)
            break
        assert code == -signal.SIGKILL, (step, said)
        way = settled(world, container, successor, ways.count("neither ran"))
        if way == "the source ran":
            world.cli(*to, "--into-existing").exits(0)
        assert runs(container) != runs(successor), step
        assert (there.data(volume) / "one").read_text() == "1"
        assert (world.data(volume) / "one").read_text() == "1"
        assert journals(world) == []
        world.cli("status").exits(0)
        assert runs(container) != runs(successor), step
        ways.append(way)
    # In this order: not yet handed over, then until it is known who runs, then taken over.
    assert list(dict.fromkeys(ways)) == [
        "the source ran", "neither ran", "the target ran, and nobody knew", "the target ran",
    ]  # fmt: skip


def settled(world: World, container: Container, successor: Container, turn: int) -> str:
    """What was found after the kill, and brought to an end as volferry says."""
    assert not runs(container)
    by_itself = runs(successor)
    status = world.cli("status")
    recover = world.cli("recover")
    if not journals(world):
        status.exits(0 if by_itself else 1)
        recover.exits(0)
        assert runs(successor) == by_itself
        return "the target ran" if by_itself else "the source ran"
    (journal,) = journals(world)
    run = journal.name.partition(".")[0]
    for outcome in (status, recover):
        (line,) = outcome.exits(1).complaints
        assert str(container.name) in line
        assert f"`volferry recover --forget {run}`" in line
        assert "tries again" not in line
    assert (runs(container), runs(successor)) == (False, by_itself)
    if by_itself:
        world.cli("recover", "--forget", run).exits(0)
        return "the target ran, and nobody knew"
    if turn % 2:
        container.start()
        world.cli("recover").exits(0)  # it sees that this one is to be it
    else:
        successor.start()
        world.cli("recover", "--forget", run).exits(0)
    return "neither ran"
