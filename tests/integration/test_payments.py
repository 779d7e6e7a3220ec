"""ProcessPayment and RefundPayment: charged once, refunded once, in whatever order they meet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from orders.domain.errors import OrderCancelled, PaymentDeclined, PaymentProviderError
from orders.domain.order import Order, PricedLine, Status
from tests.integration.world import World, an_order, function, invoke, sample

Logs = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def reserved(world: World) -> Order:
    world.put("CatalogueTable", sku="TEA", price=890, currency="EUR", available=3, reserved=2, sold=0)
    return world.store(an_order(status=Status.RESERVED, version=2, lines=[PricedLine("TEA", 2, 890)], total=1780))


def charge(order: Order, token: str = "tok_visa", attempt: int = 0) -> dict[str, Any]:
    answer: dict[str, Any] = invoke(
        "process_payment",
        {
            "customerId": order.customer_id,
            "orderId": order.order_id,
            "correlationId": order.correlation_id,
            "total": 1780,
            "currency": "EUR",
            "paymentMethod": token,
            "attempt": attempt,
        },
    )
    return answer


def refund(order: Order) -> dict[str, Any]:
    ids = {"customerId": order.customer_id, "orderId": order.order_id, "correlationId": order.correlation_id}
    answer: dict[str, Any] = invoke("refund_payment", ids)
    return answer


def payment(world: World) -> dict[str, Any]:
    (entry,) = world.items("PaymentsTable")
    return entry


def test_a_charge_makes_the_order_paid(world: World, reserved: Order) -> None:
    assert charge(reserved) == {"paymentId": f"pay_{reserved.order_id}"}

    after = world.order(reserved)
    assert (after.status, after.version, after.payment_id) == (Status.PAID, 3, f"pay_{reserved.order_id}")
    assert (payment(world)["amount"], payment(world)["currency"]) == (1780, "EUR")


def test_charging_twice_charges_once(world: World, reserved: Order) -> None:
    assert charge(reserved) == charge(reserved)

    assert payment(world)["charges"] == 1
    assert world.order(reserved).version == 3


def test_a_late_attempt_leaves_a_fulfilled_order_alone(world: World, reserved: Order) -> None:
    charge(reserved)
    fulfilled = an_order(status=Status.FULFILLED, version=4, payment_id=f"pay_{reserved.order_id}")
    world.store(fulfilled)

    charge(reserved)

    assert world.order(reserved) == fulfilled


def test_a_provider_that_cant_be_reached_is_down(world: World, reserved: Order) -> None:
    world.dynamodb.delete_table(TableName="PaymentsTable")

    with pytest.raises(PaymentProviderError, match="can't be reached"):
        charge(reserved)
    # Nothing of AWS in what the customer reads.
    noted = world.order(reserved).timeline[-1]
    assert (noted.what, noted.detail) == ("PaymentAttemptFailed", "attempt 1: the payment provider can't be reached")


def test_a_provider_that_is_down_is_asked_again(world: World, reserved: Order) -> None:
    # GIVEN a provider that fails twice
    for attempt in range(2):
        with pytest.raises(PaymentProviderError):
            charge(reserved, "tok_provider_down_2", attempt)

    # WHEN it is asked a third time, THEN the order is paid and its timeline tells of the attempts
    charge(reserved, "tok_provider_down_2", 2)
    assert [(entry.what, entry.detail) for entry in world.order(reserved).timeline] == [
        ("PLACED", None),
        ("PaymentAttemptFailed", "attempt 1: the payment provider answered 503"),
        ("PaymentAttemptFailed", "attempt 2: the payment provider answered 503"),
        ("PAID", None),
    ]
    assert payment(world)["charges"] == 1


def test_a_lost_answer_charges_once(world: World, reserved: Order) -> None:
    with pytest.raises(PaymentProviderError):
        charge(reserved, "tok_timeout_after_charge")
    assert world.order(reserved).status is Status.RESERVED

    charge(reserved, "tok_timeout_after_charge", 1)

    assert payment(world)["charges"] == 1
    assert world.order(reserved).status is Status.PAID


def test_a_declined_payment_charges_nothing(world: World, reserved: Order) -> None:
    with pytest.raises(PaymentDeclined):
        charge(reserved, "tok_declined")

    assert world.items("PaymentsTable") == []
    assert world.order(reserved) == reserved


def test_the_timeline_does_not_grow_for_ever(world: World, reserved: Order) -> None:
    for attempt in range(105):
        with pytest.raises(PaymentProviderError):
            charge(reserved, "tok_provider_down_999", attempt)

    assert len(world.order(reserved).timeline) == 100


# ---- A cancellation or an undo meets the charge


def test_an_order_that_was_cancelled_before_the_charge_is_never_charged(world: World, reserved: Order) -> None:
    # GIVEN a cancellation whose refund was quicker than the charge
    world.orders.cancel(reserved)
    assert refund(reserved) == {"payment": "VOIDED"}

    # WHEN the charge comes, THEN it is refused
    with pytest.raises(OrderCancelled):
        charge(reserved)
    assert payment(world)["status"] == "VOIDED"


def test_an_order_that_was_cancelled_during_the_charge_is_refunded(
    world: World, reserved: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a cancellation between the charge and the order's becoming PAID
    orders = function("process_payment")._orders
    mark_paid = orders.mark_paid

    def cancelled_meanwhile(*order: str) -> None:
        world.orders.cancel(world.order(reserved))
        mark_paid(*order)

    monkeypatch.setattr(orders, "mark_paid", cancelled_meanwhile)
    with pytest.raises(OrderCancelled):
        charge(reserved)

    # WHEN workflow and OrderCancelled event both have it refunded
    assert [refund(reserved), refund(reserved)] == [{"payment": "REFUNDED"}] * 2

    # THEN the money went there and back once, and the stock is on sale again
    assert (payment(world)["charges"], payment(world)["refunds"]) == (1, 1)
    assert world.order(reserved).status is Status.CANCELLED
    assert world.items("CatalogueTable")[0]["available"] == 5


def test_a_failed_order_is_not_charged_by_a_late_copy(world: World, reserved: Order) -> None:
    charge(reserved)
    refund(reserved)
    world.store(an_order(status=Status.FAILED, version=4))

    with pytest.raises(OrderCancelled):
        charge(reserved)
    assert payment(world)["status"] == "REFUNDED"


def test_a_refund_is_noted_once(world: World, reserved: Order) -> None:
    charge(reserved)

    refund(reserved)
    refund(reserved)

    assert [entry.what for entry in world.order(reserved).timeline].count("PaymentRefunded") == 1


def test_a_refund_that_fails_is_tried_again(world: World, reserved: Order) -> None:
    charge(reserved, "tok_refund_down_1")

    with pytest.raises(PaymentProviderError):
        refund(reserved)

    assert payment(world)["status"] == "CHARGED"
    assert refund(reserved) == {"payment": "REFUNDED"}


def test_a_charge_between_a_refunds_read_and_its_write_is_refunded_at_the_next_try(
    world: World, reserved: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a refund that saw no charge, which comes before the refund is written
    provider = function("refund_payment")._provider
    entry = provider._entry

    def charged_meanwhile(key: str) -> Any:
        monkeypatch.setattr(provider, "_entry", entry)
        seen = entry(key)
        charge(reserved)
        return seen

    monkeypatch.setattr(provider, "_entry", charged_meanwhile)
    with pytest.raises(PaymentProviderError):
        refund(reserved)

    assert refund(reserved) == {"payment": "REFUNDED"}


def test_the_event_of_a_cancellation_refunds_too(world: World) -> None:
    assert invoke("refund_payment", sample("refund_payment/order-cancelled")) == {"payment": "VOIDED"}


@pytest.mark.parametrize("name", ["process_payment", "refund_payment", "cancel_shipment", "issue_receipt"])
@pytest.mark.parametrize("event", [{}, {"orderId": 1}, {"detail-type": "OrderCancelled"}, [], None, "text"], ids=str)
def test_what_is_no_request_is_refused(world: World, name: str, event: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        invoke(name, event)
    assert world.items("PaymentsTable") == world.items("ShipmentsTable") == []


def test_log_lines_carry_order_and_correlation_id(world: World, reserved: Order, logs: Logs) -> None:
    charge(reserved)

    lines = [line for line in logs() if line["message"] == "order paid"]
    assert [(line["order_id"], line["correlation_id"]) for line in lines] == [
        (reserved.order_id, reserved.correlation_id)
    ]
