"""One suite for every store, and what only a store in a directory can be asked for."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import volferry
from tests.parts.mounts import in_memory
from tests.parts.s3_servers import SERVERS
from tests.parts.sftp_servers import SFTP_SERVERS
from volferry.errors import NoSuchObject, NoSuchStore, ObjectExists, StoreError
from volferry.model import ObjectInfo
from volferry.store_config import StoreConfig
from volferry.stores.base import get, put, validate_key
from volferry.stores.factory import open_store
from volferry.stores.local import LocalStore
from volferry.stores.sftp import SftpStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from tests.parts.s3_servers import Servers
    from tests.parts.sftp_servers import SftpServer, SftpServers
    from volferry.stores.base import Store

SOURCE = Path(volferry.__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Place:
    """An empty place for a store, and how many unfinished objects take up room there."""

    settings: StoreConfig
    state: Path
    unfinished: Callable[[], int]
    environment: dict[str, str] = field(default_factory=dict)
    rounds: int = 150  # of what is done over and over
    deletes_beginnings: bool = True  # rclone takes that for a directory, and fails

    def open(self) -> Store:
        return open_store(self.settings, state=self.state)


@contextmanager
def a_directory(tmp_path: Path, _: Servers) -> Iterator[Place]:
    directory = tmp_path / "store"
    yield Place(
        StoreConfig(url=str(directory)), tmp_path / "state", lambda: len(list((directory / ".tmp").glob("*")))
    )


def in_a_bucket(name: str) -> Callable[[Path, Servers], AbstractContextManager[Place]]:
    @contextmanager
    def place(tmp_path: Path, servers: Servers) -> Iterator[Place]:
        server = servers(name)
        bucket = server.bucket()
        yield Place(
            server.settings(f"s3://{bucket}/pre/fix"),
            tmp_path / "state",
            lambda: server.unfinished(bucket),
            server.environment(),
            rounds=1 if name == "rclone" else 10,  # it shows for a moment what was deleted
            deletes_beginnings=name != "rclone",
        )

    return place


PLACES = {"local": a_directory, **{name: in_a_bucket(name) for name in SERVERS}}


def on_a_server(server: SftpServer, tmp_path: Path) -> Place:
    directory = tmp_path / "store"
    return Place(
        server.settings(directory),
        tmp_path / "state",
        lambda: len([each for each in directory.glob(".tmp/*") if each.name != "clock"]),
        server.environment,
        rounds=10,
    )


@pytest.fixture(params=[*PLACES, *SFTP_SERVERS])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, s3_server: Servers, sftp_server: SftpServers
) -> Iterator[Place]:
    if request.param in SFTP_SERVERS:
        yield on_a_server(sftp_server(request.param), tmp_path)
        return
    with PLACES[request.param](tmp_path, s3_server) as each:
        yield each


@pytest.fixture
def store(place: Place) -> Store:
    return place.open()


def keys(store: Store, prefix: str = "") -> list[str]:
    return [info.key for info in store.list(prefix)]


def read(store: Store, key: str, size: int = 1 << 20, *, offset: int = 0, length: int | None = None) -> bytes:
    with store.open(key, offset=offset, length=length) as reader:
        parts = []
        while data := reader.read(size):
            assert len(data) <= size
            parts.append(data)
        assert reader.read(size) == b"", "it stays at its end"
    return b"".join(parts)


@contextmanager
def writer_in_another_process(place: Place, key: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has begun an object, and written some of it; it goes on when its stdin ends."""
    script = (
        "import sys; from pathlib import Path; from volferry.stores.factory import open_store\n"
        "from volferry.store_config import PartSize, StoreConfig\n"
        "settings = StoreConfig(url=sys.argv[1], addressing='path', part_size=PartSize(5 << 20))\n"
        "writer = open_store(settings, state=Path(sys.argv[3])).create(sys.argv[2])\n"
        "writer.write(bytes(8 << 20)); print('begun', flush=True)\n"
        "sys.stdin.read(); writer.commit()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, place.settings.url, key, place.state],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **place.environment, "PYTHONPATH": str(SOURCE)},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        try:
            yield process
        finally:
            process.kill()


def finish(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(60) == 0


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 40_000])
def test_an_object_is_read_as_it_was_written(store: Store, data: bytes) -> None:
    put(store, "packs/host/vol/one.tar.zst", data)
    assert get(store, "packs/host/vol/one.tar.zst") == data
    assert store.size("packs/host/vol/one.tar.zst") == len(data)
    assert list(store.list("")) == [ObjectInfo("packs/host/vol/one.tar.zst", len(data))]


def test_an_object_is_seen_through_another_connection(store: Store, place: Place) -> None:
    put(store, "a/b", b"data")
    assert get(place.open(), "a/b") == b"data"


def test_an_object_may_be_written_in_many_pieces(store: Store) -> None:
    pieces = [b"", b"a", bytes(6 << 20), b"b" * (5 << 20), b"c" * 17]
    writer = store.create("a")
    for piece in pieces:
        writer.write(piece)
    writer.commit()
    assert get(store, "a") == b"".join(pieces)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(offset=st.integers(0, 1100), length=st.none() | st.integers(0, 1100), size=st.integers(1, 1100))
def test_any_range_is_read_in_pieces_of_any_size(
    store: Store, offset: int, length: int | None, size: int
) -> None:
    data = bytes(range(250)) * 4
    if not keys(store):
        put(store, "object", data)
    end = None if length is None else offset + length
    assert read(store, "object", size, offset=offset, length=length) == data[offset:end]


def test_several_readers_do_not_disturb_each_other(store: Store) -> None:
    put(store, "object", b"0123456789")
    with store.open("object") as first, store.open("object", offset=5) as second:
        assert (first.read(2), second.read(2), first.read(2), second.read(9)) == (b"01", b"56", b"23", b"789")


def test_a_large_object_is_not_taken_for_a_small_one(store: Store) -> None:
    put(store, "object", bytes(2000))
    assert len(get(store, "object", limit=2000)) == 2000
    with pytest.raises(StoreError, match=r"object in .* is larger than 1999 bytes"):
        get(store, "object", limit=1999)


def test_objects_are_listed_by_prefix_in_the_order_of_their_keys(store: Store) -> None:
    names = [
        "a",
        "a-b",
        "a.b/x",
        "a/b/c",
        "a/b.c",
        "a/b-c/d",
        "a/c",
        "a0",
        "ab/c",
        "b/%2E",
        "b/A",
        "b/a",
        "b/~",
        "b_",
    ]
    names.remove("a")  # a prefix of another key cannot be one in a directory
    for name in reversed(names):
        put(store, name, name.encode())
    assert keys(store) == sorted(names)
    for prefix in ("a", "a/", "a/b", "a/b/", "a/b-", "a-b", "b/", "b/a", "c", "a/b/c", "a/x/"):
        assert keys(store, prefix) == sorted(name for name in names if name.startswith(prefix))


def test_a_file_in_place_of_a_directory_is_no_empty_one(store: Store) -> None:
    put(store, "a/b", b"x")
    if isinstance(store, LocalStore | SftpStore):  # which is what it would be there
        with pytest.raises(StoreError, match=r"^cannot list a/b in the store .*: not a directory$"):
            keys(store, "a/b/")
    else:
        assert keys(store, "a/b/") == []


def test_a_store_that_does_not_exist_yet_is_empty(store: Store) -> None:
    assert keys(store) == []
    assert keys(store, "a/b") == []
    store.clean()


def test_looking_makes_nothing(store: Store, tmp_path: Path) -> None:
    keys(store)
    store.clean()
    for look in (store.open, store.size):
        with pytest.raises(StoreError):
            look("a/b")
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_said_to_be(store: Store) -> None:
    put(store, "a/b", b"x")
    for key in ("a/c", "b", "a/b/c"):
        with pytest.raises(NoSuchObject, match=f"^{key} is missing from "):
            store.size(key)
        with pytest.raises(NoSuchObject, match=f"^{key} is missing from "):
            get(store, key)
        store.delete(key)


def test_the_beginning_of_a_key_is_no_object(store: Store, place: Place) -> None:
    put(store, "a/b", b"x")
    with pytest.raises(NoSuchObject):
        store.size("a")
    with pytest.raises(NoSuchObject):
        get(store, "a")
    if place.deletes_beginnings:
        store.delete("a")
    assert keys(store) == ["a/b"]


def test_a_deleted_object_is_gone_and_no_other(store: Store) -> None:
    for key in ("a/b/c", "a/b/d", "e"):
        put(store, key, key.encode())
    store.delete("a/b/c")
    assert keys(store) == ["a/b/d", "e"]
    store.delete("a/b/d")
    store.delete("a/b/d")
    assert keys(store) == ["e"]
    put(store, "a/b/c", b"again")
    assert get(store, "a/b/c") == b"again"


def test_nothing_is_ever_overwritten(store: Store, place: Place) -> None:
    put(store, "a", b"first")
    with pytest.raises(ObjectExists, match=r"^a is in the store .* already$"):
        put(store, "a", b"second")
    assert get(store, "a") == b"first"
    assert place.unfinished() == 0


@pytest.mark.parametrize("size", [0, 1000, 17 << 20])
def test_what_is_to_be_replaced_is(store: Store, place: Place, size: int) -> None:
    store.replace("a/b", b"new")  # it may have gone meanwhile
    new = os.urandom(size)
    store.replace("a/b", new)
    assert get(store, "a/b") == new
    assert keys(store) == ["a/b"]
    assert place.unfinished() == 0
    # Of what the server can do, it has learned nothing that is wrong.
    with pytest.raises(ObjectExists):
        put(place.open(), "a/b", b"other")
    put(store, "c", b"other")
    with pytest.raises(ObjectExists):
        put(store, "c", b"another")
    assert get(store, "a/b") == new


@pytest.mark.parametrize("size", [0, 1000, 17 << 20])
@pytest.mark.parametrize("ends", ["commit", "abort"])
def test_what_a_writer_replaces_is_there_until_the_new_one_is(
    store: Store, place: Place, size: int, ends: str
) -> None:
    put(store, "a/b", b"old")
    new = os.urandom(size)
    writer = store.create("a/b", replaces=True)
    writer.write(new)
    assert get(store, "a/b") == b"old"
    if ends == "commit":
        writer.commit()
    writer.abort()
    assert get(store, "a/b") == (new if ends == "commit" else b"old")
    assert keys(store) == ["a/b"]
    assert place.unfinished() == 0


def test_of_two_writers_of_one_key_the_second_fails(store: Store) -> None:
    first, second = store.create("a"), store.create("a")
    first.write(b"first")
    second.write(b"second")
    second.commit()
    with pytest.raises(ObjectExists):
        first.commit()
    first.abort()
    assert get(store, "a") == b"second"


def test_an_object_does_not_exist_before_it_is_committed(store: Store) -> None:
    writer = store.create("a")
    writer.write(b"x" * (8 << 20))
    assert keys(store) == []
    with pytest.raises(StoreError):
        store.size("a")
    writer.commit()
    assert keys(store) == ["a"]
    writer.abort()
    assert keys(store) == ["a"], "an abort after the commit does nothing"


def test_an_aborted_object_never_was(store: Store, place: Place) -> None:
    writer = store.create("a")
    writer.write(b"x" * (8 << 20))
    writer.abort()
    writer.abort()
    assert keys(store) == []
    assert place.unfinished() == 0
    put(store, "a", b"y")


def test_many_objects_are_written_at_once(store: Store) -> None:
    writers = {f"key/{number}": store.create(f"key/{number}") for number in range(20)}
    for key, writer in writers.items():
        writer.write(key.encode())
    for writer in writers.values():
        writer.commit()
    assert {key: get(store, key) for key in keys(store)} == {key: key.encode() for key in writers}


def test_objects_are_written_while_their_neighbours_are_deleted(store: Store, place: Place) -> None:
    failures: list[BaseException] = []

    def come_and_go(name: str) -> None:
        try:
            for _ in range(place.rounds):
                put(store, f"deep/er/{name}/object", b"x")
                store.delete(f"deep/er/{name}/object")
        except BaseException as error:  # noqa: BLE001 -- raised below
            failures.append(error)

    threads = [threading.Thread(target=come_and_go, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    assert keys(store) == []


@pytest.mark.parametrize(
    "key",
    [
        "volferry.json",
        "packs/h%2Fost/vol/20260102T030405Z-0a1b2c.0000.tar.zst",
        "%2E",
        "~/-/_",
        "a" * 200,
        "tmp/object",
    ],
)
def test_every_valid_key_names_an_object_that_stays(store: Store, key: str) -> None:
    assert validate_key(key) == key
    put(store, key, b"x")
    store.clean()
    assert keys(store) == [key]
    assert get(store, key) == b"x"


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "../a",
        "a/../b",
        "a/.b",
        ".a",
        "a b",
        "a\n",
        "a\0b",
        "é",
        "a\\b",
        "a:b",
        "a" * 1025,
    ],
)
def test_a_key_that_could_leave_the_store_is_refused(store: Store, key: str, tmp_path: Path) -> None:
    for use in (store.create, store.open, store.size, store.delete):
        with pytest.raises(ValueError, match="not an object key"):
            use(key)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_left_is_never_seen_and_is_cleaned_away(store: Store, place: Place) -> None:
    put(store, "kept", b"x")
    with writer_in_another_process(place, "half") as process:
        process.kill()
        process.wait()
    assert keys(store) == ["kept"]
    with pytest.raises(NoSuchObject):
        store.size("half")
    store.clean()
    assert place.unfinished() == 0
    assert get(store, "kept") == b"x"


def test_what_a_living_writer_has_begun_is_not_cleaned_away(store: Store, place: Place) -> None:
    ours = store.create("ours")
    ours.write(b"ours")
    with writer_in_another_process(place, "theirs") as process:
        store.clean()
        place.open().clean()
        finish(process)
    ours.commit()
    assert keys(store) == ["ours", "theirs"]
    assert store.size("theirs") == 8 << 20


# --- only a directory -------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 1 MiB."""
    with in_memory(tmp_path / "disk", "1m") as disk:
        yield disk


def one_line(error: pytest.ExceptionInfo[StoreError]) -> str:
    message = str(error.value)
    assert len(message.splitlines()) == 1
    return message


def test_a_full_disk_is_one_clear_line_and_leaves_nothing(small_disk: Path) -> None:
    store = LocalStore(small_disk)
    put(store, "kept", b"x")
    with pytest.raises(StoreError) as raised:
        put(store, "packs/large", bytes(2 << 20))
    assert one_line(raised) == f"cannot write packs/large to the store {small_disk}: no space is left on it"
    assert keys(store) == ["kept"]
    assert list((small_disk / ".tmp").iterdir()) == []
    put(store, "packs/small", bytes(500_000))


def test_a_disk_that_is_full_of_other_things_is_one_clear_line(small_disk: Path) -> None:
    store = LocalStore(small_disk)
    with (small_disk / "filler").open("wb") as file, pytest.raises(OSError, match="No space left"):
        file.write(bytes(2 << 20))
    with pytest.raises(StoreError) as raised:
        put(store, "object", bytes(100_000))
    assert one_line(raised).endswith(": no space is left on it")
    assert keys(store, "object") == []


def test_a_read_only_disk_is_one_clear_line_and_can_still_be_read(small_disk: Path) -> None:
    store = LocalStore(small_disk)
    put(store, "kept", b"x")
    begun = store.create("begun")
    begun.abort()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StoreError) as raised:
        put(store, "new", b"x")
    assert one_line(raised) == f"cannot write to the store {small_disk}: it is mounted read-only"
    with pytest.raises(StoreError) as raised:
        store.delete("kept")
    assert one_line(raised) == f"cannot delete kept in the store {small_disk}: it is mounted read-only"
    store.clean()
    assert get(store, "kept") == b"x"
    assert keys(store) == ["kept"]


def test_a_disk_that_becomes_read_only_fails_the_commit_and_shows_nothing(small_disk: Path) -> None:
    store = LocalStore(small_disk)
    writer = store.create("a/b")
    writer.write(b"x")
    # What remounts a busy filesystem is an I/O error; a bind mount lets the open file be, and refuses the link.
    subprocess.run(["mount", "--bind", small_disk, small_disk], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", small_disk], check=True)
        with pytest.raises(StoreError, match=r"^cannot write a/b to the store .*: it is mounted read-only$"):
            writer.commit()
    finally:
        subprocess.run(["umount", small_disk], check=True)
    assert keys(store) == []
    store.clean()
    assert list((small_disk / ".tmp").iterdir()) == []


@pytest.mark.parametrize("use", [lambda store: put(store, "a", b"x"), lambda store: get(store, "a")])
def test_a_file_in_the_place_of_the_store_is_one_clear_line(
    tmp_path: Path, use: Callable[[Store], object]
) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(StoreError) as raised:
        use(LocalStore(tmp_path / "file"))
    assert str(tmp_path / "file") in one_line(raised)
    assert (tmp_path / "file").read_text() == "precious"


def test_a_directory_that_is_not_mounted_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(NoSuchStore, match=rf"^there is no store at {tmp_path}/missing: check the path"):
        get(LocalStore(tmp_path / "missing"), "a")


class Record:
    """What is synced and linked, in order, by path below `root`."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, str]] = []
        fsync, link = os.fsync, os.link

        def recorded_fsync(descriptor: int) -> None:
            fsync(descriptor)
            self.calls.append(("sync", os.path.relpath(Path(f"/proc/self/fd/{descriptor}").readlink(), root)))

        def recorded_link(source: str, target: str, *, dst_dir_fd: int, **more: Any) -> None:
            link(source, target, dst_dir_fd=dst_dir_fd, **more)
            directory = Path(f"/proc/self/fd/{dst_dir_fd}").readlink()
            self.calls.append(("link", os.path.relpath(directory / target, root)))

        monkeypatch.setattr(os, "fsync", recorded_fsync)
        monkeypatch.setattr(os, "link", recorded_link)


def test_a_committed_object_is_on_stable_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record(tmp_path, monkeypatch)
    store = LocalStore(tmp_path / "store")
    writer = store.create("packs/host/object")
    writer.write(b"x")
    before = len(record.calls)
    writer.commit()
    calls = record.calls[before:]
    link = calls.index(("link", "store/packs/host/object"))
    assert calls[0][0] == "sync"
    assert calls[0][1].startswith("store/.tmp/")
    assert calls[0][1].endswith(".part")
    # The data is there before the name is, and the name before `commit` returns.
    assert link > 0
    assert calls[link + 1 :] == [("sync", "store/packs/host")]
    # Every directory that was made is in a directory that was synced.
    assert {path for what, path in record.calls if what == "sync"} >= {".", "store", "store/packs"}


def test_a_deleted_object_stays_deleted_after_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path / "store")
    put(store, "a/b", b"x")
    record = Record(tmp_path, monkeypatch)
    store.delete("a/b")
    assert record.calls == [("sync", "store/a")]


def test_a_filesystem_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    store = LocalStore(tmp_path / "store")
    put(store, "a/b", b"x")
    assert get(store, "a/b") == b"x"
    with pytest.raises(ObjectExists):
        put(store, "a/b", b"y")
    assert get(store, "a/b") == b"x"
    assert list((tmp_path / "store" / ".tmp").iterdir()) == []


def test_objects_can_be_read_by_their_owner_only(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    put(store, "a/b", b"x")
    for path in [tmp_path / "store", *(tmp_path / "store").rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    put(store, "a", b"x")
    gc.collect()  # what other tests have left is not ours
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(50):
        put(store, f"b/{number}", b"x")
        get(store, f"b/{number}")
        store.create("c").abort()
        with pytest.raises(ObjectExists):
            put(store, "a", b"x")
        with pytest.raises(NoSuchObject):
            get(store, "missing")
    assert len(list(Path("/proc/self/fd").iterdir())) == before
