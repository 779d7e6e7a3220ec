"""Sending what failed on its way again: where each payload goes, and how many at once.

A failure is claimed in the table before its payload is sent and confirmed afterwards, so of two operators who
redrive the same failure one sends it. Who dies in between leaves an unconfirmed claim, which may be taken over
after `failures.CLAIM_LEASE_S`; what is sent twice that way is harmless, because every consumer is idempotent and
executions are named after the redrive.
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
from orderctl.stack.target import Target
from orders.domain.clock import timestamp
from orders.domain.errors import Contended, NotAllowed
from orders.domain.order import DISCARDED, TERMINAL, Order, undoing_of
from orders.inbox.parse import component_of
from orders.inbox.record import SETTLED, Action, FailureRecord, FailureStatus
from orders.inbox.store import FailuresTable
from orders.storage.orders import OrdersTable
from orders.workflow import order_waits_for, redrive_execution_name, resume_input

WORKERS = 8
# A redrive stops when of at least so many payloads more than this share failed, at once or once more.
LEAST_BEFORE_STOP = 10
TOLERATED_SHARE = 0.2
CHECK_EVERY_S = 3.0


class CannotSend(Exception):
    """The payload can't be sent; the message says why."""


def open_table(there: Target) -> FailuresTable:
    """Return the stack's failure inbox."""
    return FailuresTable(
        there.client("dynamodb"),
        there.client("s3"),
        there.output("FailuresTable"),
        there.output("FailedPayloadsBucket"),
    )


def describe(record: FailureRecord) -> str:
    """Return in words what a redrive of this failure does."""
    name = record.redrive.to.rpartition(":")[2]
    match record.redrive.action:
        case Action.SEND:
            return f"send the message to the queue {name}"
        case Action.INVOKE:
            return f"invoke the function {name} with the event"
        case Action.DELIVER:
            return f"deliver the event to {name}, with the input that its rule gives it"
        case Action.PUBLISH:
            return "publish the order's event, from the stream's record or the table if that was repaired"
        case Action.RESUME:
            return f"start the workflow {name} where order {record.order_id} stands"
    return "nothing: nobody knows where this was going"


# What rules give their targets, by the rule's ARN: asked for once in a run, since the API takes few calls a second.
Rules = dict[str, list[dict[str, Any]]]


def send(there: Target, record: FailureRecord, payload: str, rules: Rules) -> tuple[str, bool]:
    """Send a claimed failure's payload to where it was going.

    Returns what was done, and whether that alone settles the failure. Raises CannotSend, and what AWS refuses
    (botocore ClientError).
    """
    if record.payload_encoding == "base64":
        raise CannotSend("the payload is no valid text, so it can't be sent; look at it with `failures show`")
    to = record.redrive.to
    match record.redrive.action:
        case Action.SEND if to == there.outputs.get("FulfilmentQueueArn") and _is_given_up(there, record):
            raise CannotSend("the order was given up: discard this failure, too")
        case Action.SEND:
            return _send_message(there, to, payload), False
        case Action.INVOKE:
            return _invoke(there, to, payload), False
        case Action.DELIVER:
            return _deliver(there, record, payload, rules), False
        case Action.PUBLISH:
            return _publish(there, payload), True
        case Action.RESUME:
            return _resume(there, record, payload)
    raise CannotSend(record.note or "nobody knows where this was going: act on the payload by hand, then discard it")


def _is_given_up(there: Target, record: FailureRecord) -> bool:
    order = records.find_order(there, record.order_id) if record.order_id else None
    return bool(order and "givenUp" in order)


def _send_message(there: Target, queue_arn: str, body: str) -> str:
    _, _, _, _, account, name = queue_arn.split(":")
    sqs = there.client("sqs")
    url = sqs.get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account)["QueueUrl"]
    message_id = sqs.send_message(QueueUrl=url, MessageBody=body)["MessageId"]
    return f"sent to queue {name} as message {message_id}"


def _invoke(there: Target, function_arn: str, payload: str) -> str:
    there.client("lambda").invoke(FunctionName=function_arn, InvocationType="Event", Payload=payload.encode())
    return f"invoked {function_arn.rpartition(':')[2]}"


def _deliver(there: Target, record: FailureRecord, event: str, rules: Rules) -> str:
    """Do what the rule would have done: its dead letter holds the event before the rule's input settings."""
    arn = record.redrive.to
    given = _input_of(there, record, event, rules)
    match arn.split(":")[2]:
        case "sqs":
            return _send_message(there, arn, given)
        case "lambda":
            return _invoke(there, arn, given)
        case "states":
            return _start(there, arn, redrive_execution_name(record, "again"), given)
    raise CannotSend(f"orderctl can't deliver to a target such as {arn}")


def _targets_of(there: Target, rule: str) -> list[dict[str, Any]]:
    bus, _, name = rule.partition(":rule/")[2].rpartition("/")
    events = there.client("events")
    try:
        found: list[dict[str, Any]] = events.list_targets_by_rule(
            Rule=name, **({"EventBusName": bus} if bus else {})
        )["Targets"]
    except events.exceptions.ResourceNotFoundException:
        raise CannotSend(f"the rule {name} is gone: what it would have sent isn't known") from None
    return found


def _input_of(there: Target, record: FailureRecord, event: str, rules: Rules) -> str:
    """Return the target's input as the rule makes it; raises CannotSend if the rule is gone or uses a template."""
    rule = record.redrive.rule
    targets = rules[rule] if rule in rules else rules.setdefault(rule, _targets_of(there, rule))
    target: dict[str, Any] = next((each for each in targets if each["Arn"] == record.redrive.to), {})
    if "InputTransformer" in target:
        raise CannotSend(f"the rule {rule} transforms its input, which orderctl can't repeat; use `orderctl replay`")
    if "Input" in target:
        return str(target["Input"])
    value: Any = json.loads(event)
    for part in target.get("InputPath", "$").split(".")[1:]:
        value = value[part]
    return event if target.get("InputPath", "$") == "$" else json.dumps(value)


def _publish(there: Target, payload: str) -> str:
    """Run publish_events on the record; if the item still has the record's version, on the item as it is now."""
    record = json.loads(payload)
    change = record["dynamodb"]
    now = there.client("dynamodb").get_item(
        TableName=there.output("OrdersTable"), Key=change["Keys"], ConsistentRead=True
    )
    if "Item" not in now:
        raise CannotSend("the order is no longer in the table")
    if change.get("NewImage", {}).get("version") in (None, now["Item"].get("version")):
        record["dynamodb"] = {**change, "NewImage": now["Item"]}
    given = {"Records": [record], "redrive": True}
    answer = there.client("lambda").invoke(
        FunctionName=there.output("PublishEventsFunction"), Payload=json.dumps(given).encode()
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


def _resume(there: Target, record: FailureRecord, payload: str) -> tuple[str, bool]:
    ended = ended_as(there, record)
    if ended:
        return f"nothing to do: the order is {ended}", True
    name = redrive_execution_name(record, "resume")
    return _start(there, record.redrive.to, name, workflow_input(record, payload)), False


def ended_as(there: Target, record: FailureRecord) -> str:
    """Return the status of the failure's order if it has ended, else ""."""
    order = records.find_order(there, record.order_id) if record.order_id else None
    return str(order["status"]) if order and order["status"] in TERMINAL else ""


def workflow_input(record: FailureRecord, payload: str) -> str:
    """Return the input of a new execution that goes on from where the order is; the order says if it is undone."""
    try:
        given = json.loads(payload)
    except ValueError:
        given = None
    if not isinstance(given, dict) or not {"data", "metadata"} <= given.keys():
        if not (record.order_id and record.customer_id):
            raise CannotSend("neither order nor customer can be found in the execution's input")
        given = {
            "metadata": {"correlationId": record.correlation_id or record.order_id},
            "data": {"orderId": record.order_id, "customerId": record.customer_id},
        }
    return json.dumps({"metadata": given["metadata"], "data": given["data"], "path": "resume"})


def _start(there: Target, machine_arn: str, name: str, given: str) -> str:
    states = there.client("stepfunctions")
    try:
        states.start_execution(stateMachineArn=machine_arn, name=name, input=given)
    except states.exceptions.ExecutionAlreadyExists:
        return f"execution {name} was started before"
    return f"started execution {name}"


@dataclass
class Outcome:
    """What became of one failure: "redriven", "resolved", "discarded", "refused" (nothing was sent) or "failed".

    `order_id` is the order that it is about, as far as that is known; `given_up` says that this was given up with it.
    """

    failure_id: str
    result: str
    detail: str
    order_id: str | None = None
    given_up: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return it as it is shown to a program."""
        return {
            "failureId": self.failure_id,
            "orderId": self.order_id,
            "result": self.result,
            "detail": self.detail,
        }


def redrive_one(
    there: Target, table: FailuresTable, failure_id: str, by: str, *, rules: Rules, again: bool = False
) -> Outcome:
    """Claim, send, confirm."""
    try:
        claim = table.claim(failure_id, by=by, again=again)
    except (NotAllowed, LookupError, Contended) as error:
        return Outcome(failure_id, "refused", str(error))
    try:
        done, settles = send(there, claim, table.payload_of(claim), rules)
    except (CannotSend, ClientError, BotoCoreError, ValueError, LookupError, TypeError) as error:
        table.release(claim, f"{type(error).__name__}: {error}"[:500])
        return Outcome(failure_id, "failed", str(error), claim.order_id)
    confirmed = table.confirm(claim, done)
    if settles and confirmed.status is FailureStatus.REDRIVEN:
        table.settle(failure_id, FailureStatus.RESOLVED, by=by, reason=done, if_version=confirmed.version)
        return Outcome(failure_id, "resolved", done, claim.order_id)
    return Outcome(failure_id, "redriven", done, claim.order_id)


def discard_one(there: Target, table: FailuresTable, failure_id: str, by: str, reason: str) -> Outcome:
    """Give a failure up, and with it the order that waits for it, which is then only undone.

    First the order is marked, then its undoing is started, then the failure is settled: whoever dies in between
    leaves the failure in the inbox, and discarding it again goes on from there.
    """
    record = table.get(failure_id)
    if record is None:
        return Outcome(failure_id, "refused", "there is no such failure")
    waited_for = order_waits_for(record, there.output("FulfilmentQueueArn"))
    if refusal := _why_not_discarded(there, record, waited_for):
        return Outcome(failure_id, "refused", refusal, record.order_id)
    done, given_up = what_is_dropped(record), False
    try:
        if waited_for:
            done, given_up = give_order_up(there, table, record)
            reason = f"{reason} ({done})"
        # Whatever else is sent for an order that was given up only undoes it, so nothing has to be waited for.
        version = None if given_up else record.version
        settled = table.settle(failure_id, FailureStatus.DISCARDED, by=by, reason=reason, if_version=version)
    except NotAllowed as error:
        result = "discarded" if given_up else "failed"
        return Outcome(failure_id, result, f"{done}; the failure: {error}", record.order_id, given_up)
    except (CannotSend, ClientError, BotoCoreError, Contended) as error:
        return Outcome(failure_id, "failed", str(error), record.order_id, given_up)
    if settled.status is not FailureStatus.DISCARDED:
        what = f"it changed at this moment and is {settled.status}"
        return Outcome(failure_id, "failed", what, record.order_id)
    return Outcome(failure_id, "discarded", done, record.order_id, given_up)


def await_undoing(there: Target, outcomes: Iterable[Outcome], timeout_s: float, pause_s: float = 0.5) -> None:
    """Wait until the orders that were given up have ended, and say in each outcome where; or, in time, how far."""
    waiting = [outcome for outcome in outcomes if outcome.given_up and outcome.result == "discarded"]
    deadline = time.monotonic() + timeout_s
    while waiting:
        for outcome in list(waiting):
            found = records.find_order(there, str(outcome.order_id))
            order = msgspec.convert(found, Order) if found else None
            if order is None or order.status in TERMINAL or time.monotonic() > deadline:
                outcome.detail = _whereabouts(there, order) if order else "the order is gone"
                waiting.remove(outcome)
        if waiting:
            time.sleep(pause_s)


def _whereabouts(there: Target, order: Order) -> str:
    """Return how far the undoing of an order that was given up is, and until it has ended how to see more."""
    if order.status in TERMINAL:
        return undoing_of(order)
    return f"{undoing_of(order)}; see how far it is: {there.command(f'explain {order.order_id}')}"


def _why_not_discarded(there: Target, record: FailureRecord, waited_for: bool) -> str:
    if record.status in SETTLED:
        return f"it is {record.status} already{_order_given_up_before(there, record)}"
    if record.status is FailureStatus.REDRIVEN and not waited_for:
        return f"it was redriven at {record.claimed_at}: wait for what comes of it"
    return ""


def _order_given_up_before(there: Target, record: FailureRecord) -> str:
    found = records.find_order(there, record.order_id) if record.order_id else None
    if record.status is not FailureStatus.DISCARDED or found is None or "givenUp" not in found:
        return ""
    try:
        return f"; {_whereabouts(there, msgspec.convert(found, Order))}"
    except msgspec.ValidationError as error:
        return f"; its order {record.order_id} is given up, and can't be read ({error})"


# What never comes once a failure of this component is discarded.
DROPPED = {
    "RefundPaymentFunction": "a cancelled order's refund is dropped: if the order was charged, it stays charged",
    "IssueReceiptFunction": "its customer gets no receipt",
    "NotificationsQueue": "its customer gets no mail about it",
}


def what_is_dropped(record: FailureRecord) -> str:
    """Return what a discard of this failure means, where no order waits for it."""
    if record.redrive.action is Action.PUBLISH:
        return "its event is never published: the mail, receipt or refund that follows from it never comes"
    return DROPPED.get(component_of(record.redrive.to), "nothing needed to be undone")


def give_order_up(there: Target, table: FailuresTable, record: FailureRecord) -> tuple[str, bool]:
    """Mark the order that waits for a failure and start its undoing.

    Returns what was done, and whether the order is given up. Raises CannotSend if the undoing can't be started.
    """
    customer_id = record.customer_id
    if record.order_id and customer_id is None:
        found = records.find_order(there, record.order_id)
        customer_id = found["customerId"] if found else None
    if record.order_id is None or customer_id is None:
        return "it names no order that is in the table, so nothing was undone", False
    orders = OrdersTable(there.client("dynamodb"), there.output("OrdersTable"), there.output("CatalogueTable"))
    later_event = record.redrive.action is Action.PUBLISH and not _says_placed(table.payload_of(record))
    try:
        order = orders.give_up(customer_id, record.order_id, DISCARDED, only_placed=later_event)
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
        started = _start(there, there.output("StateMachineArn"), name, resume_input(order))
    except (ClientError, BotoCoreError) as error:
        raise CannotSend(
            f"order {order.order_id} is given up, but its undoing could not be started ({error}): "
            "discard the failure again, or wait for the sweep"
        ) from error
    return f"the order is given up and is being undone: {started}", True


def _and_dropped(record: FailureRecord) -> str:
    return f"; {what_is_dropped(record)}" if record.redrive.action is Action.PUBLISH else ""


def _says_placed(payload: str) -> bool:
    """Whether a stream record tells of a new order, for whose event the workflow waits."""
    try:
        return bool(json.loads(payload)["dynamodb"]["NewImage"]["status"] == {"S": "PLACED"})
    except (ValueError, LookupError, TypeError):
        return False


@dataclass
class Run:
    """A redrive of many: what became of each, and why it was stopped, if it was."""

    outcomes: list[Outcome] = field(default_factory=list)
    came_back: int = 0
    stopped: str = ""

    def count(self, result: str) -> int:
        """How many failures ended that way."""
        return sum(outcome.result == result for outcome in self.outcomes)


class Pace:
    """Lets so many through a second, evenly."""

    def __init__(self, rate: float) -> None:
        self._interval = 1 / rate
        self._next = time.monotonic()

    def wait(self) -> None:
        """Return when the next one may go."""
        self._next = max(self._next + self._interval, time.monotonic() - 1)
        time.sleep(max(0.0, self._next - time.monotonic()))


def redrive_many(
    there: Target,
    failure_ids: Iterable[str],
    by: str,
    *,
    rate: float,
    again: bool = False,
    progress: Callable[[Run], None] = lambda _: None,
    run: Run | None = None,
) -> Run:
    """Redrive at most `rate` failures a second; stop when too many fail or come back.

    A `run` that is given has all outcomes even if an interruption ends this.
    """
    table = open_table(there)
    for service in ("sqs", "lambda", "stepfunctions", "events"):
        there.client(service)  # made here: making a client is not thread-safe
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
                    begun.append(pool.submit(redrive_one, there, table, failure_id, by, rules=rules, again=again))
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
    """Counts the redriven failures that are NEW again, looking at most every few seconds."""

    def __init__(self, table: FailuresTable) -> None:
        self._table = table
        self._since = timestamp()
        self._checked = time.monotonic()
        self._last = 0

    def count(self, redriven: set[str]) -> int:
        """Return how many of these have failed again since the run began."""
        if time.monotonic() - self._checked >= CHECK_EVERY_S:
            self._checked = time.monotonic()
            back = {record.failure_id for record in self._table.with_status(FailureStatus.NEW, since=self._since)}
            self._last = len(back & redriven)
        return self._last
