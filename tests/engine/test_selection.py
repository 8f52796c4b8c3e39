"""Which volumes a command takes, what it says, and that a mistake makes nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.parts.world import World

PROJECT = "com.docker.compose.project"
BROKEN = {"type": "none", "o": "bind", "device": "/nowhere/at/all"}


def assert_nothing_was_made(world: World, volumes: set[str]) -> None:
    assert not world.store.exists()
    assert world.own_containers() == []
    assert world.volumes() == volumes


def names_of(backups: list[dict[str, object]]) -> list[object]:
    return [each["volume"] for each in backups]


def test_volumes_are_backed_up_by_name_each_once(world: World) -> None:
    first, second, _ = world.filled(), world.filled(), world.filled()
    assert names_of(world.cli.backup(second, first, second)) == sorted([first, second])
    assert world.own_containers() == []


def test_all_takes_every_named_volume_and_no_anonymous_one(world: World) -> None:
    named = sorted([world.filled(), world.volume(), world.filled()])
    world.anonymous_volume()
    user = world.container("0123456789abcdef" * 4)
    assert names_of(world.cli.backup("--all")) == named
    user.remove(force=True)


def test_all_without_any_volume_is_an_error(world: World) -> None:
    world.anonymous_volume()
    before = world.volumes()
    world.cli("backup", "--all").fails_with("no named volumes")
    assert_nothing_was_made(world, before)


def test_a_project_is_all_volumes_with_its_label_or_in_its_containers(world: World) -> None:
    own = world.volume(labels={PROJECT: "shop"})
    external = world.filled()
    world.container(external, labels={PROJECT: "shop"})
    world.volume(labels={PROJECT: "other"})
    world.filled()
    assert names_of(world.cli.backup("--project", "shop")) == sorted([own, external])
    world.cli("backup", "--project", "shopp").fails_with("shopp")


def test_a_container_is_all_volumes_that_it_mounts_anonymous_ones_too(world: World) -> None:
    named, anonymous = world.filled(), world.anonymous_volume()
    world.filled()
    user = world.container(named, "stopped", volumes=[f"{named}:/a", f"{anonymous}:/b:ro", "/tmp:/bind"])
    assert names_of(world.cli.backup("--container", str(user.name))) == sorted([named, anonymous])


def test_names_project_and_container_add_up(world: World) -> None:
    named, of_project, of_container = world.filled(), world.volume(labels={PROJECT: "p"}), world.filled()
    user = world.container(of_container)
    said = world.cli.backup(named, "--project", "p", "--container", str(user.name))
    assert names_of(said) == sorted([named, of_project, of_container])


def test_a_container_without_volumes_or_that_is_not_there_is_an_error(world: World) -> None:
    volume = world.filled()
    user = world.container(volume, "created", volumes=["/tmp:/bind"])
    world.cli("backup", "--container", str(user.name)).fails_with(str(user.name), "no volume")
    world.cli("backup", volume, "--container", "nobody").fails_with("nobody")
    assert_nothing_was_made(world, {volume})


def test_a_name_that_does_not_exist_is_the_only_one_that_fails(world: World) -> None:
    world.filled("pgdata")
    done = world.cli("backup", "pgdata", "pgdat", "--json").exits(1)
    assert names_of(done.json["backups"]) == ["pgdata"]
    assert [each["volume"] for each in done.json["failed"]] == ["pgdat"]
    assert "'pgdat'" in done.complaints[0]
    assert "did you mean 'pgdata'?" in done.complaints[0]
    assert done.complaints[1:] == ["volferry: 1 of 2 volumes failed: pgdat"], done.story


def test_names_none_of_which_exists_make_nothing(world: World) -> None:
    volume = world.filled("pgdata")
    world.cli("backup", "pgdat").fails_with("'pgdat'", "did you mean 'pgdata'?")
    done = world.cli("backup", "pgdat", "mail").exits(1)
    assert [("'pgdat'" in line, "'mail'" in line) for line in done.complaints[:2]] == [
        (True, False),
        (False, True),
    ], done.story
    assert_nothing_was_made(world, {volume})
    assert not world.cli.state.exists()


@pytest.mark.parametrize("name", ["", "../x", "a/b", "UPPER CASE", "-", "\n", "ä"])
def test_a_name_that_no_volume_can_have_makes_nothing(world: World, name: str) -> None:
    done = world.cli("backup", "--", name).exits(1, 2)
    assert len(done.complaints) == 1, done.story
    assert_nothing_was_made(world, set())


@pytest.mark.parametrize(
    "arguments",
    [
        ("backup",),
        ("backup", "--no-such-option"),
        ("backup", "--project"),
        ("restore",),
        ("show",),
        ("show", "a", "b"),
        ("list", "--host", "a", "--all-hosts"),
        ("export", "a", "--json"),
        ("nonsense",),
        ("config",),
        ("list", "--store", "s3+nonsense://x"),
    ],
    ids=" ".join,
)
def test_a_command_line_that_cannot_be_meant_exits_with_2(world: World, arguments: tuple[str, ...]) -> None:
    world.cli(*arguments).exits(2)
    assert_nothing_was_made(world, set())


def test_no_arguments_at_all_show_the_help(world: World) -> None:
    done = world.cli().exits(2)
    assert "backup" in done.stdout + done.stderr


def test_a_volume_that_cannot_be_mounted_is_the_only_one_that_fails(world: World) -> None:
    good = [world.filled("aaa"), world.filled("zzz")]
    world.volume("mmm", options=BROKEN)

    done = world.cli("backup", "--all", "--json").exits(1)

    assert names_of(done.json["backups"]) == good
    (failed,) = done.json["failed"]
    assert failed["volume"] == "mmm"
    assert "/nowhere/at/all" in failed["error"]
    assert any("mmm" in line and "/nowhere/at/all" in line for line in done.complaints), done.story
    assert "1 of 3 volumes failed: mmm" in done.complaints[-1]
    assert world.own_containers() == []
    for volume in good:
        world.cli("restore", volume, "--into", f"{volume}-restored").exits(0)
    assert world.cli("list", "mmm", "--json").exits(0).json["backups"] == []


def test_an_unmountable_volume_alone_is_one_line_and_no_backup(world: World) -> None:
    world.volume("mmm", options=BROKEN)
    world.cli("backup", "mmm").fails_with("mmm", "/nowhere/at/all")
    assert world.objects("packs") == []
    assert world.objects("manifests") == []


def test_volumes_shows_who_uses_what_and_the_last_backup(world: World) -> None:
    volume, unused = world.filled(file="12345"), world.volume(labels={"a": "b"})
    anonymous = world.anonymous_volume()
    user = world.container(volume)
    (said,) = world.cli.backup(volume)

    shown = world.cli("volumes", "--json").exits(0).json

    by_name = {each["name"]: each for each in shown["volumes"]}
    assert set(by_name) == {volume, unused}
    assert by_name[volume]["last_backup"] == said["id"]
    assert by_name[volume]["size_bytes"] == 5
    assert [(each["name"], each["state"]) for each in by_name[volume]["containers"]] == [
        (user.name, "running")
    ]
    assert by_name[unused]["last_backup"] is None
    assert by_name[unused]["labels"] == {"a": "b"}
    text = world.cli("volumes").exits(0).stdout
    assert volume in text
    assert "never" in text
    assert anonymous[:12] not in text


def test_volumes_all_shows_what_is_at_risk(world: World) -> None:
    anonymous = world.anonymous_volume()
    user = world.container(anonymous, volumes=[f"{anonymous}:/data", "/usr:/bind:ro"])
    assert user.exec_run(["sh", "-c", "echo lost > /in-the-layer"]).exit_code == 0

    shown = world.cli("volumes", "--all", "--json").exits(0).json

    assert [(each["name"], each["anonymous"]) for each in shown["volumes"]] == [(anonymous, True)]
    assert shown["bind_mounts"] == [
        {
            "container": user.name,
            "source": "/usr",
            "destination": "/bind",
            "read_write": False,
            "last_backup": None,
            "last_backup_whole": None,
        }
    ]
    (layer,) = shown["writable_layers"]
    assert layer["container"] == user.name
    assert layer["size_bytes"] > 0
    text = world.cli("volumes", "--all").exits(0).stdout
    assert "/usr at /bind (ro)" in text


def test_list_and_show_tell_what_there_is_of_one_volume_and_of_all_hosts(world: World) -> None:
    first, second = world.filled(), world.filled()
    (older,) = world.cli.backup(first)
    (newer,) = world.cli.backup(first)
    (other,) = world.cli.backup(second)
    (foreign,) = world.cli.having(VOLFERRY_HOST="elsewhere").backup(first)

    def ids(*arguments: str) -> list[str]:
        return [each["id"] for each in world.cli("list", *arguments, "--json").exits(0).json["backups"]]

    assert set(ids()) == {older["id"], newer["id"], other["id"]}
    assert ids() == sorted(ids())
    assert set(ids(first)) == {older["id"], newer["id"]}
    assert set(ids("--all-hosts")) == {older["id"], newer["id"], other["id"], foreign["id"]}
    assert ids("--host", "elsewhere") == [foreign["id"]]
    assert f"{first}@{newer['id']}" in world.cli("list").exits(0).stdout
    assert "elsewhere" in world.cli("list", "--all-hosts").exits(0).stdout
    shown = world.cli("show", f"{first}@{older['id']}", "--json").exits(0).json
    assert (shown["id"], shown["volume"]["name"], shown["host"]) == (older["id"], first, world.host)
    assert older["id"] in world.cli("show", f"{first}@{older['id']}").exits(0).stdout


def test_a_store_that_is_not_there_is_said_and_not_made(world: World) -> None:
    world.filled("vol")
    for command in (["list"], ["show", "vol"], ["restore", "vol"], ["export", "vol"]):
        world.cli(*command).fails_with(str(world.store), code=2)
    world.cli("volumes").exits(0)
    world.cli("volumes", "--store", str(world.store)).fails_with(str(world.store), code=2)
    world.cli("doctor").exits(0)
    assert_nothing_was_made(world, {"vol"})


def test_doctor_tries_everything_and_leaves_nothing(world: World) -> None:
    found = world.cli("doctor", "--json").exits(0).json
    assert found["ok"]
    assert {each["name"] for each in found["checks"]} >= {"engine", "helper", "store", "state directory"}
    assert_nothing_was_made(world, set())
    world.cli.backup(world.filled())
    assert "1 backup" in world.cli("doctor").exits(0).stdout


def test_doctor_does_not_call_a_store_good_that_lacks_something(world: World) -> None:
    volume = world.filled()
    world.cli.backup(volume)
    (pack,) = world.objects("packs")
    pack.unlink()
    (check,) = (each for each in world.cli("doctor", "--json").exits(1).json["checks"] if not each["ok"])
    assert check["name"] == "store"
    assert f"/{volume}@" in check["detail"]
    assert "cannot be restored as a whole" in check["detail"]


def test_doctor_tries_each_directory_of_the_configuration(world: World) -> None:
    (world.directory / "file").write_text("mine")
    file = world.directory / "volferry.toml"
    file.write_text(
        f'[stores.main]\nurl = "{world.store}"\n[stores.good]\nurl = "{world.directory}/replica"\nreplica_of = "main"\n'
        f'[stores.bad]\nurl = "{world.directory}/file"\nreplica_of = "main"\n'
        '[stores.far]\nurl = "s3://bucket"\nreplica_of = "main"\n'
    )
    done = world.cli("doctor", "--json", "--config", str(file)).exits(1)
    assert {each["name"]: each["ok"] for each in done.json["checks"] if "store" in each["name"]} == {
        "store": True,
        "store good": True,
        "store bad": False,
        "store far": False,
    }
    assert "the first copy makes it" in world.cli("doctor", "--config", str(file)).exits(1).stdout
    assert_nothing_was_made(world, set())
    assert not (world.directory / "replica").exists()


def test_doctor_says_what_is_wrong(world: World) -> None:
    wrong = world.cli.having(VOLFERRY_HELPER__IMAGE="no-such-image").at(store=world.directory / "file")
    (world.directory / "file").write_text("")
    done = wrong("doctor", "--json").exits(1)
    assert {each["name"] for each in done.json["checks"] if not each["ok"]} == {"helper", "store"}, done.story


@pytest.mark.parametrize(
    "command",
    [("backup", "vol"), ("backup", "--all"), ("volumes",), ("list",), ("doctor", "--json")],
    ids=" ".join,
)
def test_an_engine_that_does_not_answer_is_said(world: World, command: tuple[str, ...]) -> None:
    nobody = f"unix://{world.directory}/nobody.sock"
    done = world.cli(*command, "--engine", nobody).exits(1)
    assert nobody in done.stdout + done.stderr
    assert len(done.complaints) == (0 if command[0] == "doctor" else 1), done.story
    assert not world.store.exists()


@pytest.mark.parametrize("address", ["nonsense", "unix://", "tcp://", "ftp://host", "tcp://127.0.0.1:1"])
def test_an_engine_whose_address_makes_no_sense_is_one_line(world: World, address: str) -> None:
    code = 1 if address == "tcp://127.0.0.1:1" else 2  # an address, and nobody there
    world.cli("volumes", "--engine", address).fails_with(code=code)


def test_config_check_and_show_tell_what_is_in_force(world: World) -> None:
    file = world.directory / "volferry.toml"
    file.write_text('host = "db1"\n[stores.main]\nurl = "/srv/backups"\n')
    configured = world.cli.having(VOLFERRY_CONFIG=str(file), VOLFERRY_STORE="", VOLFERRY_COMPRESSION="7")
    assert configured("config", "check", "--json").exits(0).json == {"ok": True, "file": str(file)}
    shown = configured("config", "show", "--json").exits(0).json
    assert (shown["host"], shown["store"], shown["compression"]) == ("db1", "/srv/backups", 7)
    assert 'host = "db1"' in configured("config", "show").exits(0).stdout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hots = 'db1'", ("hots", "did you mean 'host'")),
        ("host = ", ("not valid TOML",)),
        ("compression = 99", ("compression",)),
        ("[stores.main]\nurl = ''", ("stores.main.url",)),
        ("[helper]\nchannel = 'pigeon'", ("helper.channel",)),
    ],
)
def test_a_mistake_in_the_configuration_is_one_line_and_exits_with_2(
    world: World, text: str, words: tuple[str, ...]
) -> None:
    file = world.directory / "volferry.toml"
    file.write_text(text)
    volume = world.filled()
    for command in (["config", "check"], ["backup", volume], ["list"]):
        world.cli(*command, "--config", str(file)).fails_with(str(file), *words, code=2)
    assert_nothing_was_made(world, {volume})


def test_json_is_one_document_on_stdout_whatever_is_said_on_stderr(world: World) -> None:
    world.filled("good")
    world.volume("bad", options=BROKEN)
    for command, code in (
        (["backup", "--all"], 1),
        (["volumes", "--all"], 0),
        (["list"], 0),
        (["show", "good"], 0),
        (["restore", "good", "--into", "restored"], 0),
        (["export", "good", "-o", str(world.directory / "good.tar")], 0),
        (["doctor"], 0),
        (["config", "show"], 0),
        (["config", "check"], 0),
    ):
        done = world.cli(*command, "--json").exits(code)
        assert isinstance(json.loads(done.stdout), dict), done.story


def test_a_wrong_label_fails_its_own_volume_alone(world: World) -> None:
    first, wrong, last = sorted([world.filled(), world.filled(), world.filled()])
    user = world.container(wrong, "stopped", labels={"volferry.quiese": "stop"})
    done = world.cli("backup", "--all", "--json").exits(1)
    assert names_of(done.json["backups"]) == [first, last]
    assert [each["volume"] for each in done.json["failed"]] == [wrong]
    told, summary = done.complaints
    assert told.startswith(f"volferry: {wrong}: container {user.name}: there is no label 'volferry.quiese'")
    assert summary == f"volferry: 1 of 3 volumes failed: {wrong}"
    status = {each["volume"]: each["last"] for each in world.cli("status", "--json").json["volumes"]}
    assert status[wrong]["outcome"] == "failed"


def test_all_and_a_project_leave_out_what_is_not_to_be_backed_up_unless_it_is_named(world: World) -> None:
    wanted, off = (
        world.volume(labels={PROJECT: "p"}),
        world.volume(labels={PROJECT: "p", "volferry.enable": "false"}),
    )
    for which in (["--all"], ["--project", "p"]):
        done = world.cli("backup", *which, "--json").exits(0)
        assert names_of(done.json["backups"]) == [wanted]
        assert done.json["left_out"] == [{"volume": off, "why": "`enable` is false"}]
        assert f"left out, as `enable` is false: {off}" in done.stderr.splitlines()
    assert names_of(world.cli.backup("--all", off)) == sorted([wanted, off])


def test_a_stores_own_volume_is_never_backed_up(world: World) -> None:
    wanted, backups, state = world.filled(), world.volume(), world.volume()
    cli = world.cli.at(store=world.data(backups) / "deep" / "store").having(
        VOLFERRY_STATE_DIR=str(world.data(state))
    )
    sizes = []
    for _ in range(2):
        done = cli("backup", "--all", "--json").exits(0)
        assert names_of(done.json["backups"]) == [wanted]
        assert {each["volume"] for each in done.json["left_out"]} == {backups, state}
        sizes.append(sum(each["stored_bytes"] for each in done.json["backups"]))
    assert sizes[1] <= sizes[0]
    done = cli("backup", wanted, backups, "--json").exits(1)
    assert names_of(done.json["backups"]) == [wanted]
    assert f"volferry: {backups}: it holds the store " in done.complaints[0]
    cli("backup", state).fails_with(
        f"{state}: it holds the state directory: a backup of it would hold itself"
    )


def test_containers_are_looked_up_again_before_each_volume(world: World) -> None:
    first, second = sorted([world.filled(), world.filled()])
    name = f"dumping-{second}"
    labels = {"volferry.dump": "printf content"}
    world.container(second, name=name, labels=labels)
    # While the first volume is backed up, compose makes the container of the second one anew.
    anew = f"docker rm -f {name} >/dev/null; docker run -di --name {name} --network none -v {second}:/data -l volferry.dump='printf new' {world.image} cat"
    done = world.cli.having(
        VOLFERRY_RULES=json.dumps([{"match": first, "hooks": {"pre": f"sleep 6; {anew}"}}])
    )("backup", first, second, "--json").exits(0)
    dumps = {each["volume"]: each["dumps"] for each in done.json["backups"]}
    world.client.containers.get(name).remove(force=True)
    assert dumps == {first: [], second: ["dump"]}
