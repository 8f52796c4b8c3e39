"""Warm backups of large files that change in places: what is backed up is what was there while the volume stood still."""

from __future__ import annotations

import mmap
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.engine.test_quiesce import state_of
from volferry.archive.blocks import BLOCK_BYTES, LEAST_BYTES, Fingerprints, digest
from volferry.archive.listing import CHANGED_WITHIN_SECONDS, Entry
from volferry.archive.tarstream import Member
from volferry.engine.image import host_root_filesystem

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.parts.world import World

ROOT = Path(__file__).resolve().parents[2]
SIZE = LEAST_BYTES * 3 + 12_345


class Warm:
    """A warm backup that can be looked at between its passes."""

    def __init__(self, world: World, directory: Path, volume: str, **environment: str) -> None:
        self._directory = directory
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.parts.between_passes", str(directory)),
                *("backup", volume, "--quiesce", "stop", "--warm"),
            ],
            cwd=ROOT,
            env={**world.cli.environment, "PYTHONPATH": f"{ROOT}:{ROOT / 'daemon'}", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def at(self, pause: str, change: Callable[[], object]) -> None:
        place = self._directory / pause
        while not place.exists():
            assert self._process.poll() is None, self._process.communicate()
            time.sleep(0.005)
        change()
        place.unlink()

    def ends(self) -> str:
        out, err = self._process.communicate(timeout=120)
        assert self._process.returncode == 0, (out, err)
        return err


def noise_in(path: Path, size: int = SIZE) -> None:
    path.write_bytes(random.Random(path.name).randbytes(size))


def write_at(path: Path, *offsets: int) -> None:
    with path.open("r+b") as file:
        for offset in offsets:
            file.seek(offset)
            file.write(os.urandom(100))


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def captured_bytes(world: World) -> int:
    (path,) = world.cli.state.glob("runs/*/spool/*/captured")
    return path.stat().st_size


def restored(world: World, volume: str) -> Path:
    other = world.name()
    world.cli("restore", volume, "--into", other).exits(0)
    return world.data(other)


def test_files_are_as_they_were_while_the_volume_stood_still(world: World, tmp_path: Path) -> None:
    volume = world.volume()
    container = world.container(volume, stop_signal="SIGKILL")
    data = world.data(volume)
    names = ("changed", "grown", "shrunk", "untouched", "vanishing", "linked", "sparse", "later")
    for name in names:
        noise_in(data / name)
    os.link(data / "linked", data / "other-name")
    os.setxattr(data / "changed", "user.note", b"before")
    with (data / "sparse").open("r+b") as file:
        file.truncate(SIZE * 3)
    (data / "small").write_text("1")
    warm = Warm(world, tmp_path, volume)
    still: dict[str, bytes] = {}

    def between() -> None:
        for name in ("changed", "vanishing", "linked", "sparse", "later"):
            write_at(data / name, 0, 50_000, BLOCK_BYTES - 50, SIZE // 2, SIZE - 100)
        os.setxattr(data / "changed", "user.note", b"meanwhile")
        with (data / "grown").open("ab") as file:
            file.write(os.urandom(100_000))
        os.truncate(data / "shrunk", SIZE - 70_000)
        (data / "small").write_text("2")

    def afterwards() -> None:
        assert (
            captured_bytes(world) < 3 * SIZE
        )  # of hard-linked and sparse ones alone, all of the data is taken
        still.update(contents(data))
        # In blocks that had changed before, in others, and at the end.
        write_at(data / "changed", 10, 300_000, 1_000_000, SIZE - 50)
        os.setxattr(data / "changed", "user.note", b"afterwards")
        os.truncate(data / "later", 1_000_000)
        (data / "vanishing").unlink()
        (data / "small").write_text("3")

    warm.at("first", between)
    warm.at("second", afterwards)
    said = warm.ends()
    assert "interrupted run" not in said
    assert state_of(container)["Status"] == "running"
    found = restored(world, volume)
    assert contents(found) == still
    assert os.getxattr(found / "changed", "user.note") == b"meanwhile"
    assert (found / "linked").stat().st_ino == (found / "other-name").stat().st_ino
    world.cli("verify", volume, "--read").exits(0)
    # The next one is built upon it.
    now = contents(data)
    world.cli("backup", volume).exits(0)
    assert contents(restored(world, volume)) == now


def test_what_is_written_through_a_mapping_while_a_volume_is_read_is_in_the_backup(
    world: World, tmp_path: Path
) -> None:
    volume = world.volume()
    world.container(volume, stop_signal="SIGKILL")
    path = world.data(volume) / "mapped"
    noise_in(path)
    os.sync()
    with path.open("r+b") as file, mmap.mmap(file.fileno(), SIZE) as memory:
        memory[:8] = b"VERSION1"
        time.sleep(CHANGED_WITHIN_SECONDS + 1.1)  # older than what is not trusted anyway
        warm = Warm(world, tmp_path, volume)
        warm.at("first", lambda: memory.__setitem__(slice(0, 8), b"VERSION2"))
        still: list[bytes] = []

        def afterwards() -> None:
            still.append(path.read_bytes())
            memory[:8] = b"VERSION3"

        warm.at("second", afterwards)
        warm.ends()
        assert contents(restored(world, volume)) == {"mapped": still[0]}
        assert still[0].startswith(b"VERSION2")


def test_an_image_without_the_interpreter_reads_them_whole(world: World, tmp_path: Path) -> None:
    volume = world.volume()
    data = world.data(volume)
    noise_in(data / "file")
    api: Any = world.client.api
    build = tmp_path / "root"
    build.mkdir()
    subprocess.run(
        ["tar", "-x", "--exclude=./opt", "--exclude=opt"], input=host_root_filesystem(), cwd=build, check=True
    )
    image = subprocess.run(["tar", "-c", "."], cwd=build, check=True, capture_output=True).stdout
    api.import_image_from_data(image, repository="volferry-test-plain", tag="latest")
    world.container(volume, stop_signal="SIGKILL")
    warm = Warm(world, tmp_path, volume, VOLFERRY_HELPER__IMAGE="volferry-test-plain:latest")
    warm.at("first", lambda: write_at(data / "file", 5, SIZE // 2))
    still = (data / "file").read_bytes()
    taken: list[int] = []

    def afterwards() -> None:
        taken.append(captured_bytes(world))
        write_at(data / "file", 100)

    warm.at("second", afterwards)
    warm.ends()
    assert taken[0] > SIZE
    assert contents(restored(world, volume)) == {"file": still}


@pytest.mark.parametrize("pieces", [1, 1000, BLOCK_BYTES, BLOCK_BYTES + 1, 1 << 20])
def test_fingerprints_are_the_same_however_the_content_comes(tmp_path: Path, pieces: int) -> None:
    size = LEAST_BYTES + 777
    content = random.Random(1).randbytes(size)
    padded = memoryview(content + bytes(-size % 512))
    known = Fingerprints(tmp_path / "fingerprints")
    entry = Entry(b"file", b"f 644 0 0 %d 1.0 1.0 1 1 " % size)
    member = Member(b"file", b"0", 0o644, 0, 0, size, 0, b"", b"", len(padded), sparse=False)
    told = known.watch(entry, member)
    assert told is not None
    step = pieces if pieces > 100 else 4096 + pieces
    for start in range(0, len(padded), step):
        told(padded[start : start + step])
    known.close()
    found = known.of(b"file")
    assert found is not None
    blocks = [content[start : start + BLOCK_BYTES] for start in range(0, size, BLOCK_BYTES)]
    assert known.digests(found) == b"".join(map(digest, blocks))
