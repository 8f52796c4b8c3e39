"""Scripts for the helper that list, tell apart and delete chosen paths.

Paths are bytes, and an argument vector is text: each is a script for the stdin of a shell, in pieces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from volferry.archive.commands import DELETE, LIST_FORMAT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Sorts as `list_command` does; the arguments are the format of `find` and the directory to spill into.
_SORT_SCRIPT = r"""
tr '/\001' '\001/' |
{ sort -z -S 64M -T "$2" && printf '\001\001\001end\0'; } |
tr '/\001' '\001/'
"""

# A `find` that has failed has deleted some of them.
_DELETE_EACH = rb"""
delete_each() {
    find "$@" -delete 2>/dev/null && return
    status=0
    for each; do
        [ ! -e "$each" ] && [ ! -L "$each" ] || delete "$each" || status=1
    done
    return "$status"
}
"""

_OPEN_SCRIPT = rb"""
open() {
    [ -d "$1" ] && [ ! -L "$1" ] || return
    mode=$(find "$1" -maxdepth 0 -printf %m)
    [ "$((0$mode & 0700))" != 448 ] && chmod u+rwx "$1" 2>/dev/null && printf '%s %s\0' "$mode" "$1"
}
"""

# Of one `find` in a script; the kernel takes 128 KiB and more.
_MOST_ARGUMENT_BYTES = 64 << 10

SCRIPT_COMMAND = ["sh", "-s"]


def list_paths_script(directory: str, spool: str, paths: Sequence[bytes], *, below: bool) -> Iterator[bytes]:
    """Writes a listing as `list_command` does, of `paths` and, if `below`, all below them. What is not there is not
    listed, and said on stderr. Every path in the listing starts with `./`.

    `paths` must be in the order of a tree walk, none of them empty, and none below another if `below`.
    """
    depth = b"" if below else b" -maxdepth 0"
    record = _quoted(LIST_FORMAT.replace("%P", "%p", 1).encode())
    yield b"cd %s || exit 1\nset -- %s %s\nlist() {\nstatus=0\n" % (
        _quoted(directory.encode()),
        record,
        _quoted(spool.encode()),
    )
    for arguments in _argument_lists(paths):
        yield b'find%s%s -printf "$1" </dev/null || status=1\n' % (arguments, depth)
    yield b'printf \'///status %%d\\0\' "$status"\n}\nlist "$@" |%s\n' % _SORT_SCRIPT.encode()


def identity_script(directory: str, paths: Sequence[bytes]) -> Iterator[bytes]:
    """Writes a NUL-ended record for each of `paths` that is there: what tells one file from another, beginning with inode, device and number of
    names, and after `//./` the path.
    """
    yield b"cd %s || exit 1\n" % _quoted(directory.encode())
    for arguments in _argument_lists(paths):
        yield (
            b"find%s -maxdepth 0 -printf '%%i %%D %%n %%y %%m %%U %%G %%s %%T@ %%C@//%%p\\0' </dev/null\n"
            % arguments
        )


def delete_paths_script(directory: str, paths: Sequence[bytes]) -> Iterator[bytes]:
    """Deletes `paths`, which must be there, with all below them."""
    yield b"cd %s || exit 1\n%s%s" % (_quoted(directory.encode()), DELETE.encode(), _DELETE_EACH)
    for arguments in _argument_lists(paths):
        yield b"delete_each%s </dev/null || exit 1\n" % arguments


def open_script(directory: str, paths: Sequence[bytes]) -> Iterator[bytes]:
    """Lets the owner do anything in those of `paths` that are directories, each before what is below it. Writes of those that changed a NUL-ended
    record: mode, blank, path.
    """
    yield b"cd %s || exit 1\n%s" % (_quoted(directory.encode()), _OPEN_SCRIPT)
    for path in paths:
        yield b"open %s\n" % _quoted(b"./" + path)


def modes_script(directory: str, modes: Sequence[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """Gives paths modes, one by one. Those are octal digits."""
    yield b"cd %s || exit 1\nstatus=0\n" % _quoted(directory.encode())
    for mode, path in modes:
        yield b"chmod %s %s || status=1\n" % (mode, _quoted(path))
    yield b'exit "$status"\n'


def _argument_lists(paths: Sequence[bytes]) -> Iterator[bytes]:
    """Paths as quoted arguments that start with `./`, as many at a time as one command may have."""
    arguments = b""
    for path in paths:
        argument = b" " + _quoted(b"./" + path)
        if arguments and len(arguments) + len(argument) > _MOST_ARGUMENT_BYTES:
            yield arguments
            arguments = b""
        arguments += argument
    if arguments:
        yield arguments


def _quoted(text: bytes) -> bytes:
    """One word of a shell, whatever its bytes."""
    return b"'" + text.replace(b"'", b"'\\''") + b"'"
