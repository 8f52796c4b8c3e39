"""Filesystems for a test, mounted while it needs them."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def mounted(directory: Path, *arguments: str) -> Iterator[Path]:
    """`mount ARGUMENTS DIRECTORY`; the directory is made if need be."""
    directory.mkdir(exist_ok=True)
    subprocess.run(["mount", *arguments, directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


@contextmanager
def in_memory(directory: Path, size: str) -> Iterator[Path]:
    """A filesystem of `size`, as tmpfs(5) writes it."""
    with mounted(directory, "-t", "tmpfs", "-o", f"size={size}", "tmpfs") as filesystem:
        yield filesystem
