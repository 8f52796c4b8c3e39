"""Whatever can be put into a volume: each tree is backed up, brought back in every way, and compared. No program is led by a name."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.attack.conftest import SECRET
from tests.parts.local_helper import LocalHelper, LocalVolume
from volferry.archive.selection import Selection
from volferry.observer import Silent
from volferry.operations.backup_reader import BackupReader
from volferry.operations.excerpt import BackupExcerpt
from volferry.operations.places import Place
from volferry.operations.restore import restore_backup
from volferry.operations.restore_beside import restore_beside
from volferry.operations.restore_directory import restore_into_directory
from volferry.operations.restore_paths import restore_paths
from volferry.operations.transfer import Transfer
from volferry.repository import Repository
from volferry.stores.local import LocalStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.attack.conftest import Outside

# ATTACK_LINKS=1000000 for whoever has patience.
LINKS = int(os.environ.get("ATTACK_LINKS", "1000"))
TEN_TERABYTES = 10 << 40

NAMES = [
    b"-rf",
    b"--",
    b"-T",
    b"-C",
    b"--checkpoint=1",
    b"--checkpoint-action=exec=sh planted.sh",
    b"--to-command=sh planted.sh",
    b"--use-compress-program=sh planted.sh",
    b"--files-from=secret",
    b"@secret",
    b"!",
    b"(",
    b"-delete",
    b"-exec",
    b"a\nb",
    b"\n",
    b"a\r",
    b"\x1b[2J\x1b]0;title\x07",
    b"\x01",
    b"\xff\xfe",
    "Ünïcödé \u202e".encode(),
    b" ",
    b" lead and trail ",
    b"'",
    b'"',
    b"\\",
    b"\\n",
    b"\\012",
    b"*",
    b"?[a-z]",
    b"~root",
    b"$HOME",
    b"`touch planted`",
    b"$(touch planted)",
    b"; touch planted;",
    b"| sh planted.sh",
    b"n" * 255,
    b"tar: file: Cannot open: Permission denied",
    b"tar: file: File removed before we read it\ntar: other: file changed as we read it",
    b"tar: Exiting with failure status due to previous errors",
    b"find: 'x': No such file or directory",
    b"volferry: read again and again: x",
    b"end\n",
    b"status 0 ext4",
    b"PaxHeaders",
    b"manifest.json",
    b"0123456789ab.0.jsonl",
    b"restore.json",
    b"20261123T222016Z-0dd092",
    b"GNUSparseFile.0",
    b"CACHEDIR.TAG",
    b".nfs000001",
    b".wh.x",
    b"lost+found",
]


@dataclass(frozen=True, slots=True)
class Planter:
    root: bytes
    machine: bytes  # the directory outside

    def path(self, *names: bytes) -> bytes:
        return b"/".join([self.root, *names])

    def write(self, *names: bytes, content: bytes = b"content") -> bytes:
        path = self.path(*names)
        with open(path, "wb") as file:
            file.write(content)
        return path


def names(plant: Planter) -> None:
    plant.write(b"planted.sh", content=b"touch " + plant.machine + b"/empty/planted")
    for number, name in enumerate(NAMES):
        plant.write(name, content=b"%d" % number)
        os.mkdir(plant.path(b"d%d" % number))
        os.mkdir(plant.path(b"d%d" % number, name))
        os.symlink(name, plant.path(b"d%d" % number, name, b"link"))
    # A path, unlike a name, can name a place.
    for before, after in (
        (b"$(touch ", b")"),
        (b"`touch ", b"`"),
        (b"; touch ", b";"),
        (b"\n touch ", b"\n"),
    ):
        os.makedirs(plant.path(before) + plant.machine + b"/empty")
        plant.write(before + plant.machine + b"/empty/planted" + after)


def links_out(plant: Planter) -> None:
    for number, target in enumerate((
        plant.machine, plant.machine + b"/secret", plant.machine + b"/empty", b"../machine/secret", b"..", b"/", b".",
        b"/proc/self/root" + plant.machine, b"/proc/1/environ", b"/dev/zero", b"loop", b"x" * 4000,
    )):  # fmt: skip
        os.symlink(target, plant.path(b"l%d" % number))
        os.symlink(b"l%d" % number, plant.path(b"to%d" % number))
    os.symlink(b"loop", plant.path(b"loop"))


def kinds(plant: Planter) -> None:
    """A device is not to be read, nor a FIFO waited for."""
    for number, device in enumerate((os.makedev(1, 8), os.makedev(1, 5), os.makedev(1, 1), os.makedev(8, 0))):
        os.mknod(plant.path(b"c%d" % number), stat.S_IFCHR | 0o666, device)
        os.mknod(plant.path(b"b%d" % number), stat.S_IFBLK | 0o666, device)
    for number in range(20):
        os.mkfifo(plant.path(b"p%d" % number))
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(os.fsdecode(plant.path(b"s%d" % number)))
    os.link(plant.path(b"c0"), plant.path(b"c0 again"))
    os.link(plant.path(b"p0"), plant.path(b"p0 again"))
    for mode in (0o7777, 0o4755, 0o2755, 0o1777, 0):
        os.chmod(plant.write(b"mode%o" % mode), mode)
        os.mkdir(plant.path(b"d%o" % mode))
        os.chmod(plant.path(b"d%o" % mode), mode)


def hard_links(plant: Planter) -> None:
    plant.write(b"0 first")
    for number in range(LINKS):
        directory = b"d%d" % (number // 1000)
        if number % 1000 == 0:
            os.mkdir(plant.path(directory))
        os.link(plant.path(b"0 first"), plant.path(directory, b"%d" % number))


def hard_and_symbolic_links(plant: Planter) -> None:
    """What `tar` makes last, and looks through at each hard link."""
    for number in range(LINKS // 4):
        plant.write(b"f%d" % number)
        os.symlink(b"../up", plant.path(b"l%d" % number))
        os.link(plant.path(b"f%d" % number), plant.path(b"g%d" % number))
        os.link(plant.path(b"l%d" % number), plant.path(b"m%d" % number), follow_symlinks=False)


def holes(plant: Planter) -> None:
    for number, size in enumerate((TEN_TERABYTES, TEN_TERABYTES + 1, (1 << 20) - 1, 1 << 20)):
        with open(plant.path(b"h%d" % number), "wb") as file:
            file.truncate(size)
    with open(plant.path(b"islands"), "wb") as file:
        for number in range(500):
            file.seek(number << 34)
            file.write(b"x")
    os.link(plant.path(b"h0"), plant.path(b"h0 again"))


def attributes(plant: Planter) -> None:
    for number in range(5):
        path = plant.write(b"f%d" % number)
        for name in range(20):
            os.setxattr(path, b"user.%d" % name, b"=\n 20 path=../machine/secret\n" * (1 << number))
    os.setxattr(plant.write(b"name"), b"user.GNU.sparse.name", b"../machine/secret")
    os.setxattr(plant.write(b"path"), b"user.path=../machine/secret", b"x")
    os.setxattr(plant.write(b"long"), b"user." + b"x" * 250, b"x")


def deep(plant: Planter) -> None:
    dig(plant.root, [b"d"] * 300)


def dig(root: bytes, names: list[bytes]) -> None:
    """Directories in each other, and a file in the last."""
    here = os.open(root, os.O_RDONLY)
    for name in names:
        os.mkdir(name, dir_fd=here)
        inner = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(os.open(b"file", os.O_WRONLY | os.O_CREAT, dir_fd=here))
    os.close(here)


def texts(plant: Planter) -> None:
    """Contents that look like a stream, a listing, a manifest."""
    plant.write(b"a", content=b"\0" * 10240)
    plant.write(b"b", content=b"x//f 644 0 0 7 1700000000.0000000000 - 1 1 \0///status 0\0///end\0")
    header = bytearray(512)
    header[:16] = b"../machine/secre"
    header[257:265] = b"ustar\00000"
    plant.write(b"c", content=bytes(header) * 8 + b"\0" * 1024)
    plant.write(b"d", content=b"\x28\xb5\x2f\xfd" * 1000)
    plant.write(b"empty", content=b"")


TREES: dict[str, Callable[[Planter], None]] = {
    each.__name__: each
    for each in (
        names, links_out, kinds, hard_links, hard_and_symbolic_links, holes, attributes, deep, texts,
    )
}  # fmt: skip

Node = tuple[object, ...]


def tree(directory: Path) -> dict[bytes, Node]:
    """What is below, but for sockets; of large files, their size alone."""
    found: dict[bytes, Node] = {}
    for above, _, _, descriptor in os.fwalk(os.fsencode(directory), follow_symlinks=False):
        for name in os.listdir(descriptor):
            path = os.fsencode(name)
            now = os.stat(path, dir_fd=descriptor, follow_symlinks=False)
            kind = stat.S_IFMT(now.st_mode)
            if kind == stat.S_IFSOCK:
                continue
            content: object = now.st_rdev
            if kind == stat.S_IFLNK:
                content = os.readlink(path, dir_fd=descriptor)
            elif kind == stat.S_IFREG:
                content = now.st_size
                if now.st_size < 1 << 16:
                    with open(os.open(path, os.O_RDONLY, dir_fd=descriptor), "rb") as file:
                        values = sorted(
                            (each, os.getxattr(file.fileno(), each)) for each in os.listxattr(file.fileno())
                        )
                        content = (file.read(), *values)
            below = os.path.relpath(above, os.fsencode(directory)) if len(above) < 4000 else above
            links = now.st_nlink if kind in {stat.S_IFREG, stat.S_IFLNK} else 0  # of others, tar knows none
            found[below + b"/" + path] = (now.st_mode, content, links)
    return found


@dataclass(frozen=True, slots=True)
class Case:
    place: Path
    data: Path
    backup: BackupReader
    helpers: list[LocalHelper]

    def helper(self, directory: Path) -> Any:
        self.helpers.append(LocalHelper(directory, self.place))
        return cast("Any", self.helpers[-1])


def _whole(case: Case, target: Path) -> None:
    restore_backup(case.backup, "v", helper=case.helper(target), observer=Silent(), empty_first=False)


def _beside(case: Case, target: Path) -> None:
    (target / "old").mkdir()
    (target / "old" / "-rf").touch()
    restore_beside(case.backup, "v", helper=case.helper(target), observer=Silent())


def _replaced(case: Case, target: Path) -> None:
    """Over the same: all of it is deleted on the way."""
    _whole(case, target)
    restore_backup(case.backup, "v", helper=case.helper(target), observer=Silent(), empty_first=True)


def _paths(case: Case, target: Path) -> None:
    top = [entry.path for entry in case.backup.volume_entries() if entry.path and b"/" not in entry.path]
    for empty in (True, False):
        excerpt = BackupExcerpt(case.backup, Selection(top))
        restore_paths(
            excerpt,
            "v",
            helper=case.helper(target),
            observer=Silent(),
            replace=True,
            empty=empty,
            looks_for_room=False,
        )


def _directory(case: Case, target: Path) -> None:
    for _ in range(2):
        restore_into_directory(
            case.backup, None, target, observer=Silent(), replace=True, looks_for_room=False
        )


def _transfer(case: Case, target: Path) -> None:
    """As a migration and the import of a directory do."""
    transfer = Transfer(
        Place(case.helper(case.data), str(case.data)),
        Place(case.helper(target), str(target)),
        case.place / "leg",
        Silent(),
    )
    transfer.run()
    transfer.run(last=True)
    transfer.check(checksum=True)


@pytest.fixture(scope="module", params=TREES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    place = tmp_path_factory.mktemp(request.param)
    machine = place / "machine"
    (machine / "empty").mkdir(parents=True)
    (machine / "secret").write_bytes(SECRET)
    data = place / "data"
    data.mkdir()
    TREES[request.param](Planter(os.fsencode(data), os.fsencode(machine)))
    repository, _ = Repository.open_or_create(LocalStore(place / "store"))
    volume = LocalVolume(data, place / "state")
    first, stats = volume.back_up(repository), volume.back_up(repository)
    assert (first.findings, stats.findings) == ((), ())
    found = Case(place, data, BackupReader(repository, stats.ref, spool=place), [])
    yield found
    for helper in found.helpers:
        helper.end()
    assert list((machine / "empty").iterdir()) == []
    assert (machine / "secret").read_bytes() == SECRET
    subprocess.run(["rm", "-rf", place], check=True)


@pytest.mark.parametrize("length", [4090, 4094, 4095])
@pytest.mark.parametrize("to", [False, True])
def test_what_is_too_deep_for_a_restore_does_not_make_it_fail(tmp_path: Path, length: int, to: bool) -> None:
    """No path can have more than 4,095 bytes."""
    data, target = tmp_path / "data", tmp_path / "target"
    for each in (data, target):
        each.mkdir()
    dig(os.fsencode(data), [b"d" * 255] * 15 + [b"d" * (length - 15 * 256)])
    (data / "zz").write_text("content")
    repository, _ = Repository.open_or_create(LocalStore(tmp_path / "store"))
    stats = LocalVolume(data, tmp_path / "state").back_up(repository)
    assert {each.kind for each in stats.findings} == {"unreadable"}
    backup = BackupReader(repository, stats.ref, spool=tmp_path)
    if to:
        restore_into_directory(backup, None, target, observer=Silent(), replace=True)
    else:
        helper = LocalHelper(target, tmp_path)
        restore_backup(backup, "v", helper=cast("Any", helper), observer=Silent(), empty_first=False)
        helper.end()
    assert (target / "zz").read_text() == "content"
    subprocess.run(["rm", "-rf", data, target], check=True)


def test_nothing_of_the_machine_is_in_the_backup(case: Case) -> None:
    size = sum(pack.stored_bytes for pack in case.backup.manifest.packs)
    assert size < 32 << 20
    assert not any(SECRET in bytes(piece) for piece in case.backup.volume_stream())


@pytest.mark.parametrize("way", [_whole, _beside, _replaced, _paths, _directory, _transfer])
def test_it_comes_back_as_it_was(
    case: Case, outside: Outside, tmp_path: Path, way: Callable[[Case, Path], None]
) -> None:
    del outside
    target = tmp_path / "target"
    target.mkdir()
    way(case, target)
    assert tree(target) == tree(case.data)
    subprocess.run(["rm", "-rf", target], check=True)  # of a million links, there is not room for all
