"""The connection to a Docker engine, and its errors in our words."""

from __future__ import annotations

import os
import platform
import re
import select
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import docker
import docker.errors
import requests.exceptions
from docker import utils
from docker.transport import UnixHTTPAdapter
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection

from volferry.engine.gateway import KEEP_ALIVE, gateway_to
from volferry.engine_address import address_of_environment
from volferry.errors import EngineError, EngineUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from volferry.engine.gateway import Gateway
    from volferry.engine_address import Address

OLDEST_API = "1.41"
_TIMEOUT_SECONDS = 120
_IS_IT_RUNNING = "is it running?"
_BECOMES_A_STREAM = re.compile(r"/containers/[^/]+/attach$|/exec/[^/]+/start$")
# "client version 1.51 is too new. Maximum supported API version is 1.41", and the other way round.
_OTHER_VERSION = re.compile(r"client version \S+ is too (?:new|old)")
# After so long, at most, a container that was killed is known as dead: with much data under way, Docker 20.10 took 2.02 to 2.09 s.
DEATH_SECONDS = 3.0
# A wait is renewed: proxies end connections on which nothing happens, and some networks forget them without a word.
_WAIT_SECONDS = 60
_LONG_ENOUGH_SECONDS = 1.0
_FIRST_PAUSE_SECONDS = 0.05
_LAST_PAUSE_SECONDS = 1.0


class Engine:
    """One Docker engine. `api` is docker-py's low-level client; errors pass through `translated`."""

    def __init__(self, api: Any, address: Address, gateway: Gateway | None = None) -> None:
        self.api = api
        self.url = address.shown
        self._address = address
        self._gateway = gateway
        self.has_another_kernel = False  # found out by a helper
        before = datetime.now(UTC)
        self.info: dict[str, Any] = api.info()
        self._ahead = _time_of(self.info, before) - datetime.now(UTC)

    @property
    def is_podman(self) -> bool:
        """Whether it is Podman, by its API for Docker's clients."""
        return bool(self.info.get("BuildahVersion"))

    @property
    def checks_health(self) -> bool:
        """Whether somebody runs health checks: Podman has systemd do it, which is then what it has control groups from."""
        return not self.is_podman or self.info.get("CgroupDriver") == "systemd"

    @property
    def product(self) -> str:
        return f"{'Podman' if self.is_podman else 'Docker'} {self.version}"

    @property
    def id(self) -> str:
        """What no other engine has, and this one keeps. Its ID alone is that of its machine before Docker 23."""
        own = "podman" if self.is_podman else str(self.info.get("ID") or "")
        parts = [own, *(str(self.info.get(key) or "") for key in ("Name", "DockerRootDir"))]
        return " ".join(parts) if any(parts) else self.url

    @property
    def docker_id(self) -> str:
        """That stays when the machine gets another name. Empty if the engine does not say it: through some proxies, and Podman, which makes up
        another one for each answer.
        """
        return "" if self.is_podman else str(self.info.get("ID") or "")

    @property
    def name(self) -> str:
        """The engine's name: its machine's host name unless configured."""
        return str(self.info.get("Name") or "localhost")

    @property
    def version(self) -> str:
        return str(self.info.get("ServerVersion", "unknown"))

    @property
    def shares_our_kernel(self) -> bool:
        """Whether a FIFO works between us and its containers: same machine, and no virtual machine in between."""
        if self._address.scheme != "unix" or self.has_another_kernel:
            return False
        # A socket may lead to a virtual machine (Colima, Lima, Rancher Desktop), or to another one (ssh -L).
        kernel = self.info.get("KernelVersion") or platform.release()
        return kernel == platform.release() and self.info.get("OperatingSystem") != "Docker Desktop"

    @property
    def crosses_network(self) -> bool:
        """Whether what goes to it and comes from it is worth compressing."""
        return self._address.crosses_network

    def now(self) -> datetime:
        """By the clock of its machine, which the times of its files are of; never later than it is there."""
        return datetime.now(UTC) if self.shares_our_kernel else datetime.now(UTC) + self._ahead

    def close(self) -> None:
        self.api.close()
        if self._gateway is not None:
            self._gateway.close()


def connect(name: str | None = None, *, named_by: str = "DOCKER_HOST or --engine") -> Engine:
    """Connects to an engine by its URL or Docker context, or as `docker` would: DOCKER_HOST, DOCKER_CONTEXT, DOCKER_TLS_VERIFY,
    DOCKER_CERT_PATH. `named_by` is what names another one.

    Raises NoSuchEngine for what is no engine's name, and EngineUnreachable with what to do about it.
    """
    address = address_of_environment(name)
    gateway = gateway_to(address)
    api = None
    try:
        with translated(address.shown, gateway.why if gateway else None):
            api = _Api(
                base_url=gateway.url if gateway else address.url, version="auto", timeout=_TIMEOUT_SECONDS
            )
            api.mount("http://", _WatchedConnections())
            if gateway is not None:
                api.mount(
                    "http+docker://", _KeptConnections(gateway.url.removeprefix("unix://"), _TIMEOUT_SECONDS)
                )
            if utils.version_lt(api.api_version, OLDEST_API):
                raise EngineError(
                    f"the Docker engine at {address.shown} is too old: it speaks API {api.api_version}, and "
                    f"{OLDEST_API} (Docker 20.10) is the oldest that volferry works with"
                )
            return Engine(api, address, gateway)
    except BaseException as error:
        if api is not None:
            api.close()
        if gateway is not None:
            gateway.close()
        if isinstance(error, EngineUnreachable) and str(error).endswith(_IS_IT_RUNNING):
            raise EngineUnreachable(f"{error} ({named_by} names another one)") from error
        raise


def version_of(engine: Engine) -> tuple[int, ...]:
    """Of the API that is spoken with it: (1, 41)."""
    return tuple(int(part) for part in str(engine.api.api_version).split("."))


class _Api(docker.APIClient):
    """docker-py's, which asks for the engine's version once. An engine that was upgraded or downgraded since refuses that, and is asked
    again.
    """

    def send(self, request: Any, **options: Any) -> Any:
        response = super().send(request, **options)
        if response.status_code != 400 or not _OTHER_VERSION.search(response.text):
            return response
        before = self.api_version
        self._version = str(self.version(api_version=False)["ApiVersion"])
        # What was read from somewhere while it was sent is gone; whoever sent it tries again.
        if self._version == before or not isinstance(request.body, (bytes, str, type(None))):
            return response
        request.url = request.url.replace(f"/v{before}/", f"/v{self._version}/", 1)
        return super().send(request, **options)


class _WatchedConnections(HTTPAdapter):
    """Over plain TCP: a network that is gone is noticed, also by who only waits for events."""

    def init_poolmanager(self, *arguments: Any, **more: Any) -> None:
        super().init_poolmanager(
            *arguments, **more, socket_options=[*HTTPConnection.default_socket_options, *KEEP_ALIVE]
        )


class _KeptConnections(UnixHTTPAdapter):
    """One pool for all requests, where docker-py has one for each URL: a connection through a gateway takes a tenth of a second and
    more, and what is kept open of them counts against the sessions that an sshd allows (`MaxSessions`, 10).
    """

    def get_connection(self, url: str | bytes, proxies: Mapping[str, str] | None = None) -> Any:
        own = _BECOMES_A_STREAM.search(urlsplit(str(url)).path)  # such a connection serves no further request
        return super().get_connection(url if own else "http+docker://localhost", proxies)


def _time_of(info: Mapping[str, Any], otherwise: datetime) -> datetime:
    """RFC 3339 with nanoseconds; engines that are asked through some proxies say nothing."""
    try:
        return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", str(info["SystemTime"])))
    except (KeyError, ValueError, TypeError):
        return otherwise


@contextmanager
def translated(what: str, why: Callable[[], str] | None = None) -> Iterator[None]:
    """Raises docker-py's and requests' errors as ours; `what` names the engine or the thing in the message. `why` is asked
    for what made the connection fail.
    """
    try:
        yield
    except docker.errors.APIError as error:
        raise EngineError(f"{what}: {explanation(error)}") from error
    except (requests.exceptions.RequestException, docker.errors.DockerException, OSError) as error:
        if words := why() if why else "":
            raise EngineUnreachable(f"cannot reach the Docker engine at {what}: {words}") from error
        raise EngineUnreachable(_unreachable(what, error)) from error


def explanation(error: docker.errors.APIError) -> str:
    """The engine's own words, in one line."""
    return " ".join(str(error.explanation or error).split())


def says_no_container(error: docker.errors.APIError) -> bool:
    """Podman answers 500, in these words, while a container is being removed."""
    return isinstance(error, docker.errors.NotFound) or "no such container" in explanation(error).lower()


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _unreachable(what: str, error: BaseException) -> str:
    text = str(error)
    if "Permission denied" in text or "PermissionError" in text:
        return f"no permission to use the Docker engine at {what}: run as root or as a member of the group 'docker'"
    if any(
        sign in text
        for sign in ("FileNotFoundError", "No such file", "Connection refused", "ConnectionRefused")
    ):
        return f"no Docker engine answers at {what}: {_IS_IT_RUNNING}"
    if "Invalid bind" in text or "Unsupported" in text or "Invalid URL" in text:
        return f"{what!r} is not an engine's address: use unix:///path, tcp://host:port or ssh://user@host"
    return f"the Docker engine ({what}) does not answer: {first_line(error)}"


class Death:
    """Becomes readable (`fileno`) when a container ends, for whatever reason, or when the engine cannot be asked any longer. A thread of its own
    waits for that.
    """

    def __init__(self, engine: Engine, container_id: str) -> None:
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.reason = "it ended"
        self.happened = False
        self._thread = threading.Thread(
            target=self._wait, args=(engine, container_id), daemon=True, name="death"
        )
        self._thread.start()

    def fileno(self) -> int:
        return self._event

    def wait(self, seconds: float) -> bool:
        """Whether it happens within `seconds`."""
        select.select([self], [], [], seconds)
        return self.happened

    def _wait(self, engine: Engine, container_id: str) -> None:
        pause = _FIRST_PAUSE_SECONDS
        try:
            while True:
                began = time.monotonic()
                ended = _end_of(engine, container_id)
                if ended is not None:
                    self.reason = ended
                    return
                if time.monotonic() - began >= _LONG_ENOUGH_SECONDS:
                    pause = _FIRST_PAUSE_SECONDS
                else:  # something in between allows no waiting
                    time.sleep(pause)
                    pause = min(2 * pause, _LAST_PAUSE_SECONDS)
        finally:
            self.happened = True
            os.eventfd_write(self._event, 1)

    def close(self) -> None:
        """Call once the container was removed: that ends the wait."""
        self._thread.join(timeout=10)
        if not self._thread.is_alive():
            os.close(self._event)


def _end_of(engine: Engine, container_id: str) -> str | None:
    """How the container ended, once it has; None if only the connection has, or the time to wait."""
    try:
        status = engine.api.wait(container_id, timeout=_WAIT_SECONDS)
        return f"it ended with status {status['StatusCode']}"
    except Exception:  # noqa: BLE001, S110 -- whatever ends the wait, the engine is asked
        pass
    try:
        state = engine.api.inspect_container(container_id)["State"]
    except docker.errors.NotFound:
        return "it was removed"
    except Exception as error:  # noqa: BLE001 -- the helper is not watched any longer
        return f"the engine went away ({first_line(error)})"
    return None if state.get("Running") else f"it ended with status {state.get('ExitCode')}"
