"""Where one order is, and why: its timeline, executions, failures, queues and log lines, and one sentence.

Nothing in here changes anything. Queues are counted and not read: receiving a message hides it and counts towards
its maxReceiveCount.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from botocore.exceptions import ClientError

from orderctl.redrive import healing
from orderctl.stack import executions, logs, records
from orderctl.stack.executions import Execution, HistoryLine
from orderctl.stack.records import DamagedOrder, StoredOrder
from orderctl.stack.target import Target
from orderctl.ui import tables
from orders.domain.clock import seconds_since, timestamp_before
from orders.domain.order import TERMINAL, Order, Status
from orders.inbox.healing import Outlook
from orders.inbox.record import SETTLED, FailureRecord, FailureStatus
from orders.workflow import RESTARTS_IN_VAIN, keeps_sweep_away, order_waits_for

SWEEP = "SweepOrdersFunction"
# The sweep's settings, in seconds: how long an order may stand still, and how long a PAID one may.
PROMISE = "ORDER_PROMISE_SECONDS"
PAID_PROMISE = "WAREHOUSE_PROMISE_SECONDS"
QUEUES = {
    "FulfilmentQueueUrl": "fulfilment",
    "NotificationsQueueUrl": "notifications",
    "FailuresQueueUrl": "failures",
}
LEVELS = frozenset({"INFO", "WARNING", "ERROR", "CRITICAL"})


@dataclass
class Known:
    """What the sentence about an order is made of: executions and failures, oldest first, and messages by queue.

    `outlooks` says by failure id whether a failure heals by itself.
    """

    executions: list[Execution] = field(default_factory=list)
    failures: list[FailureRecord] = field(default_factory=list)
    queues: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    outlooks: Mapping[str, Outlook] = field(default_factory=dict)


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
    outlooks = healing.outlooks(target, records.failures_table(target), failures)
    said = sentence(target, order, Known(found, failures, queues, outlooks))
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


def sentence(target: Target, order: StoredOrder, known: Known) -> str:
    """Return where the order is, what it waits for and what to type, in one sentence or a few."""
    open_failures = [failure for failure in known.failures if failure.status not in SETTLED]
    if isinstance(order, DamagedOrder):
        return f"The order's item in the table can't be read ({order.problem})" + _but(target, open_failures)
    if order.status in TERMINAL:
        return _ended(order) + _but(target, open_failures)
    return _given_up(order) + _open(target, order, known, open_failures)


def _given_up(order: Order) -> str:
    if order.status is Status.FAILING:
        return f"Given up at {order.updated_at} ({_reason(order)}), and to be undone. "
    if order.given_up:  # by release 1.0.0
        return "Given up by an operator, and to be undone. "
    return ""


def _open(target: Target, order: Order, known: Known, open_failures: list[FailureRecord]) -> str:
    queue = target.output("FulfilmentQueueArn")
    waited_for = [failure for failure in open_failures if order_waits_for(failure, queue)]
    stuck = [failure for failure in waited_for if failure.status is FailureStatus.NEW]
    # An execution that began before the order was given up does not undo the order.
    undoes = order.status is Status.FAILING
    working = [each for each in known.executions if not undoes or each.begun_at >= order.updated_at]
    last = working[-1] if working else None
    if last and last.may_run and not _is_later(stuck, last) and _shows_work(order, last):
        return _running(target, last) + _but(target, open_failures)
    if stuck:
        return _stuck(target, order, stuck[-1], known.outlooks.get(stuck[-1].failure_id))
    promise_s = sweeps_promise(target, order)
    since = timestamp_before(promise_s) if promise_s else ""
    if redriven := [
        failure
        for failure in waited_for
        if keeps_sweep_away(failure, fulfilment_queue_arn=queue, redriven_since=since)
        and (last is None or str(failure.claimed_at) > last.begun_at)
    ]:
        return f"Redriven at {redriven[-1].claimed_at}, and not yet back in a workflow."
    return _waits(order, last, known.queues) + _swept(order, promise_s)


def _is_later(stuck: list[FailureRecord], execution: Execution) -> bool:
    return any(failure.last_seen_at > execution.begun_at for failure in stuck)


def _shows_work(order: Order, execution: Execution) -> bool:
    """Whether an execution works on the order, as far as is known.

    A log of failures only does not tell the end of an execution that goes well: it has ended soon after the payment.
    """
    return bool(execution.attempts.state) or order.status is not Status.PAID


def _waits(order: Order, last: Execution | None, queues: Mapping[str, Mapping[str, int]]) -> str:
    """Return what an open order waits for, of which no work and no failure is known; no full stop."""
    if order.status is Status.PAID and not (last and last.failed):
        queue = queues.get("fulfilment", {"waiting": 0, "inFlight": 0})
        return (
            f"Waiting for the warehouse for {tables.age(order.updated_at)}: the fulfilment queue has "
            f"{queue['waiting']} messages waiting and {queue['inFlight']} in flight"
        )
    if last:
        end = "failed" if last.failed else "ended"
        return f"Nobody is at work on it: its last workflow has {end}, the order is {order.status}"
    if order.status is Status.FAILING:
        return "Its event has not started a workflow yet"
    return f"Placed {tables.age(order.placed_at)} ago; its event has not started a workflow yet"


def _stuck(target: Target, order: Order, failure: FailureRecord, outlook: Outlook | None) -> str:
    what = (
        f"Stuck since {failure.last_seen_at} in the failure inbox, status {order.status}: "
        f"{failure.component} failed with {failure.error_name}: {failure.error_message.rstrip('.')}; "
    )
    redrive = target.command(f"failures redrive {failure.failure_id}")
    if outlook is None or outlook.human:
        return f"{what}once that is mended: {redrive}"
    if outlook.hold:
        return f"{what}held by {outlook.hold.by} since {outlook.hold.at}; once that is mended: {redrive}"
    due = f"not before {outlook.not_before}" if outlook.not_before else "within a minute or two"
    return f"{what}it is redriven by itself, next {due}; at once: {redrive}"


def _swept(order: Order, promise_s: float | None) -> str:
    """Return the end of the sentence: when the sweep does what. `promise_s` is its promise, None if not known."""
    if promise_s is None:
        return ". If nothing happens, the sweep finds it."
    left_s = promise_s - seconds_since(max(order.updated_at, order.swept_at or ""))
    when = f"in about {tables.duration(left_s)}" if left_s > 0 else "in one of its next runs"
    in_vain = order.restarts if order.swept_at and order.swept_at > order.updated_at else 0
    if in_vain >= RESTARTS_IN_VAIN:
        return f". The sweep has restarted it {in_vain} times in vain, and gives it to the failure inbox {when}."
    times = f", for the {_ordinal(in_vain + 1)} time" if in_vain else ""
    return f". If nothing happens, the sweep restarts it {when}{times}."


def sweeps_promise(target: Target, order: Order) -> float | None:
    """Return after how many seconds without a change the deployed sweep restarts an order; None if AWS is silent."""
    try:
        found = target.client("lambda").get_function_configuration(FunctionName=target.output(SWEEP))
    except ClientError:
        return None
    variables = found.get("Environment", {}).get("Variables", {})
    promise = variables.get(PAID_PROMISE if order.status is Status.PAID else PROMISE)
    return float(promise) if promise else None


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
