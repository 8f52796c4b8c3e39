"""Backups to, and restores from, a server behind a network that drops, flips, stalls and truncates."""

from __future__ import annotations

import os
import shutil
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.parts.fault_proxy import FaultProxy, fault_proxy
from tests.parts.local_helper import LocalVolume
from volferry.errors import VolferryError
from volferry.observer import Silent
from volferry.operations.backup_reader import BackupReader
from volferry.operations.verify import Verifier
from volferry.repository import Repository
from volferry.stores import s3, s3_client
from volferry.stores.s3 import S3Store
from volferry.stores.s3_client import make_client as _make_client

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from tests.parts.s3_servers import S3Server, Servers
    from volferry.store_config import StoreConfig

RUNS = int(os.environ.get("FAULT_RUNS", "40"))  # as many as one has patience for
RUNS_A_TEST = 10
_NEW_AGAIN = 0.3
ATTEMPTS = 6  # of a person who runs it again


@pytest.fixture
def server(s3_server: Servers) -> S3Server:
    return s3_server("seaweedfs")


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits in earnest waits for moments here: the faults are as many, and the test is short."""
    monkeypatch.setattr(s3_client, "_FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(s3_client, "_READ_SECONDS", 1)
    # A client takes longer to make than a backup.
    monkeypatch.setattr(s3_client, "make_client", make_client)
    monkeypatch.setattr(s3, "_FOREIGN_UPLOAD", timedelta(seconds=-5))


_clients: dict[str, Any] = {}


def make_client(settings: StoreConfig) -> Any:
    """One for each endpoint."""
    endpoint = str(settings.endpoint)
    if endpoint not in _clients:
        _clients[endpoint] = _make_client(settings)
    return _clients[endpoint]


def content(noise: random.Random, data: Path) -> None:
    """More than a part of it new, at first."""
    for number in range(3):
        (data / f"file{number}").write_bytes(noise.randbytes(noise.choice([100, 50_000, 400_000])))
    if not (data / "large").exists() or noise.random() < _NEW_AGAIN:
        (data / "large").write_bytes(noise.randbytes(6 << 20))


def tar_of(repository: Repository, ref: Any, spool: Path) -> bytes:
    return b"".join(BackupReader(repository, ref, spool=spool).tar_stream())


@pytest.mark.long
@pytest.mark.parametrize("first", range(0, RUNS, RUNS_A_TEST))
def test_whatever_the_network_does_nothing_is_lost_or_wrongly_called_good(
    server: S3Server, tmp_path: Path, first: int
) -> None:
    bucket = server.bucket()
    backups = runs = 0
    with fault_proxy(server.endpoint, first) as proxy:
        # Which request meets a fault depends on their order, too: a few more runs where there were hardly any.
        while runs < RUNS_A_TEST or (proxy.faults <= RUNS_A_TEST / 2 and runs < 3 * RUNS_A_TEST):
            seed = first + runs
            runs += 1
            proxy.noise.seed(seed)
            place = tmp_path / str(seed)
            backups += one_run(server, proxy, f"s3://{bucket}/{seed}", place)
            shutil.rmtree(place)
        assert proxy.faults > RUNS_A_TEST / 2
    assert server.unfinished(bucket) == 0
    assert backups >= 2 * runs - max(2, runs // 5), "most runs should get through in the end"


def one_run(server: S3Server, proxy: FaultProxy, url: str, place: Path) -> int:
    """Two backups, each tried until it is there; returns how many are."""
    (place / "data").mkdir(parents=True)
    volume = LocalVolume(place / "data", place / "state", pack_bytes=4 << 20)
    straight = S3Store(server.settings(url), state=place / "straight")
    settings = server.settings(url, endpoint=proxy.endpoint, parallel_parts=2)
    streams: dict[str, bytes] = {}
    for _ in range(2):
        content(proxy.noise, volume.data)
        for _ in range(ATTEMPTS):
            try:
                repository, _ = Repository.open_or_create(S3Store(settings, state=place / "state"))
                ref = volume.back_up(repository).ref
            except VolferryError:
                continue
            streams[ref.id] = tar_of(Repository.open(straight), ref, place)
            for name in ("file0", "large"):
                assert (volume.data / name).read_bytes() in streams[ref.id]
            try:
                assert tar_of(repository, ref, place) == streams[ref.id]
            except VolferryError:  # it may fail, and must not be wrong
                pass
            break
    found = Repository.open(straight)
    verifier = Verifier(found, read=True, spool=place, observer=Silent())
    refs = list(found.refs())
    assert {ref.id for ref in refs} >= streams.keys()
    for ref in refs:
        assert verifier.verify(ref).findings == ()
    straight.abort_uploads()
    return len(streams)
