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
from orders.domain.clock import seconds_since, timestamp_before
from orders.domain.order import TERMINAL, Order, Status
from orders.inbox.record import SETTLED, FailureRecord, FailureStatus
from orders.workflow import keeps_sweep_away, order_waits_for

SWEEP = "SweepOrdersFunction"
# The sweep's settings: how long after its last change an order stands still, in seconds.
PATIENCE = "ORDER_PROMISE_SECONDS"
PATIENCE_WAREHOUSE = "ORDER_PROMISE_SECONDS"
NEVER_S = 365 * 86400.0
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
    """Gather all that is known of an order; without logs, faster, only the logs that tell of executions are read."""
    failures, unreadable = records.failures_of(target, order.order_id)
    groups = logs.groups_of(target)
    if not with_logs:
        groups = {name: group for name, group in groups.items() if name in {logs.VALIDATE, logs.WORKFLOW}}
    read = logs.of_order(target, groups, order.order_id, executions.ids_in(failures))
    logged = list(read(logs_begin_ms(order)))
    found = executions.read(order.order_id, logged, failures)
    queues = queue_counts(target)
    lines = [
        *_timeline(order),
        *(line for execution in found for line in execution.lines),
        *(
            HistoryLine(entry.at, "failure inbox", _joined(f"{failure.component}: {entry.what}", entry.detail))
            for failure in failures
            for entry in failure.history
        ),
        *(as_line(line) for line in logged if with_logs and line.level in LEVELS and not line.execution),
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
    return _given_up(order) + _open(target, order, found, open_failures, queues)


def _given_up(order: Order) -> str:
    if order.status is Status.FAILING:
        return f"Given up at {order.updated_at} ({_reason(order)}), and to be undone. "
    if order.given_up:  # by release 1.0.0
        return "Given up by an operator, and to be undone. "
    return ""


def _open(
    target: Target,
    order: Order,
    found: list[Execution],
    open_failures: list[FailureRecord],
    queues: dict[str, dict[str, int]],
) -> str:
    queue = target.output("FulfilmentQueueArn")
    waited_for = [failure for failure in open_failures if order_waits_for(failure, queue)]
    stuck = [failure for failure in waited_for if failure.status is FailureStatus.NEW]
    # An execution that began before the order was given up does not undo the order.
    working = [each for each in found if order.status is not Status.FAILING or each.begun_at >= order.updated_at]
    last = working[-1] if working else None
    if last and last.may_run and not _is_later(stuck, last) and _shows_work(order, last):
        return _running(target, last) + _but(target, open_failures)
    if stuck:
        return _stuck(target, order, stuck[-1])
    since = timestamp_before(sweeps_patience(target, order) or NEVER_S)
    if redriven := [
        failure
        for failure in waited_for
        if keeps_sweep_away(failure, fulfilment_queue_arn=queue, redriven_since=since)
        and (last is None or str(failure.claimed_at) > last.begun_at)
    ]:
        return f"Redriven at {redriven[-1].claimed_at}, and not yet back in a workflow."
    return _waits(order, last, queues) + _swept(target, order)


def _is_later(stuck: list[FailureRecord], execution: Execution) -> bool:
    return any(failure.last_seen_at > execution.begun_at for failure in stuck)


def _shows_work(order: Order, execution: Execution) -> bool:
    """Whether an execution works on the order, as far as is known.

    A log of failures only does not tell the end of an execution that goes well: it has ended soon after the payment.
    """
    return bool(execution.attempts.state) or order.status is not Status.PAID


def _waits(order: Order, last: Execution | None, queues: dict[str, dict[str, int]]) -> str:
    """Return what an open order waits for, of which no work and no failure is known; no full stop."""
    if order.status is Status.PAID:
        queue = queues.get("fulfilment", {"waiting": 0, "inFlight": 0})
        return (
            f"Waiting for the warehouse for {tables.age(order.updated_at)}: the fulfilment queue has "
            f"{queue['waiting']} messages waiting and {queue['inFlight']} in flight"
        )
    if last:
        return f"Nobody is at work on it: its last workflow has ended, the order is {order.status}"
    if order.status is Status.FAILING:
        return "Its event has not started a workflow yet"
    return f"Placed {tables.age(order.placed_at)} ago; its event has not started a workflow yet"


def _stuck(target: Target, order: Order, failure: FailureRecord) -> str:
    return (
        f"Stuck since {failure.last_seen_at} in the failure inbox, status {order.status}: "
        f"{failure.component} failed with {failure.error_name}: {failure.error_message.rstrip('.')}; "
        f"once that is mended: {target.command('failures redrive ' + failure.failure_id)}"
    )


def _swept(target: Target, order: Order) -> str:
    """Return the end of the sentence: when the sweep starts the order's workflow again."""
    patience_s = sweeps_patience(target, order)
    if patience_s is None:
        return ". The sweep starts it again once it has stood still for long."
    left_s = patience_s - seconds_since(max(order.updated_at, order.swept_at or ""))
    when = f"in about {tables.duration(left_s)}" if left_s > 0 else "in its next run"
    times = f", for the {_ordinal(order.restarts + 1)} time" if order.restarts else ""
    return f". If nothing happens, the sweep starts it again {when}{times}."


def sweeps_patience(target: Target, order: Order) -> float | None:
    """Return after how many seconds without a change the deployed sweep restarts an order; None if AWS is silent."""
    try:
        found = target.client("lambda").get_function_configuration(FunctionName=target.output(SWEEP))
    except ClientError:
        return None
    variables = found.get("Environment", {}).get("Variables", {})
    patience = variables.get(PATIENCE_WAREHOUSE if order.status is Status.PAID else PATIENCE)
    return float(patience) if patience else None


def _ended(order: Order) -> str:
    at = order.updated_at
    match order.status:
        case Status.FULFILLED:
            return f"Fulfilled at {at}: paid and shipped"
        case Status.CANCELLED:
            return f"Cancelled at {at} by the customer"
    return f"Failed at {at}, with everything undone: {_reason(order)}"


def _reason(order: Order) -> str:
    return f"{order.reason.code}: {order.reason.message}" if order.reason else "no reason is recorded"


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


def _running(target: Target, execution: Execution) -> str:
    at = execution.attempts
    times = {1: "once", 2: "twice"}.get(len(at.errors), f"{len(at.errors)} times")
    if at.state and at.errors and at.waiting_since:
        error, message = at.errors[-1]
        due = executions.next_attempt(target, at)
        return (
            f"Waiting for {at.state}'s {_ordinal(len(at.errors) + 1)} attempt{', ' + due if due else ''}: "
            f"it failed {times}, the last time with {error}: {message.rstrip('.')}"
        )
    if at.state:
        tries = f", {_ordinal(len(at.errors) + 1)} attempt" if at.errors else ""
        return f"In {at.state} for {tables.age(at.entered_at)}{tries}"
    began = f"A workflow took it up {tables.age(execution.begun_at)} ago"
    if at.errors:
        error, message = at.errors[-1]
        began += f" and failed {times} so far, the last time with {error}: {message.rstrip('.')}"
    return began


def _ordinal(number: int) -> str:
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
