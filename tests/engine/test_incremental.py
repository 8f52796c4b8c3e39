"""Every backup restores to exactly what the volume was, whatever came before it: changes, kills, lost state."""

from __future__ import annotations

import os
import random
import shutil
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.parts.trees import assert_same, snapshot
from volferry.archive import listing
from volferry.engine.client import connect
from volferry.engine.helper import HelperInBackground, HelperSettings
from volferry.engine.image import helper_image
from volferry.engine.volumes import find_volume
from volferry.index_cache import IndexCache
from volferry.observer import Silent
from volferry.operations.backup import Part, Unit
from volferry.operations.backup_reader import BackupReader
from volferry.operations.restore import restore_backup
from volferry.operations.volume_pass import MOVING, BackupSettings, VolumeState
from volferry.repository import Repository
from volferry.run import Run, begin_run
from volferry.stores.local import LocalStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import docker

    from tests.parts.engine import PrivateEngine
    from volferry.model import BackupStats, Volume

# Some entries have boundaries of groups after them, some do not; large ones are groups of their own.
_FILES = 300
_LARGE_BYTES = 3 << 20


class StandingHelper(HelperInBackground):
    """Serves all backups and restores of a test: it stays when it is released."""

    def release(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        super().release()
        self._holder.join()


class Crash(BaseException):
    """The process ends here, as far as volferry can tell."""


@dataclass
class Bench:
    """A volume to change, a helper that reads it and writes another one, and a store."""

    run: Run
    helper: HelperInBackground
    volume: Volume
    target: Volume
    data: Path
    restored: Path
    place: Path
    noise: random.Random
    host: str = "here"
    backups: list[tuple[BackupStats, dict[bytes, object]]] = field(default_factory=list)

    @property
    def repository(self) -> Repository:
        return Repository.open_or_create(LocalStore(self.place / "store"))[0]

    @property
    def state(self) -> VolumeState:
        return VolumeState(self.place / "state" / "checkpoints", IndexCache(self.place / "state" / "index"))

    def back_up(
        self, *, full: bool = False, repository: Repository | None = None, pack_bytes: int = 1 << 30
    ) -> BackupStats:
        state = (
            self.state if repository is None else VolumeState(self.place / "c", IndexCache(self.place / "i"))
        )
        settings = BackupSettings(self.host, "test", full=full, pack_bytes=pack_bytes)
        part = Part(self.volume, self.helper, settings, state, self.run.spool, Silent())
        (stats,) = Unit([part], repository or self.repository, time.monotonic(), MOVING).back_up()
        return stats

    def restore(self, stats: BackupStats) -> None:
        backup = BackupReader(self.repository, stats.ref, spool=self.run.spool)
        restore_backup(
            backup, self.target.name, helper=self.helper.wait(), observer=Silent(), empty_first=True
        )

    def check(self, stats: BackupStats, expected: dict[bytes, object]) -> None:
        self.restore(stats)
        assert_same(expected, snapshot(self.restored))  # type: ignore[arg-type]

    def tar(self, repository: Repository, stats: BackupStats) -> bytes:
        return b"".join(BackupReader(repository, stats.ref, spool=self.run.spool).tar_stream())

    def check_equals_full(self, stats: BackupStats) -> None:
        """The tar of an incremental backup is that of a full one of the same state, byte for byte."""
        other = Repository.open_or_create(LocalStore(self.place / "other"))[0]
        full = self.back_up(repository=other)
        assert self.tar(self.repository, stats) == self.tar(other, full)
        shutil.rmtree(self.place / "other")


@pytest.fixture
def bench(
    engine: PrivateEngine, docker_client: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    # What was written a moment ago may be trusted here: nothing changes between a listing and the end of its backup.
    monkeypatch.setattr(listing, "CHANGED_WITHIN_SECONDS", -3600)
    connected = connect(engine.docker_host)
    names = [f"incremental-{os.getpid()}-{random.randrange(1 << 40):x}{end}" for end in ("", "-restored")]
    with ExitStack() as cleanup:
        for name in names:
            made = docker_client.volumes.create(name)
            cleanup.callback(made.remove, force=True)
        run = cleanup.enter_context(begin_run(tmp_path / "runs"))
        image = helper_image(connected, configured=None, own_container_image=None)
        volumes = [find_volume(connected, name) for name in names]
        places = [engine.data_root / "volumes" / name / "_data" for name in names]
        helper = cleanup.enter_context(
            StandingHelper(connected, run, HelperSettings(image), volumes, write=True)
        )
        source, target = volumes
        data, restored = places
        yield Bench(run, helper, source, target, data, restored, tmp_path, random.Random(7))
    connected.close()


def fill(bench: Bench) -> None:
    for number in range(_FILES):
        folder = bench.data / f"d{number % 7}"
        folder.mkdir(exist_ok=True)
        (folder / f"f{number}").write_bytes(bench.noise.randbytes(bench.noise.randrange(3000)))
    for number in range(3):
        (bench.data / f"large{number}").write_bytes(bench.noise.randbytes(_LARGE_BYTES))
    for number in range(20):
        other = bench.data / f"d{(number * 3 + 1) % 7}" / f"link{number}"
        os.link(bench.data / f"d{number % 7}" / f"f{number}", other)


def files(bench: Bench) -> list[Path]:
    found = [path for path in bench.data.rglob("*") if path.is_file() and not path.is_symlink()]
    return sorted(found)


def change(bench: Bench, kind: str, seed: int) -> None:  # noqa: C901, PLR0912, PLR0915 -- one line a kind
    """One change to the volume, of many kinds, at a place that `seed` chooses."""
    noise = random.Random(seed)
    existing = files(bench)
    path = noise.choice(existing) if existing else bench.data / "f"
    fresh = path.parent / f"new{seed:x}"
    match kind:
        case "create":
            fresh.write_bytes(noise.randbytes(noise.randrange(5000)))
        case "create large":
            fresh.write_bytes(noise.randbytes(_LARGE_BYTES))
        case "write within":
            with path.open("r+b") as file:
                file.seek(path.stat().st_size // 2)
                file.write(noise.randbytes(100))
        case "insert":
            path.write_bytes(noise.randbytes(50) + path.read_bytes())
        case "append":
            with path.open("ab") as file:
                file.write(noise.randbytes(100))
        case "truncate":
            os.truncate(path, path.stat().st_size // 2)
        case "rename":
            path.rename(fresh)
        case "rename directory":
            path.parent.rename(bench.data / f"moved{seed:x}") if path.parent != bench.data else None
        case "link":
            os.link(path, fresh)
        case "link first":
            os.link(path, bench.data / f" first{seed:x}")
        case "symlink":
            fresh.symlink_to(path.name)
        case "unlink":
            path.unlink(missing_ok=True)
        case "chmod":
            path.chmod(0o600)
        case "chown":
            os.chown(path, seed % 60000, 7)
        case "xattr":
            os.setxattr(path, "user.seed", str(seed).encode())
        case "utime":
            os.utime(path, ns=(seed, seed))
        case "replace by directory":
            path.unlink(missing_ok=True)
            path.mkdir()
        case "replace by another file":
            fresh.write_bytes(noise.randbytes(path.stat().st_size if path.exists() else 9))
            fresh.rename(path)
        case "replace directory by file":
            if path.parent != bench.data:
                shutil.rmtree(path.parent)
                path.parent.write_bytes(b"a file now")
        case "root":
            bench.data.chmod(0o711)


KINDS = [
    "create", "create large", "write within", "insert", "append", "truncate", "rename", "rename directory", "link",
    "link first", "symlink", "unlink", "chmod", "chown", "xattr", "utime", "replace by directory",
    "replace by another file", "replace directory by file", "root",
]  # fmt: skip
changes = st.lists(
    st.lists(st.tuples(st.sampled_from(KINDS), st.integers(1, 1 << 32)), max_size=4), min_size=2, max_size=4
)
relaxed = settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def start_anew(bench: Bench) -> None:
    for place in (bench.data, bench.restored):
        for path in place.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for name in ("store", "state", "c", "i"):
        shutil.rmtree(bench.place / name, ignore_errors=True)
    bench.backups.clear()
    fill(bench)


@pytest.mark.long
@relaxed
@given(steps=changes)
def test_every_backup_restores_to_what_the_volume_was_and_exports_as_a_full_one(
    bench: Bench, steps: list[list[tuple[str, int]]]
) -> None:
    start_anew(bench)
    bench.backups.append((bench.back_up(), snapshot(bench.data)))  # type: ignore[arg-type]
    for step in steps:
        for kind, seed in step:
            change(bench, kind, seed)
        stats = bench.back_up()
        assert stats.base == bench.backups[-1][0].ref.id
        bench.backups.append((stats, snapshot(bench.data)))  # type: ignore[arg-type]
        bench.check_equals_full(stats)
    for stats, expected in bench.backups:
        bench.check(stats, expected)


@pytest.mark.long
@relaxed
@given(steps=changes, seed=st.integers(0, 1 << 32))
def test_every_backup_restores_though_runs_were_killed_and_state_was_lost_or_damaged(
    bench: Bench, steps: list[list[tuple[str, int]]], seed: int
) -> None:
    noise = random.Random(seed)
    start_anew(bench)
    for step in [[], *steps]:
        for kind, chosen in step:
            change(bench, kind, chosen)
        if noise.random() < 0.7:
            crash_while_backing_up(bench, noise.randrange(1, 6))
        if noise.random() < 0.3:
            shutil.rmtree(bench.place / "state", ignore_errors=True)
        elif noise.random() < 0.5:
            damage_state(bench, noise)
        stats = bench.back_up(full=noise.random() < 0.2, pack_bytes=1 << 20)
        bench.backups.append((stats, snapshot(bench.data)))  # type: ignore[arg-type]
    for stats, expected in bench.backups:
        bench.check(stats, expected)


def crash_while_backing_up(bench: Bench, after: int) -> None:
    """Ends a backup when it opens its pack number `after`, with nothing cleaned up; it may finish before that."""
    opened = 0
    create = LocalStore.create
    delete = LocalStore.delete

    def crashing(store: LocalStore, key: str) -> object:
        nonlocal opened
        opened += key.startswith("packs/")
        if opened == after:
            raise Crash
        return create(store, key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalStore, "create", crashing)
        patch.setattr(LocalStore, "delete", lambda *_: None)
        try:
            stats = bench.back_up(pack_bytes=1 << 20)
        except Crash:
            return
    assert LocalStore.delete is delete
    bench.backups.append((stats, snapshot(bench.data)))  # type: ignore[arg-type]


def damage_state(bench: Bench, noise: random.Random) -> None:
    found = [path for path in (bench.place / "state").rglob("*") if path.is_file() and path.stat().st_size]
    for path in noise.sample(found, min(2, len(found))):
        data = bytearray(path.read_bytes())
        match noise.randrange(3):
            case 0:
                data[noise.randrange(len(data))] ^= 1 << noise.randrange(8)
            case 1:
                del data[noise.randrange(len(data)) :]
            case 2:
                data += b"garbage\n"
        path.write_bytes(data)


def test_what_did_not_change_is_neither_read_nor_stored_again(bench: Bench) -> None:
    start_anew(bench)
    first = bench.back_up()
    again = bench.back_up()
    assert again.read_bytes == 0
    assert again.stored_bytes < first.stored_bytes / 100
    assert again.entries == first.entries
    assert again.source_bytes == first.source_bytes


def test_one_changed_file_costs_its_group_and_no_more(bench: Bench) -> None:
    start_anew(bench)
    bench.back_up()
    change(bench, "append", 5)
    stats = bench.back_up()
    assert 0 < stats.read_bytes < 16 << 20
    bench.check(stats, snapshot(bench.data))  # type: ignore[arg-type]


def test_a_moved_large_file_is_not_stored_again(bench: Bench) -> None:
    start_anew(bench)
    bench.back_up()
    (bench.data / "large1").rename(bench.data / "elsewhere")
    stats = bench.back_up()
    assert stats.stored_bytes < _LARGE_BYTES / 2
    bench.check(stats, snapshot(bench.data))  # type: ignore[arg-type]


def test_full_reads_everything_and_stores_nothing_twice(bench: Bench) -> None:
    start_anew(bench)
    first = bench.back_up()
    again = bench.back_up(full=True)
    assert again.read_bytes >= first.read_bytes
    assert again.stored_bytes < first.stored_bytes / 100


def test_entries_that_changed_just_before_the_listing_are_read_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "CHANGED_WITHIN_SECONDS", 2)
    start_anew(bench)
    first = bench.back_up()
    again = bench.back_up()
    assert again.read_bytes >= first.source_bytes


def test_an_interrupted_run_is_gone_on_from(bench: Bench) -> None:
    start_anew(bench)
    for number in range(8):
        (bench.data / f"more{number}").write_bytes(bench.noise.randbytes(_LARGE_BYTES))
    crash_while_backing_up(bench, 8)
    stored = sum(path.stat().st_size for path in (bench.place / "store" / "packs").rglob("*.zst"))
    assert not list((bench.place / "store" / "manifests").rglob("*.json"))
    stats = bench.back_up()
    assert stats.read_bytes < stats.source_bytes - stored / 2
    assert stats.stored_bytes < stats.source_bytes - stored * 0.9
    bench.check(stats, snapshot(bench.data))  # type: ignore[arg-type]


def test_packs_of_which_little_is_needed_are_left_behind(bench: Bench) -> None:
    start_anew(bench)
    first = bench.back_up(pack_bytes=2 << 20)
    for number in range(3):
        (bench.data / f"large{number}").write_bytes(bench.noise.randbytes(_LARGE_BYTES))
    for path in files(bench)[::2]:
        if path.stat().st_size < 1 << 20:
            path.unlink()
    second = bench.back_up()
    for _ in range(8):
        second = bench.back_up()
    manifest = bench.repository.manifest(second.ref)
    assert all(pack.live_bytes * 2 >= pack.stored_bytes for pack in manifest.packs)
    assert first.ref.id not in {
        pack.name.partition(".")[0] for pack in manifest.packs if pack.live_bytes == 0
    }
    bench.check(second, snapshot(bench.data))  # type: ignore[arg-type]


def test_a_missing_pack_of_the_newest_backup_is_read_again(bench: Bench) -> None:
    start_anew(bench)
    bench.back_up(pack_bytes=2 << 20)
    lost = max((bench.place / "store" / "packs").rglob("*.zst"))
    lost.unlink()
    stats = bench.back_up()
    bench.check(stats, snapshot(bench.data))  # type: ignore[arg-type]


def test_a_damaged_index_means_a_full_read_and_no_failure(bench: Bench) -> None:
    start_anew(bench)
    bench.back_up()
    shutil.rmtree(bench.place / "state")
    for path in (bench.place / "store" / "indexes").rglob("*.zst"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    stats = bench.back_up()
    assert stats.read_bytes >= stats.source_bytes
    bench.check(stats, snapshot(bench.data))  # type: ignore[arg-type]


def test_links_to_a_name_that_moved_with_its_directory_are_links_to_another_one(bench: Bench) -> None:
    """Moving a directory changes no time of the files in it."""
    start_anew(bench)
    (bench.data / "early").mkdir()
    (bench.data / "early" / "first").write_bytes(bench.noise.randbytes(_LARGE_BYTES))
    (bench.data / "late").mkdir()
    (bench.data / "late" / "second").hardlink_to(bench.data / "early" / "first")
    bench.back_up()
    (bench.data / "early").rename(bench.data / "moved")
    stats = bench.back_up()
    bench.check(stats, snapshot(bench.data))  # type: ignore[arg-type]
    bench.check_equals_full(stats)


def test_a_run_that_went_on_and_died_early_hides_nothing_of_the_one_before(bench: Bench) -> None:
    start_anew(bench)
    for number in range(8):
        (bench.data / f"more{number}").write_bytes(bench.noise.randbytes(_LARGE_BYTES))
    crash_while_backing_up(bench, 12)
    (bench.data / " a new one").write_bytes(bench.noise.randbytes(2 * _LARGE_BYTES))
    crash_while_backing_up(bench, 3)
    stats = bench.back_up()
    assert stats.stored_bytes < stats.source_bytes / 2
    bench.check(stats, snapshot(bench.data))  # type: ignore[arg-type]
