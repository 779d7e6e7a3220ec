"""Things that happen at the same time, made to happen in an order that a test chooses.

An actor is a piece of the system at work: an invocation of a function, or an execution of the workflow. It runs
in a thread of its own, but only while it is stepped, and stops before each call that it makes to a service. So
any interleaving can be played, a crash can be put between any two calls, and the same choices give the same run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """What becomes of the call that an actor is about to make."""

    GO = "go"
    CRASH = "crash"  # the process dies before the call
    REFUSED = "refused"  # the service throttles: the call is not carried out
    LOST = "lost"  # the call is carried out, but its answer is an error
    TWICE = "twice"  # the answer was lost, and the SDK has sent the same request once more
    PARTIAL = "partial"  # a batch call fails for some entries, without raising
    CONFLICT = "conflict"  # a transaction is cancelled because another one touches the same items
    TIMEOUT = "timeout"  # a state doesn't wait any longer for what it has started, which goes on
    ABORT = "abort"  # somebody stops the execution


class Crash(BaseException):
    """The process of a function dies. Not an Exception, because no code of ours gets to handle it."""


class Aborted(BaseException):
    """An execution is stopped from outside."""


class _Abandoned(BaseException):
    """The test is over."""


_current = threading.local()


class Actor:
    """Something at work; `point` names what it is about to do, None once it has ended."""

    def __init__(self, name: str, work: Callable[[], Any], at_end: Callable[[Actor], None] | None = None) -> None:
        self.name = name
        self.point: str | None = "start"
        self.result: Any = None
        self.error: BaseException | None = None
        self.children: list[Actor] = []
        self._work = work
        self._at_end = at_end
        self._verdict: Verdict | None = Verdict.GO
        self._go = threading.Semaphore(0)
        self._stopped = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self.point is None

    def step(self, verdict: Verdict = Verdict.GO) -> None:
        """Let it make its next call, with this outcome, and run on to the one after."""
        if self.done:
            return
        self._hand_over(verdict)
        if self.done and self._at_end:
            self._at_end(self)

    def finish(self) -> None:
        """Step to the end without faults."""
        while not self.done:
            self.step()

    def abandon(self) -> None:
        """End the thread; what it was about to do never happens."""
        if not self.done:
            self._hand_over(None)
            self._thread.join()

    def pause(self, point: str) -> Verdict:
        """Called from inside: wait until the test says what becomes of the next call."""
        self.point = point
        self._stopped.release()
        self._go.acquire()
        if self._verdict is None:
            raise _Abandoned
        return self._verdict

    def _hand_over(self, verdict: Verdict | None) -> None:
        self._verdict = verdict
        self._go.release()
        self._stopped.acquire()

    def _run(self) -> None:
        self._go.acquire()
        _current.actor = self
        try:
            if self._verdict is not None:
                self.result = self._work()
        except _Abandoned:
            pass
        except BaseException as error:  # the test decides what an error means
            self.error = error
        finally:
            self.point = None
            self._stopped.release()


def pause(point: str) -> Verdict:
    """Stop the actor that is running before what it is about to do; GO where no actor runs."""
    actor: Actor | None = getattr(_current, "actor", None)
    return actor.pause(point) if actor else Verdict.GO
