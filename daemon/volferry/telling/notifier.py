"""Sends messages, by apprise, and pings, in two threads: who does not answer holds nothing up, and a mail server no ping."""

from __future__ import annotations

import queue
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import requests

from volferry.errors import ConfigError, described, reason
from volferry.scheduler.moments import Moment
from volferry.telling.messages import Composer
from volferry.telling.outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from volferry.config import Config
    from volferry.daemon_config import NotifyConfig
    from volferry.scheduler.events import Event
    from volferry.telling.messages import Message
    from volferry.telling.outbox import Letter

Log = Any
_PING_SECONDS = 10
_PING_ATTEMPTS = 3
_PING_BODY = 10_000  # what healthchecks.io keeps of one
_LAST_SECONDS = 2.0
_MOST_WAITING = 1000
_TICK_SECONDS = 5.0  # what was too much for messages of its own is asked for so often

Stage = Literal["start", "success", "fail"]


class Notifier:
    """Implements `Teller`. `close` gives what is waiting a moment."""

    def __init__(self, config: Callable[[], Config], host: Callable[[], str], log: Log) -> None:
        self._log = log
        self._config = config
        self._composer = Composer(host)
        self._outbox = Outbox()
        self._changed = threading.Condition()  # guards both
        self._closing = False
        self._pings: queue.Queue[Callable[[], None] | None] = queue.Queue(_MOST_WAITING)
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for target, name in ((self._send_all, "messages"), (self._ping_all, "pings"))
        ]
        for thread in self._threads:
            thread.start()

    def tell(self, event: Event) -> None:
        config = self._config().notify
        if not (config.urls or config.urls_file):
            return
        with self._changed:
            message = self._composer.compose(event, config)
            if message is not None:
                self._put(message, event.at.mono)

    def ping(self, url: str | None, stage: Stage, body: str = "") -> None:
        """As healthchecks.io has it: `/start` and `/fail` are added to the path, a success is the URL itself."""
        if url:
            try:
                self._pings.put_nowait(lambda: self._ping(url, stage, body))
            except queue.Full:
                self._log.error("pings are lost: nobody answers them")

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        with suppress(queue.Full):
            self._pings.put_nowait(None)
        end = time.monotonic() + _LAST_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _put(self, message: Message, now: timedelta) -> None:
        for lost in self._outbox.put(message, now):
            self._log.error("a message is lost: too many wait", title=lost.title)
            self._composer.lost(lost)
        self._changed.notify()

    def _ping_all(self) -> None:
        while (job := self._pings.get()) is not None:
            try:
                job()
            except Exception as error:  # noqa: BLE001 -- of whatever service: it must not end the telling
                self._log.error("a ping could not be sent", error=f"{type(error).__name__}: {error}")

    def _send_all(self) -> None:
        while True:
            try:
                letter = self._next_letter()
                if letter is None:
                    return
                self._deliver(letter)
            except Exception as error:  # noqa: BLE001 -- it must not end the telling
                with suppress(Exception):
                    self._log.error("messages cannot be sent", error=described(error))
                time.sleep(_TICK_SECONDS)

    def _deliver(self, letter: Letter) -> None:
        failed: list[str] | None = None
        try:
            known = urls_of(self._config().notify)
            urls = known if letter.urls is None else [url for url in letter.urls if url in known]
            failed = self._send(letter.message, urls)
        except Exception as error:  # noqa: BLE001 -- it is tried again
            self._log.error("messages cannot be sent", error=f"{type(error).__name__}: {error}")
        with self._changed:
            wait = self._outbox.tried(letter, failed, Moment.now().mono)
            if failed and wait is None:
                self._composer.lost(letter.message)
        if failed and (letter.tries == 1 or wait is None):
            again = f"in {wait.total_seconds():.0f} s, and then less often" if wait is not None else "no"
            for url in failed:
                self._log.error(
                    "a message could not be sent", to=_shown(url), title=letter.message.title, again=again
                )

    def _next_letter(self) -> Letter | None:
        """Waits for it; None at the end."""
        with self._changed:
            while True:
                now = Moment.now().mono
                if (letter := self._outbox.due(now, untried=self._closing)) is not None:
                    return letter
                if self._closing:
                    return None
                if (rest := self._composer.rest(now, self._config().notify)) is not None:
                    self._put(rest, now)
                else:
                    self._changed.wait(_TICK_SECONDS)

    def _send(self, message: Message, urls: list[str]) -> list[str]:
        """Returns where it could not be delivered."""
        import apprise  # noqa: PLC0415 -- a tenth of a second, and only where somebody is to be told

        failed = []
        for url in urls:
            sender = apprise.Apprise()
            if not sender.add(url):
                self._log.error("a message could not be sent", error=f"apprise does not know {_shown(url)}")
                continue
            try:
                sent = bool(sender.notify(title=message.title, body=message.body))
            except Exception as error:  # noqa: BLE001 -- of whatever service: the others are told
                self._log.error("a message could not be sent", error=f"{type(error).__name__}: {error}")
                sent = False
            if not sent:
                failed.append(url)
        return failed

    def _ping(self, url: str, stage: Stage, body: str) -> None:
        parts = urlsplit(url)
        suffix = {"start": "/start", "success": "", "fail": "/fail"}[stage]
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
            moment=stage,
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
