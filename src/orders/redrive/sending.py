"""Send the payload of one failure again: what each kind of failure means in calls to AWS.

A redrive claims the failure in the table, sends the payload, then confirms the claim. So only one of two who redrive
the same failure sends the payload, be they operators or heal_failures. A process that dies in between leaves an
unconfirmed claim, which another redrive may take over after `CLAIM_LEASE_S`. The duplicate that may follow is
harmless: every consumer is idempotent.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from orders.domain.errors import Contended, NotAllowed
from orders.domain.order import TERMINAL, Status
from orders.inbox.record import Action, FailureRecord, FailureStatus
from orders.inbox.store import FailuresTable
from orders.storage.orders import OrdersTable
from orders.workflow import execution_name, input_of_failure


class CannotSend(Exception):
    """The payload can't be sent; the message says why."""


def describe(record: FailureRecord) -> str:
    """What a redrive of this failure does, as a phrase that follows "would"."""
    name = record.redrive.to.rpartition(":")[2]
    match record.redrive.action:
        case Action.SEND:
            return f"send the message to the queue {name}"
        case Action.INVOKE:
            return f"invoke the function {name} with the event"
        case Action.PUBLISH:
            return "publish the order's event, as the stream's record or, after a repair, the order's item says"
        case Action.RESUME | Action.DELIVER if starts_workflow(record):
            return f"start the workflow at the present status of order {record.order_id}"
        case Action.DELIVER:
            return f"deliver the event to {name}, with the input that its rule gives it"
    return "do nothing: the payload's destination is unknown"


def starts_workflow(record: FailureRecord) -> bool:
    """Whether a redrive of this failure starts an execution of the workflow."""
    action = record.redrive.action
    return action is Action.RESUME or (action is Action.DELIVER and ":states:" in record.redrive.to)


@dataclass
class Sender:
    """Sends payloads in one stack. `client` returns the AWS client of a service, such as "sqs".

    `publish_events` is the name of that function; None where no stream record is redriven. The targets of the rules,
    with their input settings, are read once: the API allows few calls a second.
    """

    client: Callable[[str], Any]
    orders_table: str
    fulfilment_queue_arn: str
    state_machine_arn: str
    publish_events: str | None = None
    _targets: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def send(self, record: FailureRecord, payload: str) -> tuple[str, bool]:
        """Send a claimed failure's payload to its destination.

        Returns a description of what was done, and whether that settles the failure. Raises CannotSend, and
        botocore's ClientError if AWS refuses.
        """
        if record.payload_encoding == "base64":
            raise CannotSend("the payload is not valid text, so it can't be sent; look at it with `failures show`")
        if starts_workflow(record):
            return self._start(record, payload)
        to = record.redrive.to
        match record.redrive.action:
            case Action.SEND if to == self.fulfilment_queue_arn:
                return self._ship(record, payload)
            case Action.SEND:
                return self._send_message(to, payload), False
            case Action.INVOKE:
                return self._invoke(to, payload), False
            case Action.DELIVER:
                return self._deliver(record, payload), False
            case Action.PUBLISH:
                return self._publish(payload), True
        raise CannotSend(
            record.note or "the payload's destination is unknown: process it by hand, then discard the failure"
        )

    def _status_of(self, record: FailureRecord) -> str | None:
        """The present status of a failure's order, also if its item is damaged; None if there is no such order."""
        if record.order_id is None:
            return None
        dynamodb = self.client("dynamodb")
        customer_id = record.customer_id or OrdersTable(dynamodb, self.orders_table).customer_of(record.order_id)
        if customer_id is None:
            return None
        found = dynamodb.get_item(
            TableName=self.orders_table,
            Key={"customerId": {"S": customer_id}, "orderId": {"S": record.order_id}},
            ConsistentRead=True,
            ProjectionExpression="#status, givenUp",
            ExpressionAttributeNames={"#status": "status"},
        ).get("Item", {})
        # Release 1.0.0 marked an order that was given up and left its status.
        if "givenUp" in found and found["status"]["S"] not in TERMINAL:
            return Status.FAILING
        return str(found["status"]["S"]) if "status" in found else None

    def _ship(self, record: FailureRecord, payload: str) -> tuple[str, bool]:
        """Send the warehouse its message, unless the order's status forbids that."""
        status = self._status_of(record)
        if status in TERMINAL:
            return f"nothing to do: the order is {status}", True
        if status == Status.FAILING:
            # The message itself could ship what is being undone. The workflow ships only what has left.
            return self._start(record, payload)
        return self._send_message(record.redrive.to, payload), False

    def _start(self, record: FailureRecord, payload: str) -> tuple[str, bool]:
        """Start the present workflow, whichever machine the record names: the order's status decides what it does."""
        status = self._status_of(record)
        if status in TERMINAL:
            return f"nothing to do: the order is {status}", True
        if record.redrive.action is Action.DELIVER:
            payload = json.dumps(_part(json.loads(payload), "detail"))
        try:
            given = input_of_failure(record, payload)
        except LookupError as error:
            raise CannotSend(str(error)) from error
        name = execution_name(record.order_id or "order", record.failure_id)
        self.client("stepfunctions").start_execution(stateMachineArn=self.state_machine_arn, name=name, input=given)
        return f"started execution {name}", False

    def _send_message(self, queue_arn: str, body: str) -> str:
        _, _, _, _, account, name = queue_arn.split(":")
        sqs = self.client("sqs")
        url = sqs.get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account)["QueueUrl"]
        message_id = sqs.send_message(QueueUrl=url, MessageBody=body)["MessageId"]
        return f"sent to queue {name} as message {message_id}"

    def _invoke(self, function_arn: str, payload: str) -> str:
        self.client("lambda").invoke(FunctionName=function_arn, InvocationType="Event", Payload=payload.encode())
        return f"invoked {function_arn.rpartition(':')[2]}"

    def _deliver(self, record: FailureRecord, event: str) -> str:
        """Deliver as the rule does; the dead letter holds the event before the rule's input settings were applied."""
        arn = record.redrive.to
        given = self._input_of(record, event)
        match arn.split(":")[2]:
            case "sqs":
                return self._send_message(arn, given)
            case "lambda":
                return self._invoke(arn, given)
        raise CannotSend(f"a redrive can't deliver to a target such as {arn}")

    def _input_of(self, record: FailureRecord, event: str) -> str:
        """The target's input as the rule makes it; CannotSend if the rule is gone or transforms the input."""
        rule = record.redrive.rule
        if rule not in self._targets:
            self._targets[rule] = self._targets_of(rule)
        targets = self._targets[rule]
        settings: dict[str, Any] = next((each for each in targets if each["Arn"] == record.redrive.to), {})
        if "InputTransformer" in settings:
            raise CannotSend(f"the rule {rule} transforms its input, which can't be repeated; use `orderctl replay`")
        if "Input" in settings:
            return str(settings["Input"])
        path = settings.get("InputPath", "$")
        if path == "$":
            return event
        value: Any = json.loads(event)
        for part in path.split(".")[1:]:
            value = value[part]
        return json.dumps(value)

    def _targets_of(self, rule: str) -> list[dict[str, Any]]:
        bus, _, name = rule.partition(":rule/")[2].rpartition("/")
        events = self.client("events")
        try:
            found: list[dict[str, Any]] = events.list_targets_by_rule(
                Rule=name, **({"EventBusName": bus} if bus else {})
            )["Targets"]
        except events.exceptions.ResourceNotFoundException:
            raise CannotSend(f"the rule {name} is gone, and so are its input settings") from None
        return found

    def _publish(self, payload: str) -> str:
        """Run publish_events on the stream record; on the present item, if that still has the record's version."""
        if self.publish_events is None:
            raise CannotSend("only an operator redrives a stream's record")
        record = json.loads(payload)
        change = record["dynamodb"]
        present = self.client("dynamodb").get_item(
            TableName=self.orders_table, Key=change["Keys"], ConsistentRead=True
        )
        if "Item" not in present:
            raise CannotSend("the order is no longer in the table")
        if change.get("NewImage", {}).get("version") in (None, present["Item"].get("version")):
            record["dynamodb"] = {**change, "NewImage": present["Item"]}
        given = {"Records": [record], "redrive": True}
        answer = self.client("lambda").invoke(FunctionName=self.publish_events, Payload=json.dumps(given).encode())
        said = answer["Payload"].read().decode()
        if answer.get("FunctionError"):
            raise CannotSend(f"publish_events failed: {said[:300]}")
        result = json.loads(said)
        if result.get("unreadable"):
            raise CannotSend(f"publish_events still can't read it: {result['unreadable'][0][:300]}")
        if result["batchItemFailures"]:
            raise CannotSend("the bus did not take the event")
        return "published by publish_events"


def _part(document: Any, name: str) -> Any:
    return document.get(name) if isinstance(document, dict) else None


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
        """The result for a program to read."""
        return {
            "failureId": self.failure_id,
            "orderId": self.order_id,
            "result": self.result,
            "detail": self.detail,
        }


def redrive_one(sender: Sender, table: FailuresTable, failure_id: str, by: str, *, again: bool = False) -> Outcome:
    """Claim a failure, send its payload, confirm the claim. `again` also takes one that was redriven before."""
    try:
        claim = table.claim(failure_id, by=by, again=again)
    except (NotAllowed, LookupError, Contended) as error:
        return Outcome(failure_id, "refused", str(error))
    except ValueError as error:
        return Outcome(failure_id, "refused", f"it can't be read: {error}")
    try:
        done, settles = sender.send(claim, table.payload_of(claim))
    except (CannotSend, ClientError, BotoCoreError, Contended, ValueError, LookupError, TypeError) as error:
        table.release(claim, f"{type(error).__name__}: {error}"[:500])
        return Outcome(failure_id, "failed", str(error), claim.order_id)
    confirmed = table.confirm(claim, done)
    if settles and confirmed.status is FailureStatus.REDRIVEN:
        table.settle(failure_id, FailureStatus.RESOLVED, by=by, reason=done, if_version=confirmed.version)
        return Outcome(failure_id, "resolved", done, claim.order_id)
    return Outcome(failure_id, "redriven", done, claim.order_id)
