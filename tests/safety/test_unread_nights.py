"""Volumes of which less can be read, night after night: nothing that only an older backup has is forgotten."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from tests.parts.faults import environment, fault
from tests.parts.local_helper import LocalVolume
from tests.parts.memory_store import Contents, MemoryStore
from tests.unit.test_suspicion import Nights
from volferry.operations.acceptance import FIRST_UNREAD, READ, accept
from volferry.repository import Repository

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


class TestTheLastThatCouldReadIt:
    def test_a_few_files_of_a_failing_disk(self, nights: Nights, library: Path) -> None:
        """Too few to be suspicious; more of them after some nights."""
        before = nights.back_up().ref.id
        nights.prune()
        lost: list[str] = []
        reasons: dict[str, tuple[str, ...]] = {}
        for count in (2, 5):
            break_files(nights, library, count)
            for _ in range(4):
                lost.append(nights.back_up().ref.id)
                pruned = nights.prune()
                assert pruned.hold is not None
                assert not pruned.hold.is_suspicious
                reasons = {verdict.id: verdict.reasons for verdict in pruned.verdicts}
                assert READ in reasons[before]
                assert FIRST_UNREAD in reasons[lost[0]]
        # Three of the five could be read until then.
        assert READ in reasons[lost[3]]
        assert sorted(nights.ids) == sorted([before, lost[0], *lost[3:]])
        nights.volume.environment = {}
        nights.back_up()
        assert nights.prune().hold is None
        assert len(nights.ids) == 3

    def test_until_the_hold_is_over_and_no_longer(self, nights: Nights, library: Path) -> None:
        good = nights.back_up().ref.id
        break_files(nights, library, 1)
        while nights.night < 31:
            nights.back_up()
            nights.prune()
            assert good in nights.ids, nights.night
            assert len(nights.ids) <= 5
        for _ in range(3):
            nights.back_up()
            nights.prune()
        assert len(nights.ids) == 3

    def test_until_somebody_accepts(self, nights: Nights, library: Path) -> None:
        good = stats = nights.back_up()
        break_files(nights, library, 1)
        for _ in range(4):
            stats = nights.back_up()
        assert nights.prune().hold is not None
        assert accept(nights.repository, stats.ref, "host")
        assert nights.prune().hold is None
        assert good.ref.id not in nights.ids
        nights.back_up()
        assert nights.prune().hold is None
        # What was accepted is not all that can be lost.
        break_files(nights, library, 2)
        nights.back_up()
        assert nights.prune().hold is not None

    def test_a_volume_that_is_emptied_afterwards(self, nights: Nights, library: Path) -> None:
        good = nights.back_up().ref.id
        break_files(nights, library, 15)
        half = nights.back_up().ref.id
        nights.empty()
        for _ in range(6):
            nights.back_up()
            assert nights.prune().hold is not None
            assert {good, half} <= set(nights.ids)

    def test_in_a_replica(self, nights: Nights, library: Path) -> None:
        replica, _ = Repository.open_or_create(MemoryStore(Contents("replica", nights.clock)))
        good = stats = nights.back_up()
        break_files(nights, library, 3)
        for _ in range(5):
            stats = nights.back_up()
            nights.prune()
            nights.copy(replica)
            nights.prune(replica)
            assert good.ref in list(replica.refs())
        accept(nights.repository, stats.ref, "host")
        nights.copy(replica)
        assert nights.prune(replica).hold is None
        assert good.ref not in list(replica.refs())
