from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.unit.real_trees import ENVIRONMENT
from volferry.archive.commands import list_command
from volferry.archive.excludes import Excludes, LeftOut, without_excluded
from volferry.archive.listing import read_listing
from volferry.config import Config
from volferry.errors import ConfigError
from volferry.labels import settings_of_labels
from volferry.model import Volume, VolumeUse
from volferry.volume_settings import Rule, VolumeSettings

if TYPE_CHECKING:
    from pathlib import Path


def record(path: str, kind: str = "f") -> bytes:
    return f"{path}//{kind} 644 0 0 5 1.0000000000 1.0000000000 7 1 ".encode()


TREE = [
    record("", "d"),
    record("a", "d"),
    record("a/.git", "d"),
    record("a/.git/HEAD"),
    record("a/keep.tmp"),
    record("a/x.tmp"),
    record("a.txt"),
    record("cache", "d"),
    record("cache/CACHEDIR.TAG"),
    record("cache/deep", "d"),
    record("cache/deep/file"),
    record("cache/file"),
    record("cached"),
]


def kept(*patterns: str, caches: tuple[bytes, ...] = ()) -> tuple[list[str], LeftOut]:
    left_out = LeftOut()
    found = without_excluded(TREE, Excludes(patterns), cache_directories=set(caches), left_out=left_out)
    return [each.partition(b"//")[0].decode() for each in found], left_out


def test_nothing_is_left_out_without_patterns() -> None:
    assert len(kept()[0]) == len(TREE)


def test_a_pattern_without_a_slash_fits_at_every_depth_and_may_be_taken_back() -> None:
    paths, left_out = kept("*.tmp", "!keep.tmp")
    assert "a/x.tmp" not in paths
    assert "a/keep.tmp" in paths
    assert left_out.paths == [b"a/x.tmp"]


def test_an_excluded_directory_takes_all_below_it_along_and_is_named_once() -> None:
    paths, left_out = kept(".git/")
    assert not [path for path in paths if ".git" in path]
    assert (left_out.entries, left_out.paths) == (2, [b"a/.git"])


def test_a_leading_slash_means_the_root_of_the_volume() -> None:
    assert "a/.git/HEAD" in kept("/.git")[0]
    assert "cache" not in kept("/cache/")[0]
    assert "cached" in kept("/cache/")[0]


def test_the_root_is_never_left_out() -> None:
    assert kept("*")[0] == [""]


def test_of_a_cache_the_directory_and_its_tag_stay() -> None:
    paths, left_out = kept(caches=(b"cache",))
    assert [path for path in paths if path.startswith("cache")] == ["cache", "cache/CACHEDIR.TAG", "cached"]
    assert left_out.entries == 3
    assert left_out.source_bytes == 10


@pytest.mark.parametrize("pattern", ["!", "[z-a]", "[[:foo:]]"])
def test_a_pattern_that_cannot_be_understood_is_refused_by_its_text(pattern: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(pattern))):
        Excludes(("*.tmp", pattern)).check()


def volume(labels: dict[str, str], *uses: dict[str, str]) -> Volume:
    mounted = tuple(
        VolumeUse(f"c{number}", "id", "image", "running", "/data", read_write=True, labels=each)
        for number, each in enumerate(uses)
    )
    return Volume("pgdata", "local", {}, labels, "local", "", mounted)


def test_a_volumes_label_overrides_a_containers_which_overrides_the_rules_which_override_the_defaults() -> (
    None
):
    config = Config(
        defaults=VolumeSettings(exclude=("default",), exclude_caches=True),
        rules=(
            Rule(match="pg*", exclude=("first",)),
            Rule(match="pg*", exclude=("last",)),
            Rule(match="other", exclude=("no",)),
            Rule(label="tier=gold", exclude_caches=False),
        ),
    )
    assert config.settings_of(volume({})).exclude == ("last",)
    assert config.settings_of(volume({})).exclude_caches is True
    assert config.settings_of(volume({"tier": "gold"})).exclude_caches is False
    assert config.settings_of(volume({}, {"volferry.exclude": "a, b\nc"})).exclude == ("a", "b", "c")
    labelled = volume({"volferry.exclude": "mine"}, {"volferry.exclude": "its"})
    assert config.settings_of(labelled).exclude == ("mine",)


def test_a_label_that_is_neither_true_nor_false_is_refused_with_its_volume() -> None:
    with pytest.raises(ConfigError, match=r"volume x: label volferry\.exclude-caches is 'maybe'"):
        settings_of_labels({"volferry.exclude-caches": "maybe"}, of="volume x")


_PARTS = st.sampled_from(
    [
        "a",
        "b",
        "ab",
        "a.b",
        "a+b",
        "*",
        "a*",
        "*b",
        "**",
        "[ab]",
        "?",
        "a b",
        "(a",
        "ä",
        "a\u00a0",
        "\x1f",
        "\u3000b",
    ]
)
_PATTERNS = st.lists(
    st.builds(
        lambda parts, before, after, negated: f"{negated}{before}{'/'.join(parts)}{after}",
        st.lists(_PARTS, min_size=1, max_size=3),
        st.sampled_from(["", "/"]),
        st.sampled_from(["", "/", " ", "/**", "\u00a0", "\u2003 ", "\x85", " \x1f", "\u00a0/", "\\ "]),
        st.sampled_from(["", "", "", "!"]),
    ),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    names = [
        "a",
        "b",
        "ab",
        "a.b",
        "a+b",
        "axb",
        "aab",
        "(a",
        "a b",
        "ä",
        "c\nd",
        "a\u00a0",
        "a ",
        "b\x85",
        "\x1f",
        "\u3000b",
    ]
    for first in names:
        for second in names:
            (root / first / second).mkdir(parents=True)
            (root / first / second / "a").touch()
    return root


@given(patterns=_PATTERNS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_not_walked_is_excluded(tree: Path, tmp_path: Path, patterns: list[str]) -> None:
    """Without the walk below some of what is excluded, the same is kept."""
    excludes = Excludes(tuple(patterns))
    try:
        excludes.check()
    except ValueError:  # nothing is listed with those
        assume(condition=False)
    kept = []
    for not_walked in ([], excludes.not_walked):
        command = list_command(str(tree), str(tmp_path), not_walked=not_walked)
        listed = subprocess.run(command, capture_output=True, check=True, env=ENVIRONMENT).stdout
        records = (entry.record for entry in read_listing([listed]))
        kept.append(list(without_excluded(records, excludes, cache_directories=(), left_out=LeftOut())))
    assert kept[0] == kept[1]


@given(
    st.sampled_from(["cache", "/cache", "*", "**/cache"]),
    st.text(st.sampled_from([chr(number) for number in range(0x3001) if chr(number).isspace()]), max_size=3),
)
def test_what_white_space_a_pattern_ends_with_makes_no_difference_to_what_is_walked(
    pattern: str, white: str
) -> None:
    """A name that ends with it is another one for the patterns' own library."""
    excludes = Excludes((pattern + white,))
    records = [record("", "d"), record(f"cache{white}".replace("\0", ""), "d")]
    kept = list(without_excluded(records, excludes, cache_directories=(), left_out=LeftOut()))
    if len(kept) == 2:
        assert not any(re.fullmatch(each, f"./cache{white}") for each in excludes.not_walked)


def test_a_directory_that_is_excluded_by_its_name_is_not_walked(tree: Path, tmp_path: Path) -> None:
    command = list_command(
        str(tree), str(tmp_path), not_walked=Excludes(("/a.b/", "ab", "x/**/a+b")).not_walked
    )
    listed = subprocess.run(command, capture_output=True, check=True, env=ENVIRONMENT).stdout
    paths = {entry.path for entry in read_listing([listed])}
    assert {b"a.b", b"a/ab", b"axb/a", b"a+b/a"} <= paths
    assert not {path for path in paths if path.startswith((b"a.b/", b"ab/", b"a/ab/"))}
