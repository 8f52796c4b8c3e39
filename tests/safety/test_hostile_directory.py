"""A store in a directory into which somebody else has put links, FIFOs, directories and names, and file systems that fail at any call."""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.parts.local_helper import LocalVolume
from tests.parts.mounts import in_memory
from volferry.errors import DamagedObject, NoSuchObject, ObjectExists, StoreError, VolferryError
from volferry.observer import Silent
from volferry.operations.prune import prune_volume
from volferry.operations.verify import Verifier
from volferry.repository import Repository
from volferry.retention import Keep, Within
from volferry.stores.base import get, put
from volferry.stores.local import LocalStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEY = "packs/host/vol/object"
OTHERS = ["manifests/host/vol/object", "volferry.json"]


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    found = LocalStore(tmp_path / "store")
    for key in (KEY, *OTHERS):
        put(found, key, key.encode())
    return found


def tree(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Kind and content of everything below, by path."""
    return {
        str(path.relative_to(directory)): (
            stat.S_IFMT(path.lstat().st_mode),
            path.read_bytes() if path.is_file() and not path.is_symlink() else b"",
        )
        for path in sorted(directory.rglob("*"))
    }


def made_old(directory: Path) -> None:
    old = (datetime.now(UTC) - timedelta(days=30)).timestamp()
    for path in [directory, *directory.rglob("*")]:
        os.utime(path, (old, old), follow_symlinks=False)


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory that looks like a part of a store. It is as it was at the end, whatever a test does."""
    directory = tmp_path / "outside"
    for name in (
        "object",
        "0123456789abcdef.there.part",
        f"{'0' * 32}.name",
        "passwd",
        "vol/object",
        "host/vol/object",
    ):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text("not of the store")
    (directory / "empty").mkdir()
    made_old(directory)
    before = tree(directory)
    yield directory
    assert tree(directory) == before


USES: dict[str, Callable[[LocalStore], object]] = {
    "open": lambda store: get(store, KEY),
    "size": lambda store: store.size(KEY),
    "list": lambda store: list(store.list("packs/host/vol/")),
    "create": lambda store: put(store, "packs/host/vol/new", b"new"),
    "create the same": lambda store: put(store, KEY, b"new"),
    "delete": lambda store: store.delete(KEY),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("above", ["packs", "packs/host", "packs/host/vol"])
def test_no_link_in_place_of_a_directory_is_followed(
    store: LocalStore, tmp_path: Path, outside: Path, above: str, use: str
) -> None:
    place = tmp_path / "store" / above
    place.rename(tmp_path / "aside")
    place.symlink_to(outside)
    with pytest.raises(
        StoreError, match=f"^{above} in the store .* is a symbolic link, and volferry follows none"
    ):
        USES[use](store)
    assert place.is_symlink()
    assert [info.key for info in store.list("")] == OTHERS
    assert [info.key for info in store.list("manifests/")] == OTHERS[:1]


@pytest.mark.parametrize("use", USES)
def test_no_link_in_place_of_an_object_is_followed(
    store: LocalStore, tmp_path: Path, outside: Path, use: str
) -> None:
    place = tmp_path / "store" / KEY
    place.unlink()
    place.symlink_to(outside / "object")
    if use in {"open", "size"}:
        with pytest.raises(NoSuchObject, match="something else is in its place"):
            USES[use](store)
    elif use == "create the same":
        with pytest.raises(ObjectExists):
            USES[use](store)
    else:
        assert USES[use](store) in ([], None)


def test_the_store_itself_may_be_a_link(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("store")
    linked = LocalStore(tmp_path / "link")
    put(linked, "packs/host/vol/new", b"new")
    linked.delete(KEY)
    linked.clean()
    assert [info.key for info in store.list("packs/")] == ["packs/host/vol/new"]


def test_a_link_in_place_of_the_unfinished_files_costs_nobody_a_file(
    store: LocalStore, tmp_path: Path, outside: Path
) -> None:
    (tmp_path / "store" / ".tmp").rmdir()
    (tmp_path / "store" / ".tmp").symlink_to(outside)
    store.clean()
    with pytest.raises(StoreError, match=r"^\.tmp in the store .* is a symbolic link"):
        put(store, "packs/host/vol/new", b"new")


def test_cleaning_takes_only_what_a_store_has_begun(store: LocalStore, tmp_path: Path) -> None:
    unfinished = tmp_path / "store" / ".tmp"
    dead = ["0123456789abcdef.there.part", f"{'0' * 32}.name"]
    for name in [*dead, "passwd", "notes.txt"]:
        (unfinished / name).write_text("left")
    (unfinished / "directory.part").mkdir()
    (unfinished / "link.part").symlink_to(tmp_path / "store" / KEY)
    os.mkfifo(unfinished / "fifo.part")
    made_old(unfinished)
    store.clean()
    left = {path.name for path in unfinished.iterdir()}
    assert left == {"passwd", "notes.txt", "directory.part", "link.part", "fifo.part"}
    assert get(store, KEY) == KEY.encode()


def a_socket(path: Path) -> None:
    directory = os.open(path.parent, os.O_PATH)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)


THINGS: dict[str, Callable[[Path], object]] = {
    "fifo": os.mkfifo,
    "socket": a_socket,
    "device": lambda path: os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5)),
    "directory": lambda path: (path / "in it").mkdir(parents=True),
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("thing", THINGS)
def test_what_is_no_file_is_no_object_and_is_not_waited_for(
    store: LocalStore, tmp_path: Path, thing: str
) -> None:
    THINGS[thing](tmp_path / "store" / "packs" / "host" / "vol" / "thing")
    key = "packs/host/vol/thing"
    assert key not in [info.key for info in store.list("")]
    for look in (store.size, lambda wanted: get(store, wanted)):
        with pytest.raises(NoSuchObject):
            look(key)
    with pytest.raises(ObjectExists):
        put(store, key, b"x")
    assert get(store, KEY) == KEY.encode()


@pytest.mark.parametrize("thing", THINGS)
@pytest.mark.parametrize("place", ["packs", "packs/host", "packs/host/vol", ".tmp"])
def test_what_is_no_directory_holds_no_objects_and_is_not_waited_for(
    store: LocalStore, tmp_path: Path, place: str, thing: str
) -> None:
    if thing == "directory":
        return
    (tmp_path / "store" / place).rename(tmp_path / "aside")
    THINGS[thing](tmp_path / "store" / place)
    with pytest.raises(StoreError):
        put(store, "packs/host/vol/new", b"x")
    if place != ".tmp":
        with pytest.raises(StoreError):
            get(store, KEY)
    assert [info.key for info in store.list("manifests/")] == OTHERS[:1]
    store.clean()


def test_times_that_no_date_can_hold_are_the_last_ones(tmp_path: Path) -> None:
    with in_memory(tmp_path / "disk", "1m") as disk:
        store = LocalStore(disk)
        put(store, KEY, b"x")
        for seconds in (1 << 40, 1 << 62, -(1 << 40)):
            os.utime(disk / KEY, (seconds, seconds))
            put(store, "unfinished", b"x")
            (disk / "unfinished").rename(disk / ".tmp" / "there.part")
            os.utime(disk / ".tmp" / "there.part", (seconds, seconds))
            (found,) = store.list("")
            assert found.modified.year in {1970, 9998}
            store.clean()


def test_directories_that_are_deeper_than_any_key_hold_no_objects(store: LocalStore, tmp_path: Path) -> None:
    directory = os.open(tmp_path / "store" / "packs", os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("deep", dir_fd=directory)
        below = os.open("deep", os.O_RDONLY, dir_fd=directory)
        os.close(directory)
        directory = below
    os.close(os.open("object", os.O_CREAT | os.O_WRONLY, dir_fd=directory))
    os.close(directory)
    assert [info.key for info in store.list("packs/")] == [KEY]


# --- with backups -----------------------------------------------------------------------------------


@contextmanager
def two_stores(tmp_path: Path) -> Iterator[tuple[Repository, Repository]]:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_bytes(os.urandom(100_000))
    repositories = []
    for name in ("one", "other"):
        repository, _ = Repository.open_or_create(LocalStore(tmp_path / name))
        LocalVolume(tmp_path / "data", tmp_path / f"state of {name}").back_up(repository)
        repositories.append(repository)
    yield repositories[0], repositories[1]


@pytest.mark.parametrize("part", ["packs", "packs/host", "packs/host/vol"])
def test_prune_deletes_nothing_of_another_store(tmp_path: Path, part: str) -> None:
    with two_stores(tmp_path) as (repository, _):
        made_old(tmp_path / "other")
        before = tree(tmp_path / "other")
        (tmp_path / "one" / part).rename(tmp_path / "aside")
        (tmp_path / "one" / part).symlink_to(tmp_path / "other" / part)
        with pytest.raises(StoreError, match="is a symbolic link"):
            prune_volume(
                repository,
                "host",
                "vol",
                keep=lambda _: Keep(),
                grace=Within("0h"),
                cache=None,
                dry_run=False,
            )
        assert tree(tmp_path / "other") == before


def test_a_bad_sector_is_marked_and_not_built_upon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with two_stores(tmp_path) as (repository, _):
        (ref,) = repository.refs()
        (pack,) = repository.manifest(ref).packs
        real = os.pread

        def pread(descriptor: int, size: int, offset: int) -> bytes:
            if pack.name in os.fspath(Path(f"/proc/self/fd/{descriptor}").readlink()):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(descriptor, size, offset)

        monkeypatch.setattr(os, "pread", pread)
        verifier = Verifier(repository, read=True, spool=tmp_path, observer=Silent())
        found = verifier.verify(ref)
        assert any("the disk cannot read it" in line for line in found.findings)
        verifier.remember(found, by="host")
        verifier = Verifier(repository, read=True, spool=tmp_path, observer=Silent())
        (tmp_path / "data" / "new").write_bytes(b"new")
        next_ref = LocalVolume(tmp_path / "data", tmp_path / "state of one").back_up(repository).ref
        assert pack.name not in [each.name for each in repository.manifest(next_ref).packs]
        assert verifier.verify(next_ref).findings == ()


# --- file systems that fail -------------------------------------------------------------------------

ERRORS = [
    errno.EACCES,
    errno.EIO,
    errno.ESTALE,
    errno.EUCLEAN,
    errno.EBADMSG,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EMFILE,
    errno.EINVAL,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EAGAIN,
]
CALLS = [
    "open",
    "stat",
    "fstat",
    "scandir",
    "pread",
    "listdir",
    "unlink",
    "mkdir",
    "rmdir",
    "link",
    "statvfs",
]
EVERY_USE: dict[str, Callable[[LocalStore], object]] = {
    **USES,
    "list all": lambda store: list(store.list("")),
    "create elsewhere": lambda store: put(store, "packs/other/vol/new", b"new"),
    "now": lambda store: store.now(),
    "clean": lambda store: store.clean(),
    "probe": lambda store: store.probe(),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("use", EVERY_USE)
def test_whatever_a_file_system_says_is_one_line_or_done_without(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: str, call: str
) -> None:
    """Each call of a use fails, the first one, then the second, and so on, in every way."""
    real: Callable[..., Any] = getattr(os, call)
    said: set[str] = set()
    for number in ERRORS:
        for skipped in range(40):
            calls = 0

            def fail(*arguments: Any, **more: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls > skipped:  # noqa: B023 -- called in this round
                    raise OSError(number, os.strerror(number), "somewhere")  # noqa: B023
                return real(*arguments, **more)

            monkeypatch.setattr(os, call, fail)
            try:
                EVERY_USE[use](store)
            except VolferryError as error:
                said.add(str(error))
            finally:
                monkeypatch.setattr(os, call, real)
            if calls <= skipped:
                break
    assert [each for each in said if len(each.splitlines()) != 1] == []
    assert [info.key for info in store.list("manifests/")] == OTHERS[:1]


class _Entry:
    """A name in a directory whose file cannot be looked at."""

    def __init__(self, entry: os.DirEntry[str], call: str, number: int) -> None:
        self._entry, self._call, self._number = entry, call, number

    def __getattr__(self, name: str) -> Any:
        if name == self._call:
            return self._fail
        return getattr(self._entry, name)

    def _fail(self, **_: Any) -> Any:
        raise OSError(self._number, os.strerror(self._number))


@pytest.mark.parametrize("call", ["stat", "is_dir"])
@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.get)
def test_an_entry_that_cannot_be_looked_at_ends_a_list_in_one_line(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, number: int, call: str
) -> None:
    """`is_dir` takes what is gone for no directory, as Python has it."""
    if call == "is_dir" and number == errno.ENOENT:
        return
    real = os.scandir

    @contextmanager
    def scandir(directory: int) -> Iterator[list[_Entry]]:
        with real(directory) as found:
            yield [_Entry(each, call, number) for each in found]

    monkeypatch.setattr(os, "scandir", scandir)
    # What is gone meanwhile, or has become a link, is no object any longer.
    if call == "stat" and number in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
        assert list(store.list("")) == []
    else:
        with pytest.raises(StoreError, match=f": {os.strerror(number).lower()}$|permission denied"):
            list(store.list(""))


@pytest.mark.parametrize("number", [errno.EIO, errno.EUCLEAN, errno.EBADMSG], ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["pread", "open"])
def test_an_object_that_the_disk_cannot_read_is_damaged_if_it_fails_twice(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, number: int, call: str
) -> None:
    real: Callable[..., Any] = getattr(os, call)
    failures = 1

    def gone(_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def failing(*arguments: Any, **more: Any) -> Any:
        nonlocal failures
        if failures and (call == "pread" or arguments[0] == "object"):
            failures -= 1
            raise OSError(number, os.strerror(number))
        return real(*arguments, **more)

    monkeypatch.setattr(os, call, failing)
    assert get(store, KEY) == KEY.encode()
    failures = 99
    with pytest.raises(DamagedObject) as raised:
        get(store, KEY)
    assert raised.value.key == KEY
    failures = 99
    # Nobody answers: that says nothing about the object.
    monkeypatch.setattr(os, "statvfs", gone)
    with pytest.raises(StoreError, match=os.strerror(number).lower()):
        get(store, KEY)
