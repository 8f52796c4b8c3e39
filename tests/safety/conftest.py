from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.parts.faults import built_library
from tests.parts.fuse import through_fuse
from tests.parts.local_helper import LocalVolume
from tests.parts.memory_store import Clock, Contents, MemoryStore
from volferry.archive import listing
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
