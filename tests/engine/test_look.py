"""`ls`, `find` and `diff`: what is in backups, seen by their indexes alone."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.parts.recorded_store import RecordedStore
from tests.parts.trees import acl, write
from volferry.operations.backup_reader import BackupIndex
from volferry.operations.ls import list_entries
from volferry.repository import Repository
from volferry.stores.local import LocalStore

if TYPE_CHECKING:
    from pathlib import Path

    from tests.parts.world import World

ODD = b"odd\xff\n'\"\\x41 \x01\xc3\xa9"
ODD_PRINTED = r"odd\xff\x0a'" + '"' + r"\\x41 \x01é"


@pytest.fixture
def volume(world: World) -> str:
    """A volume with one backup."""
    volume = world.volume()
    place = world.data(volume)
    root = os.fsencode(place)
    for directory in ("etc", "etc/sub", "var"):
        (place / directory).mkdir()
    write(root + b"/etc/conf", b"content")
    write(root + b"/etc/sub/deep", b"deep", mtime_ns=-1)
    write(root + b"/" + ODD, b"odd")
    os.chown(place / "etc/conf", 12345, 54321)
    (place / "etc/conf").chmod(0o4750)  # a new owner takes the set-user-id bit away
    (place / "var/link").symlink_to("../etc/\udcff")
    os.link(root + b"/etc/conf", root + b"/var/hard")
    os.mkfifo(place / "var/fifo")
    world.cli.backup(volume)
    return volume


def names(output: str) -> list[str]:
    """The names in a long listing."""
    return [line.split(maxsplit=5)[5] for line in output.splitlines()]


def test_the_root_is_listed_one_level_deep(world: World, volume: str) -> None:
    said = world.cli("ls", volume).exits(0)
    assert names(said.stdout) == ["etc", ODD_PRINTED, "var"]
    assert said.stdout.splitlines()[0].startswith("drwxr-xr-x  0:0")


def test_a_directory_and_a_file(world: World, volume: str) -> None:
    lines = world.cli("ls", volume, "etc").exits(0).stdout.splitlines()
    assert names("\n".join(lines)) == ["conf", "sub"]
    assert lines[0].startswith("-rwsr-x---  12345:54321     7  2020-09-13 ")

    assert names(world.cli("ls", volume, "./etc/conf").stdout) == ["etc/conf"]
    assert names(world.cli("ls", volume, "/var").stdout) == ["fifo", "hard", r"link -> ../etc/\xff"]


def test_all_below_with_their_whole_paths(world: World, volume: str) -> None:
    assert names(world.cli("ls", volume, "-R", "etc").exits(0).stdout) == [
        "etc/conf",
        "etc/sub",
        "etc/sub/deep",
    ]
    everything = world.cli("ls", volume, "--recursive", "--json").exits(0).json["entries"]
    assert len(everything) == len(names(world.cli("ls", volume, "-R").stdout)) == 9


@pytest.mark.parametrize(
    "typed", [os.fsdecode(ODD), ODD_PRINTED, "/" + ODD_PRINTED], ids=["bytes", "printed", "/"]
)
def test_odd_names_as_they_are_and_as_they_are_printed(world: World, volume: str, typed: str) -> None:
    said = world.cli("ls", volume, typed, "--json").exits(0).json
    assert [entry["path"] for entry in said["entries"]] == [ODD_PRINTED]


def test_json_says_all(world: World, volume: str) -> None:
    said = world.cli("ls", volume, "etc/conf", "--json").exits(0).json
    assert said["backup"].startswith(f"{world.host}/{volume}@")
    assert said["entries"] == [
        {
            "path": "etc/conf",
            "type": "file",
            "mode": "4750",
            "uid": 12345,
            "gid": 54321,
            "size": 7,
            "mtime": "2020-09-13T12:26:40.000000001Z",
            "target": None,
            "links": 2,
        }
    ]
    (deep,) = world.cli("ls", volume, "etc/sub", "--json").json["entries"]
    assert deep["mtime"] == "1969-12-31T23:59:59.999999999Z"
    link = world.cli("ls", volume, "var/link", "--json").json["entries"][0]
    assert (link["type"], link["target"]) == ("symlink", r"../etc/\xff")


def test_a_path_that_is_not_there(world: World, volume: str) -> None:
    world.cli("ls", volume, "etc/conv").fails_with("etc/conv", "did you mean 'etc/conf'")
    world.cli("ls", volume, "etc/sub/no/such").fails_with("etc/sub/no/such", "'etc/sub' is")
    world.cli("ls", volume, "").fails_with("empty path", code=2)
    world.cli("ls", volume, "../etc").fails_with("../etc")


def test_differences(world: World, volume: str) -> None:
    first = world.cli("list", volume, "--json").json["backups"][0]["id"]
    root = world.data(volume)
    root_times, etc_times = ((0, place.stat().st_mtime_ns) for place in (root, root / "etc"))
    (root / "var/fifo").unlink()
    (root / "etc/sub/deep").chmod(0o600)
    (root / "new\udcff").touch()
    with (root / os.fsdecode(ODD)).open("ab") as file:
        file.write(b"more")
    os.setxattr(root / "etc", "user.only-ctime", b"")
    os.setxattr(root / "etc", "system.posix_acl_default", acl(0o755))
    os.utime(root, ns=root_times)
    os.utime(root / "etc", ns=etc_times)
    world.cli.backup(volume)

    lines = world.cli("diff", f"{volume}@{first}").exits(0).stdout.splitlines()
    assert lines[:-1] == ["m etc/sub/deep", r"+ new\xff", f"M {ODD_PRINTED}", "M var", "- var/fifo"]
    assert lines[-1].endswith(": 1 added, 1 removed, 2 modified, 1 metadata")

    said = world.cli("diff", f"{volume}@{first}", volume, "--json").exits(0).json
    assert [each["change"] for each in said["differences"]] == [
        "metadata",
        "added",
        "modified",
        "modified",
        "removed",
    ]
    assert (said["differences"][0]["before"]["mode"], said["differences"][0]["after"]["mode"]) == (
        "0644",
        "0600",
    )
    assert (said["added"], said["removed"], said["modified"], said["metadata"]) == (1, 1, 2, 1)

    # The newest is compared with the one before.
    newest = said["after"].partition("@")[2]
    for name in (volume, f"{volume}@{newest}"):
        again = world.cli("diff", name, "--json").exits(0).json
        assert (again["before"], again["after"]) == (said["before"], said["after"])
        assert again["differences"] == said["differences"]
    assert "no differences" in world.cli("diff", volume, volume).exits(0).stdout


def test_one_backup_alone_differs_from_nothing(world: World, volume: str) -> None:
    world.cli("diff", volume).fails_with(volume, "is the only backup of its volume")


def test_a_restored_volume_does_not_differ(world: World, volume: str) -> None:
    world.cli("restore", volume, "--into", "restored").exits(0)
    world.cli.backup("restored")
    said = world.cli("diff", volume, "restored", "--json").exits(0).json
    assert said["differences"] == []


def test_states_of_a_path_through_backups(world: World, volume: str) -> None:
    place = world.data(volume) / "etc" / "sub" / "deep"
    ids = [world.cli("list", volume, "--json").json["backups"][0]["id"]]
    ids += [world.cli.backup(volume)[0]["id"]]
    place.write_text("changed")
    ids += [world.cli.backup(volume)[0]["id"]]
    place.unlink()
    ids += [world.cli.backup(volume)[0]["id"]]

    said = world.cli("find", "deep", "--json").exits(0).json
    (found,) = said["paths"]
    assert (found["volume"], found["path"]) == (volume, "etc/sub/deep")
    assert [(state["first"], state["last"], state["size"]) for state in found["states"]] == [
        (ids[0], ids[1], 4),
        (ids[2], ids[2], 7),
    ]
    text = world.cli("find", "etc/*/d*p", "--volume", volume).exits(0).stdout.splitlines()
    assert text[0] == f"{volume}: etc/sub/deep"
    assert f"{ids[0]} .. {ids[1]}" in text[1]
    assert "2 of 4" in text[1]


def test_find_looks_where_it_is_told(world: World, volume: str) -> None:
    other = world.filled()
    world.cli.backup(other)
    everything = world.cli("find", "*", "--json").exits(0).json["paths"]
    assert {each["volume"] for each in everything} == {volume, other}
    only = world.cli("find", "*", "--volume", other, "--json").exits(0).json
    assert {each["path"] for each in only["paths"]} == {"one", "two"}
    assert only["backups_searched"] == 1
    assert world.cli("find", "no such name").exits(0).stdout == ""
    assert world.cli("find", "o*", "--all-hosts").exits(0).stdout.startswith(f"{world.host}/")
    assert world.cli("find", "*\udcff*", "--json").json["paths"][0]["path"] == ODD_PRINTED
    world.cli("find", "*", "--volume", "nothing").fails_with("nothing", "volferry list")
    world.cli("find", "*", "--host", "nobody").fails_with("nobody")


def test_find_goes_on_after_a_damaged_backup(world: World, volume: str) -> None:
    world.cli.backup(volume)
    victim = world.objects("indexes")[0]
    victim.with_name(victim.name.replace(".frames.", ".files.")).write_bytes(b"damaged")
    done = world.cli("find", "conf", "--json").exits(1)
    assert len(done.json["paths"][0]["states"][0]["backups"]) == 1
    assert len(done.json["failed"]) == len(done.complaints) == 1


def test_no_pack_is_needed(world: World, volume: str, tmp_path: Path) -> None:
    for pack in world.objects("packs"):
        pack.unlink()
    world.cli("ls", volume, "-R").exits(0)
    world.cli("find", "*").exits(0)
    world.cli("diff", volume, volume).exits(0)

    store = RecordedStore(LocalStore(world.store))
    (ref,) = Repository(store, "").refs()
    index = BackupIndex(Repository(store, ""), ref, spool=tmp_path)
    assert len(list(list_entries(index, b"", recursive=True))) == 9
    assert [call.key.rpartition("/")[2].partition(".")[2] for call in store.of("open")] == [
        "json",
        "files.zst",
    ]


def test_status_says_that_the_last_backup_is_gone_from_the_store(world: World, volume: str) -> None:
    world.cli("status").exits(0)
    (manifest,) = world.objects(f"manifests/{world.host}/{volume}")
    manifest.unlink()
    done = world.cli("status").exits(1)
    assert (
        f"@{manifest.stem} cannot be restored as a whole: manifests/{world.host}/{volume}/{manifest.name} is missing"
        in done.stderr
    )
    # Another backup is no reason to forget it: what it alone needs would be pruned.
    world.cli.backup(volume)
    assert f"{manifest.name} is missing" in world.cli("status").exits(1).stderr
    world.cli("forget", f"{volume}@{manifest.stem}").exits(0)
    world.cli("status").exits(0)
