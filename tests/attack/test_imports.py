"""Archives that a hostile hand has made, imported: no member leads out of the volume, no header takes the memory, and what is refused leaves no volume."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from typing import TYPE_CHECKING, BinaryIO, cast

import pytest

from tests.attack.conftest import SECRET
from tests.attack.test_streams import DIRECTORY, FIFO, FILE, HARD, LINK, STREAMS, Member, stream_of
from tests.parts.world import World, world_of
from tests.safety.test_tar_import import imported
from volferry.archive.commands import HALF_TREE, NEW_TREE, OLD_TREE, RESTORE_MARK
from volferry.archive.foreign_tar import ForeignTar, Strip
from volferry.errors import DamagedArchive, VolferryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import docker

    from tests.attack.conftest import Outside
    from tests.parts.engine import PrivateEngine

OPTIONS = [
    "-rf", "--", "-C", "-T", "--checkpoint=1", "--checkpoint-action=exec=sh x", "--to-command=sh x", "-I sh",
    "--strip-components=9", "@x", "$(touch x)", "`touch x`", "; touch x", "a\nb", "\x1b[2J", "*", "\\012",
    "tar: x: Cannot open: Permission denied", "tar: Exiting with failure status due to previous errors",
]  # fmt: skip


def devices() -> bytes:
    with io.BytesIO() as out:
        with tarfile.open(fileobj=out, mode="w") as tar:
            for number, (kind, major, minor) in enumerate((
                (tarfile.CHRTYPE, 1, 8), (tarfile.CHRTYPE, 1, 5), (tarfile.BLKTYPE, 8, 0), (tarfile.BLKTYPE, 7, 0),
            )):  # fmt: skip
                info = tarfile.TarInfo(f"d{number}")
                info.type, info.devmajor, info.devminor, info.mode = kind, major, minor, 0o666
                tar.addfile(info)
                again = tarfile.TarInfo(f"d{number} again")
                again.type, again.linkname = HARD, f"d{number}"
                tar.addfile(again)
        return out.getvalue()


def with_headers(**headers: str) -> Callable[[], bytes]:
    def made() -> bytes:
        with io.BytesIO() as out:
            with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
                info = tarfile.TarInfo("file")
                info.pax_headers = {name.replace("__", "."): value for name, value in headers.items()}
                tar.addfile(info)
            return out.getvalue()

    return made


def many_attributes() -> bytes:
    return with_headers(**{f"SCHILY__xattr__user__{number}": "x" * 3000 for number in range(300)})()


def header(name: str, kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


# What tarfile and `tar` make of these is their own; what comes of it is not to be more than an error.
ARCHIVES: dict[str, Callable[[], bytes]] = {
    "names like options": lambda: stream_of([(name, FILE, "", b"x") for name in OPTIONS], cast("Path", "")),
    "devices": devices,
    "many attributes": many_attributes,
    "an attribute of the engine's": with_headers(SCHILY__xattr__trusted__overlay__opaque="y"),
    "a path in a header": with_headers(path="../machine/secret"),
    "the name of a sparse file": with_headers(GNU__sparse__name="../machine/secret", GNU__sparse__major="1", GNU__sparse__minor="0", GNU__sparse__realsize="3"),
    "a size below nothing": with_headers(size="-1"),
    "a size without end": with_headers(size="9" * 30),
    "a number of too many digits": with_headers(mtime="1" * 5000),
    "a character set that is none": with_headers(hdrcharset="\udcff"),
    "headers of headers": lambda: header("x", tarfile.XHDTYPE, 0) * 5000 + header("f", FILE, 0) + bytes(1024),
    "names of names": lambda: header("x", tarfile.GNUTYPE_LONGNAME, 0) * 5000 + header("f", FILE, 0) + bytes(1024),
    "a sparse file without a map": with_headers(GNU__sparse__major="1", GNU__sparse__minor="0"),
    "a map of words": with_headers(GNU__sparse__map="a,b"),
    "a length of nothing": lambda: header("x", tarfile.XHDTYPE, 512) + b"0 a=b\n".ljust(512, b"\0") + header("f", FILE, 0) + bytes(1024),
    "a kind that is none": lambda: header("x", b"Z", 0) + bytes(1024),
    "a volume's label": lambda: header("x", b"V", 0) + header("f", FILE, 0) + bytes(1024),
    "a part of another volume": lambda: header("x", b"M", 0) + bytes(1024),
    "a list of names": lambda: header("x", b"D", 512) + b"Y../machine/secret\0\0".ljust(512, b"\0") + bytes(1024),
    "a holed file of ten terabytes": with_headers(GNU__sparse__major="0", GNU__sparse__minor="1", GNU__sparse__size=str(10 << 40), GNU__sparse__numblocks="1", GNU__sparse__map=f"{10 << 40},0"),
}  # fmt: skip
MARKS: list[Member] = [
    (RESTORE_MARK, LINK, "MACHINE/secret", b""),
    (NEW_TREE, LINK, "MACHINE", b""),
    (OLD_TREE, DIRECTORY, "", b""),
    (HALF_TREE, FIFO, "", b""),
    (RESTORE_MARK, FILE, "", b"planted"),
]


@pytest.mark.parametrize("strip", [0, 1])
@pytest.mark.parametrize("what", [*STREAMS, *ARCHIVES, "marks"])
def test_nothing_of_it_is_outside_of_the_volume(
    tmp_path: Path, outside: Outside, what: str, strip: int
) -> None:
    """Into a directory of this machine, from which all of it could be reached."""
    target = tmp_path / "target"
    target.mkdir()
    members = {**STREAMS, "marks": MARKS}.get(what)
    if members is None:
        data = ARCHIVES[what]()
    else:
        if strip:
            members = [
                (f"p/{name}", kind, f"p/{to}" if kind == HARD else to, content)
                for name, kind, to, content in members
            ]
        data = stream_of(members, outside.directory)
    try:
        imported(data, strip, target, tmp_path)
    except VolferryError:
        pass  # it may well be refused
    outside.check()
    assert {each.name for each in tmp_path.iterdir()} == {"target", "machine", "spool", "members"}
    for each in target.rglob("*"):
        assert each.is_symlink() or not each.samefile(outside.secret)


class Endless(io.RawIOBase):
    """Some bytes, and then one piece again and again; it counts what was read."""

    def __init__(self, begin: bytes, piece: bytes) -> None:
        self.count = 0
        self._rest = begin
        self._piece = piece

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while len(self._rest) < size:
            self._rest += self._piece * (1 + size // len(self._piece))
        data, self._rest = self._rest[:size], self._rest[size:]
        self.count += len(data)
        return data


ENDLESS: dict[str, tuple[bytes, bytes]] = {
    "attributes": (header("x", tarfile.XHDTYPE, 7 << 30), b"x" * 512),
    "a name": (header("x", tarfile.GNUTYPE_LONGNAME, 7 << 30), b"x" * 512),
    "headers": (b"", header("x", tarfile.XHDTYPE, 512) + b"20 SCHILY.xattr.x=y\n".ljust(512, b"\0")),
    "headers of all that follows": (b"", header("x", tarfile.XGLTYPE, 512) + b"9 c=yyyy\n".ljust(512, b"\0")),
}  # fmt: skip


@pytest.mark.parametrize("what", ENDLESS)
def test_a_header_without_end_is_not_read_to_its_end(what: str) -> None:
    stream = Endless(*ENDLESS[what])
    with pytest.raises(DamagedArchive):
        list(ForeignTar(cast("BinaryIO", stream), Strip()).pieces())
    assert stream.count < 200 << 20


# --- by the command -------------------------------------------------------------------------------------


@pytest.fixture
def world(engine: PrivateEngine, docker_client: docker.DockerClient, tmp_path: Path) -> Iterator[World]:
    with world_of(engine, docker_client, tmp_path) as mine:
        yield mine


BY_THE_COMMAND = [
    "names like options", "devices", "many attributes", "a path in a header", "a size without end", "headers of headers",
    "a holed file of ten terabytes", "a list of names", "a file below a link", "a hard link through a link, and a file in its place",
    "a directory in place of a link", "a name that leads up", "a name from the root", "the directory above", "marks",
]  # fmt: skip


@pytest.mark.parametrize("what", BY_THE_COMMAND)
def test_the_command_imports_it_within_the_volume_or_says_why_not(
    world: World, outside: Outside, tmp_path: Path, what: str
) -> None:
    path = tmp_path / "-rf.tar.gz"
    members = {**STREAMS, "marks": MARKS}.get(what)
    data = ARCHIVES[what]() if members is None else stream_of(members, outside.directory)
    path.write_bytes(gzip.compress(data, 1))
    other = world.filled()
    name = world.name()
    outcome = world.cli("import", str(path), "--into", name)
    outcome.exits(0, 1, 3)
    assert world.own_containers() == []
    assert {each.name for each in world.data(other).iterdir()} == {"one", "two"}
    if outcome.code == 1:
        assert len(outcome.complaints) == 1
        assert not world.exists(name)
        return
    for each in world.data(name).rglob("*"):
        if each.is_file() and not each.is_symlink():
            with each.open("rb") as file:
                assert SECRET not in file.read(1000)
    # As it is now, it is a volume as any other.
    assert RESTORE_MARK not in os.listdir(world.data(name))  # noqa: PTH208 -- a link, too
    world.cli("backup", name).exits(0, 3)


def test_a_small_file_that_becomes_a_large_header_is_refused_soon(world: World, tmp_path: Path) -> None:
    path = tmp_path / "it.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as out:
        out.write(header("x", tarfile.XHDTYPE, 1 << 30))
        for _ in range(128):
            out.write(bytes(1 << 20))
    name = world.name()
    world.cli("import", str(path), "--into", name).fails_with("headers of more than 64 MiB")
    assert not world.exists(name)


def test_a_link_in_place_of_the_directory_of_a_container_leads_to_nothing_else(world: World) -> None:
    volume = world.volume()
    container = world.container(volume)
    data = world.data(volume)
    for number, to in enumerate(("/proc", "/spool", "..")):
        link = f"link{number}"
        (data / link).symlink_to(to)
        (data / f"above{number}").symlink_to("/")
        for below in (link, f"above{number}/etc"):
            name = world.name()
            source = f"{container.name}:/data/{below}"
            outcome = world.cli("import", "--container", source, "--into", name).exits(1)
            assert any(words in outcome.stderr for words in ("leads out of", "there is no")), outcome.story
            assert not world.exists(name), outcome.story
    # One that leads to what is in the volume is as good as that.
    (data / "in").mkdir()
    (data / "in" / "one").write_text("1")
    (data / "current").symlink_to("in")
    name = world.name()
    world.cli("import", "--container", f"{container.name}:/data/current", "--into", name).exits(0)
    assert (world.data(name) / "one").read_text() == "1"
