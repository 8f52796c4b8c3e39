"""Whoever meets damage is told what to do, and what he is told does it."""

from __future__ import annotations

import re
import shlex
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.unit.test_damage import Lab, flip, lab  # noqa: F401 -- a fixture
from volferry.layout import files_key, frames_key, manifest_key
from volferry.repository import Repository
from volferry.stores.local import LocalStore

if TYPE_CHECKING:
    from volferry.model import BackupRef

OF_HOST = ("--host", "host")
READS_A_MANIFEST = (
    ("list",),
    ("status",),
    ("show", "vol"),
    ("ls", "vol"),
    ("diff", "vol@{older}", "vol"),
    ("find", "file", "--volume", "vol"),
    ("export", "vol", "-o", "{directory}/out.tar"),
    ("restore", "vol", "--to", "{directory}/target"),
    ("copy", "--to", "{directory}/replica"),
    ("prune",),
)


def three(lab: Lab) -> list[BackupRef]:  # noqa: F811
    found = []
    for number in range(3):
        (lab.volume.data / f"more{number}").write_text("more")
        found.append(lab.back_up())
    return found


@pytest.mark.parametrize("command", READS_A_MANIFEST, ids=" ".join)
@pytest.mark.parametrize("cached", [False, True])
def test_where_the_newest_manifest_is_damaged_an_older_whole_backup_is_named(
    lab: Lab,  # noqa: F811
    command: tuple[str, ...],
    cached: bool,
) -> None:
    first, second, newest = three(lab)
    if cached:
        lab.cli("list", *OF_HOST).exits(0)
    flip(lab.store / manifest_key(newest))
    (lab.store / files_key(second)).unlink()  # so that it is not whole
    typed = [word.format(older=first.id, directory=lab.directory) for word in command]
    if cached:
        # It is found where the manifest is read, and known from then on.
        lab.cli("show", "vol", *OF_HOST).exits(1)
    said = lab.cli(*typed, *OF_HOST, "--store", str(lab.store)).exits(1, 3).stderr
    (line,) = [
        line
        for line in said.splitlines()
        if f"{manifest_key(newest)} is damaged" in line and "restore" in line
    ]
    assert "`volferry copy --store COPY --to STORE`" in line
    match = re.search(r"`volferry (restore [^`]*)`", line)
    assert match is not None
    step = shlex.split(match[1])
    assert step == ["restore", f"host/vol@{first.id}", "--store", str(lab.store)]
    lab.cli(*step, "--to", str(lab.directory / "restored")).exits(0)
    assert (lab.directory / "restored" / "more0").read_text() == "more"


@pytest.mark.parametrize("key", [frames_key, files_key])
@pytest.mark.parametrize("verb", ["restore", "export"])
def test_a_damaged_index_is_marked_by_the_next_step(lab: Lab, key: object, verb: str) -> None:  # noqa: F811
    first = lab.back_up()
    assert callable(key)
    flip(lab.store / key(first))
    where = {"restore": ("--to", str(lab.directory / "target")), "export": ("-o", str(lab.directory / "out"))}
    done = lab.cli(verb, "vol", *OF_HOST, "--store", str(lab.store), *where[verb])
    done.fails_with(key(first), f"`volferry verify --read {first} --store {lab.store}` marks it")
    assert lab.marks() == []
    lab.cli("verify", "--read", str(first), *OF_HOST).exits(1)
    assert len(lab.marks()) == 1
    again = lab.cli(verb, "vol", *OF_HOST, *where[verb]).exits(1)
    assert "marks it" not in again.stderr
    lab.verify(lab.back_up())
    lab.cli("verify", "--read", *OF_HOST).exits(0)


@pytest.mark.parametrize("verb", ["restore", "export"])
def test_a_pack_that_is_marked_is_healed_by_the_next_step(lab: Lab, verb: str) -> None:  # noqa: F811
    first = lab.back_up()
    lab.replica()
    hurt, other = lab.packs(first)[:2]
    flip(hurt)
    where = {"restore": ("--to", str(lab.directory / "target")), "export": ("-o", str(lab.directory / "out"))}

    def fails() -> str:
        done = lab.cli(verb, str(first), *OF_HOST, "--store", str(lab.store), *where[verb])
        done.exits(1)
        (line,) = [line for line in done.complaints if f"{hurt.name} is damaged" in line]
        assert "paths that do not need it can still be restored" in line
        return line

    assert f"`volferry verify --read {first} --store {lab.store}` marks it" in fails()
    lab.cli("verify", "--read", str(first), *OF_HOST).exits(1)
    marked = fails()
    assert "verify --read" not in marked
    assert f"`volferry backup vol --store {lab.store}` on host makes a whole one" in marked
    assert "`volferry copy --store COPY --to STORE` mends it" in marked
    second = lab.back_up()
    assert f"{second.id} is newer, and whole" in fails()
    lab.cli("copy", "--store", str(lab.directory / "replica"), "--to", str(lab.store), *OF_HOST).exits(0)
    lab.cli(verb, str(first), *OF_HOST, *where[verb]).exits(0)
    shutil.rmtree(lab.directory / "target", ignore_errors=True)
    (lab.directory / "out").unlink(missing_ok=True)
    # Of two that are damaged, the one that is met is not the one that is marked.
    flip(other)
    lab.cli("verify", "--read", str(first), *OF_HOST).exits(1)
    flip(hurt)
    assert "marks it" in fails()


def test_a_damaged_marker_can_be_put_back(lab: Lab) -> None:  # noqa: F811
    lab.back_up()
    lab.replica()
    marker = lab.store / "volferry.json"
    shutil.copy2(marker, lab.directory / "marker")
    flip(marker)
    lab.cli("list", *OF_HOST).fails_with(
        "volferry.json is damaged", "nothing but an id", "put it back from a copy"
    )
    replica = str(lab.directory / "replica")
    to_it = lab.cli("copy", *OF_HOST, "--store", replica, "--to", str(lab.store))
    to_it.fails_with("volferry.json is damaged", "put it back from a copy")
    shutil.copy2(lab.directory / "replica" / "volferry.json", marker)
    lab.cli("list", *OF_HOST).exits(0)
    assert (
        Repository.open(LocalStore(lab.store)).id == Repository.open(LocalStore(lab.directory / "replica")).id
    )
    shutil.copy2(lab.directory / "marker", marker)
    known = lab.cli("list", *OF_HOST)
    assert "another one than before" in known.stderr
