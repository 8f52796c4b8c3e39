from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.parts.faults import built_library

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It lets calls of `tar` and `find` fail, or lie."""
    return built_library(tmp_path_factory.mktemp("faults"))
