"""A service that refuses, throttles or doesn't answer: what the customer sees, and what is tried again."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError, ReadTimeoutError

from orders.domain.errors import Busy, PaymentProviderError
from orders.domain.order import Order, PricedLine, Status
from orders.storage import dynamodb
from tests.integration.world import World, an_order, function, invoke, sample

LINES = [PricedLine("TEA", 2, 890)]
Logs = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def reserved(world: World) -> Order:
    world.put("CatalogueTable", sku="TEA", price=890, currency="EUR", available=3, reserved=2, sold=0)
    return world.store(an_order(status=Status.RESERVED, version=2, lines=LINES, total=1780))


def stock(world: World) -> tuple[int, int]:
    (product,) = world.items("CatalogueTable")
    return product["available"], product["reserved"]


# ---- Cancellation


def cancel(order: Order) -> dict[str, Any]:
    event = sample("query_orders/cancel-too-late")
    path = f"/orders/{order.order_id}/cancel"
    event["path"], event["requestContext"]["path"] = path, f"/v1{path}"
    event["requestContext"]["authorizer"]["claims"]["sub"] = order.customer_id
    answer: dict[str, Any] = invoke("query_orders", event)
    return answer


def refuse_transactions(monkeypatch: pytest.MonkeyPatch, codes: list[str], times: int) -> list[float]:
    """Cancel the next transactions for these reasons; returns the pauses made."""
    module = function("query_orders")
    client = module._orders._client
    write, left, pauses = client.transact_write_items, iter(range(times)), list[float]()

    def transact_write_items(**request: Any) -> Any:
        if next(left, None) is None:
            return write(**request)
        error = {
            "Error": {"Code": "TransactionCanceledException"},
            "CancellationReasons": [{"Code": code} for code in codes],
        }
        cancelled: type[ClientError] = client.exceptions.TransactionCanceledException
        raise cancelled(error, "TransactWriteItems")  # type: ignore[arg-type]

    monkeypatch.setattr(client, "transact_write_items", transact_write_items)
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    return pauses


PASSING = ["TransactionConflict", "ProvisionedThroughputExceeded", "ThrottlingError"]


@pytest.mark.parametrize("code", PASSING)
@pytest.mark.parametrize("place", [0, 1])
def test_a_cancellation_that_is_throttled_goes_through_in_the_end(
    world: World, reserved: Order, monkeypatch: pytest.MonkeyPatch, code: str, place: int
) -> None:
    codes = ["None", "None"]
    codes[place] = code
    pauses = refuse_transactions(monkeypatch, codes, 5)

    assert cancel(reserved)["statusCode"] == 202

    assert stock(world) == (5, 0)
    assert len(pauses) == 5
    # Longer and longer, together less than what API Gateway waits for.
    assert all(0 <= pause <= 0.025 * 2**attempt for attempt, pause in enumerate(pauses, start=1))


@pytest.mark.parametrize("code", PASSING)
def test_a_cancellation_that_stays_throttled_may_be_tried_again_by_the_customer(
    world: World, reserved: Order, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    refuse_transactions(monkeypatch, ["None", code], 6)

    answer = cancel(reserved)

    assert answer["statusCode"] == 409
    assert "try again" in json.loads(answer["body"])["detail"]
    assert world.order(reserved) == reserved


def test_a_cancellation_that_breaks_the_stock_is_an_error_and_changes_nothing(world: World, reserved: Order) -> None:
    # GIVEN less reserved than the order holds: a mistake that somebody has to look at
    world.put("CatalogueTable", sku="TEA", price=890, currency="EUR", available=3, reserved=1, sold=0)

    with pytest.raises(ClientError):
        cancel(reserved)

    assert world.order(reserved) == reserved
    assert stock(world) == (3, 1)


# ---- Payment


def charge(order: Order) -> dict[str, Any]:
    request = {
        "customerId": order.customer_id,
        "orderId": order.order_id,
        "correlationId": order.correlation_id,
        "total": 1780,
        "currency": "EUR",
        "paymentMethod": "tok_visa",
        "attempt": 1,
    }
    answer: dict[str, Any] = invoke("process_payment", request)
    return answer


@pytest.mark.parametrize("error", [ReadTimeoutError, ConnectTimeoutError])
def test_a_provider_that_does_not_answer_is_noted_in_the_timeline(
    world: World, reserved: Order, monkeypatch: pytest.MonkeyPatch, error: Any
) -> None:
    def update_item(**_: Any) -> Any:
        raise error(endpoint_url="https://dynamodb")

    ask = function("process_payment")._provider._ask
    monkeypatch.setattr(
        function("process_payment")._provider, "_ask", lambda _, **request: ask(update_item, **request)
    )

    with pytest.raises(PaymentProviderError, match="can't be reached"):
        charge(reserved)

    noted = world.order(reserved).timeline[-1]
    assert (noted.what, noted.detail) == ("PaymentAttemptFailed", "attempt 2: the payment provider can't be reached")


def throttled(world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let the orders table refuse every update."""
    client = function(name)._orders._client
    update = client.update_item

    def update_item(**request: Any) -> Any:
        if request["TableName"] == "OrdersTable":
            raise ClientError({"Error": {"Code": "ThrottlingException", "Message": "slow down"}}, "UpdateItem")
        return update(**request)

    monkeypatch.setattr(client, "update_item", update_item)


def test_a_refund_that_cannot_be_noted_is_tried_again(
    world: World, reserved: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    charge(reserved)
    ids = {"customerId": reserved.customer_id, "orderId": reserved.order_id, "correlationId": "c"}
    with monkeypatch.context() as patch:
        throttled(world, patch, "refund_payment")
        with pytest.raises(ClientError):
            invoke("refund_payment", ids)

    invoke("refund_payment", ids)

    assert [entry.what for entry in world.order(reserved).timeline][-1] == "PaymentRefunded"


def test_a_charge_that_cannot_be_noted_is_an_error_and_charges_once_all_the_same(
    world: World, reserved: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        throttled(world, patch, "process_payment")
        with pytest.raises(ClientError):
            charge(reserved)

    charge(reserved)

    (entry,) = world.items("PaymentsTable")
    assert entry["charges"] == 1
    assert world.order(reserved).status is Status.PAID


# ---- Reading many items


class Partly:
    """A DynamoDB that answers a batch one key at a time, or not at all for some calls."""

    def __init__(self, idle: int = 0) -> None:
        self.idle = idle
        self.asked: list[int] = []

    def batch_get_item(self, *, RequestItems: dict[str, Any]) -> dict[str, Any]:  # noqa: N803
        (table,) = RequestItems
        keys = RequestItems[table]["Keys"]
        self.asked.append(len(keys))
        if len(self.asked) <= self.idle:
            return {"Responses": {}, "UnprocessedKeys": RequestItems}
        left = {table: {"Keys": keys[1:]}} if keys[1:] else {}
        return {"Responses": {table: keys[:1]}, "UnprocessedKeys": left}


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    made: list[float] = []
    monkeypatch.setattr("orders.storage.dynamodb.time.sleep", made.append)
    return made


def read(client: Any, number: int) -> list[dict[str, Any]]:
    return dynamodb.get_items(client, "CatalogueTable", [{"sku": {"S": str(n)}} for n in range(number)])


def test_items_that_come_one_by_one_are_all_read(pauses: list[float]) -> None:
    client = Partly()

    assert len(read(client, 3)) == 3

    assert client.asked == [3, 2, 1]
    assert [0 <= pause <= 0.025 * 2**attempt for attempt, pause in enumerate(pauses, start=1)] == [True, True]


def test_items_that_come_at_the_last_attempt_are_read(pauses: list[float]) -> None:
    assert len(read(Partly(idle=7), 1)) == 1


def test_items_that_do_not_come_are_an_error_and_not_left_out(pauses: list[float]) -> None:
    client = Partly(idle=99)

    with pytest.raises(Busy, match="2 items of CatalogueTable"):
        read(client, 2)

    assert len(client.asked) == 8


def test_nothing_is_asked_for_nothing(pauses: list[float]) -> None:
    client = Partly()

    assert read(client, 0) == []
    assert client.asked == []


# ---- Publishing and shipping


def test_the_relay_waits_longer_and_longer_before_it_asks_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    class Down:
        calls = 0

        def put_events(self, **_: Any) -> Any:
            self.calls += 1
            raise ConnectionError

    bus = Down()
    monkeypatch.setattr(function("publish_events"), "_events", bus)
    monkeypatch.setattr(function("publish_events").time, "sleep", waited.append)

    assert invoke("publish_events", sample("publish_events/order-placed"))["batchItemFailures"]

    assert bus.calls == 4
    assert len(waited) == 3
    assert all(0 <= pause <= 0.1 * 2**attempt for attempt, pause in enumerate(waited, start=1))


def test_what_the_relay_did_is_counted_for_the_alarms(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Down:
        def put_events(self, **_: Any) -> Any:
            raise ConnectionError

    monkeypatch.setattr(function("publish_events"), "_events", Down())
    monkeypatch.setattr(function("publish_events").time, "sleep", lambda _: None)

    invoke("publish_events", sample("publish_events/order-placed"))

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    (counted,) = [line for line in lines if "_aws" in line]
    assert (counted["EventsPublished"], counted["EventsNotPublished"]) == ([0], [1])
