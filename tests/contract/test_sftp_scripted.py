"""A store on an SFTP server that is lost, slow or hostile at a moment that a test chooses."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.parts.sftp_scripts import Files, packet, serve, status
from volferry.errors import DamagedObject, StoreError, StoreUnreachable
from volferry.store_config import StoreConfig
from volferry.stores.base import get
from volferry.stores.sftp import SftpStore
from volferry.stores.sftp_connection import Connection, Lost
from volferry.stores.sftp_packets import DATA as DATA_REPLY
from volferry.stores.sftp_packets import HANDLE, NAME, OK, OPENDIR, READ, READDIR, number, string

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from tests.parts.sftp_scripts import Answers
    from volferry.stores.sftp_packets import Reply

PIECE_BYTES = 100
DATA = os.urandom(9 * PIECE_BYTES + 30)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the pauses between attempts."""
    monkeypatch.setattr("volferry.stores.sftp_client._FIRST_PAUSE_SECONDS", 0)


def a_store() -> SftpStore:
    return SftpStore(StoreConfig(url="sftp://nas/x"))


class Cuts:
    """Ends the connection at one step of what is asked for: before or after a request is sent, or its answer was waited for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, answered: bool) -> None:
        """With `answered`, all answers that are on their way have come by then."""
        self._answered = answered
        self.step = -1
        self.at = -1  # the step at which it happens
        ask, wait = Connection.ask, Connection.wait

        def cutting_ask(connection: Connection, kind: int, *parts: bytes | memoryview) -> Future[Reply]:
            self._look(connection)
            asked = ask(connection, kind, *parts)
            self._look(connection)
            return asked

        def cutting_wait(connection: Connection, future: Future[Reply]) -> Reply:
            self._look(connection)
            reply = wait(connection, future)
            self._look(connection)
            return reply

        monkeypatch.setattr(Connection, "ask", cutting_ask)
        monkeypatch.setattr(Connection, "wait", cutting_wait)

    def _look(self, connection: Connection) -> None:
        self.step += 1
        if self.step == self.at:
            while self._answered and connection.pending:
                time.sleep(0)
            connection.end(Lost("it was cut"))

    def each_step_of(self, action: Callable[[], object]) -> int:
        """Does it once whole, and then with a cut at each of its steps; returns how many."""
        self.at, self.step = -1, -1
        action()
        steps = self.step + 1
        for self.at in range(steps):
            self.step = -1
            action()
        return steps


@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.parametrize("most", [PIECE_BYTES, 60])
def test_a_reader_loses_no_byte_wherever_its_connection_is_cut(
    monkeypatch: pytest.MonkeyPatch, most: int, *, answered: bool
) -> None:
    monkeypatch.setattr("volferry.stores.sftp_connection.SAFE_BYTES", PIECE_BYTES)
    monkeypatch.setattr("volferry.stores.sftp_reader._AHEAD_BYTES", 4 * PIECE_BYTES)
    processes = serve(monkeypatch, Files({"/x/packs/a": DATA}, most))

    def read() -> None:
        store = a_store()
        assert get(store, "packs/a") == DATA
        with store.open("packs/a", offset=150, length=400) as reader:
            found = b""
            while piece := reader.read(70):
                found += piece
        assert found == DATA[150:550]
        store.close()

    steps = Cuts(monkeypatch, answered=answered).each_step_of(read)
    assert steps > 60
    assert len(processes) > 1.8 * steps  # a cut after the last byte is not met


def test_a_server_that_begins_later_than_a_connection_may_be_idle_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("volferry.stores.sftp_connection._IDLE_SECONDS", 0.02)
    monkeypatch.setattr("volferry.stores.sftp_connection._LOOK_SECONDS", 0.001)
    may_greet = threading.Event()
    processes = serve(monkeypatch, Files({"/x/a": DATA}), may_greet=may_greet)

    def greet() -> None:
        monkeypatch.setattr("volferry.stores.sftp_connection._IDLE_SECONDS", 30)
        may_greet.set()

    threading.Timer(0.1, greet).start()
    assert get(a_store(), "a") == DATA
    assert len(processes) == 1


def test_a_server_that_never_begins_is_waited_for_once_and_the_line_says_how_to_see_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("volferry.stores.sftp_connection.FIRST_SECONDS", 0.05)
    monkeypatch.setattr("volferry.stores.sftp_client.FIRST_SECONDS", 0.05)
    processes = serve(monkeypatch, Files({}), may_greet=threading.Event())
    with pytest.raises(StoreUnreachable) as raised:
        get(a_store(), "a")
    assert str(raised.value) == (
        "cannot reach sftp://nas/x: no SFTP began within 0 seconds: see what keeps it waiting with: sftp nas"
    )
    assert len(processes) == 1


def hostile(kind: int, said: bytes) -> Answers:
    """Says that to requests of one kind, and goes on saying it; else what a server of one file says."""
    files = Files({"/x/a": DATA})

    def answer(asked: int, request: bytes, body: Reply) -> bytes | None:
        if asked == kind:
            return said.replace(b"(id)", request)
        return files(asked, request, body)

    return answer


@pytest.mark.parametrize(
    "said",
    [
        b"\xff\xff\xff\xff\x67(id)",
        b"\0\0\0\0",
        packet(DATA_REPLY, b"\xee\xee\xee\xee", string(b"x")),
        packet(DATA_REPLY, b"(id)", b"\xff\xff\xff\xff"),
        packet(DATA_REPLY, b"(id)", string(bytes(PIECE_BYTES * 20))),
        packet(DATA_REPLY, b"(id)", string(b"")),
        packet(HANDLE, b"(id)", string(b"x")),
        status(b"(id)", OK),
    ],
)
def test_what_no_server_may_answer_is_one_line_and_no_bytes(
    monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr("volferry.stores.sftp_connection.SAFE_BYTES", PIECE_BYTES)
    serve(monkeypatch, hostile(READ, said))
    with pytest.raises((StoreError, DamagedObject)) as raised:
        get(a_store(), "a")
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("names", [[], ["../a", "..", "/etc/passwd", "a/../../b", ".", "x\n"]])
def test_a_list_without_an_end_is_one_line(monkeypatch: pytest.MonkeyPatch, names: list[str]) -> None:
    monkeypatch.setattr("volferry.stores.sftp_directories._MOST_NAMES", 100)
    entries = b"".join(string(name) + string("") + number(0x4) + number(0o100600) for name in names)
    files = Files({})

    def answer(asked: int, request: bytes, body: Reply) -> bytes | None:
        if asked == OPENDIR:
            return packet(HANDLE, request, string("x"))
        if asked == READDIR:
            return packet(NAME, request, number(len(names)), entries)
        return files(asked, request, body)

    serve(monkeypatch, answer)
    with pytest.raises(StoreError, match="a directory that has no end"):
        list(a_store().list(""))
