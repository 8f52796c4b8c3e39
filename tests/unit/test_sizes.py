"""Sizes are printed as they are written."""

from __future__ import annotations

import pytest

from volferry.checked import document_of
from volferry.helper_config import HelperConfig, HelperMemory
from volferry.sizes import Size


@pytest.mark.parametrize(
    ("size", "text"),
    [(8 << 20, "8M"), (1 << 40, "1T"), (1536 << 20, "1536M"), (1000, "1000"), (0, "0"), (5 << 10, "5K")],
)
def test_as_a_person_writes_them(size: int, text: str) -> None:
    assert str(Size(size)) == text
    assert Size.of_document(text) == size


def test_no_limit_is_off() -> None:
    assert str(HelperMemory(0)) == "off"
    assert HelperMemory.of_document("off") == 0
    assert document_of(HelperConfig())["memory"] == "512M"
