"""The daemon: volumes are backed up when they are due, and it ends well."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import docker
import pytest

from tests.engine.test_quiesce import await_true, large, state_of, writing
from tests.parts.engine import private_engine
from tests.parts.s3_servers import free_ports
from tests.parts.schedules import due_now
from tests.parts.world import world_of
from volferry.archive.restore_mark import KnownMarks, digest_of
from volferry.archive.sealed import seal, unseal
from volferry.history import History
from volferry.model import time_of_id
from volferry.repository import Repository
from volferry.stores.local import LocalStore
from volferry.upkeep import UpkeepLog
from volferry.verification_log import VerificationLog
from volferry.volume_lock import volume_lock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.parts.cli import Running
    from tests.parts.world import World

LOG = '[daemon]\nlog = "json"\nlisten = "off"\n'
DUE = {"volferry.schedule": "@yearly"}  # at once, for there is no backup yet, and then not again
_STOP_SECONDS = 10


def scheduled_now() -> dict[str, str]:
    """Labels by which the first backup is in time, and stops also what has only just started."""
    return {"volferry.schedule": due_now(), "volferry.quiesce-after": "0s"}


@pytest.fixture
def config(world: World, tmp_path: Path) -> Path:
    """Its file."""
    path = tmp_path / "volferry.toml"
    path.write_text(LOG)
    world.cli = world.cli.having(VOLFERRY_CONFIG=str(path))
    return path


@pytest.fixture
def daemon(world: World, config: Path) -> Iterator[Running]:
    del config
    running = world.cli.start("daemon")
    yield running
    running.end()


def replace(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


def backups(world: World, volume: str) -> int:
    return len(list((world.store / "manifests").rglob(f"{volume}/*.json")))


def ended(running: Running) -> list[dict[str, str]]:
    """What it said, until it ended well."""
    began = time.monotonic()
    running.send(signal.SIGTERM)
    outcome = running.outcome().exits(0)
    assert time.monotonic() - began < _STOP_SECONDS
    return [json.loads(line) for line in outcome.stderr.splitlines()]


def test_what_is_due_is_backed_up_and_what_comes_later_too(world: World, config: Path) -> None:
    scheduled = world.volume(labels=DUE)
    others = [
        world.volume(),
        world.volume(labels={**DUE, "volferry.enable": "false"}),
        world.volume("0" * 64, labels={**DUE, "com.docker.volume.anonymous": ""}),
    ]
    wrong = world.volume(labels={"volferry.schedule": "now and then"})
    daemon = world.cli.start("daemon")
    assert daemon.until(lambda: backups(world, scheduled) == 1)
    later = world.volume(labels=DUE)
    assert daemon.until(lambda: backups(world, later) == 1)
    by_container = world.volume()
    world.container(by_container, labels=DUE)
    assert daemon.until(lambda: backups(world, by_container) == 1)
    # A change of the configuration is noticed; a wrong one is said, and does no harm.
    replace(config, '[daemon]\nlog = "xml"\n')
    daemon.send(signal.SIGHUP)
    time.sleep(0.5)  # nothing else shows that it was read
    meanwhile = world.volume(labels=DUE)
    assert daemon.until(lambda: backups(world, meanwhile) == 1)
    replace(config, f'{LOG}[defaults]\nschedule = "@yearly"\n')
    assert daemon.until(lambda: backups(world, others[0]) == 1)
    lines = ended(daemon)
    assert [backups(world, each) for each in (scheduled, later, *others[1:], wrong)] == [1, 1, 0, 0, 0]
    assert [line["error"] for line in lines if "the one before stays" in line["event"]] == [
        f"{config}: daemon.log: expected 'console' or 'json', got 'xml'"
    ]
    left_out = [line for line in lines if line["event"] == "a volume is left out"]
    assert {line["volume"] for line in left_out} == {wrong}
    assert "label volferry.schedule: 'now and then' has 3 fields" in left_out[0]["error"]
    assert len([line for line in lines if line["event"] == "a run begins"]) == 5
    assert world.own_containers() == []


def test_a_run_that_fails_is_said_and_tried_again_later(world: World, daemon: Running) -> None:
    volume = world.volume(
        labels={**DUE, "volferry.exclude": "ok"}, options={"type": "none", "o": "bind", "device": "/nowhere"}
    )
    good = world.volume(labels=DUE)
    assert daemon.until(lambda: backups(world, good) == 1)
    lines = ended(daemon)
    every = [line for line in lines if line["event"] == "the run failed"]
    for failed in every:
        assert failed["volume"] == volume
        assert f"volume {volume} cannot be mounted" in failed["error"]
        assert failed["again"]
    # On a machine that is busy enough, it is tried again within the test, and no earlier than it said.
    times = [datetime.fromisoformat(failed["timestamp"]) for failed in every]
    assert times
    for number, (one, next_one) in enumerate(pairwise(times)):
        assert next_one - one >= timedelta(minutes=2**number), every


def test_a_run_is_stopped_with_the_daemon_and_its_service_is_up(world: World, config: Path) -> None:
    del config
    volume = world.volume(labels={**scheduled_now(), "volferry.quiesce": "stop"})
    large(world, volume)
    container = writing(world, volume)
    daemon = world.cli.start("daemon")  # not before: it would back up what is not there yet
    assert daemon.until(lambda: state_of(container)["Status"] == "exited")
    ended(daemon)
    assert state_of(container)["Status"] == "running"
    assert world.own_containers() == []
    assert backups(world, volume) == 0


@pytest.mark.parametrize("end", ["2>/dev/full", "2> >(exec true)"])
def test_a_log_that_cannot_be_written_ends_nothing(world: World, config: Path, end: str) -> None:
    volume = world.volume(labels=scheduled_now())
    large(world, volume, 30)
    container = world.container(volume, stop_signal="SIGKILL", labels={"volferry.quiesce": "stop"})
    script = f'exec {end}; sleep 0.2; exec "{sys.executable}" -m volferry daemon'
    with subprocess.Popen(
        ["bash", "-c", script], env=world.cli.environment, start_new_session=True
    ) as daemon:
        try:
            await_true(lambda: outcome_of(world, volume) == "done")
            later = world.volume(labels=DUE)
            await_true(lambda: outcome_of(world, later) == "done")
            assert state_of(container)["Status"] == "running"
            daemon.terminate()
            assert daemon.wait(30) == 0
        finally:
            daemon.kill()


def outcome_of(world: World, volume: str) -> str | None:
    """Of its last run."""
    last = History(world.cli.state).last().get(volume)
    return last.outcome if last is not None else None


def test_the_first_backup_of_a_new_service_does_not_stop_it(world: World, config: Path) -> None:
    del config
    volume = world.volume(labels={**DUE, "volferry.quiesce": "stop"})
    container = writing(world, volume)
    before = state_of(container)["StartedAt"]
    daemon = world.cli.start("daemon")
    assert daemon.until(lambda: backups(world, volume) == 1)
    lines = ended(daemon)
    assert state_of(container)["StartedAt"] == before
    (said,) = [line for line in lines if line["event"] == "nothing is stopped for it"]
    assert (said["volume"], said["why"]) == (volume, "it is the first backup, and outside of the schedule")
    assert world.cli("show", volume, "--json").exits(0).json["consistency"] == "none"


def test_what_a_power_failure_left_down_is_brought_back(world: World, config: Path) -> None:
    volume = world.volume(labels={**DUE, "volferry.quiesce": "stop"})
    large(world, volume)
    container = writing(world, volume)
    run = world.cli.start("backup", volume)
    assert run.until(lambda: state_of(container)["Status"] == "exited")
    run.send(signal.SIGKILL)
    run.outcome()
    assert state_of(container)["Status"] == "exited"
    daemon = world.cli.start("daemon")
    assert daemon.until(lambda: backups(world, volume) == 1)
    assert state_of(container)["Status"] == "running"
    ended(daemon)
    assert config.exists()


def test_what_a_run_that_dies_beside_the_daemon_left_down_is_brought_back_at_once(
    world: World, config: Path
) -> None:
    del config
    other, volume = world.volume(labels=DUE), world.volume()
    large(world, volume)
    container = writing(world, volume)
    daemon = world.cli.start("daemon")
    assert daemon.until(lambda: backups(world, other) == 1)
    run = world.cli.start("backup", volume, "--quiesce", "stop")
    assert run.until(lambda: state_of(container)["Status"] == "exited")
    run.send(signal.SIGKILL)
    run.outcome()
    assert state_of(container)["Status"] == "exited"
    assert daemon.until(lambda: state_of(container)["Status"] == "running")
    assert daemon.until(lambda: not list(world.cli.state.glob("journal/*.jsonl")))
    lines = ended(daemon)
    said = [line["line"] for line in lines if line.get("command") == "recover"]
    assert f"bringing back what an interrupted run had stopped: {container.name}" in said
    assert [line["volume"] for line in lines if line["event"] == "a run begins"] == [other]


def test_a_wrong_configuration_ends_it_before_it_begins(world: World, config: Path) -> None:
    config.write_text('[daemon]\ntimezone = "Middle/Earth"\n')
    world.cli("daemon").fails_with("daemon.timezone: there is no time zone 'Middle/Earth'", code=2)


@dataclass
class Told:
    """A web server that keeps what it is asked for."""

    asked: list[tuple[str, str]] = field(default_factory=list)

    def __enter__(self) -> Self:
        told = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                told.asked.append((self.path, body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def paths(self, prefix: str) -> list[str]:
        return [path for path, _ in self.asked if path.startswith(prefix)]


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except URLError:
        return 0, ""


def test_metrics_health_pings_messages_and_status(world: World, config: Path) -> None:
    good = world.volume("good", labels=scheduled_now())
    world.volume("bad", labels=DUE, options={"type": "none", "o": "bind", "device": "/nowhere"})
    container = writing(world, good, labels={"volferry.quiesce": "stop", "volferry.dump": "printf content"})
    (port,) = free_ports(1)
    with Told() as told:
        config.write_text(
            f'{LOG.replace("off", f"127.0.0.1:{port}")}[defaults]\nping = "{told.url}/ping/x?y=1"\n'
            f'[notify]\nurls = ["json://{told.url[7:]}/message"]\non = ["failure", "success"]\n'
            'title = "{host}: {what}"\nbody = "{event} {volume} {error}"\n'
        )
        daemon = world.cli.start("daemon")
        assert daemon.until(lambda: len(told.paths("/ping")) >= 4 and len(told.paths("/message")) >= 2)
        assert get(port, "/healthz") == (200, "ok\n")
        assert get(port, "/readyz") == (200, "ok\n")
        assert get(port, "/other")[0] == 404
        text = get(port, "/metrics")[1]
        status = world.cli("status", "--json").exits(1).json  # one has failed
        world.cli("status", "--health").exits(0)
        replace(config, "[daemon]\nlog = 1\n")  # refused: the daemon goes on, and is as well as before
        world.cli("status", "--health").exits(0)
        lines = ended(daemon)
        world.cli("status", "--health").fails_with("does not answer")
        config.write_text(LOG.replace("off", f"127.0.0.1:{port}"))
        afterwards = world.cli("status", "--json").exits(1)
    assert (status["daemon_answers"], afterwards.json["daemon_answers"]) == (True, False)
    assert f"no daemon answers at 127.0.0.1:{port}" in afterwards.stderr
    assert sorted(told.paths("/ping")) == [
        "/ping/x/fail?y=1", "/ping/x/start?y=1", "/ping/x/start?y=1", "/ping/x?y=1"
    ]  # fmt: skip
    messages = {
        json.loads(body)["message"].split()[0]: json.loads(body)
        for path, body in told.asked
        if "message" in path
    }
    assert messages["failure"]["title"] == f"{world.host}: bad: the backup failed"
    assert "volume bad cannot be mounted" in messages["failure"]["message"]
    assert messages["success"]["title"] == f"{world.host}: good: the backup is done"
    values = {
        line.partition(" ")[0]: float(line.split()[-1]) for line in text.splitlines() if line[:1] != "#"
    }
    now = time.time()
    assert now - 60 < values['volferry_last_success_timestamp_seconds{volume="good"}'] <= now
    assert 'volferry_last_success_timestamp_seconds{volume="bad"}' not in values
    assert values['volferry_last_backup_downtime_seconds{volume="good"}'] > 0
    assert values['volferry_last_run_success{volume="bad"}'] == 0
    assert values['volferry_runs_total{outcome="done",volume="good"}'] == 1
    assert values['volferry_late{volume="good"}'] == 0
    # The time of an hour that has just come may be about to be looked at.
    assert values['volferry_next_run_timestamp_seconds{volume="good"}'] > now - 60
    assert values["volferry_ready"] == 1
    assert values["process_open_fds"] > 3
    rows = {row["volume"]: row for row in status["volumes"]}
    assert rows["good"]["last"]["outcome"] == "done"
    assert rows["bad"]["last"]["outcome"] == "failed"
    assert (
        rows["good"]["last"]["downtime_seconds"]
        == values['volferry_last_backup_downtime_seconds{volume="good"}']
    )
    assert rows["good"]["next"] > rows["bad"]["next"]
    assert rows["good"]["late"] is rows["bad"]["late"] is False
    assert status["running"] == []
    runs = {
        line["run"]
        for line in lines
        if line["event"] in {"a run begins", "a command says", "a run has ended"}
    }
    assert {run["run"] for run in status["recent"]} == runs
    assert state_of(container)["Status"] == "running"


def aged(world: World, volume: str, old: str = "20200101T000000Z-0a1b2c") -> str:
    """Gives its only backup another id, such as one of years ago, and returns that."""
    for path in [*world.objects("manifests"), *world.objects("indexes")]:
        if path.parent.name == volume:
            aged_path = path.with_name(f"{old}.{path.name.partition('.')[2]}")
            path.rename(aged_path)
            if path.suffix == ".json":
                manifest = unseal(aged_path.read_bytes())
                began = min(manifest["started_at"], time_of_id(old).isoformat())
                manifest |= {"id": old, "started_at": began}
                aged_path.write_bytes(seal(manifest))
    return old


def test_a_suspicious_backup_is_told_with_what_is_held(world: World, config: Path) -> None:
    volume = world.filled("emptied")
    world.cli("backup", volume).exits(0)
    good = aged(world, volume)
    for path in world.data(volume).iterdir():
        path.unlink()
    with Told() as told:
        config.write_text(
            f'{LOG}[defaults]\nschedule = "@yearly"\nkeep = {{ last = 1 }}\n'
            f'[notify]\nurls = ["json://{told.url[7:]}/message"]\nbody = "{{event}} {{volume}} {{error}}"\n'
        )
        daemon = world.cli.start("daemon")
        assert daemon.until(lambda: bool(told.paths("/message")))
        ended(daemon)
    message = json.loads(told.asked[0][1])["message"]
    assert message.startswith("suspicious emptied shrunk: from 3 to 1 entries, from 2 to 0 bytes")
    assert f"{good} is held until" in message
    assert "`volferry accept emptied`" in message
    kept = world.cli("list", volume, "--json").exits(0).json["backups"]
    assert good in {each["id"] for each in kept}


def test_a_backup_of_a_wrong_clock_makes_no_volume_less_late(world: World) -> None:
    volume = world.volume("vol", labels={"volferry.schedule": "@daily"})
    world.cli.backup(volume)
    aged(world, volume, "20990101T000000Z-0a1b2c")

    def row() -> dict[str, Any]:
        (found,) = world.cli("status", "--json").exits(0, 1).json["volumes"]
        return dict(found)

    assert not row()["late"]  # the store knows when it got it
    in_2099 = datetime(2099, 1, 1, tzinfo=UTC).timestamp()
    for manifest in world.objects("manifests"):
        os.utime(manifest, (in_2099, in_2099))
    before = time.time() - 3 * 86400
    with contextlib.closing(sqlite3.connect(world.cli.state / "history.sqlite")) as history, history:
        history.execute("UPDATE seen SET first = ?", (before,))
    assert row()["late"]
    world.cli("status").exits(1)
    world.cli.backup(volume)
    assert not row()["late"]


def test_status_is_of_the_store_that_is_asked_for(world: World, config: Path, tmp_path: Path) -> None:
    del config
    volume = world.filled()
    world.cli.backup(volume)
    (tmp_path / "file").touch()
    mistyped = str(tmp_path / "file")
    world.cli("backup", volume, "--store", mistyped).exits(1)
    (row,) = world.cli("status", "--json").exits(0).json["volumes"]
    assert (row["last"]["outcome"], row["last"]["store"]) == ("done", str(world.store))
    assert "failed" in world.cli("status", "--store", mistyped).exits(1).stdout


def test_a_backup_that_is_refused_because_of_another_one_is_no_failed_run(world: World, config: Path) -> None:
    del config
    volume = world.filled()
    world.cli.backup(volume)
    (lock,) = world.cli.state.glob(f"stores/*/*/{volume}/lock")
    with volume_lock(lock.parent, volume):
        refused = world.cli("backup", volume, "--json").exits(1)
    assert [(each["volume"], each["busy"]) for each in refused.json["failed"]] == [(volume, True)]
    (row,) = world.cli("status", "--json").exits(0).json["volumes"]
    assert row["last"]["outcome"] == "done"


def test_status_ends_with_1_after_a_run_that_failed_as_long_as_its_volume_is_there(
    world: World, config: Path
) -> None:
    del config
    volume = world.volume(options={"type": "none", "o": "bind", "device": "/nowhere"})
    world.cli("backup", volume).exits(1)
    assert "failed" in world.cli("status").exits(1).stdout
    world.remove(volume)
    assert "failed" in world.cli("status").exits(0).stdout


def test_status_knows_schedules_and_volumes_where_the_store_is_gone(
    world: World, config: Path, tmp_path: Path
) -> None:
    del config
    due, other, removed = world.volume("due", labels=DUE), world.volume("other"), world.volume("removed")
    world.cli.backup(due, other)
    never = world.volume("never", labels=DUE)
    engine = digest_of(world.client.info()["ID"])
    store = Repository.open(LocalStore(world.store)).id
    for volume in (other, removed):
        marks = KnownMarks(volume=volume, engine=engine)  # of another machine
        mark = marks.sealed("host/vol@20261127T222016Z-0dd092", store, datetime.now(UTC))
        (world.data(volume) / ".volferry-restore-in-progress").write_text(mark)
        world.cli("backup", volume).exits(1)
    world.remove(removed)
    world.store.rename(tmp_path / "elsewhere")
    status = world.cli("status").exits(1)
    rows = {line.split()[0]: line for line in status.stdout.splitlines()}
    assert rows[due].endswith(" ?")
    assert rows[never].endswith(" ?")
    assert rows[other].endswith(" not scheduled")
    (gone,) = [line for line in status.stdout.splitlines() if line.startswith(f"{removed}: ")]
    assert "the volume is gone since" in gone
    assert "it holds" not in gone
    assert len([line for line in status.complaints if "there was a store at" in line]) == 1


def test_status_says_what_runs_and_what_was_interrupted(world: World, config: Path) -> None:
    del config
    volume = world.volume(labels=DUE)
    large(world, volume)
    running = world.cli.start("backup", volume)
    assert running.until(world.reading_begins)
    assert [run["volume"] for run in world.cli("status", "--json").exits(0).json["running"]] == [volume]
    running.send(signal.SIGKILL)
    running.outcome()
    status = world.cli("status", "--json").exits(1).json
    assert status["running"] == []
    assert status["volumes"][0]["last"]["outcome"] == "interrupted"
    said = world.cli("status").exits(1).stdout
    assert volume in said
    assert "interrupted" in said


def test_a_unix_socket_and_a_port_that_is_taken(world: World, config: Path) -> None:
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory) / "http.sock"
        config.write_text(LOG.replace("off", f"unix:{place}"))
        daemon = world.cli.start("daemon")
        assert daemon.until(place.exists)
        assert place.stat().st_mode & 0o777 == 0o600
        assert daemon.until(lambda: world.cli("status", "--health").code == 0)
        world.cli("daemon").fails_with(f"another daemon works with the state directory {world.cli.state}")
        ended(daemon)
        assert not place.exists()


def test_a_port_that_is_taken_is_said_and_tried_again_and_backups_go_on(world: World, config: Path) -> None:
    volume = world.volume(labels=DUE)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config.write_text(LOG.replace("off", f"127.0.0.1:{port}"))
        daemon = world.cli.start("daemon")
        assert daemon.until(lambda: backups(world, volume) == 1)
    assert daemon.until(lambda: get(port, "/healthz") == (200, "ok\n"))
    assert daemon.until(lambda: "the daemon can be asked again" in daemon.so_far)
    said = [line["event"] for line in ended(daemon)]
    assert said.count("nobody can ask the daemon: backups go on") == 1
    assert "the daemon can be asked again" in said


def test_the_health_of_a_daemon_that_listens_nowhere(world: World, config: Path) -> None:
    del config
    world.cli("status", "--health").fails_with("no daemon works with the state directory")
    daemon = world.cli.start("daemon")
    assert daemon.until(lambda: world.cli("status", "--health").code == 0)
    daemon.send(signal.SIGKILL)
    daemon.outcome()
    world.cli("status", "--health").fails_with("no daemon works with the state directory")


def test_an_engine_that_restarts_and_a_store_that_is_away_end_nothing(tmp_path: Path) -> None:
    with private_engine() as private:
        client = docker.DockerClient(base_url=private.docker_host, timeout=120)
        with world_of(private, client, tmp_path) as world:
            path = tmp_path / "volferry.toml"
            path.write_text(LOG)
            world.cli = world.cli.having(VOLFERRY_CONFIG=str(path))
            first = world.volume(labels=DUE)
            daemon = world.cli.start("daemon")
            assert daemon.until(lambda: backups(world, first) == 1)
            client.close()  # what it has open would end with the engine
            private.kill()
            time.sleep(3)
            private.start()
            second = world.volume(labels=DUE)
            assert daemon.until(lambda: backups(world, second) == 1, 120)
            world.store.rename(tmp_path / "away")
            world.store.mkdir()
            third = world.volume(labels=DUE)
            daemon.send(signal.SIGHUP)
            time.sleep(3)
            assert list(world.store.iterdir()) == []  # nothing is made where a store was
            world.store.rmdir()
            (tmp_path / "away").rename(world.store)
            daemon.send(signal.SIGHUP)
            assert daemon.until(lambda: backups(world, third) == 1, 120)
            ended(daemon)
        client.close()


def test_a_store_that_vanishes_is_no_store_without_backups(
    world: World, config: Path, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    config.write_text(LOG.replace("off", f"127.0.0.1:{port}"))
    volume = world.volume(labels=DUE)
    daemon = world.cli.start("daemon")
    assert daemon.until(lambda: backups(world, volume) == 1 and get(port, "/readyz")[0] == 200)
    world.store.rename(tmp_path / "away")
    world.volume()  # each change is looked at
    assert daemon.until(lambda: get(port, "/readyz")[0] == 503)
    assert "there was a store at" in get(port, "/readyz")[1]
    (tmp_path / "away").rename(world.store)
    world.volume()
    assert daemon.until(lambda: get(port, "/readyz")[0] == 200)
    assert [line["volume"] for line in ended(daemon) if line["event"] == "a run begins"] == [volume]


def test_systemd_is_told(world: World, config: Path) -> None:
    del config
    with (
        tempfile.TemporaryDirectory() as directory,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener,
    ):
        listener.bind(f"{directory}/notify")
        listener.settimeout(60)
        daemon = world.cli.having(NOTIFY_SOCKET=f"{directory}/notify").start("daemon")
        assert listener.recv(100) == b"READY=1"
        assert listener.recv(100) == b"WATCHDOG=1"
        ended(daemon)
        listener.settimeout(0)
        said = []
        with contextlib.suppress(BlockingIOError):
            while True:
                said.append(listener.recv(100))
        assert said[-1] == b"STOPPING=1"


def test_a_copy_that_was_interrupted_is_made_up_for_and_status_and_metrics_know(
    world: World, config: Path, tmp_path: Path
) -> None:
    volume, replica = world.filled("vol", file="content"), tmp_path / "replica"
    (port,) = free_ports(1)
    config.write_text(
        f'host = "host"\n{LOG.replace("off", f"127.0.0.1:{port}")}'
        f'[stores.main]\nurl = "{world.store}"\n[stores.offsite]\nurl = "{replica}"\nreplica_of = "main"\n'
    )
    world.cli = world.cli.having(VOLFERRY_STORE="main")
    world.cli("backup", volume).exits(0)
    UpkeepLog(world.cli.state).owe([str(replica)], "host", volume)  # as a daemon that was killed has left it
    daemon = world.cli.start("daemon")
    assert daemon.until(
        lambda: get(port, "/metrics")[1].count("volferry_last_copy_success_timestamp_seconds{") == 1
    )
    text = get(port, "/metrics")[1]
    lines = ended(daemon)
    assert 'volferry_failing_copies{store="offsite"} 0.0' in text
    assert [line["store"] for line in lines if line["event"] == "a copy is made up for"] == ["offsite"]
    assert [path.name for path in replica.glob("manifests/host/vol/*.json")]
    (copied,) = world.cli("status", "--json").exits(0).json["copies"]
    assert (copied["store"], copied["volume"], copied["owed"]) == ("offsite", volume, False)


def test_a_share_of_the_store_is_verified_and_damage_is_told_and_healed(world: World, config: Path) -> None:
    volume = world.volume("vol")
    (world.data(volume) / "noise").write_bytes(os.urandom(3 << 20))
    (first,) = world.cli.backup(volume)
    (pack,) = (world.store / "packs").rglob("*.zst")
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.write_bytes(data)
    (port,) = free_ports(1)
    with Told() as told:
        config.write_text(
            f'{LOG.replace("off", f"127.0.0.1:{port}")}[verify]\nschedule = "@yearly"\ndays = 1\n'
            f'[notify]\nurls = ["json://{told.url[7:]}/message"]\nbody = "{{event}} {{volume}} {{error}}"\n'
        )
        daemon = world.cli.start("daemon")
        assert daemon.until(lambda: told.paths("/message"))
        text = get(port, "/metrics")[1]
        status = world.cli("status", "--json").exits(1)
        lines = ended(daemon)
    (message,) = [json.loads(body)["message"] for path, body in told.asked if "message" in path]
    assert message.startswith("failure vol vol@")
    assert pack.name in message
    values = {
        line.partition(" ")[0]: float(line.split()[-1]) for line in text.splitlines() if line[:1] != "#"
    }
    assert values['volferry_hurt_backups{volume="vol"}'] == 1
    assert values['volferry_last_verified_timestamp_seconds{volume="vol"}'] <= time.time()
    assert values["volferry_verify_late"] == 0
    (done,) = [line for line in lines if line["event"] == "a share of the store was verified"]
    assert str(done["hurt"]) == "1"
    verify = status.json["verify"]
    assert (verify["last"]["outcome"], verify["late"]) == ("hurt", False)
    assert verify["last"]["read_bytes"] == verify["last"]["total_bytes"] > 3 << 20
    (row,) = status.json["volumes"]
    assert [(each["id"], each["damaged"]) for each in row["not_whole"]] == [
        (first["id"], [str(pack.relative_to(world.store))])
    ]
    assert any(pack.name in line for line in status.complaints)
    world.cli("restore", volume, "--into", "restored").fails_with(pack.name)
    assert not world.exists("restored")
    world.cli.backup(volume)
    world.cli("verify", volume, "--read").exits(0)
    world.cli("restore", volume, "--into", "restored").exits(0)
    assert (world.data("restored") / "noise").read_bytes() == (world.data(volume) / "noise").read_bytes()


def test_a_lost_pack_is_found_by_a_share_that_is_not_read_again_before_it_is_due(
    world: World, config: Path
) -> None:
    volume = world.volume("vol")
    (world.data(volume) / "noise").write_bytes(os.urandom(1 << 20))
    world.cli.backup(volume)
    (pack,) = (world.store / "packs").rglob("*.zst")
    kept = pack.rename(pack.with_suffix(".kept"))
    size = kept.stat().st_size
    config.write_text(f'{LOG}[verify]\nschedule = "@yearly"\ndays = 1\n')
    daemon = world.cli.start("daemon")
    log = VerificationLog(world.cli.state)
    assert daemon.until(lambda: log.last_done() is not None)
    found = log.last_done()
    assert found is not None
    assert (found.outcome, found.total_bytes > 0, found.read_bytes < size) == ("hurt", True, True)
    ended(daemon)
    assert log.recent(9) == [found]
