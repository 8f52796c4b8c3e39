"""Scripts for the helper that make room for a backup beside what a volume holds, and exchange the two.

The two directories are in the volume's root, so that an exchange renames and copies nothing. No backup holds them. For the Python of the
helper's image, as tree_scripts.
"""

from __future__ import annotations

from volferry.archive.commands import NEW_TREE, OLD_TREE, RESTORE_MARK
from volferry.archive.tree_scripts import PYTHON

TAKEN_BACK = 3  # the exit status of an exchange after which all is where it was

_MAKE_SCRIPT = """
import os, sys
os.chdir(sys.argv[1])
print(os.stat(".").st_mtime_ns)
os.mkdir(sys.argv[2], 0o700)
"""

_SET_TIME_SCRIPT = """
import os, sys
os.utime(sys.argv[1], ns=(os.stat(sys.argv[1]).st_atime_ns, int(sys.argv[2])))
"""

# A rename would replace a file that has the name already: none has, unless somebody else writes the volume.
_EXCHANGE_SCRIPT = f"""
import os, sys
os.chdir(sys.argv[1])
new, old, mark = map(os.fsencode, sys.argv[2:])
moved = []
def move(source, target):
    for name in os.listdir(source):
        if source == b"." and name in (new, old, mark):
            continue
        one, other = source + b"/" + name, target + b"/" + name
        if os.path.lexists(other):
            raise FileExistsError(17, "File exists", other)
        os.rename(one, other)
        moved.append((one, other))
try:
    os.mkdir(old, 0o700)
    move(b".", old)
    move(new, b".")
    os.rmdir(new)
except OSError as error:
    sys.stderr.write(f"{{error.strerror}}: {{os.fsdecode(error.filename)!r}}\\n")
    for one, other in reversed(moved):
        os.rename(other, one)
    os.rmdir(old)
    sys.exit({TAKEN_BACK})
"""

_DELETE_SCRIPT = """
for tree; do
    [ ! -e "$tree" ] && [ ! -L "$tree" ] || find "$tree" -delete || exit 1
done
"""


def make_new_tree_command(directory: str) -> list[str]:
    """Makes `NEW_TREE`, which must not be there, in `directory`. Writes the time of `directory` from before that, in nanoseconds."""
    return [PYTHON, "-I", "-c", _MAKE_SCRIPT, directory, NEW_TREE]


def set_time_command(directory: str, time_ns: int) -> list[str]:
    return [PYTHON, "-I", "-c", _SET_TIME_SCRIPT, directory, str(time_ns)]


def delete_tree_command(directory: str, name: str) -> list[str]:
    """Deletes `name`, if it is there, with all below it."""
    return ["sh", "-c", _DELETE_SCRIPT, "sh", f"{directory}/{name}"]


def exchange_command(directory: str) -> list[str]:
    """Moves all of `directory` but the mark into `OLD_TREE`, which must not be there, and all of `NEW_TREE` into `directory`. If that
    cannot be done, all goes back to where it was, and the status is `TAKEN_BACK`.
    """
    return [PYTHON, "-I", "-c", _EXCHANGE_SCRIPT, directory, NEW_TREE, OLD_TREE, RESTORE_MARK]
