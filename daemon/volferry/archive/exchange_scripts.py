"""Scripts for the helper that make room for a backup beside what a volume holds, and exchange the two.

The directories are in the volume's root, so that an exchange renames and copies nothing. No backup holds them. For the Python of the
helper's image, as tree_scripts.
"""

from __future__ import annotations

from volferry.archive.commands import DELETE, HALF_TREE, NEW_TREE, OLD_TREE, RESTORE_MARK
from volferry.archive.tree_scripts import python_command

_NAMES = (NEW_TREE, OLD_TREE, HALF_TREE, RESTORE_MARK)
TAKEN_BACK = 3  # the exit status of an exchange after which all is where it was

# Where root is as any other user, its owner may have to be let write the root first; and where nothing can be made in a directory that its owner
# may not write, it is such a place.
_MAKE_SCRIPT = """
import os, stat, sys
root = sys.argv[1]
new = os.path.join(root, sys.argv[2])
found = os.stat(root)
mode = stat.S_IMODE(found.st_mode)
def make_one():
    try:
        os.mkdir(new, 0o700)
        return False
    except PermissionError:
        if mode & 0o700 == 0o700:
            raise
    os.chmod(root, mode | 0o700)
    try:
        os.mkdir(new, 0o700)
    except OSError:
        os.chmod(root, mode)
        raise
    return True
def has_to_obey(probe):
    os.mkdir(probe, 0o500)
    try:
        os.mkdir(probe + "/in", 0o700)
        os.rmdir(probe + "/in")
        return False
    except PermissionError:
        return True
    except OSError:
        return False
    finally:
        os.rmdir(probe)
opened = make_one()
squashed = opened or has_to_obey(new + "/probe")
if squashed and mode & 0o700 != 0o700:
    os.chmod(root, mode | 0o700)
    opened = True
print(found.st_mtime_ns, "squashed" if squashed else "usual", f"{mode:o}" if opened else "")
"""

_SET_TIME_SCRIPT = """
import os, sys
os.utime(sys.argv[1], ns=(os.stat(sys.argv[1]).st_atime_ns, int(sys.argv[2])))
"""

# Where root is as any other user, a directory that its owner may not write cannot be moved into another one.
# A rename would replace a file that has the name already: none has, unless somebody else writes the volume.
_MOVE = """
import os, stat, sys
os.chdir(sys.argv[1])
new, old, half, mark = map(os.fsencode, sys.argv[2:])
moved = []
def rename(one, other):
    if os.path.lexists(other):
        raise FileExistsError(17, "File exists", other)
    os.rename(one, other)
    moved.append((one, other))
def opened(work, one, other):
    try:
        return work(one, other)
    except PermissionError:
        mode = os.lstat(one).st_mode
        if not stat.S_ISDIR(mode) or mode & 0o700 == 0o700:
            raise
    os.chmod(one, stat.S_IMODE(mode) | 0o700)
    try:
        work(one, other)
    finally:
        os.chmod(one if os.path.lexists(one) else other, stat.S_IMODE(mode))
def names_in(source):
    return [name for name in os.listdir(source) if source != b"." or name not in (new, old, half, mark)]
def move(source, target):
    for name in names_in(source):
        opened(rename, source + b"/" + name, target + b"/" + name)
def is_tree(name):
    return os.path.isdir(name) and not os.path.islink(name)
def tell(error):
    sys.stderr.write(f"{error.strerror}: {os.fsdecode(error.filename)!r}\\n")
"""

# At each moment, the root and what is on its way are together all of the old content or all of the new one, or the old one is in its tree.
_EXCHANGE_SCRIPT = f"""{_MOVE}
try:
    os.mkdir(half, 0o700)
    move(b".", half)
    rename(half, old)
    rename(new, half)
    move(half, b".")
    os.rmdir(half)
except OSError as error:
    tell(error)
    for one, other in reversed(moved):
        opened(os.rename, other, one)
    os.rmdir(half)
    sys.exit({TAKEN_BACK})
"""

# Where nothing is on its way and the root is empty, it was killed between the one content and the other.
_SETTLE_SCRIPT = f"""{_MOVE}
try:
    if not is_tree(half) and is_tree(old) and not names_in(b"."):
        os.rename(old, half)
    if is_tree(half):
        move(half, b".")
        os.rmdir(half)
except FileExistsError as error:
    name = os.fsdecode(error.filename[2:])
    sys.exit(f"{{name!r}} is there, and in {{sys.argv[4]}} too: move one of them away")
except OSError as error:
    tell(error)
    sys.exit(1)
"""

# An image without Python can do without it where nothing is to be done.
_IF_DIRECTORY_SCRIPT = """
[ -d "$1" ] || [ -d "$2" ] || exit 0
shift 2
exec "$@"
"""

_DELETE_SCRIPT = f"""{DELETE}
for tree; do
    [ ! -e "$tree" ] && [ ! -L "$tree" ] || delete "$tree" || exit 1
done
"""


def make_new_tree_command(directory: str) -> list[str]:
    """Makes `NEW_TREE`, which must not be there, in `directory`. Writes the time of `directory` from before that, in nanoseconds; whether its
    file system is as `look_command` looks for, as a word; and the mode that it had, if it was set to another one.
    """
    return python_command(_MAKE_SCRIPT, directory, NEW_TREE)


def set_time_command(directory: str, time_ns: int) -> list[str]:
    return python_command(_SET_TIME_SCRIPT, directory, str(time_ns))


def delete_tree_command(directory: str, name: str) -> list[str]:
    """Deletes `name`, if it is there, with all below it."""
    return ["sh", "-c", _DELETE_SCRIPT, "sh", f"{directory}/{name}"]


def settle_command(directory: str) -> list[str]:
    """Moves what an exchange that was killed had on its way into `directory`: then all that was there before is there again, or all that
    was in `NEW_TREE`. Fails if a name is taken.
    """
    script = python_command(_SETTLE_SCRIPT, directory, *_NAMES)
    trees = [f"{directory}/{name}" for name in (HALF_TREE, OLD_TREE)]
    return ["sh", "-c", _IF_DIRECTORY_SCRIPT, "sh", *trees, *script]


def exchange_command(directory: str) -> list[str]:
    """Moves all of `directory` but the mark into `OLD_TREE`, which must not be there, and all of `NEW_TREE` into `directory`. If that
    cannot be done, all goes back to where it was, and the status is `TAKEN_BACK`.
    """
    return python_command(_EXCHANGE_SCRIPT, directory, *_NAMES)
