"""A state directory on a file system without locks: that is said, and no run is made up that one could wait for."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from volferry.errors import StoreError, VolferryError, VolumeBusy
from volferry.journal import Journal
from volferry.run import begin_run, is_alive
from volferry.stores.uploads import Uploads
from volferry.volume_lock import content_lock, is_written, volume_lock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NUMBERS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EIO, errno.EACCES)


def no_locks(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


def locked(directory: Path) -> None:
    with volume_lock(directory, "vol"):
        pass


def content_locked(directory: Path) -> None:
    with content_lock(directory, "vol", write=True):
        pass


def begun(directory: Path) -> None:
    with begin_run(directory):
        pass


def asked_whether_it_lives(directory: Path) -> None:
    (directory / "runs" / "0123456789ab").mkdir(parents=True)
    (directory / "runs" / "0123456789ab" / "lock").touch()
    is_alive(directory, "0123456789ab")


USES: dict[str, Callable[[Path], object]] = {
    "volume": locked,
    "content": content_locked,
    "is written": is_written,
    "run": begun,
    "is alive": asked_whether_it_lives,
    "journal": lambda directory: Journal.of_run(directory, "0123456789ab").alone(),
    "journal at once": lambda directory: Journal.of_run(directory, "0123456789ab").alone(wait=False),
    "uploads": lambda directory: Uploads(directory).begun("name", "upload"),
}


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("use", USES)
def test_a_file_system_without_locks_is_no_other_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, use: str, number: int
) -> None:
    no_locks(monkeypatch, number)
    with pytest.raises(VolferryError) as caught:
        USES[use](tmp_path)
    assert str(caught.value) == (
        f"the file system of the state directory {tmp_path} has no locks: {os.strerror(number).lower()}: "
        "put it on another one (state_dir)"
    )
    assert not isinstance(caught.value, VolumeBusy)
    assert caught.value.exit_code == (StoreError.exit_code if use == "uploads" else 1)


def test_a_lock_that_nobody_gets_of_a_file_that_nobody_knows_is_no_other_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    no_locks(monkeypatch, errno.EAGAIN)
    with pytest.raises(VolferryError, match=r"^the file system of the state directory .* has no locks"):
        begun(tmp_path)


def test_another_run_is_one_that_has_the_lock(tmp_path: Path) -> None:
    with ExitStack() as stack:
        stack.enter_context(volume_lock(tmp_path, "vol"))
        with pytest.raises(VolumeBusy, match="another run is at work on the backups of volume vol"):
            locked(tmp_path)
        assert is_written(tmp_path)
    locked(tmp_path)
    journal = Journal.of_run(tmp_path, "0123456789ab")
    assert journal.alone(wait=False)
    assert not Journal.of_run(tmp_path, "ba9876543210").alone(wait=False)
    journal.end()
