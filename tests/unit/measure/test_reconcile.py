"""What the reckoning after a load calls wrong."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from measure import load, reconcile

CHARGED = {"charges": 1, "amount": 890}
REFUNDED = {"charges": 1, "refunds": 1, "amount": 890}
SHIPPED = {"shipments": 1}


@pytest.mark.parametrize(
    ("status", "payment", "shipment"),
    [
        ("PLACED", {}, {}),
        ("PAID", CHARGED, SHIPPED),
        ("FULFILLED", CHARGED, SHIPPED),
        ("FAILED", {}, {}),
        ("FAILED", REFUNDED, {}),
        ("CANCELLED", {"status": "VOIDED"}, {}),
    ],
)
def test_an_order_whose_ledgers_agree_with_it_is_well(
    status: str, payment: dict[str, Any], shipment: dict[str, Any]
) -> None:
    assert not reconcile.wrong_with({"status": status, "total": 890}, payment, shipment)


@pytest.mark.parametrize(
    ("status", "payment", "shipment"),
    [
        ("PAID", {"charges": 2}, {}),
        ("RESERVED", {"charges": 1, "refunds": 2}, {}),
        ("PAID", CHARGED, {"shipments": 2}),
        ("FULFILLED", {}, SHIPPED),
        ("FULFILLED", REFUNDED, SHIPPED),
        ("FULFILLED", CHARGED, {}),
        ("FULFILLED", {"charges": 1, "amount": 1}, SHIPPED),
        ("FAILED", CHARGED, {}),
        ("FAILED", REFUNDED, SHIPPED),
        ("CANCELLED", CHARGED, {}),
    ],
)
def test_an_order_whose_ledgers_contradict_it_is_named(
    status: str, payment: dict[str, Any], shipment: dict[str, Any]
) -> None:
    assert reconcile.wrong_with({"status": status, "total": 890}, payment, shipment)


def test_a_fulfilled_order_without_its_receipt_is_missing_something() -> None:
    order = {"orderId": "a", "status": "FULFILLED", "version": 4}

    assert "receipt" in reconcile.missing(order, set(), None)
    assert not reconcile.missing(order, {"a"}, None)


def test_percentiles_are_those_of_the_sorted_values() -> None:
    assert reconcile.percentiles([]) == {}
    assert reconcile.percentiles([float(n) for n in range(100, 0, -1)]) == {
        "p50": 51.0,
        "p95": 96.0,
        "p99": 100.0,
        "max": 100.0,
    }


def test_the_same_seed_orders_the_same_and_each_fault_shows_in_what_is_ordered() -> None:
    def bodies(seed: int, *faults: load.Fault) -> list[dict[str, Any]]:
        target: Any = None
        return load.order_bodies(load.Load(target, 300, 10.0, frozenset(faults), seed))

    assert bodies(1) == bodies(1)
    assert bodies(1) != bodies(2)
    assert {body["paymentMethod"] for body in bodies(1)} == {"tok_visa", "tok_declined"}
    assert any("provider_down" in body["paymentMethod"] for body in bodies(1, load.Fault.PROVIDER))
    postal = {body["shippingAddress"]["postalCode"] for body in bodies(1, load.Fault.WAREHOUSE)}
    assert {"TEST-DOWN-1", "TEST-REFUSED"} <= postal


def test_orders_a_second_count_to_the_last_order_and_not_to_the_end_of_waiting() -> None:
    # GIVEN ten orders, accepted within 2 s, of which eight had ended after 4 s before anything was redriven
    target: Any = None
    run = load.Load(target, 10, 5.0, frozenset(), seed=1)
    run.accepted = [load.AcceptedOrder(f"order-{number}", f"key-{number}", 0.01, 1) for number in range(10)]
    run.answered = run.began + 2
    first = reconcile.Reckoning(accepted=10, fulfilled=7, failed=1, in_inbox=2)
    first.last_end = (run.began_at + timedelta(seconds=4)).isoformat()

    # WHEN it is reported, THEN so many were accepted, and ended, a second
    found = reconcile.report(run, first, reconcile.Reckoning(accepted=10, fulfilled=9, failed=1))
    assert (found["acceptedPerSecond"], found["endedPerSecond"]) == (5.0, 2.0)
