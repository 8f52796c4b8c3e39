"""In place of `find` where that cannot be relied on: a walk in the helper's Python that believes nothing but the kernel's own answers."""

from __future__ import annotations

from volferry.archive.names_script import KERNEL_NAMES
from volferry.archive.tree_scripts import python_command

# Writes what `find . -printf` does with the formats of commands.py, and says what it does, for the directory at hand. Each entry is asked what it is, whatever its directory calls it,
# and names without an inode number count: `find` goes into nothing that is called a file, and the C library hides names of number 0. The first argument is not empty where
# other file systems are not walked. Of the others, which are the tests of that `find`, those behind `-path` and `-regex` are of directories that are not.
_WALK_SCRIPT = rf"""
import os, stat, sys
{KERNEL_NAMES}
tests = list(zip(sys.argv[2:], sys.argv[3:]))
paths = {{os.fsencode(value) for test, value in tests if test == "-path"}}
try:
    import re
    patterns = [re.compile(os.fsencode(value)) for test, value in tests if test == "-regex"]
except ImportError:  # what is found there is left out afterwards
    patterns = []
kinds = {{stat.S_IFREG: b"f", stat.S_IFDIR: b"d", stat.S_IFLNK: b"l", stat.S_IFIFO: b"p", stat.S_IFCHR: b"c", stat.S_IFBLK: b"b", stat.S_IFSOCK: b"s"}}
out = sys.stdout.buffer
status = 0
def quoted(path):
    path = b"./" + path if path else b"."
    plain = (chr(each) if 32 < each < 127 and each not in b"'\\" else "\\%03o" % each for each in path)
    return "'%s'" % "".join(plain)
def say(line):
    global status
    status = 1
    sys.stderr.write("find: " + line + "\n")
def say_error(path, number):
    say("%s: %s" % (quoted(path), os.strerror(number)))
def write(path, found):
    kind = kinds.get(stat.S_IFMT(found.st_mode), b"U")
    target = b""
    if kind == b"l":
        try:
            target = os.readlink(path)
        except OSError as error:
            say_error(path, error.errno)
    times = b" ".join(b"%d.%09d0" % divmod(each, 10**9) for each in (found.st_mtime_ns, found.st_ctime_ns))
    is_large = kind == b"f" and (found.st_size + 511) // 512 > 2047
    out.write(b"%s//%s %o %d %d %d %s %d %d %s %s\0" % (
        path, kind, stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_size, times, found.st_ino, found.st_nlink, target,
        b"+%d" % found.st_blocks if is_large else (b"%d" % found.st_blocks)[:1],
    ))
def loop(above, identity):
    while above:
        path, other, above = above
        if other == identity:
            return path
def is_walked(path, found):
    if not stat.S_ISDIR(found.st_mode) or (sys.argv[1] and found.st_dev != device):
        return False
    return not path or b"./" + path not in paths and not any(each.fullmatch(b"./" + path) for each in patterns)
def look(path, above):
    try:
        found = os.lstat(path or b".")
    except OSError as error:
        return say_error(path, error.errno)
    write(path, found)
    if is_walked(path, found):
        identity = found.st_dev, found.st_ino
        if (other := loop(above, identity)) is not None:
            return say("File system loop detected; %s is part of the same file system loop as %s." % (quoted(path), quoted(other)))
        left.append((path, identity, above))
device = os.lstat(".").st_dev
left = []
look(b"", None)
while left:
    above = left.pop()
    path = above[0]
    names = {{}}
    try:
        for _, _, name in kernel_names(path or b"."):
            names[name] = True
    except OSError as error:
        say_error(path, error.errno)
    for name in names:
        look(path + b"/" + name if path else name, above)
out.flush()
sys.exit(status)
"""


def walk_command(*, one_file_system: bool) -> list[str]:
    """To be run in the directory, with the tests of `find` as further arguments."""
    return python_command(_WALK_SCRIPT, "yes" if one_file_system else "")
