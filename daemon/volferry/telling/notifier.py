"""Sends messages, by apprise, and pings, in a thread of its own: who does not answer holds nothing up."""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import requests

from volferry.errors import ConfigError, reason
from volferry.telling.messages import Composer

if TYPE_CHECKING:
    from collections.abc import Callable

    from volferry.config import Config
    from volferry.daemon_config import NotifyConfig
    from volferry.scheduler.events import Event
    from volferry.telling.messages import Message

Log = Any
_PING_SECONDS = 10
_PING_ATTEMPTS = 3
_SEND_AGAIN_SECONDS = (5, 60)  # a mail server that is being restarted is no reason to lose an alarm
_PING_BODY = 10_000  # what healthchecks.io keeps of one
_LAST_SECONDS = 2.0
_MOST_WAITING = 1000

Moment = Literal["start", "success", "fail"]


class Notifier:
    """Implements `Teller`. `close` gives what is waiting a moment."""

    def __init__(self, config: Callable[[], Config], host: Callable[[], str], log: Log) -> None:
        self._log = log
        self._config = config
        self._composer = Composer(host)
        self._waiting: queue.Queue[Callable[[], None] | None] = queue.Queue(_MOST_WAITING)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="notifier", daemon=True)
        self._thread.start()

    def tell(self, event: Event) -> None:
        config = self._config().notify
        if not (config.urls or config.urls_file):
            return
        message = self._composer.compose(event, config)
        if message is not None:
            self._put(lambda: self._send(message, config))

    def ping(self, url: str | None, moment: Moment, body: str = "") -> None:
        """As healthchecks.io has it: `/start` and `/fail` are added to the path, a success is the URL itself."""
        if url:
            self._put(lambda: self._ping(url, moment, body))

    def close(self) -> None:
        self._closing.set()
        self._put(None)
        self._thread.join(_LAST_SECONDS)

    def _put(self, job: Callable[[], None] | None) -> None:
        try:
            self._waiting.put_nowait(job)
        except queue.Full:
            self._log.error("messages are lost: whoever is to be told does not answer")

    def _work(self) -> None:
        while (job := self._waiting.get()) is not None:
            try:
                job()
            except Exception as error:  # noqa: BLE001 -- of whatever service: it must not end the telling
                self._log.error("a message could not be sent", error=f"{type(error).__name__}: {error}")

    def _send(self, message: Message, config: NotifyConfig) -> None:
        import apprise  # noqa: PLC0415 -- a tenth of a second, and only where somebody is to be told

        left = urls_of(config)
        for seconds in (*_SEND_AGAIN_SECONDS, None):
            failed = []
            for url in left:
                sender = apprise.Apprise()
                if not sender.add(url):
                    self._log.error(
                        "a message could not be sent", error=f"apprise does not know {_shown(url)}"
                    )
                elif not sender.notify(title=message.title, body=message.body):
                    failed.append(url)
            left = failed
            if not left or seconds is None or self._closing.wait(seconds):
                break
        for url in left:
            self._log.error("a message could not be sent", to=_shown(url), title=message.title)

    def _ping(self, url: str, moment: Moment, body: str) -> None:
        parts = urlsplit(url)
        suffix = {"start": "/start", "success": "", "fail": "/fail"}[moment]
        asked = parts._replace(path=f"{parts.path.rstrip('/')}{suffix}").geturl()
        said = ""
        for attempt in range(_PING_ATTEMPTS):
            try:
                answer = requests.post(asked, data=body[:_PING_BODY].encode(), timeout=_PING_SECONDS)
            except requests.RequestException as error:
                said = type(error).__name__
            else:
                if answer.ok:
                    return
                said = f"status {answer.status_code}"
            if attempt < _PING_ATTEMPTS - 1:
                time.sleep(2**attempt)
        self._log.warning(
            "a ping was not answered",
            to=f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}",
            moment=moment,
            error=said,
        )


def urls_of(config: NotifyConfig) -> list[str]:
    """Raises ConfigError for a file that cannot be read."""
    found = [url.reveal() for url in config.urls]
    if config.urls_file is not None:
        try:
            lines = config.urls_file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = reason(error) if isinstance(error, OSError) else "it is not text"
            raise ConfigError(f"notify.urls_file: cannot read {config.urls_file}: {why}") from error
        found += [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return found


def check_urls(config: NotifyConfig) -> None:
    """Raises ConfigError for a URL that apprise does not know."""
    urls = urls_of(config)
    if not urls:
        return
    import apprise  # noqa: PLC0415

    for number, url in enumerate(urls):
        if not apprise.Apprise().add(url):
            raise ConfigError(
                f"notify.urls.{number}: apprise does not know {_shown(url)}: see github.com/caronc/apprise for what it knows"
            )


def _shown(url: str) -> str:
    """Without what may be secret."""
    return f"{url.partition('://')[0]}://…"
