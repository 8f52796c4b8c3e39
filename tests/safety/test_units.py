"""Several volumes in one stillness: backups of one moment, all of them or none."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.parts.local_helper import LocalHelper, LocalVolume
from tests.parts.memory_store import Clock, Contents, MemoryStore
from volferry.begun_sets import begun_set, complete_sets
from volferry.errors import CommandFailed, StoreError, VolumeBusy
from volferry.model import Finding
from volferry.operations.backup import Unit
from volferry.operations.backup_reader import BackupReader
from volferry.repository import BackupWriter, Repository

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from volferry.model import BackupRef, BackupStats

SET = "20261129T020000Z-abcdef"


@dataclass
class Still:
    """All volumes hold the same number while they stand still, and other numbers before and afterwards."""

    volumes: list[LocalVolume]
    warm: bool = False
    mode: str = "stop"
    downtime_seconds: float = 0.0
    said: list[str] = field(default_factory=list)
    found: list[Finding] = field(default_factory=list)

    def write(self, text: str, *, size: int = 1) -> None:
        for each in self.volumes:
            (each.data / "number").write_text(text * size)

    def begin(self) -> None:
        self.said.append("begin")
        self.write("still", size=100_000)

    def end(self) -> None:
        if self.said[-1:] == ["begin"]:
            self.said.append("end")
            self.write("afterwards")

    def findings(self) -> list[Finding]:
        return self.found


@dataclass
class Case:
    repository: Repository
    volumes: list[LocalVolume]
    place: Path

    def back_up(
        self,
        still: Still,
        *,
        before: Callable[[], object] = lambda: None,
        around: Any = lambda _: nullcontext(),
    ) -> list[BackupStats]:
        with ExitStack() as stack:
            parts = []
            for each in self.volumes:
                spool = self.place / f"spool of {each.name}"
                spool.mkdir(exist_ok=True)
                helper = LocalHelper(each.data, spool)
                stack.callback(helper.end)
                parts.append(each.part(self.repository, spool, helper))
            self.unit = Unit(parts, self.repository, time.monotonic(), still, before, SET, around)
            return self.unit.back_up()

    def stored(self, stats: BackupStats) -> bytes:
        return self.stored_of(stats.ref)

    def stored_of(self, ref: BackupRef) -> bytes:
        return b"".join(BackupReader(self.repository, ref, spool=self.place).tar_stream())


@pytest.fixture
def make(tmp_path: Path) -> Callable[[int], Case]:
    def made(count: int) -> Case:
        volumes = []
        for number in range(count):
            data = tmp_path / f"data {number}"
            data.mkdir()
            (data / "own").write_text(f"of {number}")
            volumes.append(LocalVolume(data, tmp_path / "state", f"vol{number:03}"))
        return Case(Repository.open_or_create(MemoryStore(Contents("store", Clock())))[0], volumes, tmp_path)

    return made


@pytest.mark.parametrize("warm", [False, True])
def test_all_are_of_one_moment_and_name_each_other(make: Callable[[int], Case], warm: bool) -> None:
    case = make(3)
    still = Still(case.volumes, warm=warm, found=[Finding("disturbed", b"", "somebody wrote")])
    still.write("before")
    order: list[str] = []
    made = case.back_up(still, before=lambda: order.append(",".join(still.said)))
    assert order == [""]  # hooks and dumps come first
    assert still.said == ["begin", "end"]
    assert [stats.ref.volume for stats in made] == ["vol000", "vol001", "vol002"]
    for number, stats in enumerate(made):
        tar = case.stored(stats)
        assert b"still" * 100_000 in tar
        assert b"of %d" % number in tar
        manifest = case.repository.manifest(stats.ref)
        assert manifest.set is not None
        assert manifest.set.id == stats.set_id == SET
        assert [(each.volume, each.id) for each in manifest.set.backups] == [
            (each.ref.volume, each.ref.id) for each in made
        ]
        assert manifest.consistency == "stop"
        assert [each.kind for each in manifest.findings] == ["disturbed"]


def test_all_go_on_from_their_backups_before_though_nothing_is_to_be_read(
    make: Callable[[int], Case],
) -> None:
    case = make(3)
    first = case.back_up(Still(case.volumes))
    for each in case.volumes:
        (each.data / "number").write_text("later")
    second = case.back_up(Still([]))
    third = case.back_up(Still([]))
    assert [stats.base for stats in third] == [stats.ref.id for stats in second]
    assert [stats.base for stats in second] == [stats.ref.id for stats in first]
    assert all(b"later" in case.stored(stats) for stats in third)


def test_many_are_read_within_each_other(make: Callable[[int], Case]) -> None:
    case = make(80)
    still = Still(case.volumes)
    made = case.back_up(still)
    assert still.said == ["begin", "end"]
    assert len(made) == len(case.repository.store.contents.objects) // 4 == 80  # type: ignore[attr-defined]
    assert case.repository.manifest(made[-1].ref).set == case.repository.manifest(made[0].ref).set


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_where_one_cannot_be_read_there_is_none_and_the_next_run_goes_on(
    make: Callable[[int], Case], failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make(3)
    still = Still(case.volumes)
    real = LocalHelper.start

    def start(self: LocalHelper, command: Any, **more: Any) -> Any:
        if self.directory("") == str(case.volumes[failing].data):
            raise CommandFailed("the helper is gone")
        return real(self, command, **more)

    monkeypatch.setattr(LocalHelper, "start", start)
    with pytest.raises(CommandFailed, match="the helper is gone"):
        case.back_up(still)
    assert case.unit.blamed == f"vol{failing:03}"
    assert still.said == ["begin", "end"]
    assert [*case.repository.refs()] == []
    monkeypatch.undo()
    assert len(case.back_up(Still(case.volumes))) == 3


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_where_one_manifest_cannot_be_put_those_before_it_are_taken_back(
    make: Callable[[int], Case], failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make(3)
    case.back_up(Still(case.volumes))
    before = {*case.repository.refs()}
    put = 0
    real = type(case.repository.writer(next(iter(before)))).put_manifest

    def put_manifest(self: Any, manifest: Any) -> Any:
        nonlocal put
        put += 1
        if put > failing:
            raise StoreError("the bucket is full")
        return real(self, manifest)

    monkeypatch.setattr("volferry.repository.BackupWriter.put_manifest", put_manifest)
    with pytest.raises(StoreError, match="full"):
        case.back_up(Still(case.volumes))
    assert case.unit.blamed == f"vol{failing:03}"
    assert {*case.repository.refs()} == before


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("written", [0, 1, 2, 3])
def test_a_set_whose_run_was_killed_between_its_manifests_is_completed_by_the_next(
    make: Callable[[int], Case], written: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make(3)
    directory = case.place / "state of the store"
    put = 0
    real = BackupWriter.put_manifest

    def put_manifest(self: Any, manifest: Any, **more: Any) -> Any:
        nonlocal put
        if put == written:
            raise _Killed
        put += 1
        return real(self, manifest, **more)

    with monkeypatch.context() as patched:
        patched.setattr(BackupWriter, "put_manifest", put_manifest)
        patched.setattr(BackupWriter, "discard", lambda *_, **__: None)
        patched.setattr("volferry.begun_sets.Path.unlink", lambda *_, **__: None)
        with pytest.raises(_Killed) if written < 3 else nullcontext():
            case.back_up(
                Still(case.volumes), around=partial(begun_set, directory, case.repository.place, SET)
            )
    assert len([*case.repository.refs()]) == written
    held: list[str] = []

    @contextmanager
    def locked(ref: BackupRef) -> Iterator[None]:
        held.append(ref.volume)
        yield

    def alive(ref: BackupRef) -> Any:
        raise VolumeBusy(f"{ref} is being written")

    elsewhere: Any = SimpleNamespace(place="another store")
    for each in complete_sets(directory, case.repository, alive), complete_sets(directory, elsewhere, locked):
        assert [*each] == []
    lines = [*complete_sets(directory, case.repository, locked)]
    assert held == ["vol000", "vol001", "vol002"]
    assert len([*case.repository.refs()]) == (3 if written else 0)
    assert ["is complete now" in line for line in lines] == ([True] if written in {1, 2} else [])
    assert [*complete_sets(directory, case.repository, locked)] == []
    assert [*(directory / "sets").iterdir()] == []
    if written:
        assert all(b"still" in case.stored_of(ref) for ref in case.repository.refs())


def test_a_set_that_cannot_be_completed_keeps_what_there_is_and_says_so(make: Callable[[int], Case]) -> None:
    case = make(2)
    made = case.back_up(Still(case.volumes))
    manifests = [(stats.ref, case.repository.manifest(stats.ref)) for stats in made]
    directory = case.place / "state of the store"
    with suppress(_Killed), pytest.MonkeyPatch.context() as patched:
        patched.setattr("volferry.begun_sets.Path.unlink", lambda *_, **__: None)
        with begun_set(directory, case.repository.place, SET, manifests):
            raise _Killed
    for key in [
        *case.repository.store.list("packs/host/vol001/"),
        *case.repository.store.list("manifests/host/vol001/"),
    ]:
        case.repository.store.delete(key.key)
    (line,) = complete_sets(directory, case.repository, lambda _: nullcontext())
    assert "is not complete, for its run was killed" in line
    assert [*case.repository.refs()] == [made[0].ref]
    (directory / "sets" / "rubbish.json").write_text("{}")
    assert [*complete_sets(directory, case.repository, lambda _: nullcontext())] == []
    assert [*(directory / "sets").iterdir()] == []
