"""Volumes on file systems that fail, or lie: no backup is called right that is not, and one bad entry does not cost the others."""

from __future__ import annotations

import errno
import io
import mmap
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest

from tests.parts import local_helper
from tests.parts.faults import CALLS, NUMBERS, environment, fault
from tests.parts.local_helper import LocalVolume
from tests.parts.memory_store import Clock, Contents, MemoryStore
from tests.parts.mounts import in_memory
from volferry.archive import listing
from volferry.archive.commands import create_command, list_command
from volferry.archive.excludes import Excludes
from volferry.archive.findlog import FindLog
from volferry.archive.tarlog import TarLog
from volferry.archive.tree_scripts import ANY_DATA_SCRIPT, NO_DATA
from volferry.errors import CommandFailed
from volferry.observer import Silent
from volferry.operations import names, volume_listing, volume_pass
from volferry.operations.backup_reader import BackupReader
from volferry.operations.export import export_backup
from volferry.operations.verify import Verifier
from volferry.repository import BackupWriter, Repository

if TYPE_CHECKING:
    from collections.abc import Callable

    from volferry.model import BackupRef, BackupStats
    from volferry.operations.volume_listing import Listing

LONG_AGO = 10**18
SMALL = b"small " * 500
LARGE = os.urandom(3 << 20)
ALL = b"whole"


@pytest.fixture
def repository() -> Repository:
    return Repository.open_or_create(MemoryStore(Contents("store", Clock())))[0]


@pytest.fixture
def _trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has just been written is trusted as if it were old."""
    monkeypatch.setattr(listing, "CHANGED_WITHIN_SECONDS", -3600)


@pytest.fixture
def volume(tmp_path: Path) -> LocalVolume:
    data = tmp_path / "data"
    directory = data / "dir"
    (directory / "sub").mkdir(parents=True)
    (directory / "small").write_bytes(SMALL)
    (directory / "large").write_bytes(LARGE)
    (directory / "sub" / "leaf").write_bytes(b"leaf")
    (directory / "attributes").write_bytes(b"with attributes")
    os.setxattr(directory / "attributes", "user.key", b"value")
    subprocess.run(["setfacl", "-m", "u:1:r", directory / "attributes"], check=True)
    (directory / "link").symlink_to("target")
    os.mkfifo(directory / "fifo")
    with (directory / "holes").open("wb") as file:
        file.truncate(5 << 20)
        file.seek(1 << 20)
        file.write(b"data")
    (data / "other").write_bytes(b"other")
    return LocalVolume(data, tmp_path / "state")


def stored(repository: Repository, ref: BackupRef, spool: Path) -> dict[str, bytes]:
    """What a backup holds: content of files, targets of links, or the kind of the entry."""
    out = io.BytesIO()
    spool.mkdir(exist_ok=True)
    export_backup(BackupReader(repository, ref, spool=spool), out.write, observer=Silent())
    out.seek(0)
    found = {}
    with tarfile.open(fileobj=out) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isreg() else None
            found[member.name] = (
                content.read() if content else member.linkname.encode() if member.issym() else member.type
            )
    return found


def present(data: Path) -> dict[str, bytes]:
    """The same, of a directory."""
    found = {".": tarfile.DIRTYPE}
    for path in data.rglob("*"):
        name = str(path.relative_to(data))
        if path.is_symlink():
            found[name] = os.fsencode(path.readlink())
        elif path.is_file():
            found[name] = path.read_bytes()
        else:
            found[name] = tarfile.DIRTYPE if path.is_dir() else tarfile.FIFOTYPE
    return found


VICTIM = {
    "open": "/dir/small",
    "read": "/dir/large",
    "stat": "/dir/small",
    "lstat": "/dir/sub",
    "readdir": "/dir/sub",
    "readlink": "/dir/link",
    "llistxattr": "/dir/small",
    "lgetxattr": "/dir/attributes",
    "acl_get_file": "/dir/attributes",
}


@pytest.mark.parametrize("number", NUMBERS, ids=errno.errorcode.get)
@pytest.mark.parametrize("call", CALLS)
def test_no_error_of_one_entry_goes_unsaid_or_costs_the_others(
    library: Path, repository: Repository, volume: LocalVolume, tmp_path: Path, call: str, number: int
) -> None:
    victim = VICTIM[call].removeprefix("/")
    now = time.time()
    for path in volume.data.rglob("*"):
        if not path.is_symlink():
            os.utime(path, (now - 60, now - 60))
    volume.environment = environment(
        library, fault(call, number, VICTIM[call], 1 << 20 if call == "read" else 0)
    )

    stats = volume.back_up(repository)

    there, kept = present(volume.data), stored(repository, stats.ref, tmp_path / "spool")
    hurt = {finding.path.decode() for finding in stats.findings}
    for name, content in there.items():
        if name not in hurt and not any(name.startswith(f"{each}/") for each in hurt):
            assert kept.get(name) == content, name
    attributes = call in {"llistxattr", "lgetxattr", "acl_get_file"}
    quiet = attributes and number in {errno.EOPNOTSUPP, errno.EINVAL, errno.EBUSY, 524}
    assert hurt >= {victim} or quiet
    assert stats.findings_total >= len(hurt)
    assert kept.keys() <= there.keys()
    # It heals: the next one has all of it, and trusts nothing that the bad one has recorded.
    volume.environment = {}
    healed = volume.back_up(repository)
    assert healed.findings == ()
    assert stored(repository, healed.ref, tmp_path / "spool") == there
    (tmp_path / "verify").mkdir()
    verifier = Verifier(repository, read=True, spool=tmp_path / "verify", observer=Silent())
    assert verifier.verify(healed.ref).findings == ()


@pytest.mark.parametrize("call", CALLS)
def test_what_the_programs_say_is_understood_whole(
    library: Path, volume: LocalVolume, tmp_path: Path, call: str
) -> None:
    """Every message that an error of any call brings about, for every kind of entry: known, and of the entry that it is about."""
    entries = sorted(present(volume.data))
    asked = b"".join(name.encode() + b"\0" for name in entries)
    names = [f"/{name}" for name in entries if name != "."]
    for number in NUMBERS:
        faults = environment(library, *(fault(call, number, name) for name in names))
        faults |= {"LC_ALL": "C", "PATH": os.environ["PATH"]}
        tar = subprocess.run(
            create_command(str(volume.data)), input=asked, capture_output=True, check=False, env=faults
        )
        log = TarLog()
        for line in tar.stderr.splitlines():
            log.line(line)
        assert log.why_failed(tar.returncode) is None, (number, log.unexplained)
        assert {path.decode() or "." for path in log.doubted | log.gone} <= set(entries)
        find = subprocess.run(
            list_command(str(volume.data), str(tmp_path)), capture_output=True, check=False, env=faults
        )
        said = FindLog()
        for line in find.stderr.splitlines():
            said.line(line)
        assert said.why_failed(0) is None, (number, said.unexplained)
        assert {path.decode() for path in said.findings} <= set(entries)


class PowerFailureError(Exception):
    pass


def power_fails(*_arguments: object, **_more: object) -> None:
    raise PowerFailureError


@pytest.mark.usefixtures("_trusting")
@pytest.mark.parametrize("offset", [0, 1 << 20])
def test_a_read_error_is_in_doubt_also_where_the_run_dies_afterwards(
    library: Path,
    repository: Repository,
    volume: LocalVolume,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    offset: int,
) -> None:
    volume.environment = environment(library, fault("read", errno.ESTALE, "/dir/large", offset))
    volume.pack_bytes = 1 << 20
    with monkeypatch.context() as patch:
        patch.setattr(BackupWriter, "put_manifest", power_fails)
        with pytest.raises(PowerFailureError):
            volume.back_up(repository)
    volume.environment = {}
    stats = volume.back_up(repository)
    assert stats.findings == ()
    assert stored(repository, stats.ref, tmp_path / "spool") == present(volume.data)


@pytest.mark.usefixtures("_trusting")
@pytest.mark.parametrize("offset", [1, 4096, 1 << 20, (1 << 20) + 1, len(LARGE) - 1])
@pytest.mark.parametrize("number", [errno.EIO, errno.EBADMSG, errno.ENODATA, errno.EUCLEAN, errno.ENXIO])
def test_a_bad_sector_is_no_change_of_the_file(
    library: Path, repository: Repository, volume: LocalVolume, tmp_path: Path, offset: int, number: int
) -> None:
    """The kernel gives what is before it, and `tar` takes the rest for cut off."""
    volume.environment = environment(library, fault("read", number, "/dir/large", offset))
    stats = volume.back_up(repository)
    (finding,) = stats.findings
    assert (finding.kind, finding.path) == ("unreadable", b"dir/large")
    assert os.strerror(number).lower() in finding.detail
    kept = stored(repository, stats.ref, tmp_path / "spool")
    assert kept["dir/large"][: offset - offset % 10240] == LARGE[: offset - offset % 10240]
    assert kept["other"] == b"other"
    volume.environment = {}
    healed = volume.back_up(repository)
    assert healed.findings == ()
    assert stored(repository, healed.ref, tmp_path / "spool") == present(volume.data)


@pytest.mark.usefixtures("_trusting")
@pytest.mark.parametrize(
    ("size", "detail"),
    [
        (0, "holds more than its size says"),
        (1000, "holds more than its size says"),
        (len(SMALL) + 1, "nothing is there, though its size says so"),
        (50_000, "nothing is there, though its size says so"),
        (1 << 30, "its size is 1152921504606846976 bytes, and it ends before"),
    ],
)
def test_a_file_whose_size_is_made_up_is_a_finding(
    monkeypatch: pytest.MonkeyPatch,
    library: Path,
    repository: Repository,
    volume: LocalVolume,
    tmp_path: Path,
    size: int,
    detail: str,
) -> None:
    """As a FUSE server makes it up that does not know it."""
    monkeypatch.setattr(names, "is_remote", lambda _: True)
    volume.environment = environment(library, fault("size", size, "/dir/small"))
    first, second = volume.back_up(repository), volume.back_up(repository)
    for stats in (first, second):
        (finding,) = stats.findings
        assert (finding.kind, finding.path) == ("unreadable", b"dir/small")
        assert detail in finding.detail
    kept = stored(repository, second.ref, tmp_path / "spool")
    assert kept["dir/large"] == LARGE


@pytest.mark.usefixtures("_trusting")
@pytest.mark.parametrize("number", [errno.EIO, errno.EUCLEAN, errno.EINVAL])
@pytest.mark.parametrize("place", ["", "dir", "dir/sub"])
def test_what_is_listed_of_a_directory_that_breaks_off_is_kept(
    library: Path, repository: Repository, volume: LocalVolume, tmp_path: Path, place: str, number: int
) -> None:
    directory = volume.data / place
    for each in range(100):
        (directory / f"file{each}").write_bytes(b"%d" % each)
    there = present(volume.data)
    faults = fault("readdir", number, f"/data/{place}".rstrip("/"), 40)
    volume.environment = environment(library, faults)
    stats = volume.back_up(repository)
    assert [(each.kind, each.path.decode()) for each in stats.findings] == [("unreadable", place)]
    kept = stored(repository, stats.ref, tmp_path / "spool")
    assert all(there[name] == content for name, content in kept.items())
    assert sum(name.startswith(f"{place}/file".lstrip("/")) for name in kept) > 20
    outside = {name for name in there if not name.startswith(place)}
    assert outside <= kept.keys()
    volume.environment = {}
    healed = volume.back_up(repository)
    assert healed.findings == ()
    assert stored(repository, healed.ref, tmp_path / "spool") == there


def test_a_volume_of_which_nothing_can_be_read_is_a_failure(
    library: Path, repository: Repository, volume: LocalVolume
) -> None:
    for faults in (
        [fault("readdir", errno.EIO, "/data")],
        [fault("open", errno.EIO, "/data")],
        [fault(call, errno.ESTALE, f"/{name}") for call in ("open", "read") for name in present(volume.data)]
        + [fault("lstat", errno.EIO, f"/{name}") for name in ("link", "fifo")],
    ):
        volume.environment = environment(library, *faults)
        with pytest.raises(CommandFailed):
            volume.back_up(repository)
    assert list(repository.refs()) == []


def test_a_path_that_is_too_long_costs_only_itself(
    repository: Repository, volume: LocalVolume, tmp_path: Path
) -> None:
    descriptor = os.open(volume.data, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("a" * 250, dir_fd=descriptor)
        deeper = os.open("a" * 250, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = deeper
    os.close(descriptor)

    stats = volume.back_up(repository)

    assert stats.findings_total == 4
    assert {finding.kind for finding in stats.findings} == {"unreadable"}
    kept = stored(repository, stats.ref, tmp_path / "spool")
    assert kept["dir/large"] == LARGE
    assert kept["other"] == b"other"


def test_a_file_that_is_said_to_have_no_blocks_is_kept_with_its_data(
    library: Path, repository: Repository, volume: LocalVolume, tmp_path: Path
) -> None:
    with (volume.data / "hole").open("wb") as file:
        file.truncate(64 << 20)
    volume.environment = environment(
        library, fault("blocks", 1, "/dir/large"), fault("blocks", 1, "/dir/small")
    )
    stats = volume.back_up(repository)
    assert stats.findings == ()
    kept = stored(repository, stats.ref, tmp_path / "spool")
    assert kept["dir/large"] == LARGE
    assert kept["dir/small"] == SMALL


def test_a_file_that_is_one_hole_costs_nothing(repository: Repository, volume: LocalVolume) -> None:
    with (volume.data / "hole").open("wb") as file:
        file.truncate(1 << 40)
    stats = volume.back_up(repository)
    assert stats.read_bytes < 16 << 20


@pytest.mark.parametrize("place", [0, 1, 40 << 20, 99 << 20, (200 << 20) - 1])
@pytest.mark.parametrize("mebibytes", [200, 3, 0])
def test_data_is_found_wherever_it_is_though_the_file_system_denies_it(
    tmp_path: Path, place: int, mebibytes: int
) -> None:
    """Neither blocks nor places of data are to be had, as of a file behind FUSE."""
    with (tmp_path / "large").open("wb") as file:
        file.truncate((mebibytes << 20) + 5)
        if place < mebibytes << 20:
            file.seek(place)
            file.write(b"!")
    lie = "import os\ndef lie(*_):\n    raise OSError(6, 'no data')\nos.lseek = lie\n"
    found = subprocess.run(
        [sys.executable, "-c", lie + ANY_DATA_SCRIPT, tmp_path],
        input=b"large\0",
        capture_output=True,
        check=True,
    ).stdout
    assert found == (b"1" if place < mebibytes << 20 else NO_DATA)


@pytest.mark.parametrize("between", [0.0, listing.CHANGED_WITHIN_SECONDS + 1.1])
def test_what_is_written_through_a_mapping_is_in_the_next_backup(
    repository: Repository, tmp_path: Path, between: float
) -> None:
    # On a disk: a tmpfs, which may hold all other files of the tests, has no times for mapped pages.
    with TemporaryDirectory(dir="/var/tmp") as place:
        volume = LocalVolume(Path(place) / "data", tmp_path / "state")
        volume.data.mkdir()
        path = volume.data / "mapped"
        path.write_bytes(bytes(200_000))
        os.sync()
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 200_000) as memory:
            memory[:8] = b"VERSION1"
            time.sleep(between)
            volume.back_up(repository)
            memory[:8] = b"VERSION2"
            memory.flush()
        stats = volume.back_up(repository)
    assert stored(repository, stats.ref, tmp_path / "spool")["mapped"][:8] == b"VERSION2"


LOST = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.ETIMEDOUT)


@pytest.mark.parametrize("number", [*LOST, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EROFS])
def test_a_disk_that_takes_no_more_is_read_and_told_of(
    library: Path, repository: Repository, volume: LocalVolume, tmp_path: Path, number: int
) -> None:
    """The backup is made: it may be the last one of that disk. What the kernel has dropped, nobody can know."""
    volume.environment = environment(library, fault("syncfs", number, "/data"))
    stats = volume.back_up(repository)
    assert stored(repository, stats.ref, tmp_path / "spool") == present(volume.data)
    manifest = repository.manifest(stats.ref)
    found = [(each.kind, each.path) for each in manifest.findings]
    assert found == ([("unwritten", "")] if number in LOST else [])
    assert stats.findings_total == manifest.findings_total == len(found)
    if found:
        assert manifest.findings[0].detail.endswith(
            f"could not be written to the disk: {os.strerror(number).lower()}"
        )
    # It builds upon that one, and has nothing to say any longer.
    volume.environment = {}
    after = volume.back_up(repository)
    assert (after.base, after.findings) == (stats.ref.id, ())


def test_a_warm_pass_that_was_told_of_lost_pages_passes_it_on(
    library: Path, repository: Repository, volume: LocalVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel says it once."""
    volume.environment = environment(library, fault("syncfs", errno.EIO, "/data"))

    class Warm:
        mode = "none"
        warm = True
        downtime_seconds = 0.0

        def begin(self) -> None:
            volume.environment.clear()

        def findings(self) -> list[Any]:
            return []

        def end(self) -> None:
            pass

    monkeypatch.setattr(local_helper, "MOVING", Warm())
    assert [each.kind for each in volume.back_up(repository).findings] == ["unwritten"]
    assert volume.back_up(repository).findings == ()


def test_what_is_excluded_is_not_looked_at(
    library: Path, repository: Repository, volume: LocalVolume, tmp_path: Path
) -> None:
    volume.settings["excludes"] = Excludes(("/dir/sub/", "o*r"))
    volume.environment = environment(
        library,
        *(fault(call, errno.EACCES, "/dir/sub") for call in ("open", "readdir", "stat")),
        fault("lstat", errno.EIO, "/dir/sub/leaf"),
    )
    stats = volume.back_up(repository)
    assert stats.findings == ()
    kept = stored(repository, stats.ref, tmp_path / "spool")
    assert kept == {
        name: content
        for name, content in present(volume.data).items()
        if name != "other" and not name.startswith("dir/sub")
    }
    assert repository.manifest(stats.ref).excluded.paths == ("dir/sub", "other")


def test_what_is_mounted_below_the_volume_is_left_out_where_that_is_asked_for(
    repository: Repository, volume: LocalVolume, tmp_path: Path
) -> None:
    with in_memory(volume.data / "mount", "1m") as mount:
        (mount / "file").write_bytes(b"elsewhere")
        both = stored(repository, volume.back_up(repository).ref, tmp_path / "spool")
        volume.settings["one_file_system"] = True
        stats = volume.back_up(repository)
    assert both["mount/file"] == b"elsewhere"
    kept = stored(repository, stats.ref, tmp_path / "spool")
    assert kept == {name: content for name, content in both.items() if name != "mount/file"}
    assert repository.manifest(stats.ref).excluded.one_file_system


def remove_directory(data: Path) -> None:
    subprocess.run(["rm", "-r", data / "tree"], check=True)


def replace_by_link(data: Path) -> None:
    (data / "tree").rename(data.parent / "elsewhere")
    (data / "tree").symlink_to(data.parent / "elsewhere")


@pytest.mark.usefixtures("_trusting")
@pytest.mark.parametrize("change", [remove_directory, replace_by_link])
def test_a_directory_that_is_gone_while_what_is_below_it_is_reused_is_kept_as_it_was_listed(
    repository: Repository,
    volume: LocalVolume,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
) -> None:
    tree = volume.data / "tree"
    tree.mkdir()
    for number in range(2000):
        (tree / f"{number:04}").write_bytes(b"%d" % number)
    first = volume.back_up(repository)
    before = {name for name in stored(repository, first.ref, tmp_path / "spool") if name.startswith("tree/")}
    (tree / "0000").write_bytes(b"another")  # the group of the directory is read again
    os.utime(tree)

    stats = changed_after_listing(volume, repository, monkeypatch, change)

    kept = stored(repository, stats.ref, tmp_path / "spool")
    assert kept["tree"] == tarfile.DIRTYPE
    assert ("vanished", b"tree") in {(finding.kind, finding.path) for finding in stats.findings}
    below = {name for name in kept if name.startswith("tree/")}
    assert below < before
    assert len(below) > 1000
    (tmp_path / "verify").mkdir()
    verifier = Verifier(repository, read=True, spool=tmp_path / "verify", observer=Silent())
    assert verifier.verify(stats.ref).findings == ()


def changed_after_listing(
    volume: LocalVolume,
    repository: Repository,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
) -> BackupStats:
    real = volume_listing.list_volume

    def listed(*arguments: Any, **more: Any) -> Listing:
        found = real(*arguments, **more)
        change(volume.data)
        return found

    monkeypatch.setattr(volume_pass, "list_volume", listed)
    try:
        return volume.back_up(repository)
    finally:
        monkeypatch.undo()
