"""Tries whether the helper's programs do what volferry asks of them; their names and versions say little.

GNU, uutils, busybox, toybox and BSD have programs of the same names, and some of them lose data silently: they drop bytes that are not
UTF-8, store no attributes, or sort in another order.
"""

from __future__ import annotations

import io
import random
import re
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import zstandard

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

PROGRAMS = ("sh", "tar", "find", "sort", "tr", "zstd", "sleep", "sync", "chmod", "mkdir")

# All options of `tar` that volferry gives, but the names of files. It knows no other layer's commands: a test compares.
CREATE = (
    "--create",
    "--file=-",
    "--blocking-factor=20",
    "--format=posix",
    "--xattrs",
    "--xattrs-include=*",
    "--acls",
    "--selinux",
    "--numeric-owner",
    "--no-recursion",
    "--quoting-style=c",
    "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
    "--null",
    "--verbatim-files-from",
    "--no-unquote",
    "--files-from=-",
    "--sparse",
)
HARD_DEREFERENCE = "--hard-dereference"
EXTRACT = (
    "--extract",
    "--file=-",
    "--blocking-factor=20",
    "--xattrs",
    "--xattrs-include=*",
    "--acls",
    "--selinux",
    "--numeric-owner",
    "--same-owner",
    "--preserve-permissions",
    "--delay-directory-restore",
    "--quoting-style=c",
    "--warning=no-timestamp",
    r"--transform=s,^\(\.\?/\+\)*,,rhS;s,//\+,/,rhSg",
    "--strip-components=1",
)
# The attributes of files belong to a backup. SELinux's labels are those of a machine that has a `tar` which knows them.
_LACKING = re.compile(rb"(XATTR|ACLs?) support is not available")

_SHELL_SCRIPT = r"""
set -C
word=abcdef
[ "${word%def}" = abc ] && [ "${word#*c}" = def ] && [ "$((0755 & 0700))" = 448 ] || exit 1
case $word in *[![:graph:]]*) exit 1 ;; esac
add() { set -- "$@" more; [ "$#" = 3 ] || exit 1; }
add one two
jobs >/dev/null
(exit 7) &
wait "$!"
[ "$?" = 7 ] || exit 1
(trap 'exit 5' TERM; kill -s TERM "$(exec sh -c 'echo "$PPID"')"; exit 1)
[ "$?" = 5 ] || exit 1
exec 3<&0
IFS= read -r line <&3 || exit 1
{ read -r first _ && ulimit -t 10; } </proc/self/mountinfo || exit 1
status=$({ { printf x 3>&- 4>&-; echo 3 >&3; } >/dev/null; } 3>&1)
printf '%s %s%b\0' "$line" "$status" '\060'
"""

_NOT_FOUND = b"127"

_TREE_SCRIPT = r"""
cd "$0" && umask 022 && mkdir -m 750 a a/b && printf data >a/file && chmod 0640 a/file && : >a/empty
"""
_MODES_SCRIPT = r"""
cd "$0" && mkdir -m 700 made && chmod 0501 made && find made -maxdepth 0 -perm 501 | { read -r found && [ "$found" = made ]; } &&
    chmod u+rwx made && find made -maxdepth 0 -perm 701 | { read -r found && [ "$found" = made ]; }
"""
_FIND_FORMAT = r"%P//%y %m %U %G %s %T@ %C@ %i %n %l %.1b\0"
_NOW = rb"\d+\.\d{9,10}"
_FOUND = {
    b"a": rb"d 750 \d+ \d+ \d+ %b %b \d+ \d+  \d" % (_NOW, _NOW),
    b"a/b": rb"d 750 \d+ \d+ \d+ %b %b \d+ \d+  \d" % (_NOW, _NOW),
    b"a/file": rb"f 640 \d+ \d+ 4 %b %b \d+ 1  \d" % (_NOW, _NOW),
    b"a/empty": rb"f 644 \d+ \d+ 0 %b %b \d+ 1  \d" % (_NOW, _NOW),
}

# Not a word of UTF-8, with what means something to one program or another; no NUL, and no "/".
_ODD_NAME = b"-a\\n\xff\n'\" %s"
_XATTR = "user.volferry"
_MODIFIED = "1000000001.123456789"


@dataclass(frozen=True, slots=True)
class Ran:
    status: int
    out: bytes
    err: bytes


class Run(Protocol):
    """Runs a command, by the names of programs, with its stdin."""

    def __call__(self, command: Sequence[str], stdin: bytes, /) -> Ran: ...


def fault_of(name: str, run: Run, scratch: str, owner: int) -> str:
    """The fault of `name`, one of PROGRAMS, such as `it drops bytes`; empty if it has none. `scratch` is an empty directory
    of those programs, and `owner` the user as whom they run.
    """
    return _PROBES[name](run, scratch, owner)


def faults_of_their_own(faults: Mapping[str, str], missing: Collection[str]) -> dict[str, str]:
    """By program, without those that are only that a shell has not found a missing one."""
    names = "|".join(map(re.escape, missing))
    return {
        name: fault
        for name, fault in faults.items()
        if name in missing or not missing or not re.search(rf"\b(?:{names}): (?:command )?not found", fault)
    }


def _shell(run: Run, _: str, __: int) -> str:
    ran = run(["sh", "-c", _SHELL_SCRIPT], b" a\\b \n")
    if ran.status != 0 or ran.out != b" a\\b  30\0":
        return _unlike("it is no shell of POSIX", ran)
    # Some busyboxes are all of their programs at once.
    others = [name for name in PROGRAMS if name != "sh"]
    ran = run(["sh", "-c", 'PATH=/nonexistent; for each; do "$each"; echo "$?"; done', "sh", *others], b"")
    is_right = ran.out.split() == [_NOT_FOUND] * len(others)
    return "" if is_right else "it runs programs of its own in place of others"


def _sort(run: Run, scratch: str, _: int) -> str:
    chosen = random.Random(1)  # noqa: S311 -- the same ones each time
    others = [byte for byte in range(1, 256) if byte != ord("/")]
    records = [bytes(chosen.choices(others, k=chosen.randint(1, 40))) for _ in range(2000)]
    text = b"".join(record + b"\0" for record in records)
    ordered = b"".join(record + b"\0" for record in sorted(records))
    for size in ("64M", "1K"):
        ran = run(["sort", "-z", "-S", size, "-T", scratch], text)
        if ran.status != 0 or ran.out != ordered:
            return _unlike("it does not sort by bytes", ran)
    # A listing may be larger than the memory that a helper has.
    if run(["sort", "-z", "-S", "1K", "-T", f"{scratch}/none"], text).status == 0:
        return "it sorts in memory alone"
    return ""


def _tr(run: Run, _: str, __: int) -> str:
    every = bytes(range(256)) * 2
    ran = run(["tr", r"/\001", r"\001/"], every)
    right = every.translate(bytes.maketrans(b"/\1", b"\1/"))
    if ran.status != 0 or ran.out != right:
        return _unlike("it changes other bytes than it should", ran)
    return "" if run(["tr", r"\n", r"\0"], b"a\nb\n").out == b"a\0b\0" else "it changes no newlines"


def _zstd(run: Run, _: str, __: int) -> str:
    text = b"data\0" * 50_000
    ran = run(["zstd", "-q", "-1", "-c"], text)
    try:
        again = zstandard.ZstdDecompressor().decompressobj().decompress(ran.out)
    except zstandard.ZstdError:
        again = b""
    if ran.status != 0 or again != text:
        return _unlike("it does not compress", ran)
    ran = run(["zstd", "-q", "-d", "-c"], ran.out)
    return "" if ran.status == 0 and ran.out == text else _unlike("it does not decompress", ran)


def _sleep(run: Run, _: str, __: int) -> str:
    ran = run(["sleep", "0.01"], b"")
    return "" if ran.status == 0 else _unlike("it knows no parts of a second", ran)


def _sync(run: Run, scratch: str, _: int) -> str:
    ran = run(["sync", "-f", scratch], b"")
    if ran.status != 0:
        return _unlike("it syncs no single file system", ran)
    return (
        "" if run(["sync", "-f", f"{scratch}/none"], b"").status != 0 else "it does not say what it failed at"
    )


def _modes(run: Run, scratch: str, _: int) -> str:
    ran = run(["sh", "-c", _MODES_SCRIPT, scratch], b"")
    return "" if ran.status == 0 else _unlike("it does not set modes", ran)


def _find(run: Run, scratch: str, owner: int) -> str:
    ran = run(["sh", "-c", _TREE_SCRIPT, scratch], b"")
    if ran.status != 0:
        return _unlike("nothing can be tried", ran)
    tests = [
        "-noleaf",
        "-xdev",
        "-regextype",
        "posix-extended",
        "-type",
        "d",
        "(",
        "-regex",
        r"\./(a|x)/b",
        ")",
    ]
    large = ["-type", "f", "-size", "+2047", "-printf", _FIND_FORMAT.replace("%.1b", "+%b")]
    listing = [*tests, "-printf", _FIND_FORMAT, "-prune", "-o", *large, "-o", "-printf", _FIND_FORMAT]
    ran = run(["sh", "-c", 'cd "$0" && exec "$@"', scratch, "find", ".", *listing], b"")
    records = [record.partition(b"//") for record in ran.out.split(b"\0") if record]
    found = {path: rest for path, _, rest in records if path in _FOUND}
    if ran.status != 0 or found.keys() != _FOUND.keys():
        return _unlike("it does not describe files", ran)
    for path, rest in found.items():
        if re.fullmatch(_FOUND[path], rest) is None or rest.split()[2] != b"%d" % owner:
            return f"it describes a file as {rest.decode(errors='replace')!r}"
    kinds = [
        "-mindepth",
        "1",
        "-maxdepth",
        "1",
        "-ignore_readdir_race",
        "-name",
        "e*",
        "-type",
        "f",
        "-xtype",
        "f",
    ]
    sizes = ["-size", "0", "!", "-perm", "-700", "!", "-path", "./none", "!", "-inum", "1"]
    shown = ["-printf", r"%F %D %p\0", "-print0", "-delete", "-quit"]
    ran = run(["find", f"{scratch}/a", *kinds, *sizes, *shown], b"")
    name = f"{scratch}/a/empty".encode()
    if ran.status != 0 or not re.fullmatch(
        rb"\S+ \d+ %b\0%b\0" % (re.escape(name), re.escape(name)), ran.out
    ):
        return _unlike("it does not know all tests and actions", ran)
    ran = run(["find", f"{scratch}/a", "-exec", "sh", "-c", 'printf %s "$#"', "sh", "{}", "+"], b"")
    return (
        "" if (ran.status, ran.out) == (0, b"3") else _unlike("it does not delete, or runs no commands", ran)
    )


def _tar(run: Run, scratch: str, owner: int) -> str:
    made = run(["sh", "-c", 'mkdir "$0/tar"', scratch], b"")
    if made.status != 0:
        return _unlike("nothing can be tried", made)
    there = f"--directory={scratch}/tar"
    ran = run(["tar", there, *EXTRACT], _archive(owner))
    if ran.status != 0 or _LACKING.search(ran.err):
        return _unlike("it does not unpack with attributes", ran)
    no_attributes = b"setxattr" in ran.err.lower() or b"lsetxattr" in ran.err.lower()  # of this file system
    names = b"".join(name + b"\0" for name in (b".", b"./d", b"./d/" + _ODD_NAME, b"./d/other", b"./-C"))
    for links in (True, False):
        ran = run(["tar", there, *CREATE, *([] if links else [HARD_DEREFERENCE])], names)
        if ran.status != 0 or _LACKING.search(ran.err):
            return _unlike("it does not pack with attributes", ran)
        if fault := _archive_fault(ran.out, links=links, attributes=not no_attributes):
            return fault
    return ""


def _archive(owner: int) -> bytes:
    """With names, times and attributes that are easily lost; all of it below a directory `top`, which is left out again."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as tar:

        def add(name: bytes, kind: bytes, data: bytes = b"", target: bytes = b"") -> None:
            info = tarfile.TarInfo("top//" + name.decode(errors="surrogateescape"))
            info.type, info.mode, info.uid, info.size = kind, 0o640, owner, len(data)
            info.linkname = target.decode(errors="surrogateescape")
            info.pax_headers = {"mtime": _MODIFIED}
            if kind == tarfile.REGTYPE:
                info.pax_headers[f"SCHILY.xattr.{_XATTR}"] = "value"
            if kind == tarfile.DIRTYPE:
                info.mode = 0o750
            tar.addfile(info, io.BytesIO(data))

        add(b"d", tarfile.DIRTYPE)
        add(b"d/" + _ODD_NAME, tarfile.REGTYPE, b"data\0" * 1000)
        add(b"d/other", tarfile.LNKTYPE, target=b"top//d/" + _ODD_NAME)
        add(b"-C", tarfile.SYMTYPE, target=b"../" + _ODD_NAME)
    return out.getvalue()


def _archive_fault(stream: bytes, *, links: bool, attributes: bool) -> str:
    try:
        with tarfile.open(fileobj=io.BytesIO(stream), errors="surrogateescape") as tar:
            found = {info.name.encode(errors="surrogateescape"): info for info in tar}
            names = {name.removeprefix(b"./"): info for name, info in found.items()}
            odd, other = names.get(b"d/" + _ODD_NAME), names.get(b"d/other")
            held = odd and tar.extractfile(odd)
            data = held.read() if held else b""
    except (tarfile.TarError, UnicodeError, ValueError):
        return "what it packs is no archive"
    directory, link = names.get(b"d"), names.get(b"-C")
    if odd is None or other is None or directory is None or link is None or data != b"data\0" * 1000:
        return "it loses names or data"
    if link.linkname.encode(errors="surrogateescape") != b"../" + _ODD_NAME or other.islnk() != links:
        return "it loses links"
    if odd.pax_headers.get("mtime") != _MODIFIED or (directory.mode, odd.mode) != (0o750, 0o640):
        return "it loses times or modes"
    if attributes and odd.pax_headers.get(f"SCHILY.xattr.{_XATTR}") != "value":
        return "it loses extended attributes"
    return ""


def _unlike(what: str, ran: Ran) -> str:
    """With its own words, if it has any."""
    said = " ".join((ran.err.decode(errors="replace").splitlines() or [""])[0].split())
    return f"{what} ({said[:200]})" if said else what


_PROBES: dict[str, Callable[[Run, str, int], str]] = {
    "sh": _shell,
    "find": _find,
    "tar": _tar,
    "sort": _sort,
    "tr": _tr,
    "zstd": _zstd,
    "sleep": _sleep,
    "sync": _sync,
    "chmod": _modes,
    "mkdir": _modes,
}
