"""Processes that share a store in a directory, and no lock: whenever they are killed, what is listed restores."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from blake3 import blake3

from tests.parts.mortal_machine import MAIN, VOLUME, Machine, replica_of
from volferry.errors import VolferryError
from volferry.layout import pack_key
from volferry.observer import Silent
from volferry.operations.backup_reader import BackupReader
from volferry.operations.verify import Verifier
from volferry.repository import Repository
from volferry.stores.local import LocalStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from volferry.model import BackupRef

PROJECT = Path(__file__).resolve().parents[2]
NAMES = ("a", "b", "c")  # of machines
ROUND_SECONDS = 1.5
# Between rounds: a dead run's checkpoint is gone on from; then all is older than the grace period.
DAYS = (2, 9)
_DAY_NS = 86_400 * 10**9


class Shared:
    """What the machines share, looked at from outside."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "contents").mkdir(parents=True)
        self.main, *self.replicas = (
            Repository.open_or_create(LocalStore(directory / name))[0]
            for name in (MAIN, *map(replica_of, NAMES))
        )

    @property
    def repositories(self) -> list[Repository]:
        return [self.main, *self.replicas]

    def notes(self) -> list[list[str]]:
        return [
            line.split() for path in self.directory.glob("*.notes") for line in path.read_text().splitlines()
        ]

    @contextmanager
    def machines(self, hosts: tuple[str, ...], noise: random.Random, days_behind: int) -> Iterator[None]:
        """They run meanwhile, and end by themselves."""
        processes = []
        for name, host in zip(NAMES, hosts, strict=True):
            machine = Machine(
                str(self.directory), name, host, noise.randrange(1 << 32), days_behind, ROUND_SECONDS
            )
            command = [sys.executable, "-m", "tests.parts.mortal_machine", machine.json()]
            processes.append(subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.PIPE, text=True))
        self.at_work = processes
        try:
            yield
        finally:
            errors = [process.communicate()[1] for process in processes]
        for process, error in zip(processes, errors, strict=True):
            assert process.returncode == 0, error

    @property
    def any_at_work(self) -> bool:
        return any(process.poll() is None for process in self.at_work)

    # --- what must hold -------------------------------------------------------------------------------

    def look(self, noise: random.Random) -> None:
        """Whatever is at work: all backups of a store have what they need, and one of them restores."""
        repository = noise.choice(self.repositories)
        refs = list(repository.refs())
        for ref in refs:
            with self.unless_forgotten(repository, ref):
                repository.check_objects(ref, repository.manifest(ref))
        if refs:
            self.restores(repository, noise.choice(refs))

    def restores(self, repository: Repository, ref: BackupRef) -> None:
        with (
            self.unless_forgotten(repository, ref),
            tempfile.TemporaryDirectory(dir=self.directory) as spool,
            io.BytesIO(b"".join(BackupReader(repository, ref, spool=Path(spool)).tar_stream())) as stream,
            tarfile.open(fileobj=stream) as tar,
        ):
            found = {
                Path(member.name).name: blake3(file.read()).hexdigest()
                for member in tar
                if (file := tar.extractfile(member)) is not None
            }
            assert found == json.loads((self.directory / "contents" / ref.id).read_text()), str(ref)

    @contextmanager
    def unless_forgotten(self, repository: Repository, ref: BackupRef) -> Iterator[None]:
        """Its manifest goes first: a backup that lists has lost nothing yet."""
        try:
            yield
        except VolferryError as error:
            if ref in set(repository.refs(host=ref.host, volume=ref.volume)):
                raise AssertionError(f"{ref} is listed in {repository.store.url}, and damaged") from error

    def all_restore(self) -> None:
        """While nothing is at work."""
        for repository in self.repositories:
            verifier = Verifier(repository, read=True, spool=self.directory, observer=Silent())
            for ref in repository.refs():
                assert verifier.verify(ref).findings == ()
                self.restores(repository, ref)

    def none_is_lost(self) -> None:
        """A backup that was done is there, or a newer one is."""
        newest = {ref.host: ref.id for ref in self.main.refs()}
        for what, *about in self.notes():
            if what == "done":
                host, backup = about
                assert backup <= newest.get(host, ""), f"{host}/{VOLUME}@{backup} was done"

    # --- time -----------------------------------------------------------------------------------------

    def pass_days(self, days: int, *, one_host: bool) -> None:
        """Everything gets older; of machines that share a name, not what the rules for deleting do not protect."""
        spared = {(self.main.id, key) for key in self._of_newest()} if one_host else set()
        for repository in self.repositories:
            for info in repository.store.list(""):
                if (repository.id, info.key) not in spared:
                    path = Path(repository.store.url) / info.key
                    time_ns = path.stat().st_mtime_ns - days * _DAY_NS
                    os.utime(path, ns=(time_ns, time_ns))

    def _of_newest(self) -> Iterator[str]:
        """Built upon by a backup, it can be forgotten meanwhile: once another machine has made a newer one."""
        for newest in list(self.main.refs(volume=VOLUME))[-1:]:
            yield from (pack_key(newest, pack.name) for pack in self.main.manifest(newest).packs)


@pytest.mark.long
@pytest.mark.parametrize("hosts", [NAMES, ("one",) * len(NAMES)], ids=["hosts", "one-host"])
@pytest.mark.parametrize("seed", [1])
def test_whoever_is_killed_what_is_listed_restores(tmp_path: Path, hosts: tuple[str, ...], seed: int) -> None:
    noise, looks = random.Random(seed), random.Random(seed)  # how often is looked is not repeatable
    shared = Shared(tmp_path)
    for number in range(len(DAYS) + 1):
        with shared.machines(hosts, noise, days_behind=sum(DAYS[number:])):
            while shared.any_at_work:
                shared.look(looks)
        shared.all_restore()
        shared.none_is_lost()
        if number < len(DAYS):
            shared.pass_days(DAYS[number], one_host=len(set(hosts)) == 1)

    # On a busy machine less is done in the time, and less of it can be asked for.
    counts = Counter(what for what, *_ in shared.notes())
    assert counts["killed"] > len(NAMES), counts
    assert any((tmp_path / "contents").iterdir()), "no backup was begun"
