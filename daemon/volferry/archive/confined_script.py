"""A program that changes nothing of the machine but one directory: for `tar` where no container is around it.

`tar` looks up the path of each member anew. Whoever may write the directory meanwhile can put a link in place of one that `tar` has just made,
and would have it write, or give an owner and a mode, to whatever that leads to.

Where root may make mounts, `tar` gets mounts of its own, of which all but the directory are read-only. /proc is none of them: it has ways to the mounts
of others.

In a container root may make none. There the directory becomes `tar`'s root, and no link leads out of it. That happens after `tar` and its libraries are loaded,
for they are not in there, and before it acts on anything: it shares its root and working directory (CLONE_FS) with the process that has begun it, which changes
them for both when volferry tells it to. From then on the C library looks for libraries in the directory, where an attacker may have put them. So a seccomp filter lets that
process refuse every executable mapping. `tar` has loaded the conversion of names that are not ASCII by then: the record of `warm_up` has such a name.
"""

from __future__ import annotations

import secrets
import sys
import tarfile

CONFINED, UNCONFINED = b"y", b"n"
RECORD_BYTES = 1 << 20  # `tar` acts on nothing of less: see `extract_command`

# Calls that the C library may not have. Where one is missing, or refused, the program is run as it is.
# The numbers of the first three are the same on all architectures. Mounts of one's own that cannot be made read-only take Linux 5.12, the filter 5.5.
_SCRIPT = r"""
import ctypes, fcntl, os, platform, select, signal, socket, struct, sys
OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR = 428, 429, 442
HERE, RECURSIVE = -100, 0x8000
CLONE_FS, CLONE_FILES, PDEATHSIG, NO_NEW_PRIVILEGES = 0x200, 0x400, 1, 38
RECEIVE, SEND = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_...
# clone, seccomp, the architecture as filters know it, and what maps memory
CALLS = {"x86_64": (56, 317, 0xC000003E, 9, 10, 329)}
CALLS["aarch64"] = (220, 277, 0xC00000B7, 222, 226, 288)
CALLS["riscv64"] = (220, 277, 0xC00000F3, 222, 226, 288)
libc = ctypes.PyDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(*arguments):
    result = libc.syscall(*(each if isinstance(each, (bytes, ctypes.Array)) else ctypes.c_long(each) for each in arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result
def done(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
def mounts(directory):
    place = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    if os.path.samestat(os.fstat(place), os.stat("/")):
        return
    own = call(OPEN_TREE, HERE, directory, 1 | RECURSIVE)  # OPEN_TREE_CLONE: refused where no mounts may be made
    done(libc.unshare(0x20000))  # CLONE_NEWNS
    done(libc.mount(None, b"/", None, ctypes.c_ulong(0x4000 | 0x40000), None))  # MS_REC | MS_PRIVATE
    attributes = (ctypes.c_uint64 * 4)(1, 0, 0, 0)  # MOUNT_ATTR_RDONLY
    call(MOUNT_SETATTR, HERE, b"/", RECURSIVE, attributes, 32)
    call(MOVE_MOUNT, own, b"", HERE, directory, 4)  # MOVE_MOUNT_F_EMPTY_PATH
    os.close(own)
    os.chdir(directory)  # from here on it can be written to, whatever fails
    done(libc.umount2(b"/proc", 2))  # MNT_DETACH
def asked_about_mappings(seccomp, machine, *calls):
    rules = [(0x20, 0, 0, 4), (0x15, 0, 6, machine), (0x20, 0, 0, 0)]
    rules += [(0x15, 2 - at, 2 if at == 2 else 0, number) for at, number in enumerate(calls)]
    rules += [(0x20, 0, 0, 32), (0x45, 1, 0, 4), (0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x7FC00000)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *rule) for rule in rules))
    program = ctypes.create_string_buffer(struct.pack("=HxxxxxxQ", len(rules), ctypes.addressof(code)))
    done(libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    return call(seccomp, 1, 8, program)  # SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER
def answer(listener, refused):
    asked = bytearray(80)
    fcntl.ioctl(listener, RECEIVE, asked, True)
    (number,) = struct.unpack_from("=Q", asked)
    fcntl.ioctl(listener, SEND, struct.pack("=QqiI", number, 0, -1 if refused else 0, 0 if refused else 1))
def begun(calls):
    inner, outer = socket.socketpair()
    process = call(calls[0], CLONE_FS | CLONE_FILES | signal.SIGCHLD, 0, 0, 0, 0)
    if process == 0:
        listener = -1
        try:
            libc.prctl(PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            listener = asked_about_mappings(*calls[1:])
        finally:
            inner.sendall(struct.pack("=i", listener))
            if listener >= 0:
                os.execv(program, arguments)
            os._exit(127)
    (listener,) = struct.unpack("=i", outer.recv(4))
    if listener < 0:
        os.waitpid(process, 0)
        raise OSError
    return process, listener
def serve(process, listener):
    confined, waits = False, select.poll()
    waits.register(control, select.POLLIN)
    waits.register(listener, select.POLLIN)
    while True:
        for number, what in waits.poll():
            if number == listener and not what & select.POLLIN:
                code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
                os._exit(code if code >= 0 else 128 - code)
            if number == listener:
                try:
                    answer(listener, confined)
                except OSError:
                    pass  # it has ended meanwhile
                continue
            waits.unregister(control)
            os.close(0)  # the program's own is the only one that counts, now that it is there
            if control.recv(1):
                try:
                    os.chroot(".")
                    confined = True
                except OSError:
                    pass
                control.sendall(b"y" if confined else b"n")
control = socket.socket(fileno=int(sys.argv[1]))
control.set_inheritable(False)
program, *arguments = sys.argv[2:]
said = b"n"
try:
    mounts(os.fsencode(os.getcwd()))
    said = b"y"
except (OSError, AttributeError):
    calls = CALLS.get(platform.machine()) if sys.maxsize > 2**32 else None
    release = [int(each) for each in platform.release().split("-")[0].split(".")[:2] if each.isdigit()]
    if calls and release >= [5, 5]:
        try:
            work = begun(calls)
        except OSError:
            work = ()
        if work:
            serve(*work)  # never returns: the program is not run twice
control.sendall(said)
os.execv(program, arguments)
"""


def confined_command(control: int, program: str, command: list[str]) -> list[str]:
    """Runs `program` with the arguments `command`, the first of which is its name, in the working directory, which is the one that it may change.

    `control` is a socket that it inherits. Once the program is known to be loaded, it is sent a byte, and answers CONFINED, or UNCONFINED where the machine does not allow it; it may say so earlier.
    """
    return [sys.executable, "-I", "-c", _SCRIPT, str(control), program, *command]


def warm_up() -> tuple[str, bytes]:
    """A pattern of what is not to be extracted, and a record that has it alone, for the beginning of an archive: its name has `tar` load how names are converted."""
    name = f".volferry-{secrets.token_hex(16)}"
    member = tarfile.TarInfo(f"{name}-\N{LATIN SMALL LETTER E WITH ACUTE}")
    head_bytes = len(member.tobuf(tarfile.PAX_FORMAT))  # the same of any size
    member.size = RECORD_BYTES - head_bytes
    return f"{name}*", member.tobuf(tarfile.PAX_FORMAT).ljust(RECORD_BYTES, b"\0")
