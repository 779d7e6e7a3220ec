"""What is written down: payments, shipments, an order's history, and what workflow and customer are told."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest

from orders.api.paging import decode_cursor, encode_cursor
from orders.api.problems import Problem
from orders.domain.clock import timestamp
from orders.domain.errors import (
    Busy,
    IllegalTransition,
    OrderCancelled,
    PaymentDeclined,
    PaymentProviderError,
    ValidationError,
    WarehouseError,
    WarehouseUnavailable,
)
from orders.domain.order import Order, PricedLine, Status
from orders.payments.simulated import SimulatedPaymentProvider
from orders.storage.orders import OrdersTable
from orders.warehouse.simulated import SimulatedWarehouse
from tests.integration.world import World, an_order, function, invoke, sample

LINES = [PricedLine("TEA", 2, 890), PricedLine("CUP", 1, 1600)]


@pytest.fixture
def provider(world: World) -> SimulatedPaymentProvider:
    return SimulatedPaymentProvider(world.dynamodb)


@pytest.fixture
def warehouse(world: World) -> SimulatedWarehouse:
    return SimulatedWarehouse(world.dynamodb)


def only(world: World, table: str) -> dict[str, Any]:
    (entry,) = world.items(table)
    return entry


# ---- Payments


def test_a_charge_is_written_down_with_amount_currency_token_and_time(
    world: World, provider: SimulatedPaymentProvider
) -> None:
    before = timestamp()
    assert provider.charge("order-1", 3380, "EUR", "tok_visa") == "pay_order-1"

    entry = only(world, "PaymentsTable")
    assert before <= entry.pop("chargedAt") <= timestamp()
    assert entry == {
        "idempotencyKey": "order-1",
        "status": "CHARGED",
        "amount": 3380,
        "currency": "EUR",
        "token": "tok_visa",
        "charges": 1,
    }


def test_a_refund_is_written_down_beside_the_charge(world: World, provider: SimulatedPaymentProvider) -> None:
    provider.charge("order-1", 3380, "EUR", "tok_visa")
    before = timestamp()
    assert [provider.refund("order-1"), provider.refund("order-1")] == ["REFUNDED", "REFUNDED"]

    entry = only(world, "PaymentsTable")
    assert before <= entry["refundedAt"] <= timestamp()
    assert (entry["status"], entry["amount"], entry["charges"], entry["refunds"]) == ("REFUNDED", 3380, 1, 1)


def test_what_was_never_charged_is_closed_for_ever(world: World, provider: SimulatedPaymentProvider) -> None:
    assert [provider.refund("order-1"), provider.refund("order-1")] == ["VOIDED", "VOIDED"]

    entry = only(world, "PaymentsTable")
    assert (entry["status"], "refunds" in entry, "charges" in entry) == ("VOIDED", False, False)
    with pytest.raises(OrderCancelled, match="VOIDED"):
        provider.charge("order-1", 3380, "EUR", "tok_visa")


@pytest.mark.parametrize(
    "token", ["tok_visa", "tok_slow_x", "tok_provider_down_", "tok_provider_down_1x", "x_slow_1"]
)
def test_a_token_that_asks_for_nothing_special_is_charged_at_once(
    provider: SimulatedPaymentProvider, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orders.payments.simulated.time.sleep", lambda _: pytest.fail("it waits"))
    assert provider.charge("order-1", 1, "EUR", token) == "pay_order-1"


def test_a_slow_provider_takes_as_long_as_its_token_says(
    world: World, provider: SimulatedPaymentProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("orders.payments.simulated.time.sleep", waited.append)

    provider.charge("order-1", 1, "EUR", "tok_slow_7")

    assert waited == [7]
    assert only(world, "PaymentsTable")["status"] == "CHARGED"


@pytest.mark.parametrize("times", [1, 3])
def test_a_provider_is_down_as_often_as_its_token_says(provider: SimulatedPaymentProvider, times: int) -> None:
    token = f"tok_provider_down_{times}"
    for _ in range(times):
        with pytest.raises(PaymentProviderError, match="503"):
            provider.charge("order-1", 1, "EUR", token)
    assert provider.charge("order-1", 1, "EUR", token) == "pay_order-1"


def test_a_refund_fails_as_often_as_its_token_says(provider: SimulatedPaymentProvider) -> None:
    provider.charge("order-1", 1, "EUR", "tok_refund_down_2")
    for _ in range(2):
        with pytest.raises(PaymentProviderError, match="503"):
            provider.refund("order-1")
    assert provider.refund("order-1") == "REFUNDED"


def test_a_declined_card_is_never_charged_however_often(world: World, provider: SimulatedPaymentProvider) -> None:
    for _ in range(2):
        with pytest.raises(PaymentDeclined, match="declined"):
            provider.charge("order-1", 1, "EUR", "tok_declined")
    assert world.items("PaymentsTable") == []


def test_an_answer_is_lost_once_and_the_money_is_taken_once(world: World, provider: SimulatedPaymentProvider) -> None:
    with pytest.raises(PaymentProviderError, match="lost"):
        provider.charge("order-1", 1, "EUR", "tok_timeout_after_charge")
    assert provider.charge("order-1", 1, "EUR", "tok_timeout_after_charge") == "pay_order-1"
    assert only(world, "PaymentsTable")["charges"] == 1


def test_receipt_details_are_of_a_payment_that_there_is(provider: SimulatedPaymentProvider) -> None:
    with pytest.raises(PaymentProviderError, match="no payment order-1"):
        provider.receipt_details("order-1")

    provider.charge("order-1", 1, "EUR", "tok_receipt_down_1")
    with pytest.raises(PaymentProviderError, match="receipt service"):
        provider.receipt_details("order-1")
    assert provider.receipt_details("order-1") == "visa ending in 4242"


def test_a_payment_under_way_is_none_yet(provider: SimulatedPaymentProvider) -> None:
    with pytest.raises(PaymentProviderError, match="503"):
        provider.charge("order-1", 1, "EUR", "tok_provider_down_1")
    with pytest.raises(PaymentProviderError, match="no payment"):
        provider.receipt_details("order-1")


# ---- Shipments


def ship(warehouse: SimulatedWarehouse, postal_code: str = "SW1Y 4JH") -> str:
    address = msgspec.structs.replace(an_order().shipping_address, postal_code=postal_code)
    return warehouse.ship("order-1", LINES, address)


def test_a_shipment_is_written_down_once(world: World, warehouse: SimulatedWarehouse) -> None:
    before = timestamp()
    assert [ship(warehouse), ship(warehouse)] == ["ship_order-1", "ship_order-1"]

    entry = only(world, "ShipmentsTable")
    assert before <= entry.pop("decidedAt") <= timestamp()
    assert entry == {"orderId": "order-1", "status": "SHIPPED", "shipments": 1}


def test_a_refusal_stands_and_is_no_shipment(world: World, warehouse: SimulatedWarehouse) -> None:
    for code in ("TEST-REFUSED", "SW1Y 4JH"):
        with pytest.raises(WarehouseError, match="does not deliver to this address"):
            ship(warehouse, code)

    entry = only(world, "ShipmentsTable")
    assert (entry["status"], "shipments" in entry) == ("REFUSED", False)


def test_what_was_called_off_says_so(world: World, warehouse: SimulatedWarehouse) -> None:
    warehouse.cancel("order-1")

    with pytest.raises(WarehouseError, match="the shipment is CANCELLED"):
        ship(warehouse)
    assert "shipments" not in only(world, "ShipmentsTable")


def test_a_warehouse_is_down_as_often_as_its_address_says(warehouse: SimulatedWarehouse) -> None:
    for _ in range(2):
        with pytest.raises(WarehouseUnavailable):
            ship(warehouse, "TEST-DOWN-2")
    assert ship(warehouse, "TEST-DOWN-2") == "ship_order-1"


@pytest.mark.parametrize("code", ["TEST-DOWN-", "TEST-DOWN-1x", "X-TEST-DOWN-1", "TEST-DOWN-12345"])
def test_an_address_that_asks_for_nothing_special_is_shipped_to(warehouse: SimulatedWarehouse, code: str) -> None:
    assert ship(warehouse, code) == "ship_order-1"


# ---- An order's history


def stocked(world: World, **changes: Any) -> Order:
    for line in LINES:
        world.put("CatalogueTable", sku=line.sku, available=5, reserved=line.quantity, sold=0)
    old = {"placed_at": "2026-01-01T00:00:00.000Z", "updated_at": "2026-01-01T00:00:00.000Z"}
    return world.store(an_order(**{"lines": LINES, "total": 3380, **old, **changes}))


def stock(world: World) -> dict[str, tuple[int, int, int]]:
    return {
        item["sku"]: (item["available"], item["reserved"], item["sold"]) for item in world.items("CatalogueTable")
    }


def moved_on(before: Order, after: Order, status: Status) -> None:
    """Check what every change of status leaves behind."""
    assert (after.status, after.version) == (status, before.version + 1)
    assert before.updated_at < after.updated_at <= timestamp()
    entry = after.timeline[-1]
    assert (entry.at, entry.what, entry.detail) == (after.updated_at, status, None)
    assert after.timeline[:-1] == before.timeline


def test_a_paid_order_says_so(world: World) -> None:
    order = stocked(world, status=Status.RESERVED, version=2)

    world.orders.mark_paid(order.customer_id, order.order_id, "pay-1")

    after = world.order(order)
    moved_on(order, after, Status.PAID)
    assert (after.payment_id, after.open_shard) == ("pay-1", order.open_shard)
    # Once more changes nothing; another payment is one too many.
    world.orders.mark_paid(order.customer_id, order.order_id, "pay-1")
    assert world.order(order) == after
    with pytest.raises(OrderCancelled, match="the order is PAID"):
        world.orders.mark_paid(order.customer_id, order.order_id, "pay-2")


@pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELLED])
def test_a_payment_of_an_order_that_has_ended_must_be_given_back(world: World, status: Status) -> None:
    order = stocked(world, status=status, payment_id="pay-1")

    with pytest.raises(OrderCancelled, match=f"the order is {status}"):
        world.orders.mark_paid(order.customer_id, order.order_id, "pay-1")


def test_a_payment_of_an_order_that_is_gone_must_be_given_back(world: World) -> None:
    with pytest.raises(OrderCancelled, match="the order is gone"):
        world.orders.mark_paid("c", "o", "pay-1")


def test_a_fulfilled_order_says_so_and_is_open_no_longer(world: World) -> None:
    order = stocked(world, status=Status.PAID, version=3)

    world.orders.mark_fulfilled(order.customer_id, order.order_id, "ship-1", LINES)

    after = world.order(order)
    moved_on(order, after, Status.FULFILLED)
    assert (after.shipment_id, after.open_shard) == ("ship-1", None)
    assert stock(world) == {"TEA": (5, 0, 2), "CUP": (5, 0, 1)}
    # Once more changes nothing.
    world.orders.mark_fulfilled(order.customer_id, order.order_id, "ship-1", LINES)
    assert world.order(order) == after
    assert stock(world) == {"TEA": (5, 0, 2), "CUP": (5, 0, 1)}


def test_an_order_that_is_gone_is_not_fulfilled(world: World) -> None:
    stocked(world)
    with pytest.raises(IllegalTransition, match="the order is gone and not PAID"):
        world.orders.mark_fulfilled("c", "o", "ship-1", LINES)


@pytest.mark.parametrize(
    ("status", "left"),
    [
        (Status.PLACED, {"TEA": (5, 2, 0), "CUP": (5, 1, 0)}),
        (Status.RESERVED, {"TEA": (7, 0, 0), "CUP": (6, 0, 0)}),
    ],
)
def test_a_cancelled_order_says_so_and_gives_back_what_it_had(
    world: World, status: Status, left: dict[str, Any]
) -> None:
    lines = LINES if status is Status.RESERVED else [PricedLine(line.sku, line.quantity) for line in LINES]
    order = stocked(world, status=status, version=2, lines=lines)

    world.orders.cancel(order)

    after = world.order(order)
    moved_on(order, after, Status.CANCELLED)
    assert after.open_shard is None
    assert stock(world) == left


def test_an_order_that_has_moved_on_since_it_was_read_is_not_cancelled(world: World) -> None:
    order = stocked(world, status=Status.RESERVED, version=2)
    world.store(msgspec.structs.replace(order, version=3))

    with pytest.raises(IllegalTransition, match="moved on"):
        world.orders.cancel(order)
    assert stock(world) == {"TEA": (5, 2, 0), "CUP": (5, 1, 0)}


def test_two_who_write_the_same_order_at_once_may_try_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    order = stocked(world, status=Status.PAID)
    client: Any = world.dynamodb

    def conflict(**_: Any) -> Any:
        error = {
            "Error": {"Code": "TransactionCanceledException"},
            "CancellationReasons": [{"Code": "TransactionConflict"}],
        }
        raise client.exceptions.TransactionCanceledException(error, "TransactWriteItems")

    monkeypatch.setattr(client, "transact_write_items", conflict)
    with pytest.raises(Busy):
        world.orders.mark_fulfilled(order.customer_id, order.order_id, "ship-1", LINES)


def test_a_note_has_a_time_a_name_and_a_detail(world: World) -> None:
    order = world.store(an_order())
    before = timestamp()

    world.orders.note(order.customer_id, order.order_id, "What", "why")
    world.orders.note(order.customer_id, order.order_id, "What", "why again")
    world.orders.note(order.customer_id, order.order_id, "What", "not once more", once=True)

    after = world.order(order)
    assert [(entry.what, entry.detail) for entry in after.timeline[1:]] == [("What", "why"), ("What", "why again")]
    assert before <= after.timeline[1].at <= timestamp()
    assert (after.version, after.updated_at) == (order.version, order.updated_at)


@pytest.mark.parametrize("once", [True, False])
def test_nothing_is_noted_of_an_order_that_is_gone(world: World, once: bool) -> None:
    world.orders.note("c", "o", "What", "why", once=once)
    assert world.items("OrdersTable") == []


# ---- Lists


def test_the_next_page_begins_after_the_last_and_is_the_customers_own(world: World) -> None:
    table = OrdersTable(world.dynamodb, "OrdersTable", "CatalogueTable")
    for number in range(3):
        at = f"2026-01-0{number + 1}T00:00:00.000Z"
        world.store(
            an_order(customer_id="ada", order_id=f"0000000{number}-0000-4000-8000-000000000000", placed_at=at)
        )

    first = table.list_newest_first("ada", 2, None)
    second = table.list_newest_first("ada", 2, first[-1])

    assert [order.order_id[7] for order in first[0]] == ["2", "1"]
    assert [order.order_id[7] for order in second[0]] == ["0"]
    assert second[-1] is None
    assert table.list_newest_first("bob", 2, first[-1])[0] == []
    assert first[-1] is not None
    for cursor in ("", "x", "W10=", encode_cursor(first[-1])[:-8], "WyIiLCIiXQ=="):
        with pytest.raises(Problem):
            decode_cursor(cursor)


def test_an_order_leads_to_its_customer_and_a_customer_to_a_count(world: World) -> None:
    for number, customer in enumerate(("ada", "ada", "bob")):
        world.store(an_order(order_id=f"0000000{number}-0000-4000-8000-000000000000", customer_id=customer))

    assert world.orders.customer_of("00000002-0000-4000-8000-000000000000") == "bob"
    assert world.orders.customer_of("00000003-0000-4000-8000-000000000000") is None
    assert [world.orders.count_of(customer) for customer in ("ada", "bob", "eve")] == [2, 1, 0]


def test_open_orders_are_those_placed_before_a_time_in_every_shard(world: World) -> None:
    for shard in range(16):
        order_id = f"00000000-0000-4000-8000-00000000000{shard:x}"
        world.store(an_order(order_id=order_id, placed_at="2026-01-01T00:00:00.000Z", open_shard=f"{shard:02d}"))
    world.store(an_order(placed_at="2026-01-03T00:00:00.000Z"))

    found = list(world.orders.open_longest("2026-01-02T00:00:00.000Z"))

    assert len(found) == 16
    assert {order.customer_id for order in found} == {an_order().customer_id}
    assert {order.placed_at for order in found} == {"2026-01-01T00:00:00.000Z"}
    assert len(list(world.orders.open_longest())) == 17
    assert list(world.orders.open_longest("2026-01-01T00:00:00.000Z")) == []


# ---- What the workflow is told


def validate(order: Order, **path: str) -> dict[str, Any]:
    event = {
        "metadata": {"correlationId": order.correlation_id},
        "data": {"customerId": order.customer_id, "orderId": order.order_id},
        **path,
    }
    answer: dict[str, Any] = invoke("validate_order", event)
    return answer


def test_the_workflow_is_told_all_about_a_new_order(world: World) -> None:
    world.put("CatalogueTable", sku="TEA", price=890, currency="EUR", available=5, reserved=0, sold=0)
    order = world.store(an_order(lines=[PricedLine("TEA", 1), PricedLine("TEA", 2)]))

    assert validate(order) == {
        "customerId": order.customer_id,
        "orderId": order.order_id,
        "correlationId": order.correlation_id,
        "status": "PLACED",
        "currency": "EUR",
        "lines": [{"sku": "TEA", "quantity": 3, "unitPrice": 890}],
        "storedLines": [{"M": {"sku": {"S": "TEA"}, "quantity": {"N": "3"}, "unitPrice": {"N": "890"}}}],
        "stock": [{"key": "TEA", "quantity": 3}],
        "total": 2670,
        "paymentMethod": order.payment_method,
        "shippingAddress": msgspec.to_builtins(order.shipping_address),
    }


def test_the_workflow_goes_on_with_the_prices_that_an_order_has(world: World) -> None:
    order = world.store(an_order(status=Status.PAID, lines=LINES, total=3380))

    told = validate(order)

    assert (told["status"], told["total"]) == ("PAID", 3380)
    assert told["stock"] == [{"key": line.sku, "quantity": line.quantity} for line in LINES]
    assert [line["unitPrice"] for line in told["lines"]] == [890, 1600]


def test_an_order_that_costs_nothing_is_not_carried_out(world: World) -> None:
    world.put("CatalogueTable", sku="TEA", price=0, currency="EUR", available=5, reserved=0, sold=0)
    order = world.store(an_order(lines=[PricedLine("TEA", 1)]))

    with pytest.raises(ValidationError, match="the order has no price"):
        validate(order)


# ---- Mails


@pytest.mark.parametrize(
    ("status", "subject", "text"),
    [
        ("PLACED", "We have your order", "Thank you. Your order {} is being prepared."),
        ("FULFILLED", "Your order is on its way", "Your order {} has been shipped."),
        ("FAILED", "We couldn't fulfil your order", "Your order {} has failed: sold out."),
        ("CANCELLED", "Your order is cancelled", "Your order {} has been cancelled."),
    ],
)
def test_a_mail_reads_so_and_is_remembered_for_45_days(
    world: World, monkeypatch: pytest.MonkeyPatch, status: str, subject: str, text: str
) -> None:
    mails: list[dict[str, Any]] = []

    class Mailer:
        def send(self, **mail: Any) -> None:
            mails.append(mail)

    monkeypatch.setattr(function("notify_customer"), "_mailer", Mailer())
    event = sample("notify_customer/order-fulfilled")
    (record,) = event["Records"]
    body = msgspec.json.decode(record["body"])
    body["detail-type"] = f"Order{status.capitalize()}"
    body["detail"]["data"] |= {"status": status, "reason": {"code": "OutOfStock", "message": "sold out"}}
    record["body"] = msgspec.json.encode(body).decode()

    assert invoke("notify_customer", event) == {"batchItemFailures": []}

    order_id = body["detail"]["data"]["orderId"]
    assert mails == [{"to": "ada@example.com", "subject": subject, "text": text.format(order_id)}]
    remembered = only(world, "IdempotencyTable")
    assert abs(remembered["expiration"] - time.time() - 45 * 24 * 3600) < 60
