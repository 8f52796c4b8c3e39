"""What runs in the helper on a volume's entries and is no command of the system: their extended attributes and digests, and how much
room there is. For the Python of the helper's image, which has `os` and xxhash and little else.
"""

from __future__ import annotations

from volferry.archive.read_script import READ_SCRIPT

# Where the images that can do this have it: volferry's own, and the one that is made of the machine's programs.
PYTHON = "/opt/volferry/bin/python3"
# What one has to say that fails is one line, as that of any other command.
_PROLOGUE = """
import os, sys
def tell_plainly(kind, error, trace):
    said = " ".join(f"{kind.__name__}: {error}".split())
    if isinstance(error, OSError) and error.strerror:
        said = error.strerror[:1].lower() + error.strerror[1:]
        if isinstance(error.filename, (str, bytes)):
            said += f": {os.fsdecode(error.filename)!r}"
    sys.stderr.write(said + "\\n")
sys.excepthook = tell_plainly
"""
DIGEST_BYTES = 17
# Errors with which a file system says that it has no attributes: EOPNOTSUPP, ENOSYS, and ENOTSUPP of the kernel's own.
UNSUPPORTED = "(95, 38, 524)"
# In place of the first byte of a digest: it could not be read.
UNREADABLE = b"!"

# They know where data is even before it is written back. Of others, such as zfs and what is behind FUSE, not all do.
TRUE_HOLES = frozenset({"btrfs", "ext4", "f2fs", "overlay", "tmpfs", "xfs"})

# Whether the file system of the directory at hand, and those of all mounts below it, are among these: of any other, all of a file is read.
HOLES_SCRIPT = rf"""
def holes_are_true():
    here, longest, found, below = os.getcwdb().rstrip(b"/") + b"/", 0, b"", set()
    with open("/proc/self/mountinfo", "rb") as mounts:
        for line in mounts:
            parts = line.split(b" ")
            point = parts[4].rstrip(b"/") + b"/"
            for code in (b"040", b"011", b"012", b"043", b"134"):  # as proc(5) has spaces and the like
                point = point.replace(b"\\" + code, bytes([int(code, 8)]))
            kind = os.fsdecode(parts[parts.index(b"-") + 1])
            if here.startswith(point) and len(point) >= longest:
                longest, found = len(point), kind
            elif point.startswith(here):
                below.add(kind)
    return {{found, *below}}.issubset({sorted(TRUE_HOLES)})
"""

PATHS = r"""
import os, stat, sys
os.chdir(sys.argv[1])
def paths():
    rest = b""
    while more := os.read(0, 1 << 16):
        *whole, rest = (rest + more).split(b"\0")
        yield from whole
"""

# Takes all extended attributes, ACLs among them, from the NUL-ended paths on stdin; of what is not there, and of what the kernel
# gives nobody, none.
CLEAR_SCRIPT = f"""{PATHS}
for path in paths():
    try:
        for name in os.listxattr(path, follow_symlinks=False):
            try:
                os.removexattr(path, name, follow_symlinks=False)
            except OSError:
                pass
    except OSError:
        pass
"""

# For each NUL-ended path on stdin, 17 bytes on stdout: "=" and the XXH3-128 digest of its extended attributes (but the SELinux label, which is
# the mount's) and, of a regular file, its content; "!" and zeros if these cannot be read, or not to the end that its size says. Blocks of nothing but zeros are passed over, and true
# holes not read: it makes no difference what of them is on the disk. With a second argument, of the attributes alone.
DIGEST_SCRIPT = f"""{PATHS}{HOLES_SCRIPT}{READ_SCRIPT}
from xxhash import xxh3_128
out = sys.stdout.buffer
block = 1 << 20
memory = bytearray(block)
view = memoryview(memory)
zeros = bytes(block)
skip = holes_are_true()
def content(file, found):
    at, end = 0, os.fstat(file).st_size
    while at < end:
        try:
            if skip:
                at = os.lseek(file, at, os.SEEK_DATA) // block * block
        except OSError as error:
            if error.errno != 6:  # ENXIO: no data from there on
                raise
            break
        wanted = min(block, end - at)
        size = 0
        while size < wanted:
            more = read_into(file, view[size:wanted], at + size)
            if not more:
                raise OSError("it ends before its size says")
            size += more
        if view[:size] != zeros[:size]:
            found.update(b"%d " % at)
            found.update(view[:size])
        at += size
    if read_into(file, view[:1], end) or os.fstat(file).st_size != end:
        raise OSError("it does not end where its size says")
    found.update(b"%d" % end)
def digest(path):
    found = xxh3_128()
    try:
        names = sorted(os.listxattr(path, follow_symlinks=False))
    except OSError as error:
        if error.errno not in {UNSUPPORTED}:
            raise
        names = []
    for name in names:
        if name != "security.selinux":
            value = os.getxattr(path, name, follow_symlinks=False)
            found.update(b"%s %d " % (os.fsencode(name), len(value)) + value)
    if len(sys.argv) == 2 and stat.S_ISREG(os.lstat(path).st_mode):
        file = open_file(path)
        try:
            content(file, found)
        finally:
            os.close(file)
    return found.digest()
for path in paths():
    try:
        out.write(b"=" + digest(path))
    except OSError:
        out.write(b"!" + bytes(16))
out.flush()
"""

# Takes NUL-ended paths of regular files; writes "0" if each of them is one hole to its end, "1" as soon as one is not, or cannot be
# looked at to its end though it is there. Where the number of blocks is wrong, the place of the first data may be so too, so each is read to its end. With
# a second argument, the file system is one of `TRUE_HOLES`: of a file above 64 MiB, which may be a disk of a terabyte, its word is taken, but for both ends.
# What was read is not kept in memory: the pages of a large hole would drive out those that services need.
ANY_DATA_SCRIPT = f"""{PATHS}{READ_SCRIPT}
block = 1 << 20
memory = bytearray(block)
view = memoryview(memory)
zeros = bytes(block)
def has_data(path):
    try:
        file = open_file(path)
    except FileNotFoundError:
        return False
    try:
        os.lseek(file, 0, os.SEEK_DATA)
        return True
    except OSError as error:
        if error.errno != 6:
            return True
        at, end = 0, os.fstat(file).st_size
        while size := read_into(file, view, at):
            if memory != zeros if size == block else memory[:size].strip(b"\\0"):
                return True
            at += size
            if at % (64 * block) < size:
                os.posix_fadvise(file, 0, at, os.POSIX_FADV_DONTNEED)
            if len(sys.argv) > 2 and at == block and end > 64 * block:
                at = end - block
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        return at < end
    finally:
        os.close(file)
def found():
    for path in paths():
        try:
            if has_data(path):
                return True
        except OSError:
            return True
    return False
sys.stdout.write("1" if found() else "0")
"""
NO_DATA = b"0"

# A read may give less than it was asked for, without a page cache, which `tar` takes for a whole block where a file has holes. And an inode number
# may be made of a longer one, so that two files have the same.
_REMOTE = ("fuse", "9p", "cifs", "smb")

# Of the NUL-ended paths on stdin, writes those of regular files that begin with the second argument. No more of a file is read, however large it
# is; and what has come into the place of one holds nothing up.
BEGIN_SCRIPT = f"""{PATHS}{READ_SCRIPT}
begin = os.fsencode(sys.argv[2])
out = sys.stdout.buffer
def begins(path):
    file = open_file(path)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return False
        found, size = memoryview(bytearray(len(begin))), 0
        while size < len(begin) and (more := read_into(file, found[size:], size)):
            size += more
        return found == begin
    finally:
        os.close(file)
for path in paths():
    try:
        if begins(path):
            out.write(path + b"\\0")
    except OSError:
        pass
out.flush()
"""

# Of NUL-ended "<bytes> <path>", whether the regular file there can be read so many bytes before its end, and ends there. Answers, NUL-ended,
# "<what> <place> <path>": "=", "-" where nothing is at that place any longer, "+" where more follows than the size says, or the number of an error. A file
# whose size is another one by then is "=": it has changed.
END_SCRIPT = f"""{PATHS}{READ_SCRIPT}
memory = bytearray(1)
def any_at(file, at):
    return read_into(file, memory, at)
out = sys.stdout.buffer
def look(path, before):
    try:
        file = open_file(path)
    except OSError as error:
        return error.errno, 0
    at = 0
    try:
        found = os.fstat(file)
        size = found.st_size
        if not stat.S_ISREG(found.st_mode):
            return "=", 0
        at = max(0, size - before)
        if size and not any_at(file, at):
            answer = "-"
        elif any_at(file, size):
            answer = "+"
        else:
            return "=", at
        return (answer, at) if os.fstat(file).st_size == size else ("=", at)
    except OSError as error:
        return error.errno, at
    finally:
        os.close(file)
for record in paths():
    before, _, path = record.partition(b" ")
    out.write(b"%s %d %s\\0" % ((str((found := look(path, int(before)))[0]).encode(), found[1], path)))
out.flush()
"""

# What these say is not made up by a server: that a directory that is there is not, or that reading was interrupted where nothing has interrupted it.
_OF_THE_KERNEL = frozenset({
    "bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "nilfs2", "ntfs3", "ramfs", "reiserfs", "tmpfs", "xfs", "zfs",
})  # fmt: skip

# Writes how many bytes, and how many entries (-1: any number), may still be written to the file system of the first argument, the
# bytes that it has in all, and the free ones with those that are kept for root.
ROOM_SCRIPT = """
import os, sys
found = os.statvfs(sys.argv[1])
bytes = [blocks * found.f_frsize for blocks in (found.f_bavail, found.f_blocks, found.f_bfree)]
print(bytes[0], found.f_favail if found.f_files else -1, bytes[1], bytes[2])
"""


def is_remote(file_system: str) -> bool:
    """Of file systems by their names, as `find -printf %F` has them, with blanks between: whether neither the length of reads nor the inode numbers of any of them are
    to be relied on.
    """
    return any(not each or each.startswith(_REMOTE) for each in file_system.split(" "))


def is_foreign(file_system: str) -> bool:
    """Of file systems, as above: whether one may pass on whatever a server says, as one that lies upon another may do, too."""
    return not _OF_THE_KERNEL.issuperset(file_system.split(" "))


def python_command(script: str, *arguments: str) -> list[str]:
    """Runs a script, which tells in one line what it fails of."""
    return [PYTHON, "-I", "-c", _PROLOGUE + script, *arguments]


def clear_command(directory: str) -> list[str]:
    return python_command(CLEAR_SCRIPT, directory)


def digest_command(directory: str, *, content: bool = True) -> list[str]:
    return python_command(DIGEST_SCRIPT, directory, *([] if content else ["attributes"]))


def end_command(directory: str) -> list[str]:
    return python_command(END_SCRIPT, directory)


def room_command(directory: str) -> list[str]:
    return python_command(ROOM_SCRIPT, directory)


def begin_command(directory: str, begin: bytes) -> list[str]:
    return python_command(BEGIN_SCRIPT, directory, begin.decode())


def any_data_command(directory: str, file_system: str) -> list[str]:
    """The file systems as above."""
    trusted = TRUE_HOLES.issuperset(file_system.split(" "))
    return python_command(ANY_DATA_SCRIPT, directory, *(["trust"] if trusted else []))
