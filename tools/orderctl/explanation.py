"""Where one order is, and why: its timeline, executions, failures, queues and log lines, and one sentence.

Nothing in here changes anything. Queues are counted and not read: receiving a message hides it and counts towards
its maxReceiveCount.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
from botocore.exceptions import ClientError

from orderctl.stack import executions, logs, records
from orderctl.stack.executions import Execution, HistoryLine
from orderctl.stack.records import DamagedOrder, StoredOrder
from orderctl.stack.target import Target
from orderctl.ui import tables
from orders.domain.clock import timestamp_before
from orders.domain.order import TERMINAL, Order, Status
from orders.inbox.record import SETTLED, FailureRecord, FailureStatus
from orders.workflow import keeps_sweep_away, order_waits_for

SWEEP = "SweepOrdersFunction"
QUEUES = {
    "FulfilmentQueueUrl": "fulfilment",
    "NotificationsQueueUrl": "notifications",
    "FailuresQueueUrl": "failures",
}
LEVELS = frozenset({"INFO", "WARNING", "ERROR", "CRITICAL"})


@dataclass
class Explanation:
    """All that is known of an order: events in time order, messages by queue, failures, and one sentence.

    `unreadable` are the ids of failures that can't be read.
    """

    order: StoredOrder
    lines: list[HistoryLine]
    queues: dict[str, dict[str, int]]
    failures: list[FailureRecord]
    unreadable: list[str]
    sentence: str

    def as_json(self) -> dict[str, Any]:
        """Return the explanation for a program to read."""
        return {
            "order": records.as_json(self.order),
            "events": [vars(line) for line in self.lines],
            "queues": self.queues,
            "failures": msgspec.to_builtins(self.failures),
            **({"unreadableFailures": self.unreadable} if self.unreadable else {}),
            "sentence": self.sentence,
        }


def examine(target: Target, order: StoredOrder, *, with_logs: bool = True) -> Explanation:
    """Gather all that is known of an order; without logs, faster, only the sweep's log is read."""
    failures, unreadable = records.failures_of(target, order.order_id)
    logged = list(log_lines(target, order, None if with_logs else SWEEP))
    arns = [
        *executions.noted(target, order, failures),
        *executions.started_by_sweep(target, order.order_id, logged),
    ]
    known = (executions.read(target, arn) for arn in dict.fromkeys(arns))
    found = sorted((each for each in known if each), key=lambda each: each.lines[0].at if each.lines else "")
    queues = queue_counts(target)
    lines = [
        *_timeline(order),
        *(line for execution in found for line in execution.lines),
        *(
            HistoryLine(entry.at, "failure inbox", _joined(f"{failure.component}: {entry.what}", entry.detail))
            for failure in failures
            for entry in failure.history
        ),
        *(as_line(line) for line in logged if with_logs and line.level in LEVELS),
    ]
    lines.sort(key=lambda line: line.at)
    said = sentence(target, order, found, failures, queues)
    return Explanation(order, lines, queues, failures, unreadable, said)


def _timeline(order: StoredOrder) -> Iterator[HistoryLine]:
    if isinstance(order, Order):
        for entry in order.timeline:
            yield HistoryLine(entry.at, "order", _joined(entry.what, entry.detail))


def _joined(what: str, detail: str | None) -> str:
    return f"{what}: {detail}" if detail else what


def queue_counts(target: Target) -> dict[str, dict[str, int]]:
    """Return how many messages, of all orders, each queue holds: waiting, in flight and delayed."""
    names = {
        "waiting": "ApproximateNumberOfMessages",
        "inFlight": "ApproximateNumberOfMessagesNotVisible",
        "delayed": "ApproximateNumberOfMessagesDelayed",
    }
    counts = {}
    for output, queue in QUEUES.items():
        sqs = target.client("sqs")
        try:
            found = sqs.get_queue_attributes(QueueUrl=target.output(output), AttributeNames=list(names.values()))
        except sqs.exceptions.QueueDoesNotExist:
            continue
        counts[queue] = {name: int(found["Attributes"].get(attribute, 0)) for name, attribute in names.items()}
    return counts


def log_lines(target: Target, order: StoredOrder, only: str | None = None) -> Iterator[logs.LogLine]:
    """Yield the functions' log lines about the order; with `only`, those of one function."""
    groups = {name: group for name, group in logs.groups_of(target, only).items() if name != logs.WORKFLOW}
    return logs.of_order(target, groups, order.order_id, ())(logs_begin_ms(order))


def logs_begin_ms(order: StoredOrder) -> int:
    """Return the time of an order's first possible log line, in milliseconds since 1970; 0 if that isn't known."""
    try:
        return logs.milliseconds(order.placed_at) - 60_000
    except ValueError:
        return 0


def as_line(line: logs.LogLine) -> HistoryLine:
    """Return a log line as an event in the order's life."""
    text = f"{line.level} {line.fields['message']}"
    if "exception_name" in line.fields:
        last = str(line.fields.get("exception", "")).strip().rpartition("\n")[2]
        text += f": {line.fields['exception_name']}: {tables.shorten(last, 200)}"
    return HistoryLine(line.at, f"log of {line.component.removesuffix('Function')}", text)


# ---- The sentence ----------------------------------------------------------------------------------------------


def sentence(
    target: Target,
    order: StoredOrder,
    found: list[Execution],
    failures: list[FailureRecord],
    queues: dict[str, dict[str, int]],
) -> str:
    """Return where the order is and what it waits for, in one sentence. `found` are its executions, oldest first."""
    open_failures = [failure for failure in failures if failure.status not in SETTLED]
    if isinstance(order, DamagedOrder):
        return f"The order's item in the table can't be read ({order.problem})" + _but(target, open_failures)
    if order.status in TERMINAL:
        return _ended(order) + _but(target, open_failures)
    given_up = "Given up by an operator, and to be undone. " if order.given_up else ""
    return given_up + _open(target, order, found, open_failures, queues)


def _open(
    target: Target,
    order: Order,
    found: list[Execution],
    open_failures: list[FailureRecord],
    queues: dict[str, dict[str, int]],
) -> str:
    queue = target.output("FulfilmentQueueArn")
    running = [execution for execution in found if execution.status == "RUNNING"]
    if running:
        return _running(target, running[-1], queues) + _but(target, open_failures)
    waited_for = [failure for failure in open_failures if order_waits_for(failure, queue)]
    if stuck := [failure for failure in waited_for if failure.status is FailureStatus.NEW]:
        failure = stuck[-1]
        return (
            f"Stuck since {failure.last_seen_at} in the failure inbox, status {order.status}: "
            f"{failure.component} failed with {failure.error_name}: {failure.error_message.rstrip('.')}; "
            f"once that is mended: {target.command('failures redrive ' + failure.failure_id)}"
        )
    promise_s = promise_seconds(target)
    since = timestamp_before(promise_s) if promise_s else "0"
    if redriven := [
        failure
        for failure in waited_for
        if keeps_sweep_away(failure, fulfilment_queue_arn=queue, redriven_since=since)
    ]:
        return f"Redriven at {redriven[-1].claimed_at}, and not yet back in a workflow."
    after = f", about {tables.duration(promise_s)} after it was placed" if promise_s else ""
    swept = f". Once it is overdue{after}, the sweep starts it again."
    if not found:
        return f"Placed {tables.age(order.placed_at)} ago; its event has not started a workflow yet{swept}"
    return f"Nobody is at work on it: its last workflow has ended, the order is {order.status}{swept}"


def promise_seconds(target: Target) -> float | None:
    """Return after how many seconds the deployed sweep restarts an open order; None if AWS does not tell."""
    try:
        found = target.client("lambda").get_function_configuration(FunctionName=target.output(SWEEP))
    except ClientError:
        return None
    promise = found.get("Environment", {}).get("Variables", {}).get("ORDER_PROMISE_SECONDS")
    return float(promise) if promise else None


def _ended(order: Order) -> str:
    at = order.updated_at
    match order.status:
        case Status.FULFILLED:
            return f"Fulfilled at {at}: paid and shipped"
        case Status.CANCELLED:
            return f"Cancelled at {at} by the customer"
    reason = f"{order.reason.code}: {order.reason.message}" if order.reason else "no reason is recorded"
    return f"Failed at {at}, with everything undone: {reason}"


def _but(target: Target, failures: list[FailureRecord]) -> str:
    """Return the end of the sentence: a full stop, or the newest open failure and the command to redrive it."""
    if not failures:
        return "."
    failure = failures[-1]
    what = f"{failure.component} failed with {failure.error_name} ({failure.error_message.rstrip('.')})"
    if failure.status is FailureStatus.REDRIVEN:
        return f"; {what} and was redriven at {failure.claimed_at}."
    more = f", and {len(failures) - 1} more" if len(failures) > 1 else ""
    return f"; but {what}{more}: {target.command('failures redrive ' + failure.failure_id)}"


def _running(target: Target, execution: Execution, queues: dict[str, dict[str, int]]) -> str:
    at = execution.attempts
    if at.errors and at.waiting_since:
        error, message = at.errors[-1]
        due = executions.next_attempt(target, execution)
        times = {1: "once", 2: "twice"}.get(len(at.errors), f"{len(at.errors)} times")
        return (
            f"Waiting for {at.state}'s {_ordinal(len(at.errors) + 1)} attempt{', ' + due if due else ''}: "
            f"it failed {times}, the last time with {error}: {message.rstrip('.')}"
        )
    since = tables.age(at.entered_at) if at.entered_at else "a moment"
    if at.state == "FulfillOrder":
        queue = queues.get("fulfilment", {"waiting": 0, "inFlight": 0})
        return (
            f"Waiting for the warehouse for {since}: its message went to the fulfilment queue, which has "
            f"{queue['waiting']} messages waiting and {queue['inFlight']} in flight"
        )
    tries = f", {_ordinal(len(at.errors) + 1)} attempt" if at.errors else ""
    return f"In {at.state or 'the workflow'} for {since}{tries}"


def _ordinal(number: int) -> str:
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
