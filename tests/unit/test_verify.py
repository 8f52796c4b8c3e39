"""A backup is called good only if a restore of it would be."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.parts.forgery import forged
from tests.parts.local_helper import LocalVolume
from volferry.layout import files_key
from volferry.observer import Silent
from volferry.operations.verify import Verifier
from volferry.repository import Repository
from volferry.stores.local import LocalStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from volferry.model import BackupRef


@dataclass
class Lab:
    directory: Path
    repository: Repository
    volume: LocalVolume
    _forged: int = 0

    def verify(self, *refs: BackupRef) -> list[tuple[str, ...]]:
        """As `--all --read` does, in this order."""
        verifier = Verifier(self.repository, read=True, spool=self.directory, observer=Silent())
        return [verifier.verify(ref).findings for ref in refs]

    def back_up(self) -> BackupRef:
        return self.volume.back_up(self.repository).ref

    def forged(
        self,
        of: BackupRef,
        files: Callable[[bytes], bytes] = lambda raw: raw,
        frames: Callable[[bytes], bytes] = lambda raw: raw,
    ) -> BackupRef:
        """Another backup whose index is a changed one, and sealed as it should be: as a planner's mistake would make it."""
        self._forged += 1
        backup_id = f"2099112{self._forged}T104639Z-39b1ad"
        return forged(self.repository, of, backup_id, self.directory, files=files, frames=frames)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """With a volume that has one of everything; its hard links lie in groups far from each other."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "a").mkdir()
    for number in range(5):
        (data / "a" / f"file{number}").write_bytes(os.urandom(10_000))
    (data / "a" / "link").symlink_to("file0")
    os.mkfifo(data / "a" / "pipe")
    (data / "large").write_bytes(os.urandom(3 << 20))
    os.link(data / "a" / "file1", data / "zzz")
    with (data / "sparse").open("wb") as file:
        file.truncate(5 << 20)
        file.seek(2 << 20)
        file.write(b"in a hole")
    for path in (data, *data.rglob("*")):
        os.utime(path, (1_700_000_000, 1_700_000_000), follow_symlinks=False)
    repository, _ = Repository.open_or_create(LocalStore(tmp_path / "store"))
    return Lab(tmp_path, repository, LocalVolume(data, tmp_path / "state"))


def test_what_was_backed_up_is_good_also_where_others_need_the_same_groups(lab: Lab) -> None:
    refs = [lab.back_up()]
    (lab.volume.data / "zzzz").write_text("new")
    refs.append(lab.back_up())
    (lab.volume.data / "a" / "file1").write_text("the name that held the data is another file now")
    os.link(lab.volume.data / "zzz", lab.volume.data / "zzz2")
    refs.append(lab.back_up())
    assert lab.verify(*refs) == [(), (), ()]
    assert lab.verify(*reversed(refs)) == [(), (), ()]


FIELDS: dict[str, tuple[bytes, bytes, str]] = {
    "a name": (b"a/file3//", b"a/file3x//", "its frames hold 'a/file3' out of order"),
    "kind": (b"a/file0//f", b"a/file0//p", "has kind f, and its record has p"),
    "mode": (b"a/file0//f 644", b"a/file0//f 600", "has mode 644, and its record has 600"),
    "owner": (b"a/file0//f 644 0", b"a/file0//f 644 7", "has uid 0, and its record has 7"),
    "group": (b"a/file0//f 644 0 0", b"a/file0//f 644 0 7", "has gid 0, and its record has 7"),
    "size": (b"a/file0//f 644 0 0 10000", b"a/file0//f 644 0 0 9999", "has size 10000, and its record has 9999"),
    "time": (b"1700000000.0", b"1600000000.0", "has mtime 1700000000000000000, and"),
    "target": (b" file0\0", b" file4\0", "has target file0, and its record has file4"),
    "a link's size": (b"zzz//f 644 0 0 10000", b"zzz//f 644 0 0 10001", "'zzz' is a hard link to 'a/file1', and"),
    "number": (b"a/file0//f 644", b"a/file0//f abc", "the record of 'a/file0' is not one"),
}  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("trusted", [True, False])
def test_a_record_that_says_something_else_than_its_member_is_found(
    lab: Lab, field: str, trusted: bool
) -> None:
    old, new, said = FIELDS[field]
    good = lab.back_up()

    def change(raw: bytes) -> bytes:
        changed = raw.replace(old, new)
        assert changed != raw
        return changed if trusted else distrusted(changed)

    wrong = lab.forged(good, files=change)
    for refs in ([wrong], [good, wrong]):
        *others, findings = lab.verify(*refs)
        assert others in ([], [()])
        assert any(said in finding and files_key(wrong) in finding for finding in findings), findings


def distrusted(raw: bytes) -> bytes:
    """All change times are `-`."""
    records = []
    for record in raw.split(b"\0"):
        path, separator, meta = record.partition(b"//")
        if separator and meta.count(b" ") >= 9:
            fields = meta.split(b" ", 9)
            fields[6] = b"-"
            meta = b" ".join(fields)
        records.append(path + separator + meta)
    return b"\0".join(records)


def test_records_that_are_not_trusted_are_good_if_their_members_say_the_same(lab: Lab) -> None:
    good = lab.back_up()
    assert lab.verify(lab.forged(good, files=distrusted)) == [()]


def test_a_hard_link_to_what_does_not_come_before_it_is_found_though_its_group_was_good(lab: Lab) -> None:
    good = lab.back_up()

    def without_target(raw: bytes) -> bytes:
        return raw.replace(b"a/file1//", b"a/file1x//")

    wrong = lab.forged(good, files=without_target)
    (alone,) = lab.verify(wrong)
    before, after = lab.verify(good, wrong)
    assert before == ()
    for findings in (alone, after):
        assert any("'zzz' is a hard link to 'a/file1', which does not" in each for each in findings)


def test_names_of_one_file_that_are_files_of_their_own_are_found(lab: Lab) -> None:
    for path in (lab.volume.data / "b", lab.volume.data / "c"):
        path.write_bytes(b"the same")
        os.utime(path, (1_700_000_000, 1_700_000_000))
        os.link(path, path.with_name(f"{path.name}2"))
    good = lab.back_up()
    inodes = [b"%d" % (lab.volume.data / name).stat().st_ino for name in ("b", "c")]

    def one_inode(raw: bytes) -> bytes:
        return trusted(raw).replace(b" %s 2 " % inodes[1], b" %s 2 " % inodes[0])

    assert lab.verify(lab.forged(good, files=trusted)) == [()]
    (findings,) = lab.verify(lab.forged(good, files=one_inode))
    assert any("'c' is not the hard link that its record says" in finding for finding in findings)


def trusted(raw: bytes) -> bytes:
    return raw.replace(b" - ", b" 1700000000.0000000000 ")


FRAMES: dict[str, tuple[Callable[[Sequence[bytes]], Sequence[bytes]], str]] = {
    "the end is missing": (lambda lines: lines[:-1], "the end of its tar stream is not where it should be"),
    "a group is missing": (lambda lines: [*lines[:1], *lines[2:]], "it has no frame of group 1"),
    "an end in the middle": (
        lambda lines: [lines[0], lines[-1].replace(lines[-1].split(b" ")[0], b"0", 1), *lines[1:]],
        "has an end of the tar stream in it",
    ),
    "frames of another group": (
        lambda lines: [b"0 " + lines[1].split(b" ", 1)[1], *lines[1:]],
        "out of order",
    ),
}


@pytest.mark.parametrize("what", FRAMES)
def test_frames_that_are_not_those_of_their_groups_are_found(lab: Lab, what: str) -> None:
    change, said = FRAMES[what]
    good = lab.back_up()
    wrong = lab.forged(good, frames=lambda raw: b"".join(change(raw.splitlines(keepends=True))))
    before, findings = lab.verify(good, wrong)
    assert before == ()
    assert any(said in finding for finding in findings), findings


def test_a_damaged_frame_costs_its_group_alone_and_all_that_is_wrong_is_said(lab: Lab) -> None:
    ref = lab.back_up()
    (pack,) = (lab.directory / "store" / "packs").rglob("*.zst")
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.write_bytes(data)
    (findings,) = lab.verify(ref)
    assert any("(group" in finding and "'large'" in finding for finding in findings), findings
    assert not any("'a/file0'" in finding for finding in findings)
    shutil.copy(pack, lab.directory / "kept")
    pack.unlink()
    assert [finding.partition(" from ")[0] for finding in lab.verify(ref)[0]] == [
        f"packs/host/vol/{pack.name} is missing"
    ]
