"""Ctrl-C, SIGTERM and SIGHUP end a command the same way: by an exception that lets every step clean up."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from orderctl.exits import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_deferring = 0
_pending = False
_raised = False


def _on_signal(_number: int, _frame: FrameType | None) -> None:
    global _pending  # noqa: PLW0603 - a signal handler has nowhere else to leave a note
    if _deferring:
        _pending = True
    else:
        _interrupt()


def _interrupt() -> None:
    global _raised  # noqa: PLW0603
    _raised = True
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # cleaning up is under way, takes seconds, and must not stop half-way
    raise Interrupted


def install() -> None:
    """Turn the signals into Interrupted in the main thread."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGINT:
            signal.signal(number, _on_signal)


def raised() -> bool:
    """Whether the command was interrupted, whatever exception that has become on its way."""
    return _raised


@contextmanager
def deferred() -> Iterator[None]:
    """Hold an interruption back until the block is done: for what must not stop half-way.

    Starting a process and writing down its id is one such block, cleaning up is another.
    """
    global _deferring, _pending  # noqa: PLW0603
    _deferring += 1
    try:
        yield
    finally:
        _deferring -= 1
    if _pending and not _deferring:
        _pending = False
        _interrupt()
