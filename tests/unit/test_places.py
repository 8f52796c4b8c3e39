"""Buckets, and what is said of one that is not there."""

from __future__ import annotations

import pytest

from volferry.stores.places import making_of


@pytest.mark.parametrize("name", ["my-backups", "abc", "a.b-9", "0" * 63])
def test_one_that_can_be_made(name: str) -> None:
    assert making_of(name) == "make it there, or name another one"


@pytest.mark.parametrize("name", ["bk", "Backups", "my_backups", "-abc", "abc.", "0" * 64])
def test_one_whose_name_s3_does_not_take(name: str) -> None:
    assert "3 to 63 lower-case letters" in making_of(name)
