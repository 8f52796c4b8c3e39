"""docs/recover-by-hand.md: its commands, as they stand there, bring back what was backed up."""

from __future__ import annotations

import re
import secrets
import shlex
import shutil
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.parts.trees import assert_same, build_nasty_tree, snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.parts.trees import Node
    from tests.parts.world import World

PAGE = Path(__file__).resolve().parents[2] / "docs" / "recover-by-hand.md"
FENCE = re.compile(r"^```sh(?: (?P<name>\S+))?\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAMS = {"b3sum": "b3sum", "tar": "tar", "xxhsum": "xxhash", "zstd": "zstd"}


def blocks() -> list[tuple[str, str]]:
    """Name and text of each block: `settings`, the name of a file to save, or nothing for commands."""
    return [(found["name"] or "", found["text"]) for found in FENCE.finditer(PAGE.read_text())]


def named(name: str) -> str:
    (text,) = (text for each, text in blocks() if each == name)
    return text


@pytest.fixture(autouse=True)
def _programs_and_room(tmp_path: Path) -> Iterator[None]:
    for program, package in PROGRAMS.items():
        assert shutil.which(program), f"{program} is missing; get it with: apt-get install {package}"
    yield
    # paths in it are longer than what shutil can remove
    subprocess.run(["rm", "-rf", *tmp_path.iterdir()], check=True)


@pytest.fixture
def source(world: World) -> tuple[str, dict[bytes, Node]]:
    """A volume, and what of it is to come back."""
    volume = world.volume()
    build_nasty_tree(world.data(volume))
    found = snapshot(world.data(volume))
    return volume, {path: node for path, node in found.items() if not stat.S_ISSOCK(node.mode)}


def settings(world: World, volume: str, backup_id: str, target: Path) -> str:
    values = {
        "store": str(world.store),
        "host": world.host,
        "volume": volume,
        "id": backup_id,
        "target": str(target),
    }
    assert re.findall(r"^(\w+)=", named("settings"), re.MULTILINE) == list(values)
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())


def run(script: str, directory: Path) -> subprocess.CompletedProcess[str]:
    (directory / "recover.sh").write_text(named("recover.sh"))
    return subprocess.run(
        ["sh", "-eu", "-c", script],
        cwd=directory,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=240,
        check=False,
    )


def commands(*, having: str = "") -> str:
    return "\n".join(text for name, text in blocks() if not name and having in text)


def test_both_ways_bring_back_the_tree(
    world: World, source: tuple[str, dict[bytes, Node]], tmp_path: Path
) -> None:
    volume, expected = source
    (backup,) = world.cli.backup(volume)
    target = tmp_path / "recovered"

    done = run(settings(world, volume, backup["id"], target) + commands(), tmp_path)

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert f"{backup['id']}.json" in done.stdout
    assert "the manifest is as it was written" in done.stdout
    assert "the first frame is whole" in done.stdout
    assert_same(expected, snapshot(target))
    assert_same(expected, snapshot(Path(f"{target}.general")))


@pytest.mark.parametrize("kind", ["packs", "manifests"])
def test_damage_is_seen(world: World, tmp_path: Path, kind: str) -> None:
    volume = world.filled(one="1" * 5000, two="2" * 5000)
    (backup,) = world.cli.backup(volume)
    (victim,) = world.objects(kind)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    beginning = settings(world, volume, backup["id"], tmp_path / "recovered") + commands(having="manifest=")

    if kind == "manifests":
        done = run(beginning + commands(having="sealed="), tmp_path)
        assert "as it was written" not in done.stdout
        return
    assert run(beginning + commands(having="damaged: $object"), tmp_path).returncode == 1
    assert run(beginning + commands(having="zstd -t "), tmp_path).returncode != 0
    done = run(beginning + 'sh recover.sh "$indexes" "$packs" "$id" >/dev/null', tmp_path)
    assert done.returncode == 1
    assert "damaged: " in done.stderr


def test_what_is_left_of_a_damaged_pack_can_be_had(world: World, tmp_path: Path) -> None:
    contents = {name: secrets.token_hex(1 << 20) for name in ("first", "middle", "third")}
    volume = world.filled(**contents)
    (backup,) = world.cli.backup(volume)
    (pack,) = world.objects("packs")
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.write_bytes(data)
    said = re.search(r"write `(.*?)` in place of `(.*?)`", PAGE.read_text())
    assert said is not None
    target = tmp_path / "recovered"
    target.mkdir()
    beginning = settings(world, volume, backup["id"], target) + commands(having="manifest=")

    done = run(
        f'{beginning}sed -i \'s|{said[2]}$|{said[1]}|\' recover.sh\nsh recover.sh "$indexes" "$packs" "$id" >"$target.tar"'
        '\ntar -x --ignore-zeros -f "$target.tar" -C "$target"',
        tmp_path,
    )

    assert "damaged: " in done.stderr
    assert (target / "first").read_text() == contents["first"]
    assert (target / "third").read_text() == contents["third"]
