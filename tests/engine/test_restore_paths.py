"""Restoring some paths of a backup: into a volume, a directory or a tar."""

from __future__ import annotations

import os
import shutil
import subprocess
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from tests.parts.recorded_store import RecordedStore
from tests.parts.trees import Node, acl, assert_same, snapshot, write, write_sparse
from volferry.archive.restore_mark import KnownMarks, digest_of
from volferry.archive.selection import Selection, parents_of
from volferry.operations.backup_reader import BackupReader
from volferry.operations.excerpt import BackupExcerpt
from volferry.repository import Repository
from volferry.stores.local import LocalStore

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.parts.world import World

ODD = b"odd\xff\n'\"$(id)\\x41 -r \x01\x81\x88\xc3\xa9"
TIME = 1_500_000_000_123_456_789


@pytest.fixture
def volume(world: World) -> str:
    """A volume of everything that is hard, with one backup."""
    volume = world.volume()
    fill(world.data(volume))
    world.cli.backup(volume)
    return volume


def fill(place: Path) -> None:
    root = os.fsencode(place)
    for directory in ("a", "a/deep", "a/deep/er", "b", os.fsdecode(ODD)):
        (place / directory).mkdir()
    first = write(root + b"/a/first", b"first" * 5000)
    os.setxattr(first, b"user.note", b"\0\xff")
    for name in (b"/a/second", b"/b/third", b"/b/fourth", b"/" + ODD + b"/fifth"):
        os.link(first, root + name)
    write(root + b"/a/deep/er/file", b"deep")
    os.chown(root + b"/a/deep/er/file", 4711, 1147)
    (place / "a/deep/er/file").chmod(0o4711)
    write(root + b"/" + ODD + b"/" + ODD, b"odd")
    write(root + b"/-rf", b"dash")
    write_sparse(root + b"/a/sparse", 64 << 20, {32 << 20: b"data"})
    os.link(root + b"/a/sparse", root + b"/b/" + b"sparse" * 30)
    write(root + b"/b/large", os.urandom(3 << 20))
    (place / "a/link").symlink_to("/etc/passwd")
    os.link(place / "a/link", place / "b/link", follow_symlinks=False)
    os.mkfifo(place / "b/fifo")
    os.setxattr(place / "a/deep", "system.posix_acl_default", acl(0o755, (2, 7, 1234)))
    os.chown(place / "a/deep", 99, 100)
    (place / "a/deep").chmod(0o2751)
    for directory in ("a/deep/er", "a/deep", "a", "b", os.fsdecode(ODD), ""):
        os.utime(place / directory, ns=(0, TIME))


def only(found: dict[bytes, Node], chosen: Iterable[bytes], *, parents: bool = True) -> dict[bytes, Node]:
    """What a restore of `chosen` makes of a tree: hard links to what was not chosen are counted no more."""
    selection = Selection(chosen)
    kept = {
        path: node
        for path, node in found.items()
        if selection.covers(path) or (parents and path in selection.parents)
    }
    return {path: relinked(node, kept) for path, node in kept.items()}


def relinked(node: Node, kept: dict[bytes, Node]) -> Node:
    values = {name: getattr(node, name) for name in Node.__slots__}
    if (node.mode & 0o170000) == 0o040000:
        values["nlink"] = 0
    elif node.linked:
        linked = frozenset(path for path in node.linked if path in kept)
        values |= {"nlink": len(linked), "linked": linked if len(linked) > 1 else frozenset()}
    return Node(**values)


def assert_only(before: dict[bytes, Node], chosen: Iterable[bytes], after: dict[bytes, Node]) -> None:
    chosen = list(chosen)
    assert_same(only(before, chosen), only(after, [b""]))


def typed(chosen: Iterable[bytes]) -> list[str]:
    """Paths as arguments; one may start with a dash."""
    return ["./" + os.fsdecode(path) for path in chosen]


MIXTURES = [
    [b"a"],
    [b"b"],
    [b"a", b"b"],
    [b"b/third"],
    [b"b/third", b"b/fourth"],
    [b"a/second", ODD + b"/fifth"],
    [b"a/first", b"b"],
    [ODD],
    [ODD + b"/" + ODD, b"-rf"],
    [b"a/deep/er/file"],
    [b"b/link", b"b/fifo"],
    [b"b/" + b"sparse" * 30],
    [b"a/sparse", b"a/link"],
]


@pytest.mark.parametrize("chosen", MIXTURES)
def test_into_a_new_volume(world: World, volume: str, chosen: list[bytes]) -> None:
    before = snapshot(world.data(volume))
    said = world.cli("restore", volume, *typed(chosen), "--into", "new", "--json").exits(0).json
    after = snapshot(world.data("new"))
    assert_only(before, chosen, after)
    assert said["entries"] == sum(Selection(chosen).covers(path) for path in after)
    assert world.own_containers() == []
    world.cli.backup("new")


@pytest.mark.parametrize(
    "chosen", [[b"b/third", ODD], [b"a/second", b"b/fourth"], [b"b"], [b"a", b"b/changed"]]
)
def test_from_a_backup_that_stores_only_what_changed(world: World, volume: str, chosen: list[bytes]) -> None:
    root = world.data(volume)
    (root / "b" / "changed").write_text("changed")
    os.link(root / "b" / "changed", root / "b" / "a link to it")
    (root / "a" / "first").unlink()
    assert world.cli.backup(volume)[0]["base"]
    before = snapshot(root)
    world.cli("restore", volume, *typed(chosen), "--into", "new").exits(0)
    assert_only(before, chosen, snapshot(world.data("new")))


def test_into_the_volume_itself_everything_else_stays(world: World, volume: str) -> None:
    root = world.data(volume)
    before = snapshot(root)
    shutil.rmtree(root / "a" / "deep")
    (root / "b" / "large").unlink()
    (root / "b" / "other").write_text("stays")
    changed = snapshot(root)

    world.cli("restore", volume, "a/deep", "./b/large").exits(0)

    after = snapshot(root)
    assert_same(
        only(before, [b"a/deep", b"b/large"], parents=False),
        only(after, [b"a/deep", b"b/large"], parents=False),
    )
    touched = {b"", b"a", b"b"}
    rest = [path for path in changed if path not in touched]
    assert_same({path: changed[path] for path in rest}, {path: after[path] for path in rest})
    assert {path: after[path].mode for path in touched} == {path: changed[path].mode for path in touched}
    assert after.keys() == before.keys() | {b"b/other"}


def test_what_is_there_is_refused_or_replaced(world: World, volume: str) -> None:
    root = world.data(volume)
    before = snapshot(root)
    (root / "a" / "deep" / "new").mkdir()
    (root / "a" / "deep" / "new" / "file").write_text("goes")
    (root / "a" / "deep" / "er" / "file").write_text("changed")
    (root / "b" / "fifo").unlink()
    (root / "b" / "fifo").mkdir()
    changed = snapshot(root)

    world.cli("restore", volume, "a/deep", "b/fifo").fails_with("a/deep", "--replace")
    assert_same(changed, snapshot(root))

    world.cli("restore", volume, "a/deep", "b/fifo", "--replace").exits(0)
    chosen = [b"a/deep", b"b/fifo"]
    assert_same(only(before, chosen, parents=False), only(snapshot(root), chosen, parents=False))
    assert snapshot(root).keys() == before.keys()


def test_a_path_below_what_is_no_directory_is_refused(world: World, volume: str) -> None:
    root = world.data(volume)
    shutil.rmtree(root / "a")
    (root / "a").symlink_to("b")
    before = snapshot(root)
    for flags in ([], ["--replace"]):
        world.cli("restore", volume, "a/deep/er/file", *flags).fails_with("'a'", "not a directory")
    world.cli("restore", volume, "a/deep", "--to", str(root)).fails_with("'a'", "not a directory")
    assert_same(before, snapshot(root))


def test_what_was_interrupted_can_be_completed_and_is_no_backup(world: World, volume: str) -> None:
    root = world.data(volume)
    before = snapshot(root)
    pack = world.objects("packs")[0]
    data = pack.read_bytes()
    pack.write_bytes(bytes(len(data)))
    world.cli("restore", volume, "b/large", "--replace").fails_with("damaged")
    assert_same(before, snapshot(root))
    world.cli("restore", volume, "b/large", "--replace", "--trust").fails_with("damaged")
    pack.write_bytes(data)

    world.cli("backup", volume).fails_with("interrupted restore")
    done = world.cli("restore", volume, "b/fifo", "--replace").exits(0)
    assert "still holds the rest of an interrupted restore ('b/large' of " in done.stderr
    world.cli("backup", volume).fails_with("interrupted restore")
    world.cli("restore", volume, "b/large", "--replace").exits(0)
    assert_same(only(before, [b"b/large"], parents=False), only(snapshot(root), [b"b/large"], parents=False))
    world.cli.backup(volume)

    mark = root / ".volferry-restore-in-progress"
    text = f"{world.host}/{volume}@x"
    mark.write_text(text)  # by whoever writes the volume
    world.cli("restore", volume, "b/large", "--replace").exits(0)
    assert not mark.exists()
    by_another = KnownMarks(volume=volume, engine=digest_of(world.client.info()["ID"]))
    mark.write_text(by_another.sealed(text, Repository.open(LocalStore(world.store)).id, datetime.now(UTC)))
    world.cli("restore", volume, "b/large", "--replace").fails_with("interrupted restore")
    assert mark.exists()


@pytest.mark.parametrize("state", ["running", "paused"])
def test_a_volume_in_use_is_refused(world: World, volume: str, state: str) -> None:
    world.container(volume, state)
    for flags in ([], ["--replace"]):
        world.cli("restore", volume, "b/large", *flags).fails_with("in use")


def test_a_path_that_is_not_in_the_backup_changes_nothing(world: World, volume: str, tmp_path: Path) -> None:
    before = snapshot(world.data(volume))
    world.cli("restore", volume, "a/first", "a/fist", "--replace").fails_with("a/fist", "a/first")
    world.cli("restore", volume, "a/fist", "--into", "new").fails_with("a/fist")
    world.cli("restore", volume, "a/fist", "--to", str(tmp_path / "out")).fails_with("a/fist")
    assert world.cli("restore", volume, "a/fist", "--to", "-").fails_with("a/fist").raw == b""
    world.cli("restore", volume, "a/*", "--into", "new").fails_with("a/*")
    world.cli("restore", volume, "a/*", "nothing*", "--glob", "--into", "new").fails_with("nothing*")
    world.cli("restore", volume, "", "--into", "new").fails_with("empty path", code=2)
    world.cli("restore", volume, "--glob").fails_with("--glob", code=2)
    world.cli("restore", volume, "--to", "x", "--into", "new").fails_with("--into", code=2)
    world.cli("restore", volume, "--to", "-", "--json").fails_with("stdout", code=2)
    assert not world.exists("new")
    assert not (tmp_path / "out").exists()
    assert_same(before, snapshot(world.data(volume)))


def test_patterns_and_printed_names(world: World, volume: str) -> None:
    before = snapshot(world.data(volume))
    world.cli("restore", volume, "--glob", "f*th", "a/*/e?", "--into", "new").exits(0)
    assert_only(before, [b"b/fourth", ODD + b"/fifth", b"a/deep/er"], snapshot(world.data("new")))

    printed = world.cli("ls", volume, "--json").json["entries"]
    odd = next(entry["path"] for entry in printed if entry["path"].startswith("odd"))
    world.cli("restore", volume, f"/{odd}/{odd}", "--into", "newer").exits(0)
    assert_only(before, [ODD + b"/" + ODD], snapshot(world.data("newer")))


def test_the_root_is_everything(world: World, volume: str) -> None:
    world.cli("restore", volume, "/").fails_with("--replace")
    world.cli("restore", volume, "/", "--into", "new").exits(0)
    assert_same(snapshot(world.data(volume)), snapshot(world.data("new")))


def test_the_channel_over_a_connection(world: World, volume: str) -> None:
    before = snapshot(world.data(volume))
    cli = world.cli.having(VOLFERRY_HELPER__CHANNEL="stream")
    cli("restore", volume, os.fsdecode(ODD), "b", "--into", "new").exits(0)
    assert_only(before, [ODD, b"b"], snapshot(world.data("new")))
    cli("restore", volume, os.fsdecode(ODD), "--into", "new", "--replace").exits(0)


# --- directories of this machine, and tars ----------------------------------------------------------------


@pytest.mark.parametrize("chosen", MIXTURES[3:9])
def test_into_a_directory(world: World, volume: str, tmp_path: Path, chosen: list[bytes]) -> None:
    out = tmp_path / "not there" / "yet"
    before = snapshot(world.data(volume))
    world.cli("restore", volume, *typed(chosen), "--to", str(out)).exits(0)
    assert_below_root(only(before, chosen), only(snapshot(out), [b""]))


def assert_below_root(before: dict[bytes, Node], after: dict[bytes, Node]) -> None:
    assert_same(*({path: node for path, node in each.items() if path} for each in (before, after)))


def test_a_whole_backup_into_a_directory(world: World, volume: str, tmp_path: Path) -> None:
    before = snapshot(world.data(volume))
    out = tmp_path / "out"
    said = world.cli("restore", volume, "--to", str(out), "--json").exits(0).json
    assert_same(before, snapshot(out))
    assert (said["to"], said["entries"]) == (str(out), len(before))

    (out / "b" / "large").unlink()
    (out / "b" / "other").write_text("goes")
    (out / "own").write_text("stays")
    out.chmod(0o700)
    changed = snapshot(out)
    world.cli("restore", volume, "--to", str(out)).fails_with("--replace")
    assert_same(changed, snapshot(out))
    world.cli("restore", volume, "--to", str(out), "--replace").exits(0)
    after = snapshot(out)
    assert after.pop(b"own").size == 5
    assert after[b""].mode & 0o777 == 0o700
    assert_below_root(before, after)


@pytest.mark.parametrize("chosen", [(), ("b/large",)], ids=["whole", "a path"])
def test_damage_costs_nothing_of_a_directory_unless_the_backup_is_trusted(
    world: World, volume: str, tmp_path: Path, chosen: tuple[str, ...]
) -> None:
    out = tmp_path / "out"
    world.cli("restore", volume, "--to", str(out)).exits(0)
    (out / "b" / "large").write_text("mine")
    before = snapshot(out)
    for pack in world.objects("packs"):
        pack.write_bytes(bytes(pack.stat().st_size))
    command = ("restore", volume, *chosen, "--to", str(out), "--replace")
    world.cli(*command).fails_with("damaged")
    assert_same(before, snapshot(out))
    world.cli(*command, "--trust").fails_with("damaged")
    assert not (out / "b" / "large").exists()


def test_symlinks_in_a_directory_are_not_followed(world: World, volume: str, tmp_path: Path) -> None:
    out, outside = tmp_path / "out", tmp_path / "outside"
    out.mkdir()
    outside.mkdir()
    (out / "a").symlink_to(outside)
    world.cli("restore", volume, "a/first", "--to", str(out), "--replace").fails_with("not a directory")
    world.cli("restore", volume, "a", "--to", str(out), "--replace").exits(0)
    assert list(outside.iterdir()) == []
    assert (out / "a" / "first").stat().st_size == 25_000


def test_into_a_directory_needs_gnu_tar(world: World, volume: str, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    cli = world.cli.having(PATH=str(programs))
    cli("restore", volume, "a", "--to", str(tmp_path / "out")).fails_with("GNU tar")
    (programs / "tar").write_text("#!/bin/sh\necho bsdtar 3.6\n")
    (programs / "tar").chmod(0o755)
    cli("restore", volume, "a", "--to", str(tmp_path / "out")).fails_with("GNU tar")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("chosen", [[b"b"], [b"a", ODD], []])
def test_as_a_tar(world: World, volume: str, tmp_path: Path, chosen: list[bytes]) -> None:
    stream = world.cli("restore", volume, *typed(chosen), "--to", "-").exits(0).raw
    command = [
        "tar",
        "-x",
        "--xattrs",
        "--xattrs-include=*",
        "--acls",
        "-p",
        "--numeric-owner",
        "-C",
        str(tmp_path),
    ]
    (tmp_path / "x").mkdir()
    subprocess.run(
        [*command[:-1], str(tmp_path / "x")], input=stream, check=True, env={"LC_ALL": "C", **os.environ}
    )
    before = snapshot(world.data(volume))
    assert_below_root(only(before, chosen or [b""]), only(snapshot(tmp_path / "x"), [b""]))


# --- what it costs ----------------------------------------------------------------------------------------


def test_one_file_of_many_costs_the_index_and_few_frames(world: World, tmp_path: Path) -> None:
    volume = world.volume()
    root = world.data(volume)
    for directory in range(100):
        (root / f"{directory:02}").mkdir()
        for number in range(200):
            (root / f"{directory:02}" / f"{number:03}").write_bytes(os.urandom(2000))
    world.cli.backup(volume)
    packs = sum(path.stat().st_size for path in world.objects("packs"))

    store = RecordedStore(LocalStore(world.store))
    repository = Repository(store, "")
    (ref,) = repository.refs()
    reader = BackupReader(repository, ref, spool=tmp_path)
    excerpt = BackupExcerpt(reader, Selection([b"57/123"]))
    stream = b"".join(excerpt.tar_stream(frozenset(parents_of(b"57/123"))))

    assert (root / "57" / "123").read_bytes() in stream
    assert len(stream) < 8192
    assert len(store.of("open", "indexes/")) == 2
    # the groups of the root, of the directory and of the file, each of some 64 files
    assert len(store.of("open", "packs/")) <= 3
    assert store.read_bytes("packs/") < packs / 30
    assert store.read_bytes() == store.read_bytes("manifests/") + reader.fetched_bytes

    said = world.cli("restore", volume, "57/123", "--into", "new", "--json").exits(0).json
    assert said["fetched_bytes"] == reader.fetched_bytes
    assert said["entries"] == 1
