"""How fast a store is written and read."""

from __future__ import annotations

import os
import threading
import time
from datetime import datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volferry.cli.changed_store import ChangedStore
from volferry.config import load_config
from volferry.errors import ConfigError
from volferry.sizes import Limit
from volferry.store_config import StoreConfig
from volferry.stores.base import get, put
from volferry.stores.factory import open_store
from volferry.stores.throttle import Throttle, throttle_of

if TYPE_CHECKING:
    from pathlib import Path


class Time:
    """A clock that only sleep moves."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.seconds += seconds


def throttle_with(time: Time, limit: str, hour: int = 12) -> Throttle:
    throttle = Throttle(time, time.sleep, lambda: datetime(2026, 11, 29, hour))  # noqa: DTZ001 -- the machine's
    throttle.set(StoreConfig(url="/x", limit=Limit.of_document(limit)))
    return throttle


@given(rate=st.integers(16 << 10, 1 << 30), pieces=st.lists(st.integers(1, 8 << 20), min_size=1, max_size=40))
def test_what_is_sent_takes_as_long_as_the_limit_says(rate: int, pieces: list[int]) -> None:
    clock = Time()
    throttle = throttle_with(clock, str(rate))
    for piece in pieces:
        throttle.up.take(piece)
    took, should = clock.seconds - 1000, sum(pieces) / rate
    # The last piece need not be waited for, and a moment's credit is there at the beginning.
    assert should - 0.25 - throttle.up.piece_bytes / rate - 1e-6 <= took <= should


def test_a_pause_is_not_made_good() -> None:
    clock = Time()
    throttle = throttle_with(clock, "1M")
    throttle.up.take(4 << 20)
    clock.seconds += 3600
    before = clock.seconds
    throttle.up.take(10 << 20)
    assert clock.seconds - before >= 9.5


def test_up_is_not_down_and_no_limit_is_none() -> None:
    clock = Time()
    throttle = throttle_with(clock, "1M")
    throttle.down.take(1 << 30)
    assert clock.seconds == 1000


def test_a_change_holds_for_what_goes_on() -> None:
    clock = Time()
    throttle = throttle_with(clock, "1M")
    throttle.follow(lambda: StoreConfig(url="/x", limit=Limit("100M")) if clock.seconds > 1010 else None)
    throttle.up.take(1000 << 20)
    assert 1019 < clock.seconds < 1024


def test_all_threads_share_one_limit() -> None:
    throttle = Throttle()
    throttle.set(StoreConfig(url="/x", limit=Limit("4M")))
    threads = [threading.Thread(target=throttle.up.take, args=(512 << 10,)) for _ in range(4)]
    before = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - before > 0.15  # two megabytes, less the credit


@pytest.mark.parametrize(
    ("text", "hour", "rate"),
    [
        ("20M", 12, 20 << 20),
        ("20M; 08:00-18:00 2M", 12, 2 << 20),
        ("20M; 08:00-18:00 2M", 18, 20 << 20),
        ("20M; 08:00-18:00 2M", 8, 2 << 20),
        ("22:00-06:00 none; 1M", 23, None),
        ("22:00-06:00 none; 1M", 5, None),
        ("22:00-06:00 none; 1M", 6, 1 << 20),
        ("08:00-18:00 2M", 20, None),
        ("18:00-24:00 2M", 23, 2 << 20),
    ],
)
def test_limits_by_the_hour(text: str, hour: int, rate: int | None) -> None:
    limit = Limit.of_document(text)
    assert limit.rate(datetime(2026, 11, 29, hour).time()) == rate  # noqa: DTZ001


@pytest.mark.parametrize(
    "text", ["fast", "", "20M;", "20M; 30M", "25:00-26:00 2M", "08:00-18:00", "100", "-1M", "08:00 2M"]
)
def test_a_wrong_limit_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(f'[stores.a]\nurl = "/x"\nlimit = "{text}"\n')
    with pytest.raises(
        ConfigError, match=r"stores\.a\.limit: a limit is a number of bytes a second such as 20M"
    ) as raised:
        load_config(tmp_path / "c.toml")
    assert len(str(raised.value).splitlines()) == 1


def test_a_transfer_is_as_slow_as_its_limit_says_and_a_new_one_is_read_from_the_file(tmp_path: Path) -> None:
    settings = StoreConfig(url=str(tmp_path / "store"), limit=Limit("8M"))
    store = open_store(settings)
    began = time.monotonic()
    put(store, "a", bytes(8 << 20))
    slow = time.monotonic() - began
    assert slow > 0.7
    began = time.monotonic()
    assert len(get(store, "a")) == 8 << 20
    assert time.monotonic() - began < slow

    file = tmp_path / "c.toml"
    file.write_text(f'[stores.a]\nurl = "{tmp_path}/store"\nlimit = "8M"\n')
    changed = ChangedStore(file, "a")
    assert changed() is None
    file.write_text(f'[stores.a]\nurl = "{tmp_path}/store"\nlimit = "wrong"\n')
    os.utime(file, (1, 1))
    assert changed() is None, "as it was"
    file.write_text(f'[stores.a]\nurl = "{tmp_path}/store"\nlimit = "9G"\n')
    found = changed()
    assert found is not None
    throttle_of(found)
    began = time.monotonic()
    put(store, "b", bytes(8 << 20))
    assert time.monotonic() - began < slow
