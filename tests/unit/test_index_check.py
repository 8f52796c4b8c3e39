from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parts.forgery import record
from volferry.archive.index_check import _keeps_rules, _wrong, checked_groups
from volferry.archive.listing import parse_record, walk_key

names = st.sampled_from([b"a", b"b", b"a-", b"\x01", b".", b"..", b"...", b".a", b"\xff"])
paths = st.lists(names, max_size=3).map(b"/".join) | st.sampled_from([b"/a", b"a/"])
kinds = st.sampled_from([b"d", b"d", b"f", b"l"])


@st.composite
def listings(draw: st.DrawFn) -> list[bytes]:
    """Most of them nearly in order."""
    some = draw(st.lists(st.tuples(paths, kinds), min_size=1, max_size=8))
    if draw(st.booleans()):
        some = [(b"", b"d"), *sorted(dict(some).items(), key=lambda each: walk_key(each[0]))]
    return [record(path, kind) for path, kind in some]


@given(listings(), st.booleans(), st.integers(0, 9))
def test_a_group_as_a_whole_is_judged_as_its_entries_one_by_one_are(
    records: list[bytes], parents: bool, start: int
) -> None:
    start = min(start, len(records) - 1)
    last = parse_record(records[start - 1]) if start else None
    before, one_by_one = last, True
    for each in records[start:]:
        entry = parse_record(each)
        one_by_one = one_by_one and not _wrong(entry, before, parents=parents)
        before = entry
    assert _keeps_rules(records[start:], last, parents=parents) == one_by_one


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b" 1700000000.0000000000", b" 1700000000.0"),
        (b" 1700000000.0000000000", b" -"),
        (b" 1 1 ", b" 1  "),
        (b" 0 0 ", b" 0 -1 "),
        (b"f 644", b"f 9"),
        (b"f 644", b"ff 644"),
        (b"f 644", b"F 644"),
        (b" 1 1 ", b" 1 %b " % (b"1" * 21)),
    ],
)
def test_a_record_whose_fields_are_none_is_named(old: bytes, new: bytes) -> None:
    wrong = record(b"name", b"f").replace(old, new, 1)
    with pytest.raises(ValueError, match="the record of 'name' is not one"):
        list(checked_groups(iter([(0, [record(b"", b"d"), wrong])])))


def test_times_before_1970_and_untrusted_ones_are_fine() -> None:
    some = [record(b"", b"d"), record(b"old", b"f").replace(b"1700000000.0000000000", b"-1.5000000000")]
    some += [record(b"untrusted", b"f").replace(b"1700000000.0000000000 1 ", b"- 1 ")]
    assert list(checked_groups(iter([(0, some)]), parents=True)) == [(0, some)]
