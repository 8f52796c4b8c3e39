from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import volferry
from volferry.errors import VolferryError
from volferry.run import begin_run, is_alive, remove_dead

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(volferry.__file__).parent.parent


@contextmanager
def run_of_another_process(
    state: Path, *, with_child: bool = False
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The id of a run that another process has begun, and that process."""
    script = textwrap.dedent(f"""
        import subprocess, sys
        from pathlib import Path
        from volferry.run import begin_run
        with begin_run(Path(sys.argv[1])) as run:
            child = subprocess.Popen(["sleep", "60"], close_fds=False) if {with_child} else None
            print(run.id, child.pid if child else 0, flush=True)
            sys.stdin.read()
    """)
    with subprocess.Popen(
        [sys.executable, "-c", script, str(state)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(SOURCE), "PATH": "/usr/bin:/bin"},
    ) as process:
        assert process.stdout is not None
        run_id, child = process.stdout.readline().split()
        try:
            yield run_id, process
        finally:
            process.kill()
            if int(child):
                subprocess.run(["kill", "-9", child], check=True)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.EACCES, errno.ESTALE])
def test_a_run_whose_lock_cannot_be_looked_at_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuses(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    with begin_run(tmp_path) as run, monkeypatch.context() as patch:
        patch.setattr(os, "open", refuses)
        remove_dead(tmp_path)
        assert is_alive(tmp_path, run.id)
        assert run.spool.is_dir()


def test_a_run_lives_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    with begin_run(tmp_path) as run:
        assert is_alive(tmp_path, run.id)
    assert not is_alive(tmp_path, run.id)


def test_a_run_has_directories_of_its_own_which_go_with_it(tmp_path: Path) -> None:
    with begin_run(tmp_path) as run, begin_run(tmp_path) as other:
        shared = run.share()
        (run.spool / "file").write_text("x")
        (shared / "file").write_text("x")
        assert run.id != other.id
        assert not list(other.spool.iterdir())
        assert run.directory.stat().st_mode & 0o777 == 0o700
        assert shared.stat().st_mode & 0o777 == 0o777
        assert shared.parent == run.directory
    assert not run.directory.exists()
    assert not other.directory.exists()


def test_a_run_that_fails_is_over_too(tmp_path: Path) -> None:
    with pytest.raises(KeyError), begin_run(tmp_path) as run:
        raise KeyError
    assert not run.directory.exists()
    assert not is_alive(tmp_path, run.id)


def test_runs_of_one_state_directory_have_one_owner(tmp_path: Path) -> None:
    with begin_run(tmp_path / "one") as first, begin_run(tmp_path / "one") as second:
        assert first.owner == second.owner
    with begin_run(tmp_path / "one") as later, begin_run(tmp_path / "two") as other:
        assert later.owner == first.owner
        assert other.owner != first.owner


def test_a_crash_while_the_owner_was_written_does_not_make_all_alike(tmp_path: Path) -> None:
    (tmp_path / "id").touch()
    with begin_run(tmp_path) as run:
        assert run.owner


def test_a_run_that_nobody_began_is_dead(tmp_path: Path) -> None:
    assert not is_alive(tmp_path, "0123456789ab")
    assert not is_alive(tmp_path / "missing", "0123456789ab")


@pytest.mark.parametrize("with_child", [False, True])
def test_a_run_dies_with_its_process_even_if_a_child_lives_on(tmp_path: Path, with_child: bool) -> None:
    with run_of_another_process(tmp_path, with_child=with_child) as (run_id, process):
        assert is_alive(tmp_path, run_id)
        process.kill()
        process.wait()
        assert not is_alive(tmp_path, run_id)


def test_what_the_dead_left_is_removed_and_what_the_living_use_stays(tmp_path: Path) -> None:
    with begin_run(tmp_path) as ours, run_of_another_process(tmp_path) as (living, _):
        with run_of_another_process(tmp_path) as (dead, process):
            remove_dead(tmp_path)
            assert (tmp_path / "runs" / dead).is_dir()
            process.kill()
            process.wait()
        (tmp_path / "runs" / dead / "spool" / "large").write_text("x")
        remove_dead(tmp_path)
        assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == sorted([ours.id, living])


def test_nothing_is_removed_where_nothing_is(tmp_path: Path) -> None:
    remove_dead(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()


def test_a_state_directory_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(VolferryError, match=rf"^cannot write to the state directory {tmp_path}/file: \w.*$"),
        begin_run(tmp_path / "file"),
    ):
        pass
