"""Send the payload of one failure again: what each kind of failure means in calls to AWS.

A redrive claims the failure in the table, sends the payload, then confirms the claim. So only one of two operators
who redrive the same failure sends the payload. A process that dies in between leaves an unconfirmed claim, which
another redrive may take over after `CLAIM_LEASE_S`. The duplicate that may follow is harmless: every consumer is
idempotent, and an execution's name comes from the redrive.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from orderctl.stack import records
from orderctl.stack.records import StoredOrder
from orderctl.stack.target import Target
from orders.domain.errors import Contended, NotAllowed
from orders.domain.order import TERMINAL
from orders.inbox.record import Action, FailureRecord, FailureStatus
from orders.inbox.store import FailuresTable
from orders.workflow import redrive_execution_name, resume_input_of_failure


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
    order = order_of(target, record)
    return bool(order and order.given_up)


def order_of(target: Target, record: FailureRecord) -> StoredOrder | None:
    """Return the order of a failure, None if the failure names none that is in the table."""
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
            return start_execution(target, arn, redrive_execution_name(record, "again"), given)
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
    order = order_of(target, record)
    if order and order.status in TERMINAL:
        return f"nothing to do: the order is {order.status}", True
    name = redrive_execution_name(record, "resume")
    try:
        given = resume_input_of_failure(record, payload)
    except LookupError as error:
        raise CannotSend(str(error)) from error
    return start_execution(target, record.redrive.to, name, given), False


def start_execution(target: Target, machine_arn: str, name: str, given: str) -> str:
    """Start an execution once for its name, and return what was done. `given` is its input, JSON."""
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
    """Claim a failure, send its payload, confirm the claim. `again` also takes one that was redriven before."""
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
