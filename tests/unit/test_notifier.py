"""Messages and pings as they are sent: who does not answer delays nobody else."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import timedelta
from types import ModuleType
from typing import Any

import pytest
import requests
import structlog

from volferry.checked import value_of
from volferry.config import Config
from volferry.scheduler.events import Event
from volferry.scheduler.moments import Moment
from volferry.telling import outbox
from volferry.telling.notifier import Notifier


@dataclass
class Post:
    """What was sent, in place of apprise and of the network."""

    works: bool = True
    hangs: threading.Event | None = None
    messages: list[tuple[str, str]] = field(default_factory=list)
    pings: list[str] = field(default_factory=list)
    tries: int = 0

    def sender(self) -> Any:
        post = self

        class Apprise:
            def add(self, url: str) -> bool:
                self.url = url
                return True

            def notify(self, *, title: str, body: str) -> bool:
                del body
                post.tries += 1
                if post.hangs is not None:
                    post.hangs.wait(30)
                if post.works:
                    post.messages.append((self.url, title))
                return post.works

        return Apprise

    def ping(self, url: str, **_: Any) -> Any:
        self.pings.append(url)
        answer = requests.Response()
        answer.status_code = 200
        return answer

    def until(self, condition: Any) -> bool:
        end = time.monotonic() + 20
        while not condition() and time.monotonic() < end:
            time.sleep(0.01)
        return bool(condition())


@pytest.fixture
def post(monkeypatch: pytest.MonkeyPatch) -> Post:
    post = Post()
    module = ModuleType("apprise")
    module.Apprise = post.sender()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "apprise", module)
    monkeypatch.setattr(requests, "post", post.ping)
    return post


def notifier(**notify: Any) -> Notifier:
    config = value_of({"notify": {"urls": ["mailto://nobody"], **notify}}, Config)
    log = structlog.wrap_logger(None, processors=[_drop])
    return Notifier(lambda: config, lambda: "host", log)


def _drop(_logger: object, _name: str, _line: Any) -> Any:
    raise structlog.DropEvent


def event(what: str, **more: Any) -> Event:
    return Event("failure", "", what, Moment.now(), **more)


def test_a_mail_server_that_does_not_answer_delays_no_ping(post: Post) -> None:
    post.hangs = threading.Event()
    told = notifier()
    told.tell(event("the backup failed"))
    assert post.until(lambda: post.tries == 1)
    told.ping("http://hc/1", "success")
    assert post.until(lambda: post.pings == ["http://hc/1"])
    assert post.messages == []
    post.hangs.set()
    assert post.until(lambda: post.messages == [("mailto://nobody", "volferry on host: the backup failed")])
    told.close()


def test_what_could_not_be_sent_is_sent_when_the_server_works_again(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "_AGAIN", (timedelta(seconds=0.01),))
    monkeypatch.setattr("volferry.telling.notifier._TICK_SECONDS", 0.01)
    post.works = False
    told = notifier()
    told.tell(event("a service is down: db", urgent=True))
    assert post.until(lambda: post.tries > 3)
    post.works = True
    assert post.until(lambda: post.messages)
    time.sleep(0.1)
    assert len(post.messages) == 1
    told.close()


def test_what_is_too_much_for_messages_of_its_own_is_sent_as_one(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("volferry.telling.notifier._TICK_SECONDS", 0.01)
    told = notifier(most=2, interval="1s")
    for number in range(6):
        told.tell(event(f"failure {number}"))
    assert post.until(lambda: len(post.messages) == 3)
    assert post.messages[-1][1] == "volferry on host: 4 more messages"
    told.close()


def test_what_waits_at_the_end_is_tried_once(post: Post) -> None:
    post.works = False
    told = notifier()
    for number in range(3):
        told.tell(event(f"failure {number}"))
    told.close()
    assert post.tries == 3
