"""Whether two directories are one, or one is in the other, is found out by a file that is gone again."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.parts.local_helper import LocalHelper
from tests.parts.trees import assert_same, snapshot
from volferry.archive import probe_scripts
from volferry.errors import CommandFailed, Interrupted
from volferry.operations.same_data import Overlap, find_overlap, holds_something, look_alike

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


@pytest.fixture
def helper(tmp_path: Path) -> Iterator[Any]:
    helper = LocalHelper(tmp_path, tmp_path)
    yield helper
    helper.end()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """What is to be read."""
    directory = tmp_path / "data"
    for each in ("b c", "\n-d/*/e", "f"):
        (directory / each).mkdir(parents=True)
    (directory / "f" / "file").write_text("content")
    os.utime(directory, ns=(10**18, 10**18 + 123_456_789))
    return directory


def overlap(helper: Any, data: Path, *targets: Path, below: bool = True, full: bool = True) -> Overlap | None:
    """Nothing may be left, nor another time."""
    before = {each: snapshot(each) for each in (data, *targets)}
    names = list(map(str, targets))
    found = find_overlap(helper, [str(data)], helper, names, below=below, full=names if full else [])
    for each, was in before.items():
        assert_same(was, snapshot(each))
    return found


def test_directories_that_are_apart(helper: Any, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "data2"
    other.mkdir()
    assert overlap(helper, data, other) is None
    assert not look_alike(helper, str(data), helper, str(other))


@pytest.mark.parametrize("below", [False, True])
def test_the_same_directory(helper: Any, data: Path, tmp_path: Path, *, below: bool) -> None:
    other = tmp_path / "other"
    other.mkdir()
    assert overlap(helper, data, other, data, below=below) == Overlap(str(data), str(data), "is")
    assert look_alike(helper, str(data), helper, str(data))


def test_a_directory_that_is_mounted_at_two_places(helper: Any, data: Path, tmp_path: Path) -> None:
    """As a share is, on two machines."""
    other = tmp_path / "other"
    other.mkdir()
    subprocess.run(["mount", "--bind", data, other], check=True)
    try:
        assert overlap(helper, data, other) == Overlap(str(data), str(other), "is")
        deeper = other / "\n-d" / "*"
        assert overlap(helper, data, deeper) == Overlap(str(data), str(deeper), "is in")
    finally:
        subprocess.run(["umount", other], check=True)


@pytest.mark.parametrize("name", ["b c", "f", "\n-d/*/e"])
def test_directories_that_are_in_each_other(helper: Any, data: Path, name: str) -> None:
    inner = data / name
    assert overlap(helper, data, inner) == Overlap(str(data), str(inner), "is in")
    assert overlap(helper, data, inner, below=False) is None
    assert overlap(helper, inner, data) == Overlap(str(inner), str(data), "holds")
    assert overlap(helper, inner, data, full=False) is None


def test_the_nearest_of_several_sources_is_named(helper: Any, data: Path) -> None:
    sources = [str(data), str(data / "f")]
    for each in (sources, sources[::-1]):
        found = find_overlap(helper, each, helper, [str(data / "f")], below=True)
        assert found == Overlap(str(data / "f"), str(data / "f"), "is")


class Ending:
    """A helper that is interrupted when it is to look."""

    def start(self, command: Sequence[str], **_: Any) -> Any:
        raise Interrupted(" ".join(command))


def test_nothing_is_left_by_a_signal(helper: Any, data: Path) -> None:
    before = snapshot(data)
    with pytest.raises(Interrupted):
        find_overlap(cast("Any", Ending()), [str(data)], helper, [str(data)], below=True)
    assert_same(before, snapshot(data))


def test_an_image_without_python_leaves_nothing_but_a_time(
    helper: Any, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_scripts, "PYTHON", "false")
    assert find_overlap(helper, [str(data)], helper, [str(data)], below=True) is not None
    assert {path.name for path in data.iterdir()} == {"b c", "\n-d", "f"}


def test_a_target_that_cannot_be_written_is_named(helper: Any, data: Path, tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="putting a file into the target"):
        find_overlap(helper, [str(data)], helper, [str(data), str(tmp_path / "none")], below=True)
    assert {path.name for path in data.iterdir()} == {"b c", "\n-d", "f"}


def test_what_a_killed_run_left_is_nothing_and_goes(helper: Any, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    assert not holds_something(helper, str(other))
    (other / f"{probe_scripts.PROBE_NAME}0123456789abcdef-0").touch()
    assert not holds_something(helper, str(other))
    assert find_overlap(helper, [str(data)], helper, [str(other)], below=True) is None
    assert not list(other.iterdir())
    (other / f"{probe_scripts.PROBE_NAME}mine").write_text("content")
    assert holds_something(helper, str(other))
    assert find_overlap(helper, [str(data)], helper, [str(other)], below=True) is None
    assert len(list(other.iterdir())) == 1
