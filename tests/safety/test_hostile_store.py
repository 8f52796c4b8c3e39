"""Stores that somebody has made up, with digests and seals that are right: no reader is led out of its target."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from tests.parts.local_helper import LocalVolume
from tests.parts.memory_store import Clock, Contents, MemoryStore
from volferry.archive.index import compress_file, decompress
from volferry.archive.manifest import IndexObjectPart, IndexPart
from volferry.errors import DamagedObject, VolferryError
from volferry.layout import files_key, frames_key
from volferry.model import BackupRef
from volferry.observer import Silent
from volferry.operations.backup_reader import BackupReader
from volferry.operations.restore_directory import _delete, restore_into_directory
from volferry.operations.selecting import select_matching
from volferry.operations.verify import Verifier
from volferry.repository import Repository

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LATER = "20991127T104639Z-39b1ad"


@pytest.fixture
def repository() -> Repository:
    return Repository.open_or_create(MemoryStore(Contents("store", Clock())))[0]


@pytest.fixture
def good(repository: Repository, tmp_path: Path) -> BackupRef:
    data = tmp_path / "data"
    (data / "dir").mkdir(parents=True)
    (data / "dir" / "below").write_bytes(b"below")
    (data / "zz").write_bytes(b"content")
    return LocalVolume(data, tmp_path / "state").back_up(repository).ref


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """In the directory that is above of each target."""
    place = tmp_path / "home"
    (place / "target").mkdir(parents=True)
    (place / "thesis").write_text("years of work")
    return place / "thesis"


def forged(
    repository: Repository,
    ref: BackupRef,
    place: Path,
    *,
    files: Callable[[bytes], bytes] = lambda raw: raw,
    frames: Callable[[bytes], bytes] = lambda raw: raw,
) -> BackupRef:
    """A backup of the same packs, with another index, as somebody who can write to the store would make it."""
    other = BackupRef(ref.host, ref.volume, LATER)
    parts = {}
    for name, key, change in (("files", files_key(ref), files), ("frames", frames_key(ref), frames)):
        raw = change(b"".join(decompress(repository.blocks(key))))
        digest = compress_file(place / name, iter([raw]))
        parts[name] = IndexObjectPart(stored_bytes=digest.stored_bytes, blake3=digest.hex)
    writer = repository.writer(other)
    writer.put_index(place / "frames", place / "files")
    writer.put_manifest(
        msgspec.structs.replace(repository.manifest(ref), id=other.id, index=IndexPart(**parts))
    )
    return other


def renamed(name: bytes) -> Callable[[bytes], bytes]:
    return lambda raw: raw.replace(b"\0zz//", b"\0" + name + b"//")


CRAFTED: dict[str, Callable[[bytes], bytes]] = {
    "up": renamed(b".."),
    "far up": renamed(b"dir/../../thesis"),
    "absolute": renamed(b"/etc/passwd"),
    "a dot": renamed(b"./zz"),
    "an empty part": renamed(b"zz/"),
    "twice": renamed(b"dir"),
    "out of order": renamed(b"a"),
    "below a file": renamed(b"dir/below/zz"),
    "a mode that none has": lambda raw: raw.replace(b"zz//f 644", b"zz//f 644644644"),
    "a kind that none has": lambda raw: raw.replace(b"zz//f", b"zz//x"),
    "a size that is none": lambda raw: raw.replace(b" 7 ", b" -7 "),
    "groups backwards": lambda raw: (
        raw.replace(b"/0 ", b"/9 ", 1) + b"/1 1\0zzz//f 644 0 0 7 1.0000000000 - 1 1 \0"
    ),
    "no root": lambda raw: raw.replace(b"\0//d", b"\0.//d", 1),
}


@pytest.mark.parametrize("what", CRAFTED)
def test_a_made_up_index_leads_nowhere(
    repository: Repository, good: BackupRef, tmp_path: Path, canary: Path, what: str
) -> None:
    ref = forged(repository, good, tmp_path, files=CRAFTED[what])
    before = (repository.manifest(ref).index.files, repository.manifest(good).index.files)
    assert before[0] != before[1]
    backup = BackupReader(repository, ref, spool=tmp_path)
    with pytest.raises(DamagedObject):
        list(backup.entries())
    target = canary.parent / "target"
    with pytest.raises(VolferryError):
        restore_into_directory(backup, None, target, observer=Silent(), replace=True)
    with pytest.raises(VolferryError):
        restore_into_directory(
            backup, select_matching(backup, ["*"]), target, observer=Silent(), replace=True
        )
    assert canary.read_text() == "years of work"
    assert list(target.iterdir()) == []
    for read in (False, True):
        spool = tmp_path / f"verify{read}"
        spool.mkdir()
        found = Verifier(repository, read=read, spool=spool, observer=Silent()).verify(ref).findings
        assert found or not read


@pytest.mark.parametrize(("raw", "stored"), [(300 << 20, None), (0, None), (None, 1 << 40), (None, 0)])
def test_a_frame_of_a_length_that_none_has_is_not_fetched(
    repository: Repository, good: BackupRef, tmp_path: Path, raw: int | None, stored: int | None
) -> None:
    def change(lines: bytes) -> bytes:
        first, _, rest = lines.partition(b"\n")
        parts = first.split(b" ")
        parts[3] = b"%d" % stored if stored is not None else parts[3]
        parts[4] = b"%d" % raw if raw is not None else parts[4]
        return b" ".join(parts) + b"\n" + rest

    ref = forged(repository, good, tmp_path, frames=change)
    backup = BackupReader(repository, ref, spool=tmp_path)
    with pytest.raises(DamagedObject, match="a length that none has"):
        list(backup.tar_stream())


def test_a_link_in_the_way_of_what_is_deleted_is_not_followed(tmp_path: Path, canary: Path) -> None:
    target = canary.parent / "target"
    (target / "dir").symlink_to(canary.parent)
    with pytest.raises(OSError, match=r"directory|symbolic"):
        _delete(target, b"dir/thesis")
    assert canary.exists()
    _delete(target, b"dir")
    assert canary.exists()
    assert list(target.iterdir()) == []
