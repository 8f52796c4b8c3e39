"""Passes of a migration: whatever changes between them, the target is what the source is, and what differs is found."""

from __future__ import annotations

import errno
import mmap
import os
import random
import shutil
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.parts.faults import environment, fault
from tests.parts.local_helper import LocalHelper
from tests.parts.mounts import MOUNTS
from tests.parts.mutations import mutate
from tests.parts.trees import Directory, assert_same, build_nasty_tree, realise, snapshot, trees
from volferry.archive import listing, patch_scripts, tree_scripts
from volferry.archive.blocks import LEAST_BYTES
from volferry.errors import CommandFailed, RestoreMismatch
from volferry.observer import Silent
from volferry.operations import names
from volferry.operations.places import Place
from volferry.operations.transfer import Transfer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def own_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the one in the helper's image."""
    monkeypatch.setattr(tree_scripts, "PYTHON", sys.executable)


class Way:
    def __init__(self, place: Path) -> None:
        self.source, self.target = place / "source", place / "target"
        self.spool = place / "spool"
        for each in (self.source, self.target, self.spool):
            each.mkdir()
        # Of the source's commands; it may be changed before they are started.
        self.environment: dict[str, str] = {}
        self.environments = {"source": self.environment, "target": dict[str, str]()}
        self.helpers = [
            LocalHelper(self.source, self.spool, self.environment),
            LocalHelper(self.target, self.spool, self.environments["target"]),
        ]
        self.transfer = self.again()

    def again(self, *, lesser: bool = False) -> Transfer:
        """One that knows nothing of those before."""
        here, there = (
            Place(cast("Any", helper), str(directory))
            for helper, directory in zip(self.helpers, (self.source, self.target), strict=True)
        )
        return Transfer(here, there, self.spool / "leg", Silent(), lesser=lesser)

    def assert_same(self) -> None:
        expected = {
            path: node for path, node in snapshot(self.source).items() if not is_socket(self.source, path)
        }
        assert_same(expected, snapshot(self.target))

    def end(self) -> None:
        for helper in self.helpers:
            helper.end()


def is_socket(root: Path, path: bytes) -> bool:
    try:
        return (root / os.fsdecode(path)).is_socket()
    except OSError:  # a path that is too long
        return False


@contextmanager
def way() -> Iterator[Way]:
    with TemporaryDirectory() as directory:
        made = Way(Path(directory))
        try:
            yield made
        finally:
            made.end()


@pytest.mark.parametrize("trusted", [False, True])
@given(tree=trees(), seed=st.integers(0, 1 << 32), again=st.booleans())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_target_becomes_what_the_source_is(
    trusted: bool, monkeypatch: pytest.MonkeyPatch, tree: Directory, seed: int, again: bool
) -> None:
    if trusted:  # nothing is so young that it is sent again for that alone
        monkeypatch.setattr(listing, "CHANGED_WITHIN_SECONDS", -3600)
    with way() as made:
        realise(tree, made.source)
        chance = random.Random(seed)
        made.transfer.run()
        for _ in range(3):
            mutate(os.fsencode(made.source), chance, chance.randrange(8))
            if again:
                made.transfer = made.again()
                made.transfer.compare_first()
            made.transfer.run()
        made.transfer.check(checksum=True)
        made.assert_same()


def test_everything_that_a_volume_can_hold_goes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "CHANGED_WITHIN_SECONDS", -3600)
    with way() as made:
        build_nasty_tree(made.source)
        made.transfer.run()
        made.transfer.check(checksum=True)
        made.assert_same()
        # Once more, by one that does not know what is there: little is sent.
        made.transfer = made.again()
        made.transfer.compare_first()
        entries = len(snapshot(made.source))
        assert made.transfer.run().entries < entries / 2
        made.transfer.check(checksum=True)
        made.assert_same()


def test_what_is_there_and_unlike_the_source_becomes_like_it() -> None:
    with way() as made:
        build_nasty_tree(made.source)
        build_nasty_tree(made.target)
        mutate(os.fsencode(made.target), random.Random(3), 60)
        made.transfer.compare_first()
        made.transfer.run()
        made.transfer.check(checksum=True)
        made.assert_same()


def test_only_what_changed_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "CHANGED_WITHIN_SECONDS", -3600)
    with way() as made:
        for number in range(500):
            (made.source / f"{number}").write_bytes(bytes(1000))
        made.transfer.run()
        (made.source / "7").write_text("other")
        (made.source / "8").unlink()
        sent = made.transfer.run()
        assert (sent.entries, sent.deleted) == (2, 1)
        assert made.transfer.run().entries == 1  # the root
        made.transfer.check(checksum=True)


MEGABYTE = 1 << 20


def write_at(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize("keep", [True, False])
def test_of_large_files_blocks_are_sent_that_are_others(keep: bool) -> None:
    chance = random.Random(5)
    with way() as made:
        one, two, sparse = (made.source / name for name in ("one", "two", "sparse"))
        one.write_bytes(chance.randbytes(40 * MEGABYTE))
        two.write_bytes(chance.randbytes(20 * MEGABYTE + 1000))
        sparse.touch()
        os.truncate(sparse, 100 * MEGABYTE)
        write_at(sparse, 50 * MEGABYTE, b"data")
        made.transfer.run()
        for number in range(3):
            inode = (made.target / "one").stat().st_ino
            write_at(one, chance.randrange(40 * MEGABYTE), b"changed")
            os.setxattr(one, "user.number", b"%d" % number)
            one.chmod(0o640 + number)
            os.chown(one, number, number)
            os.truncate(two, chance.randrange(9 * MEGABYTE, 30 * MEGABYTE))
            write_at(two, chance.randrange(8 * MEGABYTE), chance.randbytes(100_000))
            write_at(sparse, chance.randrange(100 * MEGABYTE), b"more")
            if not keep:
                made.transfer = made.again()
                made.transfer.compare_first()
            sent = made.transfer.run(last=number == 2)
            assert sent.sent_bytes < 13 * MEGABYTE  # `two` may have grown by as much
            assert (made.target / "one").stat().st_ino == inode
            made.transfer.check(checksum=True)
            made.assert_same()
        assert (made.target / "sparse").stat().st_blocks * 512 < 10 * MEGABYTE


def test_a_large_file_that_goes_or_changes_its_kind_is_followed() -> None:
    with way() as made:
        for name in ("gone", "replaced", "linked", "smaller"):
            (made.source / name).write_bytes(os.urandom(9 * MEGABYTE))
        made.transfer.run()
        (made.source / "gone").unlink()
        (made.source / "replaced").unlink()
        (made.source / "replaced").mkdir()
        os.link(made.source / "linked", made.source / "other name")
        (made.source / "smaller").write_text("small")
        made.transfer.run()
        made.transfer.check(checksum=True)
        made.assert_same()


@pytest.mark.parametrize("what", ["content", "attribute", "time", "missing", "more", "link"])
def test_a_difference_is_found(what: str) -> None:
    with way() as made:
        build_nasty_tree(made.source)
        (made.source / "file").write_text("content")
        os.link(made.source / "file", made.source / "name of file")
        made.transfer.run()
        path = made.target / "file"
        before = path.stat()
        if what == "content":
            path.write_text("CONTENT")
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        elif what == "attribute":
            os.setxattr(path, "user.more", b"1")
        elif what == "time":
            os.utime(path, ns=(0, before.st_mtime_ns + 1))
        elif what == "missing":
            path.unlink()
        elif what == "more":
            (made.target / "more").touch()
        else:
            path.unlink()
            shutil.copy2(made.target / "name of file", path)
        with pytest.raises(RestoreMismatch):
            made.transfer.check(checksum=True)


def test_half_of_something_is_no_source() -> None:
    with way() as made:
        (made.source / ".volferry-restore-in-progress").touch()
        with pytest.raises(CommandFailed, match="the rest of an interrupted restore, import or migration"):
            made.transfer.run()


def test_an_entry_that_cannot_be_written_is_an_error() -> None:
    with way() as made:
        (made.source / "file").write_text("content")
        made.target.rmdir()
        with pytest.raises(CommandFailed):
            made.transfer.run()


def last_pass(made: Way) -> None:
    made.transfer.run(last=True)
    made.transfer.check(checksum=False)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOENT, errno.EOPNOTSUPP])
@pytest.mark.parametrize("call", ["open", "read", "lstat", "readdir", "llistxattr"])
def test_what_the_source_cannot_read_never_looks_moved(
    monkeypatch: pytest.MonkeyPatch, library: Path, call: str, number: int
) -> None:
    monkeypatch.setattr(listing, "CHANGED_WITHIN_SECONDS", -3600)
    with way() as made:
        (made.source / "dir").mkdir()
        (made.source / "dir" / "file").write_bytes(random.Random(1).randbytes(200_000))
        (made.source / "other").write_text("other")
        made.environment |= environment(
            library, fault(call, number, "/dir" if call == "readdir" else "/dir/file")
        )
        if call == "llistxattr" and number == errno.EOPNOTSUPP:  # there are none
            last_pass(made)
        else:
            with pytest.raises((CommandFailed, RestoreMismatch)):
                last_pass(made)
        # Once it can be read again, the same transfer goes on, and nothing of what was wrong stays.
        made.environment.clear()
        made.transfer.run(last=True)
        made.transfer.check(checksum=True)
        made.assert_same()


def test_what_is_written_through_a_mapping_between_two_passes_goes_over() -> None:
    with way() as made:
        path = made.source / "mapped"
        path.write_bytes(bytes(200_000))
        os.sync()
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 200_000) as memory:
            memory[:8] = b"VERSION1"
            time.sleep(listing.CHANGED_WITHIN_SECONDS + 1.1)  # older than what is not trusted anyway
            made.transfer.run()
            memory[:8] = b"VERSION2"
            memory.flush()
        made.transfer.run(last=True)
        made.transfer.check(checksum=False)
        assert (made.target / "mapped").read_bytes()[:8] == b"VERSION2"


def test_a_file_that_is_said_to_have_no_blocks_goes_over_with_its_data(library: Path) -> None:
    with way() as made:
        (made.source / "file").write_bytes(b"data" * 5000)
        made.environment |= environment(library, fault("blocks", 1, "/file"))
        made.transfer.run(last=True)
        made.transfer.check(checksum=False)
        assert (made.target / "file").read_bytes() == b"data" * 5000


def test_changes_in_a_large_file_go_over_where_the_file_system_makes_up_its_holes(
    monkeypatch: pytest.MonkeyPatch, library: Path
) -> None:
    lie = "import os\ndef lie(*_):\n    raise OSError(6, 'no data')\nos.lseek = lie\n"
    monkeypatch.setattr(patch_scripts, "CHANGED_SCRIPT", lie + patch_scripts.CHANGED_SCRIPT)
    with way() as made:
        large = made.source / "large"
        large.write_bytes(random.Random(1).randbytes(LEAST_BYTES))
        (made.source / "small").write_bytes(b"data")
        made.environment |= environment(library, fault("blocks", 1, "/small"))
        made.transfer.run()
        with large.open("r+b") as file:
            file.seek(LEAST_BYTES // 2)
            file.write(b"changed")
        made.transfer.run(last=True)
        made.assert_same()


@pytest.mark.parametrize("number", [errno.EIO, errno.EINVAL, errno.EOPNOTSUPP, errno.ESTALE, errno.ENXIO])
@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("offset", [0, LEAST_BYTES // 2])
def test_a_file_system_that_cannot_say_where_data_is_makes_no_zeros_of_it(
    monkeypatch: pytest.MonkeyPatch, library: Path, number: int, side: str, offset: int
) -> None:
    """Not even one that says that there is none, unless it is of those whose word is taken."""
    if number == errno.ENXIO:
        for module in (patch_scripts, tree_scripts):
            for name in ("DIGEST_SCRIPT", "FINGERPRINT_SCRIPT", "CHANGED_SCRIPT"):
                if script := getattr(module, name, ""):
                    monkeypatch.setattr(
                        module, name, script.replace("skip = holes_are_true()", "skip = False")
                    )
    with way() as made:
        large = made.source / "large"
        large.write_bytes(random.Random(1).randbytes(LEAST_BYTES))
        made.transfer.run()
        with large.open("r+b") as file:
            file.seek(LEAST_BYTES // 2)
            file.write(b"changed")
        failing = environment(library, fault("seek", number, "/large", offset))
        made.environments[side] |= failing
        try:
            made.transfer.run(last=True)
            made.transfer.check(checksum=True)
        except (CommandFailed, RestoreMismatch):
            assert number != errno.ENXIO, "all of it can be read"
            made.environments[side].clear()
            made.transfer.run(last=True)
            made.transfer.check(checksum=True)
        made.assert_same()


@pytest.mark.parametrize("grows", [False, True])
@pytest.mark.parametrize("at", [0, 12 * MEGABYTE, 8 * MEGABYTE + 101])
def test_a_large_file_of_the_source_that_ends_early_never_looks_moved(
    monkeypatch: pytest.MonkeyPatch, library: Path, at: int, grows: bool
) -> None:
    monkeypatch.setattr(listing, "CHANGED_WITHIN_SECONDS", -3600)
    with way() as made:
        large = made.source / "large"
        large.write_bytes(random.Random(1).randbytes(16 * MEGABYTE))
        made.transfer.run()
        for offset in (1, 5, 13):
            write_at(large, offset * MEGABYTE, b"changed")
        if grows:
            write_at(large, 16 * MEGABYTE, bytes(MEGABYTE))
        made.environment |= environment(library, fault("end", 1, "/large", at))
        with pytest.raises(RestoreMismatch, match="'large' of the source"):
            last_pass(made)
        # Nor does it to one that knows nothing of that pass.
        made.transfer = made.again()
        made.transfer.compare_first()
        with pytest.raises(RestoreMismatch, match="'large' of the source"):
            last_pass(made)
        made.environment.clear()
        made.transfer.run(last=True)
        made.transfer.check(checksum=True)
        made.assert_same()


def test_a_large_file_of_the_target_that_ends_early_never_looks_moved(
    monkeypatch: pytest.MonkeyPatch, library: Path
) -> None:
    monkeypatch.setattr(listing, "CHANGED_WITHIN_SECONDS", -3600)
    with way() as made:
        large = made.source / "large"
        large.write_bytes(random.Random(1).randbytes(16 * MEGABYTE))
        made.environments["target"] |= environment(library, fault("end", 1, "/large", 3 * MEGABYTE))
        made.transfer.run()
        with large.open("r+b") as file:  # which leaves a hole of the size that the target has data in
            file.truncate(4 * MEGABYTE)
            file.truncate(16 * MEGABYTE)
        with pytest.raises(RestoreMismatch, match=r"'large' of the source .* in the target"):
            last_pass(made)
        made.environments["target"].clear()
        made.transfer.run(last=True)
        made.transfer.check(checksum=True)
        assert (made.target / "large").read_bytes() == large.read_bytes()


@pytest.mark.parametrize("size", [0, 1000, 1 << 30])
def test_a_file_of_the_source_whose_size_is_made_up_never_looks_moved(
    monkeypatch: pytest.MonkeyPatch, library: Path, size: int
) -> None:
    monkeypatch.setattr(names, "is_remote", lambda _: True)
    with way() as made:
        (made.source / "small").write_bytes(b"small" * 1000)
        made.environment |= environment(library, fault("size", size, "/small"))
        with pytest.raises((CommandFailed, RestoreMismatch), match=r"'small' of the source"):
            last_pass(made)


@pytest.mark.parametrize("lesser", [True, False])
@pytest.mark.parametrize(
    ("call", "number"),
    [
        *(("setxattr", each) for each in (errno.EOPNOTSUPP, errno.ENOSPC, errno.EPERM)),
        *((call, each) for call in ("chown", "chmod", "utime") for each in (errno.EPERM, errno.EINVAL)),
        ("chown", errno.EIO),
    ],
)
def test_what_cannot_be_set_of_a_large_file_has_the_same_end_in_each_pass(
    library: Path, call: str, number: int, lesser: bool
) -> None:
    """So that a migration does not find out after it has stopped the services."""

    name = 'odd"large\\ä'

    def outcome(made: Way, *, patched: bool) -> tuple[bool, set[str]]:
        transfer = made.again(lesser=lesser)
        faults = environment(library, fault(call, number, f"/{name}"))
        try:
            if patched:
                transfer.run()
                with large.open("r+b") as file:
                    file.write(b"changed")
            made.environments["target"] |= faults
            transfer.run(last=True)
            transfer.check(checksum=call != "setxattr")
        except (CommandFailed, RestoreMismatch):
            return False, set()
        # `tar` sets modes as lists, too.
        return True, set(transfer.log.refused) - {"access list"} if transfer.log else set()

    found = []
    for patched in (False, True):
        with way() as made:
            large = made.source / name
            large.write_bytes(random.Random(1).randbytes(LEAST_BYTES))
            large.chmod(0o640)
            os.chown(large, 1000, 1000)
            if call == "setxattr":
                os.setxattr(large, "user.key", b"value")
            found.append(outcome(made, patched=patched))
    assert found[0] == found[1]
    if number == errno.EIO:
        assert not found[1][0]
    elif lesser:
        assert found[1][0]
        assert found[1][1]


def fill_with_owners(directory: Path) -> None:
    (directory / "dir").mkdir()
    for number, name in enumerate(("one", "dir/two", "dir", ".")):
        if not name.endswith(("dir", ".")):
            (directory / name).write_text(name)
        os.chown(directory / name, 1000 + number, 1000)
        os.utime(directory / name, ns=(0, 1_500_000_001_123_456_789))


def first_pass(transfer: Transfer) -> None:
    transfer.run()
    transfer.check_holds("volume")


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSPC, errno.EPERM])
@pytest.mark.parametrize("name", ["small", "large", "dir"])
def test_a_target_that_cannot_hold_attributes_is_known_before_the_comparison_that_finds_them(
    library: Path, name: str, number: int
) -> None:
    with way() as made:
        (made.source / "dir").mkdir()
        (made.source / "small").write_text("small")
        (made.source / "large").write_bytes(bytes(LEAST_BYTES))
        os.setxattr(made.source / name, "user.key", b"value")
        made.environments["target"] |= environment(library, fault("setxattr", number, f"/{name}"))
        made.transfer.run()
        made.transfer.check_holds("volume")  # which is a warning
        with pytest.raises(RestoreMismatch, match=f"attributes of '{name}': nothing was stopped"):
            made.transfer.check_holds("volume", checksum=True)
        # What has changed since is no matter of the file system.
        os.setxattr(made.source / name, "user.key", b"other")
        made.transfer.check_holds("volume", checksum=True)
        made.environments["target"].clear()
        made.transfer.run(last=True)
        made.transfer.check_holds("volume", checksum=True)
        made.transfer.check(checksum=True)
        made.assert_same()


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSYS, 524])
@pytest.mark.parametrize("side", ["source", "target"])
def test_a_large_file_changes_on_a_file_system_without_attributes(
    library: Path, side: str, number: int
) -> None:
    with way() as made:
        large = made.source / "large"
        large.write_bytes(random.Random(1).randbytes(LEAST_BYTES))
        made.environments[side] |= environment(library, fault("llistxattr", number, "/large"))
        made.transfer.run()
        write_at(large, MEGABYTE, b"changed")
        assert made.transfer.run(last=True).sent_bytes < 2 * MEGABYTE
        made.transfer.check(checksum=True)
        made.assert_same()


@contextmanager
def onto(kind: str, *, counted: bool) -> Iterator[tuple[Way, Transfer]]:
    """A way whose target is on one of MOUNTS."""
    with way() as made:
        fill_with_owners(made.source)
        made.target.rmdir()
        with MOUNTS[kind](made.target):
            here, there = (
                Place(cast("Any", helper), str(directory))
                for helper, directory in zip(made.helpers, (made.source, made.target), strict=True)
            )
            yield made, Transfer(here, there, made.spool / "lesser", Silent(), lesser=counted)


@pytest.mark.parametrize("kind", MOUNTS)
def test_what_a_file_system_cannot_hold_is_counted_where_that_is_asked_for(kind: str) -> None:
    with onto(kind, counted=True) as (made, transfer):
        transfer.run(last=True)
        transfer.check(checksum=False)
        transfer.settle_root()
        assert (made.target / "dir" / "two").read_text() == "dir/two"
        assert transfer.differing["owner"].startswith("4 entries have another owner than in the source")
        # What is written to meanwhile is no matter of the file system.
        (made.source / "one").write_text("two")
        with pytest.raises(RestoreMismatch):
            transfer.check(checksum=False)


@pytest.mark.parametrize("kind", MOUNTS)
def test_a_target_that_cannot_hold_what_the_source_has_is_known_after_the_first_pass(kind: str) -> None:
    with (
        onto(kind, counted=False) as (_, transfer),
        pytest.raises((CommandFailed, RestoreMismatch), match="owner"),
    ):
        first_pass(transfer)


def test_a_target_that_holds_all_is_no_reason_to_stop() -> None:
    with way() as made:
        build_nasty_tree(made.source)
        made.transfer.run()
        (made.source / "written meanwhile").write_text("new")
        mutate(os.fsencode(made.source), random.Random(4), 20)
        made.transfer.check_holds("volume")


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_source_whose_pages_could_not_be_written_stays(library: Path, number: int) -> None:
    with way() as made:
        (made.source / "file").write_text("content")
        made.environment |= environment(library, fault("syncfs", number, "/source"))
        with pytest.raises(CommandFailed, match="could not be written to the disk"):
            last_pass(made)
