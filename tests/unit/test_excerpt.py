"""Chosen members of a tar stream: the same as extracting all of it and deleting what was not chosen."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.parts.trees import Directory, assert_same, realise, snapshot, trees, write, write_sparse
from volferry.archive.commands import create_command, extract_command
from volferry.archive.excerpt import Excerpt
from volferry.archive.listing import walk_key
from volferry.archive.selection import Selection
from volferry.archive.tarstream import END_OF_ARCHIVE, TarReader

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.parts.trees import Node

ENVIRONMENT = {"LC_ALL": "C", "PATH": os.environ["PATH"]}


def tar_of(root: Path) -> bytes:
    """The stream of a whole tree, in the order of a listing."""
    paths = sorted(snapshot(root, content=False), key=walk_key)
    asked = b"".join((path or b".") + b"\0" for path in paths)
    return subprocess.run(
        create_command(str(root)), input=asked, stdout=subprocess.PIPE, check=True, env=ENVIRONMENT
    ).stdout


def extract(stream: bytes, root: Path) -> None:
    root.mkdir()
    done = subprocess.run(
        extract_command(str(root)), input=stream, capture_output=True, check=False, env=ENVIRONMENT
    )
    assert (done.returncode, done.stderr) == (0, b"")


def excerpt_of(stream: bytes, selection: Selection) -> bytes:
    """What is chosen of a stream, and the directories above it."""
    excerpt = Excerpt(lambda path: selection.covers(path) or path in selection.parents)
    parts = [bytes(piece) for piece in excerpt.members(TarReader(io.BytesIO(stream).readinto))]
    while missing := excerpt.missing:
        excerpt.missing = {}
        parts += [bytes(piece) for piece in excerpt.content(TarReader(io.BytesIO(stream).readinto), missing)]
    return b"".join([*parts, *excerpt.closing(), END_OF_ARCHIVE])


def delete_unwanted(root: Path, selection: Selection) -> None:
    """Leaves what is chosen and the directories above it; times of directories stay."""
    found = snapshot(root, content=False)
    for path in sorted(found, reverse=True, key=walk_key):
        if selection.covers(path) or path in selection.parents:
            continue
        place = root / os.fsdecode(path)
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        elif place.is_symlink() or place.exists():
            place.unlink()
    for path, node in found.items():
        place = root / os.fsdecode(path)
        if place.is_dir() and not place.is_symlink():
            os.utime(place, ns=(0, node.mtime_ns))


def both_ways(
    root: Path, chosen: Iterable[bytes], scratch: Path
) -> tuple[dict[bytes, Node], dict[bytes, Node]]:
    """The tree by extracting everything and deleting the unwanted, and by extracting the excerpt."""
    selection = Selection(chosen)
    stream = tar_of(root)
    extract(stream, scratch / "deleted")
    delete_unwanted(scratch / "deleted", selection)
    extract(excerpt_of(stream, selection), scratch / "chosen")
    return snapshot(scratch / "deleted"), snapshot(scratch / "chosen")


@settings(max_examples=60)
@given(trees(), st.data())
def test_an_excerpt_is_everything_without_the_rest(tree: Directory, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory) / "root"
        root.mkdir()
        realise(tree, root)
        paths = sorted(set(snapshot(root, content=False)) - {b""})
        chosen = data.draw(st.lists(st.sampled_from(paths), min_size=1, max_size=5)) if paths else [b""]
        assert_same(*both_ways(root, chosen, Path(directory)))


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """Names of one file in several directories, whose times and modes say if something came late."""
    root = tmp_path / "root"
    for name in ("a", "b", "c"):
        (root / name).mkdir(parents=True)
    first = write(os.fsencode(root) + b"/a/first", b"content" * 1000)
    os.setxattr(first, b"user.note", b"\0\xff")
    for other in (b"/b/" + b"long" * 50, b"/b/second", b"/c/\xff\n", b"/c/third"):
        os.link(first, os.fsencode(root) + other)
    (root / "a" / "symlink").symlink_to("nowhere")
    os.link(root / "a" / "symlink", root / "b" / "symlink", follow_symlinks=False)
    os.mkfifo(root / "a" / "fifo")
    os.link(root / "a" / "fifo", root / "c" / "fifo")
    write_sparse(os.fsencode(root) + b"/a/sparse", 8 << 20, {4 << 20: b"data"})
    os.link(root / "a" / "sparse", root / "b" / "sparse")
    os.link(root / "a" / "sparse", os.fsencode(root) + b"/c/" + b"sparse" * 30)
    for name in ("a", "b", "c", ""):
        os.utime(root / name, ns=(0, 1_500_000_000_123_456_789))
    return root


@pytest.mark.parametrize(
    "chosen",
    [
        [b"b"],
        [b"c"],
        [b"b", b"c"],
        [b"a"],
        [b"a", b"c"],
        [b"b/second"],
        [b"b/second", b"c/third"],
        [b"c/\xff\n", b"b/symlink", b"c/fifo"],
        [b"b/sparse"],
        [b"a/first", b"c/third"],
    ],
    ids=repr,
)
def test_hard_links_in_every_mixture(linked: Path, tmp_path: Path, chosen: list[bytes]) -> None:
    assert_same(*both_ways(linked, chosen, tmp_path))
