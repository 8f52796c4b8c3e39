"""A copy of a store mends the manifests that are damaged in the store, and never the other way round; without one, the volume is backed up
again.
"""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from tests.unit.test_copied_store import content, copied, mend
from tests.unit.test_damage import Lab, flip, lab  # noqa: F401 -- a fixture
from volferry.archive.sealed import seal
from volferry.damage import mark
from volferry.layout import manifest_key

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OF_HOST = ("--host", "host")


def say_that_it_is_damaged(path: Path) -> None:
    """Though it is not, as after a fault of the disk that has gone."""
    from volferry.repository import Repository
    from volferry.stores.local import LocalStore

    store = next(parent for parent in path.parents if (parent / "volferry.json").exists())
    repository = Repository.open(LocalStore(store))
    (info,) = repository.store.list(str(path.relative_to(store)))
    mark(repository, info, "somebody said so", by="somebody", now=datetime.now(UTC))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "flipped": flip,
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "emptied": lambda path: path.write_bytes(b""),
    "of something else": lambda path: path.write_bytes(seal({"format": 2, "id": "x"})),
    "gone": lambda path: path.unlink(),
    "only marked": say_that_it_is_damaged,
}


def made(lab: Lab) -> list[Path]:  # noqa: F811
    """The manifests of three backups."""
    found = []
    for number in range(3):
        (lab.volume.data / f"more{number}").write_bytes(os.urandom(2 << 20))
        found.append(lab.store / manifest_key(lab.back_up()))
    return found


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize(
    ("place", "which", "verified"),
    [("copy", 0, False), ("copy", 2, True), ("replica", 2, False), ("replica", 0, True)],
)
def test_a_damaged_manifest_is_mended_from_a_copy(
    lab: Lab,  # noqa: F811
    how: str,
    place: str,
    which: int,
    verified: bool,
) -> None:
    hurt = made(lab)[which]
    copy = copied(lab) if place == "copy" else lab.directory / place
    if place == "replica":
        lab.replica()
    before = content(lab.store)
    if verified:
        lab.cli("list", *OF_HOST).exits(0)  # so that its manifests are in the cache
    DAMAGE[how](hurt)
    if verified:
        lab.cli("verify", "--all", *OF_HOST)
    done = mend(lab, copy).exits(0)
    healed_by_verify = verified and how == "only marked"
    if how == "gone":
        assert "1 backup copied" in done.stdout
    elif not healed_by_verify:
        assert "1 object mended (with 1 manifest)" in done.stdout
    assert content(lab.store) == before
    assert lab.marks() == []
    lab.cli("list", *OF_HOST).exits(0)
    lab.cli("verify", "--all", "--read", *OF_HOST).exits(0)
    lab.cli("prune", *OF_HOST).exits(0)
    assert " mended" not in mend(lab, copy).exits(0).stdout


@pytest.mark.parametrize("how", sorted(DAMAGE.keys() - {"gone", "only marked"}))
@pytest.mark.parametrize("both", [False, True])
def test_a_damaged_manifest_is_never_sent(lab: Lab, how: str, both: bool) -> None:  # noqa: F811
    hurt = made(lab)[1]
    copy = copied(lab)
    in_copy = copy / hurt.relative_to(lab.store)
    DAMAGE[how](in_copy)
    if both:
        flip(hurt)
    before = content(lab.store)
    mend(lab, copy).fails_with(str(hurt.relative_to(lab.store)), "is damaged")
    assert content(lab.store) == before


def test_one_whose_packs_are_damaged_in_the_copy_costs_the_store_nothing(lab: Lab) -> None:  # noqa: F811
    first = lab.back_up()
    copy = copied(lab)
    pack = lab.packs(first)[1]
    flip(copy / pack.relative_to(lab.store))
    for path in lab.store.rglob("*"):
        os.utime(path, (1_600_000_000, 1_600_000_000))
    (lab.store / manifest_key(first)).unlink()
    before = content(lab.store)
    mend(lab, copy).fails_with(pack.name, "is damaged")
    assert content(lab.store) == before


def test_two_whole_backups_of_one_name_stay_as_they_are(lab: Lab) -> None:  # noqa: F811
    first, *_ = made(lab)
    copy = copied(lab)
    in_copy = copy / first.relative_to(lab.store)
    document = lab.repository.manifest(next(lab.repository.refs())).document
    in_copy.write_bytes(seal(document | {"engine": "another"}))
    before, there = content(lab.store), content(copy)
    mend(lab, copy).fails_with("another backup of this name", "nothing is overwritten")
    mend(lab, lab.store, copy).fails_with("another backup of this name", "nothing is overwritten")
    assert (content(lab.store), content(copy)) == (before, there)


def test_one_of_a_later_version_is_not_overwritten(lab: Lab) -> None:  # noqa: F811
    first, *_ = made(lab)
    copy = copied(lab)
    first.write_bytes(first.read_bytes().replace(b'"format": 2', b'"format": 9'))
    before = content(lab.store)
    mend(lab, copy).fails_with("use a newer volferry")
    assert content(lab.store) == before


@pytest.mark.parametrize("which", [1, 2], ids=["an older one", "the newest"])
def test_without_a_copy_all_is_well_again_once_the_volume_was_backed_up_and_the_damaged_one_forgotten(
    lab: Lab,  # noqa: F811
    which: int,
) -> None:
    hurt = made(lab)[which]
    name = f"vol@{hurt.stem}"
    flip(hurt)
    lab.cli("verify", "--all", *OF_HOST).exits(1)
    assert len(lab.marks()) == 1
    if which == 2:
        lab.cli("forget", name, *OF_HOST).fails_with("newest backup", code=2)
        lab.back_up()
    lab.cli("forget", name, *OF_HOST).exits(0)
    lab.cli("list", *OF_HOST).exits(0)
    lab.cli("verify", "--all", "--read", *OF_HOST).exits(0)
    lab.cli("prune", *OF_HOST).exits(0)
    assert "whole" not in lab.cli("status", *OF_HOST).stderr
    assert lab.marks() == []


def test_a_store_that_is_read_only_says_so(lab: Lab) -> None:  # noqa: F811
    hurt = made(lab)[1]
    copy = copied(lab)
    flip(hurt)
    before = hurt.read_bytes()
    subprocess.run(["mount", "--bind", lab.store, lab.store], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", lab.store], check=True)
        mend(lab, copy).fails_with("read-only")
        assert hurt.read_bytes() == before
    finally:
        subprocess.run(["umount", lab.store], check=True)
