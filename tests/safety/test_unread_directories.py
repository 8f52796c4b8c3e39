"""Directories that could be listed, and that `tar` cannot read once more: they cost nothing of what is below them."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.parts.faults import built_library, environment, fault
from tests.parts.local_helper import LocalHelper, LocalVolume
from tests.safety.test_early_ends import Warm
from tests.safety.test_read_faults import present, stored
from volferry.errors import CommandFailed
from volferry.observer import Silent
from volferry.operations.verify import Verifier

if TYPE_CHECKING:
    from pathlib import Path

    from volferry.repository import Repository

pytestmark = pytest.mark.usefixtures("trusting")

NUMBERS = [errno.EIO, errno.EBUSY]


@pytest.fixture
def volume(tmp_path: Path) -> LocalVolume:
    data = tmp_path / "data"
    for each in ("", "dir", "dir/sub", "zzz"):
        (data / each).mkdir()
        for name in ("one", "two"):
            (data / each / name).write_text(f"{each} {name}")
    with (data / "dir" / "holes").open("wb") as file:
        file.truncate(5 << 20)
        file.write(b"data")
    return LocalVolume(data, tmp_path / "state")


@pytest.fixture
def of_tar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Faults that happen to `tar` alone."""
    faults: list[str] = []
    library = built_library(tmp_path)
    real = LocalHelper.start

    def start(helper: LocalHelper, command: list[str], **more: Any) -> Any:
        helper._environment = environment(library, *faults) if "--create" in command else {}
        return real(helper, command, **more)

    monkeypatch.setattr(LocalHelper, "start", start)
    return faults


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(
    ("call", "place"),
    [("readdir", ""), ("stat", ""), *((call, "dir") for call in ("readdir", "open", "stat"))],
)
def test_a_directory_costs_nothing_of_what_is_below_it(
    repository: Repository,
    volume: LocalVolume,
    of_tar: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    place: str,
    number: int,
    warm: bool,
) -> None:
    if warm:
        monkeypatch.setattr("tests.parts.local_helper.MOVING", Warm(lambda: None))
    of_tar.append(fault(call, number, f"/{place}" if place else "/data"))
    for _ in range(2):  # the later one builds upon the other
        stats = volume.back_up(repository)
        (finding,) = stats.findings
        assert (finding.kind, finding.path.decode()) == ("unreadable", place)
        assert os.strerror(number).lower() in finding.detail
        assert stored(repository, stats.ref, tmp_path / "spool") == present(volume.data)
        verifier = Verifier(repository, read=True, spool=tmp_path / "spool", observer=Silent())
        assert verifier.verify(stats.ref).findings == ()
    of_tar.clear()
    healed = volume.back_up(repository)
    assert healed.findings == ()
    assert stored(repository, healed.ref, tmp_path / "spool") == present(volume.data)


def test_a_volume_of_which_tar_reads_nothing_is_a_failure(
    repository: Repository, volume: LocalVolume, of_tar: list[str]
) -> None:
    places = ("", "/dir", "/dir/sub", "/zzz")
    names = [f"{each}/{name}" for each in places for name in ("one", "two", "holes")]
    of_tar += [fault("readdir", errno.EIO, each or "/data") for each in places]
    of_tar += [fault("open", errno.EIO, each) for each in names]
    with pytest.raises(CommandFailed, match="its root directory could not be read: input/output error"):
        volume.back_up(repository)


@pytest.mark.parametrize("number", [errno.EBUSY, errno.ENOTCONN])
def test_a_volume_that_cannot_be_opened_has_the_reason(
    repository: Repository, volume: LocalVolume, of_tar: list[str], number: int
) -> None:
    of_tar.append(fault("open", number, "/data"))
    with pytest.raises(CommandFailed, match=f'"{volume.data}": Cannot open: {os.strerror(number)}'):
        volume.back_up(repository)
