"""The whole pipeline in one process: real functions, the real workflow, and deliveries under the caller's control.

A message to a bus, a queue or a function lies in `Simulation.pending` until the caller delivers it: late, twice, in
another order, or with faults. A message that has failed for good goes to the failures queue, from where
capture_failure brings it into the failure inbox, the real table. `check` names what is wrong at the moment;
`check_end` names what is wrong once nothing is in flight.
"""

from __future__ import annotations

import copy
import importlib
import json
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from io import BytesIO
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

from verify import clock, invariants, services, template
from verify.invariants import Acceptance, Item, OrderChange
from verify.scheduler import Aborted, CallOutcome, Crash, Process, pause
from verify.services import Json

services.prepare()  # before a module of the functions reads the environment

import boto3  # noqa: E402

from localcloud.workflow_engine import StatesError  # noqa: E402
from orderctl.redrive.discarding import discard_one  # noqa: E402
from orderctl.stack import stock as orderctl_stock  # noqa: E402
from orderctl.stack.stock import StockTable  # noqa: E402
from orderctl.stack.target import Target  # noqa: E402
from orders.domain import stock  # noqa: E402
from orders.domain.errors import MailRefused  # noqa: E402
from orders.domain.order import CAN_FAIL, GIVEN_UP_REASON  # noqa: E402
from orders.domain.stock import stock_key  # noqa: E402
from orders.inbox.record import Action, FailureRecord, FailureStatus  # noqa: E402
from orders.inbox.store import FailuresTable, decode_record  # noqa: E402
from orders.redrive.sending import Sender, redrive_one  # noqa: E402
from orders.runtime import telemetry  # noqa: E402
from orders.storage.dynamodb import from_item, to_item  # noqa: E402
from orders.storage.orders import OrdersTable  # noqa: E402
from verify.workflow import MACHINE_ARN, Injector, SimulatedExecution, crash_error  # noqa: E402

CATALOGUE = {"apple": (100, [6]), "pear": (250, [1, 3])}
"""Price of each product, and the stock of each of its shards."""
CURRENCY = "EUR"
# Functions that keep state between calls; one of their environments runs one invocation at a time.
NOT_REENTRANT = frozenset(
    {"QueryOrdersFunction", "ShipOrderFunction", "NotifyCustomerFunction", "CaptureFailureFunction"}
)

NOT_SAVED = frozenset({"inject", "executions", "racing"})
SHIPPING = "ship_order"
"""The name under which `Simulation.inject` meets the consumer of the fulfilment queue."""
WORKS_ON_ORDERS = frozenset({template.WORKFLOW, "FulfilmentQueue", "FailuresQueue", "RefundPaymentFunction"})
"""The targets without which an order goes nowhere; the others only tell of the order."""
MINUTE_S = 60
HOUR_S = 3_600


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
_session = boto3.session.Session(region_name="us-east-1")
FAILURES = FailuresTable(_session.client("dynamodb"), _session.client("s3"))
ORDERS = OrdersTable(_session.client("dynamodb"))
STOCK = StockTable(_session.client("dynamodb"), "CatalogueTable")
# No sleeps, and the same choices in the same run.
vars(orderctl_stock)["time"] = SimpleNamespace(sleep=lambda _: None)
stock.choose.__defaults__ = (lambda shards: shards[-1],)
TARGET = Target(
    "proof",
    {
        **{name: name for name in ("OrdersTable", "CatalogueTable", "PublishEventsFunction")},
        "FulfilmentQueueArn": template.arn_of("FulfilmentQueue"),
        "StateMachineArn": MACHINE_ARN,
    },
    "",
    _session,
)


class Context:
    """A function's context. By default no time is left, so that a retry may mail at once after its sender died."""

    function_name = "proof"
    memory_limit_in_mb = 512
    invoked_function_arn = "arn:aws:lambda:us-east-1:000000000000:function:proof"
    aws_request_id = "proof"

    def __init__(self, remaining_ms: int = -1_000) -> None:
        self._remaining_ms = remaining_ms

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds."""
        return self._remaining_ms


@dataclass(eq=False)
class Delivery:
    """A message in flight: `to` is a queue, a function or the workflow. A duplicate has the same `message_id`."""

    to: str
    payload: str
    message: Json = field(default_factory=dict)
    message_id: str = field(default_factory=lambda: services.new_id("message"))
    attempts: int = 0
    deleted: bool = False
    duplicates: int = 0

    def __str__(self) -> str:
        return f"{self.to}: {self.payload[:60]}"


@dataclass
class Simulation:
    """The state of everything that isn't in a table. `inject` puts errors into the executions that start."""

    inject: Injector | None = None
    pending: list[Delivery] = field(default_factory=list)
    # Messages that even capture_failure could not handle: an alarm tells a human, who moves them back.
    dead: list[Delivery] = field(default_factory=list)
    executions: list[SimulatedExecution] = field(default_factory=list)
    accepted: list[Acceptance] = field(default_factory=list)
    published: Counter[str] = field(default_factory=Counter)
    receipts: Counter[str] = field(default_factory=Counter)
    mails: Counter[str] = field(default_factory=Counter)
    excused_mails: int = 0
    # Orders of which an operator has discarded a failure: the discarded effect may be missing at the end.
    discarded: set[str] = field(default_factory=set)
    # Orders that only the sweep can find: an execution died without a word, or an operator's command did.
    for_the_sweep: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    # Every message to the warehouse so far.
    shipped: list[str] = field(default_factory=list)
    stream_position: int = 0
    supplied: dict[str, int] = field(
        default_factory=lambda: {sku: sum(found) for sku, (_, found) in CATALOGUE.items()}
    )
    racing: Process | None = None

    def __post_init__(self) -> None:
        services.reset_ids()
        clock.put()
        services.outages.clear()
        services.reset_tables()
        for sku, (price, shards) in CATALOGUE.items():
            product = {"name": sku, "price": price, "currency": CURRENCY}
            if len(shards) > 1:
                product["shards"] = len(shards)
            for number, available in enumerate(shards):
                pieces = {"available": available, "reserved": 0, "sold": 0}
                item = {"sku": stock_key(sku, number), **pieces, **({} if number else product)}
                services.table("PutItem", {"TableName": "CatalogueTable", "Item": to_item(item)})
        services.receivers.update(
            {
                "events": self._on_bus,
                "sqs": self._on_queue,
                "stepfunctions": self._on_workflow,
                "s3": self._on_bucket,
                "lambda": self._on_function,
                "cloudwatch": lambda *_: {"MetricAlarms": []},
            }
        )
        notify = importlib.import_module("orders.functions.notify_customer")
        notify._mailer = self  # type: ignore[attr-defined]

    # ---- Saving and loading, to try several ways out of the same state

    def save(self) -> Json:
        """The whole state, for `load`; no execution may be running."""
        own = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in NOT_SAVED}
        return {"own": copy.deepcopy(own), "tables": services.save_tables(), "clock": clock.now()}

    def load(self, saved: Json) -> None:
        """Put back the state that `save` gave."""
        services.load_tables(saved["tables"])
        clock.put(saved["clock"])
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

    def _on_bus(self, operation: str, request: Json) -> Json:
        if operation == "ListTargetsByRule":
            return {"Targets": template.targets_with_arns(request["Rule"])}
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
        if operation == "GetQueueUrl":
            return {"QueueUrl": request["QueueName"]}
        raise NotImplementedError(operation)

    def enqueue(self, queue: str, body: str, **message: Json) -> None:
        """Put a message on a queue; `message` has its attributes, as a Lambda event has them."""
        if queue == "FulfilmentQueue":
            self.shipped.append(body)
        self.pending.append(Delivery(queue, body, message))

    def _on_workflow(self, operation: str, request: Json) -> Json:
        assert operation == "StartExecution", operation
        self.pending.append(Delivery(template.WORKFLOW, request["input"]))
        return {"executionArn": services.new_id("execution"), "startDate": 0}

    def _on_function(self, operation: str, request: Json) -> Json:
        assert operation == "Invoke", operation
        name = template.name_of(unquote(request["path"].split("/functions/")[1].partition("/")[0]))
        if request["headers"].get("X-Amz-Invocation-Type") == "Event":
            self.pending.append(Delivery(name, request["body"].decode()))
            return {"StatusCode": 202}
        answer = HANDLERS[name](json.loads(request["body"]), Context())
        return {"StatusCode": 200, "Payload": BytesIO(json.dumps(answer).encode())}

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
        found = SimulatedExecution(name, data, invoke=run_task, send=self.enqueue, inject=self.inject)
        self.executions.append(found)
        return found

    def run(self, data: Json) -> SimulatedExecution:
        """Run an execution to its end; its messages stay in flight."""
        execution = self.execution(data)
        self.run_to_end(execution)
        return execution

    def run_to_end(self, execution: SimulatedExecution) -> None:
        """Run an execution; remember its order if it ended badly without a message to the failures queue."""
        try:
            execution.run()
        finally:
            if execution.status != "SUCCEEDED" and not execution.reported:
                self.for_the_sweep.add(execution.data["data"]["orderId"])

    # ---- Deliveries

    def deliver(self, delivery: Delivery) -> None:
        """Make one attempt here and now; a failed delivery stays in flight, or goes to the inbox once given up."""
        self.settle_delivery(delivery, *self.attempt(delivery))

    def attempt(self, delivery: Delivery) -> tuple[bool, str]:
        """Make one attempt: whether it succeeded, and why not. Raises what the function raises."""
        if delivery.to == template.WORKFLOW:
            if delivery in self.pending:
                self.pending.remove(delivery)  # an execution starts once for each delivery
            self.run(json.loads(delivery.payload))
            return True, ""
        if is_queue(delivery.to):
            return not self.consume([delivery]), "reported as failed"
        delivery.attempts += 1
        HANDLERS[delivery.to](json.loads(delivery.payload), Context())
        return True, ""

    def consume(self, batch: list[Delivery]) -> list[int]:
        """Hand a batch of one queue's messages to its consumer; returns the indexes of those reported as failed."""
        queue = batch[0].to
        records = []
        for delivery in batch:
            delivery.attempts += 1
            record = {
                "messageId": delivery.message_id,
                "receiptHandle": delivery.message_id,
                "body": delivery.payload,
                "attributes": {"ApproximateReceiveCount": str(delivery.attempts)},
                "messageAttributes": {},
                "eventSource": "aws:sqs",
                "eventSourceARN": template.arn_of(queue),
                "awsRegion": "us-east-1",
                **delivery.message,
            }
            record["attributes"] = {**record["attributes"], "ApproximateReceiveCount": str(delivery.attempts)}
            records.append(record)
        if queue == "FulfilmentQueue" and self._meets("before"):
            return list(range(len(batch)))
        answer = HANDLERS[consumer_of(queue)]({"Records": records}, Context())
        if queue == "FulfilmentQueue" and self._meets("after"):
            return list(range(len(batch)))
        failed = {failure["itemIdentifier"] for failure in answer["batchItemFailures"]}
        return [number for number, delivery in enumerate(batch) if delivery.message_id in failed]

    def _meets(self, when: str) -> bool:
        """Whether the consumer of the fulfilment queue dies before or after its work."""
        return bool(self.inject and self.inject(SHIPPING, when))

    def settle_delivery(self, delivery: Delivery, succeeded: bool, why: str) -> None:
        """Do what the queue or Lambda does after an attempt."""
        if succeeded:
            delivery.deleted = True
        else:
            queue = is_queue(delivery.to)
            most, reported = template.redrive_of(delivery.to) if queue else template.retries_of(delivery.to)
            if delivery.attempts >= (most if queue else most + 1):
                delivery.deleted = True
                if delivery.to == "FailuresQueue":
                    self.dead.append(Delivery(delivery.to, delivery.payload, delivery.message, delivery.message_id))
                elif reported and queue:
                    self.enqueue(
                        "FailuresQueue",
                        delivery.payload,
                        attributes={"DeadLetterQueueSourceArn": template.arn_of(delivery.to)},
                    )
                elif reported:
                    record = {
                        "requestContext": {
                            "functionArn": template.arn_of(delivery.to),
                            "condition": "RetriesExhausted",
                            "requestId": services.new_id("request"),
                        },
                        "requestPayload": json.loads(delivery.payload),
                        "responsePayload": {"errorType": "Unknown", "errorMessage": why},
                    }
                    self.enqueue("FailuresQueue", json.dumps(record))
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
        rule = f"arn:aws:events:us-east-1:000000000000:rule/OrdersBus/{template.rule_of(delivery.to)}"
        attributes = {"RULE_ARN": rule, "TARGET_ARN": template.arn_of(delivery.to), "ERROR_CODE": "NO_PERMISSIONS"}
        told = {name: {"stringValue": value} for name, value in attributes.items()}
        self.enqueue("FailuresQueue", json.dumps(event), messageAttributes=told)

    def cannot_be_read(self, number: int) -> None:
        """Deliver a record of the stream that publish_events can't read; a redrive publishes its event later."""
        record = copy.deepcopy(services.stream("OrdersTable")[number])
        del record["dynamodb"]["NewImage"]["currency"]
        if not HANDLERS["PublishEventsFunction"]({"Records": [record]}, Context())["batchItemFailures"]:
            self.stream_position = max(self.stream_position, number + 1)

    # ---- Operators, and what runs by itself

    @property
    def inbox(self) -> list[FailureRecord]:
        """The failures that wait for a redrive, oldest first."""
        # The table also holds how causes heal.
        records = [decode_record(item) for item in services.items("FailuresTable") if "kind" in item]
        found = [record for record in records if record.status is FailureStatus.NEW]
        return sorted(found, key=lambda record: record.first_seen_at)

    def redrive(self, failure: FailureRecord) -> None:
        """Send a failure back to where it failed, as an operator does. Raises what the services raise."""
        _mend(failure)
        try:
            outcome = redrive_one(_sender(), FAILURES, failure.failure_id, "operator")
        except BaseException:
            self.for_the_sweep.add(failure.order_id or "")  # the claim stays, and nobody has the order in hand
            raise
        if "doesn't look like" in outcome.detail or "unknown" in outcome.detail:
            self.wrong.append(f"the failure {failure.failure_id} can't be redriven: {outcome.detail}")

    def discard(self, failure: FailureRecord) -> None:
        """Give a failure up, as an operator does, and the order that waits for it."""
        self.discarded.add(failure.order_id or "")
        self.for_the_sweep.add(failure.order_id or "")
        outcome = discard_one(TARGET, FAILURES, failure.failure_id, "operator", "given up")
        order = next((each for each in self.orders() if each["orderId"] == failure.order_id), None)
        if outcome.given_up and order and order["status"] in CAN_FAIL:
            self.wrong.append(f"{failure.order_id} was discarded and is {order['status']}")

    def give_up(self, customer_id: str, order_id: str) -> None:
        """Make an order FAILING, whatever is in flight for it."""
        order = ORDERS.start_failing(customer_id, order_id, GIVEN_UP_REASON)
        if order.status in CAN_FAIL:
            self.wrong.append(f"{order_id} was given up and is {order.status}")

    def sweep(self) -> None:
        """Run the sweep, as its schedule does."""
        HANDLERS["SweepOrdersFunction"]({}, Context(60_000))

    def heal(self) -> None:
        """Let transient failures heal by themselves, as the schedule does."""
        HANDLERS["HealFailuresFunction"]({}, Context(60_000))

    def shards_of(self, sku: str) -> int:
        """How many open shards a product has."""
        return int(ledger("CatalogueTable", "sku")[sku].get("shards", 1))

    def split(self, sku: str, shards: int) -> None:
        """Split a product's stock, as an operator does. Raises `Stop` where the command is refused."""
        for _ in STOCK.split(sku, shards):
            pass

    def merge(self, sku: str, shards: int) -> bool:
        """Merge a product's shards, as an operator does, up to where orders hold pieces of a closed one.

        Returns whether the merge is complete. Raises `Stop` where the command is refused.
        """
        return not any(step.waits for step in STOCK.merge(sku, shards))  # any() ends at the first that waits

    def restock(self, sku: str, quantity: int) -> None:
        """Add pieces to a product, as an operator does."""
        before = _pieces_of(sku)
        try:
            STOCK.add(sku, quantity)
        finally:
            self.supplied[sku] += _pieces_of(sku) - before

    def rest(self, targets: Collection[str] = WORKS_ON_ORDERS) -> None:
        """Publish the stream and deliver every message to these targets until none is left; drop the others."""
        for _ in range(100):
            self.publish()
            self.pending = [delivery for delivery in self.pending if delivery.to in targets]
            if not self.pending and self.stream_position == len(services.stream("OrdersTable")):
                return
            self._deliver_all()
        raise AssertionError(f"the system doesn't come to rest; still in flight: {self.pending[:3]}")

    def _deliver_all(self) -> None:
        for delivery in list(self.pending):
            self.deliver_or_fail(delivery)

    def deliver_or_fail(self, delivery: Delivery) -> None:
        """Make one attempt, unless the message has gone meanwhile; an error makes the attempt fail."""
        if delivery in self.pending:
            try:
                self.deliver(delivery)
            except Exception as failed:
                self.settle_delivery(delivery, succeeded=False, why=repr(failed))

    def settle(self) -> None:
        """End every fault, deliver every message, redrive the inbox and sweep until nothing is in flight.

        The sweep may only start orders that nobody else can have in hand.
        """
        self.inject = None
        services.outages.clear()
        for _ in range(10):
            self._settle_without_sweep()
            clock.advance(HOUR_S)
            before = len(self.pending)
            self.sweep()
            started = {json.loads(delivery.payload)["data"]["orderId"] for delivery in self.pending[before:]}
            self.wrong += [f"LOST: only the sweep found {order_id}" for order_id in started - self.for_the_sweep]
            if not self.pending and not self.inbox:
                return
        left = [f"{each.component}: {each.error_name}: {each.history[-1].detail}" for each in self.inbox]
        raise AssertionError(f"the system doesn't come to rest: {self.pending[:3]} {left[:3]}")

    def _settle_without_sweep(self) -> None:
        for _ in range(200):
            self.publish()
            self._deliver_all()
            self.pending += self.dead
            self.dead = []
            for failure in self.inbox:
                self.redrive(failure)
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
            *invariants.check_stock(ledger("CatalogueTable", "sku").values(), orders, self.supplied),
            *(
                sentence
                for order_id in payments.keys() | shipments.keys()
                for sentence in invariants.check_ledgers(
                    order_id, payments.get(order_id, {}), shipments.get(order_id, {})
                )
            ),
            *invariants.check_history(orders, changes()),
            *self.wrong,
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

    def input_of(self, order: Json) -> Json:
        """The input of an execution for an order."""
        data = {"customerId": order["customerId"], "orderId": order["orderId"]}
        return {"metadata": {"correlationId": order["correlationId"]}, "data": data}


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
            change = change._replace(status_before=before["status"]["S"], version_before=int(before["version"]["N"]))
        found.append(change)
    return found


def _pieces_of(sku: str) -> int:
    shards = [shard for key, shard in ledger("CatalogueTable", "sku").items() if key.partition("#")[0] == sku]
    return sum(shard[name] for shard in shards for name in ("available", "reserved", "sold"))


def _mend(failure: FailureRecord) -> None:
    """Repair what `cannot_be_read` has broken in a parked record of the stream, as an operator must."""
    for item in services.items("FailuresTable"):
        if item["failureId"]["S"] == failure.failure_id and failure.redrive.action is Action.PUBLISH:
            record = json.loads(item["payload"]["S"])
            record["dynamodb"]["NewImage"]["currency"] = {"S": CURRENCY}
            item["payload"]["S"] = json.dumps(record)


def _sender() -> Sender:
    return Sender(
        TARGET.client,
        orders_table="OrdersTable",
        fulfilment_queue_arn=template.arn_of("FulfilmentQueue"),
        state_machine_arn=MACHINE_ARN,
        publish_events="PublishEventsFunction",
    )


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
