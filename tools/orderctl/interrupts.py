"""Ctrl-C, SIGTERM and SIGHUP raise one exception, so that every step of a command can clean up."""

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
    global _pending  # noqa: PLW0603 - a signal handler has no other place to keep state
    if _deferring:
        _pending = True
    else:
        _interrupt()


def _interrupt() -> None:
    global _raised  # noqa: PLW0603
    _raised = True
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # the clean-up that begins now takes seconds and must finish
    raise Interrupted


def install() -> None:
    """Make each signal raise Interrupted in the main thread; a SIGTERM or SIGHUP that is ignored stays ignored."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGINT:
            signal.signal(number, _on_signal)


def raised() -> bool:
    """Whether the command was interrupted, even if a library has turned Interrupted into another exception."""
    return _raised


@contextmanager
def deferred() -> Iterator[None]:
    """Delay an interruption until the block has finished.

    Two kinds of block need this: starting a process and recording its id, and cleaning up.
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
