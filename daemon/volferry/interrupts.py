"""Signals that end the work: raised where it can be left at once, and held back where it cannot."""

from __future__ import annotations

import re
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from volferry.errors import Interrupted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

# For one that was raised where Python drops it, as in a finalizer.
_AGAIN_SECONDS = 0.005

# How Python says (Modules/signalmodule.c) that a signal has come before it was ignored, and its handler is gone by now.
_IGNORED = re.compile(r"Signal \d+ ignored due to race condition")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _State:
    """Of the main thread: Python handles signals in no other, so this needs no lock."""

    held_back = 0
    pending: int | None = None


def install() -> None:
    """From here on the first signal raises Interrupted in the main thread; those after it cannot keep the clean-up
    from being done.
    """
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


def _handle(number: int, _frame: FrameType | None) -> None:
    ignore()
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
