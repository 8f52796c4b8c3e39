"""Changes of a tree, as services make them: by chance, from a seed."""
# ruff: noqa: PTH101, PTH102, PTH104, PTH108, PTH118, PTH123, PTH211 -- paths are bytes here, and pathlib takes none

from __future__ import annotations

import os
import shutil
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random


def mutate(root: bytes, chance: random.Random, changes: int) -> None:
    """Some entries are written to, replaced, renamed, linked, deleted, and given other modes, owners, times and attributes."""
    for _ in range(changes):
        paths = [root + b"/" + path for path in _paths(root)]
        path = chance.choice(paths) if paths else root
        other = chance.choice(_directories(root)) + b"/new%x" % chance.getrandbits(48)
        _change(root, path, other, chance)


def _paths(root: bytes) -> list[bytes]:
    found = []
    for place, directories, files in os.walk(root):
        found += [os.path.relpath(os.path.join(place, name), root) for name in directories + files]
    return sorted(found)


def _directories(root: bytes) -> list[bytes]:
    return [place for place, _, _ in os.walk(root)]


def _change(root: bytes, path: bytes, other: bytes, chance: random.Random) -> None:
    mode = os.lstat(path).st_mode
    kind = chance.choice(("write", "rename", "link", "delete", "replace", "attributes", "attributes", "new"))
    if kind == "new":
        _make(other, chance)
    elif kind == "attributes" or path == root:
        _give_attributes(path, mode, chance)
    elif kind == "write" and stat.S_ISREG(mode):
        with open(path, "ab") as file:
            file.write(chance.randbytes(chance.choice((1, 5000, 300_000))))
    elif kind == "rename" and not other.startswith(path + b"/"):
        os.rename(path, other)
    elif kind == "link" and (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        os.link(path, other, follow_symlinks=False)
    elif kind in {"delete", "replace"}:
        _delete(path, mode)
        if kind == "replace":
            _make(path, chance)


def _give_attributes(path: bytes, mode: int, chance: random.Random) -> None:
    kind = chance.choice(("chmod", "chown", "touch", "attribute", "plain"))
    if kind == "chown":
        os.chown(path, chance.randrange(2000), chance.randrange(2000), follow_symlinks=False)
    elif kind == "touch":
        os.utime(path, ns=(0, chance.randrange(1 << 60)), follow_symlinks=False)
    elif kind == "chmod" and not stat.S_ISLNK(mode):
        os.chmod(path, chance.choice((0o600, 0o755, 0o4755, 0o1777)))
    elif kind == "attribute" and (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        os.setxattr(path, b"user.%d" % chance.randrange(3), chance.randbytes(5))
    elif kind == "plain" and (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        for name in os.listxattr(path):
            if name.startswith("user."):
                os.removexattr(path, name)


def _delete(path: bytes, mode: int) -> None:
    if stat.S_ISDIR(mode):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def _make(path: bytes, chance: random.Random) -> None:
    match chance.choice(("file", "directory", "symlink", "fifo")):
        case "file":
            with open(path, "wb") as file:
                file.write(chance.randbytes(1000))
        case "directory":
            os.mkdir(path)
            with open(path + b"/in", "wb") as file:
                file.write(chance.randbytes(10))
        case "symlink":
            os.symlink(b"somewhere", path)
        case _:
            os.mkfifo(path)
