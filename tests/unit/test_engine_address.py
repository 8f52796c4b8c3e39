"""What `--engine` and the environment say of where an engine is."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from volferry.engine_address import LOCAL, address_of
from volferry.errors import EngineUnreachable, NoSuchEngine

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """With two contexts, one of which has certificates."""
    for name, host, skip in (
        ("db", "ssh://admin@db.example", False),
        ("web", "tcp://web.example:2376", True),
    ):
        own = sha256(name.encode()).hexdigest()
        meta = tmp_path / ".docker" / "contexts" / "meta" / own
        meta.mkdir(parents=True)
        endpoint = {"Host": host, "SkipTLSVerify": skip}
        (meta / "meta.json").write_text(json.dumps({"Name": name, "Endpoints": {"docker": endpoint}}))
    certificates = tmp_path / ".docker" / "contexts" / "tls" / sha256(b"web").hexdigest() / "docker"
    certificates.mkdir(parents=True)
    (certificates / "ca.pem").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "environment", "url"),
    [
        (None, {}, LOCAL),
        ("default", {"DOCKER_HOST": "tcp://a:1"}, LOCAL),
        (None, {"DOCKER_HOST": "tcp://a:1", "DOCKER_CONTEXT": "db"}, "tcp://a:1"),
        (None, {"DOCKER_CONTEXT": "db"}, "ssh://admin@db.example"),
        ("db", {"DOCKER_HOST": "tcp://a:1"}, "ssh://admin@db.example"),
        ("unix:///x", {"DOCKER_CONTEXT": "db"}, "unix:///x"),
        ("ssh://user@host:22/run/docker.sock", {}, "ssh://user@host:22/run/docker.sock"),
    ],
)
def test_what_is_said_first_counts(
    home: Path, name: str | None, environment: dict[str, str], url: str
) -> None:
    assert address_of(name, {"HOME": str(home), **environment}).url == url


def test_the_context_in_use_counts_where_nothing_else_is_said(home: Path) -> None:
    (home / ".docker" / "config.json").write_text('{"currentContext": "db"}')
    found = address_of(None, {"HOME": str(home)})
    assert (found.shown, found.url) == ("db", "ssh://admin@db.example")


def test_a_context_brings_its_certificates(home: Path) -> None:
    found = address_of("web", {"HOME": str(home)})
    assert found.tls is not None
    assert found.tls.authority is not None
    assert not found.tls.verify
    assert found.port == 2376


def test_the_environment_brings_certificates(tmp_path: Path) -> None:
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (tmp_path / name).touch()
    environment = {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(tmp_path)}
    found = address_of("tcp://a", environment)
    assert found.tls is not None
    assert found.tls.verify
    assert (found.tls.key, found.port) == (tmp_path / "key.pem", 2376)
    assert address_of("tcp://a", {}).tls is None
    assert address_of("unix:///x", environment).tls is None
    (tmp_path / "key.pem").unlink()
    with pytest.raises(EngineUnreachable, match=r"has no key\.pem"):
        address_of("tcp://a", environment)


@pytest.mark.parametrize(
    ("url", "crosses"),
    [
        ("unix:///x", False),
        ("tcp://127.0.0.1:1", False),
        ("tcp://localhost:1", False),
        ("ssh://u@[::1]", False),
        ("ssh://u@10.0.0.1", True),
        ("tcp://host:1", True),
    ],
)
def test_what_crosses_a_network_is_known(url: str, crosses: bool) -> None:
    assert address_of(url, {}).crosses_network is crosses


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("weeb", "did you mean 'web'"),
        ("elsewhere", "there are db, web"),
        ("user@host", "is not an engine's address"),
        ("ftp://x", "is not an engine's address"),
        ("unix://relative", "is not an engine's address"),
        ("tcp://", "is not an engine's address"),
        ("tcp://host:port", "is not an engine's address"),
        ("ssh://-oProxyCommand=x", "is not an engine's address"),
        ("ssh://-l@host", "is not an engine's address"),
        ("ssh://u:secret@host", "no password"),
    ],
)
def test_what_is_no_engine_is_said(home: Path, name: str, words: str) -> None:
    with pytest.raises(NoSuchEngine, match=words) as raised:
        address_of(name, {"HOME": str(home)})
    assert "secret" not in str(raised.value)


def test_a_context_that_cannot_be_understood_is_said(home: Path) -> None:
    meta = home / ".docker" / "contexts" / "meta" / sha256(b"db").hexdigest() / "meta.json"
    meta.write_text("{}")
    with pytest.raises(EngineUnreachable, match="'db' cannot be understood"):
        address_of("db", {"HOME": str(home)})
