"""Signals that end the work: raised where it can be left at once, and held back where it cannot."""

from __future__ import annotations

import re
import signal
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from volferry.errors import Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType, TracebackType

_LOOK_SECONDS = 0.2
# For one that was raised where Python drops it, as in a finalizer.
_AGAIN_SECONDS = 0.005

# How Python says (Modules/signalmodule.c) that a signal has come before it was ignored, and its handler is gone by now.
_IGNORED = re.compile(r"Signal \d+ ignored due to race condition")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _State:
    """Of the main thread, where Python handles signals: it alone writes this, so it needs no lock."""

    held_back = 0
    pending: int | None = None
    listening = 0  # how many Impatiences there are
    before: Any = None  # the handler of SIGINT before the outermost of them
    first = False  # the next Ctrl-C is the one that ends the work
    impatient = False


def install() -> None:
    """From here on the first signal raises Interrupted in the main thread; those after it cannot keep the clean-up
    from being done.
    """
    _State.impatient = False
    for each in _SIGNALS:
        signal.signal(each, _handle)
    sys.unraisablehook = _dropped


def ignore() -> None:
    """From here on no signal changes anything."""
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)


@contextmanager
def held_back() -> Iterator[None]:
    """For short sections that must not be left half-way. A signal is raised at the end of the outermost one, also if
    that ends with an error. In other threads than the main one it does nothing: no signal is raised there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.held_back += 1
    try:
        yield
    finally:
        _State.held_back -= 1
        if not _State.held_back and _State.pending is not None:
            number, _State.pending = _State.pending, None
            raise Interrupted(_message(number))


class Overdue(BaseException):
    """Raised in the main thread when a Deadline has passed. Not an Exception, as Interrupted is none."""


class Deadline:
    """After so long, `passed` is called in a thread of its own; if it says so, the main thread is left at once then, by Overdue, unless it holds
    signals back. At the end of the `with`, neither happens any longer.
    """

    def __init__(self, seconds: float, passed: Callable[[], bool]) -> None:
        self._passed = passed
        self._timer = threading.Timer(seconds, self._reached)
        self._timer.daemon = True
        self._is_main = threading.current_thread() is threading.main_thread()

    def _reached(self) -> None:
        if self._passed() and self._is_main:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    def _raise(self, _number: int, _frame: FrameType | None) -> None:
        if not _State.held_back:
            raise Overdue

    def __enter__(self) -> Self:
        if self._is_main:
            signal.signal(signal.SIGUSR1, self._raise)
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()  # its handler stays: a signal that is on its way must end nothing


class Impatience:
    """While something that must be done is tried for long, in whichever thread: Ctrl-C, once more after the signal that ends the work, is noted. The
    main thread hears it, and has one of its own while it waits for what another thread does. Other signals wait: whoever stops a service sends
    SIGTERM to all of its processes, and volferry's daemon passes it on besides.
    """

    def sleeps(self, seconds: float) -> bool:
        """Whether that was asked for by then, at any time; at once then."""
        end = time.monotonic() + seconds
        while not _State.impatient and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _LOOK_SECONDS))
        return _State.impatient

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            _State.listening += 1
            if _State.listening == 1:
                _State.before = signal.getsignal(signal.SIGINT)
                _State.first = _State.before is _handle
                signal.signal(signal.SIGINT, _note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if threading.current_thread() is threading.main_thread():
            _State.listening -= 1
            if not _State.listening:
                used = _State.before is _handle and not _State.first
                signal.signal(signal.SIGINT, signal.SIG_IGN if used else _State.before or signal.SIG_IGN)


def _note(number: int, frame: FrameType | None) -> None:
    if _State.first:
        _handle(number, frame)
    else:
        _State.impatient = True


def _handle(number: int, _frame: FrameType | None) -> None:
    ignore()
    if _State.listening:
        _State.first = False
        signal.signal(signal.SIGINT, _note)
    if _State.held_back:
        _State.pending = number
    else:
        raise Interrupted(_message(number))


def _dropped(dropped: sys.UnraisableHookArgs) -> None:
    """Raises it again, a moment later."""
    if isinstance(dropped.exc_value, OSError) and _IGNORED.fullmatch(str(dropped.exc_value)):
        return  # it came together with the one that is heeded
    if not isinstance(dropped.exc_value, Interrupted):
        sys.__unraisablehook__(dropped)
        return
    message = str(dropped.exc_value)

    def again(_number: int, _frame: FrameType | None) -> None:
        if _State.held_back:
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)
        else:
            raise Interrupted(message)

    signal.signal(signal.SIGALRM, again)
    signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)


def _message(number: int) -> str:
    return f"interrupted by {signal.Signals(number).name}"
