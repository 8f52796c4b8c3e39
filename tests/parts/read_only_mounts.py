"""A program that can change nothing of the machine but one directory, as if a helper's container were around it.

It gets mounts of its own, of which all but the directory are read-only. /proc is none of them: it has ways to the mounts of others.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# Calls that the C library may not have yet; their numbers are the same on all architectures that Docker runs on.
_SCRIPT = r"""
import ctypes, os, sys
OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR = 428, 429, 442
HERE, RECURSIVE, EMPTY_PATH = -100, 0x8000, 0x1000
libc = ctypes.CDLL(None, use_errno=True)
call = libc.syscall
call.restype = ctypes.c_long
def done(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result
def confine(directory):
    number, text = ctypes.c_long, ctypes.c_char_p
    place = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    if os.path.samestat(os.fstat(place), os.stat("/")):
        return
    done(libc.unshare(0x20000))  # CLONE_NEWNS
    done(libc.mount(None, b"/", None, ctypes.c_ulong(0x4000 | 0x40000), None))  # MS_REC | MS_PRIVATE
    own = done(call(number(OPEN_TREE), number(HERE), text(directory), number(1 | RECURSIVE)))  # OPEN_TREE_CLONE
    attributes = (ctypes.c_uint64 * 4)(1, 0, 0, 0)  # MOUNT_ATTR_RDONLY
    done(call(number(MOUNT_SETATTR), number(HERE), text(b"/"), number(RECURSIVE), attributes, number(32)))
    done(call(number(MOVE_MOUNT), number(own), text(b""), number(HERE), text(directory), number(4)))  # MOVE_MOUNT_F_EMPTY_PATH
    os.close(own)
    done(libc.umount2(b"/proc", 2))  # MNT_DETACH
directory, program, *arguments = sys.argv[1:]
confine(os.fsencode(os.path.realpath(directory)))
os.execv(program, arguments)
"""


def confined_command(directory: str, program: str, command: Sequence[str]) -> list[str]:
    """Runs `program` with the arguments `command`, the first of which is its name."""
    return [sys.executable, "-I", "-c", _SCRIPT, directory, program, *command]
