"""A hundred volumes, thirty days, and everything that happens to a host: the clock, the engine and the store are made up; the
daemon's loop, the journal, what stops and starts containers, retention and what removes left-overs are the real ones.
"""

from __future__ import annotations

import heapq
import itertools
import os
import random
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import docker.errors
import pytest
import structlog
from msgspec.structs import replace

from tests.parts.memory_store import Clock, Contents, MemoryStore
from volferry.archive.manifest import read_manifest
from volferry.checked import value_of
from volferry.config import Config
from volferry.engine.client import Engine
from volferry.engine.helper_containers import remove_container
from volferry.engine.labels import OWNER, ROLE, RUN
from volferry.engine.reap import reap
from volferry.engine_address import Address
from volferry.errors import EngineUnreachable, StoreUnreachable, VolferryError
from volferry.history import History
from volferry.journal import Journal, journals_of_the_dead
from volferry.layout import files_key, frames_key, pack_key
from volferry.model import BackupRef, Volume, VolumeUse, new_backup_id
from volferry.operations import coming_back
from volferry.operations.prune import prune_volume
from volferry.operations.quiesce import Limits, Quiesced
from volferry.operations.recovery import Recovery
from volferry.repository import Repository
from volferry.retention import Within, judge
from volferry.run import begin_run, remove_dead
from volferry.scheduler import loop as loops
from volferry.scheduler.agenda import Agenda
from volferry.scheduler.loop import Down, Ending, Loop, View
from volferry.scheduler.moments import Moment
from volferry.scheduler.recovering import Recovering, RecoveryEnding
from volferry.stores.base import put

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from volferry.archive.manifest import Manifest
    from volferry.scheduler.events import Event
    from volferry.volume_settings import VolumeSettings

GOLDEN = Path(__file__).parents[1] / "golden" / "format-2" / "store"
BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
DAYS = 30
HOST = "host"
SCHEDULES = [
    *["@hourly"] * 1,
    *["every 6h"] * 4,
    *["0 2 * * *"] * 40,
    *["0 3 * * 1-5; 0 5 * * sun"] * 15,
    *["@weekly"] * 40,
]
CONFIG = value_of(
    {"daemon": {"at_once": 4, "jitter": "10m"}, "defaults": {"keep": {"last": 3, "daily": 7, "weekly": 3}}},
    Config,
)
# Down for an hour: what is due and fails is tried again after an hour at most, and then takes its time.
_SLACK = timedelta(hours=2)


class Killed(BaseException):
    """SIGKILL."""


class QuickStore(MemoryStore):
    """Lists what is near without looking at all that there is. `NAMES` has the keys of each kind, host and volume."""

    def _items(self, prefix: str) -> Sequence[tuple[str, tuple[bytes, datetime]]]:
        if prefix.count("/") < 3:
            return super()._items(prefix)
        found = self.contents.objects
        return [(key, found[key]) for key in sorted(NAMES.get(prefix, ())) if key in found]


NAMES: dict[str, set[str]] = {}


@dataclass
class MadeUpApi:
    """As much of docker-py as stopping, starting and removing needs."""

    world: World
    timeout: int = 60
    containers_: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, name: str, volume: str, labels: dict[str, str], *, running: bool = True) -> None:
        self.containers_[name] = {
            "Id": name, "Name": f"/{name}", "Labels": labels, "ImageID": "image", "Created": self.world.now.timestamp(),
            "Mounts": [{"Name": volume, "RW": True, "Type": "volume", "Destination": f"/volumes/{volume}"}],
            "Config": {"Labels": labels, "StopTimeout": 1}, "HostConfig": {},
            "State": {"Status": "running" if running else "created", "StartedAt": "t0", "FinishedAt": ""},
        }  # fmt: skip

    def info(self) -> dict[str, Any]:
        return {"Name": HOST}

    def inspect_volume(self, name: str) -> dict[str, Any]:
        return {"Name": name}

    def containers(self, *, filters: dict[str, Any] | None = None, all: bool = False) -> list[dict[str, Any]]:  # noqa: A002
        self.world.engine_step()
        filters = filters or {}
        found = [each for each in self.containers_.values() if all or each["State"]["Status"] == "running"]
        if "volume" in filters:
            found = [each for each in found if each["Mounts"][0]["Name"] == filters["volume"]]
        if "label" in filters:
            found = [each for each in found if filters["label"][0] in each["Labels"]]
        return [{**each, "State": each["State"]["Status"]} for each in found]

    def inspect_container(self, name: str) -> dict[str, Any]:
        self.world.engine_step()
        if name not in self.containers_:
            raise docker.errors.NotFound("no such container")
        return self.containers_[name]

    def stop(self, name: str) -> None:
        self.world.engine_step()
        self.containers_[name]["State"] |= {"Status": "exited", "FinishedAt": self.world.now.isoformat()}

    def start(self, name: str) -> None:
        self.world.engine_step()
        self.containers_[name]["State"] |= {"Status": "running", "StartedAt": self.world.now.isoformat()}

    def inspect_image(self, _: str) -> dict[str, Any]:
        return {}

    def remove_container(self, name: str, **_: object) -> None:
        self.world.engine_step()
        self.containers_.pop(name, None)


@dataclass
class RunOfVolume:
    """From its start to its end, which are two moments of the made-up time."""

    volume: str
    began: datetime
    number: int
    scope: Any  # what keeps the run's lock
    helper: str


class World:
    """Implements `Surroundings`, `Runs` and `Teller`."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.now = BEGIN
        self.state = directory / "state"
        self.noise = random.Random(seed)
        self.clock = Clock(BEGIN)
        self.api = MadeUpApi(self)
        self.engine_down = self.store_down = False
        self.kill_in: int | None = None  # so many calls of the engine
        self.store = QuickStore(Contents("main", self.clock), self._store_step)
        self.engine = Engine(self.api, Address("made up", "tcp://made.up"))
        self.repository, _ = Repository.open_or_create(self.store)
        self.history = History(self.state)
        (path, *_) = sorted((GOLDEN / "manifests").rglob("*.json"))
        self.template = read_manifest(path.read_bytes(), key="golden")
        self.volumes = {f"vol{number:02}": schedule for number, schedule in enumerate(SCHEDULES)}
        for number, name in enumerate(self.volumes):
            self.api.add(f"app-{name}", name, {"volferry.quiesce": "stop"} if number % 3 else {})
        self.as_seen = [self._volume(name) for name in self.volumes]  # nobody labels them anew
        self.newest: dict[str, datetime] = {}
        self.changed: set[str] = set()  # volumes whose backups are to be listed again
        self.running: dict[str, RunOfVolume] = {}
        self.ends: list[tuple[datetime, int, str]] = []
        self.made: dict[str, list[datetime]] = {name: [] for name in self.volumes}
        self.ended: dict[str, list[tuple[datetime, datetime]]] = {name: [] for name in self.volumes}
        self.late_told: dict[str, list[datetime]] = {name: [] for name in self.volumes}
        self._numbers = itertools.count(1)
        self.loop: Loop
        self.start_daemon()

    @property
    def moment(self) -> Moment:
        return Moment(self.now, self.now - BEGIN)

    # what happens to it

    def engine_step(self) -> None:
        if self.kill_in is not None:
            self.kill_in -= 1
            if self.kill_in <= 0:
                self.kill_in = None
                raise Killed
        if self.engine_down:
            raise EngineUnreachable("the engine is down")

    def _store_step(self, _what: str) -> None:
        self.clock.now = self.now
        if self.store_down:
            raise StoreUnreachable("the store is away")

    def start_daemon(self) -> None:
        log = structlog.wrap_logger(None, processors=[_drop])
        self.loop = Loop(lambda: CONFIG, Agenda(UTC), self, self, self, self.history, log, self.moment)
        self.recovering = Recovering(lambda: CONFIG, self._journals, self, self.tell, log)
        self.history.settle(self.now)

    def _journals(self) -> list[str]:
        return [journal.run_id for journal, _ in journals_of_the_dead(self.state)]

    def kill_everything(self) -> None:
        """The processes are gone, with their locks; what they had made and stopped is as it is."""
        for run in self.running.values():
            run.scope.kill()
        for link in Path("/proc/self/fd").iterdir():
            if link.is_symlink() and "/journal/" in str(link.readlink()):
                os.close(int(link.name))
        self.running.clear()
        self.ends.clear()

    # Surroundings

    def look(self) -> View:
        self.engine_step()
        self._store_step("list")
        for volume in sorted(self.changed):
            self.newest.pop(volume, None)
            for ref in self.repository.refs(host=HOST, volume=volume):
                self.newest[volume] = ref.time
            self.changed.remove(volume)
        return View(self.as_seen, dict(self.newest), dict.fromkeys(self.volumes, BEGIN))

    def _volume(self, name: str) -> Volume:
        labels = self.api.containers_[f"app-{name}"]["Labels"]
        use = VolumeUse(f"app-{name}", f"app-{name}", "", "running", "/data", read_write=True, labels=labels)
        return Volume(name, "local", {}, {"volferry.schedule": self.volumes[name]}, "local", "", (use,))

    # Recoveries

    recovery_goes_on = False

    def start_recovery(self) -> None:
        try:
            left = replay(self.engine, self.state)
        except VolferryError as error:
            ending = RecoveryEnding(error=str(error))
        else:
            ending = RecoveryEnding(tuple(Down(each, each) for each in left))
        self.recovering.ended(ending, self.moment)

    # Runs

    def stalled(self) -> set[str]:
        return set()

    def going_on(self) -> dict[str, datetime]:
        return {name: run.began for name, run in self.running.items()}

    def start(self, volumes: Sequence[str], moving: str) -> None:
        del moving
        (volume,) = volumes
        scope = _Scope(self.state)
        run = scope.run
        record = self.history.begin(run.id, HOST, volume, self.now)
        helper = f"helper-{run.id}"
        self.running[volume] = RunOfVolume(volume, self.now, record, scope, helper)
        took = timedelta(seconds=self.noise.choice([5, 20, 60, 300, 1500]))
        heapq.heappush(self.ends, (self.now + took, next(self._numbers), volume))
        try:
            remove_dead(self.state)
            reap(self.engine, self.state, run.owner)
            self.engine_step()
            self.api.add(helper, volume, {ROLE: "helper", RUN: run.id, OWNER: run.owner})
            self.api.containers_[helper]["Command"] = "sh /spool/control"
            self.api.containers_[helper]["Mounts"].append({"Type": "bind", "Destination": "/spool"})
        except VolferryError:
            pass  # its end will fail

    def end(self, volume: str) -> None:
        run = self.running[volume]
        good, error, problems = False, "", []
        try:
            with self._still(volume, run) as problems:
                self.engine_step()
                if run.helper not in self.api.containers_ or self.noise.random() < 0.01:
                    raise EngineUnreachable("the helper died")
                self._back_up(volume, run.began)
            good = True
            self._prune(volume)
        except VolferryError as caught:
            error = str(caught)
        remove_container(self.engine, run.helper)
        error = "; ".join(problems) if good else error
        self.history.end(run.number, self.now, "done" if good else "failed", error=error)
        run.scope.close()
        del self.running[volume]
        self.loop.ended(volume, Ending(good=good, error=error), self.moment)

    @contextmanager
    def _still(self, volume: str, run: RunOfVolume) -> Iterator[list[str]]:
        """What writes to the volume is stopped, and started again."""
        settings = CONFIG.settings_of(self._volume(volume))
        still = Quiesced(
            self.engine, [volume], settings.quiesce or "none", warm=False,
            journal=Journal.of_run(self.state, run.scope.run.id), own=[run.helper], note=lambda _: None,
            limits=Limits(bring_back=timedelta()), recover=lambda: replay(self.engine, self.state, turn=True),
        )  # fmt: skip
        try:
            still.begin()
            problems: list[str] = []
            yield problems
        except Killed:
            raise
        except BaseException:
            still.end()
            still.await_up()
            raise
        else:
            still.end()
            problems += still.await_up()

    def _back_up(self, volume: str, began: datetime) -> None:
        self.changed.add(volume)
        refs = list(self.repository.refs(host=HOST, volume=volume))
        ref = BackupRef(HOST, volume, new_backup_id(began, newest=refs[-1].id if refs else None))
        pack = f"{ref.id}.0000"
        for key in (pack_key(ref, pack), frames_key(ref), files_key(ref)):
            self._put(key)
        self.repository.writer(ref).put_manifest(self._manifest(ref, pack))
        self._name(f"manifests/{HOST}/{volume}/{ref.id}.json")
        self.made[volume].append(ref.time)
        self.ended[volume].append((self.now, ref.time))

    def _put(self, key: str) -> None:
        put(self.store, key, b"content")
        self._name(key)

    def _name(self, key: str) -> None:
        NAMES.setdefault(f"{key.rpartition('/')[0]}/", set()).add(key)

    def _manifest(self, ref: BackupRef, pack: str) -> Manifest:
        part = replace(self.template.packs[0], name=pack)
        volume = replace(self.template.volume, name=ref.volume, labels={})
        return replace(
            self.template,
            id=ref.id,
            host=HOST,
            volume=volume,
            packs=(part,),
            containers=(),
            started_at=ref.time,
        )

    def _prune(self, volume: str) -> None:
        self.changed.add(volume)
        prune_volume(
            self.repository, HOST, volume,
            keep=lambda found: CONFIG.keep_of(found, CONFIG.store_config), grace=Within("7d"), cache=None, dry_run=False,
        )  # fmt: skip
        for prefix in ("packs", "indexes", "manifests"):
            names = NAMES[f"{prefix}/{HOST}/{volume}/"]
            names &= self.store.contents.objects.keys()

    # Teller

    def tell(self, event: Event) -> None:
        if event.kind == "late":
            self.late_told[event.volume].append(event.at.wall)

    # the days

    def live(self, until: datetime, faults: list[tuple[datetime, str, Any]]) -> None:
        asked = self.now
        heapq.heapify(faults)
        while self.now < until:
            moments = [asked, until]
            if self.ends:
                moments.append(self.ends[0][0])
            if faults:
                moments.append(faults[0][0])
            self.now = max(self.now, min(moments))
            try:
                if faults and faults[0][0] <= self.now:
                    self._fault(*heapq.heappop(faults)[1:])
                while self.ends and self.ends[0][0] <= self.now:
                    self.end(heapq.heappop(self.ends)[2])
                again = self.recovering.step(self.moment)
                asked = self.moment.at(self.loop.step(self.moment))
                if again is not None:
                    asked = min(asked, self.moment.at(again))
            except Killed:
                self.now += self._killed()
                asked = self.now

    def _fault(self, what: str, argument: Any) -> None:
        if what == "kill":
            raise Killed
        if what == "kill in":
            self.kill_in = argument
        else:
            setattr(self, what, argument)

    def _killed(self) -> timedelta:
        self.kill_everything()
        self.start_daemon()
        return timedelta(seconds=self.noise.uniform(1, 600))


class _Scope:
    """The run's lock and directory, which a kill takes and leaves."""

    def __init__(self, state: Path) -> None:
        self._context = begin_run(state)
        self.run = self._context.__enter__()

    def close(self) -> None:
        self._context.__exit__(None, None, None)

    def kill(self) -> None:
        """The kernel drops the lock; the directory stays."""
        kept = self.run.directory.with_name("kept")
        self.run.directory.rename(kept)
        self.close()
        kept.rename(self.run.directory)


def replay(engine: Engine, state: Path, *, turn: bool = False) -> list[str]:
    """What could not be brought back. With `turn`, by a run that may have something stopped."""
    recovery = Recovery(state, cast("Any", None), lambda _: None, 0.0)
    if turn:
        recovery.with_the_turn(engine)
    else:
        recovery.on(engine)
    return [each.text for each in recovery.left]


def _drop(_logger: object, _name: str, _line: Any) -> Any:
    raise structlog.DropEvent


def random_faults(noise: random.Random, until: datetime) -> list[tuple[datetime, str, Any]]:
    found: list[tuple[datetime, str, Any]] = []

    def times(mean: timedelta) -> Iterator[datetime]:
        at = BEGIN
        while (at := at + mean * noise.expovariate(1)) < until:
            yield at

    found.extend((at, "kill", 0) for at in times(timedelta(hours=15)))
    found.extend((at, "kill in", noise.randint(1, 30)) for at in times(timedelta(hours=15)))
    for what, mean, longest in (("engine_down", 40, 2), ("store_down", 60, 10)):
        for at in times(timedelta(hours=mean)):
            found += [(at, what, True), (at + timedelta(hours=noise.uniform(0.01, longest)), what, False)]
    found.extend((until - timedelta(hours=1), what, False) for what in ("engine_down", "store_down"))
    return found


def _settings_once() -> Callable[[Config, Volume], VolumeSettings]:
    """A volume's, which stay the same for all the days: found out once, and not at each of a hundred thousand looks."""
    found: dict[str, VolumeSettings] = {}
    real = Config.settings_of

    def settings_of(config: Config, volume: Volume) -> VolumeSettings:
        if volume.name not in found:
            found[volume.name] = real(config, volume)
        return found[volume.name]

    return settings_of


@contextmanager
def quickly(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing waits for what nobody makes up."""
    monkeypatch.setattr(coming_back, "LONGER_SECONDS", -1)
    monkeypatch.setattr(coming_back, "STEADY_SECONDS", 0)
    monkeypatch.setattr(coming_back, "_SUCCESSOR_SECONDS", 0)
    monkeypatch.setattr(loops, "_LONGEST_LOOK", timedelta(hours=2))
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(Config, "settings_of", _settings_once())
    NAMES.clear()
    yield


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.long
@pytest.mark.parametrize("seed", [1])
def test_thirty_days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    with quickly(monkeypatch):
        world = World(tmp_path, seed)
        troubled = BEGIN + timedelta(days=DAYS - 2)
        faults = random_faults(random.Random(seed), troubled)
        world.live(BEGIN + timedelta(days=8), faults)
        files, memory = open_files() - len(world.running), resident_bytes()
        world.live(troubled, faults)
        assert open_files() - len(world.running) <= files
        assert resident_bytes() - memory < 30_000_000
        end = BEGIN + timedelta(days=DAYS)
        world.live(end, [])
        _check_backups(world, end)
        _check_retention(world)
        _check_containers(world)


def _check_backups(world: World, end: datetime) -> None:
    """Each as often as its schedule says, or told to be late."""
    for name, text in world.volumes.items():
        schedule = CONFIG.settings_of(world._volume(name)).schedule
        assert schedule is not None, text
        times = [*world.made[name], end]
        assert len(times) > 3, name
        for before, after in itertools.pairwise(times):
            first = schedule.after(before, UTC)
            assert first is not None
            second = schedule.after(first, UTC)
            assert second is not None
            if after > second + _SLACK:
                assert any(before < told <= after for told in world.late_told[name]), (name, before, after)
        for told in world.late_told[name]:
            newest = max((time for ended, time in world.ended[name] if ended < told), default=BEGIN)
            first = schedule.after(newest, UTC)
            assert first is not None
            assert told >= first, (name, told)
        # The last two days were calm: nothing is late any longer.
        last = schedule.after(world.made[name][-1], UTC)
        assert last is not None
        assert last > end - _SLACK, name
    assert world.loop.late == frozenset()


def _check_retention(world: World) -> None:
    keep = CONFIG.defaults.keep
    assert keep is not None
    for name, made in world.made.items():
        there = list(world.repository.refs(host=HOST, volume=name))
        assert there[-1].time == made[-1]
        verdicts = judge([(ref.id, ref.time.astimezone()) for ref in there], keep)
        assert all(verdict.kept for verdict in verdicts), name
        days = {time.date() for time in made}
        wanted = sorted(days)[-keep.daily :]
        assert {ref.time.astimezone().date() for ref in there} >= set(wanted), name
        packs = [info.key.rpartition("/")[2] for info in world.repository.objects("packs", HOST, name)]
        assert {ref.id for ref in there} <= {pack.partition(".")[0] for pack in packs}, name
        young = {time for time in made if time > made[-1] - timedelta(days=8)}
        assert len(packs) <= len(there) + len(young), name


def _check_containers(world: World) -> None:
    for run in list(world.running):
        world.end(run)
    assert replay(world.engine, world.state) == []
    down = [name for name, each in world.api.containers_.items() if each["State"]["Status"] != "running"]
    assert down == []
    with begin_run(world.state) as own:
        reap(world.engine, world.state, own.owner)
    assert [name for name in world.api.containers_ if name.startswith("helper")] == []
    assert list((world.state / "journal").glob("*.jsonl")) == []
    remove_dead(world.state)
    assert list((world.state / "runs").iterdir()) == []
