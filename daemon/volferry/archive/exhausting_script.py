"""Finds the entries of which `tar` says no more than that its memory is exhausted, as a script for the helper's Python."""

from __future__ import annotations

from volferry.archive.tree_scripts import python_command

# Of NUL-ended paths on stdin, NUL-ended "<number of the error> <path>" of those whose target or attributes cannot be had for want of memory (ENOMEM), or of room, whatever room there is (ERANGE).
_EXHAUSTING_SCRIPT = r"""
import os, stat, sys
os.chdir(sys.argv[1])
def look(path):
    if stat.S_ISLNK(os.lstat(path).st_mode):
        os.readlink(path)
    for name in os.listxattr(path, follow_symlinks=False):
        os.getxattr(path, name, follow_symlinks=False)
rest = b""
while more := os.read(0, 1 << 16):
    *paths, rest = (rest + more).split(b"\0")
    for path in paths:
        try:
            look(path)
        except OSError as error:
            if error.errno in (12, 34):
                sys.stdout.buffer.write(b"%d %s\0" % (error.errno, path))
sys.stdout.buffer.flush()
"""


def exhausting_command(directory: str) -> list[str]:
    return python_command(_EXHAUSTING_SCRIPT, directory)
