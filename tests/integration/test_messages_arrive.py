"""Who writes a message and who reads it mean the same: one's real output is the other's real input."""

from __future__ import annotations

import copy
import io
import json
import re
from typing import Any

import boto3
import msgspec
import pytest

from orderctl.redrive.many import sender_of
from orderctl.stack.target import Target
from orders.domain.order import Order, PricedLine
from orders.domain.order import Status as OrderStatus
from orders.inbox.record import Action, FailureRecord, FailureStatus, Kind
from orders.inbox.store import FailuresTable
from orders.redrive.sending import redrive_one
from orders.storage.dynamodb import to_item
from tests.integration.world import ENVIRONMENT, REGION, World, an_order, function, invoke, sample
from tests.template.cloudformation import load_workflow

QUEUE_ARN = ENVIRONMENT["FULFILMENT_QUEUE_ARN"]
STREAM = "arn:aws:dynamodb:us-east-1:123456789012:table/OrdersTable/stream/2026-11-21T00:00:00.000"
LINES = [PricedLine("TEA-ASSAM-250", 2, 890), PricedLine("CUP-STONEWARE", 1, 1600)]


def queued(*bodies: str, arn: str = QUEUE_ARN, receives: int = 1) -> dict[str, Any]:
    """The event in which a function gets messages."""
    (record,) = sample("ship_order/order-paid")["Records"]
    return {
        "Records": [
            {
                **record,
                "messageId": f"message-{number}",
                "receiptHandle": f"handle-{number}",
                "eventSourceARN": arn,
                "body": body,
                "attributes": {**record["attributes"], "ApproximateReceiveCount": str(receives)},
            }
            for number, body in enumerate(bodies)
        ]
    }


@pytest.fixture
def inbox(world: World) -> FailuresTable:
    return FailuresTable(world.dynamodb, world.s3)


def captured(world: World, inbox: FailuresTable) -> FailureRecord:
    """The only failure, once everything on the failures queue has been captured."""
    messages = world.messages("FailuresQueue")
    assert invoke("capture_failure", queued(*messages, arn="arn:aws:sqs:us-east-1:123456789012:FailuresQueue")) == {
        "batchItemFailures": []
    }
    (found,) = inbox.with_status(FailureStatus.NEW)
    record = inbox.get(found.failure_id)
    assert record is not None
    return record


class Operator(Target):
    """Who redrives: functions are called in this process."""

    def client(self, service: str) -> Any:
        return self if service == "lambda" else super().client(service)

    def invoke(self, *, FunctionName: str, Payload: bytes) -> dict[str, Any]:  # noqa: N803
        return {"Payload": io.BytesIO(json.dumps(invoke(FunctionName, json.loads(Payload))).encode())}


@pytest.fixture
def operator(world: World) -> Target:
    names = {
        "FailuresTable": "FailuresTable",
        "FailedPayloadsBucket": "failed-payloads-bucket",
        "OrdersTable": "OrdersTable",
        "PublishEventsFunction": "publish_events",
        "FulfilmentQueueArn": QUEUE_ARN,
        "StateMachineArn": ENVIRONMENT["STATE_MACHINE_ARN"],
    }
    return Operator("in memory", names, "", boto3.session.Session(region_name=REGION))


def a_paid_order(world: World, postal_code: str = "SW1Y 4JH") -> Order:
    for line in LINES:
        world.put("CatalogueTable", sku=line.sku, available=5, reserved=line.quantity, sold=0)
    address = msgspec.structs.replace(an_order().shipping_address, postal_code=postal_code)
    return world.store(
        an_order(status=OrderStatus.PAID, version=3, lines=LINES, total=3380, shipping_address=address)
    )


# ---- The workflow and its functions


def what_the_workflow_sends(state: str, order: dict[str, Any]) -> dict[str, Any]:
    """A state's message, made of ValidateOrder's answer by the definition's own expressions."""
    arguments = load_workflow()["States"][state]["Arguments"]
    made = {}
    for name, expression in (arguments.get("Payload") or arguments["MessageBody"]).items():
        if field := re.fullmatch(r"\{% \[?\$order\.(\w+)\]? %\}", expression):
            made[name] = order[field[1]]
        else:
            known = {"$states.context.Task.Token": "token-1", "$states.context.State.RetryCount": 0}
            made[name] = known[expression.strip("{}% ")]
    return made


def validated(order: Order) -> dict[str, Any]:
    answer: dict[str, Any] = invoke(
        "validate_order",
        {
            "metadata": {"correlationId": order.correlation_id},
            "data": {"customerId": order.customer_id, "orderId": order.order_id},
        },
    )
    return answer


def test_what_the_workflow_asks_to_be_shipped_is_shipped(world: World) -> None:
    order = a_paid_order(world)
    message = what_the_workflow_sends("FulfillOrder", validated(order))

    assert invoke("ship_order", queued(json.dumps(message))) == {"batchItemFailures": []}

    assert world.order(order).status is OrderStatus.FULFILLED
    assert {product["sku"]: product["sold"] for product in world.items("CatalogueTable")} == {
        "TEA-ASSAM-250": 2,
        "CUP-STONEWARE": 1,
    }


def test_what_the_workflow_asks_to_be_charged_and_refunded_is(world: World) -> None:
    order = world.store(
        an_order(status=OrderStatus.RESERVED, version=2, lines=LINES, total=3380, payment_method="tok_visa")
    )
    known = validated(order)

    invoke("process_payment", what_the_workflow_sends("ProcessPayment", known))
    (entry,) = world.items("PaymentsTable")
    assert (entry["status"], entry["amount"], entry["currency"]) == ("CHARGED", 3380, "EUR")

    assert invoke("refund_payment", what_the_workflow_sends("RefundPayment", known)) == {"payment": "REFUNDED"}


def test_what_the_workflow_asks_to_be_called_off_never_ships(world: World) -> None:
    order = a_paid_order(world)

    assert invoke("cancel_shipment", what_the_workflow_sends("CancelShipment", validated(order))) == {}

    (entry,) = world.items("ShipmentsTable")
    assert (entry["orderId"], entry["status"]) == (order.order_id, "CANCELLED")


# ---- Queues and the inbox


def test_a_shipment_that_was_given_up_is_redriven_and_ships(
    world: World, inbox: FailuresTable, operator: Target
) -> None:
    # GIVEN a warehouse that is down until the queue gives up
    order = a_paid_order(world, "TEST-DOWN-1")
    message = json.dumps(what_the_workflow_sends("FulfillOrder", validated(order)))
    assert invoke("ship_order", queued(message, receives=5)) == {"batchItemFailures": []}

    # THEN the inbox says what failed, where, how often and why, and whose order it is
    record = captured(world, inbox)
    assert (record.kind, record.component, record.resource_arn) == (Kind.QUEUE, "FulfilmentQueue", QUEUE_ARN)
    assert (record.error_name, record.error_message) == ("WarehouseUnavailable", "the warehouse does not answer")
    assert (record.attempts, record.source) == (5, {"messageId": "message-0"})
    assert (record.order_id, record.customer_id) == (order.order_id, order.customer_id)
    assert record.correlation_id == order.correlation_id
    assert any("ship_order.py" in line for line in record.stack_trace)
    assert record.payload == message

    # WHEN it is redriven
    outcome = redrive_one(sender_of(operator), inbox, record.failure_id, "ada")
    assert outcome.result == "redriven"
    (again,) = world.messages("FulfilmentQueue")
    invoke("ship_order", queued(again))

    # THEN the parcel leaves
    assert world.order(order).status is OrderStatus.FULFILLED


def test_a_report_and_the_message_that_sqs_moves_are_one_failure(world: World, inbox: FailuresTable) -> None:
    invoke("ship_order", queued("not JSON", receives=5))
    reported = captured(world, inbox)
    moved = queued("not JSON", arn="arn:aws:sqs:us-east-1:123456789012:FailuresQueue")
    moved["Records"][0]["attributes"]["DeadLetterQueueSourceArn"] = QUEUE_ARN
    moved["Records"][0]["messageId"] = "message-0"

    invoke("capture_failure", moved)

    (record,) = inbox.with_status(FailureStatus.NEW)
    assert record.failure_id == reported.failure_id
    assert record.error_name == "DecodeError"  # and not SQS's, which doesn't know


def test_a_message_is_handed_over_at_its_last_attempt_and_not_before(world: World) -> None:
    message = json.dumps(what_the_workflow_sends("FulfillOrder", validated(a_paid_order(world, "TEST-DOWN-99"))))

    for receives in range(1, 5):
        assert invoke("ship_order", queued(message, receives=receives))["batchItemFailures"]
        assert world.messages("FailuresQueue") == []

    assert invoke("ship_order", queued(message, receives=6)) == {"batchItemFailures": []}
    assert len(world.messages("FailuresQueue")) == 1


def test_a_message_that_cannot_be_handed_over_stays_for_sqs_to_move(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAILURES_QUEUE_URL", "https://sqs.us-east-1.amazonaws.com/123456789012/gone")

    answer = invoke("ship_order", queued("not JSON", receives=5))

    assert answer == {"batchItemFailures": [{"itemIdentifier": "message-0"}]}


# ---- The stream, the bus and those who listen


class Bus:
    """EventBridge; keeps the events as it delivers them."""

    def __init__(self) -> None:
        self.delivered: list[dict[str, Any]] = []

    def put_events(self, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803
        self.delivered += [
            {
                "id": "1",
                "source": entry["Source"],
                "detail-type": entry["DetailType"],
                "detail": json.loads(entry["Detail"]),
            }
            for entry in Entries
        ]
        return {"FailedEntryCount": 0, "Entries": [{"EventId": "1"} for _ in Entries]}


@pytest.fixture
def bus(world: World, monkeypatch: pytest.MonkeyPatch) -> Bus:
    bus = Bus()
    monkeypatch.setattr(function("publish_events"), "_events", bus)
    return bus


def change(order: Order) -> dict[str, Any]:
    """The stream's record of an order that has just come to its status."""
    record: dict[str, Any] = copy.deepcopy(sample("publish_events/order-placed")["Records"][0])
    record["eventSourceARN"] = STREAM
    record["dynamodb"]["Keys"] = to_item({"customerId": order.customer_id, "orderId": order.order_id})
    record["dynamodb"]["NewImage"] = to_item(msgspec.to_builtins(order))
    return record


def published(bus: Bus, order: Order) -> dict[str, Any]:
    assert invoke("publish_events", {"Records": [change(order)]}) == {"batchItemFailures": []}
    (event,) = bus.delivered
    return event


def test_an_event_says_all_that_its_readers_need(bus: Bus) -> None:
    order = an_order(status=OrderStatus.FULFILLED, version=4, lines=LINES, total=3380)

    assert published(bus, order) == {
        "id": "1",
        "source": "orders",
        "detail-type": "OrderFulfilled",
        "detail": {
            "metadata": {
                "eventId": f"{order.order_id}#4",
                "correlationId": order.correlation_id,
                "occurredAt": order.updated_at,
                "schemaVersion": 1,
            },
            "data": {
                "customerId": order.customer_id,
                "orderId": order.order_id,
                "status": "FULFILLED",
                "version": 4,
                "currency": "EUR",
                "lines": [
                    {"sku": "TEA-ASSAM-250", "quantity": 2, "unitPrice": 890},
                    {"sku": "CUP-STONEWARE", "quantity": 1, "unitPrice": 1600},
                ],
                "total": 3380,
                "email": "ada@example.com",
            },
        },
    }


def test_the_receipt_says_what_the_order_was_charged_and_when(world: World, bus: Bus) -> None:
    order = an_order(status=OrderStatus.FULFILLED, version=4, lines=LINES, total=3380)
    function("process_payment")._provider.charge(order.order_id, 3380, "EUR", "tok_visa")

    answer = invoke("issue_receipt", published(bus, order))

    key = f"receipts/{order.customer_id}/{order.order_id}.json"
    assert answer == {"receipt": key}
    stored = world.s3.get_object(Bucket="receipts-bucket", Key=key)
    assert stored["ContentType"] == "application/json"
    assert json.loads(stored["Body"].read()) == {
        "orderId": order.order_id,
        "issuedFor": order.updated_at,
        "currency": "EUR",
        "lines": [
            {"sku": "TEA-ASSAM-250", "quantity": 2, "unitPrice": 890},
            {"sku": "CUP-STONEWARE", "quantity": 1, "unitPrice": 1600},
        ],
        "total": 3380,
        "paidBy": "visa ending in 4242",
    }


def test_the_mail_says_what_became_of_the_order(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    mails: list[dict[str, Any]] = []

    class Mailer:
        def send(self, **mail: Any) -> None:
            mails.append(mail)

    monkeypatch.setattr(function("notify_customer"), "_mailer", Mailer())
    order = an_order(status=OrderStatus.FULFILLED, version=4, lines=LINES, total=3380)

    assert invoke("notify_customer", queued(json.dumps(published(bus, order)))) == {"batchItemFailures": []}

    text = f"Your order {order.order_id} has been shipped."
    assert mails == [{"to": "ada@example.com", "subject": "Your order is on its way", "text": text}]


def test_a_cancelled_order_that_was_charged_is_refunded_and_its_customer_sees_it(world: World, bus: Bus) -> None:
    order = world.store(an_order(status=OrderStatus.CANCELLED, version=3))
    function("process_payment")._provider.charge(order.order_id, 3380, "EUR", "tok_visa")

    assert invoke("refund_payment", published(bus, order)) == {"payment": "REFUNDED"}

    entry = world.order(order).timeline[-1]
    assert (entry.what, entry.detail) == ("PaymentRefunded", "the full amount")


def test_a_customer_who_was_never_charged_is_not_told_of_a_refund(world: World, bus: Bus) -> None:
    order = world.store(an_order(status=OrderStatus.CANCELLED, version=2))

    assert invoke("refund_payment", published(bus, order)) == {"payment": "VOIDED"}

    assert "PaymentRefunded" not in [entry.what for entry in world.order(order).timeline]


def test_a_record_that_could_not_be_read_is_published_when_the_order_is_repaired(
    world: World, bus: Bus, inbox: FailuresTable, operator: Target
) -> None:
    # GIVEN an order in a form that nobody can read
    order = an_order(version=2)
    record = change(order)
    record["dynamodb"]["NewImage"]["lines"] = {"S": "?"}
    invoke("publish_events", {"Records": [record]})
    assert bus.delivered == []

    # THEN the inbox has its record, whole
    failure = captured(world, inbox)
    assert (failure.kind, failure.component, failure.redrive.action) == (Kind.STREAM, "OrdersTable", Action.PUBLISH)
    assert failure.error_name == "ValidationError"
    assert "lines" in failure.error_message
    assert (failure.order_id, failure.correlation_id) == (order.order_id, order.correlation_id)
    assert json.loads(failure.payload or "") == record

    # WHEN the order was repaired, and the failure is redriven
    world.store(order)
    outcome = redrive_one(sender_of(operator), inbox, failure.failure_id, "ada")

    # THEN its event is published
    assert outcome.result == "resolved"
    (event,) = bus.delivered
    assert event["detail"]["metadata"]["eventId"] == f"{order.order_id}#2"


# ---- The customer


def test_an_order_is_read_back_as_it_was_placed(world: World) -> None:
    event = sample("accept_order/accepted")
    accepted = invoke("accept_order", event)
    links = json.loads(accepted["body"])["links"]
    assert accepted["headers"]["Location"] == links["self"]

    read = sample("query_orders/get-order")
    read["path"] = links["self"].removeprefix("/v1")
    read["requestContext"]["path"] = links["self"]
    read["requestContext"]["authorizer"] = event["requestContext"]["authorizer"]
    answer = invoke("query_orders", read)

    assert answer["statusCode"] == 200
    order, asked = json.loads(answer["body"]), json.loads(event["body"])
    assert order["orderId"] == json.loads(accepted["body"])["orderId"]
    assert order["correlationId"] == accepted["headers"]["X-Correlation-Id"]
    assert (order["status"], order["currency"]) == ("PLACED", asked["currency"])
    assert order["lines"] == asked["lines"]
    assert order["shippingAddress"] == asked["shippingAddress"]
    assert order["placedAt"] == order["updatedAt"]
    assert order["timeline"] == [{"at": order["placedAt"], "what": "PLACED"}]
