from __future__ import annotations

import re

import pytest

from volferry.archive.selection import Selection
from volferry.errors import PathExists
from volferry.operations.restore_paths import plan


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        ([b"a"], "'a' exists in vol: --replace deletes it first"),
        ([b"a", b"b", b"c"], "'a' and 2 more exist in vol: --replace deletes them first"),
    ],
)
def test_what_is_in_the_way_is_named(paths: list[bytes], said: str) -> None:
    with pytest.raises(PathExists, match=f"^{re.escape(said)}$"):
        plan(Selection(paths), dict.fromkeys(paths, b"f"), replace=False, where="vol")
