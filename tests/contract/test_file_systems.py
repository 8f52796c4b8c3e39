"""Local stores on file systems that lack what a disk's has."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from volferry.errors import NoSuchObject, ObjectExists, StoreError
from volferry.stores.base import get, put
from volferry.stores.local import LocalStore

if TYPE_CHECKING:
    from collections.abc import Callable
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


LINKS = [errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EINVAL]
SYNCS = [errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOENT, errno.EIO, errno.EACCES, errno.EISDIR]
LOCKS = [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL]
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


def test_a_directory_that_another_name_leads_to_is_not_written_nor_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system that does not know case: both names lead to one directory, and it has the name of the first."""
    store = LocalStore(tmp_path / "store")
    put(store, "packs/host/Data/x", b"x")
    (tmp_path / "store" / "packs" / "host" / "data").symlink_to("Data")
    real = os.scandir
    hidden = os.fspath(tmp_path / "store" / "packs" / "host")

    def listdir(path: str) -> list[str]:
        with real(path) as found:
            names = [each.name for each in found]
        return [each for each in names if os.fspath(path) != hidden or each != "data"]

    monkeypatch.setattr(os, "listdir", listdir)
    with pytest.raises(StoreError, match="cannot hold 'data'"):
        put(store, "packs/host/data/y", b"y")
    assert list(store.list("packs/host/data/")) == []
    assert [info.key for info in store.list("packs/host/Data/")] == ["packs/host/Data/x"]


def test_links_below_a_store_are_not_followed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    put(store, "a/b", b"x")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "c").write_text("not of the store")
    (tmp_path / "store" / "loop").symlink_to("loop")
    (tmp_path / "store" / "a" / "up").symlink_to("..")
    (tmp_path / "store" / "out").symlink_to(tmp_path / "elsewhere")
    assert [info.key for info in store.list("")] == ["a/b"]


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
