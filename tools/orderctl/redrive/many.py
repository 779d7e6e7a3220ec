"""Redrive many failures: at which rate, how many at once, and when a redrive stops by itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from orderctl import interrupts
from orderctl.stack import records
from orderctl.stack.target import Target
from orders.domain.clock import timestamp
from orders.inbox.record import FailureStatus
from orders.inbox.store import FailuresTable
from orders.redrive.sending import Outcome, Sender, redrive_one

WORKERS = 8
# A redrive stops when more than this share of its payloads could not be sent or have failed again. The share counts
# from the tenth payload on.
LEAST_BEFORE_STOP = 10
TOLERATED_SHARE = 0.2
CHECK_EVERY_S = 3.0


@dataclass
class Run:
    """A redrive of many failures: outcomes, how many failed again, and why the redrive stopped ("" if it did not)."""

    outcomes: list[Outcome] = field(default_factory=list)
    came_back: int = 0
    stopped: str = ""

    def count(self, result: str) -> int:
        """Return how many failures have this result."""
        return sum(outcome.result == result for outcome in self.outcomes)

    def as_json(self) -> dict[str, Any]:
        """Return the redrive for a program to read."""
        counts = {result: self.count(result) for result in ("redriven", "resolved", "refused", "failed")}
        return {
            **counts,
            "cameBack": self.came_back,
            "stopped": self.stopped or None,
            "outcomes": [outcome.as_json() for outcome in self.outcomes],
        }


class Pace:
    """Spaces actions evenly, at most `rate` a second."""

    def __init__(self, rate: float) -> None:
        self._interval = 1 / rate
        self._next = time.monotonic()

    def wait(self) -> None:
        """Wait until the next action is due."""
        self._next = max(self._next + self._interval, time.monotonic() - 1)
        time.sleep(max(0.0, self._next - time.monotonic()))


def sender_of(target: Target) -> Sender:
    """Return what sends payloads in this stack."""
    return Sender(
        target.client,
        orders_table=target.output("OrdersTable"),
        fulfilment_queue_arn=target.output("FulfilmentQueueArn"),
        state_machine_arn=target.output("StateMachineArn"),
        publish_events=target.output("PublishEventsFunction"),
    )


def redrive_many(
    target: Target,
    failure_ids: Iterable[str],
    by: str,
    *,
    rate: float,
    again: bool = False,
    progress: Callable[[Run], None] = lambda _: None,
    run: Run | None = None,
) -> Run:
    """Redrive at most `rate` failures a second; stop when too many can't be sent or fail again.

    After an interruption, the caller finds the outcomes so far in the `run` that was passed in.
    """
    table = records.failures_table(target)
    for service in ("dynamodb", "sqs", "lambda", "stepfunctions", "events"):
        target.client(service)  # creating a client is not thread-safe
    run = Run() if run is None else run
    sender = sender_of(target)
    pace = Pace(rate)
    watch = ComeBacks(table)
    begun: list[Future[Outcome]] = []
    try:
        with ThreadPoolExecutor(WORKERS) as pool:
            under_way: set[Future[Outcome]] = set()
            for failure_id in failure_ids:
                pace.wait()
                with interrupts.deferred():
                    begun.append(pool.submit(redrive_one, sender, table, failure_id, by, again=again))
                under_way.add(begun[-1])
                if len(under_way) >= WORKERS:
                    done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                    run.outcomes += [future.result() for future in done]
                run.came_back = watch.count({each.failure_id for each in run.outcomes if each.result == "redriven"})
                run.stopped = _reason_to_stop(run)
                progress(run)
                if run.stopped:
                    break
    finally:
        run.outcomes = [future.result() for future in begun]
    progress(run)
    return run


def _reason_to_stop(run: Run) -> str:
    tried = len(run.outcomes)
    failed = run.count("failed")
    if tried >= LEAST_BEFORE_STOP and failed + run.came_back > tried * TOLERATED_SHARE:
        return f"of {tried} redriven, {failed} could not be sent and {run.came_back} have failed again"
    return ""


class ComeBacks:
    """Counts the redriven failures that are NEW again; reads the table at most every CHECK_EVERY_S seconds."""

    def __init__(self, table: FailuresTable) -> None:
        self._table = table
        self._since = timestamp()
        self._checked = time.monotonic()
        self._last = 0

    def count(self, redriven: set[str]) -> int:
        """Return how many of these failure ids have failed again since this object was made."""
        if time.monotonic() - self._checked >= CHECK_EVERY_S:
            self._checked = time.monotonic()
            back = {record.failure_id for record in self._table.with_status(FailureStatus.NEW, since=self._since)}
            self._last = len(back & redriven)
        return self._last
