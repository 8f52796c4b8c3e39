"""Where an engine is: what `--engine` and the environment say, understood as the `docker` command understands it."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from volferry.errors import EngineUnreachable, NoSuchEngine, reason

if TYPE_CHECKING:
    from collections.abc import Mapping

LOCAL = "unix:///var/run/docker.sock"
_SCHEMES = ("unix", "tcp", "ssh", "http", "https")
_TLS_PORT = 2376
_PLAIN_PORT = 2375


@dataclass(frozen=True, slots=True)
class Tls:
    """Files in PEM, as Docker names them."""

    authority: Path | None  # None: the system's
    certificate: Path | None
    key: Path | None
    verify: bool = True


@dataclass(frozen=True, slots=True)
class Address:
    shown: str  # as the user named it
    url: str
    tls: Tls | None = None  # of tcp://

    @property
    def scheme(self) -> str:
        return self.url.partition("://")[0]

    @property
    def crosses_network(self) -> bool:
        """Whether what goes there is worth compressing: not to this machine."""
        if self.scheme == "unix":
            return False
        host = urlsplit(self.url).hostname or ""
        try:
            return not ip_address(host).is_loopback
        except ValueError:
            return host != "localhost"

    @property
    def port(self) -> int:
        """Of tcp://."""
        return urlsplit(self.url).port or (_TLS_PORT if self.tls else _PLAIN_PORT)


def address_of(name: str | None, environment: Mapping[str, str]) -> Address:
    """`name` is a URL or a Docker context; without one, DOCKER_HOST, DOCKER_CONTEXT, the context in use, or the local socket.

    Raises NoSuchEngine for what is neither, and EngineUnreachable where a context cannot be read.
    """
    chosen = name or environment.get("DOCKER_HOST") or environment.get("DOCKER_CONTEXT")
    chosen = chosen or _context_in_use(environment) or "default"
    if chosen == "default":
        return Address(LOCAL, LOCAL)
    if "://" not in chosen:
        return _of_context(chosen, environment)
    return Address(chosen, _checked(chosen, chosen), _tls_of_environment(chosen, environment))


def _checked(url: str, shown: str) -> str:
    """Raises NoSuchEngine."""
    scheme, _, rest = url.partition("://")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise NoSuchEngine(f"{shown!r} is not an engine's address: {error}") from error
    if scheme not in _SCHEMES or not rest or (scheme == "unix") != rest.startswith("/"):
        raise NoSuchEngine(_not_an_address(shown))
    if scheme != "unix" and not parts.hostname:
        raise NoSuchEngine(_not_an_address(shown))
    if scheme == "ssh":
        # Both reach a command line: a name that starts with a dash would be an option of ssh.
        if parts.password is not None:
            raise NoSuchEngine(f"{parts.hostname}: ssh takes no password from a URL: use a key, or its agent")
        if any((each or "").startswith("-") for each in (parts.hostname, parts.username)):
            raise NoSuchEngine(_not_an_address(shown))
    return url


def _not_an_address(shown: str) -> str:
    return (
        f"{shown!r} is not an engine's address: use unix:///path, tcp://host:port, ssh://user@host, or the name of a "
        "Docker context"
    )


def _tls_of_environment(url: str, environment: Mapping[str, str]) -> Tls | None:
    """DOCKER_TLS_VERIFY asks for a server that proves who it is; DOCKER_CERT_PATH has ca.pem, cert.pem and key.pem."""
    if not url.startswith(("tcp://", "http://", "https://")):
        return None
    verify = bool(environment.get("DOCKER_TLS_VERIFY"))
    directory = environment.get("DOCKER_CERT_PATH")
    if not (verify or directory or url.startswith("https://")):
        return None
    place = Path(directory) if directory else _docker_directory(environment)
    for file in ("ca.pem", "cert.pem", "key.pem"):
        if directory and verify and not (place / file).exists():
            raise EngineUnreachable(f"the TLS settings for {url} cannot be used: {place} has no {file}")
    return _tls(place, verify=verify or not directory)


def _tls(place: Path, *, verify: bool) -> Tls:
    found = {name: path for name in ("ca.pem", "cert.pem", "key.pem") if (path := place / name).exists()}
    return Tls(found.get("ca.pem"), found.get("cert.pem"), found.get("key.pem"), verify)


def _docker_directory(environment: Mapping[str, str]) -> Path:
    return Path(
        environment.get("DOCKER_CONFIG") or Path(environment.get("HOME") or "~").expanduser() / ".docker"
    )


def _context_in_use(environment: Mapping[str, str]) -> str | None:
    try:
        document = json.loads((_docker_directory(environment) / "config.json").read_text())
    except (OSError, ValueError):
        return None
    found = document.get("currentContext") if isinstance(document, dict) else None
    return found if isinstance(found, str) and found else None


# Read here, for docker-py finds contexts only where there is a config.json beside them.
def _of_context(name: str, environment: Mapping[str, str]) -> Address:
    contexts = _docker_directory(environment) / "contexts"
    own = sha256(name.encode()).hexdigest()
    meta = contexts / "meta" / own / "meta.json"
    try:
        endpoint = _endpoint(json.loads(meta.read_text()))
    except FileNotFoundError:
        raise NoSuchEngine(_no_such_context(name, contexts)) from None
    except OSError as error:
        raise EngineUnreachable(
            f"the Docker context {name!r} cannot be read: {reason(error)}: {meta}"
        ) from error
    except ValueError:
        raise EngineUnreachable(f"the Docker context {name!r} cannot be understood: {meta}") from None
    url = _checked(str(endpoint.get("Host") or LOCAL), f"{name} ({endpoint.get('Host')})")
    place = contexts / "tls" / own / "docker"
    tls = None
    if url.startswith(("tcp://", "http://", "https://")) and (place.is_dir() or url.startswith("https://")):
        tls = _tls(place, verify=not endpoint.get("SkipTLSVerify"))
    return Address(name, url, tls)


def _endpoint(document: Any) -> dict[str, Any]:
    """Raises ValueError."""
    try:
        found = document["Endpoints"]["docker"]
    except (KeyError, TypeError) as error:
        raise ValueError from error
    if not isinstance(found, dict):
        raise ValueError
    return found


def _no_such_context(name: str, contexts: Path) -> str:
    known = []
    for meta in contexts.glob("meta/*/meta.json"):
        try:
            known.append(str(json.loads(meta.read_text())["Name"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    close = get_close_matches(name, known, n=1)
    if close:
        return f"there is no Docker context {name!r}: did you mean {close[0]!r}?"
    if re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.+-]+", name):
        has = f"there are {', '.join(sorted(known))}" if known else "there is none"
        return f"there is no Docker context {name!r} ({has}), and a URL has ://, as in ssh://{name}"
    return _not_an_address(name)


def address_of_environment(name: str | None) -> Address:
    """As `address_of`, with this process's environment."""
    return address_of(name, os.environ)
