"""What users type for paths, and what a choice of paths covers."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volferry.archive.listing import walk_key
from volferry.archive.selection import Selection, is_below, matcher, meanings, parents_of
from volferry.model import printable

names = st.binary(min_size=1, max_size=3).filter(
    lambda name: not set(name) & {0, 0x2F} and name not in {b".", b".."}
)
paths = st.lists(names, min_size=1, max_size=4).map(b"/".join)
near_paths = st.lists(st.sampled_from([b"a", b"b", b"a.b", b"a\x01"]), max_size=3).map(b"/".join)


@given(paths)
def test_any_path_can_be_given_as_it_is(path: bytes) -> None:
    assert meanings(os.fsdecode(path))[0] == path


@given(paths)
def test_any_path_can_be_given_as_it_is_printed(path: bytes) -> None:
    assert path in meanings(printable(path))


@pytest.mark.parametrize("typed", ["/a/b", "./a/b", "a/b/", "a//b", "/./a/./b//", "a/b"])
def test_slashes_and_dots_around_a_path_mean_nothing(typed: str) -> None:
    assert meanings(typed) == (b"a/b",)


@pytest.mark.parametrize("typed", ["/", ".", "./", "//"])
def test_the_root_has_names(typed: str) -> None:
    assert meanings(typed) == (b"",)


def test_an_empty_argument_is_not_the_root() -> None:
    with pytest.raises(ValueError, match="empty"):
        meanings("")


def test_the_literal_form_comes_first() -> None:
    assert meanings(r"a\x41\\") == (rb"a\x41\\", b"aA\\")
    assert meanings(r"a\q\x4") == (rb"a\q\x4",)


@given(st.lists(near_paths, max_size=5), near_paths)
def test_a_selection_covers_what_was_chosen_and_all_below(chosen: list[bytes], path: bytes) -> None:
    selection = Selection(chosen)
    assert selection.covers(path) == any(path == each or is_below(path, each) for each in chosen)


@given(st.lists(near_paths, max_size=6))
def test_no_root_of_a_selection_is_below_another(chosen: list[bytes]) -> None:
    selection = Selection(chosen)
    assert list(selection.roots) == sorted(selection.roots, key=walk_key)
    assert not [(one, other) for one in selection.roots for other in selection.roots if is_below(one, other)]
    assert all(any(is_below(root, parent) for root in selection.roots) for parent in selection.parents)


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("*.conf", b"etc/a.conf", True),
        ("*.conf", b"a.conf/other", False),
        ("etc/*", b"etc/a/b", True),
        ("/etc/*", b"etc/a", True),
        ("./etc/?", b"etc/a", True),
        ("etc", b"etc", True),
        ("etc", b"etcetera", False),
        ("[ab]*", b"x/bcd", True),
        ("[!ab]*", b"x/bcd", False),
        ("*\n*", b"x/a\nb", True),
        ("*", b"", False),
        ("a?c", b"a\xffc", True),
        ("\udcff*", b"\xffname", True),
        ("é", "é".encode(), True),
        ("É", "é".encode(), False),
        ("a\\", b"a\\", True),
    ],
)
def test_patterns(pattern: str, path: bytes, fits: bool) -> None:
    assert matcher(pattern)(path) is fits


@given(
    st.lists(st.lists(st.sampled_from([b"a", b"b", b"a.b", b"a\x01"]), max_size=4), min_size=1, max_size=6),
    st.data(),
)
def test_a_path_is_covered_by_itself_and_by_what_is_above_it(
    roots: list[list[bytes]], draw: st.DataObject
) -> None:
    chosen = {b"/".join(parts) for parts in roots}
    path = b"/".join(draw.draw(st.lists(st.sampled_from([b"a", b"b", b"a.b", b"a\x01"]), max_size=6)))
    assert Selection(chosen).covers(path) == (
        path in chosen or any(above in chosen for above in parents_of(path))
    )
