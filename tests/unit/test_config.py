from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volferry.checked import value_of
from volferry.config import config_path, load_config
from volferry.errors import ConfigError
from volferry.helper_config import CpuShares, HelperConfig, HelperMemory, IoWeight


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith(("VOLFERRY_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "volferry.toml"


def refused(path: Path | None) -> str:
    with pytest.raises(ConfigError) as raised:
        load_config(path)
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    assert raised.value.exit_code == 2
    return message


def test_nothing_has_to_be_configured() -> None:
    config = load_config(None)
    assert config.host is None
    assert config.compression == 1
    assert config.helper.channel == "auto"
    assert config.helper.memory == 512 << 20
    assert Path(config.store_config.url).is_absolute()
    assert config.state_dir.is_absolute()


def test_all_that_can_be_set_is_read(file: Path) -> None:
    file.write_text("""
        host = "web-1"
        engine = "tcp://docker:2375"
        store = "nas"
        state_dir = "/srv/state"
        compression = 9
        [stores.disk]
        url = "/srv/backups"
        [stores.nas]
        url = "file:///mnt/nas"
        [helper]
        image = "debian:12"
        channel = "stream"
        memory = "1 GiB"
        cpu_shares = 2
        io_weight = 1000
    """)
    config = load_config(file)
    assert (config.host, config.engine, config.compression) == ("web-1", "tcp://docker:2375", 9)
    assert config.state_dir == Path("/srv/state")
    assert config.store_config.url == "file:///mnt/nas"
    assert config.helper == HelperConfig(
        image="debian:12",
        channel="stream",
        memory=HelperMemory(1 << 30),
        cpu_shares=CpuShares(2),
        io_weight=IoWeight(1000),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('hots = "x"', "there is no key 'hots': did you mean 'host'?"),
        ("compresion = 3", "there is no key 'compresion': did you mean 'compression'?"),
        ("zzz = 1", "there is no key 'zzz': `volferry config show` lists all"),
        ('[helper]\nimge = "x"', "there is no key 'helper.imge': did you mean 'helper.image'?"),
        ('[stores.a]\nurk = "x"\nurl = "/x"', "there is no key 'stores.a.urk': did you mean 'stores.a.url'?"),
        ("[stores.a]", "stores.a.url: it is missing"),
        ('[stores.a]\nurl = ""', "stores.a.url: "),
        ("stores = 1", "stores: "),
        ('[stores."a b"]\nurl = "/x"', "stores.a b: a store's name has letters, digits, - and _ only"),
        ('[stores."../a"]\nurl = "/x"', "stores.../a: a store's name has letters"),
        ("helper = 1", "helper: "),
        ("compression = 0", "compression: expected a whole number >= 1"),
        ("compression = 20", "compression: expected a whole number <= 19"),
        ('compression = "fast"', "compression: expected a whole number, got text"),
        ('host = ""', "host: "),
        ("host = 5", "host: expected text, got a whole number"),
        (f'host = "{"x" * 256}"', "host: "),
        ("state_dir = 5", "state_dir: "),
        ('[helper]\nchannel = "pipe"', "helper.channel: expected 'auto', 'fifo' or 'stream', got 'pipe'"),
        (
            '[helper]\nmemory = "lots"',
            "helper.memory: a size is a number of bytes, or one such as 512M or 2G",
        ),
        ('[helper]\nmemory = "1K"', "helper.memory: it should be 64M (67108864) at least"),
        ("[helper]\nmemory = -1", "helper.memory: "),
        ("[helper]\nmemory = true", "helper.memory: "),
        ("[helper]\ncpu_shares = 1", "helper.cpu_shares: "),
        ("[helper]\nio_weight = 1001", "helper.io_weight: "),
    ],
)
def test_a_wrong_key_or_value_is_one_line_with_file_key_and_hint(
    file: Path, text: str, expected: str
) -> None:
    file.write_text(text)
    assert refused(file).startswith(f"{file}: {expected}")


def test_all_that_is_wrong_is_said_at_once(file: Path) -> None:
    file.write_text('hots = "x"\ncompression = 0\n')
    message = refused(file)
    assert "'hots'" in message
    assert "compression" in message


@pytest.mark.parametrize(
    "content", [b"host = ", b"host = web", b"[helper", b"\xff\xfe", b'host = "a"\nhost = "b"']
)
def test_what_is_no_toml_is_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert refused(file).startswith(f"{file} is not valid TOML: ")


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "missing") == (
        f"cannot read the configuration {tmp_path}/missing: no such file or directory"
    )
    assert refused(tmp_path) == f"cannot read the configuration {tmp_path}: is a directory"


def test_the_environment_is_over_the_file_key_by_key(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('host = "file"\ncompression = 3\n[helper]\nimage = "file"\nmemory = "1G"')
    monkeypatch.setenv("VOLFERRY_HOST", "environment")
    monkeypatch.setenv("VOLFERRY_HELPER__MEMORY", "2G")
    config = load_config(file)
    assert (config.host, config.compression) == ("environment", 3)
    assert (config.helper.image, config.helper.memory) == ("file", 2 << 30)


def test_an_empty_variable_is_as_if_it_were_not_set(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('host = "file"')
    monkeypatch.setenv("VOLFERRY_HOST", "")
    monkeypatch.setenv("VOLFERRY_STORE", "")
    config = load_config(file)
    assert config.host == "file"
    assert config.store is None


def test_the_command_line_is_over_everything(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('host = "file"\nengine = "unix:///file"')
    monkeypatch.setenv("VOLFERRY_HOST", "environment")
    config = load_config(file, {"host": "argument", "engine": None})
    assert (config.host, config.engine) == ("argument", "unix:///file")


@pytest.mark.parametrize(
    ("variable", "value", "key"),
    [
        ("VOLFERRY_COMPRESSION", "99", "compression"),
        ("VOLFERRY_COMPRESSION", "fast", "compression"),
        ("VOLFERRY_HELPER__CHANNEL", "pipe", "helper.channel"),
        ("VOLFERRY_HELPER__MEMORY", "lots", "helper.memory"),
        ("VOLFERRY_HELPER__IMGE", "x", "helper.imge"),
        ("VOLFERRY_HELPER", "nonsense", "helper"),
        ("VOLFERRY_STORES", "/srv/backups", "stores"),
        ("VOLFERRY_HOST", "\udcff", "host"),
    ],
)
def test_a_wrong_value_in_the_environment_is_one_line_that_says_where(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, key: str
) -> None:
    monkeypatch.setenv(variable, value)
    message = refused(None)
    assert "environment" in message
    assert key in message


def test_a_wrong_value_in_the_environment_is_not_looked_for_in_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text('host = "file"')
    monkeypatch.setenv("VOLFERRY_COMPRESSION", "99")
    message = refused(file)
    assert "environment" in message or "VOLFERRY_COMPRESSION" in message


def helper_memory(value: object) -> int:
    return value_of({"memory": value}, HelperConfig).memory


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("134217728", 128 << 20),
        ("512M", 512 << 20),
        ("512m", 512 << 20),
        ("512 MB", 512 << 20),
        ("512MiB", 512 << 20),
        (" 2G ", 2 << 30),
        ("1T", 1 << 40),
        ("131072K", 128 << 20),
        ("134217728B", 128 << 20),
        (134217728, 128 << 20),
    ],
)
def test_sizes_may_have_a_unit(text: object, size: int) -> None:
    assert helper_memory(text) == size


@given(st.integers(64 << 20, 2**60))
def test_a_size_in_bytes_is_itself(size: int) -> None:
    assert helper_memory(str(size)) == helper_memory(size) == size


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ('store = "/srv/x"', "/srv/x"),
        ('store = "file:///srv/x"', "file:///srv/x"),
        ('[stores.one]\nurl = "/1"\n[stores.two]\nurl = "/2"', "/1"),
        ('store = "two"\n[stores.one]\nurl = "/1"\n[stores.two]\nurl = "/2"', "/2"),
        ('store = "/3"\n[stores.one]\nurl = "/1"', "/3"),
    ],
)
def test_the_store_is_the_named_one_or_the_first_of_all(file: Path, text: str, url: str) -> None:
    file.write_text(text)
    assert load_config(file).store_config.url == url


def test_the_environment_can_choose_and_add_a_store(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('[stores.one]\nurl = "/1"')
    monkeypatch.setenv("VOLFERRY_STORES__NAS__URL", "/mnt/nas")
    monkeypatch.setenv("VOLFERRY_STORE", "nas")
    assert load_config(file).store_config.url == "/mnt/nas"


def written(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_the_file_is_the_named_one_then_that_of_the_environment_then_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = written(tmp_path / "home" / ".config" / "volferry" / "volferry.toml")
    assert config_path() == home
    xdg = written(tmp_path / "xdg" / "volferry" / "volferry.toml")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert config_path() == xdg
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert config_path() == home
    monkeypatch.setenv("VOLFERRY_CONFIG", "/named/by/environment")
    assert config_path() == Path("/named/by/environment")
    assert config_path(Path("/named")) == Path("/named")


def test_directories_are_the_users_own_without_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    config = load_config(None)
    assert config.state_dir == tmp_path / "home/.local/state/volferry"
    assert config.store_config.url == str(tmp_path / "home/.local/share/volferry/store")
    monkeypatch.setenv("XDG_STATE_HOME", "/x/state")
    monkeypatch.setenv("XDG_DATA_HOME", "/x/data")
    again = load_config(None)
    assert (again.state_dir, again.store_config.url) == (Path("/x/state/volferry"), "/x/data/volferry/store")


def test_a_config_cannot_be_changed() -> None:
    config: Any = load_config(None)
    with pytest.raises(AttributeError, match="immutable"):
        config.host = "other"


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ('"9633"', ("127.0.0.1", 9633)),
        ("9633", ("127.0.0.1", 9633)),
        ('":9633"', ("", 9633)),
        ('"[::1]:9633"', ("::1", 9633)),
    ],
)
def test_a_port_alone_is_for_this_machine(tmp_path: Path, written: str, address: tuple[str, int]) -> None:
    file = tmp_path / "volferry.toml"
    file.write_text(f"[daemon]\nlisten = {written}\n")
    assert load_config(file).daemon.listen.address == address


def test_the_limits_of_standing_still_are_spans(file: Path) -> None:
    file.write_text('bring_back = "2h"\n[defaults]\nquiesce_after = "0s"\nquiesce_window = "1h30m"\n')
    config = load_config(file)
    assert (config.bring_back, config.defaults.quiesce_after) == ("2h", "0s")

    file.write_text('[defaults]\nmax_downtime = "0s"\n')
    assert "defaults.max_downtime: it should be 1s at least" in refused(file)

    file.write_text(f'bring_back = "{"9" * 40}w"\n')
    assert "bring_back: that span is too long" in refused(file)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("VOLFERRY_SCHEDULE", "did you mean VOLFERRY_DEFAULTS__SCHEDULE?"),
        ("VOLFERRY_DEFAULT__SCHEDULE", "did you mean VOLFERRY_DEFAULTS__SCHEDULE?"),
        ("VOLFERRY_STATEDIR", "did you mean VOLFERRY_STATE_DIR?"),
        ("volferry_at_once", "did you mean VOLFERRY_DAEMON__AT_ONCE?"),
        ("VOLFERRY_ZZZZ", "docs/configuration.md lists them"),
        ("VOLFERRY_DEFAULTS_SCHEDULE", "did you mean VOLFERRY_DEFAULTS__SCHEDULE?"),
        ("VOLFERRY_", "docs/configuration.md lists them"),
        ("VOLFERRY_\udcff", "docs/configuration.md lists them"),
    ],
)
def test_a_variable_that_means_nothing_is_refused_with_the_one_that_was_meant(
    monkeypatch: pytest.MonkeyPatch, name: str, hint: str
) -> None:
    monkeypatch.setenv(name, "@daily")
    message = refused(None)
    assert message.isascii()
    assert (
        message
        == f"the environment: there is no variable {name.encode('ascii', 'backslashreplace').decode()}: {hint}"
    )


def test_all_variables_that_mean_nothing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOLFERRY_A", "1")
    monkeypatch.setenv("VOLFERRY_B", "1")
    assert "VOLFERRY_A" in refused(None)
    assert "VOLFERRY_B" in refused(None)


@pytest.mark.parametrize(
    "name",
    [
        "VOLFERRY_DEBUG",
        "VOLFERRY_CONTAINER",
        "VOLFERRY_DAEMON_RUN",
        "VOLFERRY_IMAGE",
        "VOLFERRY_VOLUME",
        "VOLFERRY_RUN",
        "VOLFERRY_ERROR",
        "VOLFERRY_SERVICE_HOST",
        "VOLFERRY_SERVICE_PORT_HTTP",
        "VOLFERRY_PORT",
        "VOLFERRY_PORT_9633_TCP_ADDR",
        "_VOLFERRY_COMPLETE",
        "XVOLFERRY_A",
    ],
)
def test_variables_that_are_no_settings_are_none(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "x")
    monkeypatch.setenv("VOLFERRY_SOON_REMOVED", "")
    assert load_config(None).host is None


def test_a_helper_can_go_without_limits(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('[helper]\nmemory = "off"\ncpu_shares = "off"')
    monkeypatch.setenv("VOLFERRY_HELPER__IO_WEIGHT", "off")
    helper = load_config(file).helper
    assert (helper.memory, helper.cpu_shares, helper.io_weight) == (0, 0, 0)
    monkeypatch.setenv("VOLFERRY_HELPER__IO_WEIGHT", "100")
    assert load_config(file).helper.io_weight == 100
    file.write_text('[helper]\ncpu_shares = "none"')
    with pytest.raises(ConfigError, match='expected a whole number from 2 to 262144, or "off"'):
        load_config(file)
