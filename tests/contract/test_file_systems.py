"""Local stores on file systems that lack what a disk's has."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.parts.mounts import MOUNTS, mounted, through_bindfs
from volferry import interrupts
from volferry.errors import Interrupted, NoSuchObject, ObjectExists, StoreError
from volferry.stores.base import get, put
from volferry.stores.local import LocalStore
from volferry.stores.unfinished import temporary_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def refusing(monkeypatch: pytest.MonkeyPatch, name: str, number: int, *, directories: bool = False) -> None:
    """The call fails; `fsync` for directories only."""
    module = fcntl if name == "flock" else os
    real: Callable[..., object] = getattr(module, name)

    def refuse(*arguments: object, **more: object) -> object:
        if directories and not stat.S_ISDIR(os.fstat(arguments[0]).st_mode):  # type: ignore[arg-type]
            return real(*arguments, **more)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module, name, refuse)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@pytest.fixture(params=["store", "store/to/be/made"])
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Where a store is, or is to be."""
    (tmp_path / "store").mkdir()
    return tmp_path / str(request.param)


def everything(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*"))


LINKS = [errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EINVAL]
SYNCS = [errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOENT, errno.EIO, errno.EACCES, errno.EISDIR]
LOCKS = [errno.EAGAIN, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL]
CASES = [
    *(("link", each) for each in LINKS),
    *(("fsync", each) for each in SYNCS),
    *(("flock", each) for each in LOCKS),
]


@pytest.mark.parametrize(("call", "number"), CASES, ids=lambda each: errno.errorcode.get(each, each))
def test_what_is_lacking_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    refusing(monkeypatch, call, number, directories=call == "fsync")
    notes: list[str] = []
    store = LocalStore(tmp_path / "store", note=notes.append)
    for key in ("a/b", "a/c", "d"):
        put(store, key, key.encode())
    with pytest.raises(ObjectExists):
        put(store, "a/b", b"other")
    assert [info.key for info in store.list("")] == ["a/b", "a/c", "d"]
    assert get(store, "a/b") == b"a/b"
    store.delete("a/b")
    store.delete("d")
    with pytest.raises(NoSuchObject):
        get(store, "a/b")
    store.clean()
    assert list((tmp_path / "store" / ".tmp").iterdir()) == []
    assert len(notes) == (call == "fsync")


def test_a_file_system_that_counts_no_names_of_open_files_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a FUSE server that leaves the number out."""
    fstat = os.fstat

    def no_names(descriptor: int) -> os.stat_result:
        fields = list(fstat(descriptor))
        fields[3] = 0
        return os.stat_result(fields)

    store = LocalStore(tmp_path / "store")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", no_names)
        put(store, "a/b", b"x")
    assert get(store, "a/b") == b"x"
    assert list((tmp_path / "store" / ".tmp").iterdir()) == []


def test_a_sync_that_worked_and_fails_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path / "store")
    put(store, "a/b", b"x")
    refusing(monkeypatch, "fsync", errno.EIO, directories=True)
    with pytest.raises(StoreError, match="input/output error"):
        put(store, "a/c", b"x")


def test_of_two_writers_without_links_one_gets_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(monkeypatch, "link", errno.EPERM)
    store = LocalStore(tmp_path / "store")
    first, second = store.create("a/b"), store.create("a/b")
    first.write(b"1")
    second.write(b"2")
    second.commit()
    with pytest.raises(ObjectExists):
        first.commit()
    assert get(store, "a/b") == b"2"


def test_a_directory_that_another_name_leads_to_is_not_written_nor_listed(tmp_path: Path) -> None:
    """Both names lead to one directory, which has the name of the first."""
    with MOUNTS["exfat"](tmp_path / "place") as place:
        store = LocalStore(place / "store")
        put(store, "packs/host/Data/x", b"x")
        with pytest.raises(StoreError, match="cannot hold 'data'"):
            put(store, "packs/host/data/y", b"y")
        assert list(store.list("packs/host/data/")) == []
        assert [info.key for info in store.list("packs/host/Data/")] == ["packs/host/Data/x"]


def test_what_another_machine_writes_is_left_alone_for_a_day(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    put(store, "a", b"x")
    left = tmp_path / "store" / ".tmp" / "0123.anothermachine.part"
    left.write_bytes(b"half of a pack")
    store.clean()
    assert left.exists()
    yesterday = (datetime.now(UTC) - timedelta(days=1, minutes=1)).timestamp()
    os.utime(left, (yesterday, yesterday))
    store.clean()
    assert not left.exists()


LACKS = {"link": "no hard links", "fsync": "no fsync of directories", "flock": "no locks"}


def test_a_probe_says_what_a_disk_lacks_nothing(place: Path, tmp_path: Path) -> None:
    found = LocalStore(place).probe()
    assert found.lacks == ()
    assert found.free_bytes
    assert everything(tmp_path) == [tmp_path / "store"]


@pytest.mark.parametrize(("call", "number"), CASES, ids=lambda each: errno.errorcode.get(each, each))
def test_a_probe_says_what_is_lacking(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    refusing(monkeypatch, call, number, directories=call == "fsync")
    (said,) = LocalStore(place).probe().lacks
    assert said.startswith(LACKS[call])
    assert everything(tmp_path) == [tmp_path / "store"]


@pytest.mark.parametrize("number", [errno.EIO, errno.EINVAL, errno.ENOSPC, errno.EROFS])
def test_a_probe_fails_where_files_do_not_reach_the_disk(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    refusing(monkeypatch, "fsync", number)
    with pytest.raises(StoreError, match="cannot bring files to stable storage"):
        LocalStore(place).probe()
    assert everything(tmp_path) == [tmp_path / "store"]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.ESTALE])
def test_a_probe_fails_where_files_get_no_names(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    refusing(monkeypatch, "link", number)
    with pytest.raises(StoreError, match=f"cannot hold a store: {os.strerror(number).lower()}"):
        LocalStore(place).probe()
    assert everything(tmp_path) == [tmp_path / "store"]


def test_a_probe_fails_where_a_name_is_given_twice(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def replace(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int, **_: object) -> None:
        os.replace(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "link", replace)
    with pytest.raises(StoreError, match="gives a file the name of another one"):
        LocalStore(place).probe()


def test_a_probe_fails_where_locks_keep_nobody_out(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    with pytest.raises(StoreError, match="gives one lock to two"):
        LocalStore(place).probe()


@pytest.mark.parametrize(("limit", "said"), [(143, "no names of more than 143 bytes"), (60, None)])
def test_a_probe_says_how_long_names_may_be(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, said: str | None
) -> None:
    """As eCryptfs has it."""
    real = os.mkdir

    def mkdir(path: Path, *arguments: int) -> None:
        if len(path.name) > limit:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        real(path, *arguments)

    monkeypatch.setattr(os, "mkdir", mkdir)
    if said is None:
        with pytest.raises(StoreError, match="has no names of 64 bytes"):
            LocalStore(place).probe()
    else:
        assert LocalStore(place).probe().lacks[0].startswith(said)
    assert everything(tmp_path) == [tmp_path / "store"]


@pytest.mark.parametrize("call", ["link", "fsync", "statvfs", "rmdir"])
def test_an_interrupted_probe_leaves_nothing(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    real: Callable[..., object] = getattr(os, call)

    def interrupted(*arguments: object, **more: object) -> object:
        monkeypatch.setattr(os, call, real)
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments, **more)

    monkeypatch.setattr(os, call, interrupted)
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    hook = sys.unraisablehook
    try:
        interrupts.install()
        with pytest.raises(Interrupted):
            LocalStore(place).probe()
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)
    assert everything(tmp_path) == [tmp_path / "store"]


def test_what_a_killed_probe_left_goes_with_the_next(tmp_path: Path) -> None:
    left = tmp_path / f".volferry-doctor-{temporary_name()}"
    (left / "from").mkdir(parents=True)
    (left / "from" / "file").write_bytes(b"")
    living = tmp_path / f".volferry-doctor-{temporary_name()}"
    living.mkdir()
    store = LocalStore(tmp_path)
    assert list(store.list("")) == []
    with locked(living):
        store.probe()
        assert everything(tmp_path) == [living]
    store.probe()
    assert everything(tmp_path) == []


def test_a_probe_says_what_real_file_systems_lack(tmp_path: Path) -> None:
    said = {}
    for name, mount in MOUNTS.items():
        (tmp_path / name).mkdir()
        with mount(tmp_path / name / "place") as directory:
            said[name] = [each.split(":")[0] for each in LocalStore(directory / "store").probe().lacks]
            assert list(directory.iterdir()) == []
    exfat = ["no hard links", "no difference between upper and lower case"]
    assert said == {"exfat": exfat, "squashed": [], "nobody": [], "ignoring": []}


def test_a_probe_fails_where_nothing_can_be_deleted(tmp_path: Path) -> None:
    with through_bindfs("--delete-deny")(tmp_path / "place") as directory:
        with pytest.raises(StoreError, match=r"does not delete \.volferry-doctor-"):
            LocalStore(directory).probe()
        with mounted(tmp_path / "read-only", "--bind", str(directory)) as read_only:
            subprocess.run(["mount", "-o", "remount,bind,ro", read_only], check=True)
            with pytest.raises(StoreError, match="cannot hold a store: read-only file system"):
                LocalStore(read_only).probe()
