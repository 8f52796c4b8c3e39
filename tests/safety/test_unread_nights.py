"""Volumes of which less can be read, night after night: nothing that only an older backup has is forgotten."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from tests.parts.faults import environment, fault
from tests.parts.local_helper import LocalVolume
from tests.unit.test_suspicion import Nights

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 200_000


@pytest.fixture
def nights(tmp_path: Path) -> Nights:
    nights = Nights(LocalVolume(tmp_path / "data", tmp_path / "state"))
    nights.write(30, SIZE)
    (nights.volume.data / "readme").write_bytes(b"can be read")
    return nights


def break_files(nights: Nights, library: Path, count: int, call: str = "read", offset: int = 0) -> None:
    """As many of the files give an error from a byte on; of each it is to be read again."""
    files = sorted(nights.volume.data.glob("file???"))[:count]
    for path in files:
        path.chmod(0o640)
    nights.volume.environment = environment(
        library, *(fault(call, errno.EIO, f"/{path.name}", offset) for path in files)
    )


class TestZerosAreNoContent:
    @pytest.mark.parametrize("offset", [0, 1000, 12_000])
    def test_files_that_are_there_and_cannot_be_read(
        self, nights: Nights, library: Path, offset: int
    ) -> None:
        good = nights.back_up().ref.id
        nights.prune()
        break_files(nights, library, 30, offset=offset)
        for _ in range(5):
            stats = nights.back_up()
            assert stats.findings[0].kind == "shrunk"
            assert stats.findings[0].detail.startswith("from 32 to ")
            assert "more bytes could not be read" in stats.findings[0].detail
            assert stats.findings_total == 31
            assert nights.prune().hold is not None
            assert good in nights.ids
            counts = nights.repository.manifest(stats.ref).counts
            assert counts.unread_entries == (30 if offset < 1000 else 0)
            assert counts.unread_bytes == pytest.approx(30 * (SIZE - offset), abs=30 * 10_240)
            assert counts.source_bytes - counts.unread_bytes >= len(b"can be read") + 30 * (offset - 10_240)

        nights.volume.environment = {}
        healed = nights.back_up()
        assert healed.findings == ()
        counts = nights.repository.manifest(healed.ref).document["counts"]
        assert "unread_entries" not in counts
        assert "unread_bytes" not in counts
        assert nights.prune().hold is None

    def test_other_names_of_a_file_are_not_there_either(self, nights: Nights, library: Path) -> None:
        for path in sorted(nights.volume.data.glob("file*")):
            os.link(path, f"{path}.link")
        nights.back_up()
        break_files(nights, library, 30)
        stats = nights.back_up()
        assert stats.findings[0].kind == "shrunk"
        counts = nights.repository.manifest(stats.ref).counts
        assert (counts.unread_entries, counts.unread_bytes) == (60, 60 * SIZE)

    def test_what_never_could_be_read_is_not_gone(self, nights: Nights, library: Path) -> None:
        break_files(nights, library, 30)
        for _ in range(3):
            assert {finding.kind for finding in nights.back_up().findings} == {"unreadable"}

    def test_more_than_a_manifest_names(self, nights: Nights, library: Path) -> None:
        nights.write(1100, 10, suffix=".small")
        good = nights.back_up().ref.id
        nights.volume.environment = environment(library, fault("read", errno.EIO, ".small"))
        (nights.volume.data / "readme").touch()
        for path in nights.volume.data.glob("file???"):
            path.unlink()
        for _ in range(4):
            stats = nights.back_up()
            assert stats.findings[0].kind == "shrunk"
            assert nights.repository.manifest(stats.ref).counts.unread_entries == 1100
            nights.prune()
            assert good in nights.ids
