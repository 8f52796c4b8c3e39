"""What was backed up comes back: byte for byte, with all metadata, by volferry and by `tar` alone."""

from __future__ import annotations

import os
import random
import subprocess
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings

from tests.parts.mounts import in_memory
from tests.parts.trees import (
    SOCKET,
    SPARSE_BYTES,
    Directory,
    assert_same,
    build_nasty_tree,
    opened,
    realise,
    snapshot,
    trees,
    write,
)
from volferry.archive.listing import CHANGED_WITHIN_SECONDS
from volferry.layout import encode_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.parts.trees import Node
    from tests.parts.world import World

SMALL_FILES = 100_000
# What a backup of the nasty tree takes: its 3 MB and a half of noise, once in each of three files, and little else.
NASTY_STORED_BYTES = 12_000_000

PLAIN = ("tar", "-x", "-p")
EVERYTHING = (*PLAIN, "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner")


def assert_restored(world: World, source: str, expected: dict[bytes, Node]) -> None:
    """Restores the newest backup of `source` into a new volume, and compares."""
    target = world.name()
    said = world.cli("restore", source, "--into", target).exits(0)
    assert "compared and equal" in said.stdout
    found = snapshot(world.data(target))
    if world.engine.edition.program == "podman" and len(expected) == 1:
        # As long as a volume is empty, Podman gives it to each container that mounts it.
        expected = {b"": replace(expected[b""], uid=found[b""].uid, gid=found[b""].gid)}
    assert_same(expected, found)
    world.remove(target)


def nasty_volume(world: World) -> tuple[str, dict[bytes, Node]]:
    """A volume, and what its backup must give."""
    volume = world.volume()
    build_nasty_tree(world.data(volume))
    time.sleep(CHANGED_WITHIN_SECONDS + 0.5)  # entries younger than that are not compared as strictly
    expected = snapshot(world.data(volume))
    del expected[SOCKET]
    return volume, expected


def joined_packs(world: World, volume: str) -> str:
    """The first half of the command by which a person recovers a backup by hand."""
    return f"cat {world.store}/packs/{encode_name(world.host)}/{volume}/*.tar.zst | zstd -dc | "


def run_shell(command: str, directory: Path) -> str:
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=directory, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("channel", ["fifo", "stream"])
def test_everything_that_a_volume_can_hold_is_restored(world: World, channel: str) -> None:
    volume, expected = nasty_volume(world)
    before = snapshot(world.data(volume))
    world.cli = world.cli.having(VOLFERRY_HELPER__CHANNEL=channel)

    (said,) = world.cli.backup(volume)

    assert said["entries"] == len(expected)
    assert said["source_bytes"] == sum(node.size or 0 for node in expected.values() if node.sha256)
    assert said["findings"] == []
    assert sum(path.stat().st_size for path in world.objects()) < NASTY_STORED_BYTES
    assert_restored(world, volume, expected)
    assert_same(before, snapshot(world.data(volume)))
    manifest = world.cli("show", volume, "--json").exits(0).json
    assert manifest["counts"]["sockets_left_out"] == 1
    assert world.own_containers() == []


def test_packs_are_a_tarball_that_zstd_and_tar_restore_without_volferry(world: World) -> None:
    volume, expected = nasty_volume(world)
    world.cli.backup(volume)
    by_hand = world.directory / "by hand"
    by_hand.mkdir()

    run_shell(
        joined_packs(world, volume) + " ".join([*EVERYTHING[:-3], "'--xattrs-include=*'", *EVERYTHING[-2:]]),
        by_hand,
    )

    assert_same(expected, snapshot(by_hand))


def test_a_plain_tar_x_gives_all_but_attributes_of_what_is_not_plain(world: World) -> None:
    volume, expected = nasty_volume(world)
    world.cli.backup(volume)
    by_hand = world.directory / "by hand"
    by_hand.mkdir()

    run_shell(joined_packs(world, volume) + "tar -x", by_hand)

    found = snapshot(by_hand)
    assert found.keys() == expected.keys()
    for path, node in expected.items():
        for each in ("size", "sha256", "target", "rdev", "sparse", "linked", "mtime_ns"):
            assert getattr(found[path], each) == getattr(node, each), (path, each)


def test_an_export_is_a_tar_of_the_whole_volume(world: World) -> None:
    volume, expected = nasty_volume(world)
    world.cli.backup(volume)
    to_file = world.directory / "to file.tar"
    world.cli("export", volume, "-o", str(to_file)).exits(0)
    to_stdout = world.cli("export", volume).exits(0).raw

    assert to_file.read_bytes() == to_stdout
    extracted = world.directory / "extracted"
    extracted.mkdir()
    subprocess.run([*EVERYTHING, "-f", to_file], cwd=extracted, check=True, capture_output=True)
    assert_same(expected, snapshot(extracted))


def test_the_highest_compression_level_gives_the_same_and_is_smaller(world: World) -> None:
    volume = world.volume()
    (world.data(volume) / "text").write_text(
        "".join(f"line {number**3} of a log\n" for number in range(50_000))
    )
    expected = snapshot(world.data(volume))
    (fast,) = world.cli.backup(volume)
    world.cli = world.cli.having(VOLFERRY_COMPRESSION="19")
    (small,) = world.cli.backup(volume)

    assert small["stored_bytes"] < fast["stored_bytes"]
    assert_restored(world, volume, expected)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A filesystem in memory: a disk takes minutes to delete what is made here."""
    with in_memory(tmp_path / "memory", "2g") as directory:
        yield directory


@pytest.mark.long
def test_a_hundred_thousand_small_files_are_restored(world: World, memory: Path) -> None:
    places = {}
    for name in ("source", "target"):
        places[name] = memory / name
        places[name].mkdir()
        world.volume(name, options={"type": "none", "o": "bind", "device": str(places[name])})
    root, restored = places["source"], places["target"]
    for number in range(SMALL_FILES):
        if number % 1000 == 0:
            (root / f"d{number // 1000}").mkdir()
        descriptor = os.open(root / f"d{number // 1000}" / f"{number}", os.O_WRONLY | os.O_CREAT, 0o644)
        os.write(descriptor, b"%d" % number)
        os.close(descriptor)
    (said,) = world.cli.backup("source")
    assert said["entries"] == SMALL_FILES + SMALL_FILES // 1000 + 1
    world.cli("restore", "source", "--into", "target").exits(0)

    assert_same(snapshot(root, content=False), snapshot(restored, content=False))
    for number in (0, 1, 12_345, SMALL_FILES - 1):
        assert (restored / f"d{number // 1000}" / f"{number}").read_text() == str(number)


def test_names_of_one_fifo_or_device_do_not_keep_a_backup_from_being_restored(world: World) -> None:
    volume = world.filled()
    with opened(os.fsencode(world.data(volume))) as top:
        os.mkfifo(top + b"fifo")
        os.link(top + b"fifo", top + b"same fifo")
        os.mknod(top + b"null", 0o20666, os.makedev(1, 3))
        os.link(top + b"null", top + b"same null")
    time.sleep(CHANGED_WITHIN_SECONDS + 0.5)  # entries younger than that are not compared as strictly
    expected = snapshot(world.data(volume))
    world.cli.backup(volume)

    world.cli("restore", volume, "--into", "restored").exits(0)

    assert snapshot(world.data("restored")).keys() == expected.keys()


def test_an_empty_volume_is_backed_up_and_restored(world: World) -> None:
    volume = world.volume()
    root = world.data(volume)
    os.chown(root, 70, 71)
    root.chmod(0o2770)
    os.utime(root, ns=(0, 1))
    expected = snapshot(root)
    (said,) = world.cli.backup(volume)

    assert (said["entries"], said["source_bytes"]) == (1, 0)
    assert_restored(world, volume, expected)


def test_a_file_of_many_frames_is_restored_with_them_in_order(world: World) -> None:
    volume = world.volume()
    (world.data(volume) / "noise").write_bytes(random.Random(1).randbytes(40 << 20))
    (world.data(volume) / "repeats").write_bytes(random.Random(2).randbytes(1 << 20) * 20)
    expected = snapshot(world.data(volume))
    world.cli.backup(volume)
    assert_restored(world, volume, expected)


@pytest.mark.long
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(tree=trees())
def test_whatever_tree_a_volume_holds_is_restored(world: World, tree: Directory) -> None:
    volume = world.volume()
    realise(tree, world.data(volume))
    expected = snapshot(world.data(volume))
    world.cli.backup(volume)
    assert_restored(world, volume, expected)
    world.remove(volume)


def test_driver_options_and_labels_come_back_with_a_volume(world: World) -> None:
    device = world.directory / "device"
    device.mkdir()
    options = {"type": "none", "device": str(device), "o": "bind,noexec"}
    labels = {"tier": "gold", "note": 'ein Wort, "zwei" = drei\n'}
    volume = world.volume(options=options, labels=labels)
    (device / "file").write_text("content")
    (device / "directory").mkdir(mode=0o700)
    expected = snapshot(device)
    world.cli.backup(volume)
    for path in device.iterdir():
        path.rmdir() if path.is_dir() else path.unlink()

    world.cli("restore", volume, "--into", "restored", "--with-options").exits(0)

    found = world.client.volumes.get("restored").attrs
    assert found["Driver"] == "local"
    assert found["Options"] == options
    assert found["Labels"] == labels
    assert_same(expected, snapshot(device))


@pytest.fixture
def bind_options(world: World) -> dict[str, str]:
    """Of a volume of the local driver that is a directory elsewhere on the machine."""
    device = world.directory / "device"
    device.mkdir()
    return {"type": "none", "o": "bind", "device": str(device)}


def test_a_volume_in_a_directory_of_the_machine_is_restored_once_that_is_empty(
    world: World, bind_options: dict[str, str]
) -> None:
    device = world.directory / "device"
    volume = world.volume(options=bind_options, labels={"a": "b"})
    (device / "file").write_text("content")
    (device / ".hidden").write_text("content")
    expected = snapshot(device)
    world.cli.backup(volume)
    world.remove(volume)
    for path in device.iterdir():
        path.unlink()

    world.cli("restore", volume, "--with-options").exits(0)

    assert_same(expected, snapshot(device))
    attributes = world.client.volumes.get(volume).attrs
    assert (attributes["Options"], attributes["Labels"]) == (bind_options, {"a": "b"})


@pytest.mark.parametrize("flags", [(), ("--replace",)], ids=["plain", "replace"])
def test_a_new_volume_is_not_made_of_a_directory_that_holds_data(
    world: World, bind_options: dict[str, str], flags: tuple[str, ...]
) -> None:
    device = world.directory / "device"
    volume = world.volume(options=bind_options)
    (device / "file").write_text("backed up")
    world.cli.backup(volume)
    world.remove(volume)
    (device / "file").write_text("newer")
    before = snapshot(device)

    world.cli("restore", volume, "--with-options", *flags).fails_with(str(device), "holds data")

    assert_same(before, snapshot(device))
    assert not world.exists(volume)


def test_a_volume_that_no_container_uses_and_one_in_use_are_backed_up_alike(world: World) -> None:
    unused, used = world.filled(), world.filled()
    user = world.container(used)
    expected = {volume: snapshot(world.data(volume)) for volume in (unused, used)}
    world.cli.backup(unused, used)

    for volume, content in expected.items():
        assert_restored(world, volume, content)
    user.reload()
    assert user.status == "running"
    manifest = world.cli("show", used, "--json").exits(0).json
    (recorded,) = manifest["containers"]
    assert (recorded["name"], recorded["state"], recorded["destination"]) == (user.name, "running", "/data")


def test_an_anonymous_volume_is_backed_up_by_its_name_and_restored_as_a_named_one(world: World) -> None:
    volume = world.anonymous_volume()
    (world.data(volume) / "file").write_text("content")
    expected = snapshot(world.data(volume))
    world.cli.backup(volume)

    world.cli("restore", volume, "--into", "named").exits(0)

    assert_same(expected, snapshot(world.data("named")))
    assert world.client.volumes.get("named").attrs["Labels"] in ({}, None)


@pytest.mark.parametrize(
    "name", ["ab", "0.a", "UPPER_lower.1-2", "tmp", "a" * 200], ids=lambda name: name[:16]
)
def test_any_name_that_the_engine_takes_is_backed_up_and_restored(world: World, name: str) -> None:
    volume = world.volume(name)
    (world.data(volume) / "file").write_text(name)
    expected = snapshot(world.data(volume))
    world.cli.backup(volume)
    assert_restored(world, volume, expected)
    world.remove(volume)
    world.cli("restore", volume).exits(0)
    assert_same(expected, snapshot(world.data(volume)))


def test_a_hole_of_gigabytes_is_neither_read_nor_restored_as_zeros(world: World) -> None:
    volume = world.volume()
    with opened(os.fsencode(world.data(volume))) as top:
        write(top + b"sparse")
    with (world.data(volume) / "sparse").open("r+b") as file:
        file.truncate(SPARSE_BYTES)
        file.seek(SPARSE_BYTES // 3)
        file.write(b"data")
    (said,) = world.cli.backup(volume)
    assert said["source_bytes"] == SPARSE_BYTES
    assert said["read_bytes"] < 2 << 20
    world.cli("restore", volume, "--into", "restored").exits(0)
    restored = (world.data("restored") / "sparse").stat()
    assert (restored.st_size, restored.st_blocks * 512 < 1 << 20) == (SPARSE_BYTES, True)
