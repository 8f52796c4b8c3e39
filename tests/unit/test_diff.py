"""Differences between listings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volferry.archive.listing import Entry, paired, walk_key
from volferry.operations.diff import change_between, compare

paths = st.lists(st.sampled_from([b"a", b"b", b"a.b", b"a\x01", b"\xff"]), max_size=3).map(b"/".join)
metas = st.builds(
    lambda kind, mode, size, time, ctime: (
        b"%c %o 0 0 %d %d.0000000000 %s 7 1 " % (kind, mode, size, time, ctime)
    ),
    st.sampled_from([b"f", b"d"]),
    st.sampled_from([0o644, 0o600]),
    st.integers(0, 2),
    st.integers(0, 1),
    st.sampled_from([b"-", b"5.0000000000"]),
)
listings = st.dictionaries(paths, metas, max_size=10).map(
    lambda found: [Entry(path, found[path]) for path in sorted(found, key=walk_key)]
)


@given(listings, listings)
def test_pairs_are_the_paths_of_both_in_the_order_of_a_walk(left: list[Entry], right: list[Entry]) -> None:
    pairs = list(paired(left, right))
    found = [(one or other).path for one, other in pairs if one or other]  # type: ignore[union-attr]
    assert found == sorted({entry.path for entry in [*left, *right]}, key=walk_key)
    assert [one for one, _ in pairs if one] == left
    assert [other for _, other in pairs if other] == right


@given(listings, listings)
def test_every_path_of_one_side_is_a_difference_and_the_way_back_is_the_opposite(
    left: list[Entry], right: list[Entry]
) -> None:
    there = {difference.path: difference.change for difference in compare(left, right)}
    back = {difference.path: difference.change for difference in compare(right, left)}
    before, after = ({entry.path for entry in listing} for listing in (left, right))
    assert {path for path, change in there.items() if change == "added"} == after - before
    assert {path for path, change in there.items() if change == "removed"} == before - after
    opposite = {"added": "removed", "removed": "added", "modified": "modified", "metadata": "metadata"}
    assert back == {path: opposite[change] for path, change in there.items()}


@given(listings)
def test_a_listing_does_not_differ_from_itself(listing: list[Entry]) -> None:
    assert list(compare(listing, listing)) == []


BASE = b"f 644 1 2 10 5.0000000000 6.0000000000 7 1 "


@pytest.mark.parametrize(
    ("meta", "change"),
    [
        (BASE, None),
        (b"f 644 1 2 10 5.0000000000 - 7 1 ", None),
        (b"f 644 1 2 10 5.0000000000 9.0000000000 8 3 ", None),
        (b"f 600 1 2 10 5.0000000000 6.0000000000 7 1 ", "metadata"),
        (b"f 644 0 2 10 5.0000000000 6.0000000000 7 1 ", "metadata"),
        (b"f 644 1 0 10 5.0000000000 6.0000000000 7 1 ", "metadata"),
        (b"f 600 1 2 11 5.0000000000 6.0000000000 7 1 ", "modified"),
        (b"f 644 1 2 10 5.0000000010 6.0000000000 7 1 ", "modified"),
        (b"l 644 1 2 10 5.0000000000 6.0000000000 7 1 x", "modified"),
    ],
)
def test_what_is_a_difference(meta: bytes, change: str | None) -> None:
    assert change_between(Entry(b"x", BASE), Entry(b"x", meta)) == change


def test_the_target_of_a_symlink_is_its_content_and_the_size_of_a_directory_is_nobodys() -> None:
    link = b"l 777 0 0 1 5.0000000000 6.0000000000 7 1 "
    assert change_between(Entry(b"x", link + b"a"), Entry(b"x", link + b"b")) == "modified"
    directory = b"d 755 0 0 %d 5.0000000000 6.0000000000 7 1 "
    assert change_between(Entry(b"x", directory % 1), Entry(b"x", directory % 2)) is None
