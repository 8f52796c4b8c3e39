from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.parts.faults import built_library
from tests.parts.fuse import through_fuse
from tests.parts.local_helper import LocalHelper, LocalVolume
from tests.parts.memory_store import Clock, Contents, MemoryStore
from volferry.archive import listing
from volferry.observer import Silent
from volferry.operations.places import Place
from volferry.operations.transfer import Transfer
from volferry.repository import Repository

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.parts.fuse import Faults


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It lets calls of `tar` and `find` fail, or lie."""
    return built_library(tmp_path_factory.mktemp("faults"))


@pytest.fixture
def repository() -> Repository:
    return Repository.open_or_create(MemoryStore(Contents("store", Clock())))[0]


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were just written count as unchanged."""
    monkeypatch.setattr(listing, "CHANGED_WITHIN_SECONDS", -3600)


@pytest.fixture
def faults(below: Path, tmp_path: Path) -> Iterator[Faults]:
    """Of a server that shows the directory `below` as `data`."""
    with through_fuse(below, tmp_path / "data") as faults:
        yield faults


@pytest.fixture
def volume(faults: Faults, tmp_path: Path) -> LocalVolume:
    """What that server shows."""
    del faults
    return LocalVolume(tmp_path / "data", tmp_path / "state")


@pytest.fixture
def transfer(volume: LocalVolume, tmp_path: Path) -> Iterator[Transfer]:
    """Of the volume into the directory `target`, which is empty."""
    for each in ("target", "spool", "spool.s", "spool.t"):
        (tmp_path / each).mkdir()
    helpers = [
        LocalHelper(volume.data, tmp_path / "spool.s"),
        LocalHelper(tmp_path / "target", tmp_path / "spool.t"),
    ]
    source, target = (Place(cast("Any", helper), helper.directory("")) for helper in helpers)
    yield Transfer(source, target, tmp_path / "spool", Silent())
    for helper in helpers:
        helper.end()
