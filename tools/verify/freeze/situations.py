"""Brings about everything that a version can have in flight: real orders on a local cloud in which things break.

Nothing is written by hand where the real thing can be made to write it. The exceptions are messages that the emulator
never sends or that have no order: `SENT_BY_HAND` names their kinds, and the release's manifest repeats them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from orderctl.cloud.state import STACK_NAME
from orderctl.demo import samples
from orderctl.exits import Exit, Stop
from orderctl.stack.rest import OrdersApi
from orderctl.stack.signin import token_source
from orderctl.stack.target import Target
from orders.domain.order import GIVEN_UP_REASON
from orders.inbox.healing import CAUSE_PREFIX
from orders.inbox.parse import read_message
from orders.inbox.store import FailuresTable
from orders.storage.dynamodb import to_item
from orders.storage.orders import OrdersTable
from verify.freeze import reading

Note = Callable[[str], None]
Json = dict[str, Any]

ORDERCTL = Path(sys.executable).parent / "orderctl"
DEADLINE_S = 180.0
POLL_S = 0.3
CAPTURE_QUEUE = "freeze-events"
BREAK = "freeze-break"  # the name of the policy that takes a permission away
OPERATOR = "operator"
SHARDED = ("SHARDED-TEA", "SHARDED-CUP")
# More than an item of the failures table takes, so that the payload goes to the bucket.
BIG = 251_000
SENT_BY_HAND = {
    "messages_failures": {
        "schedule-dead-letter": "the emulator's scheduler has no dead-letter queue",
        "unclassified": "text that nobody sends",
    },
    "failures": {
        "payload-base64": "the inbox records half a surrogate pair, which SQS does not take",
        "payload-bucket": "text of 251,000 characters on the fulfilment queue",
    },
}


class Situations:
    """One run on one local cloud.

    `messages` are those of the failures queue so far, by message id; `events` those of the bus; `frozen` is what was
    in flight at the end, by group.
    """

    def __init__(self, there: Target, note: Note) -> None:
        self.there = there
        self.note = note
        self.messages: dict[str, Json] = {}
        self.events: list[Json] = []
        self.frozen: dict[str, list[reading.Thing]] = {}
        self._api = OrdersApi(there.api_url, token_source(there, "ada@example.com", None))
        listed = there.client("cloudformation").list_stack_resources(StackName=STACK_NAME)
        self._names = {
            each["LogicalResourceId"]: str(each["PhysicalResourceId"]) for each in listed["StackResourceSummaries"]
        }
        self._orders = OrdersTable(
            there.client("dynamodb"), there.output("OrdersTable"), there.output("CatalogueTable")
        )
        self._inbox = FailuresTable(
            there.client("dynamodb"),
            there.client("s3"),
            there.output("FailuresTable"),
            there.output("FailedPayloadsBucket"),
        )

    # ---- The plan

    def bring_about(self) -> None:
        """Leave the cloud with orders, records and messages of every kind. Raises Stop for what does not happen."""
        self._capture_events()
        self._log_with_data()
        self._failures("hold", "--all")
        self._swept()
        self._sharded()
        with self._paused("CaptureFailureFunction"):
            slow = self._begin_what_takes_long()
            self._usual_ends()
            rules = self._rule_targets_fail()
            self._odd_messages()
            self._damaged_record()
            self._await_messages([order_id for name, order_id in slow.items() if name != "cancelled"])
            lost = self._publisher_fails()
            self._order_is_abandoned()
            self._count_messages()
        self._until(self._captured, "every message of the failures queue to become a record of the inbox")
        with ExitStack() as until_read:
            self._mail_half_sent(until_read)
            self._operate(slow, rules, lost)
            self._heal()
            self._hold(until_read)
            self.frozen = reading.read(self.there, list(self.messages.values()), self.events)

    # ---- What happens

    def _log_with_data(self) -> None:
        """Have the workflow log the input and output of each state: no call of the API has them."""
        states, arn = self.there.client("stepfunctions"), self.there.output("StateMachineArn")
        logging = states.describe_state_machine(stateMachineArn=arn)["loggingConfiguration"]
        states.update_state_machine(
            stateMachineArn=arn, loggingConfiguration={**logging, "level": "ALL", "includeExecutionData": True}
        )

    def _swept(self) -> None:
        """An order whose event got lost is restarted by the sweep; another one expires."""
        self.note("an order restarted by the sweep, and one that expires")
        with self._rule_disabled("OrderWorkRule"):
            restarted = self._place()
            self._until_event(restarted, "OrderPlaced")
        self._until(lambda: self._sweep(promiseSeconds=0.1)["restarted"], "an order to be overdue")
        self._until_status(restarted, "FULFILLED")
        with self._rule_disabled("OrderWorkRule"):
            expired = self._place()
            self._until_event(expired, "OrderPlaced")
        self._until(
            lambda: self._sweep(promiseSeconds=0.1, expirySeconds=0.1)["expired"], "a reservation to have expired"
        )
        self._until_status(expired, "FAILED")

    def _sharded(self) -> None:
        """Products in shards: an order that takes from several of them, and one that would take from too many."""
        self.note("stock in shards")
        for sku in SHARDED:
            item = {
                "sku": sku,
                "name": sku,
                "price": 100,
                "currency": "EUR",
                "available": 100,
                "reserved": 0,
                "sold": 0,
            }
            self.there.client("dynamodb").put_item(TableName=self.there.output("CatalogueTable"), Item=to_item(item))
            self._orderctl("stock", "split", sku, "--shards", "64")
        self._until_status(self._place(lines=[{"sku": SHARDED[0], "quantity": 5}]), "FULFILLED")
        everything = [{"sku": sku, "quantity": 90} for sku in SHARDED]
        self._until_status(self._place(lines=everything), "FAILED")

    def _begin_what_takes_long(self) -> dict[str, str]:
        """Orders that are retried for half a minute or longer before somebody gives up."""
        self.note("orders that are retried for long")
        slow = {
            "undo stuck": self._place("warehouse-refuses", paymentMethod="tok_refund_down_9"),
            **{
                name: self._place(paymentMethod="tok_provider_down_6")
                for name in ("redriven", "discarded", "claimed", "cancelled")
            },
            "warehouse": self._place(postal="TEST-DOWN-5"),
            "warehouse, too": self._place(postal="TEST-DOWN-5"),
            "receipt": self._place(paymentMethod="tok_receipt_down_3"),
            "receipt, twice": self._place(paymentMethod="tok_receipt_down_6"),
            "receipt, redriven": self._place(paymentMethod="tok_receipt_down_3"),
        }
        for text in ("first", "second"):
            self._send("FulfilmentQueueUrl", f"{text} unreadable message {'x' * BIG}")
        self._until(
            lambda: "PaymentAttemptFailed" in str(self._order(slow["cancelled"])["timeline"]), "a failed payment"
        )
        self._cancel(slow["cancelled"])
        return slow

    def _usual_ends(self) -> None:
        """Orders that end as they should, well or not."""
        self.note("orders that end by themselves")
        unknown = [{"sku": "NOT-SOLD", "quantity": 1}]
        ends = {
            self._place(): "FULFILLED",
            self._place("payment-timeout"): "FULFILLED",
            self._place("declined"): "FAILED",
            self._place("out-of-stock"): "FAILED",
            self._place("warehouse-refuses"): "FAILED",
            self._place(lines=unknown): "FAILED",
        }
        for order_id, status in ends.items():
            self._until_status(order_id, status)
        removed = self._place("out-of-stock")
        self._until_status(removed, "FAILED")
        key = {"customerId": {"S": self._api.tokens.customer_id}, "orderId": {"S": removed}}
        self.there.client("dynamodb").delete_item(TableName=self.there.output("OrdersTable"), Key=key)

    def _rule_targets_fail(self) -> list[str]:
        """Targets of rules that may not be used: the workflow, a queue and a function. Returns the orders."""
        self.note("rules that may not use their targets")
        with self._denied("OrderWorkRuleRole", "states:StartExecution"):
            unstarted = [self._place(), self._place()]
            self._await_messages(unstarted)
        with self._no_queue_policy("NotificationsQueueUrl"), self._no_function_policy("IssueReceiptFunction"):
            order_id = self._place()
            self._until_status(order_id, "FULFILLED")
            self._until(lambda: self._count_messages(order_id) == 3, "three dead letters")
        return unstarted

    def _odd_messages(self) -> None:
        """What is in flight without an order: a sweep that fails, and what `SENT_BY_HAND` names."""
        self.note("messages without an order")
        self.there.client("lambda").invoke(
            FunctionName=self.there.output("SweepOrdersFunction"),
            InvocationType="Event",
            Payload=b'{"promiseSeconds": -1}',
        )
        self._send("FailuresQueueUrl", "text that no sink writes")
        no_text = {"body": "half a pair: \ud800", "messageId": str(uuid.uuid4())}
        self._inbox.add(read_message(no_text), no_text["messageId"])
        functions = self.there.client("lambda")
        sweep = functions.get_function_configuration(FunctionName=self.there.output("SweepOrdersFunction"))
        told = {
            "SCHEDULE_ARN": sweep["FunctionArn"].replace(":lambda:", ":scheduler:").partition("function:")[0]
            + f"schedule/default/{self._names['SweepSchedule']}",
            "TARGET_ARN": sweep["FunctionArn"],
            "ERROR_CODE": "Lambda.TooManyRequestsException",
            "ERROR_MESSAGE": "Rate Exceeded.",
            "RETRY_ATTEMPTS": "10",
            "EXHAUSTED_RETRY_CONDITION": "MaximumRetryAttempts",
        }
        self.there.client("sqs").send_message(
            QueueUrl=self.there.output("FailuresQueueUrl"),
            MessageBody="{}",
            MessageAttributes={name: {"DataType": "String", "StringValue": value} for name, value in told.items()},
        )

    def _damaged_record(self) -> None:
        """An order that was written without its lines: its stream record can't be read. It is mended at once."""
        self.note("a stream record that can't be read")
        ended = self._place()
        self._until_status(ended, "FULFILLED")
        like = self.there.client("dynamodb").get_item(
            TableName=self.there.output("OrdersTable"),
            Key={"customerId": {"S": self._api.tokens.customer_id}, "orderId": {"S": ended}},
        )["Item"]
        dropped = {"total", "paymentId", "shipmentId", "lines"}
        order_id = str(uuid.uuid4())
        new = {"orderId": order_id, "correlationId": order_id, "status": "PLACED", "version": 1, "openShard": "00"}
        timeline = {"timeline": {"L": like["timeline"]["L"][:1]}}
        broken = {**{name: value for name, value in like.items() if name not in dropped}, **to_item(new), **timeline}
        lines = {"lines": to_item({"lines": samples.sample("fulfilled")["lines"]})["lines"]}
        put, table = self.there.client("dynamodb").put_item, self.there.output("OrdersTable")
        put(TableName=table, Item=broken)
        self._await_messages([order_id])
        put(TableName=table, Item={**broken, **lines})

    def _publisher_fails(self) -> str:
        """An outbox that gives up: its stream records are in flight by a pointer. Returns the id of one order."""
        self.note("an outbox that gives up")
        functions, name = self.there.client("lambda"), self.there.output("PublishEventsFunction")
        variables = functions.get_function_configuration(FunctionName=name)["Environment"]["Variables"]
        crippled = {key: value for key, value in variables.items() if key != "EVENT_BUS_NAME"}
        mapping = self._mapping("PublishEventsFunction")
        functions.update_event_source_mapping(UUID=mapping["UUID"], MaximumRetryAttempts=1)
        functions.update_function_configuration(FunctionName=name, Environment={"Variables": crippled})
        try:
            order_ids = [self._place(), self._place()]
            self._until(
                lambda: self._count_messages(form="stream-batch") >= len(order_ids),
                "the pointers to the records of two orders",
            )
        finally:
            functions.update_function_configuration(FunctionName=name, Environment={"Variables": variables})
            functions.update_event_source_mapping(
                UUID=mapping["UUID"], MaximumRetryAttempts=mapping["MaximumRetryAttempts"]
            )
        return order_ids[0]

    def _order_is_abandoned(self) -> None:
        """A paid order whose message SQS itself moves away."""
        self.note("a message that SQS moves")
        with self._paused("ShipOrderFunction"):
            self._until_status(self._place(), "PAID")

            def moved() -> bool:
                self._receive("FulfilmentQueueUrl", visible_after=0)
                return self._count_messages(form="moved-message") > 0

            self._until(moved, "a message to be moved by SQS")

    def _mail_half_sent(self, until_read: ExitStack) -> None:
        """A mail that was sent and not confirmed; from then on notifications stay in their queue."""
        self.note("a mail without a confirmation")
        with self._denied("NotifyCustomerFunctionRole", "dynamodb:UpdateItem"):
            self._place()
            self._until(
                lambda: any(
                    item["status"]["S"] == "INPROGRESS" for item in reading.scan(self.there, "IdempotencyTable")
                ),
                "an idempotency record in progress",
            )
            until_read.enter_context(self._paused("NotifyCustomerFunction"))

    def _operate(self, slow: dict[str, str], unstarted: list[str], lost: str) -> None:
        """What an operator does in the inbox: redrive, discard, half a redrive, half a discard."""
        self.note("redrives and discards")
        twice = self._failure("function", slow["receipt, twice"])
        self._redrive(self._failure("execution", slow["redriven"]), self._failure("stream", lost), twice)
        for order_id in (slow["redriven"], lost):
            self._until_status(order_id, "FULFILLED")
        self._until(lambda: self._record(twice)["count"]["N"] == "2", "a redriven receipt to fail again")
        self._sweep(quietSeconds=0)
        records = reading.failures(self.there)
        big = next(item["failureId"]["S"] for item in records if item.get("payloadKey"))
        given_up = [self._failure("execution", slow["discarded"]), self._failure("rule-target", unstarted[0])]
        self._failures("discard", *given_up, big, "--reason", "never mind")
        for order_id in (slow["discarded"], unstarted[0]):
            self._until_status(order_id, "FAILED")
        self._redrive(self._failure("function", slow["receipt, redriven"]))
        self._inbox.claim(self._failure("execution", slow["claimed"]), by=OPERATOR)

    def _heal(self) -> None:
        """Failures of transient causes heal by themselves, until they are held again."""
        self.note("failures that heal by themselves")
        self._failures("release", "--all")
        heal = self._names["HealFailuresFunction"]

        def probed() -> bool:
            self.there.client("lambda").invoke(FunctionName=heal, Payload=b"{}")
            items = reading.scan(self.there, "FailuresTable")
            return any(item["failureId"]["S"].startswith(CAUSE_PREFIX) for item in items)

        self._until(probed, "a probe of a cause")
        self._failures("hold", "--all")

    def _hold(self, until_read: ExitStack) -> None:
        """Orders in every open status, with an execution that runs, or before it starts."""
        self.note("orders that are held where they are")
        until_read.enter_context(self._paused("ShipOrderFunction"))
        sharded = [{"sku": SHARDED[0], "quantity": 5}]
        paid, failing = self._place(lines=sharded), self._place()
        for order_id in (paid, failing):
            self._until_status(order_id, "PAID")
        self._orderctl("stock", "merge", SHARDED[0], "--shards", "1", "--timeout", "0", codes=(0, 5))
        reserved = self._place(paymentMethod="tok_provider_down_6")
        self._until_status(reserved, "RESERVED")
        until_read.enter_context(self._rule_disabled("OrderWorkRule"))
        self._orders.start_failing(self._api.tokens.customer_id, failing, GIVEN_UP_REASON)
        self._until_event(failing, "OrderFailing")
        placed = [self._place() for _ in range(2)]
        for order_id in placed:
            self._until_event(order_id, "OrderPlaced")
        self._cancel(placed[0])
        self._until_event(placed[0], "OrderCancelled")

    # ---- What a customer and an operator do

    def _place(self, sample: str = "fulfilled", postal: str | None = None, **fields: Any) -> str:
        body = {**samples.sample(sample), **fields}
        if postal:
            body["shippingAddress"] = {**body["shippingAddress"], "postalCode": postal}
        answer = self._api.submit(json.dumps(body), str(uuid.uuid4()))
        if answer.status_code != 202:
            raise Stop(Exit.REFUSED, f"The API refused an order: {answer.text[:300]}")
        return str(answer.json()["orderId"])

    def _cancel(self, order_id: str) -> None:
        answer = self._api.cancel(order_id)
        if answer.status_code != 202:
            raise Stop(Exit.REFUSED, f"The API refused a cancellation: {answer.text[:300]}")

    def _order(self, order_id: str) -> Json:
        order: Json = self._api.request("GET", f"/orders/{order_id}").json()
        return order

    def _sweep(self, **request: float) -> Json:
        answer = self.there.client("lambda").invoke(
            FunctionName=self.there.output("SweepOrdersFunction"), Payload=json.dumps(request)
        )
        said = answer["Payload"].read().decode()
        if "FunctionError" in answer:
            raise Stop(Exit.NOT_AS_EXPECTED, f"The sweep failed: {said[:300]}")
        counts: Json = json.loads(said)
        return counts

    def _redrive(self, *failure_ids: str) -> None:
        self._failures("redrive", *failure_ids, "--wait", "0")

    def _failures(self, *arguments: str) -> None:
        self._orderctl("failures", *arguments)

    def _orderctl(self, *arguments: str, codes: tuple[int, ...] = (0,)) -> None:
        assert self.there.local is not None
        command = [str(ORDERCTL), *arguments, "--name", self.there.local.name, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode not in codes:
            said = done.stderr[-500:]
            raise Stop(Exit.NOT_AS_EXPECTED, f"orderctl {' '.join(arguments[:2])} failed: {said}")

    # ---- What is looked at

    def _until(self, look: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not look():
            if time.monotonic() > deadline:
                raise Stop(Exit.NOT_AS_EXPECTED, f"Waited {DEADLINE_S:.0f} s in vain for {what}.")
            time.sleep(POLL_S)

    def _until_status(self, order_id: str, status: str) -> None:
        self._until(lambda: self._order(order_id)["status"] == status, f"order {order_id} to become {status}")

    def _await_messages(self, order_ids: list[str], form: str = "") -> None:
        """Wait until the failures queue holds a message, of this form if one is given, about each of these orders."""
        self._until(
            lambda: all(self._count_messages(order_id, form) for order_id in order_ids),
            f"failure messages about the orders {', '.join(order_ids)}",
        )

    def _count_messages(self, order_id: str = "", form: str = "") -> int:
        """How many messages of this form about this order the failures queue has had so far."""
        # Each message is back in the queue before it is captured, and away long enough for one look at all of them.
        for message in self._receive("FailuresQueueUrl", visible_after=2):
            self.messages.setdefault(message["MessageId"], message)
        found = [each for each in self.messages.values() if order_id in each["Body"]]
        return sum(form in ("", reading.form_of(each)) for each in found)

    def _receive(self, output: str, visible_after: int) -> list[Json]:
        return reading.receive(self.there.client("sqs"), self.there.output(output), visible_after)

    def _captured(self) -> bool:
        recorded = {each["S"] for item in reading.failures(self.there) for each in item["messageIds"]["L"]}
        return self.messages.keys() <= recorded

    def _failure(self, kind: str, order_id: str) -> str:
        for item in reading.failures(self.there):
            if item["kind"]["S"] == kind and item.get("orderId", {}).get("S") == order_id:
                return str(item["failureId"]["S"])
        raise Stop(Exit.NOT_AS_EXPECTED, f"The inbox has no {kind} failure of order {order_id}.")

    def _record(self, failure_id: str) -> Json:
        return next(item for item in reading.failures(self.there) if item["failureId"]["S"] == failure_id)

    def _capture_events(self) -> None:
        """A queue of our own that gets every event of the bus."""
        sqs, events = self.there.client("sqs"), self.there.client("events")
        self._capture_url = sqs.create_queue(QueueName=CAPTURE_QUEUE)["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=self._capture_url, AttributeNames=["QueueArn"])["Attributes"][
            "QueueArn"
        ]
        allow = {
            "Effect": "Allow",
            "Principal": {"Service": "events.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": arn,
        }
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
        sqs.set_queue_attributes(QueueUrl=self._capture_url, Attributes={"Policy": policy})
        bus = self.there.output("EventBusName")
        events.put_rule(Name=CAPTURE_QUEUE, EventBusName=bus, EventPattern='{"source": ["orders"]}')
        events.put_targets(Rule=CAPTURE_QUEUE, EventBusName=bus, Targets=[{"Id": "all", "Arn": arn}])

    def _collect_events(self) -> None:
        sqs = self.there.client("sqs")
        for message in reading.receive(sqs, self._capture_url, 30):
            self.events.append(json.loads(message["Body"]))
            sqs.delete_message(QueueUrl=self._capture_url, ReceiptHandle=message["ReceiptHandle"])

    def _until_event(self, order_id: str, detail_type: str) -> None:
        def seen() -> bool:
            self._collect_events()
            return any(
                event["detail-type"] == detail_type and event["detail"]["data"]["orderId"] == order_id
                for event in self.events
            )

        self._until(seen, f"the event {detail_type} of order {order_id}")

    # ---- What is broken for a while

    def _send(self, output: str, body: str) -> None:
        self.there.client("sqs").send_message(QueueUrl=self.there.output(output), MessageBody=body)

    def _mapping(self, function: str) -> Json:
        mappings = self.there.client("lambda").list_event_source_mappings(FunctionName=self._names[function])
        (found,) = mappings["EventSourceMappings"]
        mapping: Json = found
        return mapping

    @contextmanager
    def _paused(self, function: str) -> Iterator[None]:
        """Stop a function from reading its queue."""
        functions, mapping = self.there.client("lambda"), self._mapping(function)["UUID"]
        functions.update_event_source_mapping(UUID=mapping, Enabled=False)
        try:
            yield
        finally:
            functions.update_event_source_mapping(UUID=mapping, Enabled=True)

    @contextmanager
    def _denied(self, role: str, action: str) -> Iterator[None]:
        """Take a permission away from a role."""
        iam = self.there.client("iam")
        deny = {"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": action, "Resource": "*"}]}
        iam.put_role_policy(RoleName=self._names[role], PolicyName=BREAK, PolicyDocument=json.dumps(deny))
        try:
            yield
        finally:
            iam.delete_role_policy(RoleName=self._names[role], PolicyName=BREAK)

    @contextmanager
    def _no_queue_policy(self, output: str) -> Iterator[None]:
        """Take away what lets rules send to a queue."""
        sqs, url = self.there.client("sqs"), self.there.output(output)
        policy = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["Policy"])["Attributes"]["Policy"]
        deny = {"Effect": "Deny", "Principal": "*", "Action": "sqs:SendMessage", "Resource": "*"}
        denied = json.dumps({"Version": "2012-10-17", "Statement": [deny]})
        sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": denied})
        try:
            yield
        finally:
            sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy})

    @contextmanager
    def _no_function_policy(self, function: str) -> Iterator[None]:
        """Take away what lets rules invoke a function."""
        functions, name = self.there.client("lambda"), self._names[function]
        (statement,) = json.loads(functions.get_policy(FunctionName=name)["Policy"])["Statement"]
        functions.remove_permission(FunctionName=name, StatementId=statement["Sid"])
        try:
            yield
        finally:
            source = next(iter(statement["Condition"].values()))
            functions.add_permission(
                FunctionName=name,
                StatementId=statement["Sid"],
                Action="lambda:InvokeFunction",
                Principal="events.amazonaws.com",
                SourceArn=next(value for key, value in source.items() if key.lower() == "aws:sourcearn"),
            )

    @contextmanager
    def _rule_disabled(self, rule: str) -> Iterator[None]:
        """Disable a rule: what it would have delivered is lost without a trace."""
        events, bus = self.there.client("events"), self.there.output("EventBusName")
        name = self._names[rule].rsplit("|", 1)[-1]
        events.disable_rule(Name=name, EventBusName=bus)
        try:
            yield
        finally:
            events.enable_rule(Name=name, EventBusName=bus)
