"""Where a restore may write, what it deletes, and what it leaves alone."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.parts.mounts import in_memory
from tests.parts.trees import assert_same, snapshot
from volferry.archive.sealed import seal, unseal

if TYPE_CHECKING:
    from pathlib import Path

    from tests.parts.trees import Node
    from tests.parts.world import World

STATES = ["running", "paused", "stopped", "created"]
IN_USE = STATES[:2]


@pytest.fixture
def backed_up(world: World) -> tuple[str, dict[bytes, Node]]:
    """A volume with one backup, and its content."""
    volume = world.volume()
    root = world.data(volume)
    (root / "file").write_text("backed up")
    (root / "directory").mkdir()
    (root / "directory" / "file").write_text("backed up as well")
    world.cli.backup(volume)
    return volume, snapshot(root)


def make_other_content(world: World, volume: str) -> dict[bytes, Node]:
    """Fills a volume with what no backup holds; gives its content."""
    root = world.data(volume)
    (root / "file").unlink(missing_ok=True)
    (root / "file").mkdir()
    (root / "file" / "in the way").write_text("other")
    (root / ".hidden").write_text("other")
    (root / "..hidden").write_text("other")
    (root / "-rf").write_text("other")
    (root / "new\nline").write_text("other")
    (root / "closed").mkdir()
    (root / "closed" / "file").write_text("other")
    (root / "closed").chmod(0)
    return snapshot(root)


def test_a_volume_that_is_gone_is_restored_under_its_own_name(
    world: World, backed_up: tuple[str, dict[bytes, Node]]
) -> None:
    volume, expected = backed_up
    world.remove(volume)
    said = world.cli("restore", volume, "--json").exits(0).json

    assert (said["volume"], said["source_volume"], said["entries"]) == (volume, volume, len(expected))
    assert_same(expected, snapshot(world.data(volume)))
    assert world.own_containers() == []


@pytest.mark.parametrize("named", [False, True], ids=["its own name", "another name"])
def test_a_volume_that_holds_data_is_left_alone(
    world: World, backed_up: tuple[str, dict[bytes, Node]], named: bool
) -> None:
    volume, _ = backed_up
    target = world.volume() if named else volume
    before = make_other_content(world, target)

    world.cli("restore", volume, *(["--into", target] if named else [])).fails_with(target, "--replace")

    assert_same(before, snapshot(world.data(target)))


def test_an_existing_volume_that_is_empty_is_filled(
    world: World, backed_up: tuple[str, dict[bytes, Node]]
) -> None:
    volume, expected = backed_up
    target = world.volume(labels={"its": "own"})

    world.cli("restore", volume, "--into", target).exits(0)

    assert_same(expected, snapshot(world.data(target)))
    assert world.client.volumes.get(target).attrs["Labels"] == {"its": "own"}


def test_replace_leaves_exactly_what_was_backed_up(
    world: World, backed_up: tuple[str, dict[bytes, Node]]
) -> None:
    volume, expected = backed_up
    make_other_content(world, volume)

    world.cli("restore", volume, "--replace").exits(0)

    assert_same(expected, snapshot(world.data(volume)))
    world.cli("backup", volume).exits(0)


def test_replace_on_a_volume_that_is_not_there_makes_it(
    world: World, backed_up: tuple[str, dict[bytes, Node]]
) -> None:
    volume, expected = backed_up
    world.cli("restore", volume, "--into", "new", "--replace").exits(0)
    assert_same(expected, snapshot(world.data("new")))


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("flags", [(), ("--replace",)], ids=["plain", "replace"])
def test_a_volume_in_use_is_written_only_when_its_containers_do_not_run(
    world: World, backed_up: tuple[str, dict[bytes, Node]], state: str, flags: tuple[str, ...]
) -> None:
    volume, expected = backed_up
    target = world.filled() if flags else world.volume()
    before = snapshot(world.data(target))
    user = world.container(target, state)

    done = world.cli("restore", volume, "--into", target, *flags)

    if state in IN_USE:
        done.fails_with(target, str(user.name), "stop it")
        assert_same(before, snapshot(world.data(target)))
    else:
        done.exits(0)
        assert_same(expected, snapshot(world.data(target)))


@pytest.mark.parametrize(
    "damage", ["missing pack", "short pack", "missing index", "changed index", "changed manifest"]
)
def test_replace_deletes_nothing_if_the_backup_is_seen_to_be_damaged(
    world: World, backed_up: tuple[str, dict[bytes, Node]], damage: str
) -> None:
    volume, _ = backed_up
    before = make_other_content(world, volume)
    how, kind = damage.split()
    (victim, *_) = world.objects({"pack": "packs", "index": "indexes", "manifest": "manifests"}[kind])
    data = victim.read_bytes()
    if how == "missing":
        victim.unlink()
    elif how == "short":
        victim.write_bytes(data[:-1])
    else:
        middle = len(data) // 2
        victim.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])

    world.cli("restore", volume, "--replace").fails_with(victim.name)

    assert_same(before, snapshot(world.data(volume)))
    assert world.own_containers() == []
    # and it is no rest of an interrupted restore either
    world.cli("backup", volume).exits(0)


def test_a_restore_that_fails_on_the_way_leaves_no_new_volume(world: World) -> None:
    volume = world.volume()
    (world.data(volume) / "file").write_bytes(bytes(range(256)) * 20_000)
    world.cli.backup(volume)
    (pack,) = world.objects("packs")
    data = bytearray(pack.read_bytes())
    data[-40] ^= 1
    pack.write_bytes(data)
    before = world.volumes()

    world.cli("restore", volume, "--into", "new").fails_with(pack.name, "damaged")

    assert world.volumes() == before
    assert world.own_containers() == []
    # A volume of that name that is made later is nobody's rest.
    world.filled("new")
    world.cli("backup", "new").exits(0)


def test_a_replace_that_fails_on_the_way_is_not_taken_for_a_whole_volume(world: World) -> None:
    volume = world.volume()
    (world.data(volume) / "file").write_bytes(bytes(range(256)) * 20_000)
    world.cli.backup(volume)
    (pack,) = world.objects("packs")
    data = bytearray(pack.read_bytes())
    good = bytes(data)
    data[-40] ^= 1
    pack.write_bytes(data)
    expected = snapshot(world.data(volume))

    world.cli("restore", volume, "--replace", "--trust").fails_with(pack.name, "damaged")

    world.cli("backup", volume).fails_with("interrupted restore", "--replace")
    pack.write_bytes(good)
    world.cli("restore", volume).fails_with("interrupted restore")
    world.cli("restore", volume, "--replace").exits(0)
    assert_same(expected, snapshot(world.data(volume)))
    world.cli("backup", volume).exits(0)


@pytest.mark.parametrize("name", ["", "a", "-x", ".x", "a/b", "../x", "a b", "ä" * 3, "a\nb", "x" * 300])
def test_a_name_that_no_volume_can_have_is_refused(
    world: World, backed_up: tuple[str, dict[bytes, Node]], name: str
) -> None:
    volume, _ = backed_up
    before = world.volumes()
    done = world.cli("restore", volume, "--into", name).exits(1, 2)
    assert len(done.complaints) == 1, done.story
    assert world.volumes() == before


@pytest.mark.parametrize(
    "name",
    ["", "@", "vol@", "/vol", "nothing", "nothing@2020", "vol@zzz", "otherhost/vol", "../vol", "vol@../../x"],
)
def test_a_backup_that_is_not_there_is_said_and_nothing_is_made(world: World, name: str) -> None:
    world.filled("vol")
    world.cli.backup("vol")
    before = world.volumes()
    for command in (["restore", name, "--into", "new"], ["show", name], ["export", name]):
        done = world.cli(*command).exits(1, 2)
        assert len(done.complaints) == 1, done.story
        assert done.raw == b""
    assert world.volumes() == before


def test_an_older_backup_is_restored_by_the_start_or_the_end_of_its_id(world: World) -> None:
    volume = world.volume()
    ids = []
    for content in ("first", "second"):
        (world.data(volume) / "file").write_text(content)
        (said,) = world.cli.backup(volume)
        ids.append(said["id"])
    for name, content in (
        (f"{volume}@{ids[0]}", "first"),
        (f"{volume}@{ids[0][-6:]}", "first"),
        (f"{volume}@{ids[1][:-2]}", "second"),
        (volume, "second"),
    ):
        world.cli("restore", name, "--into", "restored", "--replace").exits(0)
        assert (world.data("restored") / "file").read_text() == content
    world.cli("restore", f"{volume}@2", "--into", "restored", "--replace").fails_with("2 backups")


def test_a_backup_of_another_host_is_restored_by_its_full_name_or_by_host(world: World) -> None:
    volume = world.filled(file="from the other host")
    elsewhere = world.cli.having(VOLFERRY_HOST="other/host").at(state=world.directory / "other state")
    (said,) = elsewhere.backup(volume)
    assert said["host"] == "other/host"
    expected = snapshot(world.data(volume))

    world.cli("restore", volume, "--into", "new").fails_with("other/host")
    for number, arguments in enumerate(
        (
            [f"other/host/{volume}"],
            [f"other/host/{volume}@{said['id']}"],
            [volume, "--host", "other/host"],
            [f"{volume}@{said['id'][:-1]}", "--host", "other/host"],
        )
    ):
        world.cli("restore", *arguments, "--into", f"restored{number}").exits(0)
        assert_same(expected, snapshot(world.data(f"restored{number}")))


def test_options_that_lead_elsewhere_are_followed_only_with_a_yes(world: World, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_text("backed up")
    labels = {"com.docker.compose.project": "shop", "volferry.quiesce": "none", "tier": "gold"}
    options = {"type": "none", "o": "bind", "device": str(elsewhere)}
    volume = world.volume(labels=labels, options=options)
    world.cli.backup(volume)
    world.remove(volume)
    (elsewhere / "file").unlink()

    said = world.cli("restore", volume).exits(0).stderr
    found = world.client.volumes.get(volume).attrs
    assert (found["Options"] or {}, found["Labels"]) == ({}, {"tier": "gold"})
    assert f"device={elsewhere}" in said
    assert "--with-options" in said
    assert "com.docker.compose.project, volferry.quiesce" in said
    assert (world.data(volume) / "file").read_text() == "backed up"
    assert list(elsewhere.iterdir()) == []

    world.remove(volume)
    said = world.cli("restore", volume, "--with-options").exits(0).stderr
    found = world.client.volumes.get(volume).attrs
    assert (found["Options"], found["Labels"]) == (options, labels)
    assert "plain" not in said
    assert (elsewhere / "file").read_text() == "backed up"


def test_a_copy_has_the_labels_of_the_original_only_if_asked(world: World) -> None:
    labels = {"com.docker.compose.project": "shop", "volferry.quiesce": "none", "tier": "gold"}
    volume, copy, whole = world.volume(labels=labels), world.name(), world.name()
    world.cli.backup(volume)
    world.cli("restore", volume, "--into", copy).exits(0)
    assert world.client.volumes.get(copy).attrs["Labels"] == {"tier": "gold"}
    world.cli("restore", volume, "--into", whole, "--labels", "all").exits(0)
    assert world.client.volumes.get(whole).attrs["Labels"] == labels
    world.cli("restore", volume, "--labels", "some").fails_with("--labels some", code=2)


def test_a_volume_in_memory_is_refused(
    world: World, backed_up: tuple[str, dict[bytes, Node]], tmp_path: Path
) -> None:
    volume, _ = backed_up
    memory = world.volume(options={"type": "tmpfs", "device": "tmpfs"})
    said = f"volume {memory} is in memory"
    world.cli("restore", volume, "--into", memory).fails_with(said, code=2)
    world.cli("restore", volume, "file", "--into", memory).fails_with(said, code=2)
    world.cli("import", str(tmp_path), "--into", memory).fails_with(said, code=2)
    assert world.own_containers() == []


@pytest.mark.parametrize("paths", [(), ("file",)])
def test_a_damaged_backup_costs_nothing_of_what_it_would_replace(
    world: World, backed_up: tuple[str, dict[bytes, Node]], paths: tuple[str, ...]
) -> None:
    volume, _ = backed_up
    other = make_other_content(world, volume)
    (pack,) = world.objects("packs")
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(data)
    world.cli("restore", volume, *paths, "--replace").fails_with("is damaged")
    assert_same(other, snapshot(world.data(volume)))
    world.cli("restore", volume, *paths, "--replace", "--trust").fails_with("is damaged")
    assert world.own_containers() == []


def test_no_restore_goes_into_what_is_volferrys_own(
    world: World, backed_up: tuple[str, dict[bytes, Node]]
) -> None:
    volume, _ = backed_up
    before = snapshot(world.store)
    for place in (world.store, world.store / "packs", world.cli.state):
        world.cli("restore", volume, "--to", str(place)).fails_with("volferry's own", code=2)
    assert_same(before, snapshot(world.store))


def test_where_there_is_no_room_beside_a_backup_is_read_once_before_anything_is_deleted(
    world: World, backed_up: tuple[str, dict[bytes, Node]], tmp_path: Path
) -> None:
    volume, expected = backed_up
    (pack,) = world.objects("packs")
    good = pack.read_bytes()
    with in_memory(tmp_path / "small", "6m") as directory:
        (directory / "old").write_bytes(bytes(5900 << 10))
        target = world.volume_at(directory)
        before = snapshot(directory)
        pack.chmod(0o600)
        pack.write_bytes(
            good[: len(good) // 2] + bytes([good[len(good) // 2] ^ 1]) + good[len(good) // 2 + 1 :]
        )
        world.cli("restore", volume, "--into", target, "--replace").fails_with("is damaged")
        assert_same(before, snapshot(directory))
        pack.write_bytes(good)
        done = world.cli("restore", volume, "--into", target, "--replace").exits(0)
        assert "no room for both" in done.stderr
        assert_same(expected, snapshot(directory))
        world.remove(target)


def test_a_backup_that_cannot_fit_costs_nothing_of_what_is_there(world: World, tmp_path: Path) -> None:
    volume = world.volume()
    for number in range(8):
        (world.data(volume) / f"f{number}").write_bytes(os.urandom(1 << 20))
    world.cli.backup(volume)
    with in_memory(tmp_path / "small", "6m") as directory:
        (directory / "f0").write_text("old")
        target = world.volume_at(directory)
        before = snapshot(directory)
        refused = "has room for 6.29 MB, the backup needs 8.39 MB: nothing was changed"
        world.cli("restore", volume, "--into", target, "--replace").fails_with(f"volume {target} {refused}")
        world.cli("restore", volume, "f*", "--glob", "--into", target, "--replace").fails_with(
            "nothing was changed"
        )
        world.cli("restore", volume, "--to", str(directory), "--replace").fails_with(f"{directory} {refused}")
        assert_same(before, snapshot(directory))
        (directory / "f0").unlink()
        world.cli("restore", volume, "--into", target).fails_with(f"volume {target} {refused}")
        assert list(directory.iterdir()) == []
        world.cli("restore", volume, "--into", target, "--trust").fails_with(
            "no space is left in the volume: tar: "
        )
        assert list(directory.iterdir()) != []
        world.remove(target)


def test_a_size_without_quotas_is_left_out_and_said(world: World) -> None:
    """Where it could be had, as on an xfs with quotas, it is in the manifest."""
    volume = world.filled()
    ref = world.cli.backup(volume)[0]["id"]
    (path,) = world.objects(f"manifests/{world.host}/{volume}")
    document = unseal(path.read_bytes())
    document["volume"]["options"] = {"size": "1g"}
    path.write_bytes(seal(document))
    shutil.rmtree(world.cli.state / "stores")
    world.remove(volume)
    done = world.cli("restore", f"{volume}@{ref}").exits(0)
    assert f"volume {volume} is made as a plain local one; it had options (size=1g)" in done.stderr
    assert (world.data(volume) / "one").read_text() == "1"
    world.cli("restore", volume, "--into", "sized", "--with-options").fails_with("quota")
    assert not world.exists("sized")


def test_a_backup_of_a_volume_in_memory_says_that_it_is(world: World) -> None:
    memory = world.volume(options={"type": "tmpfs", "device": "tmpfs"})
    container = world.container(memory)
    container.exec_run(["sh", "-c", "echo content >/data/file"])
    done = world.cli("backup", memory, "--json").exits(3)
    (report,) = done.json["backups"]
    assert [(each["kind"], each["path"]) for each in report["findings"]] == [("volatile", "")]
    world.cli("migrate", memory, "--to", world.cli.docker_host, "--rename", f"{memory}=copy").fails_with(
        "in memory"
    )
    container.reload()
    assert container.status == "running"
    world.cli("restore", memory, "--into", world.name()).exits(0)
