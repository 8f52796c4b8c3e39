from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from volferry.archive.groups import LARGE_FILE_BYTES, MOST_ENTRIES, split_groups
from volferry.archive.listing import Entry, walk_key

Groups = list[tuple[bytes, ...]]


def entry(path: bytes, size: int = 0, kind: bytes = b"f") -> Entry:
    return Entry(path, b"%s 644 0 0 %d 1.0 1.0 1 1 " % (kind, size))


def grouped(entries: list[Entry]) -> Groups:
    found = list(split_groups(each.record for each in entries))
    assert [group.number for group in found] == list(range(len(found)))
    return [tuple(record.partition(b"//")[0] for record in group.records) for group in found]


def ends_a_group(path: bytes) -> bool:
    return len(grouped([entry(path), entry(b"next")])) == 2


CANDIDATES = [b"%d" % number for number in range(5000)]
ENDING = [path for path in CANDIDATES if ends_a_group(path)]
OTHERS = [path for path in CANDIDATES if not ends_a_group(path)]

volumes = st.dictionaries(
    st.one_of(*[st.sampled_from(OTHERS)] * 4, st.sampled_from(ENDING)),
    st.sampled_from(
        [0, 1, 4096, 65_536, 500_000, LARGE_FILE_BYTES - 1, LARGE_FILE_BYTES, 10 * LARGE_FILE_BYTES]
    ),
    min_size=1,
    max_size=60,
).map(lambda sizes: [entry(path, sizes[path]) for path in sorted(sizes, key=walk_key)])


def test_about_one_path_in_64_ends_a_group() -> None:
    assert 50 < len(CANDIDATES) / len(ENDING) < 80


@given(volumes)
def test_every_entry_is_in_one_group_and_in_order(entries: list[Entry]) -> None:
    assert [path for group in grouped(entries) for path in group] == [each.path for each in entries]


@given(volumes, st.data())
def test_removing_an_entry_moves_no_boundary_but_its_own(entries: list[Entry], data: st.DataObject) -> None:
    gone = data.draw(st.integers(0, len(entries) - 1))
    before = grouped(entries)
    after = grouped(entries[:gone] + entries[gone + 1 :])
    own = next(number for number, group in enumerate(before) if entries[gone].path in group)
    # At most it joins its two neighbours.
    untouched = [*before[: max(own - 1, 0)], *before[own + 2 :]]
    assert [group for group in after if group in untouched] == untouched
    assert len([group for group in after if group not in before]) <= 1


@given(volumes, st.data())
def test_inserting_an_entry_moves_no_boundary_but_its_own(entries: list[Entry], data: st.DataObject) -> None:
    new = data.draw(st.integers(0, len(entries) - 1))
    before = grouped(entries[:new] + entries[new + 1 :])
    after = grouped(entries)
    # At most it splits the group that it falls into, or joins the one before or after it.
    assert len([group for group in before if group not in after]) <= 1


@given(volumes, st.data())
def test_a_change_that_keeps_a_file_in_its_64_kib_moves_no_boundary(
    entries: list[Entry], data: st.DataObject
) -> None:
    changed = data.draw(st.integers(0, len(entries) - 1))
    start = entries[changed].size // 65_536 * 65_536
    size = data.draw(st.integers(start, start + 65_535))
    replaced = [*entries]
    replaced[changed] = entry(entries[changed].path, size)
    assert grouped(replaced) == grouped(entries)


@given(volumes, st.data())
def test_a_file_that_grows_or_shrinks_moves_no_boundary_but_its_own(
    entries: list[Entry], data: st.DataObject
) -> None:
    changed = data.draw(st.integers(0, len(entries) - 1))
    replaced = [*entries]
    replaced[changed] = entry(entries[changed].path, data.draw(st.integers(0, LARGE_FILE_BYTES - 1)))
    before = grouped(entries)
    # One that was large had a boundary on either side.
    assert len([group for group in before if group not in grouped(replaced)]) <= 3


def test_files_of_middling_size_end_groups_of_some_megabytes() -> None:
    groups = grouped([entry(path, 1_000_000) for path in CANDIDATES])
    assert 3 < len(CANDIDATES) / len(groups) < 6


@given(volumes)
def test_a_large_file_is_alone_in_its_group(entries: list[Entry]) -> None:
    groups = grouped(entries)
    for each in entries:
        if each.size >= LARGE_FILE_BYTES:
            assert (each.path,) in groups


def test_a_size_counts_only_if_it_is_that_of_a_file() -> None:
    large = 2 * LARGE_FILE_BYTES
    entries = [entry(OTHERS[0]), entry(OTHERS[1], large, b"d"), entry(OTHERS[2], large, b"l")]
    assert len(grouped(entries)) == 1


def test_names_of_which_none_ends_a_group_are_grouped_all_the_same() -> None:
    many = [path for path in (b"%d" % number for number in range(10_000)) if not ends_a_group(path)]
    groups = grouped([entry(path) for path in many])
    assert [len(group) for group in groups] == [MOST_ENTRIES, MOST_ENTRIES, len(many) - 2 * MOST_ENTRIES]
