"""The commands that find out whether two helpers see the same directory: files of a name that nobody else has, put on one side and looked for
on the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from volferry.archive.tree_scripts import PYTHON

if TYPE_CHECKING:
    from collections.abc import Sequence

# With random digits, a dash and the number of its directory, it is the file's name. One that a killed run has left is taken away by the
# next one.
PROBE_NAME = ".volferry-probe-"
_LEFT_OVER = ["-name", f"{PROBE_NAME}*", "-type", "f", "-size", "0"]

_PUT_SCRIPT = r"""
set -C
name=$1 prefix=$2 number=0
shift 2
for directory; do
    find "$directory" -mindepth 1 -maxdepth 1 -name "$prefix*" -type f -size 0 -delete
    find "$directory" -maxdepth 0 -printf '%T@ '
    : > "$directory/$name-$number" || exit 1
    find "$directory" -maxdepth 0 -printf '%T@\n'
    number=$((number + 1))
done
"""

# A directory that nobody else has changed meanwhile gets its time again.
_TAKE_SCRIPT = r"""
import os, sys
name, *rest = sys.argv[1:]
def nanoseconds(text):
    seconds, _, fraction = text.partition(".")
    return int(seconds) * 10**9 + int(fraction[:9])
for number, (directory, before, after) in enumerate(zip(rest[::3], rest[1::3], rest[2::3])):
    changed = os.stat(directory).st_mtime_ns != nanoseconds(after)
    try:
        os.unlink(f"{directory}/{name}-{number}")
    except FileNotFoundError:
        continue
    if not changed:
        try:
            os.utime(directory, ns=(os.stat(directory).st_atime_ns, nanoseconds(before)))
        except OSError:
            pass
"""

# By name in each directory: a listing of a share may be some seconds old.
_LOOK_SCRIPT = r"""
name=$1 count=$2
shift 2
for directory; do
    number=0
    while [ "$number" -lt "$count" ]; do
        [ -e "$directory/$name-$number" ] && printf '%s\0%d\0' "$directory" "$number"
        number=$((number + 1))
    done
done
true
"""


def put_command(name: str, directories: Sequence[str]) -> list[str]:
    """Puts a file into each directory, by a helper that may write. Writes a line for each, which `take_command` is to get: its time before
    and after.
    """
    return ["sh", "-c", _PUT_SCRIPT, "sh", name, PROBE_NAME, *directories]


def take_command(name: str, times: Sequence[tuple[str, str, str]]) -> list[str]:
    """Takes the files away, of directories with their times. Needs volferry's Python."""
    return [PYTHON, "-I", "-c", _TAKE_SCRIPT, name, *(part for each in times for part in each)]


def plain_take_command(name: str, directories: Sequence[str]) -> list[str]:
    """The same, of directories that may keep the time that they have."""
    return ["find", *directories, "-maxdepth", "1", "-name", f"{name}-*", "-type", "f", "-delete"]


def look_command(name: str, count: int, directories: Sequence[str], *, below: bool) -> list[str]:
    """Writes two NUL-ended words for each of `count` files that is in one of the directories, or `below`: the directory that it is in, and
    its number.
    """
    most = [] if below else ["-maxdepth", "0"]
    look = ["sh", "-c", _LOOK_SCRIPT, "sh", name, str(count)]
    return ["find", *directories, "-ignore_readdir_race", *most, "-type", "d", "-exec", *look, "{}", "+"]


def roots_command(directories: Sequence[str]) -> list[str]:
    """Writes a NUL-ended record for each: inode, change time, time."""
    return ["find", *directories, "-maxdepth", "0", "-printf", r"%i %C@ %T@\0"]


def inodes_command(directory: str, inodes: Sequence[str]) -> list[str]:
    """Writes the NUL-ended paths of directories below that have one of these inode numbers."""
    numbers = [part for each in inodes for part in ("-o", "-inum", each)][1:]
    race = ["-ignore_readdir_race", "-mindepth", "1"]
    return ["find", directory, *race, "-type", "d", "(", *numbers, ")", "-print0"]


def holds_command(directory: str) -> list[str]:
    """As `probe_command` of commands.py, for whoever is going to put files: what is left of others is nothing."""
    return ["find", directory, "-mindepth", "1", "!", "(", *_LEFT_OVER, ")", "-printf", "x", "-quit"]
