"""Marks of restores that have not ended, planted by whoever writes the volume, and taken away."""

from __future__ import annotations

import os
import shutil
import socket
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.attack.conftest import SECRET
from tests.parts.local_helper import LocalHelper, LocalVolume
from volferry.archive.commands import HALF_TREE, RESTORE_MARK
from volferry.archive.restore_mark import KnownMarks, text_of
from volferry.errors import CommandFailed, StoreError, Unfinished
from volferry.observer import Silent
from volferry.operations.backup_reader import BackupReader
from volferry.operations.excerpt import BackupExcerpt
from volferry.operations.places import Place
from volferry.operations.restore import restore_backup
from volferry.operations.restore_beside import restore_beside
from volferry.operations.restore_paths import restore_paths
from volferry.operations.selecting import select_matching
from volferry.operations.transfer import Transfer
from volferry.repository import Repository
from volferry.stores.local import LocalStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.attack.conftest import Outside
    from volferry.model import BackupStats

ENGINE = "a" * 16
NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


def sealed_text(text: str, store: str, began: datetime, **by: str) -> str:
    """By whom, and of which volume."""
    return KnownMarks(**cast("Any", by)).sealed(text, store, began)


@dataclass(frozen=True, slots=True)
class Case:
    place: Path
    repository: Repository
    data: Path
    helpers: list[LocalHelper]

    def back_up(self, *, machine: str = "one", **marks: Any) -> BackupStats:
        volume = LocalVolume(
            self.data, self.place / machine, settings={"marks": KnownMarks(**{"engine": ENGINE, **marks})}
        )
        return volume.back_up(self.repository)

    @property
    def mark(self) -> Path:
        return self.data / RESTORE_MARK

    def helper(self) -> Any:
        spool = self.place / f"spool{len(self.helpers)}"
        spool.mkdir()
        self.helpers.append(LocalHelper(self.data, spool))
        return cast("Any", self.helpers[-1])

    def reader(self, stats: BackupStats) -> BackupReader:
        spool = self.place / f"reader{len(self.helpers)}"
        spool.mkdir(exist_ok=True)
        return BackupReader(self.repository, stats.ref, spool=spool)

    def interrupt(self, stats: BackupStats, *, paths: bool) -> None:
        def gone() -> None:
            raise StoreError("gone")

        backup = self.reader(stats)
        given: dict[str, Any] = {"helper": self.helper(), "observer": Silent(), "check_free": gone}
        excerpt = BackupExcerpt(backup, select_matching(backup, ["file"]))
        restore = partial(restore_backup, backup, empty_first=True)
        if paths:
            restore = partial(restore_paths, excerpt, replace=True, empty=False)
        with pytest.raises(StoreError):
            restore("vol", **given)


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    data = tmp_path / "data"
    data.mkdir()
    (data / "file").write_text("content")
    found = Case(tmp_path, Repository.open_or_create(LocalStore(tmp_path / "store"))[0], data, [])
    yield found
    for helper in found.helpers:
        helper.end()


def _link(case: Case, outside: Outside) -> None:
    case.mark.symlink_to(outside.secret)


def _link_to_directory(case: Case, outside: Outside) -> None:
    case.mark.symlink_to(outside.directory)


def _directory(case: Case, _: Outside) -> None:
    (case.mark / "below" / "more").mkdir(parents=True)
    (case.mark / RESTORE_MARK).touch()


def _socket(case: Case, _: Outside) -> None:
    # A socket's address is 107 bytes long at most: by its directory, as we have that open.
    descriptor = os.open(case.mark.parent, os.O_RDONLY | os.O_DIRECTORY)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{descriptor}/{case.mark.name}")
    os.close(descriptor)


def _large(case: Case, _: Outside) -> None:
    with case.mark.open("wb") as file:
        file.truncate(10 << 40)


def _sealed_by_nobody(case: Case, _: Outside) -> None:
    case.mark.write_text(
        sealed_text("host/vol@20261123T222016Z-0dd092", "0" * 32, datetime.now(UTC), volume="vol")
    )


def _sealed(case: Case, _: Outside, **by: str) -> None:
    case.mark.write_text(sealed_text("host/vol@x", case.repository.id, datetime.now(UTC), **by))


def _sealed_as_before(case: Case, _: Outside) -> None:
    """Without the volume: whoever has one could put it anywhere."""
    text, began = "host/vol@20261123T222016Z-0dd092", datetime.now(UTC).isoformat()
    sealed = f"{case.repository.id}\0{began}\0{text}".encode()
    seal = blake3(sealed, derive_key_context="volferry 2026 mark of a restore")
    case.mark.write_text(f"{text}\nbegan {began} seal {seal.hexdigest()}\n")


PLANTED: dict[str, Callable[[Case, Outside], object]] = {
    "an empty file": lambda case, _: case.mark.touch(),
    "the text of a mark": lambda case, _: case.mark.write_text("host/vol@20261123T222016Z-0dd092"),
    "the mark of an import": lambda case, _: case.mark.write_text("import"),
    "the mark of paths": lambda case, _: case.mark.write_text('paths of [["host/vol@x", ["file"]]]'),
    "a seal of another store": _sealed_by_nobody,
    "the seal of another volume": partial(_sealed, volume="other"),
    "the seal of another engine": partial(_sealed, volume="vol", engine="e" * 16),
    "the seal of an earlier version": _sealed_as_before,
    "a link": _link,
    "a link to a directory": _link_to_directory,
    "a directory": _directory,
    "a FIFO": lambda case, _: os.mkfifo(case.mark),
    "a socket": _socket,
    "ten terabytes": _large,
    "half of an exchange": lambda case, _: (case.data / HALF_TREE / "x").mkdir(parents=True),
}


@pytest.mark.parametrize("what", PLANTED)
def test_what_looks_like_a_mark_ends_no_backups(case: Case, outside: Outside, what: str) -> None:
    PLANTED[what](case, outside)
    first, second = case.back_up(), case.back_up()
    for stats in (first, second):
        assert [each.kind for each in stats.findings] == ["marked"]
        streamed = b"".join(case.reader(stats).volume_stream())
        assert SECRET not in streamed
        assert b"content" in streamed
    if what == "a directory":  # nobody's data is deleted for a name
        with pytest.raises(CommandFailed, match=RESTORE_MARK):
            restore_backup(
                case.reader(second), "vol", helper=case.helper(), observer=Silent(), empty_first=True
            )
        shutil.rmtree(case.mark)
    restore_backup(case.reader(second), "vol", helper=case.helper(), observer=Silent(), empty_first=True)
    assert [each.name for each in case.data.iterdir()] == ["file"]
    assert case.back_up().findings == ()


@pytest.mark.parametrize("what", PLANTED)
def test_what_looks_like_a_mark_ends_no_migration(case: Case, outside: Outside, what: str) -> None:
    PLANTED[what](case, outside)
    target = case.place / "target"
    target.mkdir()
    there = LocalHelper(target, case.place)
    case.helpers.append(there)
    transfer = Transfer(
        Place(case.helper(), str(case.data)),
        Place(cast("Any", there), str(target)),
        case.place / "leg",
        Silent(),
        marks=KnownMarks(),
    )
    transfer.run()
    transfer.check(checksum=True)
    assert [each.name for each in target.iterdir()] == ["file"]


@pytest.mark.parametrize("paths", [False, True])
def test_a_restore_that_has_not_ended_is_known_from_whichever_machine(case: Case, paths: bool) -> None:
    stats = case.back_up()
    case.interrupt(stats, paths=paths)
    for machine in ("one", "another"):
        with pytest.raises(Unfinished, match="interrupted restore"):
            case.back_up(machine=machine)
    restore_backup(case.reader(stats), "vol", helper=case.helper(), observer=Silent(), empty_first=True)
    case.back_up(machine="another")


def test_a_mark_that_was_kept_and_put_back_is_none(case: Case) -> None:
    stats = case.back_up()
    case.interrupt(stats, paths=False)
    kept = case.mark.read_bytes()
    case.mark.write_bytes(kept)
    now = datetime.now(UTC)
    with pytest.raises(Unfinished):
        case.back_up(completed=now - timedelta(days=9))
    assert [each.kind for each in case.back_up(completed=now + timedelta(days=9)).findings] == ["marked"]


@pytest.mark.parametrize("what", ["an earlier version", "paths"])
def test_a_mark_of_an_earlier_version_counts_where_this_machine_knows_of_the_restore(
    case: Case, outside: Outside, what: str
) -> None:
    PLANTED["the seal of an earlier version" if what == "an earlier version" else "the mark of paths"](
        case, outside
    )
    assert case.back_up().findings
    with pytest.raises(Unfinished, match="interrupted restore"):
        case.back_up(unfinished=True)


@pytest.mark.parametrize("what", PLANTED)
def test_no_restore_makes_what_looks_like_a_mark_one_of_ours(case: Case, outside: Outside, what: str) -> None:
    """Neither one of some paths, nor one that fails."""
    stats = case.back_up()
    PLANTED[what](case, outside)
    if what == "a directory":
        return
    excerpt = BackupExcerpt(case.reader(stats), select_matching(case.reader(stats), ["file"]))
    given: dict[str, Any] = {"observer": Silent(), "marks": KnownMarks(engine=ENGINE)}
    restore_paths(excerpt, "vol", helper=case.helper(), replace=True, empty=False, **given)
    assert not os.path.lexists(case.mark)
    assert {each.kind for each in case.back_up().findings} <= {"marked"}  # half of an exchange stays
    if what == "half of an exchange":
        return
    for often in (1, 2):
        PLANTED[what](case, outside)

        def gone(left: list[int] = [often]) -> None:  # noqa: B006 -- a counter of its own
            left[0] -= 1
            if not left[0]:
                raise StoreError("gone")

        with pytest.raises(StoreError):
            restore_beside(case.reader(stats), "vol", helper=case.helper(), check_free=gone, **given)
        if often == 1:  # nothing was exchanged
            assert {each.kind for each in case.back_up().findings} == {"marked"}
            case.mark.unlink()
        else:
            with pytest.raises(Unfinished):
                case.back_up()


def test_a_mark_that_was_kept_is_none_once_the_volume_is_known_to_be_whole() -> None:
    def known(**more: Any) -> KnownMarks:
        return KnownMarks(**{"stores": frozenset({"store"}), "volume": "vol", "machine": "a" * 16, **more})

    minute = timedelta(minutes=1)
    own = sealed_text("x", "store", NOW, volume="vol", machine="a" * 16)
    others = sealed_text("x", "store", NOW, volume="vol", machine="b" * 16)
    for content in (own, others):
        assert known().is_ours(content)
        assert known(completed=NOW - minute, backed_up=NOW - minute).is_ours(content)
        assert not known(ended=frozenset({known().seal_in(content)})).is_ours(content)
        assert not known(volume="other").is_ours(content)
        assert known(unfinished=True, completed=NOW + minute).is_ours(content)
        for when in ("completed", "backed_up"):
            assert not known(**{when: NOW + timedelta(days=2)}).is_ours(content)
            # One clock, or two that may differ.
            assert known(**{when: NOW + minute}).is_ours(content) == (content == others)


@pytest.mark.parametrize(
    ("sealed_by", "seen_by", "shared", "counts"),
    [
        ("e" * 16, "e" * 16, False, True),
        ("e" * 16, "f" * 16, False, False),
        ("e" * 16, "f" * 16, True, True),  # a share that both have
        ("e" * 16, "", False, True),  # a proxy keeps it back
        ("", "e" * 16, False, True),
    ],
)
def test_a_mark_of_a_volume_of_the_same_name_on_another_engine_is_none(
    sealed_by: str, seen_by: str, shared: bool, counts: bool
) -> None:
    content = sealed_text("x", "store", NOW, volume="vol", engine=sealed_by)
    known = KnownMarks(frozenset({"store"}), "vol", seen_by, shared)
    assert known.is_ours(content) == counts


def test_a_machine_believes_its_own_record_whatever_the_mark_says(case: Case) -> None:
    for text in ("", "import", "of a tenant"):
        case.mark.write_text(text)
        with pytest.raises(Unfinished):
            case.back_up(unfinished=True)


@settings(max_examples=40)
@given(
    st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"])), st.text(min_size=1), st.text()
)
def test_only_who_knows_the_store_can_seal(text: str, store: str, other: str) -> None:
    known = KnownMarks(stores=frozenset({store}))
    content = sealed_text(text, store, NOW)
    assert (known.is_ours(content), text_of(content)) == (True, text)
    assert not known.is_ours(text)
    assert not known.is_ours("x" + content)
    if other != store:
        assert not known.is_ours(sealed_text(text, other, NOW))
    assert not replace(known, completed=NOW + timedelta(days=2)).is_ours(content)
    assert known.is_ours(content) == replace(known, completed=NOW).is_ours(content)


@settings(max_examples=40)
@given(st.text(), st.integers(0, 400), st.characters(exclude_categories=["Cs"]))
def test_no_changed_mark_is_ours(text: str, at: int, put: str) -> None:
    content = sealed_text(text.replace("\n", " "), "store", NOW)
    at %= len(content) - 1  # the newline at its end does not matter
    changed = content[:at] + put + content[at + 1 :]
    assert KnownMarks(stores=frozenset({"store"})).is_ours(changed) == (changed == content)
