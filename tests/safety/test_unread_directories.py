"""Directories that could be listed, and that `tar` cannot read once more: they cost nothing of what is below them."""

from __future__ import annotations

import errno
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from tests.parts.faults import environment, fault
from tests.parts.local_helper import LocalHelper, LocalVolume
from tests.parts.restoring import restored_whole
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
def faults(library: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Those that happen to `tar` alone, and to the listing alone."""
    faults: dict[str, list[str]] = {"tar": [], "find": []}
    real = LocalHelper.start

    def start(helper: LocalHelper, command: list[str], **more: Any) -> Any:
        which = "tar" if "--create" in command else "find" if "///status" in "".join(command) else ""
        helper._environment = environment(library, *faults.get(which, ()))
        return real(helper, command, **more)

    monkeypatch.setattr(LocalHelper, "start", start)
    return faults


@pytest.fixture
def of_tar(faults: dict[str, list[str]]) -> list[str]:
    return faults["tar"]


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


def with_holes(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(5 << 20)
        file.write(path.name.encode())


APART = [("ahole",), ("dir/ahole",), ("ahole", "dir/ahole", "dir/zhole", "ehole"), ("dir/sub/ahole",)]


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("holes", APART)
@pytest.mark.parametrize("of", ["tar", "find"])
def test_it_comes_in_its_place_among_what_is_read_apart(
    repository: Repository,
    volume: LocalVolume,
    faults: dict[str, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    holes: tuple[str, ...],
    alone: bool,
    warm: bool,
    of: str,
) -> None:
    """Files with holes have streams of their own; `alone`, nothing else is below the directory."""
    if alone:
        shutil.rmtree(volume.data / "dir")
        (volume.data / "dir" / "sub").mkdir(parents=True)
    for each in holes:
        with_holes(volume.data / each)
    if warm:
        monkeypatch.setattr("tests.parts.local_helper.MOVING", Warm(lambda: None))
    there = present(volume.data)
    for night in range(2):
        faults[of][:] = [
            fault("open", errno.EIO, "/dir") if of == "tar" else fault("readdir", errno.EIO, "/dir", 3)
        ]
        stats = volume.back_up(repository)
        faults[of].clear()  # a restore lists, too
        (finding,) = stats.findings
        assert (finding.kind, finding.path) == ("unreadable", b"dir")
        kept = present(restored_whole(repository, stats.ref, tmp_path / f"restored{night}"))
        assert kept == {name: there[name] for name in kept}
        missed = there.keys() - kept.keys()
        assert all(name.startswith("dir/") for name in missed)
        assert of == "find" or not missed


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
