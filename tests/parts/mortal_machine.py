"""A machine that shares stores with others, and whose volferry is killed with SIGKILL at random moments and begun anew.

It has a state directory and a volume of its own, and backs up, prunes, forgets and copies in random order, under the
locks that the commands take. Run as `python -m tests.parts.mortal_machine JSON`, with the fields of `Machine`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock
from zlib import crc32

from blake3 import blake3

from tests.parts.local_helper import LocalVolume
from volferry.archive.groups import BOUNDARY_ONE_IN
from volferry.errors import NoSuchObject, VolumeBusy
from volferry.lost_manifests import LOST_MANIFEST
from volferry.manifest_cache import ManifestCache
from volferry.observer import Silent
from volferry.operations.copy import copy_volume
from volferry.operations.prune import prune_volume
from volferry.operations.stored_volumes import stored_volumes
from volferry.repository import Repository
from volferry.retention import Keep, Within
from volferry.stores.local import LocalStore
from volferry.volume_lock import volume_lock

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from volferry.model import BackupRef
    from volferry.repository import BackupWriter

VOLUME = "vol"
MAIN = "main"
GRACE = Within("7d")
KEPT = {False: Keep(last=3), True: Keep(last=1)}  # by whether it is a replica
_LONGEST_LIFE_SECONDS = 1.0

_FILE_BYTES = 30_000
_CONTENTS = 16  # few: files of several backups, and of several machines, have frames in common
# Each ends a group: it has a frame of its own, which later backups can refer to.
_NAMES = [
    name
    for name in (f"file{number}" for number in range(1000))
    if crc32(name.encode()) % BOUNDARY_ONE_IN == 0
]


@dataclass(frozen=True, slots=True)
class Machine:
    shared: str  # directory with the stores, and what machines note
    name: str
    host: str
    seed: int
    days_behind: int  # its clock
    seconds: float  # it runs

    def json(self) -> str:
        return json.dumps(asdict(self))

    def run(self) -> int:
        """One life after another; 1 as soon as one ends by itself."""
        noise = random.Random(self.seed)
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            seed = noise.random()
            process = os.fork()
            if process == 0:
                Life(self, random.Random(seed)).live()
            time.sleep(min(noise.uniform(0, _LONGEST_LIFE_SECONDS), max(0, end - time.monotonic())))
            os.kill(process, signal.SIGKILL)
            _, status = os.waitpid(process, 0)
            if os.WIFEXITED(status):
                return 1
            note(Path(self.shared), self.name, "killed")
        return 0


def replica_of(machine: str) -> str:
    """The name of the store that it alone copies to, and all prune."""
    return f"replica-{machine}"


def note(shared: Path, machine: str, what: str, *about: object) -> None:
    """A line in one write: whole or not there, whenever the process is killed."""
    line = " ".join([what, *map(str, about)])
    with (shared / f"{machine}.notes").open("ab", buffering=0) as file:
        file.write(f"{line}\n".encode())


class _Noting(Repository):
    """Says what it is about to hold, before anything of it is stored, and what it is about to forget."""

    def __init__(
        self,
        store: LocalStore,
        store_id: str,
        *,
        holding: Callable[[BackupRef], None],
        forgetting: Callable[[BackupRef], None],
    ) -> None:
        super().__init__(store, store_id)
        self._holding = holding
        self._forgetting = forgetting

    def writer(self, ref: BackupRef) -> BackupWriter:
        self._holding(ref)
        return super().writer(ref)

    def forget(self, ref: BackupRef) -> bool:
        self._forgetting(ref)
        return super().forget(ref)


class Life:
    """Of one process."""

    def __init__(self, machine: Machine, noise: random.Random) -> None:
        self._machine = machine
        self._noise = noise
        self._shared = Path(machine.shared)
        self._own = self._shared / machine.name
        self._volume = LocalVolume(
            self._own / "data",
            self._own / "state",
            name=VOLUME,
            host=machine.host,
            pack_bytes=_FILE_BYTES,
            settings={"suspicious": False},  # its files come and go all at once
        )

    def live(self) -> NoReturn:
        try:
            with self._clock_behind():
                self._work()
        except BaseException:  # noqa: BLE001 -- a fork must not go on as its parent
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(1)

    def _work(self) -> None:
        self._volume.data.mkdir(parents=True, exist_ok=True)
        self._main = self._noting(LocalStore(self._shared / MAIN))
        works = (
            [self._back_up] * 5
            + [self._prune] * 2
            + [self._forget, self._copy, self._copy, self._prune_replica]
        )
        machine = os.getppid()
        while os.getppid() == machine:  # whoever ends that need not know of this process
            work = self._noise.choice(works)
            # A child that is between fork and exec when its parent is killed has the lock for a moment longer.
            with suppress(VolumeBusy):
                work()

    def _noting(self, store: LocalStore) -> Repository:
        return _Noting(
            store,
            Repository.open(store).id,
            holding=self._note_content,
            forgetting=lambda ref: self._note("forgets", ref),
        )

    def _clock_behind(self) -> ExitStack:
        behind = timedelta(days=self._machine.days_behind)

        class Behind(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return datetime.now(tz) - behind

        with ExitStack() as stack:
            for module in ("operations.backup",):
                stack.enter_context(mock.patch(f"volferry.{module}.datetime", Behind))
            return stack.pop_all()

    def _back_up(self) -> None:
        for _ in range(self._noise.randint(0, 3)):
            path = self._volume.data / self._noise.choice(_NAMES[:8])
            content = blake3(b"%d" % self._noise.randrange(_CONTENTS)).digest(length=_FILE_BYTES)
            path.write_bytes(content)
            os.utime(path, (0, 0))  # it stands in the frame, which is to be the same for the same content
        self._main.store.clean()
        stats = self._volume.back_up(self._main)
        assert stats.findings_total == 0, stats.findings
        self._note("done", stats.ref.host, stats.ref.id)

    def _note_content(self, ref: BackupRef) -> None:
        content = {path.name: blake3(path.read_bytes()).hexdigest() for path in self._volume.data.iterdir()}
        (self._shared / "contents" / ref.id).write_text(json.dumps(content))

    def _prune(self) -> None:
        self._prune_all(self._main, KEPT[False])

    def _prune_replica(self) -> None:
        name = self._noise.choice(sorted(self._shared.glob(replica_of("*"))))
        self._prune_all(self._noting(LocalStore(name)), KEPT[True])

    def _prune_all(self, repository: Repository, keep: Keep) -> None:
        for host, volume in stored_volumes(repository):
            try:
                with volume_lock(self._state(repository) / host / volume, volume):
                    pruned = prune_volume(
                        repository,
                        host,
                        volume,
                        keep=lambda _: keep,
                        grace=GRACE,
                        cache=self._cache(repository),
                        dry_run=False,
                    )
            except NoSuchObject:  # another machine forgot a backup between being listed and being read
                self._note("outrun")
                continue
            unexplained = [each for each in pruned.problems if not self._is_half_forgotten(each)]
            assert not unexplained, unexplained
            self._note("pruned", len(pruned.forgotten), len(pruned.packs))
        repository.store.abort_uploads()

    def _is_half_forgotten(self, problem: str) -> bool:
        """Another machine that knew the backup cannot tell one from a lost manifest, until who was killed there comes back to it."""
        begun = {
            line.split()[1]
            for path in self._shared.glob("*.notes")
            for line in path.read_text().splitlines()
            if line.startswith("forgets ")
        }
        return LOST_MANIFEST in problem and any(f"forget {ref}`" in problem for ref in begun)

    def _forget(self) -> None:
        host = self._noise.choice(self._main.hosts() or [self._machine.host])
        older = list(self._main.refs(host=host, volume=VOLUME))[:-1]
        if older:
            with volume_lock(self._state(self._main) / host / VOLUME, VOLUME):
                self._main.forget(self._noise.choice(older))

    def _copy(self) -> None:
        target = Repository.open(LocalStore(self._shared / replica_of(self._machine.name)))
        target.store.clean()
        for host in self._main.hosts():
            with volume_lock(self._state(target) / host / VOLUME, VOLUME):
                copying = copy_volume(
                    self._main,
                    target,
                    host,
                    VOLUME,
                    keep=lambda _: KEPT[True],
                    source_cache=self._cache(self._main),
                    target_cache=self._cache(target),
                    observer=Silent(),
                )
            there = {str(ref) for ref in self._main.refs()}
            failed = {name: why for name, why in copying.failed.items() if name in there}
            assert not failed, failed
            for ref in copying.copied:
                self._note("copied", ref)

    def _state(self, repository: Repository) -> Path:
        return self._volume.state / "stores" / repository.id

    def _cache(self, repository: Repository) -> ManifestCache:
        return ManifestCache(self._state(repository) / "manifests.sqlite")

    def _note(self, what: str, *about: object) -> None:
        note(self._shared, self._machine.name, what, *about)


if __name__ == "__main__":
    sys.exit(Machine(**json.loads(sys.argv[1])).run())
