from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volferry.errors import UsageError
from volferry.store_config import StoreConfig
from volferry.stores.factory import open_store


@pytest.mark.parametrize(
    "url", ["/srv/backups", "/srv/backups/", "file:///srv/backups", "file:///srv/a%20b", "~/x", "x"]
)
def test_the_place_of_a_directory_is_that_of_the_opened_store(url: str) -> None:
    assert StoreConfig(url=url).place == open_store(url).url


def test_a_bucket_is_at_an_endpoint() -> None:
    here = StoreConfig(url="s3://bucket/prefix/", endpoint="https://here")
    assert here.place == StoreConfig(url="s3://bucket/prefix", endpoint="https://here").place
    assert here.place != StoreConfig(url="s3://bucket/prefix").place


def test_a_home_that_there_is_not_is_no_error() -> None:
    assert StoreConfig(url="~nobody-of-that-name/x").place == str(Path("~nobody-of-that-name/x").absolute())


@given(
    st.from_regex(r"[A-Za-z][A-Za-z0-9+.-]{0,8}:(/?[a-z0-9]{1,8}){0,3}", fullmatch=True).filter(
        lambda url: "//" not in url
    )
)
def test_a_url_with_a_slash_too_few_is_no_directory_unless_it_is_meant(url: str) -> None:
    with pytest.raises(UsageError, match="looks like a URL"):
        open_store(url)
    assert open_store(f"./{url}").url == str(Path.cwd() / url)
