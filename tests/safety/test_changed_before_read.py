"""Volumes that change between the listing and the reading: what a backup has is what was there, or is a finding, and it restores."""
# ruff: noqa: PTH102, PTH104, PTH108, PTH114, PTH115, PTH118, PTH120, PTH211 -- some paths are bytes here, which pathlib does not take

from __future__ import annotations

import os
import random
import shutil
import stat
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.parts.local_helper import LocalHelper, LocalVolume
from tests.parts.memory_store import Clock, Contents, MemoryStore
from tests.parts.mutations import mutate
from tests.parts.trees import Node, assert_same, snapshot
from volferry.archive import groups, listing
from volferry.observer import Silent
from volferry.operations import volume_listing, volume_pass
from volferry.operations.backup_reader import BackupReader
from volferry.operations.restore import restore_backup
from volferry.operations.verify import Verifier
from volferry.repository import Repository

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from volferry.model import BackupRef, BackupStats

Content = bytes | None  # of a file, or the target of a link; None of what has neither


class Tree:
    """A volume of which every file, at all times, has a content that no other has had."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.data = place / "data"
        self.data.mkdir()
        self.volume = LocalVolume(self.data, place / "state", settings={"suspicious": False})
        self.repository = Repository.open_or_create(MemoryStore(Contents("store", Clock())))[0]

    def fill(self, chance: random.Random) -> None:
        for top in "DEF":
            for below in ("", "/d"):
                os.mkdir(f"{self.data}/{top}{below}")
                for name in "abc":
                    self._write(f"{self.data}/{top}{below}/{name}", chance)
        for _ in range(chance.randrange(6)):
            one, other = chance.sample(self.files(), 2)
            os.unlink(other)
            os.link(one, other)

    def files(self) -> list[str]:
        found = [os.path.join(place, name) for place, _, names in os.walk(self.data) for name in names]
        return sorted(path for path in found if stat.S_ISREG(os.lstat(path).st_mode))

    def directories(self) -> list[str]:
        return sorted(
            os.path.join(place, name)
            for place, names, _ in os.walk(self.data)
            for name in names
            if not os.path.islink(os.path.join(place, name))
        )

    @staticmethod
    def _write(path: str, chance: random.Random) -> None:
        Path(path).write_bytes(chance.randbytes(chance.choice((9, 900, 90_000))))

    def change(self, chance: random.Random, times: int) -> None:
        """As services do it, and as somebody does who wants a backup to be wrong."""
        for _ in range(times):
            self._change(chance)

    def _change(self, chance: random.Random) -> None:
        files, directories = self.files(), self.directories()
        kind = chance.choice(
            (self._link_away, self._swap, self._file_in_place, *[self._change_file] * 4, None)
        )
        if kind is not None and len(files) > 1 and len(directories) > 1:
            kind(chance, files, directories)
        else:
            mutate(os.fsencode(self.data), chance, 1)

    def _away(self, chance: random.Random) -> str:
        return f"{self.place}/away{chance.getrandbits(48):x}"

    def _link_away(self, chance: random.Random, _files: list[str], directories: list[str]) -> None:
        """A link in the place of a directory, to another one, which may be below it."""
        one, other = chance.sample(directories, 2)
        away = self._away(chance)
        os.rename(one, away)
        os.symlink(os.path.relpath(other, os.path.dirname(one)), one)
        if chance.random() < 0.3 and not f"{other}/".startswith(f"{one}/"):
            os.rename(away, f"{other}/moved{chance.getrandbits(48):x}")

    def _swap(self, chance: random.Random, _files: list[str], directories: list[str]) -> None:
        one, other = chance.sample(directories, 2)
        if not f"{one}/".startswith(f"{other}/") and not f"{other}/".startswith(f"{one}/"):
            away = self._away(chance)
            os.rename(one, away)
            os.rename(other, one)
            os.rename(away, other)

    def _file_in_place(self, chance: random.Random, _files: list[str], directories: list[str]) -> None:
        """Another name of a file, in the place of a directory."""
        directory = chance.choice(directories)
        os.rename(directory, self._away(chance))
        if left := self.files():
            os.link(chance.choice(left), directory)

    def _change_file(self, chance: random.Random, files: list[str], _directories: list[str]) -> None:
        one, other = chance.sample(files, 2)
        match chance.choice(("name", "other name", "replaced", "renamed", "written")):
            case "name":
                os.link(one, f"{other}.l{chance.getrandbits(48):x}")
            case "other name":
                os.unlink(other)
                os.link(one, other)
            case "replaced":
                away = self._away(chance)
                self._write(away, chance)
                os.rename(away, one)
            case "renamed":
                os.rename(one, other)
            case _:
                self._write(one, chance)

    def contents(self, paths: list[bytes]) -> dict[bytes, Content]:
        """What is at each path, through whatever links lead there; without those at which nothing is."""
        found: dict[bytes, Content] = {}
        for path in paths:
            place = os.fsencode(self.data) + b"/" + path
            try:
                mode = os.lstat(place).st_mode
            except OSError:
                continue
            if stat.S_ISREG(mode):
                found[path] = Path(os.fsdecode(place)).read_bytes()
            else:
                found[path] = os.readlink(place) if stat.S_ISLNK(mode) else None
        return found

    def paths(self) -> list[bytes]:
        return [path for path in snapshot(self.data, content=False) if path]

    def back_up(self, change: Callable[[], object] = lambda: None) -> BackupStats:
        """`change` comes between the listing and the reading."""
        real = volume_listing.list_volume

        def listed(*arguments: Any, **more: Any) -> volume_listing.Listing:
            found = real(*arguments, **more)
            change()
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(volume_pass, "list_volume", listed)
            return self.volume.back_up(self.repository)

    def restored(self, ref: BackupRef) -> Tree:
        """Raises VolferryError where that fails."""
        place = Path(self.place / f"restored-{ref.id}")
        spool = place / "spool"
        spool.mkdir(parents=True)
        made = Tree(place)
        helper = LocalHelper(made.data, spool)
        try:
            restore_backup(
                BackupReader(self.repository, ref, spool=spool),
                "volume",
                helper=cast("Any", helper),
                observer=Silent(),
                empty_first=False,
            )
        finally:
            helper.end()
        return made

    def assert_sound(self, ref: BackupRef) -> None:
        spool = self.place / f"verify-{ref.id}"
        spool.mkdir()
        verifier = Verifier(self.repository, read=True, spool=spool, observer=Silent())
        assert verifier.verify(ref).findings == ()


@contextmanager
def tree() -> Iterator[Tree]:
    with TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        # What has just been written is trusted as if it were old, and a few entries are many groups: some are reused.
        patch.setattr(listing, "CHANGED_WITHIN_SECONDS", -3600)
        patch.setattr(groups, "BOUNDARY_ONE_IN", 3)
        yield Tree(Path(directory))


def assert_nothing_wrong(
    made: Tree, chance: random.Random, change: Callable[[], object], *, based: bool
) -> BackupStats:
    if based:
        made.back_up()
        made.change(chance, chance.randrange(4))
    listed = made.paths()
    before = made.contents(listed)

    stats = made.back_up(change)

    after = made.contents(listed)
    hurt = {finding.path for finding in stats.findings}
    made.assert_sound(stats.ref)
    kept = made.restored(stats.ref)
    there = kept.contents(kept.paths())
    sockets = {path for path in listed if stat.S_ISSOCK(_mode(made, path))}
    assert there.keys() <= set(listed)
    assert set(listed) - there.keys() - sockets <= hurt
    for path, content in there.items():
        had = [each[path] for each in (before, after) if path in each]
        assert content in had or path in hurt, path
    # The next one has all of it, and builds upon nothing that this one has recorded wrongly.
    healed = made.back_up()
    assert healed.findings == ()
    made.assert_sound(healed.ref)
    assert_same(_nodes(made), _nodes(made.restored(healed.ref)))
    return stats


def _nodes(made: Tree) -> dict[bytes, Node]:
    """But for how many names each has: some are outside of the volume."""
    return {path: replace(node, nlink=0) for path, node in snapshot(made.data).items()}


def _mode(made: Tree, path: bytes) -> int:
    try:
        return os.lstat(os.fsencode(made.data) + b"/" + path).st_mode
    except OSError:
        return 0


@pytest.mark.parametrize("based", [False, True])
@given(seed=st.integers(0, 1 << 32), times=st.integers(1, 6))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_a_backup_has_was_there_or_is_a_finding(based: bool, seed: int, times: int) -> None:
    chance = random.Random(seed)
    with tree() as made:
        made.fill(chance)
        assert_nothing_wrong(made, chance, lambda: made.change(chance, times), based=based)


@pytest.mark.parametrize("inside", [False, True])
def test_a_directory_that_becomes_another_name_of_a_file(inside: bool) -> None:
    with tree() as made:
        (made.data / "a").write_text("content")
        (made.data / "other name").hardlink_to(made.data / "a")
        (made.data / "dir").mkdir()
        if inside:
            (made.data / "dir" / "file").write_text("below")

        def change() -> None:
            shutil.rmtree(made.data / "dir")
            (made.data / "dir").hardlink_to(made.data / "a")

        stats = assert_nothing_wrong(made, random.Random(0), change, based=False)
        assert b"dir" in {finding.path for finding in stats.findings}
