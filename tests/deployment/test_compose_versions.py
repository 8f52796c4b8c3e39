"""A project of each Compose that people have: backed up by its name, restored after all of it is gone, and taken up again with no question asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.engine.test_every_engine import in_container
from tests.engine.test_quiesce import await_true, state_of
from tests.parts.compose import Project

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.parts.world import World

pytestmark = pytest.mark.timeout(240)

FILE = """
services:
  db:
    image: {image}
    network_mode: none
    stop_signal: SIGKILL
    stdin_open: true
    command: [sh, -c, "echo from the database >/data/up; while read -r _; do :; done"]
    healthcheck: {{test: [CMD, cat, /data/up], interval: 1s}}
    volumes: [pgdata:/data]
  app:
    image: {image}
    network_mode: none
    stop_signal: SIGKILL
    stdin_open: true
    command: [sh, -c, "while read -r _; do :; done"]
    depends_on: {{db: {{condition: service_healthy, restart: true}}}}
    volumes: [pgdata:/data, files:/files]
  worker:
    image: {image}
    network_mode: none
    stop_signal: SIGKILL
    stdin_open: true
    command: [sh, -c, "while read -r _; do :; done"]
    volumes: [files:/files]
  job:
    image: {image}
    network_mode: none
    profiles: [sometimes]
    command: [cat, /files/precious]
    volumes: [files:/files]
volumes:
  pgdata: {{}}
  files:
    driver_opts: {{type: none, o: bind, device: "{device}"}}
"""
# What Compose says before it deletes a volume, or asks whether it may.
RECREATES = ("data will be lost", "recreate", "Recreate")


@pytest.fixture(params=["2.26", "2.40", pytest.param("5", marks=pytest.mark.engines)])
def project(request: pytest.FixtureRequest, world: World, tmp_path: Path) -> Iterator[Project]:
    (tmp_path / "files").mkdir()
    file = tmp_path / "compose.yaml"
    text = FILE.format(image=world.image, device=tmp_path / "files")
    # Where systemd is not the first process, nobody runs Podman's health checks.
    if world.engine.edition.program == "podman":
        text = text.replace("service_healthy", "service_started")
    if world.engine.edition.remapped:  # whose users may not make a mount of a directory
        text = text.replace(
            'driver_opts: {type: none, o: bind, device: "%s"}' % (tmp_path / "files"), "labels: {}"
        )
    file.write_text(text)
    found = Project(
        world.engine, world.client, f"shop{request.param.replace('.', '')}", [file], version=request.param
    )
    try:
        found("up", "--detach", "--scale", "worker=2")
        yield found
    finally:
        found("down", "--volumes")


def running(world: World, project: Project) -> list[str]:
    label = f"com.docker.compose.project={project.name}"
    found = world.client.containers.list(filters={"label": label})
    return sorted(each.labels["com.docker.compose.service"] for each in found)


@pytest.mark.parametrize("options", [(), ("--with-options",)], ids=["plain", "as it was"])
def test_what_was_restored_is_taken_up_with_no_question_asked(
    world: World, project: Project, tmp_path: Path, options: tuple[str, ...]
) -> None:
    # By containers: on some engines, root of the machine is none of their users.
    in_container(world, project.volume("files"), "printf precious >/data/precious")
    in_container(world, project.volume("pgdata"), "printf rows >/data/rows")
    before = running(world, project)
    assert before == ["app", "db", "worker", "worker"]
    began = state_of(project.container("db"))["StartedAt"]
    world.cli("backup", "--project", project.name, "--quiesce", "stop").exits(0)
    assert running(world, project) == before
    assert state_of(project.container("db"))["StartedAt"] != began
    project("down", "--volumes")
    for each in (tmp_path / "files").iterdir():
        each.unlink()
    world.cli("restore", "--project", project.name, *options).exits(0)
    for confirmed in (("--yes",), ()) if project.version != "2.26" else ((),):
        said = project.run("up", "--detach", "--scale", "worker=2", *confirmed).stderr
        assert not any(word in said.replace("Recreated", "") for word in RECREATES[:2]), said
        await_true(lambda: running(world, project) == before)
        assert in_container(world, project.volume("pgdata"), "cat /data/rows") == b"rows"
        assert "precious" in project("run", "--rm", "job")
        project("down")
