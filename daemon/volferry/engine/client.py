"""The connection to a Docker engine, and its errors in our words."""

from __future__ import annotations

import os
import select
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import docker
import docker.errors
import requests.exceptions

from volferry.errors import EngineError, EngineUnreachable

if TYPE_CHECKING:
    from collections.abc import Iterator

_TIMEOUT_SECONDS = 120
DEATH_SECONDS = 2.0  # what a container that was killed takes to be known as dead, at most


class Engine:
    """One Docker engine. `api` is docker-py's low-level client; errors pass through `translated`."""

    def __init__(self, api: Any, url: str) -> None:
        self.api = api
        self.url = url
        with translated(url):
            self.info: dict[str, Any] = api.info()

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
        return self.url.startswith("unix://") and self.info.get("OperatingSystem") != "Docker Desktop"

    def close(self) -> None:
        self.api.close()


def connect(url: str | None = None) -> Engine:
    """Connects to `url`, or as `docker` would: DOCKER_HOST, DOCKER_TLS_VERIFY, DOCKER_CERT_PATH.

    Raises EngineUnreachable with what to do about it.
    """
    environment = dict(os.environ)
    if url:
        environment["DOCKER_HOST"] = url
    shown = environment.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    with translated(shown):
        try:
            client = docker.DockerClient.from_env(
                environment=environment, version="auto", timeout=_TIMEOUT_SECONDS
            )
        except docker.errors.TLSParameterError as error:
            raise EngineUnreachable(
                f"the TLS settings for {shown} cannot be used: {first_line(error)}"
            ) from error
        return Engine(client.api, shown)


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Raises docker-py's and requests' errors as ours; `what` names the engine or the thing in the message."""
    try:
        yield
    except docker.errors.APIError as error:
        raise EngineError(f"{what}: {explanation(error)}") from error
    except (requests.exceptions.RequestException, docker.errors.DockerException, OSError) as error:
        raise EngineUnreachable(_unreachable(what, error)) from error


def explanation(error: docker.errors.APIError) -> str:
    """The engine's own words, in one line."""
    return " ".join(str(error.explanation or error).split())


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
        return (
            f"no Docker engine answers at {what}: is it running? (DOCKER_HOST or --engine names another one)"
        )
    if "Invalid bind" in text or "Unsupported" in text or "Invalid URL" in text:
        return f"{what!r} is not an engine's address: use unix:///path or tcp://host:port"
    return f"the Docker engine ({what}) does not answer: {first_line(error)}"


class Death:
    """Becomes readable (`fileno`) when a container ends, for whatever reason. A thread of its own waits for that."""

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
        try:
            status = engine.api.wait(container_id, timeout=None)
            self.reason = f"it ended with status {status.get('StatusCode')}"
        except Exception as error:  # noqa: BLE001 -- whatever ends the wait, the helper is not watched any longer
            self.reason = f"the engine went away ({first_line(error)})"
        finally:
            self.happened = True
            os.eventfd_write(self._event, 1)

    def close(self) -> None:
        """Call once the container was removed: that ends the wait."""
        self._thread.join(timeout=10)
        if not self._thread.is_alive():
            os.close(self._event)
