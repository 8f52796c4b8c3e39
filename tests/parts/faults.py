"""A library that lets calls of `tar` and `find` fail, or lie, built from faults.c."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

CALLS = ("open", "read", "stat", "lstat", "readdir", "readlink", "llistxattr", "lgetxattr", "acl_get_file")
NUMBERS = (
    errno.EIO,
    errno.ESTALE,
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EOPNOTSUPP,
    errno.EINVAL,
    errno.ETIMEDOUT,
    errno.ENOTDIR,
    errno.EBUSY,
    errno.EHWPOISON
    if hasattr(errno, "EHWPOISON")
    else 133,  # of a page of a file with an error of the memory
    524,  # the kernel's ENOTSUPP, for which the C library has no text
)
_SOURCE = Path(__file__).with_name("faults.c")


def built_library(directory: Path) -> Path:
    """The library, below `directory`."""
    compiler = shutil.which("gcc")
    if compiler is None:
        raise RuntimeError("gcc is needed for this test: sudo apt-get install gcc libc6-dev")
    library = directory / "faults.so"
    subprocess.run(
        [compiler, "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", library, _SOURCE, "-ldl"],
        check=True,
    )
    return library


def fault(call: str, number: int, path: str, offset: int = 0) -> str:
    """One line: `path` is the end of the paths that it is for."""
    return f"{call} {number} {path} {offset}"


def environment(library: Path, *faults: str) -> dict[str, str]:
    """What makes them happen, in processes that are started with it."""
    return {"LD_PRELOAD": os.fspath(library), "FAULTS": "\n".join(faults)}
