"""Volumes that are written to while they are backed up: findings where something was caught in motion, no failures."""

from __future__ import annotations

import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.parts.trees import assert_same, opened, snapshot
from tests.parts.world import World
from volferry.archive.listing import CHANGED_WITHIN_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from tests.parts.cli import Outcome
    from tests.parts.trees import Node

ROUNDS = 5
FIRST_BYTES = 64 << 20
LONGER_BYTES = 192 << 20

# Writes, grows, truncates, renames, links and deletes without a pause, files of up to some MB among them.
MUTATOR = r"""
import os, random, shutil, sys, time
os.chdir(sys.argv[1])
rng = random.Random(int(sys.argv[2]))
noise = rng.randbytes(4 << 20)
while True:
    path = f"d{rng.randrange(8)}/f{rng.randrange(60)}"
    other = f"d{rng.randrange(8)}/f{rng.randrange(60)}"
    size = rng.choice((0, 100, 5000, 100_000, 4 << 20))
    try:
        match rng.randrange(12):
            case 0 | 1 | 2:
                with open(path, "wb") as file:
                    file.write(noise[:size])
            case 3 | 4:
                with open(path, "ab") as file:
                    file.write(noise[:size])
            case 5:
                os.truncate(path, size // 2)
            case 6:
                os.rename(path, other)
            case 7:
                os.unlink(path)
            case 8:
                os.link(path, other)
            case 9:
                os.symlink(other, path)
            case 10:
                shutil.rmtree(os.path.dirname(path))
            case 11:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                os.mkdir(path + "x")
    except OSError:
        os.makedirs(f"d{rng.randrange(8)}", exist_ok=True)
    if rng.randrange(4) == 0:
        time.sleep(0.001)
"""


@contextmanager
def mutating(directory: Path, seed: int) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", MUTATOR, str(directory), str(seed)])
    try:
        yield
        assert process.poll() is None, "the mutator has ended by itself"
    finally:
        process.kill()
        process.wait()


def findings_of(world: World, volume: str, done: Outcome) -> list[dict[str, Any]]:
    """The findings, which exit code, stdout, stderr and the manifest must agree upon."""
    (said,) = done.json["backups"]
    manifest = world.cli("show", f"{volume}@{said['id']}", "--json").exits(0).json
    findings: list[dict[str, Any]] = said["findings"]
    assert manifest["findings"] == findings
    assert manifest["findings_total"] == said["findings_total"] == len(findings)
    assert done.code == (3 if findings else 0), done.story
    for each in findings[:20]:
        assert f"{each['kind']}: {each['path'] or '(root)'}" in done.stderr, done.story
    return findings


@pytest.mark.parametrize("channel", ["fifo", "stream"])
def test_a_volume_that_is_written_to_all_the_time_is_backed_up_and_restored(
    world: World, channel: str
) -> None:
    volume = world.volume()
    root = world.data(volume)
    still, busy = root / "still", root / "busy"
    still.mkdir()
    busy.mkdir()
    for number in range(300):
        (still / f"file{number}").write_bytes(random.Random(number).randbytes(number * 50))
    os.link(still / "file299", still / "same as file299")
    expected = snapshot(still)
    world.cli = world.cli.having(VOLFERRY_HELPER__CHANNEL=channel)
    seen = 0
    with mutating(busy, seed=7):
        for number in range(ROUNDS):
            done = world.cli("backup", volume, "--json").exits(0, 3)
            seen += len(findings_of(world, volume, done))
            target = f"restored{number}"
            world.cli("restore", volume, "--into", target).exits(0)
            assert_same(expected, snapshot(world.data(target) / "still"))
            world.remove(target)
    assert_same(expected, snapshot(still))
    assert seen, "nothing was caught in motion: the mutator is too slow for this test to mean anything"


def test_a_volume_whose_own_directory_changes_all_the_time_is_backed_up_and_stays(world: World) -> None:
    volume = world.filled()
    root = world.data(volume)
    ended = threading.Event()

    def change() -> None:
        number = 0
        while not ended.is_set() and root.exists():
            number += 1
            (root / f"temporary{number}").touch()
            (root / f"temporary{number}").unlink()
            time.sleep(0.002)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(4):
            done = world.cli("backup", volume)
            assert world.exists(volume), done.story
            done.exits(0, 3)
    finally:
        ended.set()
        thread.join()
    assert (root / "one").read_text() == "1"


def first_frames_are_stored(world: World) -> bool:
    return world.unfinished_bytes() > 100_000


def stopped_while_reading(
    world: World,
    volume: str,
    change: Callable[[Path], object],
    *,
    at: Callable[[World], object] = World.reading_begins,
) -> Outcome:
    """A backup during which `change` is made after the volume was listed and before most of it is read."""
    running = world.cli.start("backup", volume, "--json")
    assert running.until(lambda: at(world))
    running.send(signal.SIGSTOP)
    try:
        # The first file alone is more than all pipes and buffers hold, so tar has not come past it.
        change(world.data(volume))
    finally:
        running.send(signal.SIGCONT)
    return running.outcome()


@pytest.fixture
def long_volume(world: World) -> str:
    """A volume whose first file takes its time, and what comes after it."""
    volume = world.volume()
    root = world.data(volume)
    (root / "0first").write_bytes(random.Random(0).randbytes(FIRST_BYTES))
    for name in ("m", "m/sub", "z"):
        (root / name).mkdir()
    for name in ("m/file", "m/sub/deep", "z/file"):
        (root / name).write_text(f"content of {name}")
    (root / "z" / "large").write_bytes(random.Random(1).randbytes(3 << 20))
    (root / "z" / "link").symlink_to("file")
    os.link(root / "z" / "file", root / "z" / "hard link")
    return volume


def removed(path: Path) -> None:
    subprocess.run(["rm", "-r", path], check=True)


def rewritten_under_its_time(path: Path) -> None:
    """As `cp -p file new; mv new file`: same content and time, but no other name's inode any longer."""
    status = path.stat()
    other = path.with_name("new")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.rename(path)


def replaced_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").write_text("never listed")


def replaced_by_file(path: Path) -> None:
    subprocess.run(["rm", "-r", path], check=True)
    path.write_text("was a directory")


def appended(path: Path) -> None:
    with path.open("a") as file:
        file.write(" and more")


def replaced_by_hard_link(path: Path) -> None:
    path.unlink()
    os.link(path.parent.parent / "0first", path)


def replaced_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replaced_by_socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as server, opened(os.fsencode(path.parent)) as directory:
        server.bind(directory + os.fsencode(path.name))


def replaced_by_symlink(path: Path) -> None:
    removed(path)
    path.symlink_to("elsewhere")


CHANGES: dict[str, tuple[str, Callable[[Path], object], set[tuple[str, str]]]] = {
    "a file vanishes": ("z/file", removed, {("vanished", "z/file")}),
    "a directory vanishes with all in it": (
        "m",
        removed,
        {("vanished", name) for name in ("m", "m/file", "m/sub", "m/sub/deep")},
    ),
    "a directory becomes a file": (
        "m",
        replaced_by_file,
        {("vanished", name) for name in ("m/file", "m/sub", "m/sub/deep")},
    ),
    "a file becomes a directory": ("z/large", replaced_by_directory, set()),
    "a file becomes a symlink": ("m/file", replaced_by_symlink, set()),
    "a symlink becomes a file": ("z/link", replaced_by_file, set()),
    "a symlink becomes a directory": ("z/link", replaced_by_directory, set()),
    "a symlink becomes a name of a file": ("z/link", replaced_by_hard_link, set()),
    "a file becomes a name of another": ("m/file", replaced_by_hard_link, set()),
    "a directory becomes a symlink": ("m/sub", replaced_by_symlink, {("vanished", "m/sub/deep")}),
    "a file becomes a FIFO": ("z/large", replaced_by_fifo, set()),
    "a file becomes a socket": ("z/large", replaced_by_socket, {("vanished", "z/large")}),
    "a symlink points elsewhere": ("z/link", replaced_by_symlink, set()),
    "a file grows": ("m/file", appended, set()),
    "a file shrinks": ("z/large", lambda path: os.truncate(path, 1000), set()),
    "a file is emptied": ("z/large", lambda path: os.truncate(path, 0), set()),
    "a file is renamed": (
        "m/file",
        lambda path: path.rename(path.with_name("renamed")),
        {("vanished", "m/file")},
    ),
    "a file gets another owner": ("m/file", lambda path: os.chown(path, 1, 1), set()),
    "a hard link's first name vanishes": ("z/file", removed, {("vanished", "z/file")}),
    "a file appears": ("m", lambda path: (path / "new").write_text("never listed"), set()),
    "an entry gets another mode": ("m", lambda path: path.chmod(0o700), set()),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_changes_between_listing_and_reading_is_no_failure(
    world: World, long_volume: str, what: str
) -> None:
    name, change, expected = CHANGES[what]

    done = stopped_while_reading(world, long_volume, lambda root: change(root / name))

    found = {(each["kind"], each["path"]) for each in findings_of(world, long_volume, done)}
    if change is replaced_by_hard_link:
        # A new name of the first file, which is being read, is a change of that too, if it comes in time.
        found.discard(("torn", "0first"))
    assert found == expected, done.story
    after = snapshot(world.data(long_volume))
    world.cli("restore", long_volume, "--into", "restored").exits(0)
    restored = snapshot(world.data("restored"))
    assert_same(_untouched(after, name), _untouched(restored, name))


def _untouched(found: dict[bytes, Node], name: str) -> dict[bytes, Node]:
    """All entries but those at or below `name`, those that were never listed, and the link to it. The directory that
    `name` is in may be read before the change or after it, and has the time of the one or the other.
    """
    parent = name.rpartition("/")[0].encode()
    changed = {name, "m/renamed", "0first", *(["z/hard link"] if name == "z/file" else [])}
    return {
        path: replace(node, mtime_ns=0) if path == parent else node
        for path, node in found.items()
        if not any(path == each.encode() or path.startswith(each.encode() + b"/") for each in changed)
    }


def test_one_of_two_names_that_becomes_a_file_of_its_own_is_no_failure(
    world: World, long_volume: str
) -> None:
    time.sleep(CHANGED_WITHIN_SECONDS + 0.5)  # entries younger than that are not compared as strictly

    done = stopped_while_reading(world, long_volume, lambda root: rewritten_under_its_time(root / "z/file"))

    assert findings_of(world, long_volume, done) == []
    world.cli("restore", long_volume, "--into", "restored").exits(0)
    for name in ("file", "hard link"):
        assert (world.data("restored") / "z" / name).read_text() == "content of z/file"


@pytest.fixture
def longer_volume(world: World, long_volume: str) -> str:
    """Its first file is longer than all that is on its way between the volume and the store at one time."""
    with (world.data(long_volume) / "0first").open("wb") as file:
        file.writelines(longer_blocks())
    return long_volume


def longer_blocks() -> Iterator[bytes]:
    """The content of 0first, MiB by MiB: workers that held several of it at once have run out of memory."""
    rng = random.Random(0)
    return (rng.randbytes(1 << 20) for _ in range(LONGER_BYTES >> 20))


def holds(path: Path, blocks: Iterable[bytes]) -> bool:
    """Whether the file has these bytes and no others."""
    with path.open("rb") as file:
        return all(file.read(len(block)) == block for block in blocks) and not file.read(1)


def test_a_file_that_grows_while_it_is_read_is_a_finding(world: World, longer_volume: str) -> None:
    def grow(root: Path) -> None:
        with (root / "0first").open("ab") as file:
            file.write(b"more")

    done = stopped_while_reading(world, longer_volume, grow, at=first_frames_are_stored)

    (finding,) = findings_of(world, longer_volume, done)
    assert (finding["kind"], finding["path"]) == ("torn", "0first")
    world.cli("restore", longer_volume, "--into", "restored").exits(0)
    assert holds(world.data("restored") / "0first", longer_blocks())


def test_a_file_that_shrinks_while_it_is_read_is_a_finding_and_padded(
    world: World, longer_volume: str
) -> None:
    kept = LONGER_BYTES - (1 << 20)
    done = stopped_while_reading(
        world, longer_volume, lambda root: os.truncate(root / "0first", kept), at=first_frames_are_stored
    )

    (finding,) = findings_of(world, longer_volume, done)
    assert (finding["kind"], finding["path"]) == ("torn", "0first")
    assert str(1 << 20) in finding["detail"]
    world.cli("restore", longer_volume, "--into", "restored").exits(0)
    assert holds(
        world.data("restored") / "0first",
        itertools.chain(itertools.islice(longer_blocks(), kept >> 20), [bytes(1 << 20)]),
    )


def test_all_that_was_listed_vanishes_and_the_backup_says_so(world: World, long_volume: str) -> None:
    def empty(root: Path) -> None:
        for path in root.iterdir():
            subprocess.run(["rm", "-r", path], check=True)

    done = stopped_while_reading(world, long_volume, empty)

    paths = {each["path"] for each in findings_of(world, long_volume, done)}
    assert paths >= {"m", "m/file", "m/sub", "m/sub/deep", "z", "z/file", "z/large", "z/link", "z/hard link"}
    world.cli("restore", long_volume, "--into", "restored").exits(0)


def test_a_volume_that_is_removed_while_others_are_read_is_that_volumes_error(
    world: World, long_volume: str
) -> None:
    late = world.filled("zzz")
    running = world.cli.start("backup", long_volume, late, "--json")
    assert running.until(world.reading_begins)
    running.send(signal.SIGSTOP)
    world.remove(late)
    running.send(signal.SIGCONT)
    done = running.outcome().exits(1)
    assert [each["volume"] for each in done.json["backups"]] == [long_volume]
    assert [each["volume"] for each in done.json["failed"]] == [late]
    assert not world.exists(late)
    assert world.own_containers() == []


def test_a_volume_that_changes_while_others_are_read_is_backed_up_as_it_is_then(
    world: World, long_volume: str
) -> None:
    late = world.filled("zzz")
    running = world.cli.start("backup", long_volume, late, "--json")
    assert running.until(world.reading_begins)
    running.send(signal.SIGSTOP)
    time.sleep(1.1)  # volumes' times are in seconds
    (world.data(late) / "new").write_text("written meanwhile")
    running.send(signal.SIGCONT)
    done = running.outcome()
    assert world.exists(late), done.story
    done.exits(0)
    world.cli("restore", late, "--into", "restored").exits(0)
    assert (world.data("restored") / "new").read_text() == "written meanwhile"
