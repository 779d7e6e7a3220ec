"""The whole pipeline in one process: real functions, real workflow, and between them deliveries under control.

What is sent to bus, queues and functions lies in `World.pending` until somebody delivers it: late, twice, in
another order, or with faults. What has failed for good lies in `World.inbox`, from where it can be sent again.
`check` says what is wrong with the state of the world; `check_end` what is wrong once everything has settled.
"""

from __future__ import annotations

import copy
import importlib
import itertools
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from verify import services
from verify import template as blueprint
from verify.scheduler import Aborted, Actor, Crash, Verdict, pause
from verify.services import Json, ServiceError

services.prepare()

import boto3  # noqa: E402

from orderctl import redrive as failures_redrive  # noqa: E402
from orderctl.stack.target import Target  # noqa: E402
from orders.domain.clock import timestamp  # noqa: E402
from orders.domain.order import TERMINAL, TRANSITIONS, Status  # noqa: E402
from orders.inbox import record as failures  # noqa: E402
from orders.inbox.parse import read_message  # noqa: E402
from orders.inbox.record import Action  # noqa: E402
from orders.runtime import telemetry  # noqa: E402 - finds the environment that aws.prepare has set
from orders.storage.dynamodb import from_item, to_item  # noqa: E402
from orders.workflow import order_waits_for  # noqa: E402
from verify.workflow import Execution, Fault, StateError, crash_error, error  # noqa: E402

CATALOGUE = {"apple": (100, 6), "pear": (250, 4)}
"""Price and stock of each product."""
CURRENCY = "EUR"
# Functions with state of their own between calls, of which one environment runs one invocation at a time.
NOT_REENTRANT = frozenset({"QueryOrdersFunction", "ShipOrderFunction", "NotifyCustomerFunction"})


WORKFLOW_ARN = f"arn:aws:states:us-east-1:000000000000:stateMachine:{blueprint.WORKFLOW}"
STACK = Target(
    "proof",
    {
        **{name: name for name in ("OrdersTable", "CatalogueTable", "PublishEventsFunction")},
        "FulfilmentQueueArn": "FulfilmentQueue",
        "StateMachineArn": WORKFLOW_ARN,
    },
    "",
    boto3.session.Session(region_name="us-east-1"),
)
NOT_SAVED = frozenset({"fault", "executions", "racing"})


def _load_handlers() -> dict[str, Callable[[Json, Any], Any]]:
    handlers = {}
    for name in blueprint.of_type("AWS::Serverless::Function"):
        try:
            module = importlib.import_module(blueprint.module_of(name))
        except ModuleNotFoundError:
            continue
        if hasattr(module, "time"):
            module.time = SimpleNamespace(sleep=lambda _: None)  # type: ignore[attr-defined]
        handlers[name] = module.handler
    telemetry.metrics.add_metric = lambda *_, **__: None  # type: ignore[method-assign]
    return handlers


HANDLERS = _load_handlers()


class Context:
    """A function's context. No time is left, so that a mail whose sender died may be sent again at once."""

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
    """Something that is on its way: `to` is a queue, a function, the workflow, or `stream`."""

    to: str
    payload: str
    tries: int = 0
    deleted: bool = False
    copies: int = 0

    def __str__(self) -> str:
        return f"{self.to}: {self.payload[:60]}"


@dataclass
class Failure:
    """What lies in the failure inbox: a delivery given up, or an execution that failed.

    `known` is what the inbox's own reader makes of the message that tells of it.
    """

    delivery: Delivery
    why: str
    known: failures.Failure
    order_id: str = ""
    execution: bool = False


@dataclass
class Accepted:
    """A 202 that a client saw."""

    order_id: str
    customer: str
    key: str | None


@dataclass
class World:
    """The state of everything that isn't in a table."""

    fault: Fault | None = None
    pending: list[Delivery] = field(default_factory=list)
    inbox: list[Failure] = field(default_factory=list)
    executions: list[Execution] = field(default_factory=list)
    accepted: list[Accepted] = field(default_factory=list)
    published: Counter[str] = field(default_factory=Counter)
    receipts: Counter[str] = field(default_factory=Counter)
    mails: Counter[str] = field(default_factory=Counter)
    excused_mails: int = 0
    # Orders of which an operator has discarded something: what was dropped then may be missing at the end.
    discarded: set[str] = field(default_factory=set)
    not_given_up: list[str] = field(default_factory=list)
    stream_position: int = 0
    racing: Actor | None = None

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

    # ---- Saving and loading, to try several ways out of the same situation

    def save(self) -> Json:
        """Everything, for `load`; no execution may be running."""
        own = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in NOT_SAVED}
        return {"own": copy.deepcopy(own), "tables": services.save_tables()}

    def load(self, saved: Json) -> None:
        """Put back what `save` gave."""
        services.load_tables(saved["tables"])
        for name, value in copy.deepcopy(saved["own"]).items():
            setattr(self, name, value)

    def finish_racing(self) -> None:
        """Let what runs beside an execution come to its end."""
        if self.racing:
            self.racing.finish()
            self.racing = None

    # ---- What the functions call

    def send(self, to: str, subject: str, text: str) -> None:
        """Take a mail (the mailer's place is taken by the world)."""
        if to.endswith("@bounce.example"):
            from orders.domain.errors import MailRefused  # noqa: PLC0415

            raise MailRefused("the recipient's mail server refuses the address")
        self.mails[text] += 1
        if pause("mail sent") is Verdict.CRASH:
            raise Crash

    def _on_bus(self, _: str, request: Json) -> Json:
        for entry in request["Entries"]:
            detail = json.loads(entry["Detail"])
            self.published[detail["metadata"]["eventId"]] += 1
            event = {"source": entry["Source"], "detail-type": entry["DetailType"], "detail": detail}
            for _rule, target in blueprint.targets_of(entry["DetailType"]):
                payload = detail if target == blueprint.WORKFLOW else event
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
        """Put a message on a queue; on the failures queue it counts as being in the inbox."""
        delivery = Delivery(queue, body)
        if queue == "FailuresQueue":
            report = json.loads(body)
            if report.get("kind") == "PoisonMessage":
                delivery = Delivery(report["queueArn"], report["body"])
            self._captured(delivery, report.get("error", "parked"), body)
        else:
            self.pending.append(delivery)

    def _captured(self, delivery: Delivery, why: str, body: str, *, execution: bool = False, **message: Json) -> None:
        """A message on the failures queue becomes an entry of the inbox."""
        known = read_message({"body": body, "messageId": services.new_id("message"), **message})
        assert known.kind != failures.Kind.UNKNOWN, known.error_message
        self.inbox.append(Failure(delivery, why, known, known.order_id or "", execution))

    def _on_workflow(self, operation: str, request: Json) -> Json:
        if operation == "StartExecution":
            self.pending.append(Delivery(blueprint.WORKFLOW, request["input"]))
            return {"executionArn": services.new_id("execution"), "startDate": 0}
        waiting = [each for each in self.executions if each.token == request["taskToken"]]
        if not waiting or waiting[0].answer is not None:
            raise ServiceError("TaskTimedOut", "Task Timed Out: 'Provided task does not exist anymore'")
        waiting[0].answer = request
        assert operation in ("SendTaskSuccess", "SendTaskFailure"), operation
        return {}

    def _on_bucket(self, operation: str, request: Json) -> Json:
        assert operation == "PutObject", operation
        self.receipts[request["path"]] = 1
        return {}

    # ---- What a client does

    def submit(self, body: Json, *, customer: str, key: str | None) -> Json:
        """POST /orders; a 202 is remembered."""
        headers = {"Content-Type": "application/json", **({"Idempotency-Key": key} if key else {})}
        answer = self._post("AcceptOrderFunction", "/orders", customer, headers, json.dumps(body))
        if answer["statusCode"] == 202:
            self.accepted.append(Accepted(json.loads(answer["body"])["orderId"], customer, key))
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

    def execution(self, data: Json) -> Execution:
        """A new execution with this input, not yet running."""
        found = Execution(
            services.new_id("execution"), data, invoke=self.invoke_task, send=self.enqueue, fault=self.fault
        )
        self.executions.append(found)
        return found

    def invoke_task(self, function: str, payload: Json) -> Any:
        """A state's call of a function. Raises the interpreter's error, with the name of the function's."""
        return run_task(function, payload)

    def ended(self, execution: Execution) -> None:
        """What Step Functions does when an execution ends: report a failure to the failures queue."""
        status = execution.status
        if status in ("FAILED", "ABORTED") and blueprint.reports_failures(status):
            given = json.dumps(execution.input)
            detail = {
                "executionArn": f"arn:aws:states:us-east-1:000000000000:execution:proof:{execution.name}",
                "stateMachineArn": WORKFLOW_ARN,
                "status": status,
                "input": given,
                "error": execution.error[0],
                "cause": execution.error[1],
            }
            event = {
                "source": "aws.states",
                "detail-type": "Step Functions Execution Status Change",
                "detail": detail,
            }
            why = f"{status} {execution.error}"
            self._captured(Delivery(blueprint.WORKFLOW, given), why, json.dumps(event), execution=True)

    def run(self, data: Json) -> Execution:
        """Run an execution to its end, delivering what it sends; no actors are involved."""
        execution = self.execution(data)
        execution.send = self._send_and_deliver
        execution.run()
        self.ended(execution)
        return execution

    def _send_and_deliver(self, queue: str, body: str) -> None:
        self.enqueue(queue, body)
        delivery = self.pending[-1]
        most, _ = blueprint.redrive_of(queue)
        while not delivery.deleted and delivery.tries < most:
            self.deliver(delivery)

    # ---- Deliveries

    def deliver(self, delivery: Delivery) -> None:
        """Deliver once, here and now; what fails stays on its way, or goes to the inbox when it is given up."""
        self.settle_delivery(delivery, *self.attempt(delivery))

    def attempt(self, delivery: Delivery) -> tuple[bool, str]:
        """Try a delivery: whether it went well, and what was wrong."""
        if delivery.to == blueprint.WORKFLOW:
            self.run(json.loads(delivery.payload))
            return True, ""
        if is_queue(delivery.to):
            return not self.consume([delivery]), "reported as failed"
        delivery.tries += 1
        HANDLERS[delivery.to](json.loads(delivery.payload), Context())
        return True, ""

    def consume(self, batch: list[Delivery]) -> list[int]:
        """Hand a batch of one queue's messages to its consumer; returns which of them it reports as failed."""
        records = []
        for number, delivery in enumerate(batch):
            delivery.tries += 1
            record = {
                "messageId": str(number),
                "receiptHandle": str(number),
                "body": delivery.payload,
                "attributes": {"ApproximateReceiveCount": str(delivery.tries)},
                "messageAttributes": {},
                "eventSource": "aws:sqs",
                "eventSourceARN": delivery.to,
                "awsRegion": "us-east-1",
            }
            records.append(record)
        answer = HANDLERS[consumer_of(batch[0].to)]({"Records": records}, Context())
        return [int(failure["itemIdentifier"]) for failure in answer["batchItemFailures"]]

    def settle_delivery(self, delivery: Delivery, well: bool, why: str) -> None:
        """What the queue or Lambda does after a try."""
        if well:
            delivery.deleted = True
        else:
            queue = is_queue(delivery.to)
            most, reported = blueprint.redrive_of(delivery.to) if queue else blueprint.retries_of(delivery.to)
            if delivery.tries >= (most if queue else most + 1):
                delivery.deleted = True
                if reported and queue:
                    origin = {"DeadLetterQueueSourceArn": delivery.to}
                    self._captured(delivery, why, delivery.payload, attributes=origin)
                elif reported:
                    record = {
                        "requestContext": {"functionArn": delivery.to, "condition": "RetriesExhausted"},
                        "requestPayload": json.loads(delivery.payload),
                        "responsePayload": {"errorType": "Unknown", "errorMessage": why},
                    }
                    self._captured(delivery, why, json.dumps(record))
        if delivery.deleted and delivery in self.pending:
            self.pending.remove(delivery)

    def publish(self, batch: int = 100, start: int | None = None) -> None:
        """One delivery of the stream to `publish_events`; `start` repeats earlier records."""
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
        """EventBridge gives a target up: it has no permission, or the target is gone."""
        self.pending.remove(delivery)
        event = json.loads(delivery.payload)
        if delivery.to == blueprint.WORKFLOW:
            event = {"detail": event}
        target = WORKFLOW_ARN if delivery.to == blueprint.WORKFLOW else delivery.to
        attributes = {"RULE_ARN": "rule", "TARGET_ARN": target, "ERROR_CODE": "NO_PERMISSIONS"}
        told = {name: {"stringValue": value} for name, value in attributes.items()}
        self._captured(delivery, "NO_PERMISSIONS", json.dumps(event), messageAttributes=told)

    def cannot_be_read(self, number: int) -> None:
        """The stream hands on a record that publish_events can't read; a redrive publishes what it says."""
        record = copy.deepcopy(services.stream("OrdersTable")[number])
        del record["dynamodb"]["NewImage"]["currency"]
        if not HANDLERS["PublishEventsFunction"]({"Records": [record]}, Context())["batchItemFailures"]:
            self.stream_position = max(self.stream_position, number + 1)

    def redrive(self, failure: Failure) -> None:
        """What an operator does with an entry of the inbox: send it on its way again."""
        order = next((each for each in self.orders() if each["orderId"] == failure.order_id), {})
        if failure.delivery.to == "FulfilmentQueue" and "givenUp" in order:
            self.discard(failure)  # a redrive of it is refused
            return
        if failure.known.redrive.action is Action.PUBLISH:
            parked = json.loads(failure.delivery.payload)["record"]["dynamodb"]["SequenceNumber"]
            mended = [each for each in services.stream("OrdersTable") if each["dynamodb"]["SequenceNumber"] == parked]
            request = {"Records": copy.deepcopy(mended), "redrive": True}
            if not HANDLERS["PublishEventsFunction"](request, Context())["batchItemFailures"]:
                self.inbox.remove(failure)
            return
        self.inbox.remove(failure)
        delivery = Delivery(failure.delivery.to, failure.delivery.payload)
        if failure.execution:
            data = json.loads(delivery.payload)
            delivery.payload = json.dumps({"metadata": data["metadata"], "data": data["data"], "path": "resume"})
        self.pending.append(delivery)

    def discard(self, failure: Failure) -> None:
        """What an operator does with an entry of the inbox that shall go no further."""
        record = failures.first_seen(failure.known, at=timestamp(), message_id=services.new_id("message"))
        if order_waits_for(record, STACK.output("FulfilmentQueueArn")):
            failures_redrive.give_order_up(STACK, _Payloads(), record)  # type: ignore[arg-type]
        if failure in self.inbox:
            self.inbox.remove(failure)
        self.discarded.add(failure.order_id)
        if failure.execution or failure.delivery.to in (blueprint.WORKFLOW, "FulfilmentQueue"):
            for order in self.orders():
                if (
                    order["orderId"] == failure.order_id
                    and "givenUp" not in order
                    and order["status"] not in TERMINAL
                ):
                    self.not_given_up.append(f"{failure.order_id} was discarded and is not given up")

    def a_failure_of(self, order: Json) -> Failure:
        """An order's stuck execution, as the inbox knows it from before."""
        known = Execution("before", self.input_of(order), invoke=self.invoke_task, send=self.enqueue)
        known.status, known.error = "FAILED", ("Unheard.Of", "")
        before = list(self.inbox)
        self.ended(known)
        (added,) = [each for each in self.inbox if each not in before]
        self.inbox.remove(added)
        return added

    def settle(self) -> None:
        """Everything works again: deliver all there is, and send on its way what lies in the inbox."""
        self.fault = None
        services.outages.clear()
        for _ in range(200):
            self.publish()
            for delivery in list(self.pending):
                if delivery in self.pending:
                    try:
                        self.deliver(delivery)
                    except Exception as failed:
                        self.settle_delivery(delivery, well=False, why=repr(failed))
            for failure in list(self.inbox):
                self.redrive(failure)
            if not self.pending and self.stream_position == len(services.stream("OrdersTable")):
                return
        raise AssertionError(f"the system doesn't come to rest; still on their way: {self.pending[:3]}")

    # ---- What must hold

    def orders(self) -> list[Json]:
        """Every order of the table, plain."""
        return [from_item(item) for item in services.items("OrdersTable")]

    def check(self) -> list[str]:
        """What is wrong just now, whatever is still on its way."""
        orders = self.orders()
        return [
            *_wrong_with_stock(orders),
            *_wrong_with_ledgers(),
            *_wrong_with_history(orders),
            *self.not_given_up,
        ]

    def check_end(self) -> list[str]:
        """What is wrong now that nothing is on its way any more and the inbox is empty."""
        wrong = self.check()
        orders = {order["orderId"]: order for order in self.orders()}
        for each in self.accepted:
            if each.order_id not in orders:
                wrong.append(f"LOST: {each.order_id} was answered with 202 and is not in the table")
        keys: dict[tuple[str, str], set[str]] = {}
        for each in self.accepted:
            if each.key:
                keys.setdefault((each.customer, each.key), set()).add(each.order_id)
        wrong += [f"DOUBLED: key {key} made {len(ids)} orders" for key, ids in keys.items() if len(ids) > 1]
        for order_id, order in orders.items():
            if Status(order["status"]) not in TERMINAL:
                wrong.append(f"LOST: {order_id} stands still as {order['status']}, and nothing is on its way for it")
            wrong += wrong_with_end(order, refund_dropped=order_id in self.discarded)
            dropped = order_id in self.discarded
            receipts = [path for path in self.receipts if order_id in path]
            if len(receipts) != (order["status"] == "FULFILLED") and not (dropped and not receipts):
                wrong.append(f"{order_id} is {order['status']} and has {len(receipts)} receipts")
            for version in range(1, order["version"] + 1):
                if not self.published[f"{order_id}#{version}"] and not dropped:
                    wrong.append(f"LOST: event {order_id}#{version} was never published")
            mails = sum(order_id in text for text in self.mails)
            if mails != 2 and not (dropped and mails < 2):
                wrong.append(f"LOST: {order_id} is {order['status']} and {mails} mails tell of it, not 2")
        surplus = sum(self.mails.values()) - len(self.mails)
        if surplus > self.excused_mails:
            wrong.append(f"DOUBLED: {surplus} mails were sent again: {self.mails}")
        return wrong

    def input_of(self, order: Json, path: str | None = None) -> Json:
        """What starts an execution for an order."""
        data = {"customerId": order["customerId"], "orderId": order["orderId"]}
        found: Json = {"metadata": {"correlationId": order["correlationId"]}, "data": data}
        return {**found, "path": path} if path else found


def ledger(name: str, key: str) -> dict[str, Json]:
    """A table's items by their key, plain."""
    return {item[key]["S"]: from_item(item) for item in services.items(name)}


class _Payloads:
    """Stands in for the failures table, of which a discard only needs the payload."""

    @staticmethod
    def payload_of(record: failures.FailureRecord) -> str:
        """The payload."""
        return record.payload or ""


def wrong_with_end(order: Json, *, refund_dropped: bool = False) -> list[str]:
    """What is wrong with an order that has ended, by the ledgers of payment provider and warehouse.

    `refund_dropped`: an operator was told that a cancelled order's refund is dropped, and dropped it.
    """
    order_id, status = order["orderId"], order["status"]
    paid = ledger("PaymentsTable", "idempotencyKey").get(order_id, {})
    charged, refunded = paid.get("charges", 0), paid.get("refunds", 0)
    shipped = ledger("ShipmentsTable", "orderId").get(order_id, {}).get("shipments", 0)
    if status == "FULFILLED":
        wrong = []
        if (charged, refunded, shipped) != (1, 0, 1):
            wrong = [f"{order_id} is FULFILLED: charged {charged}, refunded {refunded}, shipped {shipped}"]
        if paid.get("amount") != order["total"]:
            wrong.append(f"{order_id} cost {order['total']} and {paid.get('amount')} was charged")
        return wrong
    if Status(status) not in TERMINAL:
        return []
    wrong = [f"{order_id} is {status} and was shipped"] if shipped else []
    if charged != refunded and not (refund_dropped and status == "CANCELLED"):
        wrong.append(f"{order_id} is {status}: charged {charged} times, refunded {refunded} times")
    return wrong


def run_task(function: str, payload: Json) -> Any:
    """Run a function as a state's task. Raises the interpreter's error."""
    if pause(f"{function}: start") is Verdict.ABORT:
        raise Aborted
    try:
        result = json.loads(json.dumps(HANDLERS[function](json.loads(json.dumps(payload)), Context())))
    except Crash:
        raise crash_error(function) from None
    except StateError:
        raise
    except Exception as failed:
        cause = {"errorType": type(failed).__name__, "errorMessage": str(failed)}
        raise error(type(failed).__name__, json.dumps(cause)) from None
    match pause(f"{function}: end"):
        case Verdict.ABORT:
            raise Aborted
        case Verdict.CRASH | Verdict.LOST | Verdict.TIMEOUT:
            raise error("Sandbox.Timedout", json.dumps({"errorType": "Sandbox.Timedout", "errorMessage": "lost"}))
    return result


def is_queue(name: str) -> bool:
    """Whether a delivery's target is a queue."""
    return bool(blueprint.resources()[name]["Type"] == "AWS::SQS::Queue")


def consumer_of(queue: str) -> str:
    """The function that reads a queue."""
    for name, function in blueprint.of_type("AWS::Serverless::Function").items():
        for event in function.get("Events", {}).values():
            if event["Type"] == "SQS" and event["Properties"]["Queue"] == queue:
                return name
    raise LookupError(queue)


def _wrong_with_stock(orders: list[Json]) -> list[str]:
    wrong = []
    held: Counter[str] = Counter()
    sold: Counter[str] = Counter()
    for order in orders:
        count = {"RESERVED": held, "PAID": held, "FULFILLED": sold}.get(order["status"])
        for line in order["lines"] if count is not None else []:
            assert count is not None
            count[line["sku"]] += line["quantity"]
    for sku, product in ledger("CatalogueTable", "sku").items():
        available, reserved, gone = product["available"], product["reserved"], product["sold"]
        if min(available, reserved, gone) < 0:
            wrong.append(f"stock of {sku} is negative: {available}, {reserved}, {gone}")
        if available + reserved + gone != CATALOGUE[sku][1]:
            wrong.append(f"stock of {sku} doesn't add up: {available} + {reserved} + {gone} != {CATALOGUE[sku][1]}")
        if reserved != held[sku]:
            wrong.append(f"{reserved} of {sku} are reserved, but orders hold {held[sku]}")
        if gone != sold[sku]:
            wrong.append(f"{gone} of {sku} are sold, but orders took {sold[sku]}")
    return wrong


def _wrong_with_ledgers() -> list[str]:
    wrong = []
    for key, entry in ledger("PaymentsTable", "idempotencyKey").items():
        charges, refunds = entry.get("charges", 0), entry.get("refunds", 0)
        if charges > 1 or refunds > charges:
            wrong.append(f"DOUBLED: {key} was charged {charges} times and refunded {refunds} times")
    for key, entry in ledger("ShipmentsTable", "orderId").items():
        if entry.get("shipments", 0) > 1:
            wrong.append(f"DOUBLED: {key} was shipped {entry['shipments']} times")
    return wrong


def _wrong_with_history(orders: list[Json]) -> list[str]:
    wrong = []
    steps: dict[str, list[tuple[int, str]]] = {}
    for record in services.stream("OrdersTable"):
        change = record["dynamodb"]
        before, after = change.get("OldImage"), change["NewImage"]
        if before is None or before["status"] != after["status"] or before["version"] != after["version"]:
            step = (int(after["version"]["N"]), after["status"]["S"])
            steps.setdefault(after["orderId"]["S"], []).append(step)
    for record in services.stream("OrdersTable"):
        before, after = record["dynamodb"].get("OldImage", {}), record["dynamodb"]["NewImage"]
        went_on = before.get("status") != after["status"] and after["status"]["S"] in ("RESERVED", "PAID")
        if "givenUp" in before and went_on:
            wrong.append(f"{after['orderId']['S']} was given up and became {after['status']['S']}")
        if "givenUp" in before and before["status"]["S"] != "PAID" and after["status"]["S"] == "FULFILLED":
            wrong.append(f"{after['orderId']['S']} was given up as {before['status']['S']} and is FULFILLED")
    for order_id, history in steps.items():
        if [version for version, _ in history] != list(range(1, len(history) + 1)):
            wrong.append(f"the versions of {order_id} are {history}")
        statuses = [Status(status) for _, status in history]
        for before_, after_ in itertools.pairwise(statuses):
            if after_ not in TRANSITIONS[before_]:
                wrong.append(f"{order_id} became {after_} after {before_}")
    for order in orders:
        told = [entry["what"] for entry in order["timeline"] if entry["what"] in Status.__members__]
        if told != [status for _, status in steps.get(order["orderId"], [])]:
            wrong.append(f"the timeline of {order['orderId']} says {told}, its stream {steps.get(order['orderId'])}")
        if ("openShard" in order) == (Status(order["status"]) in TERMINAL):
            wrong.append(f"{order['orderId']} is {order['status']} and openShard is {order.get('openShard')}")
    return wrong


def body_of(lines: dict[str, int], *, token: str = "tok_visa", postal: str = "1000") -> Json:
    """The body of an order."""
    return {
        "currency": CURRENCY,
        "lines": [{"sku": sku, "quantity": quantity} for sku, quantity in lines.items()],
        "shippingAddress": {"name": "A", "line1": "B 1", "city": "C", "postalCode": postal, "country": "BE"},
        "paymentMethod": token,
    }


__all__ = ["Actor", "Delivery", "Failure", "World", "body_of"]
