"""Files that end before their sizes say, as of a server with a stale size, or whose reads are short, where they are read in blocks: nothing that
was not read passes for unchanged.
"""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest

from tests.parts import local_helper
from tests.parts.faults import environment, fault
from tests.parts.local_helper import LocalVolume
from tests.parts.memory_store import Clock, Contents, MemoryStore
from tests.safety.test_read_faults import stored
from volferry.archive import listing
from volferry.archive.blocks import BLOCK_BYTES, LEAST_BYTES
from volferry.archive.patch_scripts import CHANGED_SCRIPT, FINGERPRINT_SCRIPT, block_bytes
from volferry.archive.tree_scripts import ANY_DATA_SCRIPT, DIGEST_SCRIPT, UNREADABLE
from volferry.operations import patches
from volferry.repository import Repository

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIZE = 2 * LEAST_BYTES
# In the first and the second half, at a block's end and within one, and at the file's ends.
ENDS = (0, 1, BLOCK_BYTES * 3, BLOCK_BYTES * 3 + 5000, LEAST_BYTES, LEAST_BYTES + 5000, SIZE - 1)


def noise(number: int, size: int = SIZE) -> bytes:
    return random.Random(number).randbytes(size)


@pytest.fixture
def volume() -> Iterator[LocalVolume]:
    with TemporaryDirectory() as directory:
        data = Path(directory) / "data"
        data.mkdir()
        (data / "large").write_bytes(noise(1))
        (data / "small").write_text("small")
        yield LocalVolume(data, Path(directory) / "state")


class Warm:
    """Between the passes, something happens."""

    mode = "stop"
    warm = True
    downtime_seconds = 0.0

    def __init__(self, between: Callable[[], object]) -> None:
        self.begin = between

    def findings(self) -> list[Any]:
        return []

    def end(self) -> None:
        pass


def changed_in_places(path: Path) -> bytes:
    with path.open("r+b") as file:
        for offset in range(1000, SIZE, SIZE // 7):
            file.seek(offset)
            file.write(b"changed")
    return path.read_bytes()


def write_end(path: Path, how: str, at: int) -> str:
    return fault("end" if how == "end" else "read", 1 if how == "end" else errno.EIO, path.name, at)


@pytest.mark.parametrize("how", ["end", "error"])
@pytest.mark.parametrize("at", ENDS)
@pytest.mark.parametrize("heals", [False, True])
def test_a_warm_backup_takes_no_block_for_unchanged_that_it_could_not_read(
    monkeypatch: pytest.MonkeyPatch, library: Path, volume: LocalVolume, how: str, at: int, heals: bool
) -> None:
    """`heals`: where the program that compares has met it, and `tar` does not any longer."""
    monkeypatch.setattr(listing, "CHANGED_WITHIN_SECONDS", -3600)
    repository = Repository.open_or_create(MemoryStore(Contents("store", Clock())))[0]
    path = volume.data / "large"
    now = b""

    def between() -> None:
        nonlocal now
        now = changed_in_places(path)
        volume.environment |= environment(library, write_end(path, how, at))

    real = patches.take_patches

    def take_patches(*arguments: Any) -> Any:
        found = real(*arguments)
        assert found == []
        if heals:
            volume.environment.clear()
        return found

    monkeypatch.setattr("volferry.operations.volume_reading.take_patches", take_patches)
    monkeypatch.setattr(local_helper, "MOVING", Warm(between))

    stats = volume.back_up(repository)

    kept = stored(repository, stats.ref, volume.state.parent / "spool")["large"]
    assert len(kept) == SIZE
    if heals:
        assert (stats.findings, kept) == ((), now)
    else:
        assert [(each.kind, each.path) for each in stats.findings] == [("unreadable", b"large")]
        assert kept == now[:at] + bytes(SIZE - at)


@pytest.mark.parametrize("call", ["llistxattr", "lgetxattr", "acl_get_file"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ESTALE])
def test_a_warm_backup_hears_of_attributes_that_could_not_be_read(
    monkeypatch: pytest.MonkeyPatch, library: Path, volume: LocalVolume, call: str, error: int
) -> None:
    monkeypatch.setattr(listing, "CHANGED_WITHIN_SECONDS", -3600)
    repository = Repository.open_or_create(MemoryStore(Contents("store", Clock())))[0]
    path = volume.data / "large"
    os.setxattr(path, "user.key", b"value")
    subprocess.run(["setfacl", "-m", "u:7:rw", path], check=True)

    def between() -> None:
        changed_in_places(path)
        volume.environment |= environment(library, fault(call, error, "/large"))

    monkeypatch.setattr(local_helper, "MOVING", Warm(between))
    stats = volume.back_up(repository)
    assert [(each.kind, each.path) for each in stats.findings] == [("unreadable", b"large")]
    volume.environment.clear()
    monkeypatch.undo()
    stats = volume.back_up(repository)
    assert (stats.findings, stats.read_bytes > SIZE) == ((), True)  # its record was not trusted


def test_short_reads_cost_a_warm_backup_nothing(
    monkeypatch: pytest.MonkeyPatch, library: Path, volume: LocalVolume
) -> None:
    monkeypatch.setattr(listing, "CHANGED_WITHIN_SECONDS", -3600)
    repository = Repository.open_or_create(MemoryStore(Contents("store", Clock())))[0]
    now = b""

    def between() -> None:
        nonlocal now
        now = changed_in_places(volume.data / "large")
        volume.environment |= environment(library, fault("short", 10_001, "/large"))

    monkeypatch.setattr(local_helper, "MOVING", Warm(between))
    stats = volume.back_up(repository)
    assert stats.read_bytes < 2 * SIZE + LEAST_BYTES  # it was patched
    assert stats.findings == ()
    assert stored(repository, stats.ref, volume.state.parent / "spool")["large"] == now


def make_sparse(path: Path, *data: tuple[int, bytes]) -> None:
    with path.open("wb") as file:
        file.truncate(SIZE)
        for offset, content in data:
            file.seek(offset)
            file.write(content)


def answer(script: str, directory: Path, request: bytes, library: Path, *faults: str, lie: str = "") -> bytes:
    return subprocess.run(
        [sys.executable, "-c", lie + script, directory],
        input=request,
        capture_output=True,
        check=True,
        env=environment(library, *faults) | {"PATH": os.environ["PATH"]},
    ).stdout


@pytest.mark.parametrize("at", [*ENDS, SIZE])
def test_what_cannot_be_read_to_its_end_has_no_digest(library: Path, tmp_path: Path, at: int) -> None:
    """Also where the rest would be zeros, as those that `tar` puts there."""
    path = tmp_path / "file"
    path.write_bytes(noise(1, at) + bytes(SIZE - at))
    end = fault("end", 1, "/file", at)
    assert answer(DIGEST_SCRIPT, tmp_path, b"file\0", library)[:1] == b"="
    expected = UNREADABLE if at < SIZE else b"="
    assert answer(DIGEST_SCRIPT, tmp_path, b"file\0", library, end)[:1] == expected


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ERANGE])
def test_what_has_attributes_that_cannot_be_read_has_no_digest(
    library: Path, tmp_path: Path, number: int
) -> None:
    (tmp_path / "file").touch()
    failing = fault("llistxattr", number, "/file")
    assert answer(DIGEST_SCRIPT, tmp_path, b"file\0", library, failing)[:1] == UNREADABLE


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSYS, 524])
def test_what_can_have_no_attributes_has_a_digest(library: Path, tmp_path: Path, number: int) -> None:
    (tmp_path / "file").touch()
    failing = fault("llistxattr", number, "/file")
    assert answer(DIGEST_SCRIPT, tmp_path, b"file\0", library) == answer(
        DIGEST_SCRIPT, tmp_path, b"file\0", library, failing
    )


def test_what_holds_more_than_its_size_says_has_no_digest(library: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(noise(1, 5000))
    smaller = fault("size", 1000, "/file")
    assert answer(DIGEST_SCRIPT, tmp_path, b"file\0", library, smaller)[:1] == UNREADABLE


def request(script: str, size: int) -> bytes:
    head = (4).to_bytes(4, "big") + b"file"
    numbers = (block_bytes(size),) if script == FINGERPRINT_SCRIPT else (block_bytes(size), 0, 1 << 40, 0)
    return head + b"".join(each.to_bytes(8, "big") for each in numbers)


@pytest.mark.parametrize("script", [FINGERPRINT_SCRIPT, CHANGED_SCRIPT], ids=["fingerprint", "changed"])
@pytest.mark.parametrize("at", [*ENDS, SIZE])
def test_no_block_takes_the_place_of_one_that_cannot_be_read(
    library: Path, tmp_path: Path, script: str, at: int
) -> None:
    """Of a file whose first and last mebibytes are data."""
    refused = b"\xff" * 8 if script == FINGERPRINT_SCRIPT else b"X"
    make_sparse(tmp_path / "file", (0, noise(1, 1 << 20)), (SIZE - (1 << 20), noise(2, 1 << 20)))
    asked = request(script, SIZE)
    whole = answer(script, tmp_path, asked, library)
    assert refused not in {whole[:8], whole[-1:]}
    assert answer(script, tmp_path, asked, library, fault("short", 777, "/file")) == whole
    cut = answer(script, tmp_path, asked, library, fault("end", 1, "/file", at))
    assert cut == whole if at == SIZE else cut.endswith(refused)


@pytest.mark.parametrize("at", [0, 5000, 1 << 20, LEAST_BYTES])
def test_a_file_that_cannot_be_read_to_its_end_is_not_one_hole(
    library: Path, tmp_path: Path, at: int
) -> None:
    lie = "import os\ndef lie(*_):\n    raise OSError(6, 'no data')\nos.lseek = lie\n"
    make_sparse(tmp_path / "file")
    assert answer(ANY_DATA_SCRIPT, tmp_path, b"file\0", library, lie=lie) == b"0"
    end = fault("end", 1, "/file", at)
    assert answer(ANY_DATA_SCRIPT, tmp_path, b"file\0", library, end, lie=lie) == b"1"
