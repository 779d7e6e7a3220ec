"""The whole pipeline in one process: real functions, the real workflow, and deliveries under the caller's control.

A message to a bus, a queue or a function lies in `Simulation.pending` until the caller delivers it: late, twice, in
another order, or with faults. A message that has failed for good lies in `Simulation.inbox`, from where it can be
redriven. `check` names what is wrong at the moment; `check_end` names what is wrong once nothing is in flight.
"""

from __future__ import annotations

import copy
import importlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from verify import invariants, services, template
from verify.invariants import Acceptance, Item, OrderChange
from verify.scheduler import Aborted, CallOutcome, Crash, Process, pause
from verify.services import Json

services.prepare()  # before a module of the functions reads the environment

import boto3  # noqa: E402

from localcloud.workflow_engine import StatesError  # noqa: E402
from orderctl.redrive.discarding import give_order_up  # noqa: E402
from orderctl.stack.target import Target  # noqa: E402
from orders.domain.clock import timestamp  # noqa: E402
from orders.domain.errors import MailRefused  # noqa: E402
from orders.inbox.parse import read_message  # noqa: E402
from orders.inbox.record import Action, Failure, FailureRecord, Kind, first_seen  # noqa: E402
from orders.runtime import telemetry  # noqa: E402
from orders.storage.dynamodb import from_item, to_item  # noqa: E402
from orders.workflow import order_waits_for  # noqa: E402
from verify.workflow import MACHINE_ARN, Injector, SimulatedExecution, answer_token, crash_error  # noqa: E402

CATALOGUE = {"apple": (100, 6), "pear": (250, 4)}
"""Price and stock of each product."""
SUPPLIED = {sku: stock for sku, (_, stock) in CATALOGUE.items()}
CURRENCY = "EUR"
# Functions that keep state between calls; one of their environments runs one invocation at a time.
NOT_REENTRANT = frozenset({"QueryOrdersFunction", "ShipOrderFunction", "NotifyCustomerFunction"})

STACK = Target(
    "proof",
    {
        **{name: name for name in ("OrdersTable", "CatalogueTable", "PublishEventsFunction")},
        "FulfilmentQueueArn": "FulfilmentQueue",
        "StateMachineArn": MACHINE_ARN,
    },
    "",
    boto3.session.Session(region_name="us-east-1"),
)
NOT_SAVED = frozenset({"inject", "executions", "racing"})


def _load_handlers() -> dict[str, Callable[[Json, Any], Any]]:
    handlers = {}
    for name in template.of_type("AWS::Serverless::Function"):
        try:
            module = importlib.import_module(template.module_of(name))
        except ModuleNotFoundError:
            continue
        if hasattr(module, "time"):
            module.time = SimpleNamespace(sleep=lambda _: None)  # type: ignore[attr-defined]
        handlers[name] = module.handler
    telemetry.metrics.add_metric = lambda *_, **__: None  # type: ignore[method-assign]
    return handlers


HANDLERS = _load_handlers()


class Context:
    """A function's context. No time is left, so that a retry may send a mail at once after its sender died."""

    function_name = "proof"
    memory_limit_in_mb = 512
    invoked_function_arn = "arn:aws:lambda:us-east-1:000000000000:function:proof"
    aws_request_id = "proof"

    @staticmethod
    def get_remaining_time_in_millis() -> int:
        """Milliseconds."""
        return -1_000


@dataclass
class Delivery:
    """A message in flight: `to` is a queue, a function or the workflow."""

    to: str
    payload: str
    attempts: int = 0
    deleted: bool = False
    duplicates: int = 0

    def __str__(self) -> str:
        return f"{self.to}: {self.payload[:60]}"


@dataclass
class InboxEntry:
    """A failure in the inbox: a delivery that was given up, or an execution that failed.

    `known` is what the inbox's own reader makes of the message that reports the failure.
    """

    delivery: Delivery
    why: str
    known: Failure
    order_id: str = ""
    execution: bool = False


@dataclass
class Simulation:
    """The state of everything that isn't in a table. `inject` puts errors into the executions that start."""

    inject: Injector | None = None
    pending: list[Delivery] = field(default_factory=list)
    inbox: list[InboxEntry] = field(default_factory=list)
    executions: list[SimulatedExecution] = field(default_factory=list)
    accepted: list[Acceptance] = field(default_factory=list)
    published: Counter[str] = field(default_factory=Counter)
    receipts: Counter[str] = field(default_factory=Counter)
    mails: Counter[str] = field(default_factory=Counter)
    excused_mails: int = 0
    # Orders of which an operator has discarded a failure: the discarded effect may be missing at the end.
    discarded: set[str] = field(default_factory=set)
    not_given_up: list[str] = field(default_factory=list)
    stream_position: int = 0
    racing: Process | None = None

    def __post_init__(self) -> None:
        services.reset_ids()
        services.outages.clear()
        services.reset_tables()
        for sku, (price, stock) in CATALOGUE.items():
            product = {"sku": sku, "name": sku, "price": price, "currency": CURRENCY}
            services.table(
                "PutItem",
                {
                    "TableName": "CatalogueTable",
                    "Item": to_item({**product, "available": stock, "reserved": 0, "sold": 0}),
                },
            )
        services.receivers.update(
            events=self._on_bus, sqs=self._on_queue, stepfunctions=self._on_workflow, s3=self._on_bucket
        )
        notify = importlib.import_module("orders.functions.notify_customer")
        notify._mailer = self  # type: ignore[attr-defined]

    # ---- Saving and loading, to try several ways out of the same state

    def save(self) -> Json:
        """The whole state, for `load`; no execution may be running."""
        own = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in NOT_SAVED}
        return {"own": copy.deepcopy(own), "tables": services.save_tables()}

    def load(self, saved: Json) -> None:
        """Put back the state that `save` gave."""
        services.load_tables(saved["tables"])
        for name, value in copy.deepcopy(saved["own"]).items():
            setattr(self, name, value)

    def finish_racing(self) -> None:
        """Run the process beside an execution to its end."""
        if self.racing:
            self.racing.finish()
            self.racing = None

    # ---- What the functions call

    def send(self, to: str, subject: str, text: str) -> None:
        """Take a mail, in the place of the mailer. Raises `MailRefused`."""
        if to.endswith("@bounce.example"):
            raise MailRefused("the recipient's mail server refuses the address")
        self.mails[text] += 1
        if pause("mail sent") is CallOutcome.CRASH:
            raise Crash

    def _on_bus(self, _: str, request: Json) -> Json:
        for entry in request["Entries"]:
            detail = json.loads(entry["Detail"])
            self.published[detail["metadata"]["eventId"]] += 1
            event = {"source": entry["Source"], "detail-type": entry["DetailType"], "detail": detail}
            for _rule, target in template.targets_of(entry["DetailType"]):
                payload = detail if target == template.WORKFLOW else event
                self.pending.append(Delivery(target, json.dumps(payload)))
        return {"FailedEntryCount": 0, "Entries": [{"EventId": services.new_id("event")} for _ in request["Entries"]]}

    def _on_queue(self, operation: str, request: Json) -> Json:
        if operation == "SendMessage":
            self.enqueue(request["QueueUrl"], request["MessageBody"])
            return {"MessageId": services.new_id("message"), "MD5OfMessageBody": ""}
        if operation == "ChangeMessageVisibility":
            return {}
        raise NotImplementedError(operation)

    def enqueue(self, queue: str, body: str) -> None:
        """Put a message on a queue; a message on the failures queue becomes an entry of the inbox."""
        delivery = Delivery(queue, body)
        if queue == "FailuresQueue":
            report = json.loads(body)
            if report.get("kind") == "PoisonMessage":
                delivery = Delivery(report["queueArn"], report["body"])
            self._capture(delivery, report.get("error", "parked"), body)
        else:
            self.pending.append(delivery)

    def _capture(self, delivery: Delivery, why: str, body: str, *, execution: bool = False, **message: Json) -> None:
        """Make an entry of the inbox of a message on the failures queue."""
        known = read_message({"body": body, "messageId": services.new_id("message"), **message})
        assert known.kind != Kind.UNKNOWN, known.error_message
        self.inbox.append(InboxEntry(delivery, why, known, known.order_id or "", execution))

    def _on_workflow(self, operation: str, request: Json) -> Json:
        if operation == "StartExecution":
            self.pending.append(Delivery(template.WORKFLOW, request["input"]))
            return {"executionArn": services.new_id("execution"), "startDate": 0}
        return answer_token(operation, request)

    def _on_bucket(self, operation: str, request: Json) -> Json:
        assert operation == "PutObject", operation
        self.receipts[request["path"]] = 1
        return {}

    # ---- A client

    def submit(self, body: Json, *, customer: str, key: str | None) -> Json:
        """POST /orders; remember a 202."""
        headers = {"Content-Type": "application/json", **({"Idempotency-Key": key} if key else {})}
        answer = self._post("AcceptOrderFunction", "/orders", customer, headers, json.dumps(body))
        if answer["statusCode"] == 202:
            self.accepted.append(Acceptance(json.loads(answer["body"])["orderId"], customer, key))
        return answer

    def cancel(self, order_id: str, *, customer: str) -> Json:
        """POST /orders/{orderId}/cancel."""
        return self._post("QueryOrdersFunction", f"/orders/{order_id}/cancel", customer, {}, None)

    def _post(self, function: str, path: str, customer: str, headers: dict[str, str], body: str | None) -> Json:
        event = {
            "httpMethod": "POST",
            "path": path,
            "resource": path,
            "headers": headers,
            "multiValueHeaders": {},
            "queryStringParameters": None,
            "multiValueQueryStringParameters": None,
            "requestContext": {
                "requestId": services.new_id("request"),
                "path": f"/v1{path}",
                "stage": "v1",
                "authorizer": {"claims": {"sub": customer, "email": f"{customer}@example.com"}},
            },
            "body": body,
            "isBase64Encoded": False,
        }
        answer: Json = HANDLERS[function](event, Context())
        return answer

    # ---- The workflow

    def execution(self, data: Json) -> SimulatedExecution:
        """A new execution with this input, not yet running."""
        name = services.new_id("execution")
        found = SimulatedExecution(
            name, data, invoke=run_task, send=self.enqueue, publish=self._on_status, inject=self.inject
        )
        self.executions.append(found)
        return found

    def _on_status(self, event: Json) -> None:
        """An execution has ended: the rule on its status sends a failure to the failures queue."""
        detail = json.loads(event["Detail"])
        if template.reports_failures(detail["status"]):
            body = {"source": event["Source"], "detail-type": event["DetailType"], "detail": detail}
            why = f"{detail['status']} {detail['error']}"
            self._capture(Delivery(template.WORKFLOW, detail["input"]), why, json.dumps(body), execution=True)

    def run(self, data: Json) -> SimulatedExecution:
        """Run an execution to its end outside of the scheduler, and deliver each message that it sends at once."""
        execution = self.execution(data)
        execution.send = self._send_and_deliver
        execution.run()
        return execution

    def _send_and_deliver(self, queue: str, body: str) -> None:
        self.enqueue(queue, body)
        delivery = self.pending[-1]
        most, _ = template.redrive_of(queue)
        while not delivery.deleted and delivery.attempts < most:
            self.deliver(delivery)

    # ---- Deliveries

    def deliver(self, delivery: Delivery) -> None:
        """Make one attempt here and now; a failed delivery stays in flight, or goes to the inbox once given up."""
        self.settle_delivery(delivery, *self.attempt(delivery))

    def attempt(self, delivery: Delivery) -> tuple[bool, str]:
        """Make one attempt: whether it succeeded, and why not. Raises what the function raises."""
        if delivery.to == template.WORKFLOW:
            self.run(json.loads(delivery.payload))
            return True, ""
        if is_queue(delivery.to):
            return not self.consume([delivery]), "reported as failed"
        delivery.attempts += 1
        HANDLERS[delivery.to](json.loads(delivery.payload), Context())
        return True, ""

    def consume(self, batch: list[Delivery]) -> list[int]:
        """Hand a batch of one queue's messages to its consumer; returns the indexes of those reported as failed."""
        records = []
        for number, delivery in enumerate(batch):
            delivery.attempts += 1
            record = {
                "messageId": str(number),
                "receiptHandle": str(number),
                "body": delivery.payload,
                "attributes": {"ApproximateReceiveCount": str(delivery.attempts)},
                "messageAttributes": {},
                "eventSource": "aws:sqs",
                "eventSourceARN": delivery.to,
                "awsRegion": "us-east-1",
            }
            records.append(record)
        answer = HANDLERS[consumer_of(batch[0].to)]({"Records": records}, Context())
        return [int(failure["itemIdentifier"]) for failure in answer["batchItemFailures"]]

    def settle_delivery(self, delivery: Delivery, succeeded: bool, why: str) -> None:
        """Do what the queue or Lambda does after an attempt."""
        if succeeded:
            delivery.deleted = True
        else:
            queue = is_queue(delivery.to)
            most, reported = template.redrive_of(delivery.to) if queue else template.retries_of(delivery.to)
            if delivery.attempts >= (most if queue else most + 1):
                delivery.deleted = True
                if reported and queue:
                    origin = {"DeadLetterQueueSourceArn": delivery.to}
                    self._capture(delivery, why, delivery.payload, attributes=origin)
                elif reported:
                    record = {
                        "requestContext": {"functionArn": delivery.to, "condition": "RetriesExhausted"},
                        "requestPayload": json.loads(delivery.payload),
                        "responsePayload": {"errorType": "Unknown", "errorMessage": why},
                    }
                    self._capture(delivery, why, json.dumps(record))
        if delivery.deleted and delivery in self.pending:
            self.pending.remove(delivery)

    def publish(self, batch: int = 100, start: int | None = None) -> None:
        """Deliver a batch of the stream to `publish_events`; `start` repeats earlier records."""
        first = self.stream_position if start is None else start
        records = services.stream("OrdersTable")[first : first + batch]
        if not records:
            return
        answer = HANDLERS["PublishEventsFunction"]({"Records": copy.deepcopy(records)}, Context())
        failed = [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]
        numbers = [record["dynamodb"]["SequenceNumber"] for record in records]
        done = min((numbers.index(number) for number in failed), default=len(records))
        self.stream_position = max(self.stream_position, first + done)

    def cannot_be_delivered(self, delivery: Delivery) -> None:
        """Have EventBridge give a delivery up: it has no permission, or the target is gone."""
        self.pending.remove(delivery)
        event = json.loads(delivery.payload)
        if delivery.to == template.WORKFLOW:
            event = {"detail": event}
        target = MACHINE_ARN if delivery.to == template.WORKFLOW else delivery.to
        attributes = {"RULE_ARN": "rule", "TARGET_ARN": target, "ERROR_CODE": "NO_PERMISSIONS"}
        told = {name: {"stringValue": value} for name, value in attributes.items()}
        self._capture(delivery, "NO_PERMISSIONS", json.dumps(event), messageAttributes=told)

    def cannot_be_read(self, number: int) -> None:
        """Deliver a record of the stream that publish_events can't read; a redrive publishes its event later."""
        record = copy.deepcopy(services.stream("OrdersTable")[number])
        del record["dynamodb"]["NewImage"]["currency"]
        if not HANDLERS["PublishEventsFunction"]({"Records": [record]}, Context())["batchItemFailures"]:
            self.stream_position = max(self.stream_position, number + 1)

    def redrive(self, entry: InboxEntry) -> None:
        """Send an entry of the inbox back to where it failed, as an operator does."""
        order = next((each for each in self.orders() if each["orderId"] == entry.order_id), {})
        if entry.delivery.to == "FulfilmentQueue" and "givenUp" in order:
            self.discard(entry)  # the operator's redrive is refused
            return
        if entry.known.redrive.action is Action.PUBLISH:
            parked = json.loads(entry.delivery.payload)["record"]["dynamodb"]["SequenceNumber"]
            mended = [each for each in services.stream("OrdersTable") if each["dynamodb"]["SequenceNumber"] == parked]
            request = {"Records": copy.deepcopy(mended), "redrive": True}
            if not HANDLERS["PublishEventsFunction"](request, Context())["batchItemFailures"]:
                self.inbox.remove(entry)
            return
        self.inbox.remove(entry)
        delivery = Delivery(entry.delivery.to, entry.delivery.payload)
        if entry.execution:
            data = json.loads(delivery.payload)
            delivery.payload = json.dumps({"metadata": data["metadata"], "data": data["data"], "path": "resume"})
        self.pending.append(delivery)

    def discard(self, entry: InboxEntry) -> None:
        """Give an entry of the inbox up, as an operator does, and the order that waits for the entry."""
        record = first_seen(entry.known, at=timestamp(), message_id=services.new_id("message"))
        if order_waits_for(record, STACK.output("FulfilmentQueueArn")):
            give_order_up(STACK, _Payloads(), record)  # type: ignore[arg-type]
        if entry in self.inbox:
            self.inbox.remove(entry)
        self.discarded.add(entry.order_id)
        if entry.execution or entry.delivery.to in (template.WORKFLOW, "FulfilmentQueue"):
            self.not_given_up += [
                f"{entry.order_id} was discarded and is not given up"
                for order in self.orders()
                if order["orderId"] == entry.order_id and "givenUp" not in order and not invariants.has_ended(order)
            ]

    def earlier_entry_of(self, order: Json) -> InboxEntry:
        """An inbox entry of an earlier execution of the order that failed; the entry is not in the inbox."""
        execution = self.execution(self.input_of(order))
        self.executions.remove(execution)
        execution.fail("Unheard.Of", "")
        return self.inbox.pop()

    def settle(self) -> None:
        """End every fault, deliver every message and redrive the inbox until nothing is in flight."""
        self.inject = None
        services.outages.clear()
        for _ in range(200):
            self.publish()
            for delivery in list(self.pending):
                if delivery in self.pending:
                    try:
                        self.deliver(delivery)
                    except Exception as failed:
                        self.settle_delivery(delivery, succeeded=False, why=repr(failed))
            for entry in list(self.inbox):
                self.redrive(entry)
            if not self.pending and self.stream_position == len(services.stream("OrdersTable")):
                return
        raise AssertionError(f"the system doesn't come to rest; still in flight: {self.pending[:3]}")

    # ---- Invariants

    def orders(self) -> list[Json]:
        """Every order of the table, plain."""
        return [from_item(item) for item in services.items("OrdersTable")]

    def check(self) -> list[str]:
        """What is wrong at the moment, whatever is in flight."""
        orders = self.orders()
        payments, shipments = _ledgers()
        return [
            *invariants.check_stock(ledger("CatalogueTable", "sku").values(), orders, SUPPLIED),
            *(
                sentence
                for order_id in payments.keys() | shipments.keys()
                for sentence in invariants.check_ledgers(
                    order_id, payments.get(order_id, {}), shipments.get(order_id, {})
                )
            ),
            *invariants.check_history(orders, changes()),
            *self.not_given_up,
        ]

    def check_end(self) -> list[str]:
        """What is wrong now that nothing is in flight and the inbox is empty."""
        orders = self.orders()
        wrong = self.check()
        wrong += invariants.check_acceptances(self.accepted, {order["orderId"] for order in orders})
        for order in orders:
            order_id = order["orderId"]
            if not invariants.has_ended(order):
                wrong.append(f"LOST: {order_id} stands still as {order['status']}, and nothing is in flight for it")
            wrong += check_end(order, refund_dropped=order_id in self.discarded)
            wrong += invariants.check_effects(
                order,
                receipts=sum(order_id in path for path in self.receipts),
                events=self.published,
                mails=sum(order_id in text for text in self.mails),
                discarded=order_id in self.discarded,
            )
        return wrong + invariants.check_duplicate_mails(self.mails, self.excused_mails)

    def input_of(self, order: Json, path: str | None = None) -> Json:
        """The input of an execution for an order."""
        data = {"customerId": order["customerId"], "orderId": order["orderId"]}
        found: Json = {"metadata": {"correlationId": order["correlationId"]}, "data": data}
        return {**found, "path": path} if path else found


def ledger(name: str, key: str) -> dict[str, Json]:
    """A table's items by their key, plain."""
    return {item[key]["S"]: from_item(item) for item in services.items(name)}


def _ledgers() -> tuple[dict[str, Json], dict[str, Json]]:
    return ledger("PaymentsTable", "idempotencyKey"), ledger("ShipmentsTable", "orderId")


def check_end(order: Item, *, refund_dropped: bool = False) -> list[str]:
    """`invariants.check_end` with the order's entries in the ledgers of payment provider and warehouse."""
    payments, shipments = _ledgers()
    order_id = order["orderId"]
    return invariants.check_end(
        order, payments.get(order_id, {}), shipments.get(order_id, {}), refund_dropped=refund_dropped
    )


def changes() -> list[OrderChange]:
    """Every write to the orders table, oldest first."""
    found = []
    for record in services.stream("OrdersTable"):
        before, after = record["dynamodb"].get("OldImage"), record["dynamodb"]["NewImage"]
        change = OrderChange(after["orderId"]["S"], after["status"]["S"], int(after["version"]["N"]))
        if before:
            change = change._replace(
                status_before=before["status"]["S"],
                version_before=int(before["version"]["N"]),
                given_up_before="givenUp" in before,
            )
        found.append(change)
    return found


class _Payloads:
    """Stands in for the failures table, of which a discard needs the payload only."""

    @staticmethod
    def payload_of(record: FailureRecord) -> str:
        """The payload."""
        return record.payload or ""


def run_task(function: str, payload: Json) -> Any:
    """Run a function as a state's task. Raises `StatesError` named after the function's error, and `Aborted`."""
    if pause(f"{function}: start") is CallOutcome.ABORT:
        raise Aborted
    try:
        result = json.loads(json.dumps(HANDLERS[function](json.loads(json.dumps(payload)), Context())))
    except Crash:
        raise crash_error(function) from None
    except StatesError:
        raise
    except Exception as failed:
        cause = {"errorType": type(failed).__name__, "errorMessage": str(failed)}
        raise StatesError(type(failed).__name__, json.dumps(cause)) from None
    match pause(f"{function}: end"):
        case CallOutcome.ABORT:
            raise Aborted
        case CallOutcome.CRASH | CallOutcome.LOST | CallOutcome.TIMEOUT:
            raise StatesError(
                "Sandbox.Timedout", json.dumps({"errorType": "Sandbox.Timedout", "errorMessage": "lost"})
            )
    return result


def is_queue(name: str) -> bool:
    """Whether a delivery's target is a queue."""
    return bool(template.resources()[name]["Type"] == "AWS::SQS::Queue")


def consumer_of(queue: str) -> str:
    """The function that reads a queue."""
    for name, function in template.of_type("AWS::Serverless::Function").items():
        for event in function.get("Events", {}).values():
            if event["Type"] == "SQS" and event["Properties"]["Queue"] == queue:
                return name
    raise LookupError(queue)


def body_of(lines: dict[str, int], *, token: str = "tok_visa", postal: str = "1000") -> Json:
    """The body of an order."""
    return {
        "currency": CURRENCY,
        "lines": [{"sku": sku, "quantity": quantity} for sku, quantity in lines.items()],
        "shippingAddress": {"name": "A", "line1": "B 1", "city": "C", "postalCode": postal, "country": "BE"},
        "paymentMethod": token,
    }
