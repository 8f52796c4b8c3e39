"""A file system behind FUSE that fails, by a server of its own: what it says, the kernel passes on.

It shows a directory as it is, to be read. Run with the directory, the mount point and a file of faults, each line as `fault` writes it: `lookup`, `readdir` (from so many names on), `opendir`,
`open`, `read` (from an offset on), `readlink`, `listxattr`, `getxattr`. Six are lies instead: `end` (a directory has no more names than so many), `kind` (the number is what directories call an entry, as in dirent.h), `inode`
(the number that directories give), `number` (of all but directories, that a look at them gives), `behind` (times are so many seconds older, and whole), and `still` (a directory's times never change).
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import struct
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_HEADER = struct.Struct("<IIQQIIII")
_ANSWER = struct.Struct("<IiQ")
_LARGEST = 1 << 20
_ROOT = 1
_DIRENT = struct.Struct("<QQII")
_READ = struct.Struct("<QQI")
_XATTR = struct.Struct("<II")


class Faults:
    """Those of a server that runs. Each takes effect at once."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def set(self, *lines: str) -> None:
        new = self._path.with_name(f"{self._path.name}.new")
        new.write_text("\n".join(lines))
        new.replace(self._path)


@contextmanager
def through_fuse(below: Path, directory: Path) -> Iterator[Faults]:
    """`below` is seen at `directory`, both of which are made if need be."""
    below.mkdir(exist_ok=True)
    directory.mkdir(exist_ok=True)
    path = directory.with_name(f"{directory.name}.faults")
    path.touch()
    server = subprocess.Popen([sys.executable, "-m", __name__, below, directory, path])
    try:
        while not os.path.ismount(directory):
            if server.poll() is not None:
                raise RuntimeError("the file system cannot be mounted")
            time.sleep(0.01)
        yield Faults(path)
    finally:
        subprocess.run(["umount", "--lazy", directory], check=False)
        server.send_signal(signal.SIGKILL)
        server.wait()


class _Server:
    def __init__(self, below: bytes, faults: str) -> None:
        self._below = below
        self._faults = faults
        self._paths = {_ROOT: b""}
        self._nodes = {b"": _ROOT}
        self._calls: dict[int, Callable[[bytes, bytes], bytes]] = {
            1: self._lookup,
            3: lambda path, _: bytes(16) + self._attributes(path),
            5: self._readlink,
            14: self._open,
            15: self._read,
            17: lambda *_: struct.pack("<QQQQQIIII24x", 1 << 30, 1 << 29, 1 << 29, 1 << 20, 1 << 19, 4096, 255, 4096, 0),
            18: lambda *_: b"",
            22: self._getxattr,
            23: self._listxattr,
            25: lambda *_: b"",
            26: lambda *_: struct.pack("<IIIIHHIIHH32x", 7, 31, _LARGEST, 0, 16, 12, 1 << 17, 1, 32, 0),
            27: self._opendir,
            28: self._readdir,
            29: lambda *_: b"",
        }  # fmt: skip

    def serve(self, device: int) -> None:
        while True:
            try:
                request = os.read(device, _LARGEST + 4096)
            except OSError as error:
                if error.errno in {errno.EINTR, errno.EAGAIN, errno.ENOENT}:
                    continue
                return  # it is mounted no longer
            _, call, number, node, *_ = _HEADER.unpack_from(request)
            if call in {2, 36, 42}:  # of what is forgotten or interrupted, nobody waits for an answer
                continue
            failed, answer = 0, b""
            try:
                if call not in self._calls:
                    raise OSError(errno.ENOSYS, "")
                answer = self._calls[call](self._paths.get(node, b""), request[_HEADER.size :])
            except OSError as error:
                failed = error.errno or errno.EIO
            try:
                os.write(device, _ANSWER.pack(_ANSWER.size + len(answer), -failed, number) + answer)
            except OSError as error:
                if error.errno != errno.ENOENT:  # who asked was killed
                    raise

    def _fail(self, call: str, path: bytes, offset: int = 0) -> None:
        with open(self._faults) as file:  # noqa: PTH123 -- one of many for each request
            for line in file.read().splitlines():
                name, number, end, first = line.split(" ")
                if name == call and os.fsdecode(b"/" + path).endswith(end) and offset >= int(first):
                    raise OSError(int(number), "")

    def _lie(self, call: str, path: bytes, offset: int = 0) -> int | None:
        try:
            self._fail(call, path, offset)
        except OSError as error:
            return error.errno
        return None

    def _attributes(self, path: bytes) -> bytes:
        found = os.lstat(self._below + b"/" + path)
        times = [found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns]
        if (behind := self._lie("behind", path)) is not None:
            times = [(each // 10**9 - behind) * 10**9 for each in times]
        if stat.S_ISDIR(found.st_mode) and (at := self._lie("still", path)) is not None:
            times = [at * 10**9] * 3
        number = None if stat.S_ISDIR(found.st_mode) else self._lie("number", path)
        return struct.pack(
            "<6Q10I", found.st_ino if number is None else number, found.st_size, found.st_blocks, *(each // 10**9 for each in times), *(each % 10**9 for each in times),
            found.st_mode, found.st_nlink, found.st_uid, found.st_gid, found.st_rdev, found.st_blksize, 0,
        )  # fmt: skip

    def _lookup(self, path: bytes, rest: bytes) -> bytes:
        child = (path + b"/" if path else b"") + rest.rstrip(b"\0")
        self._fail("lookup", child)
        attributes = self._attributes(child)
        node = self._nodes.setdefault(child, len(self._nodes) + 1)
        self._paths[node] = child
        return struct.pack("<QQQQII", node, 0, 0, 0, 0, 0) + attributes

    def _readlink(self, path: bytes, _: bytes) -> bytes:
        self._fail("readlink", path)
        return os.readlink(self._below + b"/" + path)  # noqa: PTH115 -- bytes

    def _open(self, path: bytes, _: bytes) -> bytes:
        self._fail("open", path)
        return bytes(16)

    def _opendir(self, path: bytes, _: bytes) -> bytes:
        self._fail("opendir", path)
        return bytes(16)

    def _read(self, path: bytes, rest: bytes) -> bytes:
        _, offset, size = _READ.unpack_from(rest)
        self._fail("read", path, offset + size - 1)
        file = os.open(self._below + b"/" + path, os.O_RDONLY)
        try:
            return os.pread(file, size, offset)
        finally:
            os.close(file)

    def _readdir(self, path: bytes, rest: bytes) -> bytes:
        _, offset, size = _READ.unpack_from(rest)
        found = b""
        names = [b".", b"..", *sorted(os.listdir(self._below + b"/" + path))]  # noqa: PTH208 -- bytes
        for at, name in enumerate(names[offset:], offset):
            try:
                self._fail("readdir", path, at)
            except OSError:
                if not found:
                    raise
                break
            if self._lie("end", path, at) is not None:
                break
            child = (path + b"/" if path else b"") + name
            inode, kind = (self._lie(call, child) for call in ("inode", "kind"))
            each = _DIRENT.pack(at + 1 if inode is None else inode, at + 1, len(name), kind or 0) + name
            each += bytes(-len(each) % 8)
            if len(found) + len(each) > size:
                break
            found += each
        return found

    def _listxattr(self, path: bytes, rest: bytes) -> bytes:
        self._fail("listxattr", path)
        names = os.listxattr(self._below + b"/" + path, follow_symlinks=False)
        return self._sized(b"".join(os.fsencode(name) + b"\0" for name in names), rest)

    def _getxattr(self, path: bytes, rest: bytes) -> bytes:
        self._fail("getxattr", path)
        name = rest[_XATTR.size :].rstrip(b"\0")
        return self._sized(os.getxattr(self._below + b"/" + path, name, follow_symlinks=False), rest)

    @staticmethod
    def _sized(found: bytes, rest: bytes) -> bytes:
        size, _ = _XATTR.unpack_from(rest)
        if not size:
            return _XATTR.pack(len(found), 0)
        if len(found) > size:
            raise OSError(errno.ERANGE, "")
        return found


def _main(below: str, directory: str, faults: str) -> None:
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other,max_read=131072"
    subprocess.run(
        ["mount", "-i", "-t", "fuse", "-o", options, "faulty", directory], pass_fds=[device], check=True
    )
    _Server(os.fsencode(below), faults).serve(device)


if __name__ == "__main__":
    _main(*sys.argv[1:])
