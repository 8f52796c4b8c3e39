"""What a signal, a crash or a killed helper leaves behind: nothing half-done that is taken for a whole."""

from __future__ import annotations

import random
import re
import shutil
import signal
import time
from typing import TYPE_CHECKING, Literal

import pytest

from tests.parts.trees import assert_same, snapshot
from tests.parts.world import World, world_of
from volferry.engine.channel import InputRefused
from volferry.engine.client import connect
from volferry.engine.helper import HelperSettings, open_helper
from volferry.engine.volumes import find_volume
from volferry.errors import HelperDied
from volferry.run import begin_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import docker

    from tests.parts.cli import Outcome, Running
    from tests.parts.engine import PrivateEngine
    from tests.parts.trees import Node

LARGE_FILES = 12
LARGE_BYTES = 16 << 20
SMALL_FILES = 2500
SIGNAL_SECONDS = 10
SOON = (signal.SIGINT, signal.SIGTERM)
SIGNALS = (*SOON, signal.SIGKILL)


class Big:
    """A volume that takes its time, its content, and a store with one backup of it."""

    def __init__(self, world: World) -> None:
        self.volume = world.volume("big")
        root = world.data(self.volume)
        rng = random.Random(0)
        for number in range(LARGE_FILES):
            (root / f"large{number}").write_bytes(rng.randbytes(LARGE_BYTES))
        for number in range(SMALL_FILES):
            if number % 100 == 0:
                (root / f"d{number}").mkdir()
            (root / f"d{number - number % 100}" / f"small{number}").write_bytes(rng.randbytes(number))
        self.content = snapshot(root)
        self.tiny = world.filled("tiny")
        self.store = world.store
        world.cli.backup(self.volume)


@pytest.fixture(scope="module")
def big(
    engine: PrivateEngine, docker_client: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Big]:
    with world_of(engine, docker_client, tmp_path_factory.mktemp("big")) as world:
        yield Big(world)


# --- moments -------------------------------------------------------------------------------------------


def helper_runs(world: World) -> object:
    found = world.client.api.containers(filters={"label": "volferry.role=helper"})
    return bool(found)


BACKUP_MOMENTS: dict[str, Callable[[World], object]] = {
    "the run begins": lambda world: world.in_runs("lock"),
    "the helper runs": helper_runs,
    "the listing is written": lambda world: world.in_runs("listing"),
    "the reading begins": World.reading_begins,
    "a pack is begun": lambda world: world.unfinished_bytes() > 100_000,
    "a pack has 60 MB": lambda world: world.unfinished_bytes() > 60_000_000,
    "the index is written": lambda world: world.in_runs("files.zst"),
    "the pack is there": lambda world: any(world.store.glob("packs/*/*/*")),
    "the index is there": lambda world: any(world.store.glob("indexes/*/*/*.frames.zst")),
    "the manifest is there": lambda world: any(world.store.glob("manifests/*/*/*")),
}

RESTORE_MOMENTS: dict[str, Callable[[World], object]] = {
    "the run begins": lambda world: world.in_runs("lock"),
    "the volume is made": lambda world: world.data("new").exists(),
    "the helper runs": helper_runs,
    "the first entry is there": lambda world: any(world.data("new").iterdir()),
    "the fifth large file is there": lambda world: (world.data("new") / "large2").exists(),
    "all entries are there": lambda world: (world.data("new") / f"large{LARGE_FILES - 3}").exists(),
}


def kill_at(
    world: World, number: signal.Signals, reached: Callable[[World], object], *arguments: str
) -> Outcome:
    """Starts a command, sends it the signal once the moment has come, and waits for its end.

    SIGINT and SIGTERM must have cleaned up within ten seconds.
    """
    running = world.cli.start(*arguments)

    def happened() -> object:
        try:
            return reached(world)
        except FileNotFoundError:  # it went away while we looked
            return False

    if running.until(happened):
        running.send(number)
    sent = time.monotonic()
    done = running.outcome(SIGNAL_SECONDS + 20)
    assert time.monotonic() - sent < SIGNAL_SECONDS or done.code == 0, done.story
    return done


def check_end(world: World, number: signal.Signals, done: Outcome) -> None:
    """Exit code and left-overs of a command that was sent a signal, unless it was done before that came."""
    if number == signal.SIGKILL:
        assert done.code in {0, -signal.SIGKILL}, done.story
        return
    done.exits(0, 130)
    if done.code == 130:
        assert len(done.complaints) == 1, done.story
    assert world.own_containers() == []
    assert not any(world.cli.state.glob("runs/*"))
    assert not any((world.store / ".tmp").glob("*"))


def check_store_after(world: World, big: Big, killed: Outcome) -> None:
    """After the next run: no rest of the killed one but packs of no backup, and every backup is whole."""
    (listed,) = [
        world.cli("list", big.volume, "--json").exits(0).json
        if (world.store / "volferry.json").exists()
        else {"backups": [], "failed": []}
    ]
    assert listed["failed"] == []
    if killed.code == 0:
        assert len(listed["backups"]) == 1
    world.cli("backup", big.tiny).exits(0)
    assert world.own_containers() == []
    assert not any(world.cli.state.glob("runs/*"))
    assert not any((world.store / ".tmp").glob("*"))
    for backup in listed["backups"]:
        restored_is_equal(world, f"{big.volume}@{backup['id']}", big.content)


def restored_is_equal(
    world: World, name: str, content: dict[bytes, Node], *flags: str, into: str = "whole"
) -> None:
    world.cli("restore", name, "--into", into, *flags).exits(0)
    assert_same(content, snapshot(world.data(into)))
    world.remove(into)


# --- backup ----------------------------------------------------------------------------------------------


# SIGINT and SIGTERM do the same, so they take turns.
TURNS = [
    (number, moment)
    for turn, moment in enumerate(BACKUP_MOMENTS)
    for number in (SOON[turn % 2], signal.SIGKILL)
]


@pytest.mark.parametrize(("number", "moment"), TURNS, ids=lambda each: getattr(each, "name", each))
def test_a_backup_that_is_ended_by_a_signal_does_not_exist_or_is_whole(
    world: World, big: Big, number: signal.Signals, moment: str
) -> None:
    done = kill_at(world, number, BACKUP_MOMENTS[moment], "backup", big.volume)

    check_end(world, number, done)
    kept = any(path.read_bytes() for path in world.cli.state.rglob("checkpoints/*/packs"))
    if kept and number in SOON:
        assert "the same command goes on from there" in done.stderr
    check_store_after(world, big, done)


@pytest.mark.parametrize("numbers", [SOON, (signal.SIGKILL,)], ids=["SIGINT and SIGTERM", "SIGKILL"])
def test_backups_ended_at_any_time_leave_a_store_that_the_next_one_can_use(
    world: World, big: Big, numbers: tuple[signal.Signals, ...]
) -> None:
    rng = random.Random(numbers[0])
    world.cli("backup", big.tiny).exits(0)
    for number in numbers * (6 // len(numbers)):
        running = world.cli.start("backup", big.volume)
        assert running.until(lambda: world.in_runs("lock"))
        time.sleep(rng.uniform(0, 2.5))
        running.send(number)
        check_end(world, number, running.outcome(SIGNAL_SECONDS))

    world.cli("backup", big.volume).exits(0)

    assert world.own_containers() == []
    assert not any((world.store / ".tmp").glob("*"))
    assert world.cli("list", "--json").exits(0).json["failed"] == []
    restored_is_equal(world, big.volume, big.content)


@pytest.mark.parametrize("number", SOON, ids=lambda number: number.name)
@pytest.mark.parametrize("delay", [0, 0.15, 0.35])
def test_a_signal_while_volferry_starts_ends_it_without_a_traceback(
    world: World, big: Big, number: signal.Signals, delay: float
) -> None:
    running = world.cli.start_cold("backup", big.tiny)
    # before Python has come to volferry's first line, a signal does what it does to any Python program
    assert running.until(lambda: running.handles(signal.SIGTERM))
    time.sleep(delay)
    running.send(number)
    done = running.outcome(SIGNAL_SECONDS)
    done.exits(0, 130)
    assert world.own_containers() == []


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_a_second_and_third_signal_do_not_keep_the_clean_up_from_being_done(
    world: World, big: Big, command: str
) -> None:
    if command == "backup":
        arguments, moments = ["backup", big.volume], BACKUP_MOMENTS["a pack is begun"]
    else:
        world.cli = world.cli.at(store=big.store)
        arguments, moments = (
            ["restore", big.volume, "--into", "new"],
            RESTORE_MOMENTS["the first entry is there"],
        )
    running = world.cli.start(*arguments)
    assert running.until(lambda: world.data("new").exists() or command == "backup")
    assert running.until(lambda: moments(world))
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGINT):
        running.send(number)
        time.sleep(0.03)
    done = running.outcome(SIGNAL_SECONDS)
    check_end(world, signal.SIGINT, done.exits(130))
    assert not world.exists("new")


# --- restore ---------------------------------------------------------------------------------------------


@pytest.fixture
def with_backup(world: World, big: Big) -> World:
    """A world whose store has the backup of the big volume."""
    world.cli = world.cli.at(store=big.store)
    return world


@pytest.mark.parametrize(
    ("number", "moment"),
    [(SOON[turn % 2], moment) for turn, moment in enumerate(RESTORE_MOMENTS)],
    ids=lambda each: getattr(each, "name", each),
)
def test_a_restore_into_a_new_volume_that_is_interrupted_leaves_no_volume(
    with_backup: World, big: Big, number: signal.Signals, moment: str
) -> None:
    world = with_backup
    done = kill_at(world, number, RESTORE_MOMENTS[moment], "restore", big.volume, "--into", "new")

    check_end(world, number, done)
    if done.code == 0:
        assert_same(big.content, snapshot(world.data("new")))
        return
    assert not world.exists("new")
    # Before, there may have been none.
    assert moment == "the run begins" or "the new volume new was removed again" in done.stderr


@pytest.mark.parametrize("moment", RESTORE_MOMENTS)
def test_what_a_killed_restore_leaves_is_refused_by_backup_and_completed_by_replace(
    with_backup: World, big: Big, moment: str
) -> None:
    world = with_backup
    done = kill_at(world, signal.SIGKILL, RESTORE_MOMENTS[moment], "restore", big.volume, "--into", "new")

    check_end(world, signal.SIGKILL, done)
    if done.code == 0:
        assert_same(big.content, snapshot(world.data("new")))
        return
    own_store = world.cli.at(store=world.directory / "own store")
    # Killed before it wrote anything, it leaves no volume or one that is as empty as when it was made.
    if world.exists("new") and any(world.data("new").iterdir()):
        own_store("backup", "new").fails_with("interrupted restore", "--replace")
        world.cli("restore", big.volume, "--into", "new").fails_with("interrupted restore", "--replace")
    restored_is_equal(world, big.volume, big.content, "--replace", into="new")
    assert world.own_containers() == []
    assert not any(world.cli.state.glob("runs/*"))
    # A volume of that name that is made later has nothing to do with it.
    world.filled("new")
    own_store("backup", "new").exits(0)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_replace_that_deletes_first_and_is_ended_is_refused_by_backup_until_it_is_completed(
    with_backup: World, big: Big, number: signal.Signals
) -> None:
    world = with_backup
    world.filled("new", old="content")
    moment = RESTORE_MOMENTS["the fifth large file is there"]
    done = kill_at(world, number, moment, "restore", big.volume, "--into", "new", "--replace", "--trust")

    check_end(world, number, done)
    assert done.code != 0, "the restore was done before it could be interrupted"
    assert world.exists("new")
    own_store = world.cli.at(store=world.directory / "own store")
    own_store("backup", "new").fails_with("interrupted restore")
    own_store("backup", "--all").exits(1)
    world.cli("restore", big.volume, "--into", "new").fails_with("interrupted restore", "--replace")
    assert re.search(r"^new \(half restored\) ", world.cli("volumes").exits(0).stdout, re.MULTILINE)
    said = world.cli("doctor").exits(0).stdout
    assert "not backed up until that is completed: new (half restored): `volferry status`" in said
    status = world.cli("status").exits(1)
    (line,) = [line for line in status.stderr.splitlines() if line.startswith("volferry: new: ")]
    command = re.search(r"`volferry (restore .*)` completes it", line)
    assert command is not None, line
    # As it stands there.
    world.cli(*command[1].split()).exits(0)
    assert_same(big.content, snapshot(world.data("new")))
    assert "interrupted" not in world.cli("status").stderr
    assert "half restored" not in world.cli("volumes").stdout
    assert world.own_containers() == []
    # The run that was refused stays one that failed, until the next; its message is no longer true.
    status = own_store("status").exits(1)
    (line,) = [line for line in status.stdout.splitlines() if line.startswith("new: ")]
    assert "held the rest" in line
    assert "which was completed at" in line
    assert "--replace" not in line
    world.remove("new")
    (line,) = [line for line in own_store("status").stdout.splitlines() if line.startswith("new: ")]
    assert "the volume is gone" in line


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_replace_that_is_ended_before_the_exchange_costs_nothing_of_what_the_volume_holds(
    with_backup: World, big: Big, number: signal.Signals
) -> None:
    world = with_backup
    world.filled("new", old="content")
    before = {path: node for path, node in snapshot(world.data("new")).items() if path}

    def reached(world: World) -> bool:
        return (world.data("new") / ".volferry-restore-new" / "large2").exists()

    done = kill_at(world, number, reached, "restore", big.volume, "--into", "new", "--replace")

    check_end(world, number, done)
    assert done.code != 0, "the restore was done before it could be interrupted"
    left = number == signal.SIGKILL
    check_what_is_left_beside(world, left=left)
    own_store = world.cli.at(store=world.directory / "own store")
    own_store("backup", "new").exits(0)
    check_what_is_left_beside(world, left=left)
    own_store("restore", "new", "--into", "same").exits(0)
    assert {path: node for path, node in snapshot(world.data("same")).items() if path} == before
    restored_is_equal(world, big.volume, big.content, "--replace", into="new")
    check_what_is_left_beside(world, left=False)
    assert world.own_containers() == []


def check_what_is_left_beside(world: World, *, left: bool) -> None:
    """Whether status has it, and that it says nothing else."""
    new = world.data("new") / ".volferry-restore-new"
    assert new.exists() is left
    lines = [line for line in world.cli("status").stderr.splitlines() if "new: " in line]
    assert len(lines) == left, lines
    if left:
        assert "holds what it held" in lines[0]
        assert ".volferry-restore-new" in lines[0]
        assert " --into new --replace` deletes that" in lines[0]
        world.cli("status").exits(1)


def test_what_is_left_beside_is_forgotten_once_a_person_has_deleted_it(with_backup: World, big: Big) -> None:
    world = with_backup
    world.filled("new", old="content")
    new = world.data("new") / ".volferry-restore-new"
    kill_at(
        world,
        signal.SIGKILL,
        lambda _: (new / "large2").exists(),
        *("restore", big.volume, "--into", "new", "--replace"),
    )
    check_what_is_left_beside(world, left=True)
    shutil.rmtree(new)
    world.cli.at(store=world.directory / "own store")("backup", "new").exits(0)
    check_what_is_left_beside(world, left=False)


# --- the helper ------------------------------------------------------------------------------------------


def kill_helper(world: World, running: Running, reached: Callable[[World], object]) -> Outcome:
    assert running.until(lambda: reached(world))
    (helper,) = world.client.api.containers(filters={"label": "volferry.role=helper"})
    world.client.api.kill(helper["Id"])
    return running.outcome(60)


@pytest.mark.parametrize("channel", ["fifo", "stream"])
@pytest.mark.parametrize("moment", ["the helper runs", "the listing is written", "a pack is begun"])
def test_a_helper_that_is_killed_fails_a_backup_with_one_line(
    world: World, big: Big, channel: str, moment: str
) -> None:
    world.cli = world.cli.having(VOLFERRY_HELPER__CHANNEL=channel)

    done = kill_helper(world, world.cli.start("backup", big.volume), BACKUP_MOMENTS[moment])

    done.fails_with(big.volume, "helper")
    assert world.own_containers() == []
    assert world.objects("packs") + world.objects("indexes") + world.objects("manifests") == []
    assert not any((world.store / ".tmp").glob("*"))


@pytest.mark.parametrize("channel", ["fifo", "stream"])
def test_a_helper_that_is_killed_fails_a_restore_with_one_line(
    with_backup: World, big: Big, channel: str
) -> None:
    world = with_backup
    world.cli = world.cli.having(VOLFERRY_HELPER__CHANNEL=channel)
    running = world.cli.start("restore", big.volume, "--into", "new")
    assert running.until(lambda: world.data("new").exists())

    done = kill_helper(world, running, RESTORE_MOMENTS["the first entry is there"])

    done.fails_with("helper")
    assert world.own_containers() == []
    assert not world.exists("new")


@pytest.mark.parametrize("channel", ["fifo", "stream"])
def test_a_helper_that_is_killed_before_a_command_is_given_its_input_is_named(
    world: World, channel: Literal["fifo", "stream"]
) -> None:
    """Whoever writes to it, and takes no end of its input for an answer."""
    volume = world.filled()
    engine = connect(world.cli.docker_host)
    settings = HelperSettings(world.image, channel)
    volumes = [find_volume(engine, volume)]

    def write_until_it_is_dead() -> None:
        with (
            begin_run(world.directory / "state of the test") as run,
            open_helper(engine, run, settings, volumes) as helper,
        ):
            process = helper.start(["sleep", "60"], stdin=True, on_stderr=lambda _: None)
            process.write(b"open")
            engine.api.kill(helper.container_id)
            while True:
                process.write(bytes(1 << 20))

    # On a busy machine, the engine may report the death later than volferry waits for it.
    with pytest.raises(
        (HelperDied, InputRefused), match=r"the helper (ended before its work did|took nothing more)"
    ):
        write_until_it_is_dead()
    engine.close()


@pytest.mark.parametrize("channel", ["fifo", "stream"])
def test_a_helper_ends_with_a_volferry_that_is_killed(world: World, big: Big, channel: str) -> None:
    world.cli = world.cli.having(VOLFERRY_HELPER__CHANNEL=channel)
    kill_at(world, signal.SIGKILL, BACKUP_MOMENTS["a pack is begun"], "backup", big.volume)
    deadline = time.monotonic() + SIGNAL_SECONDS
    while helper_runs(world):
        assert time.monotonic() < deadline, "the helper runs on without anyone who waits for it"
        time.sleep(0.05)
    world.cli("backup", big.tiny).exits(0)
    assert world.own_containers() == []


def test_two_backups_at_a_time_leave_each_other_alone(world: World, big: Big) -> None:
    first = world.cli.start("backup", big.volume)
    assert first.until(lambda: world.unfinished_bytes() > 100_000)
    world.cli("backup", big.tiny).exits(0)
    assert world.own_containers() != [] or first.ended
    first.outcome().exits(0)
    assert world.own_containers() == []
    restored_is_equal(world, big.volume, big.content)
    assert list((world.cli.state / "runs").iterdir()) == []


def test_a_volume_is_not_backed_up_while_it_is_restored_nor_the_other_way_round(
    with_backup: World, big: Big
) -> None:
    world = with_backup
    world.filled("new", old="content")
    moment = RESTORE_MOMENTS["the fifth large file is there"]
    running = world.cli.start("restore", big.volume, "--into", "new", "--replace", "--trust")
    assert running.until(lambda: moment(world))
    running.send(signal.SIGSTOP)
    world.cli("backup", "new").fails_with("another run writes volume new", "wait for its end")
    world.cli("restore", big.volume, "--into", "new", "--replace").fails_with("another run reads or writes")
    assert "is being restored into it" in world.cli("status").stderr
    running.send(signal.SIGCONT)
    assert running.outcome(60).code == 0
    assert_same(big.content, snapshot(world.data("new")))

    running = world.cli.start("backup", "new")
    assert running.until(world.reading_begins)
    running.send(signal.SIGSTOP)
    world.cli("restore", big.volume, "--into", "new", "--replace").fails_with("another run reads or writes")
    running.send(signal.SIGCONT)
    assert running.outcome(60).code == 0
