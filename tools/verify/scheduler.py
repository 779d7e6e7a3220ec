"""A deterministic scheduler: concurrent work in an order that a test chooses.

A process is an invocation of a function or an execution of the workflow. It runs in a thread of its own, but only
while the test steps it, and stops before each call to a service. So a test can play any interleaving and put a crash
between any two calls, and the same choices give the same run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import StrEnum
from typing import Any


class CallOutcome(StrEnum):
    """What becomes of the call that a process is about to make."""

    GO = "go"
    CRASH = "crash"  # the process dies before the call
    REFUSED = "refused"  # the service throttles: the call is not carried out
    LOST = "lost"  # the call is carried out, but its answer is an error
    TWICE = "twice"  # the answer was lost, and the SDK has retried the same request
    PARTIAL = "partial"  # a batch call fails for some entries, without raising
    CONFLICT = "conflict"  # a transaction is cancelled because another transaction touches the same items
    TIMEOUT = "timeout"  # the state times out, while the call that it has started goes on
    ABORT = "abort"  # somebody stops the execution


class Crash(BaseException):
    """The process of a function dies. Not an Exception, because no code of the function handles it."""


class Aborted(BaseException):
    """Somebody stops the execution."""


class _Abandoned(BaseException):
    """The test is over."""


_current = threading.local()


class Process:
    """Concurrent work; `point` names the call that it is about to make, None once it has ended."""

    def __init__(self, name: str, work: Callable[[], Any], at_end: Callable[[Process], None] | None = None) -> None:
        self.name = name
        self.point: str | None = "start"
        self.result: Any = None
        self.error: BaseException | None = None
        self.children: list[Process] = []
        self._work = work
        self._at_end = at_end
        self._outcome: CallOutcome | None = CallOutcome.GO
        self._go = threading.Semaphore(0)
        self._stopped = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether the process has ended, with a result or an error."""
        return self.point is None

    def step(self, outcome: CallOutcome = CallOutcome.GO) -> None:
        """Let the process make its next call, with this outcome, and run up to the call after it."""
        if self.done:
            return
        self._hand_over(outcome)
        if self.done and self._at_end:
            self._at_end(self)

    def finish(self) -> None:
        """Step to the end without faults."""
        while not self.done:
            self.step()

    def abandon(self) -> None:
        """End the thread; the call that it was about to make never happens."""
        if not self.done:
            self._hand_over(None)
            self._thread.join()

    def pause(self, point: str) -> CallOutcome:
        """Wait, inside the process, until the test says what becomes of the next call."""
        self.point = point
        self._stopped.release()
        self._go.acquire()
        if self._outcome is None:
            raise _Abandoned
        return self._outcome

    def _hand_over(self, outcome: CallOutcome | None) -> None:
        self._outcome = outcome
        self._go.release()
        self._stopped.acquire()

    def _run(self) -> None:
        self._go.acquire()
        _current.process = self
        try:
            if self._outcome is not None:
                self.result = self._work()
        except _Abandoned:
            pass
        except BaseException as error:  # the test judges the error
            self.error = error
        finally:
            self.point = None
            self._stopped.release()


def pause(point: str) -> CallOutcome:
    """Stop the running process before the call that `point` names; GO outside of a process."""
    process: Process | None = getattr(_current, "process", None)
    return process.pause(point) if process else CallOutcome.GO


def stepped() -> bool:
    """Whether the caller runs in a process, which a test steps."""
    return getattr(_current, "process", None) is not None
