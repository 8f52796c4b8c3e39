"""A program that reaches nothing of the machine but one directory: for `tar` where no container is around it.

`tar` looks up the path of each member anew. Whoever may write the directory meanwhile can put a link in place of one that `tar` has just made,
and would have it write, or give an owner and a mode, to whatever that leads to. So the directory becomes its root: no link leads out of it.

That happens after `tar` and its libraries are loaded, for they are not in there, and before it acts on anything. It shares its root and working directory with
the process that has begun it (CLONE_FS), which changes them for both when it is told to. That needs CAP_SYS_CHROOT, which root has in containers too, unless it was dropped.
"""

from __future__ import annotations

import sys

CONFINED, UNCONFINED = b"y", b"n"

# `clone`, whose number depends on the architecture; containers are denied `clone3`. On s390x its arguments are in another order.
_SCRIPT = r"""
import ctypes, os, platform, signal, socket, sys
NUMBERS = {"x86_64": 56, "aarch64": 220, "riscv64": 220, "loongarch64": 220, "ppc64le": 120}
CLONE_FS, PR_SET_PDEATHSIG = 0x200, 1
control = socket.socket(fileno=int(sys.argv[1]))
control.set_inheritable(False)
program, *arguments = sys.argv[2:]
number = NUMBERS.get(platform.machine()) if sys.maxsize > 2**32 else None
if number is None:
    control.sendall(b"n")
    os.execv(program, arguments)
libc = ctypes.PyDLL(None, use_errno=True)
zero = ctypes.c_long(0)
process = libc.syscall(ctypes.c_long(number), ctypes.c_long(CLONE_FS | signal.SIGCHLD), zero, zero, zero, zero)
if process == 0:
    try:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        os.execv(program, arguments)
    finally:
        os._exit(127)
if process < 0:
    control.sendall(b"n")
    os.execv(program, arguments)
os.close(0)
if control.recv(1):
    try:
        os.chroot(".")
        answer = b"y"
    except OSError:
        answer = b"n"
    control.sendall(answer)
code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
os._exit(code if code >= 0 else 128 - code)
"""


def confined_command(control: int, program: str, command: list[str]) -> list[str]:
    """Runs `program` with the arguments `command`, the first of which is its name; its working directory becomes its root.

    `control` is a socket that it inherits. Once the program is known to be loaded, it is sent a byte, and answers CONFINED, or UNCONFINED where the machine does not allow it (which it may say earlier).
    """
    return [sys.executable, "-I", "-c", _SCRIPT, str(control), program, *command]
