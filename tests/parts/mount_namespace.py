"""Mounts of our own: of the tests, and of an engine whose programs come from another root file system.

Run as a program, `mount_namespace.py ROOT ETC RUN -- COMMAND…`, it is what an engine of another distribution is started by: it shows ROOT's
programs, ETC and RUN in place of the machine's, and becomes COMMAND. Everything else, and every path to it, is the machine's: volumes, the tests' directories, `/proc`.
Mounts that tests make there are seen by the engine, and the engine's by the tests, as on a machine whose `/` is shared.
"""

from __future__ import annotations

import ctypes
import os
import stat
import sys
from pathlib import Path

_CLONE_NEWNS = 0x20000
_BIND, _REC, _PRIVATE, _SHARED = 0x1000, 0x4000, 1 << 18, 1 << 20  # mount(2)
# Of the machine's top level: where programs and their settings are, or what is a file system of its own already.
_NOT_SHARED = {"usr", "etc", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "run", "proc", "sys", "dev"}
_TUNNELS = "/dev/net/tun"
_MARK = "MOUNTS_OF_TESTS"

_libc = ctypes.CDLL(None, use_errno=True)


def enter_own() -> None:
    """From now on mounts of this thread, and of what it starts, are of its own: the machine sees none of them. Does nothing if they are already, or without
    root. Must be called while nothing else runs.
    """
    if os.geteuid() != 0 or os.environ.get(_MARK) == _namespace():
        return
    _check(_libc.unshare(_CLONE_NEWNS), "unshare")
    _mount(None, "/", _REC | _PRIVATE)
    for entry in os.scandir("/"):
        if entry.name not in _NOT_SHARED and entry.is_dir(follow_symlinks=False):
            _mount(entry.path, entry.path, _BIND | _REC)
            _mount(None, entry.path, _REC | _SHARED)
    if Path("/dev/shm").is_mount():
        _mount(None, "/dev/shm", _SHARED)
    os.environ[_MARK] = _namespace()


def _namespace() -> str:
    return str(Path("/proc/thread-self/ns/mnt").readlink())


def _become(root: str, etc: str, run: str, command: list[str]) -> None:
    _check(_libc.unshare(_CLONE_NEWNS), "unshare")
    # Its parts that are shared stay so.
    _mount(None, "/", _PRIVATE)
    for source, target in ((f"{root}/usr", "/usr"), (etc, "/etc"), (run, "/run")):
        _mount(source, target, _BIND)
        _mount(None, target, _PRIVATE)
    _let_all_have(_TUNNELS, f"{run}/tun")
    os.execvp(command[0], command)  # noqa: S606 -- what the tests start


def _let_all_have(device: str, place: str) -> None:
    """As most machines have it, for the networks of rootless engines."""
    if not Path(device).exists():
        return
    if not Path(place).exists():
        os.mknod(place, stat.S_IFCHR, Path(device).stat().st_rdev)
        Path(place).chmod(0o666)
    _mount(place, device, _BIND)


def _mount(source: str | None, target: str, flags: int, kind: str | None = None) -> None:
    encoded = [None if each is None else os.fsencode(each) for each in (source, target, kind)]
    _check(_libc.mount(*encoded, ctypes.c_ulong(flags), None), target)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


if __name__ == "__main__":
    _root, _etc, _run, _dashes, *_command = sys.argv[1:]
    _become(_root, _etc, _run, _command)
