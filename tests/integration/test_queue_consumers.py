"""ship_order and notify_customer: message by message, each effect once, and what can't be done is handed over."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from orders.domain.order import Order, PricedLine, Reason, Status
from orders.runtime.queues import QueueProcessor
from tests.integration.world import QUEUES, World, an_order, function, invoke, sample

Logs = Callable[[], list[dict[str, Any]]]


def batch(name: str, *bodies: Any, receives: int = 1) -> dict[str, Any]:
    """A batch of messages in the form of a sample, numbered m0, m1 …"""
    (record,) = sample(name)["Records"][:1]
    records = []
    for n, body in enumerate(bodies):
        message = copy.deepcopy(record)
        message["messageId"], message["receiptHandle"] = f"m{n}", f"handle-{n}"
        message["body"] = body if isinstance(body, str) else json.dumps(body)
        message["attributes"]["ApproximateReceiveCount"] = str(receives)
        records.append(message)
    return {"Records": records}


def failed(answer: dict[str, Any]) -> list[str]:
    return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]


def visibility_changes(monkeypatch: pytest.MonkeyPatch, name: str) -> list[dict[str, Any]]:
    """The requests that a function makes from now on to let messages come again."""
    calls: list[dict[str, Any]] = []

    class Queues:
        def change_message_visibility(self, **call: Any) -> None:
            calls.append(call)

    monkeypatch.setattr(function(name), "_sqs", Queues())
    return calls


def lines_with_names(logs: Logs) -> list[tuple[str, str | None, str | None]]:
    """The message, the correlation id and the order id of each log line."""
    return [(line["message"], line.get("correlation_id"), line.get("order_id")) for line in logs()]


# ---- ship_order


def to_ship(**changes: Any) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(sample("ship_order/order-paid")["Records"][0]["body"])
    message["shippingAddress"]["postalCode"] = changes.pop("postal_code", "SW1Y 4JH")
    return {**message, **changes}


def ship(*messages: Any, receives: int = 1) -> list[str]:
    return failed(invoke("ship_order", batch("ship_order/order-paid", *messages, receives=receives)))


LINES = [PricedLine("TEA-ASSAM-250", 2, 890), PricedLine("CUP-STONEWARE", 1, 1600)]


@pytest.fixture
def paid(world: World) -> Order:
    """The sample order, PAID, with what it takes reserved."""
    for line in LINES:
        world.put("CatalogueTable", sku=line.sku, available=5, reserved=line.quantity, sold=0)
    return world.store(an_order(status=Status.PAID, version=3, lines=LINES, total=3380))


def stock(world: World) -> dict[str, tuple[int, int]]:
    """What is reserved and what is sold of each product."""
    return {product["sku"]: (product["reserved"], product["sold"]) for product in world.items("CatalogueTable")}


def test_an_order_that_is_shipped_is_fulfilled_and_its_stock_sold(world: World, paid: Order) -> None:
    message = to_ship()

    ship(message)

    order = world.order(paid)
    assert (order.status, order.version, order.open_shard) == (Status.FULFILLED, paid.version + 1, None)
    assert order.shipment_id == f"ship_{paid.order_id}"
    assert (order.timeline[-1].what, order.timeline[-1].at) == (Status.FULFILLED, order.updated_at)
    assert stock(world) == {"TEA-ASSAM-250": (0, 2), "CUP-STONEWARE": (0, 1)}


def test_a_message_that_comes_twice_ships_and_sells_once(world: World, paid: Order) -> None:
    message = to_ship()

    assert ship(message, message) == []
    assert [entry["shipments"] for entry in world.items("ShipmentsTable")] == [1]
    assert world.order(paid).version == paid.version + 1
    assert stock(world) == {"TEA-ASSAM-250": (0, 2), "CUP-STONEWARE": (0, 1)}


@pytest.mark.parametrize("status", [Status.RESERVED, Status.FAILED, Status.CANCELLED])
def test_an_order_that_isnt_paid_is_not_fulfilled(world: World, paid: Order, logs: Logs, status: Status) -> None:
    # GIVEN an order that other hands have taken elsewhere
    paid.status = status
    world.store(paid)

    # WHEN its message comes, THEN it fails, nothing changes, and the log says why
    assert ship(to_ship()) == ["m0"]
    assert world.order(paid) == paid
    assert stock(world) == {"TEA-ASSAM-250": (2, 0), "CUP-STONEWARE": (1, 0)}
    (line,) = [line for line in logs() if line["message"] == "message failed"]
    assert line["exception_name"] == "IllegalTransition"


def test_what_isnt_reserved_isnt_sold(world: World, paid: Order) -> None:
    world.put("CatalogueTable", sku="CUP-STONEWARE", available=5, reserved=0, sold=0)

    assert ship(to_ship()) == ["m0"]
    assert world.order(paid) == paid
    assert stock(world) == {"TEA-ASSAM-250": (2, 0), "CUP-STONEWARE": (0, 0)}


def conflicts(monkeypatch: pytest.MonkeyPatch, times: int) -> list[float]:
    """Let other orders be at the same products so many times; returns the pauses made."""
    module = function("ship_order")
    write, pauses, left = module._dynamodb.transact_write_items, list[float](), iter(range(times))

    def transact_write_items(**request: Any) -> Any:
        if next(left, None) is None:
            return write(**request)
        reasons = [{"Code": "None"}, {"Code": "TransactionConflict"}]
        error = {"Error": {"Code": "TransactionCanceledException"}, "CancellationReasons": reasons}
        cancelled: type[ClientError] = module._dynamodb.exceptions.TransactionCanceledException
        raise cancelled(error, "TransactWriteItems")  # type: ignore[arg-type]

    monkeypatch.setattr(module._dynamodb, "transact_write_items", transact_write_items)
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    return pauses


def test_a_conflict_over_a_product_is_waited_for(world: World, paid: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = conflicts(monkeypatch, 4)
    message = to_ship()

    assert ship(message) == []
    assert world.order(paid).status is Status.FULFILLED
    assert len(pauses) == 4


def test_a_conflict_that_lasts_lets_the_message_come_again(
    world: World, paid: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    conflicts(monkeypatch, 5)
    message = to_ship()

    assert ship(message) == ["m0"]
    assert ship(message) == []
    assert world.order(paid).status is Status.FULFILLED


def test_an_order_that_the_warehouse_refuses_is_given_up_once(world: World, paid: Order) -> None:
    message = to_ship(postal_code="TEST-REFUSED")

    assert ship(message, message) == []

    order = world.order(paid)
    cause = "the warehouse does not deliver to this address"
    assert (order.status, order.version, order.reason) == (Status.FAILING, 4, Reason("WarehouseError", cause))
    assert (order.timeline[-1].what, order.timeline[-1].detail) == (Status.FAILING, cause)
    assert order.open_shard == paid.open_shard
    assert stock(world) == {"TEA-ASSAM-250": (2, 0), "CUP-STONEWARE": (1, 0)}


@pytest.mark.parametrize("status", [Status.FAILING, Status.FAILED])
def test_an_order_whose_shipment_was_called_off_stays_as_it_is(world: World, paid: Order, status: Status) -> None:
    paid.status, paid.reason = status, Reason("Discarded", "the order could not be carried out")
    world.store(paid)
    message = to_ship()
    invoke("cancel_shipment", {"orderId": message["orderId"], "correlationId": "c"})

    assert ship(message) == []
    assert [entry["status"] for entry in world.items("ShipmentsTable")] == ["CANCELLED"]
    assert world.order(paid) == paid


def test_an_order_that_was_given_up_after_its_parcel_left_is_fulfilled(world: World, paid: Order) -> None:
    paid.status, paid.reason = Status.FAILING, Reason("Discarded", "the order could not be carried out")
    world.store(paid)

    assert ship(to_ship()) == []

    order = world.order(paid)
    assert (order.status, order.reason) == (Status.FULFILLED, None)
    assert stock(world) == {"TEA-ASSAM-250": (0, 2), "CUP-STONEWARE": (0, 1)}


def test_a_message_of_1_0_0_is_read_and_its_task_token_ignored(world: World, paid: Order) -> None:
    assert ship(to_ship(taskToken="AQCEAAAAKgAAAAMAAAAAAAAAAexample")) == []
    assert world.order(paid).status is Status.FULFILLED


def test_only_the_messages_that_failed_come_again(world: World, paid: Order) -> None:
    good = to_ship()

    assert ship("not JSON", to_ship(orderId="o-2", postal_code="TEST-DOWN-9"), good, {"hello": "world"}) == [
        "m0",
        "m1",
        "m3",
    ]


def test_a_failed_message_comes_again_sooner_than_the_visibility_timeout(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = visibility_changes(monkeypatch, "ship_order")

    ship("not JSON", receives=3)

    assert calls == [{"QueueUrl": f"{QUEUES}/FulfilmentQueue", "ReceiptHandle": "handle-0", "VisibilityTimeout": 8}]


def test_a_message_that_fails_for_the_last_time_is_handed_to_the_inbox_with_its_error(world: World) -> None:
    message = to_ship(postal_code="TEST-DOWN-9")

    assert ship(message, receives=5) == []

    (report,) = map(json.loads, world.messages("FailuresQueue"))
    assert report["kind"] == "PoisonMessage"
    assert json.loads(report["body"]) == message
    assert report["error"] == "WarehouseUnavailable: the warehouse does not answer"
    assert report["receives"] == 5


@pytest.mark.parametrize("receives", [1, 5], ids=["comes again", "is handed to the inbox"])
def test_after_a_message_that_fails_no_log_line_has_its_order(
    world: World, paid: Order, logs: Logs, monkeypatch: pytest.MonkeyPatch, receives: int
) -> None:
    visibility_changes(monkeypatch, "ship_order")

    # GIVEN two failing messages of which the second can't be read
    ship(to_ship(correlationId="c-1", postal_code="TEST-DOWN-9"), "not JSON", receives=receives)

    assert lines_with_names(logs) == [("message failed", "c-1", paid.order_id), ("message failed", None, None)]


def test_a_message_that_the_inbox_has_is_done_and_the_others_are_reported(world: World) -> None:
    # GIVEN a message that succeeds, one that fails for the last time, and one that fails for the last time but one
    records = batch("ship_order/order-paid", "good", "bad", "bad")["Records"]
    for record, receives in zip(records, ("1", "5", "4"), strict=True):
        record["attributes"]["ApproximateReceiveCount"] = receives

    def handle(record: Any) -> str:
        if record.body == "bad":
            raise ConnectionError
        return "shipped"

    with QueueProcessor(world.sqs)(records, handle) as processor:
        outcomes = processor.process()

    # THEN SQS deletes the first two, and Powertools gets the outcome of each
    assert failed(processor.response()) == ["m2"]
    assert [json.loads(report)["messageId"] for report in world.messages("FailuresQueue")] == ["m1"]
    assert [outcome[:2] for outcome in outcomes] == [
        ("success", "shipped"),
        ("success", None),
        ("fail", "<class 'ConnectionError'>:"),
    ]
    assert processor.success_messages == records[:2]


# ---- notify_customer


class Mailbox:
    """A mailer that keeps what it is given."""

    def __init__(self) -> None:
        self.mails: list[dict[str, Any]] = []

    def send(self, to: str, subject: str, text: str) -> None:
        if self.mails and self.mails[-1].get("fail"):
            self.mails.pop()
            raise ConnectionError
        self.mails.append({"to": to, "subject": subject, "text": text})


@pytest.fixture
def mailbox(world: World, monkeypatch: pytest.MonkeyPatch) -> Mailbox:
    box = Mailbox()
    monkeypatch.setattr(function("notify_customer"), "_mailer", box)
    return box


def told(status: Status = Status.FULFILLED, **data: Any) -> dict[str, Any]:
    """An order event as the queue gets it."""
    event: dict[str, Any] = json.loads(sample("notify_customer/order-fulfilled")["Records"][0]["body"])
    event["detail-type"] = f"Order{status.capitalize()}"
    event["detail"]["data"].update(status=status, **data)
    event["detail"]["metadata"]["eventId"] = f"{event['detail']['data']['orderId']}#{status}"
    return event


def notify(*messages: Any, receives: int = 1) -> list[str]:
    return failed(invoke("notify_customer", batch("notify_customer/order-fulfilled", *messages, receives=receives)))


@pytest.mark.parametrize(
    ("status", "subject"),
    [
        (Status.PLACED, "We have your order"),
        (Status.FULFILLED, "Your order is on its way"),
        (Status.FAILED, "We couldn't fulfil your order"),
        (Status.CANCELLED, "Your order is cancelled"),
    ],
)
def test_the_customer_is_told(mailbox: Mailbox, status: Status, subject: str) -> None:
    event = told(status, reason={"code": "OutOfStock", "message": "sold out"} if status is Status.FAILED else None)

    assert notify(event) == []

    (mail,) = mailbox.mails
    assert (mail["to"], mail["subject"]) == ("ada@example.com", subject)
    assert event["detail"]["data"]["orderId"] in mail["text"]
    assert ("sold out" in mail["text"]) == (status is Status.FAILED)


@pytest.mark.parametrize("status", [Status.RESERVED, Status.PAID])
def test_steps_in_between_are_not_told(mailbox: Mailbox, status: Status) -> None:
    assert notify(told(status)) == []
    assert mailbox.mails == []


def test_a_customer_without_an_address_is_not_told(mailbox: Mailbox) -> None:
    assert notify(told(email=None)) == []
    assert mailbox.mails == []


def test_an_event_that_comes_twice_is_told_once(mailbox: Mailbox) -> None:
    assert notify(told(), told()) == []
    assert notify(told()) == []

    assert len(mailbox.mails) == 1


def test_two_events_of_an_order_are_both_told(mailbox: Mailbox) -> None:
    notify(told(Status.PLACED), told(Status.FULFILLED))

    assert [mail["subject"] for mail in mailbox.mails] == ["We have your order", "Your order is on its way"]


def test_a_mail_that_could_not_be_sent_is_sent_the_next_time(mailbox: Mailbox) -> None:
    mailbox.mails.append({"fail": True})

    assert notify(told()) == ["m0"]
    assert notify(told()) == []

    assert len(mailbox.mails) == 1


def test_an_address_that_bounces_ends_in_the_inbox(world: World) -> None:
    event = told(email="ada@bounce.example")

    assert notify(event) == ["m0"]
    assert notify(event, receives=5) == []

    (report,) = map(json.loads, world.messages("FailuresQueue"))
    assert report["error"].startswith("MailRefused")


FOREIGN: list[Any] = [
    "not JSON",
    "[]",
    {"hello": "world"},
    {**told(), "source": "somebody.else"},
    {**told(), "detail-type": "OrderPlaced"},
    {**told(), "detail": {}},
]


@pytest.mark.parametrize("message", FOREIGN)
def test_what_is_no_order_event_does_not_hold_up_the_others(mailbox: Mailbox, message: Any) -> None:
    assert notify(message, told()) == ["m0"]
    assert len(mailbox.mails) == 1


def test_mails_are_logged_without_address_and_text(world: World, logs: Logs) -> None:
    notify(told())

    (line,) = [line for line in logs() if line["message"] == "mail sent"]
    assert line["correlation_id"] == told()["detail"]["metadata"]["correlationId"]
    assert line["order_id"] == an_order().order_id
    assert "ada@example.com" not in json.dumps(line)


def test_after_a_message_that_is_done_no_log_line_has_its_order(
    world: World, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    visibility_changes(monkeypatch, "notify_customer")
    names = (told()["detail"]["metadata"]["correlationId"], told()["detail"]["data"]["orderId"])

    notify(told(), "not JSON")

    assert lines_with_names(logs) == [("mail sent", *names), ("message failed", None, None)]


def test_only_the_messages_that_failed_have_their_visibility_changed(
    mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = visibility_changes(monkeypatch, "notify_customer")

    assert notify("not JSON", told(), "[]") == ["m0", "m2"]

    assert [call["ReceiptHandle"] for call in calls] == ["handle-0", "handle-2"]


# ---- capture_failure


def test_a_message_that_the_inbox_fails_to_capture_is_left_to_sqs(
    world: World, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a failures table that can't be written
    def add(*_: Any) -> None:
        raise ConnectionError

    monkeypatch.setattr(function("capture_failure")._failures, "add", add)
    visibility_changes(monkeypatch, "capture_failure")

    # WHEN a message comes for the last time, THEN it is reported as failed and nobody tries to send it anywhere
    answer = invoke("capture_failure", batch("capture_failure/unknown", "text", receives=5))
    assert failed(answer) == ["m0"]
    assert [line["message"] for line in logs()] == ["message failed"]
