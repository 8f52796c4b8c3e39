"""Commands for file systems that treat root as any other user, as an NFS with root_squash, or a FUSE whose server is not root.

There, even root needs the bits of a directory's mode to write, read or delete what is in it.
"""

from __future__ import annotations

from volferry.archive.commands import NEW_TREE, RESTORE_MARK, extract_command

# Of a tree for which a restore has its own name, so that nobody takes it for anything else.
_LOOK_SCRIPT = """
root=$1 tree=$1/$2 squashed= made=
mode=$(find "$root" -maxdepth 0 -printf %m) || exit 1
if [ ! -d "$tree" ] || [ -L "$tree" ]; then
    if ! mkdir -m 700 "$tree" 2>/dev/null; then
        chmod u+rwx "$root" || exit 1
        mkdir -m 700 "$tree" || { chmod "$mode" "$root"; exit 1; }
        squashed=yes
    fi
    made=yes
fi
if [ -z "$squashed" ] && mkdir -m 500 "$tree/probe"; then
    mkdir "$tree/probe/in" 2>/dev/null || squashed=yes
    find "$tree/probe" -delete
fi
[ -z "$made" ] || find "$tree" -delete
[ -n "$squashed" ] || exit 0
chmod u+rwx "$root" 2>/dev/null
echo "$mode"
"""

_MARK_SCRIPT = """
mark=$1
shift
"$@"
status=$?
[ -O "$mark" ] 2>/dev/null || echo another
exit "$status"
"""


def mark_command(directory: str) -> list[str]:
    """As `extract_command`, of the mark alone. Writes a line if what is there then is not of whoever runs it."""
    mark = f"{directory}/{RESTORE_MARK}"
    return ["sh", "-c", _MARK_SCRIPT, "sh", mark, *extract_command(directory, flushed=False)]


def look_command(directory: str) -> list[str]:
    """Writes the mode of `directory` if its file system is such a one, and nothing if not: whether a directory that its owner may not write
    takes anything. In the first case, the owner of `directory` may do anything in it then.
    """
    return ["sh", "-c", _LOOK_SCRIPT, "sh", directory, NEW_TREE]


def set_mode_command(directory: str, mode: str) -> list[str]:
    return ["chmod", mode, directory]
