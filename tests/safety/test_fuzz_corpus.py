"""What the fuzzer has found, replayed, and every parser that reads from a store on what is nearly right."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import CORPUS
from tests.parts.fuzz_targets import TARGETS

SEEDS = {name: [path.read_bytes() for path in sorted((CORPUS / name).iterdir())] for name in TARGETS}
_WORDS = (
    b"", b"\0", b"\n", b"/", b"//", b"..", b".", b"-", b"0", b"1" * 25, b"\xff\xfe", b"\\ud800", b"1e999", b"NaN", b"[" * 2000,
    b"null", b"{}", b'"', b" ", b"path=", b"9 size=1\n", bytes(512),
)  # fmt: skip
edits = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.integers(0, 40),
        st.sampled_from(_WORDS) | st.binary(max_size=12),
        st.integers(1, 3),
    ),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_found_stays_mended(name: str) -> None:
    assert SEEDS[name]
    for data in SEEDS[name]:
        TARGETS[name](data)


def test_the_corpus_is_small() -> None:
    assert sum(len(data) for each in SEEDS.values() for data in each) < 200_000
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_is_nearly_right_is_refused_in_one_line_or_keeps_the_rules(
    name: str, data: st.DataObject
) -> None:
    found = data.draw(st.sampled_from(SEEDS[name]))
    for place, removed, inserted, times in data.draw(edits):
        at = int(place * len(found))
        found = found[:at] + inserted * times + found[at + removed :]
    TARGETS[name](found)
