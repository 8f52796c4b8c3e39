from __future__ import annotations

import os
import signal
import sys
import threading
import time
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from volferry import interrupts
from volferry.errors import Interrupted, StoreError
from volferry.interrupts import Impatience, held_back

if TYPE_CHECKING:
    from collections.abc import Iterator

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in HANDLED}
    hook = sys.unraisablehook
    interrupts.install()
    yield
    interrupts.install()  # it has heard nothing
    sys.unraisablehook = hook
    for number, handler in before.items():
        signal.signal(number, handler)


@contextmanager
def no_signal_in_here() -> Iterator[None]:
    """Fails where a signal is raised in a section that holds it back."""
    try:
        yield
    except Interrupted:
        pytest.fail("it was raised within")


@pytest.mark.parametrize("number", HANDLED[:3])
def test_a_signal_is_raised_at_once(number: signal.Signals) -> None:
    with pytest.raises(Interrupted, match=number.name):
        signal.raise_signal(number)


def test_a_signal_is_raised_again_where_python_drops_what_it_raises() -> None:
    class Made:
        pass

    def wait() -> None:
        made = Made()
        weakref.finalize(made, lambda: None)
        _held = weakref.ref(made, lambda _: signal.raise_signal(signal.SIGINT))
        del made
        time.sleep(5)

    with pytest.raises(Interrupted, match="SIGINT"):
        wait()


def test_a_signal_is_held_back_to_the_end_of_the_outermost_section() -> None:
    done = []

    def work() -> None:
        with held_back():
            with no_signal_in_here(), held_back():
                signal.raise_signal(signal.SIGINT)
                done.append("inner")
            done.append("outer")

    with pytest.raises(Interrupted):
        work()
    assert done == ["inner", "outer"]


def test_a_signal_is_not_lost_if_the_section_fails() -> None:
    def fail() -> None:
        with held_back():
            signal.raise_signal(signal.SIGTERM)
            raise StoreError("the disk is full")

    with pytest.raises(Interrupted) as caught:
        fail()
    assert isinstance(caught.value.__context__, StoreError)


def test_an_error_without_a_signal_comes_through() -> None:
    with pytest.raises(StoreError), held_back():
        raise StoreError("the disk is full")


def test_what_comes_after_the_first_signal_is_ignored() -> None:
    with pytest.raises(Interrupted):
        signal.raise_signal(signal.SIGINT)
    for number in HANDLED[:3]:
        signal.raise_signal(number)


@pytest.mark.parametrize("held", [False, True])
def test_signals_that_come_at_once_are_one_and_leave_no_trace(
    held: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    def come() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED[:3])
        for number in HANDLED[:3]:
            os.kill(os.getpid(), number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED[:3])
        time.sleep(0.01)

    def work() -> None:
        if not held:
            come()
            return
        with held_back():
            come()

    with pytest.raises(Interrupted):
        work()
    time.sleep(0.01)
    assert capfd.readouterr().err == ""


def test_no_signal_is_raised_in_another_thread() -> None:
    raised: list[BaseException] = []
    entered, may_end = threading.Event(), threading.Event()

    def work() -> None:
        try:
            with held_back():
                entered.set()
                may_end.wait(10)
        except BaseException as error:  # noqa: BLE001 -- looked at below
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    entered.wait(10)
    with pytest.raises(Interrupted):
        signal.raise_signal(signal.SIGINT)
    may_end.set()
    thread.join()
    assert raised == []


def given_up_by(*numbers: signal.Signals) -> bool:
    """Whether another thread, which tries something for long, gives that up while the main thread waits for it, as signals come."""
    lock, trying = threading.Lock(), threading.Event()
    given_up: list[bool] = []

    def bring_back() -> None:
        with lock, Impatience() as impatience:
            trying.set()
            given_up.append(impatience.sleeps(1.5))

    thread = threading.Thread(target=bring_back)
    thread.start()
    trying.wait(10)
    timers = [
        threading.Timer(0.2 * (at + 1), os.kill, [os.getpid(), each]) for at, each in enumerate(numbers)
    ]
    try:
        for each in timers:
            each.start()
        with held_back(), Impatience(), lock:
            pass
    finally:
        thread.join()
        for each in timers:
            each.join()
    return given_up == [True]


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_once_more_is_heard_whichever_thread_tries_for_long(first: signal.Signals) -> None:
    before = time.monotonic()
    with pytest.raises(Interrupted, match=first.name):
        given_up_by(first, signal.SIGINT)
    assert time.monotonic() - before < 1.2
    assert Impatience().sleeps(1)


@pytest.mark.parametrize("numbers", [(signal.SIGINT,), (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP)])
def test_what_must_be_done_is_not_given_up_for_less(numbers: tuple[signal.Signals, ...]) -> None:
    with pytest.raises(Interrupted):
        given_up_by(*numbers)
    assert not Impatience().sleeps(0)


def test_ctrl_c_once_more_is_heard_by_who_has_begun_to_wait_only_then() -> None:
    with pytest.raises(Interrupted):
        signal.raise_signal(signal.SIGINT)
    with Impatience() as outer:
        with Impatience() as inner:
            signal.raise_signal(signal.SIGINT)
            assert inner.sleeps(0)
        assert outer.sleeps(0)
    signal.raise_signal(signal.SIGINT)


def test_signals_are_as_they_were_once_nothing_is_tried_for_long() -> None:
    with Impatience(), Impatience():
        pass
    with pytest.raises(Interrupted):
        signal.raise_signal(signal.SIGINT)
