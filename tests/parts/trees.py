"""Trees as volumes have them at their worst: made on disk, described down to the last attribute, and compared."""
# ruff: noqa: PTH101, PTH102, PTH115, PTH123, PTH208, PTH211 -- paths are bytes here, and pathlib takes none

from __future__ import annotations

import hashlib
import os
import socket
import stat
import struct
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Final

from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NANO: Final = 1_000_000_000
BEFORE_1970: Final = -1_234_567_890 * NANO + 987_654_321
AFTER_2038: Final = 4_294_967_299 * NANO + 123_456_789
ORDINARY_TIME: Final = 1_600_000_000 * NANO + 1
HIGHEST_ID: Final = 2**32 - 2
LONGEST_NAME: Final = 255
LONG_PATH: Final = 4000
SPARSE_BYTES: Final = 10 * 10**9
OVER_8_GIB: Final = (8 << 30) + 12_345
SOCKET: Final = b"socket"
# A file that is smaller than this says nothing about holes: file systems store it in a block or two.
SPARSE_MATTERS_BYTES: Final = 1 << 20
_READ_BYTES = 1 << 20

# <linux/posix_acl_xattr.h>: tags, and the id of an entry that has none
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 1, 2, 4, 8, 16, 32
_NO_ID = 0xFFFFFFFF


# --- describing --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Node:
    """All that is to be the same after a restore."""

    mode: int
    uid: int
    gid: int
    size: int | None  # of files and symlinks; a directory's says more about the file system than about it
    mtime_ns: int
    nlink: int
    rdev: int
    target: bytes | None
    xattrs: tuple[tuple[bytes, bytes], ...]
    sha256: str | None
    sparse: bool  # takes less than half of its size on disk
    linked: frozenset[bytes] = field(default=frozenset())  # all names of the same inode


def snapshot(root: Path | bytes, *, content: bool = True) -> dict[bytes, Node]:
    """Every entry below `root`, and `root` itself as b"". Paths may be longer than PATH_MAX."""
    found: dict[bytes, Node] = {}
    names: dict[tuple[int, int], set[bytes]] = {}
    inodes: dict[bytes, tuple[int, int]] = {}

    def visit(place: bytes, path: bytes) -> None:
        status = os.lstat(place)
        found[path] = _node(place, status, content=content)
        if not stat.S_ISDIR(status.st_mode):
            inodes[path] = (status.st_dev, status.st_ino)
            names.setdefault(inodes[path], set()).add(path)
            return
        with opened(place) as inside:
            for name in sorted(os.listdir(inside)):
                visit(inside + name, path + b"/" + name if path else name)

    visit(os.fsencode(root), b"")
    groups = {inode: frozenset(paths) for inode, paths in names.items() if len(paths) > 1}
    for path, inode in inodes.items():
        if inode in groups:
            found[path] = _with_links(found[path], groups[inode])
    return found


def differences(before: dict[bytes, Node], after: dict[bytes, Node]) -> list[str]:
    """One line for each path that is not the same in both."""
    lines = []
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path), after.get(path)
        if old == new:
            continue
        if old is None or new is None:
            lines.append(f"{path[-80:]!r} {'was not there before' if old is None else 'is missing'}")
            continue
        changed = [
            f"{each.name} {getattr(old, each.name)!r} -> {getattr(new, each.name)!r}"
            for each in fields(Node)
            if getattr(old, each.name) != getattr(new, each.name)
        ]
        lines.append(f"{path[-80:]!r}: {', '.join(changed)}"[:1000])
    return lines


def assert_same(before: dict[bytes, Node], after: dict[bytes, Node]) -> None:
    found = differences(before, after)
    assert not found, f"{len(found)} differences:\n" + "\n".join(found[:20])


def _with_links(node: Node, linked: frozenset[bytes]) -> Node:
    values = {each.name: getattr(node, each.name) for each in fields(Node)}
    return Node(**{**values, "linked": linked})


def _node(place: bytes, status: os.stat_result, *, content: bool) -> Node:
    regular, link = stat.S_ISREG(status.st_mode), stat.S_ISLNK(status.st_mode)
    device = stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)
    attributes = (os.fsencode(name) for name in os.listxattr(place, follow_symlinks=False))
    return Node(
        mode=status.st_mode,
        uid=status.st_uid,
        gid=status.st_gid,
        size=status.st_size if regular or link else None,
        mtime_ns=status.st_mtime_ns,
        nlink=status.st_nlink,
        rdev=status.st_rdev if device else 0,
        target=os.readlink(place) if link else None,
        xattrs=tuple(sorted((name, os.getxattr(place, name, follow_symlinks=False)) for name in attributes)),
        sha256=_digest(place, status.st_size) if regular and content else None,
        sparse=regular
        and status.st_size >= SPARSE_MATTERS_BYTES
        and status.st_blocks * 512 < status.st_size // 2,
    )


def _digest(place: bytes, size: int) -> str:
    """Of the bytes that are not zero, and where they are: whatever is a hole and whatever is zeros is the same."""
    digest = hashlib.sha256(b"%d" % size)
    descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        position = 0
        while position < size:
            try:
                position = os.lseek(descriptor, position, os.SEEK_DATA)
            except OSError:  # ENXIO: a hole up to the end
                break
            # pieces that start at the same places whatever the holes are
            position -= position % _READ_BYTES
            piece = os.pread(descriptor, _READ_BYTES, position)
            if piece.strip(b"\0"):
                digest.update(b"%d:" % position + piece)
            position += len(piece)
    finally:
        os.close(descriptor)
    return digest.hexdigest()


# --- making ------------------------------------------------------------------------------------------


@contextmanager
def opened(directory: bytes) -> Iterator[bytes]:
    """A short name, with a slash at its end, for an open directory: so paths of any length can be reached."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield b"/proc/self/fd/%d/" % descriptor
    finally:
        os.close(descriptor)


def acl(mode: int, *named: tuple[int, int, int]) -> bytes:
    """The value of a `system.posix_acl_*` attribute: the mode's bits, and entries (tag, permissions, id)."""
    entries = [
        (_USER_OBJ, mode >> 6 & 7, _NO_ID),
        *named,
        (_GROUP_OBJ, mode >> 3 & 7, _NO_ID),
        (_MASK, 7, _NO_ID),
        (_OTHER, mode & 7, _NO_ID),
    ]
    entries.sort(key=lambda entry: (entry[0], entry[2]))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def capability(permitted: int) -> bytes:
    """The value of `security.capability`: struct vfs_cap_data, revision 2, effective."""
    return struct.pack("<IIIII", 0x02000001, permitted, 0, 0, 0)


def write(path: bytes, content: bytes = b"", mode: int = 0o644, mtime_ns: int = ORDINARY_TIME) -> bytes:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, content)
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)
    os.utime(path, ns=(ORDINARY_TIME, mtime_ns))
    return path


def write_sparse(path: bytes, size: int, pieces: dict[int, bytes]) -> None:
    with open(path, "xb") as file:
        file.truncate(size)
        for offset, data in pieces.items():
            file.seek(offset)
            file.write(data)
    os.utime(path, ns=(ORDINARY_TIME, ORDINARY_TIME))


def build_nasty_tree(root: Path) -> None:
    """Fills the directory `root`, and gives itself an owner, mode, time and ACL. Needs root's rights."""
    with opened(os.fsencode(root)) as top:
        for part in (
            _names,
            _long_path,
            _links,
            _large_files,
            _attributes,
            _access_lists,
            _modes_and_owners,
            _special_files,
            _times,
            _closed_directories,
        ):
            name = part.__name__.strip("_").encode()
            os.mkdir(top + name)
            with opened(top + name) as inside:
                part(inside)
            os.utime(top + name, ns=(0, ORDINARY_TIME + len(name)))
        write(top + b".hidden at the top", b"hidden")
        _bind_socket(top + SOCKET)
    os.chown(root, 12345, 54321)
    root.chmod(0o1751)
    os.setxattr(root, "user.root", b"the root's own")
    os.setxattr(root, "system.posix_acl_access", acl(0o751, (_USER, 6, 1001)))
    os.setxattr(root, "system.posix_acl_default", acl(0o750, (_GROUP, 5, 1002)))
    os.utime(root, ns=(ORDINARY_TIME, 1_111_111_111 * NANO + 111_111_111))


def _names(top: bytes) -> None:
    for number, name in enumerate(
        (
            b"with\nnewline",
            b"\n",
            b" ",
            b"  two  spaces ",
            b"tab\tand\rreturn",
            b"'single' \"double\" `back`",
            b"$(touch me) ${HOME} ; & | < >",
            b"[a] * ? \\ \\n \\012",
            b"\\",
            b"*",
            b"-",
            b"--",
            b"-rf",
            b"--checkpoint-action=exec=false",
            b"...",
            b"..trailing",
            b"#hash",
            b"~home",
            b"%41%2F",
            b"\xff\xfe not UTF-8 \x80",
            b"\x01\x02\x1b[31m\x7f",
            b"\xc3\xa4 composed",
            b"a\xcc\x88 decomposed",
            b"dir",
            b"dir-before",
            b"dir.before",
            b"dir0after",
            b"status 0 f 644",
            b"x" * LONGEST_NAME,
            b"\xe2\x82\xac" * (LONGEST_NAME // 3),
        )
    ):
        if number % 3 == 2 or name == b"dir":
            os.mkdir(top + name)
            with opened(top + name) as inside:
                write(inside + name, name)
            os.utime(top + name, ns=(0, ORDINARY_TIME + number))
        else:
            write(top + name, b"" if number % 2 else name)
    os.mkdir(top + b"empty directory")
    os.utime(top + b"empty directory", ns=(0, ORDINARY_TIME))
    write(top + b"empty file")


def _long_path(top: bytes) -> None:
    """Down to a file whose path, from the tree's root, has LONG_PATH bytes."""
    below: list[int] = []
    left = LONG_PATH - len(b"long_path/")
    place = top
    try:
        while left > 401:
            name = (b"%02d-" % len(below)).ljust(200, b"d")
            os.mkdir(place + name)
            below.append(os.open(place + name, os.O_RDONLY | os.O_DIRECTORY))
            place = b"/proc/self/fd/%d/" % below[-1]
            left -= len(name) + 1
        os.mkdir(place + b"e" * 200)
        with opened(place + b"e" * 200) as last:
            write(last + b"f" * (left - 201), b"deep down")
        os.utime(place + b"e" * 200, ns=(0, ORDINARY_TIME))
        for depth, descriptor in enumerate(reversed(below)):
            os.utime(descriptor, ns=(0, ORDINARY_TIME + depth))
    finally:
        for descriptor in below:
            os.close(descriptor)


def _links(top: bytes) -> None:
    for name in (b"a", b"b", b"z"):
        os.mkdir(top + name)
    write(top + b"b/file", b"many names" * 1000)
    os.link(top + b"b/file", top + b"a/first in order")
    os.link(top + b"b/file", top + b"z/last in order")
    os.link(top + b"b/file", top + b"z/with\nnewline")
    write(top + b"z/empty")
    os.link(top + b"z/empty", top + b"a/empty")
    for name, target in (
        (b"dangling", b"nowhere/at all"),
        (b"absolute", b"/etc/passwd"),
        (b"to a directory", b"a"),
        (b"to itself", b"to itself"),
        (b"up", b"../../../.."),
        (b"not UTF-8 \xff", b"\xff\n -> \x80"),
        (b"long", b"t/" * 1900),
    ):
        os.symlink(target, top + name)
        os.utime(top + name, ns=(0, ORDINARY_TIME + len(name)), follow_symlinks=False)
        os.chown(top + name, 1000 + len(name), 2000, follow_symlinks=False)
    os.link(top + b"dangling", top + b"a/dangling hard", follow_symlinks=False)
    for name in (b"a", b"b", b"z"):
        os.utime(top + name, ns=(0, ORDINARY_TIME))


def _large_files(top: bytes) -> None:
    noise = hashlib.shake_128(b"noise").digest(3 << 20)
    write_sparse(
        top + b"10 GB",
        SPARSE_BYTES,
        {SPARSE_BYTES // 2 + 7: b"in the middle", SPARSE_BYTES - 9: b"at the end"[:9]},
    )
    write_sparse(top + b"over 8 GiB", OVER_8_GIB, {0: b"begin", OVER_8_GIB - 5000: noise[:5000]})
    write_sparse(top + b"only a hole", 5 << 20, {})
    write_sparse(top + b"hole at the end", 5 << 20, {0: noise[: 1 << 20]})
    write_sparse(top + b"hole in front", 5 << 20, {4 << 20: noise[: 1 << 20]})
    many = {offset << 16: noise[offset : offset + 4096] for offset in range(0, 100, 3)}
    write_sparse(top + b"many holes", 7 << 20, many)
    write_sparse(top + b"n" * LONGEST_NAME, 5 << 20, {4096: b"long name, and sparse"})
    write(top + b"dense", noise)
    write(top + b"one block", noise[:512])
    write(top + b"one byte more", noise[:513])
    write(top + b"zeros, not a hole", bytes(300_000))


def _attributes(top: bytes) -> None:
    values = {
        b"user.empty": b"",
        b"user.binary": bytes(range(256)),
        b"user.line\nbreak": b"a\nb",
        b"user.equals=sign": b"key=value",
        b"user.percent%3Dsign": b"%41",
        b"user.\xff\xfe": b"a name that is not UTF-8",
        b"user.large": b"v" * 2000,
    }
    for name in (b"file", b"read-only", b"directory"):
        if name == b"directory":
            os.mkdir(top + name)
        else:
            write(top + name, b"with attributes")
        for attribute, value in values.items():
            os.setxattr(top + name, attribute, value)
        os.utime(top + name, ns=(0, ORDINARY_TIME))
    os.chmod(top + b"read-only", 0o444)
    os.setxattr(write(top + b"linked"), b"user.on", b"both names")
    os.link(top + b"linked", top + b"a link to it")
    write(top + b"ping", b"#!/bin/sh\n", 0o755)
    os.setxattr(top + b"ping", b"security.capability", capability(1 << 13))
    owned = write(top + b"owned, with a capability", b"", 0o755)
    os.chown(owned, 999, 999)
    os.setxattr(owned, b"security.capability", capability(1 << 10 | 1 << 13))


def _access_lists(top: bytes) -> None:
    write(top + b"file", b"", 0o640)
    os.setxattr(top + b"file", "system.posix_acl_access", acl(0o640, (_USER, 6, 33), (_GROUP, 4, HIGHEST_ID)))
    os.mkdir(top + b"directory")
    # Its default must not be given to what is restored into it.
    write(top + b"directory/older than the default", b"", 0o600)
    os.mkdir(top + b"directory/sub")
    os.setxattr(top + b"directory", "system.posix_acl_default", acl(0o770, (_USER, 7, 1234)))
    write(top + b"directory/inherits", b"", 0o600)
    os.mkdir(top + b"directory/inherits too")
    os.setxattr(top + b"directory", "system.posix_acl_access", acl(0o700, (_USER, 5, 0)))
    os.mkdir(top + b"only a default")
    os.setxattr(top + b"only a default", "system.posix_acl_default", acl(0o755))
    for name in (b"directory/sub", b"directory/inherits too", b"directory", b"only a default"):
        os.utime(top + name, ns=(0, ORDINARY_TIME))


def _modes_and_owners(top: bytes) -> None:
    for mode in (0, 0o111, 0o222, 0o444, 0o600, 0o644, 0o777, 0o1777, 0o2755, 0o4755, 0o6711, 0o7777):
        os.mkdir(top + b"d%04o" % mode)
        for name in (b"f%04o" % mode, b"d%04o" % mode):
            if name[:1] == b"f":
                write(top + name, b"mode")
            os.chown(top + name, 100 + mode, 200 + mode)
            os.chmod(top + name, mode)
            os.utime(top + name, ns=(0, ORDINARY_TIME))
    for number in (1, 999, 65534, 2**21, 2**31, HIGHEST_ID):
        os.mkdir(top + b"owner %d" % number)
        for name in (b"owner %d" % number, b"group %d" % number):
            if name[:1] == b"g":
                write(top + name)
            os.chown(top + name, number if name[:1] == b"o" else 0, number)
            os.utime(top + name, ns=(0, ORDINARY_TIME))


def _special_files(top: bytes) -> None:
    os.mkfifo(top + b"fifo", 0o622)
    for name, kind, major, minor in (
        (b"null", stat.S_IFCHR, 1, 3),
        (b"loop", stat.S_IFBLK, 7, 0),
        (b"high", stat.S_IFCHR, 4095, 1_048_575),
    ):
        os.mknod(top + name, kind | 0o660, os.makedev(major, minor))
        os.chown(top + name, 5, 6)
    for name in (b"fifo", b"null", b"loop", b"high"):
        os.utime(top + name, ns=(0, BEFORE_1970))


def _times(top: bytes) -> None:
    for name, moment in (
        (b"ns", ORDINARY_TIME + 999_999_998),
        (b"epoch", 0),
        (b"just before", -1),
        (b"half", -500_000_000),
        (b"one", -NANO),
        (b"before 1970", BEFORE_1970),
        (b"2038", 2**31 * NANO),
        (b"after 2038", AFTER_2038),
        (b"trailing zeros", ORDINARY_TIME + 99_000_000 - 1),
    ):
        write(top + b"file " + name, name, mtime_ns=moment)
        os.symlink(name, top + b"link " + name)
        os.utime(top + b"link " + name, ns=(0, moment), follow_symlinks=False)
        os.mkdir(top + b"directory " + name)
        write(top + b"directory " + name + b"/inside")
        os.utime(top + b"directory " + name, ns=(0, moment))


def _closed_directories(top: bytes) -> None:
    for name, mode in ((b"0000", 0), (b"0555", 0o555)):
        os.mkdir(top + name)
        os.mkdir(top + name + b"/sub")
        write(top + name + b"/sub/file", b"behind a closed door", 0)
        write(top + name + b"/file", b"behind a closed door", 0o444)
        for path, closed in ((name + b"/sub", 0), (name, mode)):
            os.utime(top + path, ns=(0, ORDINARY_TIME))
            os.chmod(top + path, closed)


def _bind_socket(path: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)


# --- random trees ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Meta:
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class File:
    meta: Meta
    seed: bytes
    repeat: int
    hole: int  # bytes before the content


@dataclass(frozen=True, slots=True)
class Symlink:
    meta: Meta
    target: bytes


@dataclass(frozen=True, slots=True)
class Fifo:
    meta: Meta


@dataclass(frozen=True, slots=True)
class HardLink:
    """To the file made before it whose number is `to`, counted round."""

    to: int


@dataclass(frozen=True, slots=True)
class Directory:
    meta: Meta
    entries: tuple[tuple[bytes, Spec], ...]


Spec = File | Symlink | Fifo | HardLink | Directory

_ids = st.one_of(st.integers(0, 70_000), st.sampled_from([0, 2**21, 2**31, HIGHEST_ID]))
_metas = st.builds(
    Meta,
    mode=st.integers(0, 0o7777),
    uid=_ids,
    gid=_ids,
    # what an inode of ext4 can hold
    mtime_ns=st.integers(-(2**31) * NANO, 2**33 * NANO),
    xattrs=st.dictionaries(
        st.binary(min_size=1, max_size=20).filter(lambda name: b"\0" not in name),
        st.binary(max_size=40),
        max_size=2,
    ).map(lambda found: tuple((b"user." + name, value) for name, value in sorted(found.items()))),
)
_names_of_entries = st.one_of(
    st.binary(min_size=1, max_size=40),
    st.text("ab/-.", min_size=1, max_size=3).map(str.encode),
    st.binary(min_size=1, max_size=3).map(lambda part: (part * LONGEST_NAME)[:LONGEST_NAME]),
).filter(lambda name: not set(name) & {0, 0x2F} and name not in {b".", b".."})
_leaves: st.SearchStrategy[Spec] = st.one_of(
    st.builds(
        File,
        _metas,
        seed=st.binary(max_size=600),
        repeat=st.sampled_from([1, 1, 1, 5, 3000]),
        hole=st.sampled_from([0, 0, 0, 1 << 16, (2 << 20) + 5]),
    ),
    st.builds(
        Symlink, _metas, st.binary(min_size=1, max_size=300).filter(lambda target: b"\0" not in target)
    ),
    st.builds(Fifo, _metas),
    st.builds(HardLink, st.integers(0, 100)),
)


def _directories(children: st.SearchStrategy[Spec]) -> st.SearchStrategy[Spec]:
    entries = st.dictionaries(_names_of_entries, children, max_size=8)
    return st.builds(Directory, _metas, entries.map(lambda found: tuple(found.items())))


def trees() -> st.SearchStrategy[Directory]:
    """Directories that `realise` can make on disk, of up to some thirty entries."""
    return _directories(st.recursive(_leaves, _directories, max_leaves=30)).map(_as_directory)


def _as_directory(spec: Spec) -> Directory:
    assert isinstance(spec, Directory)
    return spec


def realise(tree: Directory, root: Path) -> None:
    """Makes `tree` of the empty directory `root`."""
    _fill(os.fsencode(root), tree, [])


def _fill(place: bytes, tree: Directory, files: list[bytes]) -> None:
    for name, spec in tree.entries:
        path = place + b"/" + name
        match spec:
            case Directory():
                os.mkdir(path)
                _fill(path, spec, files)
                continue
            case File():
                data = spec.seed * spec.repeat
                write_sparse(path, spec.hole + len(data), {spec.hole: data})
                files.append(path)
            case Symlink():
                os.symlink(spec.target, path)
            case Fifo():
                os.mkfifo(path)
            case HardLink():
                if files:
                    os.link(files[spec.to % len(files)], path)
                continue
        _settle(path, spec.meta)
    _settle(place, tree.meta)


def _settle(path: bytes, meta: Meta) -> None:
    kind = stat.S_IFMT(os.lstat(path).st_mode)
    os.chown(path, meta.uid, meta.gid, follow_symlinks=False)
    if kind != stat.S_IFLNK:
        os.chmod(path, meta.mode)
    if kind in {stat.S_IFREG, stat.S_IFDIR}:
        for name, value in meta.xattrs:
            os.setxattr(path, name, value)
    os.utime(path, ns=(0, meta.mtime_ns), follow_symlinks=False)
