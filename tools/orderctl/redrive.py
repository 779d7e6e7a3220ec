"""Redrive and discard failures: where each payload is sent, at which rate, and when a redrive stops.

A redrive claims the failure in the table, sends the payload, then confirms the claim. So only one of two operators
who redrive the same failure sends the payload. A process that dies in between leaves an unconfirmed claim, which
another redrive may take over after `CLAIM_LEASE_S`. The duplicate that may follow is harmless: every consumer is
idempotent, and an execution's name comes from the redrive.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import msgspec
from botocore.exceptions import BotoCoreError, ClientError

from orderctl import interrupts
from orderctl.stack import records
from orderctl.stack.records import DamagedOrder, StoredOrder
from orderctl.stack.target import Target
from orders.domain.clock import timestamp
from orders.domain.errors import Contended, NotAllowed
from orders.domain.order import DISCARDED, TERMINAL, undoing_of
from orders.inbox.parse import component_of
from orders.inbox.record import SETTLED, Action, FailureRecord, FailureStatus
from orders.inbox.store import FailuresTable
from orders.workflow import order_waits_for, redrive_execution_name, resume_input

WORKERS = 8
# A redrive stops when more than this share of its payloads could not be sent or have failed again. The share counts
# from the tenth payload on.
LEAST_BEFORE_STOP = 10
TOLERATED_SHARE = 0.2
CHECK_EVERY_S = 3.0


class CannotSend(Exception):
    """The payload can't be sent; the message says why."""


def describe(record: FailureRecord) -> str:
    """Return what a redrive of this failure does, as a phrase that follows "would"."""
    name = record.redrive.to.rpartition(":")[2]
    match record.redrive.action:
        case Action.SEND:
            return f"send the message to the queue {name}"
        case Action.INVOKE:
            return f"invoke the function {name} with the event"
        case Action.DELIVER:
            return f"deliver the event to {name}, with the input that its rule gives it"
        case Action.PUBLISH:
            return "publish the order's event, as the stream's record or, after a repair, the order's item says"
        case Action.RESUME:
            return f"start the workflow {name} at the present status of order {record.order_id}"
    return "do nothing: the payload's destination is unknown"


Rules = dict[str, list[dict[str, Any]]]
"""A cache of rules' targets with their input settings, by the rule's ARN: the API allows few calls a second."""


def send(target: Target, record: FailureRecord, payload: str, rules: Rules) -> tuple[str, bool]:
    """Send a claimed failure's payload to its destination.

    Returns a description of what was done, and whether that settles the failure. Raises CannotSend, and botocore's
    ClientError if AWS refuses.
    """
    if record.payload_encoding == "base64":
        raise CannotSend("the payload is not valid text, so it can't be sent; look at it with `failures show`")
    to = record.redrive.to
    match record.redrive.action:
        case Action.SEND if to == target.outputs.get("FulfilmentQueueArn") and _is_given_up(target, record):
            raise CannotSend("the order was given up: discard this failure, too")
        case Action.SEND:
            return _send_message(target, to, payload), False
        case Action.INVOKE:
            return _invoke(target, to, payload), False
        case Action.DELIVER:
            return _deliver(target, record, payload, rules), False
        case Action.PUBLISH:
            return _publish(target, payload), True
        case Action.RESUME:
            return _resume(target, record, payload)
    raise CannotSend(
        record.note or "the payload's destination is unknown: process it by hand, then discard the failure"
    )


def _is_given_up(target: Target, record: FailureRecord) -> bool:
    order = _order_of(target, record)
    return bool(order and order.given_up)


def _order_of(target: Target, record: FailureRecord) -> StoredOrder | None:
    return records.find_order(target, record.order_id) if record.order_id else None


def _send_message(target: Target, queue_arn: str, body: str) -> str:
    _, _, _, _, account, name = queue_arn.split(":")
    sqs = target.client("sqs")
    url = sqs.get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account)["QueueUrl"]
    message_id = sqs.send_message(QueueUrl=url, MessageBody=body)["MessageId"]
    return f"sent to queue {name} as message {message_id}"


def _invoke(target: Target, function_arn: str, payload: str) -> str:
    target.client("lambda").invoke(FunctionName=function_arn, InvocationType="Event", Payload=payload.encode())
    return f"invoked {function_arn.rpartition(':')[2]}"


def _deliver(target: Target, record: FailureRecord, event: str, rules: Rules) -> str:
    """Deliver as the rule does; the dead letter holds the event before the rule's input settings were applied."""
    arn = record.redrive.to
    given = _input_of(target, record, event, rules)
    match arn.split(":")[2]:
        case "sqs":
            return _send_message(target, arn, given)
        case "lambda":
            return _invoke(target, arn, given)
        case "states":
            return _start(target, arn, redrive_execution_name(record, "again"), given)
    raise CannotSend(f"orderctl can't deliver to a target such as {arn}")


def _targets_of(target: Target, rule: str) -> list[dict[str, Any]]:
    bus, _, name = rule.partition(":rule/")[2].rpartition("/")
    events = target.client("events")
    try:
        found: list[dict[str, Any]] = events.list_targets_by_rule(
            Rule=name, **({"EventBusName": bus} if bus else {})
        )["Targets"]
    except events.exceptions.ResourceNotFoundException:
        raise CannotSend(f"the rule {name} is gone, and so are its input settings") from None
    return found


def _input_of(target: Target, record: FailureRecord, event: str, rules: Rules) -> str:
    """Return the target's input as the rule makes it; CannotSend if the rule is gone or transforms the input."""
    rule = record.redrive.rule
    targets = rules[rule] if rule in rules else rules.setdefault(rule, _targets_of(target, rule))
    settings: dict[str, Any] = next((each for each in targets if each["Arn"] == record.redrive.to), {})
    if "InputTransformer" in settings:
        raise CannotSend(f"the rule {rule} transforms its input, which orderctl can't repeat; use `orderctl replay`")
    if "Input" in settings:
        return str(settings["Input"])
    path = settings.get("InputPath", "$")
    if path == "$":
        return event
    value: Any = json.loads(event)
    for part in path.split(".")[1:]:
        value = value[part]
    return json.dumps(value)


def _publish(target: Target, payload: str) -> str:
    """Run publish_events on the stream record; on the present item, if that still has the record's version."""
    record = json.loads(payload)
    change = record["dynamodb"]
    present = target.client("dynamodb").get_item(
        TableName=target.output("OrdersTable"), Key=change["Keys"], ConsistentRead=True
    )
    if "Item" not in present:
        raise CannotSend("the order is no longer in the table")
    if change.get("NewImage", {}).get("version") in (None, present["Item"].get("version")):
        record["dynamodb"] = {**change, "NewImage": present["Item"]}
    given = {"Records": [record], "redrive": True}
    answer = target.client("lambda").invoke(
        FunctionName=target.output("PublishEventsFunction"), Payload=json.dumps(given).encode()
    )
    said = answer["Payload"].read().decode()
    if answer.get("FunctionError"):
        raise CannotSend(f"publish_events failed: {said[:300]}")
    result = json.loads(said)
    if result.get("unreadable"):
        raise CannotSend(f"publish_events still can't read it: {result['unreadable'][0][:300]}")
    if result["batchItemFailures"]:
        raise CannotSend("the bus did not take the event")
    return "published by publish_events"


def _resume(target: Target, record: FailureRecord, payload: str) -> tuple[str, bool]:
    order = _order_of(target, record)
    if order and order.status in TERMINAL:
        return f"nothing to do: the order is {order.status}", True
    name = redrive_execution_name(record, "resume")
    return _start(target, record.redrive.to, name, workflow_input(record, payload)), False


def workflow_input(record: FailureRecord, payload: str) -> str:
    """Return the input, as JSON, of an execution that goes on from the order's present status.

    `payload` is the failed execution's input. If that can't be used, the record's ids replace it. Raises CannotSend
    if the record has none.
    """
    try:
        given = json.loads(payload)
    except ValueError:
        given = None
    if not isinstance(given, dict) or not {"data", "metadata"} <= given.keys():
        if not (record.order_id and record.customer_id):
            raise CannotSend("the execution's input names no order and no customer")
        given = {
            "metadata": {"correlationId": record.correlation_id or record.order_id},
            "data": {"orderId": record.order_id, "customerId": record.customer_id},
        }
    return json.dumps({"metadata": given["metadata"], "data": given["data"], "path": "resume"})


def _start(target: Target, machine_arn: str, name: str, given: str) -> str:
    states = target.client("stepfunctions")
    try:
        states.start_execution(stateMachineArn=machine_arn, name=name, input=given)
    except states.exceptions.ExecutionAlreadyExists:
        return f"execution {name} was started before"
    return f"started execution {name}"


@dataclass
class Outcome:
    """The result for one failure: "redriven", "resolved", "discarded", "refused" (nothing was sent) or "failed".

    `order_id` is the failure's order, None if unknown. `given_up` says that a discard has given that order up.
    """

    failure_id: str
    result: str
    detail: str
    order_id: str | None = None
    given_up: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the result for a program to read."""
        return {
            "failureId": self.failure_id,
            "orderId": self.order_id,
            "result": self.result,
            "detail": self.detail,
        }


def redrive_one(
    target: Target, table: FailuresTable, failure_id: str, by: str, *, rules: Rules, again: bool = False
) -> Outcome:
    """Claim a failure, send its payload, confirm the claim. `again` redrives also what was redriven before."""
    try:
        claim = table.claim(failure_id, by=by, again=again)
    except (NotAllowed, LookupError, Contended) as error:
        return Outcome(failure_id, "refused", str(error))
    except ValueError as error:
        return Outcome(failure_id, "refused", f"it can't be read: {error}")
    try:
        done, settles = send(target, claim, table.payload_of(claim), rules)
    except (CannotSend, ClientError, BotoCoreError, ValueError, LookupError, TypeError) as error:
        table.release(claim, f"{type(error).__name__}: {error}"[:500])
        return Outcome(failure_id, "failed", str(error), claim.order_id)
    confirmed = table.confirm(claim, done)
    if settles and confirmed.status is FailureStatus.REDRIVEN:
        table.settle(failure_id, FailureStatus.RESOLVED, by=by, reason=done, if_version=confirmed.version)
        return Outcome(failure_id, "resolved", done, claim.order_id)
    return Outcome(failure_id, "redriven", done, claim.order_id)


def discard_one(target: Target, table: FailuresTable, failure_id: str, by: str, reason: str) -> Outcome:
    """Discard a failure, and give up the order that waits for it: from then on the order is only undone.

    The order is marked, its undoing is started, then the failure is settled. A process that dies in between leaves
    the failure in the inbox, and a second discard continues the first.
    """
    problem = "there is no such failure"
    try:
        record = table.get(failure_id)
    except ValueError as error:
        record, problem = None, f"it can't be read: {error}"
    if record is None:
        return Outcome(failure_id, "refused", problem)
    waited_for = order_waits_for(record, target.output("FulfilmentQueueArn"))
    if refusal := _why_not_discarded(target, record, waited_for):
        return Outcome(failure_id, "refused", refusal, record.order_id)
    done, given_up = what_is_dropped(record), False
    try:
        if waited_for:
            done, given_up = give_order_up(target, table, record)
            reason = f"{reason} ({done})"
        # Any other redrive of an order that was given up only undoes it, so a changed record may be settled, too.
        version = None if given_up else record.version
        settled = table.settle(failure_id, FailureStatus.DISCARDED, by=by, reason=reason, if_version=version)
    except NotAllowed as error:
        result = "discarded" if given_up else "failed"
        return Outcome(failure_id, result, f"{done}; the failure: {error}", record.order_id, given_up)
    except (CannotSend, ClientError, BotoCoreError, Contended) as error:
        return Outcome(failure_id, "failed", str(error), record.order_id, given_up)
    if settled.status is not FailureStatus.DISCARDED:
        return Outcome(failure_id, "failed", f"it changed meanwhile and is {settled.status}", record.order_id)
    return Outcome(failure_id, "discarded", done, record.order_id, given_up)


def await_undoing(target: Target, outcomes: Iterable[Outcome], timeout_s: float, pause_s: float = 0.5) -> None:
    """Wait at most `timeout_s` for the end of the orders that were given up; each outcome gets its order's status."""
    waiting = [outcome for outcome in outcomes if outcome.given_up and outcome.result == "discarded"]
    deadline = time.monotonic() + timeout_s
    while waiting:
        for outcome in list(waiting):
            order = records.find_order(target, str(outcome.order_id))
            if order is None or order.status in TERMINAL or time.monotonic() > deadline:
                outcome.detail = _progress(target, order) if order else "the order is gone"
                waiting.remove(outcome)
        if waiting:
            time.sleep(pause_s)


def _progress(target: Target, order: StoredOrder) -> str:
    """Return how far the undoing of an order that was given up is; for an open order, with a command to see more."""
    if isinstance(order, DamagedOrder):
        return f"its order {order.order_id} is given up, and can't be read ({order.problem})"
    if order.status in TERMINAL:
        return undoing_of(order)
    return f"{undoing_of(order)}; see its progress: {target.command(f'explain {order.order_id}')}"


def _why_not_discarded(target: Target, record: FailureRecord, waited_for: bool) -> str:
    if record.status in SETTLED:
        order = _order_of(target, record) if record.status is FailureStatus.DISCARDED else None
        progress = f"; {_progress(target, order)}" if order and order.given_up else ""
        return f"it is {record.status} already{progress}"
    if record.status is FailureStatus.REDRIVEN and not waited_for:
        return f"it was redriven at {record.claimed_at}: wait for the result"
    return ""


# The consequence of a discard, by the component that the payload was for.
DROPPED = {
    "RefundPaymentFunction": "a cancelled order's refund is dropped: if the order was charged, it stays charged",
    "IssueReceiptFunction": "its customer gets no receipt",
    "NotificationsQueue": "its customer gets no mail about it",
}


def what_is_dropped(record: FailureRecord) -> str:
    """Return the consequence of discarding a failure that no order waits for."""
    if record.redrive.action is Action.PUBLISH:
        return "its event is never published: the mail, receipt or refund that follows from the event never comes"
    return DROPPED.get(component_of(record.redrive.to), "nothing needed to be undone")


def give_order_up(target: Target, table: FailuresTable, record: FailureRecord) -> tuple[str, bool]:
    """Mark the order that waits for a failure as given up, and start its undoing.

    Returns a description of what was done, and whether the order is given up. Raises CannotSend if the undoing can't
    be started.
    """
    customer_id = record.customer_id
    if record.order_id and customer_id is None:
        found = records.find_order(target, record.order_id)
        customer_id = found.customer_id if found else None
    if record.order_id is None or customer_id is None:
        return "it names no order that is in the table, so nothing was undone", False
    later_event = record.redrive.action is Action.PUBLISH and not _says_placed(table.payload_of(record))
    try:
        order = records.orders_table(target).give_up(customer_id, record.order_id, DISCARDED, only_placed=later_event)
    except LookupError as error:
        return f"{error}, so nothing was undone", False
    except msgspec.ValidationError as error:
        raise CannotSend(
            f"order {record.order_id} is given up, but its item can't be read, so it can't be undone ({error}): "
            "mend the item or delete it, then discard the failure again"
        ) from error
    if order.given_up is None:
        if order.status in TERMINAL:
            return f"the order is {order.status}{_and_dropped(record)}", False
        return f"the order is {order.status} and goes on{_and_dropped(record)}", False
    if order.status in TERMINAL:
        return undoing_of(order), True
    name = redrive_execution_name(record, "undo")
    try:
        started = _start(target, target.output("StateMachineArn"), name, resume_input(order))
    except (ClientError, BotoCoreError) as error:
        raise CannotSend(
            f"order {order.order_id} is given up, but its undoing could not be started ({error}): "
            "discard the failure again, or wait for the sweep"
        ) from error
    return f"the order is given up and is being undone: {started}", True


def _and_dropped(record: FailureRecord) -> str:
    return f"; {what_is_dropped(record)}" if record.redrive.action is Action.PUBLISH else ""


def _says_placed(payload: str) -> bool:
    """Whether a stream record is that of a new order, whose event starts the workflow."""
    try:
        return bool(json.loads(payload)["dynamodb"]["NewImage"]["status"] == {"S": "PLACED"})
    except (ValueError, LookupError, TypeError):
        return False


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
    for service in ("sqs", "lambda", "stepfunctions", "events"):
        target.client(service)  # creating a client is not thread-safe
    run = Run() if run is None else run
    rules: Rules = {}
    pace = Pace(rate)
    watch = ComeBacks(table)
    begun: list[Future[Outcome]] = []
    try:
        with ThreadPoolExecutor(WORKERS) as pool:
            under_way: set[Future[Outcome]] = set()
            for failure_id in failure_ids:
                pace.wait()
                with interrupts.deferred():
                    begun.append(pool.submit(redrive_one, target, table, failure_id, by, rules=rules, again=again))
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
