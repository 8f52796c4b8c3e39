"""Stores that somebody has made up, with digests and seals that are right: no reader is led out of its target."""

from __future__ import annotations

import os
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from tests.parts.forgery import forged, made_up, member, record
from tests.parts.local_helper import LocalHelper, LocalVolume
from tests.parts.memory_store import Clock, Contents, MemoryStore
from volferry.errors import DamagedObject, VolferryError
from volferry.observer import Silent
from volferry.operations.backup_reader import BackupReader
from volferry.operations.restore import restore_backup
from volferry.operations.restore_directory import _delete, restore_into_directory
from volferry.operations.selecting import select_matching
from volferry.operations.verify import Verifier
from volferry.repository import Repository

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from volferry.model import BackupRef

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
    ref = forged(repository, good, LATER, tmp_path, files=CRAFTED[what])
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

    ref = forged(repository, good, LATER, tmp_path, frames=change)
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


@pytest.mark.parametrize(
    "what", [*CRAFTED, "no frames", "beyond its pack", "of another pack", "another count"]
)
def test_nothing_is_built_upon_a_made_up_index(
    repository: Repository, good: BackupRef, tmp_path: Path, what: str
) -> None:
    pack = repository.manifest(good).packs[0]
    frames: dict[str, Callable[[bytes], bytes]] = {
        "no frames": lambda lines: b"\n".join(lines.split(b"\n")[1:]),
        "beyond its pack": lambda lines: lines.replace(b" 0 ", b" %d " % pack.stored_bytes, 1),
        "of another pack": lambda lines: lines.replace(pack.name.encode(), b"20260101T000000Z-abcdef.0000"),
    }
    forged(
        repository,
        good,
        LATER,
        tmp_path,
        files=CRAFTED.get(what, lambda raw: raw),
        frames=frames.get(what, lambda raw: raw),
        entries=1 if what == "another count" else None,
    )
    # Another machine's: what this one has made of a listing of its own is not fetched.
    stats = LocalVolume(tmp_path / "data", tmp_path / "other-state").back_up(repository)
    assert stats.base is None
    target = tmp_path / "restored"
    restore_into_directory(
        BackupReader(repository, stats.ref, spool=tmp_path), None, target, observer=Silent(), replace=False
    )
    assert (target / "dir" / "below").read_text() == "below"
    assert (target / "zz").read_text() == "content"


def test_a_good_index_that_was_fetched_is_built_upon(
    repository: Repository, good: BackupRef, tmp_path: Path
) -> None:
    stats = LocalVolume(tmp_path / "data", tmp_path / "other-state").back_up(repository)
    assert stats.base == good.id


@pytest.mark.parametrize("change", ["beyond its pack", "of another pack"])
def test_no_frame_is_taken_from_elsewhere(
    repository: Repository, good: BackupRef, tmp_path: Path, change: str
) -> None:
    pack = repository.manifest(good).packs[0]
    old, new = {
        "beyond its pack": (b" 0 ", b" %d " % pack.stored_bytes),
        "of another pack": (pack.name.encode(), b"20260101T000000Z-abcdef.0000"),
    }[change]
    ref = forged(repository, good, LATER, tmp_path, frames=lambda lines: lines.replace(old, new, 1))
    with pytest.raises(DamagedObject, match="lies beyond the end of pack"):
        list(BackupReader(repository, ref, spool=tmp_path).tar_stream())


ROOT = (record(b"", b"d"), member("./", tarfile.DIRTYPE))


def file(name: str, content: bytes = b"evil", **more: Any) -> tuple[bytes, bytes]:
    path = name.encode()
    return record(path, b"f", size=len(content)), member(name, tarfile.REGTYPE, content=content, **more)


def link(name: str, target: str) -> tuple[bytes, bytes]:
    return record(name.encode(), b"l", target=target.encode()), member(name, tarfile.SYMTYPE, target=target)


def hard_link(name: str, target: str) -> tuple[bytes, bytes]:
    return record(name.encode(), b"f", size=4), member(name, tarfile.LNKTYPE, target=target)


def lying(said: tuple[bytes, bytes], done: bytes) -> tuple[bytes, bytes]:
    """The index says the one, the stream does the other."""
    return said[0], done


def sparse(name: str, size: int, holes: str, content: bytes = b"", **more: str) -> tuple[bytes, bytes]:
    """A file with a map of its holes; `more` are extended records."""
    pax = {"major": "1", "minor": "0", "name": name, "realsize": str(size)} | more
    stored = holes.encode().ljust(-(-len(holes) // 512) * 512, b"\0") + content
    raw = member(
        name, tarfile.REGTYPE, content=stored, pax={f"GNU.sparse.{key}": each for key, each in pax.items()}
    )
    return record(name.encode(), b"f", size=size), raw


HIDDEN = member("../thesis", tarfile.REGTYPE, content=b"evil")
UNSUMMED = b"yz" + file("zz", HIDDEN)[1][2:]

STREAMS: dict[str, list[tuple[bytes, bytes]]] = {
    "up": [ROOT, lying(file("zz"), member("../thesis", tarfile.REGTYPE, content=b"evil"))],
    "absolute": [ROOT, lying(file("zz"), member("{home}/thesis", tarfile.REGTYPE, content=b"evil"))],
    "up, by an extended header": [
        ROOT,
        lying(file("zz"), member("zz", tarfile.REGTYPE, content=b"evil", pax={"path": "../thesis"})),
    ],
    "up, by the name of a sparse file": [
        ROOT,
        lying(
            file("zz"),
            member(
                "zz", tarfile.REGTYPE, content=b"evil", pax={"path": "zz", "GNU.sparse.name": "../thesis"}
            ),
        ),
    ],
    "a map that takes a header for content": [ROOT, sparse("b", 512, "1\n0\n512\n"), file("c", HIDDEN)],
    "a map that takes content for a header": [ROOT, sparse("b", 512, "1\n512\n0\n", HIDDEN)],
    "a map that goes on in content": [ROOT, sparse("b", 512, "900\n" + "0\n0\n" * 127), file("c", HIDDEN)],
    "a map of numbers that tar does not read": [ROOT, sparse("b", 512, "1\n0x0\n0\n", HIDDEN)],
    "a long map with data behind the end": [
        ROOT,
        sparse(
            "b",
            10**6,
            "101\n" + "".join(f"{each}000\n1\n" for each in range(1, 101)) + "1000000\n1\n",
            b"d" * 512 * 101,
        ),
    ],
    "a map of another version": [ROOT, sparse("b", 0, "1\n0\n0\n", HIDDEN, major="0", minor="1")],
    "a map in an extended header": [ROOT, sparse("b", 0, "1\n0\n0\n", map="0,512")],
    "another size than in the index": [ROOT, lying(file("b"), sparse("b", 5, "1\n5\n0\n")[1])],
    "one more": [ROOT, lying(file("zz"), file("zz")[1] + HIDDEN)],
    "through a symlink of its own": [
        ROOT,
        lying(link("zz", "{home}"), link("zz", "{home}")[1] + file("zz/thesis")[1]),
    ],
    "a symlink in place of a directory": [
        ROOT,
        lying((record(b"dir", b"d"), b""), link("dir", "{home}")[1]),
        file("dir/thesis"),
    ],
    "a symlink that leads elsewhere": [ROOT, lying(link("zz", "here"), link("zz", "{home}")[1])],
    "a hard link to what is above": [ROOT, hard_link("zz", "../thesis")],
    "a hard link to an absolute name": [ROOT, hard_link("zz", "{home}/thesis")],
    "a hard link through a symlink": [ROOT, link("aa", "{home}"), hard_link("zz", "aa/thesis")],
    "a link in place of a directory": [
        ROOT,
        lying((record(b"zz", b"d"), b""), hard_link("zz", "../thesis")[1]),
    ],
    "hidden behind a link with a content": [
        ROOT,
        lying(link("zz", "a"), link("zz", "a")[1].replace(b"%011o" % 0, b"%011o" % len(HIDDEN), 1) + HIDDEN),
    ],
    "hidden behind a header with a wrong sum": [ROOT, lying(file("yz", HIDDEN), UNSUMMED)],
    "hidden behind the end": [ROOT, lying(file("zz"), file("zz")[1] + bytes(1024) + HIDDEN)],
    "another kind of header": [ROOT, lying(file("zz"), member("zz", b"g") + HIDDEN)],
    "a long name": [ROOT, lying(file("zz"), member("zz", b"L", content=b"../thesis\0") + file("zz")[1])],
    "a size that is said in two ways": [
        ROOT,
        lying(
            file("zz", HIDDEN),
            member("zz", tarfile.REGTYPE, content=HIDDEN, pax={"size": "0", "comment": "\n10 size=9\n"}),
        ),
    ],
}


@pytest.mark.parametrize("what", STREAMS)
@pytest.mark.parametrize("how", ["into a directory", "over a directory", "some of it"])
def test_a_made_up_stream_leaves_nothing_outside_of_the_target(
    repository: Repository, good: BackupRef, tmp_path: Path, canary: Path, what: str, how: str
) -> None:
    home = os.fsencode(canary.parent)
    groups = [([each.replace(b"{home}", home)], _with_home(raw, home)) for each, raw in STREAMS[what]]
    ref = made_up(repository, good, LATER, tmp_path, groups)
    backup = BackupReader(repository, ref, spool=tmp_path)
    target = canary.parent / "target"
    if how == "into a directory":
        target.rmdir()
    before = tree(canary.parent, but=target)
    selection = select_matching(backup, ["*"]) if how == "some of it" else None
    with pytest.raises(DamagedObject) as caught:
        restore_into_directory(backup, selection, target, observer=Silent(), replace=False)
    assert "\n" not in str(caught.value)
    assert tree(canary.parent, but=target) == before
    assert canary.stat().st_nlink == 1
    with pytest.raises(DamagedObject):
        list(backup.tar_stream())


def test_what_a_map_makes_tar_take_for_headers_is_found_and_not_extracted(
    repository: Repository, good: BackupRef, tmp_path: Path, canary: Path
) -> None:
    # After it, `tar` is in step again, and what it leaves in the target is what the index says.
    evil = member(str(canary), tarfile.REGTYPE, content=b"evil")
    after = len(sparse("c", 9999, "1\n9999\n0\n")[1])
    inner = evil + sparse("c", len(evil) + after, f"1\n{len(evil) + after}\n0\n")[1]
    entries = (ROOT, sparse("b", 512, "1\n0\n512\n"), file("c", inner))
    ref = made_up(repository, good, LATER, tmp_path, [([each], raw) for each, raw in entries])
    backup = BackupReader(repository, ref, spool=tmp_path)
    with pytest.raises(DamagedObject, match="'b' has a map of holes that says more or less than is stored"):
        restore_into_directory(backup, None, canary.parent / "target", observer=Silent(), replace=False)
    assert canary.read_text() == "years of work"
    assert "'b' has a map of holes that says more or less" in verified(repository, ref, tmp_path)


def test_a_map_for_a_file_of_another_size_is_found(
    repository: Repository, good: BackupRef, tmp_path: Path, canary: Path
) -> None:
    # As `tar` writes it of a file that grows meanwhile, where the file system does not say where holes are.
    entries = (ROOT, sparse("b", 1000, "1\n0\n1024\n", bytes(1024)), file("c"))
    ref = made_up(repository, good, LATER, tmp_path, [([each], raw) for each, raw in entries])
    assert "'b' has a map of holes for 1024 bytes" in verified(repository, ref, tmp_path)
    backup = BackupReader(repository, ref, spool=tmp_path)
    target = canary.parent / "target"
    with pytest.raises(VolferryError, match="'b' has 1024 bytes instead of 1000"):
        restore_into_directory(backup, None, target, observer=Silent(), replace=False)
    assert (target / "c").read_text() == "evil"


def verified(repository: Repository, ref: BackupRef, place: Path) -> str:
    spool = place / "verify"
    spool.mkdir()
    findings = Verifier(repository, read=True, spool=spool, observer=Silent()).verify(ref).findings
    return "\n".join(map(str, findings))


def _with_home(raw: bytes, home: bytes) -> bytes:
    """In the fields of a header, which is summed anew."""
    if b"{home}" not in raw:
        return raw
    blocks = [raw[at : at + 512] for at in range(0, len(raw), 512)]
    for number, block in enumerate(blocks):
        if b"{home}" in block:
            for start, end in ((0, 100), (157, 257)):
                field = block[start:end].rstrip(b"\0").replace(b"{home}", home)
                block = block[:start] + field.ljust(end - start, b"\0") + block[end:]  # noqa: PLW2901
            unsummed = block[:148] + b" " * 8 + block[156:]
            blocks[number] = unsummed[:148] + b"%06o\0 " % sum(unsummed) + unsummed[156:]
    return b"".join(blocks)


def tree(directory: Path, *, but: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes() if path.is_file() else b""
        for path in directory.rglob("*")
        if path != but and but not in path.parents
    }


def test_an_entry_whose_directory_the_backup_lacks_is_restored_and_nothing_is_built_upon_that(
    repository: Repository, good: BackupRef, tmp_path: Path
) -> None:
    # As versions did that took what was below a directory that had vanished.
    ref = made_up(
        repository,
        good,
        LATER,
        tmp_path,
        [([each], raw) for each, raw in (ROOT, file("gone/below", b"content"), file("zz"))],
    )
    backup = BackupReader(repository, ref, spool=tmp_path)
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / "spool").mkdir()
    helper: Any = LocalHelper(target, tmp_path / "spool")
    try:
        stats = restore_backup(backup, "v", helper=helper, observer=Silent(), empty_first=False)
    finally:
        helper.end()
    assert (target / "gone" / "below").read_text() == "content"
    (warning,) = stats.warnings
    assert warning == "1 directory was made for what is below it; the first: 'gone' was not in the backup"
    assert LocalVolume(tmp_path / "data", tmp_path / "other-state").back_up(repository).base is None
