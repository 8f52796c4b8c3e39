"""Finds directories that say of themselves that they are caches: by a `CACHEDIR.TAG` with the signature (https://bford.info/cachedir/)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volferry.archive.commands import create_command, find_command
from volferry.archive.excludes import CACHE_SIGNATURE, CACHE_TAG
from volferry.archive.listing import split_records
from volferry.archive.tarstream import TarReader
from volferry.archive.tree_scripts import begin_command
from volferry.operations.streams import feeding

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from volferry.engine.helper import Helper

_READ_BYTES = 1 << 20
_LARGEST_READ_TAG = 1 << 20  # that is read whole where no less of it can be


def cache_directories(
    helper: Helper, directory: str, *, one_file_system: bool, not_walked: list[str]
) -> set[bytes]:
    """Paths of those below `directory` that are walked, and have a tag that begins as it should."""
    find = find_command(directory, CACHE_TAG.decode(), one_file_system=one_file_system, not_walked=not_walked)
    process = helper.start(find, on_stderr=lambda _: None)
    sizes = {}
    for record in split_records(iter(lambda: process.read(_READ_BYTES), b"")):
        size, _, path = record.partition(b" ")
        sizes[path] = int(size)
    process.wait()
    tags = _signed(helper, directory, sizes) if sizes else []
    return {path.rpartition(b"/")[0] for path in tags}


def _signed(helper: Helper, directory: str, sizes: Mapping[bytes, int]) -> Iterable[bytes]:
    """Of files called as tags are, by path, those with the signature."""
    process = helper.start(
        begin_command(directory, CACHE_SIGNATURE), stdin=True, on_stderr=lambda _: None, bulk="stdout"
    )
    with feeding(process, sizes):
        found = b"".join(iter(lambda: process.read(_READ_BYTES), b""))
    if process.wait() == 0:
        return found.split(b"\0")[:-1]
    return _signed_as_tar_has_them(
        helper, directory, [path for path, size in sizes.items() if size <= _LARGEST_READ_TAG]
    )


def _signed_as_tar_has_them(helper: Helper, directory: str, paths: Iterable[bytes]) -> list[bytes]:
    """For an image without Python: each file is read whole."""
    process = helper.start(create_command(directory, links=False), stdin=True, on_stderr=lambda _: None)
    found = []
    with feeding(process, paths):
        reader = TarReader(process.read_into)
        for member in reader:
            begin = b""
            for piece in reader.payload():
                begin += bytes(piece[: len(CACHE_SIGNATURE) - len(begin)])
            if begin == CACHE_SIGNATURE:
                found.append(member.path)
    process.wait()
    return found
