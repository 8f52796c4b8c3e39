"""The command lines that run in the helper: how a volume is listed, read, written and emptied.

They are part of the format (docs/format.md): the listing's records and the bytes of the tar stream come from them.
Each is an argument vector whose directory is the volume's mount point in the helper.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from volferry.archive.walk_script import walk_command

if TYPE_CHECKING:
    from collections.abc import Sequence

# A file in the root of a volume while a restore writes it: half of a backup must not be taken for a whole one, least
# of all be backed up as one, whoever looks at the volume next.
RESTORE_MARK = ".volferry-restore-in-progress"
# Directories in the root of a volume while a backup is restored beside what is there: what is being restored, what the volume held, and
# the part of either that is on its way. Listings have them, and nothing below them.
NEW_TREE = ".volferry-restore-new"
OLD_TREE = ".volferry-restore-old"
HALF_TREE = ".volferry-restore-half"
OWN_TREES = (NEW_TREE.encode(), OLD_TREE.encode(), HALF_TREE.encode())

# One NUL-ended record an entry. The path comes first and no path holds "//", so the first "//" ends it. The last field is the first
# digit of the entry's number of blocks, or of a file of a mebibyte or more a "+" and the whole number. It is for whoever takes the listing, and
# no part of the record that is stored.
LIST_FORMAT = r"%P//%y %m %U %G %s %T@ %C@ %i %n %l %.1b\0"
_LARGE_LIST_FORMAT = LIST_FORMAT.replace("%.1b", "+%b")
_IS_LARGE = ["-type", "f", "-size", "+2047"]  # in units of 512 bytes, rounded up

# First and last record around the sorted ones. Three slashes: no path is empty and followed by a third one.
STATUS_RECORD = b"///status "
END_RECORD = b"///end"

# "/" and byte 1 change places while `sort` compares: "/" is then below every other byte that a name can hold, so
# that byte order is the order of a tree walk (a directory, then everything below it, then its next sibling).
# The exit status of `find` goes first, with the types of the file systems: that of the directory, and those of all mounts below it. The end record is written only if
# `sort` succeeded. A path with a blank stands in mountinfo as another text: then all mounts count, and none is synced.
_LIST_SCRIPT = r"""
spool=$1 written_back=$3 one_file_system=$4 large=$5
cd -P "$2" || exit 1
shift 5
[ -z "$written_back" ] || sync -f .
types=$(find . -maxdepth 0 -printf %F 2>/dev/null)
case $PWD in *[![:graph:]]* | *\\*) here= ;; *) here=${PWD%/} ;; esac
[ -n "$one_file_system" ] || [ ! -r /proc/self/mountinfo ] || while read -r _ _ _ _ point rest; do
    case $point in "$here"/?*) ;; *) continue ;; esac
    rest=${rest#* - }
    types="$types ${rest%% *}"
    [ -z "$written_back" ] || [ -z "$here" ] ||
        ({ cd -P "$(printf %b "$point")" && : <.; } 2>/dev/null && sync -f .)
done </proc/self/mountinfo
for tree in @trees@; do
    [ -d "$tree" ] && set -- "$@" -path "./$tree" -printf "$0" -prune -o
done
{
    @find@
    printf '///status %d %s\0' "$?" "$types"
} |
tr '/\001' '\001/' |
{ sort -z -S 64M -T "$spool" && printf '\001\001\001end\0'; } |
tr '/\001' '\001/'
""".replace("@trees@", f"{NEW_TREE} {OLD_TREE} {HALF_TREE} {RESTORE_MARK}")
_FIND = 'find . -noleaf ${one_file_system:+-xdev} "$@" @large@ -printf "$large" -o -printf "$0"'.replace(
    "@large@", " ".join(_IS_LARGE)
)

_CREATE = [
    "--create",
    "--file=-",
    "--blocking-factor=2048",
    "--format=posix",
    "--xattrs",
    "--xattrs-include=*",
    "--acls",
    "--selinux",
    "--numeric-owner",
    "--no-recursion",
    "--quoting-style=c",
    # Without it the stream holds tar's process id and access times, and is never the same twice.
    "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
    "--null",
    "--verbatim-files-from",
    "--no-unquote",
    "--files-from=-",
]

# Without this option, `tar` with names from stdin stores the second of two files with the same inode number as a link to the first, whatever their numbers of links are.
_EACH_ALONE = ["--hard-dereference"]
# Holes of a terabyte are some bytes, and should not become a record of a mebibyte.
_WITH_HOLES = ["--sparse", "--blocking-factor=20"]

_MARK_CPU_SECONDS = 10

# Runs a program that reads files. Where a file system says each time that a read was interrupted, programs try again, and never end. Reads that never come to a byte show
# that, and that the program waits for nothing: however slow a server is, a read that has not ended does not count. The line that names the file has the directory, "//" and the file's whole
# path, in which NUL stands for a newline.
MOST_EMPTY_READS = 10_000
READ_AGAIN = "volferry: read again and again: "
_WATCHED_SCRIPT = r"""
exec 3<&0
"$@" <&3 3<&- &
reading=$!
exec 3<&- </dev/null >/dev/null
{
    trap 'kill "$nap" 2>/dev/null; exit' TERM
    last=
    while :; do
        sleep 2 2>/dev/null &
        nap=$!
        wait "$nap"
        { { read -r _ got && read -r _ put && read -r _ calls; } <"/proc/$reading/io"; } 2>/dev/null || exit
        if [ "$got $put" != "$last" ]; then
            last="$got $put" first=$calls
        elif [ "$((calls - first))" -gt @most@ ]; then
            {
                printf '@read again@%s//' "$0"
                find "/proc/$reading/fd" -xtype f -printf %l -quit | tr '\n' '\0'
                echo
            } >&2
            kill "$reading"
            exit
        fi
    done
} &
watching=$!
wait "$reading"
status=$?
kill "$watching" 2>/dev/null
exit "$status"
""".replace("@read again@", READ_AGAIN).replace("@most@", str(MOST_EMPTY_READS))

_EXTRACT = [
    "--extract",
    "--file=-",
    "--blocking-factor=2048",
    "--xattrs",
    "--xattrs-include=*",
    "--acls",
    "--selinux",
    "--numeric-owner",
    "--same-owner",
    "--preserve-permissions",
    # No `--absolute-names`: a symlink that leads up or to the root is an empty file until all else is there, so that no member is ever written
    # through one that came before it. Whoever could write the volume has had a say in the stream.
    # A directory's time is set when everything below it is there.
    "--delay-directory-restore",
    "--quoting-style=c",
    "--warning=no-timestamp",
]

# What is written goes to the disk meanwhile, not all at the end, where `sync_command` waits for it; so does the engine, which
# syncs its file system when a container goes (umount of an overlay). The kernel says once that it could not write something: whoever asks must
# pass it on, or `sync_command` would find nothing wrong. The trap is run once a `sync` that runs has ended, with its status.
_SYNCING = """
{
    trap 'found=$?; kill "$nap" 2>/dev/null; exit "$found"' TERM
    while :; do
        sleep 0.5 2>/dev/null &
        nap=$!
        wait "$nap" || exit 0
        sync -f "$0" || exit 1
    done
} </dev/null >/dev/null &
syncing=$!
@work@
kill "$syncing" 2>/dev/null
@last@
wait "$syncing" 2>/dev/null
synced=$?
[ "$synced" -gt 128 ] || [ "$synced" = 0 ] || [ "$status" != 0 ] || status=1
exit "$status"
"""
_SYNCED_SCRIPT = _SYNCING.replace("@work@", '"$@"\nstatus=$?').replace("@last@", "")
# The last one need not wait for the one before it: a disk may take a second for each.
_FLUSH_SCRIPT = _SYNCING.replace("@work@", "read -r _").replace("@last@", 'sync -f "$0"\nstatus=$?')

# A function of a shell that deletes what `find` finds with its arguments. Where root is as any other user, it deletes nothing out of a directory
# that its owner may not write, or not look into: so they are given these rights, each before `find` looks into it. On other file systems the
# first `find` has deleted all, or the last one says why not.
DELETE = r"""
delete() {
    find "$@" -delete 2>/dev/null && return
    find "$@" -type d ! -perm -700 -exec chmod u+rwx {} \; 2>/dev/null
    find "$@" -delete
}
"""

_ROOT_ONLY = {"--same-owner"}
_ATTRIBUTES = {"--xattrs", "--xattrs-include=*", "--acls", "--selinux"}


def list_command(
    directory: str,
    spool: str,
    *,
    written_back: bool = False,
    one_file_system: bool = False,
    not_walked: Sequence[str] = (),
    distrusted: bool = False,
) -> list[str]:
    """Writes the sorted listing of `directory` to stdout; `sort` spills into `spool`.

    With `written_back`, pages that were written through a mapping go to the disk first: only after that does the next store into
    them change the file's times. With `one_file_system`, nothing below another file system's mount point is listed. Directories whose
    path (`./a/b`) one of the POSIX extended regular expressions `not_walked` matches are listed, and nothing below them. With `distrusted`, all names of the kernel are listed, whatever it calls them, by
    volferry's Python, which takes longer.
    """
    flags = ["yes" if flag else "" for flag in (written_back, one_file_system)]
    prune = _pruned(not_walked, "-printf", LIST_FORMAT)
    walk = walk_command(one_file_system=one_file_system) if distrusted else []
    script = _LIST_SCRIPT.replace("@find@", '"$@"' if distrusted else _FIND)
    return ["sh", "-c", script, LIST_FORMAT, spool, directory, *flags, _LARGE_LIST_FORMAT, *walk, *prune]


def _pruned(not_walked: Sequence[str], *action: str) -> list[str]:
    """Of a `find`, an alternative that comes first: `action`, and no step into a directory that one of `not_walked` matches."""
    if not not_walked:
        return []
    tests = [part for each in not_walked for part in ("-o", "-regex", each)][1:]
    return ["-regextype", "posix-extended", "-type", "d", "(", *tests, ")", *action, "-prune", "-o"]


def create_command(
    directory: str, *, holes: bool = False, watched: bool = False, links: bool = True
) -> list[str]:
    """Reads NUL-ended paths (`.` for the root) from stdin, writes their tar stream to stdout. With `holes`, a file's holes are not
    read: then the stream must be of that file alone (alone.py). If it is `watched`, it ends at a file that can never be read, which a line with `READ_AGAIN` names.
    Without `links`, no entry becomes a hard link to another.
    """
    more = [*(_WITH_HOLES if holes else []), *([] if links else _EACH_ALONE)]
    tar = ["tar", f"--directory={directory}", *_CREATE, *more]
    return ["sh", "-c", _WATCHED_SCRIPT, directory, *tar] if watched else tar


def extract_command(directory: str, *, flushed: bool = True) -> list[str]:
    """Reads a tar stream from stdin and puts its entries into `directory`, and none through a symlink of the stream. With `flushed`, what it writes goes to the disk meanwhile."""
    tar = ["tar", f"--directory={directory}", *_EXTRACT]
    return ["sh", "-c", _SYNCED_SCRIPT, directory, *tar] if flushed else tar


def flush_command(directory: str) -> list[str]:
    """Writes the dirty pages of the file system of `directory` to the disk again and again until stdin is closed, and once more then. Fails if the kernel could
    not write some.
    """
    return ["sh", "-c", _FLUSH_SCRIPT, directory]


def foreign_extract_command(directory: str, strip: int) -> list[str]:
    """As `extract_command`, of an archive that others have made. The first `strip` parts of
    each name are left out; a leading `./` or `/` is none.
    """
    options = _EXTRACT.copy()
    if strip:
        # Names and targets of hard links, not of symlinks. Of `a//etc`, a `tar` that leaves out one part would have `/etc`.
        options += [r"--transform=s,^\(\.\?/\+\)*,,rhS;s,//\+,/,rhSg", f"--strip-components={strip}"]
    tar = ["tar", f"--directory={directory}", *options]
    return ["sh", "-c", _SYNCED_SCRIPT, directory, *tar]


def sync_command(directory: str) -> list[str]:
    """All that was written to the file system of `directory` is on the disk, or it fails."""
    return ["sync", "-f", directory]


def empty_command(directory: str) -> list[str]:
    """Deletes everything below `directory` but the mark of a restore that has begun."""
    find = [directory, "-mindepth", "1", "!", "-path", f"{directory}/{RESTORE_MARK}"]
    return ["sh", "-c", f'{DELETE}\ndelete "$@"', "sh", *find]


def usage_command(directory: str) -> list[str]:
    """Writes a NUL-ended record for each entry: blocks of 512 bytes, links, type, inode."""
    return ["find", directory, "-ignore_readdir_race", "-printf", r"%b %n %y %i\0"]


def real_path_command(directory: str) -> list[str]:
    """Writes the path of a directory, without links; fails if there is none."""
    return [
        "sh",
        "-c",
        'cd -P -- "$1" && path=$(pwd -P && echo /) && printf %s "${path%??}"',
        "sh",
        directory,
    ]


def probe_command(directory: str) -> list[str]:
    """Writes one byte to stdout if `directory` holds anything."""
    return ["find", directory, "-mindepth", "1", "-printf", "x", "-quit"]


def find_command(
    directory: str, name: str, *, one_file_system: bool = False, not_walked: Sequence[str] = ()
) -> list[str]:
    """Writes size, a blank and path, NUL-ended, of each regular file called `name`; what is not walked as in `list_command`."""
    find = ["find", ".", "-noleaf", *(["-xdev"] if one_file_system else [])]
    wanted = ["-name", name, "-type", "f", "-printf", r"%s %P\0"]
    return ["sh", "-c", 'cd "$0" && exec "$@"', directory, *find, *_pruned(not_walked), *wanted]


def marked_command(directory: str) -> list[str]:
    """Writes one byte to stdout if the mark is there."""
    return ["find", directory, "-maxdepth", "1", "-name", RESTORE_MARK, "-printf", "x"]


def mark_size_command(directory: str) -> list[str]:
    """Writes the size of the mark in bytes, if it is a file."""
    return ["find", directory, "-maxdepth", "1", "-name", RESTORE_MARK, "-type", "f", "-printf", "%s"]


def read_mark_command(directory: str) -> list[str]:
    """As `create_command`, for as long as the reading of a mark may take: one that somebody has exchanged may be of any size."""
    return ["sh", "-c", 'ulimit -t "$0" && exec "$@"', str(_MARK_CPU_SECONDS), *create_command(directory)]


def left_command(directory: str) -> list[str]:
    """Writes one byte to stdout if what is restored beside is there, and as `marked_command` another one."""
    new = ["-name", NEW_TREE, "-type", "d", "-printf", "n"]
    return [*marked_command(directory), "-o", *new]


def unmark_command(directory: str) -> list[str]:
    """Takes the mark away."""
    return ["find", directory, "-maxdepth", "1", "-name", RESTORE_MARK, "-delete"]


def modes_command(directory: str) -> list[str]:
    """Reads a tar stream of directories that are there from stdin, and gives each its mode, owner and time again. The headers need not
    have their other attributes: those stay.
    """
    return ["tar", f"--directory={directory}", *(each for each in _EXTRACT if each not in _ATTRIBUTES)]


def local_extract_command(directory: str, *, root: bool, attributes: bool = True) -> list[str]:
    """As `extract_command`, or without `attributes` as `modes_command`, into a directory of this machine; who is not root cannot give
    files away.
    """
    left_out = (set() if root else _ROOT_ONLY) | (set() if attributes else _ATTRIBUTES)
    return ["tar", f"--directory={directory}", *(each for each in _EXTRACT if each not in left_out)]
