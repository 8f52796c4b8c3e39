"""Fixtures every kind of test may ask for: a private Docker engine and a client on it."""

from __future__ import annotations

import gc
import os
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import docker
import pytest

from tests.parts.botocore_data import read_once
from tests.parts.editions import EDITIONS, NEWEST, chosen_edition
from tests.parts.engine import PrivateEngine, private_engine
from tests.parts.mount_namespace import enter_own
from tests.parts.s3_servers import SERVERS, S3Server, Servers
from tests.parts.sftp_servers import SFTP_SERVERS, SftpServer, SftpServers
from tests.parts.sshd import Sshd, sshd_at

if TYPE_CHECKING:
    from collections.abc import Iterator


read_once()
enter_own()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each of pytest-xdist's workers begins with its part of the long tests: one that comes last would run alone."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    long = [item for item in items if item.get_closest_marker("long")]
    others = iter([item for item in items if not item.get_closest_marker("long")])
    total = len(items)
    ordered: list[pytest.Item] = []
    for worker in range(workers):
        first = long[worker::workers]
        # as `worksteal` divides them
        share = (total - len(ordered)) // (workers - worker)
        ordered += [*first, *islice(others, max(0, share - len(first)))]
    items[:] = [*ordered, *others]


def pytest_collection_finish() -> None:
    """What was imported and collected stays: looking for cycles in it would be done all over again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def engine() -> Iterator[PrivateEngine]:
    """A Docker engine of this test process's own."""
    with private_engine() as private:
        yield private


@pytest.fixture(scope="session")
def docker_client(engine: PrivateEngine) -> Iterator[docker.DockerClient]:
    """A client of the private engine."""
    client = docker.DockerClient(base_url=engine.docker_host, timeout=120)
    try:
        yield client
    finally:
        client.close()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Servers]:
    """S3 servers of this test process's own, by name, each started when it is first asked for."""
    with ExitStack() as stack:
        found: dict[str, S3Server] = {}

        def server(name: str) -> S3Server:
            if name not in found:
                # Not where tests have their own: these keep all that is ever written.
                place = Path(
                    stack.enter_context(TemporaryDirectory(dir="/var/tmp", prefix=f"volferry-{name}-"))
                )
                found[name] = stack.enter_context(SERVERS[name](place))
            return found[name]

        yield server


@pytest.fixture(scope="session")
def sftp_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SftpServers]:
    """SFTP servers of this test process's own, by name, each started when it is first asked for."""
    with ExitStack() as stack:
        found: dict[str, SftpServer] = {}

        def server(name: str) -> SftpServer:
            if name not in found:
                place = tmp_path_factory.mktemp(f"sftp-{name}")
                found[name] = stack.enter_context(SFTP_SERVERS[name](place))
            return found[name]

        yield server


@pytest.fixture(scope="session")
def other_engine() -> Iterator[PrivateEngine]:
    """One of another machine."""
    with private_engine() as private:
        yield private


@pytest.fixture(scope="session")
def unlike_engine() -> Iterator[PrivateEngine]:
    """One of another edition than the tests are run on."""
    other = "docker-20.10" if chosen_edition().name == NEWEST else NEWEST
    with private_engine(edition=EDITIONS[other]) as private:
        yield private


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """By which this machine is another one."""
    with sshd_at(tmp_path_factory.mktemp("sshd")) as found:
        yield found
