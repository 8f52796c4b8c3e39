"""What runs in two helpers to bring a large file up to date in place: blocks of the target's that are others in the source are sent, and
nothing else. For the Python of the helper's image.

Numbers are big-endian. A block has a size of its own for each file, so that the digests of a file never take more than some megabytes.
"""

from __future__ import annotations

from volferry.archive import tree_scripts
from volferry.archive.read_script import READ_SCRIPT

DIGEST_BYTES = 16
_LEAST_BLOCK_BYTES = 32 << 10
_MOST_BLOCKS = 1 << 17

_COMMON = (
    r"""
import errno, os, stat, sys
from xxhash import xxh3_128_digest as digest
os.chdir(sys.argv[1])
"""
    + tree_scripts.HOLES_SCRIPT
    + READ_SCRIPT
    + r"""
UNSUPPORTED = """
    + tree_scripts.UNSUPPORTED
    + r"""
def attributes(file):
    try:
        return os.listxattr(file)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        return []
skip = holes_are_true()
source, out = sys.stdin.buffer, sys.stdout.buffer
def number(size):
    return int.from_bytes(source.read(size), "big")
def fill(file, view, offset):
    size = 0
    while size < len(view):
        more = read_into(file, view[size:], offset + size)
        if not more:
            raise OSError("it ends before its size says")
        size += more
def blocks(file, view, block, at, end, size):
    # The number of each, and what it holds. Raises OSError rather than leave one out.
    while at < end:
        piece = view[:min(len(view), (end - at) * block, size - at * block)]
        fill(file, piece, at * block)
        for start in range(0, len(piece), block):
            yield at, piece[start:start + block]
            at += 1
def buffer(block):
    return memoryview(bytearray(max(block, (4 << 20) // block * block)))
def runs(file, block, first, last, size):
    # Whether it is a hole, the first block, how many; the last block of a file counts as data if it is not a whole one.
    at, end = first, min(last, -(-size // block))
    if not skip and at < end:
        yield False, at, end - at
        return
    while at < end:
        try:
            data = os.lseek(file, at * block, os.SEEK_DATA) // block
        except OSError as error:
            if error.errno != errno.ENXIO:  # no data from there on
                raise
            data = size // block
        if data > at:
            count = min(data, end) - at
            yield True, at, count
        else:
            try:
                hole = -(-os.lseek(file, at * block, os.SEEK_HOLE) // block)
            except OSError:
                hole = end
            count = max(1, min(hole, end) - at)
            yield False, at, count
        at += count
    if os.fstat(file).st_size < size:  # what was cut off looks like a hole
        raise OSError("it shrank")
"""
)

# Requests: path length (4), path, block size (8). Answers: how many blocks (8), their XXH3-128 digests; a count of 2^64-1 for what is no
# regular file that can be read to the end that its size says.
FINGERPRINT_SCRIPT = f"""{_COMMON}
def digests(path, block):
    view = buffer(block)
    found = bytearray()
    file = open_file(path)
    try:
        zero = digest(bytes(block))
        size = os.fstat(file).st_size
        for hole, at, count in runs(file, block, 0, 1 << 62, size):
            if hole:
                found += zero * count
                continue
            for _, piece in blocks(file, view, block, at, at + count, size):
                found += digest(piece)
    finally:
        os.close(file)
    return found
while length := source.read(4):
    path = source.read(int.from_bytes(length, "big"))
    block = number(8)
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise OSError
        found = digests(path, block)
        out.write((len(found) // 16).to_bytes(8, "big"))
        out.write(found)
    except OSError:
        out.write(bytes([255] * 8))
    out.flush()
"""

# Requests: path length (4), path, block size (8), first and last block (8 each; up to, not with), how many digests (8), digests of the
# target's blocks from the first on. Answers: "B", block number (8), length (4), content, for each that is another; then "E", size (8), and
# mode, owner, group, modification time (4, 4, 4, 16), how many extended attributes (2), and of each name and value with their
# lengths (2, 4) in front; or "X" if the file cannot be read to the end that its size says.
CHANGED_SCRIPT = f"""{_COMMON}
def part(path, block, first, last, digests):
    view = buffer(block)
    file = open_file(path)
    try:
        known = first + len(digests) // 16
        zeros = bytes(block)
        zero = digest(zeros)
        def is_known(at, found):
            place = (at - first) * 16
            return at < known and found == digests[place:place + 16]
        def give(at, piece):
            out.write(b"B" + at.to_bytes(8, "big") + len(piece).to_bytes(4, "big"))
            out.write(piece)
        size = os.fstat(file).st_size
        for hole, at, count in runs(file, block, first, last, size):
            end = at + count
            if hole:
                # Beyond what the target has, its new size alone makes zeros.
                for one in range(at, min(end, known)):
                    if not is_known(one, zero):
                        give(one, zeros)
                continue
            for at, piece in blocks(file, view, block, at, end, size):
                if not is_known(at, digest(piece)):
                    give(at, piece)
        now = os.fstat(file)
        names = [name for name in attributes(file) if name != "security.selinux"]
        values = [(os.fsencode(name), os.getxattr(file, name)) for name in names]
    finally:
        os.close(file)
    out.write(b"E" + size.to_bytes(8, "big"))
    for each in (stat.S_IMODE(now.st_mode), now.st_uid, now.st_gid):
        out.write(each.to_bytes(4, "big"))
    out.write(now.st_mtime_ns.to_bytes(16, "big", signed=True) + len(values).to_bytes(2, "big"))
    for name, value in values:
        out.write(len(name).to_bytes(2, "big") + len(value).to_bytes(4, "big") + name + value)
while length := source.read(4):
    path = source.read(int.from_bytes(length, "big"))
    block, first, last, count = number(8), number(8), number(8), number(8)
    digests = source.read(16 * count)
    try:
        part(path, block, first, last, digests)
    except OSError:
        out.write(b"X")
    out.flush()
"""

# It reports what it cannot set in the words of `tar`, and ends with the same exit status.
# Takes "F", path length (4), path, block size (8); "B" as above for the file of the last "F"; "E" as above, which ends it.
PATCH_SCRIPT = f"""{_COMMON}
file, status = -1, 0
# Errors with which a file system keeps an attribute that is its own, or the kernel's.
kept = (*{tree_scripts.UNSUPPORTED}, errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENODATA)
def quoted(path):
    return "".join(
        chr(each) if 32 <= each < 127 and each not in b'"' + bytes([92]) else "%c%03o" % (92, each) for each in path
    )
def tell(line, error):
    # In tar's words, by which it is known what of them costs nothing (extractlog.py).
    print(f"tar: {{line}}: {{os.strerror(error.errno)}}", file=sys.stderr)
def tried(what, change, *values):
    global status
    try:
        change(file, *values)
    except OSError as error:
        tell(f'"{{quoted(path)}}": Cannot {{what}}', error)
        status = 2
while kind := source.read(1):
    if kind == b"F":
        path = source.read(number(4))
        block = number(8)
        file = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        if os.fstat(file).st_nlink != 1:
            sys.exit("a file has several names")
    elif kind == b"B":
        at = number(8) * block
        data = memoryview(source.read(number(4)))
        while data:
            done = os.pwrite(file, data, at)
            data, at = data[done:], at + done
    elif kind == b"E":
        os.ftruncate(file, number(8))
        mode, owner, group = number(4), number(4), number(4)
        modified = int.from_bytes(source.read(16), "big", signed=True)
        for name in attributes(file):
            try:
                os.removexattr(file, name)
            except OSError as error:
                if error.errno not in kept:
                    raise
        tried(f"change ownership to uid {{owner}}, gid {{group}}", os.fchown, owner, group)
        tried(f"change mode to {{stat.filemode(mode)[1:]}}", os.fchmod, mode)
        for _ in range(number(2)):
            name_size, value_size = number(2), number(4)
            name = os.fsdecode(source.read(name_size))
            value = source.read(value_size)
            try:
                os.setxattr(file, name, value)
            except OSError as error:  # as tar: there is a warning
                tell(f"setxattr: Cannot set '{{quoted(os.fsencode(name))}}' extended attribute for file '{{quoted(path)}}'", error)
        tried("utime", lambda file: os.utime(file, ns=(modified, modified)))
        os.close(file)
sys.exit(status)
"""


def block_bytes(size: int) -> int:
    """Of a file of that size: a power of two, 32 KiB for up to 4 GiB."""
    found = _LEAST_BLOCK_BYTES
    while size > found * _MOST_BLOCKS:
        found *= 2
    return found


def fingerprint_command(directory: str) -> list[str]:
    return tree_scripts.python_command(FINGERPRINT_SCRIPT, directory)


def changed_command(directory: str) -> list[str]:
    return tree_scripts.python_command(CHANGED_SCRIPT, directory)


def patch_command(directory: str) -> list[str]:
    return tree_scripts.python_command(PATCH_SCRIPT, directory)
