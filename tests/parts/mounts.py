"""Filesystems for a test, mounted while it needs them."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

_EXFAT_BYTES = 64 << 20
_EXT4_BYTES = 16 << 20
NOBODY = 65534
# What a test changes below is seen at once.
_UNCACHED = "attr_timeout=0,entry_timeout=0,negative_timeout=0"


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


@contextmanager
def exfat(directory: Path) -> Iterator[Path]:
    """An exFAT, by its FUSE driver: kernels without one of their own mount it too."""
    image = directory.with_name("image")
    with image.open("wb") as file:
        file.truncate(_EXFAT_BYTES)
    subprocess.run(["mkfs.exfat", image], check=True, stdout=subprocess.DEVNULL)
    device = subprocess.run(
        ["losetup", "--find", "--show", image], check=True, capture_output=True, text=True
    ).stdout.strip()
    try:
        with mounted(directory, "-t", "exfat-fuse", device):
            yield directory
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def through_bindfs(*options: str) -> Callable[[Path], AbstractContextManager[Path]]:
    """A directory `below` beside the place, seen through bindfs(1)."""

    @contextmanager
    def opened(directory: Path) -> Iterator[Path]:
        below = directory.with_name("below")
        below.mkdir()
        directory.mkdir(exist_ok=True)
        subprocess.run(["bindfs", *options, below, directory], check=True)
        try:
            yield directory
        finally:
            subprocess.run(["umount", "--lazy", directory], check=True)

    return opened


@contextmanager
def as_nobody(directory: Path, *options: str) -> Iterator[Path]:
    """A directory `below` beside the place, as an NFS with root_squash has it: whoever writes there has the rights of nobody, whose all of it is."""
    below = directory.with_name("below")
    below.mkdir()
    os.chown(below, NOBODY, NOBODY)
    directory.mkdir(exist_ok=True)
    library = directory.with_name("as_nobody.so")
    source = Path(__file__).with_name("as_nobody.c")
    gcc = ["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([*gcc, "-o", library, source, "-ldl"], check=True)
    subprocess.run(
        ["bindfs", "-o", _UNCACHED, *options, below, directory],
        check=True,
        env=os.environ | {"LD_PRELOAD": str(library)},
    )
    try:
        _check_is_squashed(directory)
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


def _check_is_squashed(directory: Path) -> None:
    probe = directory / "probe"
    probe.mkdir(0o500)
    try:
        (probe / "in").mkdir()
    except PermissionError:
        return
    finally:
        probe.rmdir()
    raise RuntimeError("bindfs did not become nobody")


@contextmanager
def _squashed_without_attributes(directory: Path) -> Iterator[Path]:
    with as_nobody(directory, "--xattr-none") as place:
        yield place


# What restores onto lesser file systems are tried on: an exFAT; what refuses owners and attributes, as a share that only root may write; an NFS that
# squashes root; what takes owners and modes and forgets them, as CIFS.
MOUNTS: dict[str, Callable[[Path], AbstractContextManager[Path]]] = {
    "exfat": exfat,
    "squashed": through_bindfs("--chown-deny", "--chgrp-deny", "--xattr-none"),
    "nobody": _squashed_without_attributes,
    "ignoring": through_bindfs("--chown-ignore", "--chgrp-ignore", "--chmod-ignore", "--xattr-none"),
}


@contextmanager
def ext4_device(image: Path, holding: Path) -> Iterator[str]:
    """A block device with a file system that holds what is in a directory."""
    with image.open("wb") as file:
        file.truncate(_EXT4_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-d", holding, image], check=True)
    device = subprocess.run(
        ["losetup", "--find", "--show", image], check=True, capture_output=True, text=True
    ).stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
