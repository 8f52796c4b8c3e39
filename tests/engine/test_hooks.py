"""Commands before and after a backup, and those whose output is a file of it."""

from __future__ import annotations

import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.engine.test_quiesce import large, state_of
from tests.parts.world import IDLE

if TYPE_CHECKING:
    from pathlib import Path

    from docker.models.containers import Container

    from tests.parts.world import World


def hook(when: str, line: str, **options: str) -> dict[str, str]:
    prefix = f"volferry.hook.{when}"
    return {prefix: line, **{f"{prefix}.{name}": value for name, value in options.items()}}


def marked(when: str) -> dict[str, str]:
    """A hook that leaves a line in the volume."""
    return hook(when, f"echo {when} $VOLFERRY_VOLUME $VOLFERRY_ERROR >>/data/log")


def log(world: World, volume: str) -> list[str]:
    path = world.data(volume) / "log"
    return path.read_text().split("\n")[:-1] if path.exists() else []


def backups(world: World) -> list[Path]:
    return world.objects("manifests")


def test_hooks_run_in_their_containers_before_and_after(world: World) -> None:
    volume = world.filled()
    world.container(volume, labels={**marked("pre"), **marked("post"), **marked("on-error")})
    world.cli("backup", volume).exits(0)
    assert log(world, volume) == [f"pre {volume}", f"post {volume}"]
    found = world.cli("export", volume).exits(0).raw
    members = subprocess.run(["tar", "-xO", "./log"], input=found, capture_output=True, check=False).stdout
    members = (
        members or subprocess.run(["tar", "-xO", "log"], input=found, capture_output=True, check=True).stdout
    )
    assert members.decode() == f"pre {volume}\n"


def test_a_hook_runs_as_its_user_with_its_timeout(world: World) -> None:
    volume = world.volume()
    world.data(volume).chmod(0o777)
    labels = hook("pre", ": >/data/mine", user="1234") | hook("post", "while :; do :; done", timeout="1s")
    world.container(volume, labels=labels)
    outcome = world.cli("backup", volume)
    outcome.fails_with("hook post", "longer than its timeout, 0:00:01")
    assert (world.data(volume) / "mine").stat().st_uid == 1234
    assert len(backups(world)) == 1  # which is a good one all the same


def test_a_pre_hook_that_fails_keeps_the_backup_from_being_made(world: World) -> None:
    volume, other = sorted([world.filled(), world.filled()])
    failing = hook("pre", "echo this will not do >&2; exit 7")
    container = world.container(volume, labels={**failing, **marked("post"), **marked("on-error")})
    before = state_of(container)
    outcome = world.cli("backup", volume, other, "--quiesce", "stop")
    outcome.exits(1)
    message = f"{volume}: hook pre of container {container.name} failed with status 7: this will not do"
    assert message in outcome.stderr
    error = message.partition(": ")[2]
    assert log(world, volume) == [f"on-error {volume} {error}", f"post {volume} {error}"]
    assert [path.parent.name for path in backups(world)] == [other]
    assert world.objects(f"packs/{world.host}/{volume}") == []
    assert state_of(container) == before


def test_after_a_failure_the_hooks_run_once_the_service_is_up(world: World) -> None:
    volume = world.filled()
    large(world, volume)
    container = world.container(
        volume, labels={**marked("on-error"), **marked("post")}, stop_signal="SIGKILL"
    )
    running = world.cli.start("backup", volume, "--quiesce", "stop")
    assert running.until(lambda: state_of(container)["Status"] == "exited")
    (helper,) = [each for each in world.own_containers() if each["State"] == "running"]
    world.client.api.kill(helper["Id"])
    running.outcome().exits(1)
    assert [line.split()[0] for line in log(world, volume)] == ["on-error", "post"]
    assert state_of(container)["Status"] == "running"


def test_post_runs_after_a_signal_and_by_the_next_run_after_a_kill(world: World, tmp_path: Path) -> None:
    volume = world.filled()
    large(world, volume)
    place = tmp_path / "host"
    config = tmp_path / "volferry.toml"
    config.write_text(f"[defaults]\nhooks = {{ post = 'echo $VOLFERRY_VOLUME >>{place}' }}\n")
    cli = world.cli.having(VOLFERRY_CONFIG=str(config))
    world.container(volume, labels=marked("post"))
    for number, codes in ((signal.SIGTERM, 130), (signal.SIGKILL, -9)):
        running = cli.start("backup", volume, "--full")
        # What the one before had listed is there from the start.
        assert running.until(lambda: world.reading_begins() and any(cli.state.glob("journal/*.jsonl")))
        running.send(number)
        running.outcome().exits(codes)
    assert len(log(world, volume)) == len(place.read_text().splitlines()) == 1
    outcome = world.cli("backup", world.filled()).exits(0)
    assert "had left to be run after it" in outcome.stderr
    assert len(log(world, volume)) == 2
    assert place.read_text() == f"{volume}\n" * 2
    assert list(world.cli.state.glob("journal/*.jsonl")) == []


def test_hooks_of_the_machine(world: World, tmp_path: Path) -> None:
    volume, place, config = world.filled(), tmp_path / "log", tmp_path / "volferry.toml"
    config.write_text(
        "[[rules]]\nmatch = '*'\n[rules.hooks]\n"
        f"pre = 'echo pre $VOLFERRY_VOLUME >>{place}'\n"
        f"post = 'echo post >>{place}'\non_error = 'echo error $VOLFERRY_ERROR >>{place}'\n"
    )
    cli = world.cli.having(VOLFERRY_CONFIG=str(config))
    cli("backup", volume).exits(0)
    assert place.read_text() == f"pre {volume}\npost\n"
    config.write_text(config.read_text().replace(f"pre $VOLFERRY_VOLUME >>{place}", "no good >&2; exit 9"))
    cli("backup", volume).fails_with("hook pre on this machine failed with status 9: no good")
    config.write_text("[defaults.hooks]\npre = 'sleep 60'\ntimeout = '1s'\n")
    cli("backup", volume).fails_with("hook pre on this machine took longer than its timeout, 0:00:01")


def test_labels_of_docker_volume_backup_are_understood(world: World) -> None:
    volume = world.filled()
    container = world.container(
        volume,
        stop_signal="SIGKILL",
        labels={
            "docker-volume-backup.stop-during-backup": "true",
            "docker-volume-backup.archive-pre": "/bin/sh -c 'echo before >>/data/log'",
            "docker-volume-backup.archive-post": "/bin/sh -c 'echo after >>/data/log'",
        },
    )
    before = state_of(container)["StartedAt"]
    (backup,) = world.cli("backup", volume, "--json").exits(0).json["backups"]
    assert backup["downtime_seconds"] > 0
    assert state_of(container)["StartedAt"] != before
    assert log(world, volume) == ["before", "after"]


@pytest.mark.parametrize(
    ("label", "value", "said"),
    [
        ("volferry.hook.before", "true", "did you mean"),
        ("volferry.shedule", "@daily", "did you mean 'volferry.schedule'"),
        ("volferry.hook.pre", " ", "is empty"),
        ("volferry.hook.pre", "[1]", "holds text only"),
        ("volferry.hook.pre", "[", "begins as a JSON list"),
        ("volferry.hook.timeout", "soon", "volferry.hook.timeout: a span has"),
        ("volferry.dump.no/slash", "true", "there is no label"),
    ],
)
def test_a_label_that_cannot_be_understood_is_refused_before_anything_is_done(
    world: World, label: str, value: str, said: str
) -> None:
    volume = world.filled()
    labels = {label: value} if "timeout" not in label else {label: value, "volferry.hook.pre": "true"}
    world.container(volume, labels=labels)
    world.cli("backup", volume).fails_with("container user-", said, code=2)
    assert not world.store.exists()


def dumping(world: World, volume: str, line: str, **more: str) -> Container:
    return world.container(volume, labels={"volferry.dump": line, **more})


def test_a_dump_is_a_file_of_the_backup(world: World, tmp_path: Path) -> None:
    volume = world.filled()
    dumping(
        world,
        volume,
        "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo line $i of $VOLFERRY_VOLUME; done",
        **{
            "volferry.dump.second": '["/bin/sh", "-c", "printf two"]',
            "volferry.dump.block": "printf %01024d 0",
        },
    )
    expected = "".join(f"line {number} of {volume}\n" for number in range(1, 20001)).encode()
    (backup,) = world.cli.backup(volume)
    assert backup["dumps"] == ["block", "dump", "second"]
    assert world.cli("export", volume, "--dump", "block").exits(0).raw == b"0" * 1024
    assert world.cli("export", volume, "--dump", "dump").exits(0).raw == expected
    world.cli("export", volume, "--dump", "dump", "-o", str(tmp_path / "out")).exits(0)
    assert (tmp_path / "out").read_bytes() == expected
    world.cli("restore", volume, "--dump", "second", "--to", str(tmp_path)).exits(0)
    assert (tmp_path / "second").read_text() == "two"
    world.cli("restore", volume, "--dump", "second", "--to", str(tmp_path)).fails_with("--replace", code=2)
    assert world.cli("restore", volume, "--dump", "second", "--to", "-").exits(0).raw == b"two"
    world.cli("export", volume, "--dump", "third").fails_with(
        "has no dump 'third': it has block, dump, second"
    )
    listed = world.cli("ls", volume, ".volferry/dumps").exits(0).stdout
    assert "dump" in listed
    assert "second" in listed
    assert "second" in world.cli("show", volume).exits(0).stdout
    world.cli("verify", volume, "--read").exits(0)


def test_a_dump_is_in_the_plain_tarball_and_not_in_a_restored_volume(world: World, tmp_path: Path) -> None:
    volume = world.filled(**{"-first": "1", "z": "2", ".volferry-not": "3"})
    dumping(world, volume, "printf content")
    world.cli.backup(volume)
    packs = b"".join(path.read_bytes() for path in world.objects("packs"))
    tar = subprocess.run(["zstd", "-dc"], input=packs, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x"], input=tar, cwd=tmp_path, check=True)
    assert (tmp_path / ".volferry" / "dumps" / "dump").read_text() == "content"
    other, directory = world.name(), tmp_path / "directory"
    restored = world.cli("restore", volume, "--into", other, "--json").exits(0).json
    assert sorted(path.name for path in world.data(other).iterdir()) == ["-first", ".volferry-not", "z"]
    assert restored["entries"] == 4
    world.cli("restore", volume, "--to", str(directory)).exits(0)
    assert sorted(path.name for path in directory.iterdir()) == ["-first", ".volferry-not", "z"]
    world.cli("restore", volume, "--dump", "dump", "--into", other).exits(0)
    assert (world.data(other) / ".volferry" / "dumps" / "dump").read_text() == "content"


def test_later_backups_have_the_dump_of_their_time_and_store_what_is_new_of_it(world: World) -> None:
    volume = world.filled()
    (world.data(volume) / "number").write_text("1")
    (world.data(volume) / "noise").write_bytes(b"".join(b"%d" % (i * i) for i in range(300_000)))
    dumping(world, volume, "read -r n </data/number; cat /data/noise; echo $n")
    (first,) = world.cli.backup(volume)
    (world.data(volume) / "number").write_text("2")
    (second,) = world.cli.backup(volume)
    for backup, number in ((first, b"1\n"), (second, b"2\n")):
        found = world.cli("export", f"{volume}@{backup['id']}", "--dump", "dump").exits(0).raw
        assert found.endswith(number)
    assert second["stored_bytes"] < first["stored_bytes"] / 2
    world.cli("verify", "--all", "--read").exits(0)
    assert "dump" in world.cli("diff", f"{volume}@{first['id']}", volume).stdout


def test_a_volume_that_has_such_a_directory_itself_keeps_it_where_there_is_no_dump(world: World) -> None:
    volume = world.filled()
    place = world.data(volume) / ".volferry" / "dumps"
    place.mkdir(parents=True)
    (place / "mine").write_text("mine")
    world.cli.backup(volume)
    other = world.name()
    world.cli("restore", volume, "--into", other).exits(0)
    assert (world.data(other) / ".volferry" / "dumps" / "mine").read_text() == "mine"
    dumping(world, volume, "printf theirs")
    world.cli.backup(volume)
    assert world.cli("ls", volume, ".volferry/dumps", "--json").exits(0).stdout.count("mine") == 0
    assert world.cli("export", volume, "--dump", "dump").exits(0).raw == b"theirs"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("echo half; echo no such database >&2; exit 3", "failed with status 3: no such database"),
        ("echo half; kill -9 $$", "failed with status 137"),
        ("true", "is empty"),
    ],
)
def test_a_dump_that_fails_is_a_failed_backup(world: World, line: str, said: str) -> None:
    volume = world.filled()
    container = dumping(world, volume, line)
    world.cli("backup", volume).fails_with(f"dump dump of container {container.name}", said)
    assert backups(world) == []
    assert world.own_containers() == []


def test_a_dump_whose_container_ends_meanwhile_is_a_failed_backup(world: World) -> None:
    volume = world.filled()
    container = dumping(world, volume, "echo begun; echo $$ >/data/begun; while :; do :; done")
    running = world.cli.start("backup", volume)
    assert running.until((world.data(volume) / "begun").exists)
    container.kill()
    running.outcome().fails_with("dump dump of container")
    assert backups(world) == []


@pytest.mark.parametrize("state", ["stopped", "created", "paused"])
def test_of_a_service_that_is_off_the_files_are_backed_up_and_the_dump_is_a_finding(
    world: World, state: str
) -> None:
    volume = world.filled()
    container = world.container(
        volume, state, labels={"volferry.dump": "printf x", "volferry.hook.pre": "false"}
    )
    done = world.cli("backup", volume, "--json").exits(3)
    (made,) = done.json["backups"]
    word = "exited" if state == "stopped" else state
    detail = f"dump dump was not taken: container {container.name} is {word}"
    assert made["findings"] == [{"kind": "undumped", "path": "", "detail": detail}]
    assert (made["dumps"], made["findings_total"]) == ([], 1)
    assert detail in world.cli("show", volume).exits(0).stdout
    assert "one" in world.cli("ls", volume).exits(0).stdout


def test_a_dump_belongs_to_the_volumes_that_its_container_writes_or_to_the_one_that_it_names(
    world: World,
) -> None:
    first, second, third = world.filled(), world.filled(), world.filled()
    mounts = [f"{first}:/one", f"{second}:/two", f"{third}:/three:ro"]
    world.container(
        first,
        volumes=mounts,
        command=IDLE,
        labels={
            "volferry.dump": "printf all",
            "volferry.dump.own": "printf own",
            "volferry.dump.own.volume": "/two",
        },
    )
    found = {backup["volume"]: backup["dumps"] for backup in world.cli.backup(first, second, third)}
    assert found == {first: ["dump"], second: ["dump", "own"], third: []}


def test_a_container_that_does_not_run_or_another_of_the_service_is_no_reason_to_back_up_nothing(
    world: World,
) -> None:
    volume = world.filled()
    service = {"com.docker.compose.project": "shop", "com.docker.compose.service": "db"}
    labels = {"volferry.dump": "printf it", **service}
    for number, state in enumerate(["running", "running", "stopped"]):
        world.container(volume, state, labels=labels, name=f"{volume}-{number}")
    world.container(volume, labels={**labels, "com.docker.compose.oneoff": "True"})
    (backup,) = world.cli.backup(volume)
    assert backup["dumps"] == ["dump"]
    assert world.cli("export", volume, "--dump", "dump").exits(0).raw == b"it"
    world.container(volume, labels={"volferry.dump": "printf another"})
    world.cli("backup", volume).fails_with("has a dump 'dump' too", code=2)


def test_a_warm_backup_has_the_dump_too(world: World) -> None:
    volume = world.filled()
    container = dumping(
        world, volume, "printf content", **{"volferry.quiesce": "stop", "volferry.warm": "true"}
    )
    (backup,) = world.cli("backup", volume, "--json").exits(0).json["backups"]
    assert backup["downtime_seconds"] > 0
    assert state_of(container)["Status"] == "running"
    assert world.cli("export", volume, "--dump", "dump").exits(0).raw == b"content"
    world.cli("verify", volume, "--read").exits(0)


SECRET = "hunter2-battery"
IN_ENVIRONMENT = "correct-horse"


@pytest.mark.parametrize(
    "line",
    [
        f"set -x; cat -p{SECRET} /there",
        f"set -v\ncat -p{SECRET} /there; exit 3",
        f"PGPASSWORD={SECRET}x cat '{SECRET}'; exit 3",
        f"cat -p$MARIADB_ROOT /there-{SECRET}",
        f"true\n./nothing {SECRET}",
        f'set -x; cat "-p$MARIADB_ROOT" /{SECRET}',
        f'["{SECRET} -p"]',
        f"if '{SECRET}",
    ],
)
def test_secrets_of_commands_are_nowhere(world: World, tmp_path: Path, line: str) -> None:
    volume, other, config = world.filled(), world.filled(), tmp_path / "volferry.toml"
    told = f"echo \"$VOLFERRY_ERROR\" >>'{tmp_path}/told'"
    toml = "'''" + (line if not line.startswith("[") else f"cat -p {SECRET}") + "'''"
    config.write_text(
        f"[[rules]]\nmatch = '*'\n[rules.hooks]\non_error = '''{told}'''\n"
        f"[[rules]]\nmatch = '{other}'\n[rules.hooks]\npre = {toml}\npost = {toml}\non_error = '''{told}'''\n"
    )
    cli = world.cli.having(VOLFERRY_CONFIG=str(config), MARIADB_ROOT=IN_ENVIRONMENT)
    outcomes = []
    for label in ("volferry.hook.pre", "volferry.dump", "volferry.hook.post"):
        container = world.container(
            volume, labels={label: line}, environment={"MARIADB_ROOT": IN_ENVIRONMENT}
        )
        outcomes.append(cli("backup", volume).exits(1))
        assert f"of container {container.name} failed" in outcomes[-1].stderr
        container.remove(force=True)
    outcomes.append(cli("backup", other, "--json").exits(1))
    assert "hook pre on this machine failed" in outcomes[-1].stderr
    outcomes += [
        cli("status", "--json").exits(1),
        cli("status"),
        cli("show", volume, "--json"),
        cli("recover"),
    ]
    said = "".join(each.stdout + each.stderr for each in outcomes).encode()
    places = [*world.store.rglob("*"), *cli.state.rglob("*"), tmp_path / "told"]
    kept = b"".join(path.read_bytes() for path in places if path.is_file())
    assert b"failed" in kept
    for secret in (SECRET, IN_ENVIRONMENT, "battery", "hunter2"):
        assert secret.encode() not in said
        assert secret.encode() not in kept


def test_what_is_no_secret_of_an_error_is_said(world: World) -> None:
    volume = world.filled()
    world.container(
        volume, labels=hook("pre", f"set -x; cat -- {SECRET}"), environment={"PGPASSWORD": IN_ENVIRONMENT}
    )
    world.cli("backup", volume).fails_with("failed with status 1: cat: …: No such file or directory")
