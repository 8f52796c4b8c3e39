"""What is no named volume yet becomes one: archives of all kinds, directories, anonymous volumes, and what containers have."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.parts.trees import SOCKET, acl, assert_same, build_nasty_tree, snapshot
from tests.parts.world import IDLE
from volferry.archive.commands import RESTORE_MARK

if TYPE_CHECKING:
    from pathlib import Path

    from tests.parts.cli import Outcome
    from tests.parts.world import World

# Of GNU tar, with what keeps all that it can.
_TAR = ["tar", "--create", "--format=pax", "--xattrs", "--xattrs-include=*", "--acls", "--sparse"]
_COMPRESSORS = {"tar": ["cat"], "tar.gz": ["gzip", "-1"], "tar.bz2": ["bzip2", "-1"], "tar.xz": ["xz", "-0"], "tar.zst": ["zstd", "-q"]}  # fmt: skip


def archive(path: Path, root: Path, *what: str, kind: str = "tar", prefix: str = "") -> Path:
    """What `tar` and a compressor make of a tree."""
    options = ["--absolute-names", f"--transform=s,^,{prefix},rhS"] if prefix else []
    command = [*_TAR, *options, f"--directory={root}", *(what or (".",))]
    with (
        path.open("wb") as out,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as writing,
    ):
        subprocess.run(_COMPRESSORS[kind], stdin=writing.stdout, stdout=out, check=True)
    return path


def tree(root: Path) -> Path:
    """A small one, with names that lead into each other."""
    (root / "app" / "data").mkdir(parents=True)
    (root / "app" / "data" / "one").write_text("1")
    os.link(root / "app" / "data" / "one", root / "app" / "data" / "again")
    (root / "app" / "data" / "link").symlink_to("app/data/one")
    (root / "app" / "data").chmod(0o2750)
    os.chown(root / "app" / "data", 999, 998)
    os.utime(root / "app" / "data", ns=(10**18, 10**18))
    return root


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    directory.mkdir()
    return directory


def imported(world: World, *arguments: str) -> tuple[str, Outcome]:
    volume = world.name()
    return volume, world.cli("import", *arguments, "--into", volume).exits(0)


@pytest.mark.parametrize("kind", _COMPRESSORS)
def test_everything_that_a_tar_can_hold_arrives(
    world: World, source: Path, tmp_path: Path, kind: str
) -> None:
    build_nasty_tree(source)
    for each in ("file", "directory"):  # of users whom this machine has names for, and tar writes names
        os.removexattr(source / "access_lists" / each, "system.posix_acl_access")
    expected = snapshot(source)
    expected.pop(SOCKET, None)
    volume, said = imported(world, str(archive(tmp_path / f"it.{kind}", source, kind=kind)))
    assert_same(expected, snapshot(world.data(volume)))
    assert f"-v {volume}:/data" in said.stdout
    assert "external: true" in said.stdout
    assert world.own_containers() == []


def test_a_directory_arrives_whole(world: World, source: Path) -> None:
    build_nasty_tree(source)
    expected = snapshot(source)
    volume, said = imported(world, str(source))
    got = snapshot(world.data(volume))
    for each in (expected, got):
        each.pop(SOCKET, None)
    assert_same(expected, got)
    assert "compared and equal" in said.stdout


def test_access_lists_of_users_who_are_not_known_are_said(world: World, source: Path, tmp_path: Path) -> None:
    (source / "file").write_text("f")
    os.setxattr(source / "file", "system.posix_acl_access", acl(0o640, (2, 6, 0)))
    volume, said = imported(world, str(archive(tmp_path / "it.tar", source)))
    assert (world.data(volume) / "file").read_text() == "f"
    assert "1 access list was left out" in said.stderr


def test_a_tar_comes_through_stdin(world: World, source: Path, tmp_path: Path) -> None:
    path = archive(tmp_path / "it", tree(source), kind="tar.gz")
    volume = world.name()
    with path.open("rb") as stdin:
        done = subprocess.run(
            [sys.executable, "-m", "volferry", "import", "-", "--into", volume, "--label", "kept=yes"],
            stdin=stdin,
            env=world.cli.environment,
            check=False,
            capture_output=True,
        )
    assert done.returncode == 0, done.stderr
    assert (world.data(volume) / "app" / "data" / "one").read_text() == "1"
    assert world.client.volumes.get(volume).attrs["Labels"] == {"kept": "yes"}


@pytest.mark.parametrize("prefix", ["", "./", "/"])
@pytest.mark.parametrize("strip", ["2", "app/data"])
def test_leading_directories_are_left_out(
    world: World, source: Path, tmp_path: Path, prefix: str, strip: str
) -> None:
    """As those that docker-volume-backup (`backup/NAME/…`) and `docker run … tar` put there."""
    tree(source)
    path = archive(tmp_path / "it.tar.gz", source, "app", kind="tar.gz", prefix=prefix)
    volume, _ = imported(world, str(path), "--strip", strip)
    assert_same(snapshot(source / "app" / "data"), snapshot(world.data(volume)))


def test_that_all_is_in_one_directory_is_said(world: World, source: Path, tmp_path: Path) -> None:
    path = archive(tmp_path / "it.tar", tree(source))
    _, said = imported(world, str(path))
    assert "--strip 1" in said.stderr
    _, said = imported(world, str(path), "--strip", "2")
    assert "--strip" not in said.stderr


def test_one_tree_of_several_is_taken(world: World, source: Path, tmp_path: Path) -> None:
    tree(source)
    (source / "other").mkdir()
    (source / "other" / "three").write_text("3")
    path = str(archive(tmp_path / "it.tar", source))
    volume, _ = imported(world, path, "--strip", "other")
    assert [each.name for each in world.data(volume).iterdir()] == ["three"]
    name = world.name()
    world.cli("import", path, "--strip", "1", "--into", name).fails_with("more than one tree")
    assert not world.exists(name)


def test_an_anonymous_volume_becomes_a_named_one(world: World) -> None:
    anonymous = world.anonymous_volume()
    build_nasty_tree(world.data(anonymous))
    expected = snapshot(world.data(anonymous))
    expected.pop(SOCKET, None)
    volume, _ = imported(world, anonymous)
    got = snapshot(world.data(volume))
    assert_same(expected, got)
    assert "com.docker.volume.anonymous" not in (world.client.volumes.get(volume).attrs["Labels"] or {})


def test_a_mount_of_a_container_is_taken(world: World, source: Path) -> None:
    inner = world.filled(one="1")
    (world.data(inner) / "below").mkdir()
    (world.data(inner) / "below" / "deep").write_text("d")
    tree(source)
    container = world.container(inner, volumes=[f"{inner}:/data", f"{source}:/bound"])
    volume, said = imported(world, "--container", f"{container.name}:/data")
    assert_same(snapshot(world.data(inner)), snapshot(world.data(volume)))
    assert f"{volume}:/data" in said.stdout
    volume, _ = imported(world, "--container", f"{container.name}:/data/below")
    assert [each.name for each in world.data(volume).iterdir()] == ["deep"]
    volume, said = imported(world, "--container", f"{container.name}:/bound/")
    assert_same(snapshot(source), snapshot(world.data(volume)))
    assert f"{volume}:/bound" in said.stdout


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_what_is_in_a_containers_own_layer_is_taken(world: World, state: str) -> None:
    container = world.container(world.volume(), command=["sh", "-c", "echo 1 >/bin/made; " + IDLE[2]])
    while container.exec_run(["cat", "/bin/made"]).exit_code:
        pass
    if state == "stopped":
        container.kill()
        container.wait()
    volume, said = imported(world, "--container", f"{container.name}:/bin")
    assert {each.name for each in world.data(volume).iterdir()} == {"sh", "cat", "made"}
    assert f"{volume}:/bin" in said.stdout


def test_it_survives_the_container(world: World, source: Path) -> None:
    """The point of it: what `docker rm -v` would have taken along."""
    # docker-py's other way asks for a bind mount as well, whose volume newer engines do not name.
    made = world.client.api.create_container(world.image, IDLE, volumes=["/anonymous"], network_disabled=True)
    container = world.client.containers.get(made["Id"])
    (mount,) = container.attrs["Mounts"]
    (world.data(mount["Name"]) / "precious").write_text("p")
    volume, _ = imported(world, "--container", f"{container.name}:/anonymous")
    container.remove(v=True)
    assert not world.exists(mount["Name"])
    assert (world.data(volume) / "precious").read_text() == "p"


def test_an_empty_volume_that_is_there_is_filled(world: World, source: Path, tmp_path: Path) -> None:
    volume = world.volume()
    path = archive(tmp_path / "it.tar", tree(source))
    world.cli("import", str(path), "--strip", "2", "--into", volume).exits(0)
    assert (world.data(volume) / "one").read_text() == "1"


def test_a_volume_that_another_run_writes_is_not_imported_from(world: World) -> None:
    volume, into = world.filled(), world.name()
    world.cli("backup", volume).exits(0)
    (lock,) = (world.directory / "state" / "volumes").glob("*/*/lock")
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        world.cli("import", volume, "--into", into).fails_with(f"another run writes volume {volume}")
    assert not world.exists(into)
    world.cli("import", volume, "--into", into).exits(0)


def test_a_volume_with_data_is_refused(world: World, source: Path, tmp_path: Path) -> None:
    volume = world.filled(one="mine")
    path = archive(tmp_path / "it.tar", tree(source))
    for what in (str(path), str(source), volume):
        world.cli("import", what, "--into", volume).fails_with(volume, "holds data")
    assert [each.name for each in world.data(volume).iterdir()] == ["one"]
    used = world.volume()
    world.container(used)
    world.cli("import", str(path), "--into", used).fails_with(used, "in use")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a tar"),
        (b"no tar at all, whatever its name says\n" * 100, "not a tar"),
        (b"\x1f\x8b\x08 and then no gzip", "not a tar"),
        (b"\x28\xb5\x2f\xfd and then no zstd", "not a tar"),
        (bytes(20 * 512), "holds nothing but the zeros"),
    ],
)
def test_what_is_no_tar_makes_no_volume(world: World, tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "it.tar"
    path.write_bytes(content)
    name = world.name()
    world.cli("import", str(path), "--into", name).fails_with(f"{path}: ", words)
    assert not world.exists(name)


@pytest.mark.parametrize("kind", _COMPRESSORS)
def test_what_is_cut_off_makes_no_volume(world: World, source: Path, tmp_path: Path, kind: str) -> None:
    (source / "large").write_bytes(os.urandom(3 << 20))
    path = archive(tmp_path / "it", source, kind=kind)
    os.truncate(path, path.stat().st_size - (2 << 20))
    name = world.name()
    world.cli("import", str(path), "--into", name).fails_with("damaged")
    assert not world.exists(name)
    assert world.own_containers() == []


def test_names_do_not_lead_out_of_the_volume(world: World, source: Path, tmp_path: Path) -> None:
    """Not that they could from a helper: but not one entry is to be elsewhere than it says."""
    (source / "in").write_text("i")
    path = tmp_path / "it.tar"
    subprocess.run(
        ["tar", "-cPf", str(path), f"--directory={source}", "--transform=s,^in,../../out,", "in"], check=True
    )
    name = world.name()
    done = world.cli("import", str(path), "--into", name)
    if done.code:
        assert not world.exists(name)
    else:
        assert [each.name for each in world.data(name).iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name what to import"),
        (["nothing-there"], "there is no file nothing-there"),
        (["nothing-there.tar.gz"], "there is no file"),
        (["/nothing/there"], "no directory /nothing/there"),
        (["--container", "nobody:/data"], "nobody"),
        (["--container", "nobody"], "NAME:PATH"),
        (["--container", "nobody:/"], "whole file system"),
        (["--label", "=x", "/etc"], "KEY=VALUE"),
        (["--strip", "../x", "-"], "--strip"),
        (["--strip", "1", "/etc/apt"], "--strip is for archives"),
    ],
)
def test_a_mistake_is_one_line_and_makes_nothing(world: World, arguments: list[str], words: str) -> None:
    name = world.name()
    done = world.cli("import", *arguments, "--into", name)
    done.fails_with(words, code=done.code)
    assert done.code in {1, 2}
    assert not world.exists(name)


def test_a_directory_at_hand_needs_a_path(
    world: World, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(source.parent)
    name = world.name()
    refused = world.cli.start_cold("import", source.name, "--into", name).outcome()
    refused.fails_with(f"there is no file {source.name}", f"a directory is named by a path: ./{source.name}")
    assert not world.exists(name)
    world.cli.start_cold("import", f"./{source.name}", "--into", name).outcome().exits(0)


def test_a_path_that_a_container_lacks_is_said(world: World) -> None:
    container = world.container(world.filled())
    name = world.name()
    for path in ("/nothing", "/data/nothing", "/data/one"):
        world.cli("import", "--container", f"{container.name}:{path}", "--into", name).fails_with(path)
    world.cli("import", "/etc", "--into", "x").fails_with("cannot be a volume's name", code=2)
    assert not world.exists(name)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing(world: World, source: Path, number: signal.Signals) -> None:
    for index in range(3000):
        (source / f"f{index}").write_bytes(b"x" * 20000)
    name = world.name()
    running = world.cli.start("import", str(source), "--into", name)
    assert running.until(lambda: world.exists(name) and any(world.data(name).iterdir()))
    running.send(number)
    done = running.outcome().fails_with("interrupted", code=130)
    assert f"the new volume {name} was removed again" in done.stderr
    assert not world.exists(name)
    assert world.own_containers() == []


def test_killed_it_leaves_no_volume_that_is_taken_for_whole(world: World, source: Path) -> None:
    for index in range(3000):
        (source / f"f{index}").write_bytes(b"x" * 20000)
    name = world.name()
    running = world.cli.start("import", str(source), "--into", name)
    assert running.until(lambda: world.exists(name) and len(list(world.data(name).iterdir())) > 2)
    running.send(signal.SIGKILL)
    running.outcome()
    world.cli("backup", name).fails_with(name)
    assert not list((world.store / "manifests").rglob("*.json"))


def test_a_volume_that_a_container_uses_meanwhile_is_not_taken_for_whole(
    world: World, source: Path, tmp_path: Path
) -> None:
    (source / "large").write_bytes(b"x" * (4 << 20))  # it is read in large pieces
    content = archive(tmp_path / "it.tar", source).read_bytes()
    volume = world.volume()
    pipe = tmp_path / "pipe.tar"
    os.mkfifo(pipe)
    running = world.cli.start("import", str(pipe), "--into", volume)
    with pipe.open("wb", buffering=0) as into:
        into.write(content[:-512])
        assert running.until(lambda: any(world.data(volume).iterdir()))
        user = world.container(volume)
        into.write(content[-512:])
    running.outcome().fails_with(volume, str(user.name), "stop it")
    world.cli("backup", volume).fails_with(volume)
    user.remove(force=True)
    path = str(archive(tmp_path / "it.tar", source))
    world.cli("import", path, "--into", volume).fails_with("whatever was written since", "--replace")
    world.cli("import", path, "--into", volume, "--replace").exits(0)
    world.cli("backup", volume).exits(0)


@pytest.mark.parametrize("there", [True, False])
def test_killed_it_is_named_and_begins_anew_when_it_is_run_again(
    world: World, source: Path, tmp_path: Path, there: bool
) -> None:
    (source / "large").write_bytes(b"x" * (4 << 20))  # it is read in large pieces
    path = archive(tmp_path / "it.tar", source)
    content = path.read_bytes()
    volume = world.volume() if there else world.name()
    pipe = tmp_path / "pipe.tar"
    os.mkfifo(pipe)
    running = world.cli.start("import", str(pipe), "--into", volume)
    with pipe.open("wb", buffering=0) as into:
        into.write(content[:-512])
        mark = world.data(volume) / RESTORE_MARK
        assert running.until(lambda: mark.exists() and mark.read_text() == "import")
        running.send(signal.SIGKILL)
        running.outcome()
    (world.data(volume) / "rest").write_text("of the first one")

    world.cli("backup", volume).fails_with("interrupted import", "`volferry import`")
    status = world.cli("status").exits(1)
    (line,) = [line for line in status.stderr.splitlines() if line.startswith(f"volferry: {volume}: ")]
    assert f"`volferry import {pipe} --into {volume} --replace" in line
    # A service may have written to it since.
    world.cli("import", str(path), "--into", volume).fails_with(
        "the rest of an interrupted import", "--replace"
    )
    assert (world.data(volume) / "rest").exists()
    # Whichever archive it is now.
    world.cli("import", str(path), "--into", volume, "--replace").exits(0)
    assert not (world.data(volume) / "rest").exists()
    status = world.cli("status").exits(1)  # for the backup that was refused
    assert not status.complaints
    assert "which was completed at" in status.stdout
    world.cli("backup", volume).exits(0)
    world.cli("status").exits(0)


def test_the_rest_of_a_restore_is_not_deleted_by_an_import(
    world: World, source: Path, tmp_path: Path
) -> None:
    path = archive(tmp_path / "it.tar", source)
    volume = world.filled(one="mine")
    for text in ("host/volume@20261123T222016Z-0dd092", "import of something", ""):
        (world.data(volume) / RESTORE_MARK).write_text(text)
        for option in ((), ("--replace",)):
            world.cli("import", str(path), "--into", volume, *option).fails_with(volume, "holds data")
    assert (world.data(volume) / "one").read_text() == "mine"


def test_strip_that_leaves_nothing_is_a_mistake(world: World, source: Path, tmp_path: Path) -> None:
    path = archive(tmp_path / "it.tar", tree(source))
    name = world.name()
    world.cli("import", str(path), "--strip", "9", "--into", name).fails_with("--strip 9 leaves nothing")
    assert not world.exists(name)


def test_a_directory_is_not_imported_into_itself(world: World, source: Path) -> None:
    volume = world.volume_at(source)
    for _ in range(2):
        world.cli("import", str(source), "--into", volume).fails_with(
            f"volume {volume} is the very data of {source}"
        )
    assert list(source.iterdir()) == []
    world.cli.backup(volume)


def test_a_directory_is_not_imported_into_one_that_is_in_it(world: World, source: Path) -> None:
    tree(source)
    (source / "below").mkdir()
    before = snapshot(source)
    volume = world.volume_at(source / "below")
    world.cli("import", str(source), "--into", volume).fails_with(f"volume {volume} lies in {source}")
    assert_same(before, snapshot(source))
