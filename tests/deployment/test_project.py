"""A compose project of a web server, a database under continuous writes and a cache, with volferry: it is backed up by its labels alone,
comes back from its backups, and is up again whatever happens.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import docker
import pytest

from tests.engine.test_quiesce import await_true, state_of
from tests.parts.commands import executed, tried
from tests.parts.compose import Project
from tests.parts.engine import private_engine
from tests.parts.schedules import due_now
from tests.parts.services_image import import_services
from tests.parts.world import World, world_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docker.models.containers import Container

    from tests.parts.own_image import OwnImage

FOLDER = Path(__file__).resolve().parent
CONFIG = FOLDER.parents[1] / "config"
SERVICES_IMAGE = "volferry-test-services"
SERVICES = ("web", "db", "writer", "cache")
HERE = """
services:
  volferry:
    network_mode: none
"""
SOCKET = "/run/postgresql"
QUERY = ("psql", "--host", SOCKET, "--no-align", "--tuples-only", "--command")
ANSWERS = {
    "web": ("python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000')"),
    "cache": ("redis-cli", "ping"),
    "volferry": ("volferry", "status", "--health"),
}
START = (
    "test -s $PGDATA/PG_VERSION || initdb --auth=trust --no-locale --encoding=UTF8 --no-sync; "
    f"exec postgres -c listen_addresses= -c unix_socket_directories={SOCKET}"
)
TIMES = int(os.environ.get("PLUGS_PULLED", "10"))


@pytest.fixture(scope="module")
def world(own_image: OwnImage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """An engine of these tests' own, which can be killed."""
    with private_engine() as private:
        own_image.load(private)
        client = docker.DockerClient(base_url=private.docker_host, timeout=120)
        import_services(client, SERVICES_IMAGE)
        with world_of(private, client, tmp_path_factory.mktemp("world")) as mine:
            yield mine
        client.close()


@pytest.fixture(scope="module")
def project(world: World, own_image: OwnImage) -> Iterator[Project]:
    """The application is up, and has data; volferry is not up before the first test has it so."""
    here = world.directory / "here.yaml"
    here.write_text(HERE)
    found = Project(
        world.engine,
        world.client,
        "shop",
        [CONFIG / "compose.yaml", here, FOLDER / "project.yaml"],
        {
            "VOLFERRY_IMAGE": own_image.load(world.engine),
            "SERVICES_IMAGE": SERVICES_IMAGE,
            "DUE": due_now(),
            "DOCKER_SOCKET": world.engine.docker_host.removeprefix("unix://"),
        },
    )
    found("up", "--detach", *SERVICES)
    await_true(lambda: committed(found)[0] > 0)
    yield found
    found("kill")  # nothing of it is looked at any longer
    found.down()


def rows(world: World, database: Container, last: int) -> int:
    """How many there are up to the one with that number."""
    query = f"select count(*) from events where id <= {last}"  # noqa: S608 -- a number
    return int(executed(world.engine, database, *QUERY, query, "postgres"))


def committed(project: Project) -> tuple[int, int]:
    """How many rows, and the last one's number; none while the database cannot be asked."""
    query = "select count(*), coalesce(max(id), 0) from events"
    code, said = tried(project.engine, project.container("db"), *QUERY, query, "postgres")
    if code:
        return 0, 0
    count, last = said.split("|")
    return int(count), int(last)


@contextmanager
def database(world: World, volume: str) -> Iterator[Container]:
    """One on that volume, once it answers."""
    container = world.client.containers.run(
        SERVICES_IMAGE,
        ["sh", "-c", START],
        user="postgres",
        network_mode="none",
        volumes=[f"{volume}:/var/lib/postgresql/data"],
        detach=True,
    )

    def answers() -> bool:
        assert state_of(container)["Status"] == "running", container.logs().decode()
        return tried(world.engine, container, "pg_isready", "--quiet", "--host", SOCKET)[0] == 0

    try:
        await_true(answers)
        yield container
    finally:
        container.remove(force=True, v=True)


def is_up(project: Project) -> bool:
    """Everything runs and answers, and the database takes writes."""
    if any(state_of(project.container(each))["Status"] != "running" for each in (*SERVICES, "volferry")):
        return False
    for service, command in ANSWERS.items():
        if tried(project.engine, project.container(service), *command)[0]:
            return False
    before = committed(project)[1]
    return bool(before) and committed(project)[1] > before


def await_up(project: Project) -> None:
    """Says what is not, and what the daemon has said, where it takes too long."""
    try:
        await_true(lambda: is_up(project))
    except AssertionError as error:
        states = {each: state_of(project.container(each)) for each in (*SERVICES, "volferry")}
        log = project.container("volferry").logs(tail=60).decode()
        raise AssertionError(f"{json.dumps(states, indent=1)}\n{log}") from error


def manifests(project: Project, volume: str) -> list[Path]:
    store = project.engine.data_root / "volumes" / project.volume("backups") / "_data"
    return list(store.glob(f"manifests/*/{project.volume(volume)}/*.json"))


def test_a_backup_holds_every_row_that_was_committed_before_it_began(world: World, project: Project) -> None:
    count, last = committed(project)
    project("up", "--detach")
    await_true(lambda: all(manifests(project, volume) for volume in ("www", "pgdata", "cache")))
    await_true(lambda: is_up(project))
    volferry, pgdata = project.container("volferry"), project.volume("pgdata")
    manifest = json.loads(executed(world.engine, volferry, "volferry", "show", pgdata, "--json"))
    assert manifest["consistency"] == "stop"
    assert manifest["downtime_seconds"] > 0

    copy = world.name()
    executed(world.engine, volferry, "volferry", "restore", pgdata, "--into", copy)
    with database(world, copy) as restored:
        assert rows(world, restored, last) == count

    dump = executed(world.engine, volferry, "volferry", "export", pgdata, "--dump", "dump", "--output", "-")
    with database(world, world.volume()) as empty:
        executed(world.engine, empty, "pg_restore", "--host", SOCKET, "--dbname", "postgres", given=dump)
        assert rows(world, empty, last) == count


@pytest.mark.timeout(600)
def test_the_project_is_up_again_whenever_the_plug_is_pulled(world: World, project: Project) -> None:
    seed = random.randrange(1 << 32)
    print("seed:", seed)
    moments = random.Random(seed)
    project("up", "--detach")
    await_true(lambda: is_up(project))
    volumes = [project.volume(each) for each in ("pgdata", "cache", "www")]
    for time in range(TIMES):
        count, last = committed(project)
        running = subprocess.Popen(
            ["docker", "exec", str(project.container("volferry").name), "volferry", "backup", *volumes],
            env={**os.environ, "DOCKER_HOST": world.engine.docker_host},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if time % 2:  # while the database is stopped
            await_true(lambda: state_of(project.container("db"))["Status"] == "exited")
        with suppress(subprocess.TimeoutExpired):
            running.wait(moments.uniform(0, 0.7 if time % 2 else 2.5))
        world.engine.pull_the_plug()
        running.wait()
        world.engine.start()
        # Without `up`, it is the restart policies, and volferry's journal for what it had stopped.
        if time % 3 == 0:
            project("up", "--detach")
        await_up(project)
        assert rows(world, project.container("db"), last) == count
    executed(world.engine, project.container("volferry"), "volferry", "backup", *volumes)
    await_true(lambda: world.own_containers() == [])
    state = world.engine.data_root / "volumes" / project.volume("state") / "_data"
    assert list(state.glob("journal/*.jsonl")) == []
