"""Directories that a tag marks as caches: no more of a tag is read than its signature."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.parts import local_helper
from tests.parts.local_helper import LocalHelper, LocalVolume
from volferry.archive.excludes import CACHE_SIGNATURE, Excludes
from volferry.archive.tree_scripts import PYTHON, begin_command
from volferry.operations.backup_reader import BackupIndex
from volferry.repository import Repository
from volferry.stores.local import LocalStore

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.parts.local_helper import LocalProcess

NAMES = ("cache", "not a cache", "with\nnewline", "empty", "almost")


class Counted(LocalHelper):
    """Counts the bytes that came out of its commands."""

    total = 0

    def start(self, command: Sequence[str], **more: Any) -> LocalProcess:
        process = super().start(command, **more)
        read, read_into = process.read, process.read_into

        def counted_read(size: int) -> bytes:
            data = read(size)
            Counted.total += len(data)
            return data

        def counted_read_into(buffer: memoryview) -> int:
            size = read_into(buffer)
            Counted.total += size
            return size

        process.read, process.read_into = counted_read, counted_read_into  # type: ignore[method-assign]
        return process


class WithoutPython(Counted):
    """As one with an image that lacks it."""

    def start(self, command: Sequence[str], **more: Any) -> LocalProcess:
        return super().start(["false"] if command[0] == PYTHON else command, **more)


@pytest.fixture
def volume(tmp_path: Path) -> LocalVolume:
    data = tmp_path / "data"
    for name in NAMES:
        (data / name).mkdir(parents=True)
        (data / name / "content").write_text("content")
    for name, text in (
        ("cache", CACHE_SIGNATURE),
        ("not a cache", b"Signature: another"),
        ("with\nnewline", CACHE_SIGNATURE + b"\n# a comment"),
        ("empty", b""),
        ("almost", CACHE_SIGNATURE[:-1]),
    ):
        (data / name / "CACHEDIR.TAG").write_bytes(text)
    return LocalVolume(data, tmp_path / "state", settings={"excludes": Excludes(caches=True)})


def backed_up(volume: LocalVolume, place: Path) -> set[str]:
    """The names of the directories with their content in a backup."""
    Counted.total = 0
    repository, _ = Repository.open_or_create(LocalStore(place / "store"))
    ref = volume.back_up(repository).ref
    index = BackupIndex(repository, ref, spool=place)
    return {
        os.fsdecode(entry.path).removesuffix("/content")
        for entry in index.entries()
        if entry.path.endswith(b"/content")
    }


@pytest.mark.parametrize("helper", [Counted, WithoutPython])
@pytest.mark.parametrize("size", [0, 64 << 20, 8 << 40])
def test_large_tags_cost_nothing(
    volume: LocalVolume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, helper: type[LocalHelper], size: int
) -> None:
    monkeypatch.setattr(local_helper, "LocalHelper", helper)
    if size:
        for name in ("cache", "empty"):
            os.truncate(volume.data / name / "CACHEDIR.TAG", size)
        # The tags themselves need not be read.
        volume.settings = {"excludes": Excludes(("CACHEDIR.TAG",), caches=True)}
    caches = {"cache", "with\nnewline"}
    if size and helper is WithoutPython:  # it would have to be read whole
        caches.remove("cache")
    assert backed_up(volume, tmp_path) == {*NAMES} - caches
    assert Counted.total < 8 << 20


def test_what_is_in_the_place_of_a_tag_holds_nothing_up(tmp_path: Path) -> None:
    for name in ("file", "other"):
        (tmp_path / name).write_bytes(CACHE_SIGNATURE)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "directory").mkdir()
    names = ("fifo", "link", "directory", "gone", "file", "other")
    command = [sys.executable, *begin_command(str(tmp_path), CACHE_SIGNATURE)[1:]]
    found = subprocess.run(
        command,
        input=b"".join(name.encode() + b"\0" for name in names),
        capture_output=True,
        timeout=30,
        check=True,
    )
    assert found.stdout == b"file\0other\0"
