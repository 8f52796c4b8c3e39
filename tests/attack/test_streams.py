"""Tar streams that lead out of their target, given to each command that extracts one. Nothing looks at them on the way here."""

from __future__ import annotations

import io
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

from volferry.archive.commands import (
    extract_command,
    foreign_extract_command,
    local_extract_command,
    modes_command,
)
from volferry.archive.squash_scripts import mark_command

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.attack.conftest import Outside

Member = tuple[str, bytes, str, bytes]  # name, type, target, content

LINK, HARD, FILE, DIRECTORY = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.REGTYPE, tarfile.DIRTYPE
FIFO = tarfile.FIFOTYPE

# MACHINE is the directory outside.
STREAMS: dict[str, list[Member]] = {
    "a file below a link": [("a", LINK, "MACHINE", b""), ("a/secret", FILE, "", b"planted")],
    "a new file below a link": [("a", LINK, "MACHINE/empty", b""), ("a/new", FILE, "", b"planted")],
    "below a link that leads up": [("a", LINK, "../machine", b""), ("a/secret", FILE, "", b"planted")],
    "below a link to a link": [
        ("b", LINK, "MACHINE", b""),
        ("a", LINK, "b", b""),
        ("a/secret", FILE, "", b"planted"),
    ],
    "below a link through a link": [
        ("b", LINK, "..", b""),
        ("a", LINK, "b/machine", b""),
        ("a/secret", FILE, "", b"planted"),
    ],
    "below a link that went up in two steps": [
        ("c", DIRECTORY, "", b""),
        ("c/b", LINK, "../..", b""),
        ("a", LINK, "c/b/machine", b""),
        ("a/secret", FILE, "", b"planted"),
    ],
    "a directory in place of a link": [("a", LINK, "MACHINE/empty", b""), ("a", DIRECTORY, "", b"")],
    "a directory below a link": [("a", LINK, "MACHINE", b""), ("a/empty", DIRECTORY, "", b"")],
    "a directory of a directory that became a link": [
        ("a", DIRECTORY, "", b""),
        ("a/empty", DIRECTORY, "", b""),
        ("a", LINK, "MACHINE", b""),
    ],
    "a FIFO below a link": [("a", LINK, "MACHINE/empty", b""), ("a/new", FIFO, "", b"")],
    "a link below a link": [("a", LINK, "MACHINE/empty", b""), ("a/new", LINK, "x", b"")],
    "a file in place of a link": [("a", LINK, "MACHINE/secret", b""), ("a", FILE, "", b"planted")],
    "a hard link through a link": [("a", LINK, "MACHINE", b""), ("x", HARD, "a/secret", b"")],
    "a hard link through a link, and a file in its place": [
        ("a", LINK, "MACHINE", b""),
        ("x", HARD, "a/secret", b""),
        ("x", FILE, "", b"planted"),
    ],
    "a hard link to a link, and a file below": [
        ("a", LINK, "MACHINE", b""),
        ("x", HARD, "a", b""),
        ("x/secret", FILE, "", b"planted"),
    ],
    "a hard link below a link": [
        ("f", FILE, "", b"planted"),
        ("a", LINK, "MACHINE/empty", b""),
        ("a/new", HARD, "f", b""),
    ],
    "a hard link up": [("x", HARD, "../machine/secret", b"")],
    "a hard link to the root": [("x", HARD, "MACHINE/secret", b"")],
    "a name that leads up": [("../machine/secret", FILE, "", b"planted")],
    "a name that leads up later": [("a/../../machine/secret", FILE, "", b"planted")],
    "a name from the root": [("MACHINE/secret", FILE, "", b"planted")],
    "a directory that leads up": [("../machine/empty", DIRECTORY, "", b"")],
    "the directory above": [("..", DIRECTORY, "", b"")],
}


def stream_of(members: list[Member], machine: Path) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, target, content in members:
            info = tarfile.TarInfo(name.replace("MACHINE", str(machine)))
            info.type, info.linkname, info.size = kind, target.replace("MACHINE", str(machine)), len(content)
            info.mode, info.uid, info.gid, info.mtime = 0o777, 12345, 12345, 1_700_000_000
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


COMMANDS: dict[str, Callable[[str], list[str]]] = {
    "a volume": extract_command,
    "a volume that others flush": lambda directory: extract_command(directory, flushed=False),
    "an archive of others": lambda directory: foreign_extract_command(directory, 0),
    "an archive of others, without its first part": lambda directory: foreign_extract_command(directory, 1),
    "a directory": lambda directory: local_extract_command(directory, root=True),
    "modes": modes_command,
    "a mark": mark_command,
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("what", STREAMS)
def test_no_member_leads_out_of_the_target(tmp_path: Path, outside: Outside, what: str, command: str) -> None:
    target = tmp_path / "target"
    target.mkdir()
    target.chmod(0o750)
    members = STREAMS[what]
    if command.endswith("first part"):
        members = [
            (f"p/{name}", kind, f"p/{to}" if kind == HARD else to, content)
            for name, kind, to, content in members
        ]
    subprocess.run(
        COMMANDS[command](str(target)),
        input=stream_of(members, outside.directory),
        capture_output=True,
        check=False,
        timeout=60,
    )
    outside.check()
    assert {each.name for each in tmp_path.iterdir()} == {"target", "machine"}
    for each in target.rglob("*"):  # nor has anything outside another name in it
        assert each.is_symlink() or not each.samefile(outside.secret)
