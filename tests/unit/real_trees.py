"""Real trees of files, and what `find` and GNU tar say of them: the commands of archive/commands.py, run here."""

from __future__ import annotations

import io
import os
import stat
import subprocess
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from volferry.archive.commands import create_command, extract_command, list_command
from volferry.archive.listing import Entry, read_listing
from volferry.archive.tarstream import END_OF_ARCHIVE, TarReader

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ENVIRONMENT = {"LC_ALL": "C", "PATH": os.environ["PATH"]}

# What a file's name may hold that something on the way could take for something else.
NASTY_NAMES = (
    b"plain",
    b"-C",
    b"--help",
    b"@list",
    b" ",
    b" both ends ",
    b"a",
    b"a.b",
    b"a-b",
    b"a\x01b",
    b"\x01",
    b"\x01\x01\x01end",
    b"a\nb",
    b"\n",
    b"tab\there",
    b'quote"d',
    b"it's",
    b"back\\slash",
    b"\\n",
    b"\\101",
    b"??=trigraph",
    b"%P%0",
    b"*",
    b"[a]",
    b"~",
    b"$HOME",
    b"\x7f",
    b"\xff\xfe",
    "é".encode(),
    "\u2028".encode(),
    b"...",
    b"n" * 255,
)

names = st.binary(min_size=1, max_size=8).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in {b".", b".."}
)


def at(directory: Path, path: bytes) -> Path:
    """Where an entry of a listing is."""
    return directory / os.fsdecode(path)


def make_nasty_tree(directory: Path) -> None:
    """A directory, a file in it, and links beside it, for each of the nasty names."""
    for name in NASTY_NAMES:
        at(directory, name).mkdir()
        for inner in (name, b"!", b"0"):
            at(directory, name + b"/" + inner).write_bytes(name * 10)
        if len(name) < 250:
            at(directory, name + b".link").symlink_to(os.fsdecode(name))
            at(directory, name + b".hard").hardlink_to(at(directory, name + b"/!"))


def run(command: Sequence[str], stdin: bytes = b"") -> bytes:
    """What a command wrote to stdout; it must succeed, without a word on stderr."""
    done = subprocess.run(command, input=stdin, capture_output=True, check=False, env=ENVIRONMENT)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


def raw_listing(directory: Path, spool: Path) -> bytes:
    return run(list_command(str(directory), str(spool)))


def listing(directory: Path, spool: Path) -> list[Entry]:
    return list(read_listing([raw_listing(directory, spool)]))


def paths_of(entries: Sequence[Entry]) -> bytes:
    """What `tar` gets on its stdin."""
    return b"".join((entry.path or b".") + b"\0" for entry in entries)


def raw_tar(directory: Path, entries: Sequence[Entry]) -> bytes:
    """The tar stream of `entries`, as tar writes it."""
    return run(create_command(str(directory), holes=True), paths_of(entries))


def read_again(stream: bytes) -> bytes:
    """Headers and payloads as the reader gives them out, one after another, with the end of the archive."""
    reader = TarReader(io.BytesIO(stream).readinto)
    parts = []
    for member in reader:
        parts.append(member.header)
        parts.extend(bytes(piece) for piece in reader.payload())
    return b"".join([*parts, END_OF_ARCHIVE])


def extract(stream: bytes, directory: Path) -> None:
    directory.mkdir()
    run(extract_command(str(directory)), stream)


def described(directory: Path) -> dict[str, tuple[object, ...]]:
    """Everything about a tree that a restore must bring back, by path."""
    found: dict[str, tuple[object, ...]] = {}
    links: dict[int, list[str]] = {}
    for path in (directory, *directory.rglob("*")):
        name = str(path.relative_to(directory))
        info = path.lstat()
        regular = stat.S_ISREG(info.st_mode)
        found[name] = (
            info.st_mode,
            info.st_uid,
            info.st_gid,
            info.st_mtime_ns,
            info.st_size if regular else 0,
            info.st_rdev,
            path.readlink() if path.is_symlink() else None,
            _content(path) if regular else [],
            {each: os.getxattr(path, each, follow_symlinks=False) for each in _attributes(path)},
        )
        if info.st_nlink > 1 and regular:
            links.setdefault(info.st_ino, []).append(name)
    found["hard links"] = (sorted(sorted(names) for names in links.values()),)
    return found


def _attributes(path: Path) -> list[str]:
    return os.listxattr(path, follow_symlinks=False)


def _content(path: Path) -> list[tuple[int, bytes]]:
    """Where a file has data, and which; holes and zeros are the same."""
    found: list[tuple[int, bytes]] = []
    with path.open("rb") as file:
        position = 0
        while True:
            try:
                start = os.lseek(file.fileno(), position, os.SEEK_DATA)
            except OSError:  # ENXIO: nothing but a hole is left
                return found
            position = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            for offset in range(start, position, 4096):
                data = os.pread(file.fileno(), min(4096, position - offset), offset)
                if data.strip(b"\0"):
                    found.append((offset, data))
