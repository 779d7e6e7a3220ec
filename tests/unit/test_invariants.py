"""What the proof's and the load's invariants call wrong."""

from __future__ import annotations

from typing import Any

import pytest

from verify import invariants
from verify.invariants import Acceptance, OrderChange

CHARGED = {"charges": 1, "amount": 890}
REFUNDED = {"charges": 1, "refunds": 1, "amount": 890}
SHIPPED = {"shipments": 1}


def order(status: str, **more: Any) -> dict[str, Any]:
    return {"orderId": "a", "status": status, "version": 1, "total": 890, "lines": [], **more}


def wrong_with(status: str, payment: dict[str, Any], shipment: dict[str, Any]) -> list[str]:
    ledgers = invariants.check_ledgers("a", payment, shipment)
    return ledgers + invariants.check_end(order(status), payment, shipment)


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
    assert not wrong_with(status, payment, shipment)


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
    sentences = wrong_with(status, payment, shipment)
    assert sentences
    assert all("a " in sentence for sentence in sentences)


def test_only_a_cancelled_order_may_keep_its_charge_when_the_refund_was_discarded() -> None:
    assert not invariants.check_end(order("CANCELLED"), CHARGED, {}, refund_dropped=True)
    assert invariants.check_end(order("FAILED"), CHARGED, {}, refund_dropped=True)


@pytest.mark.parametrize(
    ("status", "product"),
    [
        ("PLACED", {"available": 5, "reserved": 0, "sold": 0}),
        ("RESERVED", {"available": 3, "reserved": 2, "sold": 0}),
        ("PAID", {"available": 3, "reserved": 2, "sold": 0}),
        ("FAILING", {"available": 3, "reserved": 2, "sold": 0}),
        ("FULFILLED", {"available": 3, "reserved": 0, "sold": 2}),
        ("CANCELLED", {"available": 5, "reserved": 0, "sold": 0}),
    ],
)
def test_stock_is_what_orders_hold_and_took(status: str, product: dict[str, Any]) -> None:
    orders = [order(status, lines=[{"sku": "pear", "quantity": 2, "unitPrice": 1}])]

    def wrong(**other: int) -> list[str]:
        return invariants.check_stock([{"sku": "pear", **product, **other}], orders, {"pear": 5})

    assert not wrong()
    assert any("at first" in sentence for sentence in wrong(available=product["available"] + 1))
    assert any("reserved" in sentence for sentence in wrong(reserved=product["reserved"] + 1))
    assert any("sold" in sentence for sentence in wrong(sold=product["sold"] + 1))
    assert any("negative" in sentence for sentence in wrong(available=-1))


def test_an_order_that_was_given_up_before_it_was_reserved_holds_nothing() -> None:
    orders = [order("FAILING", lines=[{"sku": "pear", "quantity": 2}])]
    assert not invariants.check_stock([{"sku": "pear", "available": 5, "reserved": 0, "sold": 0}], orders)


def test_stock_is_counted_shard_by_shard() -> None:
    # GIVEN an order that took from two shards
    taken = [{"shard": 0, "quantity": 1}, {"shard": 2, "quantity": 3}]
    orders = [order("PAID", lines=[{"sku": "pear", "quantity": 4, "unitPrice": 1, "taken": taken}])]
    own = {"sku": "pear", "available": 5, "reserved": 1, "sold": 0}
    shard = {"sku": "pear#2", "available": 0, "reserved": 3, "sold": 0}
    # THEN
    assert not invariants.check_stock([own, shard], orders, {"pear": 9})
    assert any(
        "of pear#2 are reserved" in wrong for wrong in invariants.check_stock([own, {**shard, "reserved": 2}], orders)
    )
    assert any("pear#2, which is gone" in wrong for wrong in invariants.check_stock([own], orders))
    assert any(
        "8 in all" in wrong for wrong in invariants.check_stock([{**own, "available": 4}, shard], orders, {"pear": 9})
    )


def test_without_the_first_supply_only_what_orders_hold_and_took_is_compared() -> None:
    assert not invariants.check_stock([{"sku": "pear", "available": 7, "reserved": 0, "sold": 0}], [])


def test_an_order_that_has_ended_has_its_receipt_events_and_mails() -> None:
    fulfilled = order("FULFILLED", version=2)
    events = {"a#1": 1, "a#2": 3}

    assert not invariants.check_effects(fulfilled, receipts=1, events=events, mails=2)
    assert not invariants.check_effects(order("FAILED"), receipts=0)
    assert "receipts" in str(invariants.check_effects(fulfilled, receipts=0))
    assert "receipts" in str(invariants.check_effects(fulfilled, receipts=2, discarded=True))
    assert "receipts" in str(invariants.check_effects(order("FAILED"), receipts=1))
    assert "event a#2" in str(invariants.check_effects(fulfilled, receipts=1, events={"a#1": 1}))
    assert "1 mails" in str(invariants.check_effects(fulfilled, receipts=1, mails=1))
    assert "3 mails" in str(invariants.check_effects(fulfilled, receipts=1, mails=3, discarded=True))


def test_a_discarded_failure_may_cost_an_order_its_receipt_events_and_mails() -> None:
    assert not invariants.check_effects(order("FULFILLED"), receipts=0, events={}, mails=1, discarded=True)


def placed(status: str = "PLACED", version: int = 1) -> OrderChange:
    return OrderChange("a", status, version)


def changed(before: str, after: str, version: int) -> OrderChange:
    return OrderChange("a", after, version, before, version - 1)


@pytest.mark.parametrize(
    ("later", "says"),
    [
        ([changed("PLACED", "RESERVED", 2)], ""),
        ([changed("PLACED", "RESERVED", 3)], "the versions of a"),
        ([changed("PLACED", "PAID", 2)], "a became PAID after PLACED"),
        ([changed("PLACED", "FAILING", 2), changed("FAILING", "FAILED", 3)], ""),
        ([changed("PLACED", "FAILING", 2), changed("FAILING", "PAID", 3)], "a became PAID after FAILING"),
        (
            [changed("PLACED", "FAILING", 2), changed("FAILING", "FULFILLED", 3)],
            "a became FULFILLED and was never PAID",
        ),
    ],
)
def test_history_is_made_of_legal_transitions(later: list[OrderChange], says: str) -> None:
    statuses = ["PLACED", *(change.status for change in later)]
    kept = order(statuses[-1], timeline=[{"what": status} for status in statuses])
    if statuses[-1] not in ("FULFILLED", "FAILED"):
        kept["openShard"] = "1"

    assert bool(wrong := invariants.check_history([kept], [placed(), *later])) == bool(says)
    assert says in str(wrong)


def test_an_orders_timeline_and_its_place_among_open_orders_follow_its_status() -> None:
    timeline = [{"what": "PLACED"}, {"what": "an attempt that failed"}]

    assert not invariants.check_history([order("PLACED", timeline=timeline, openShard="1")], [placed()])
    assert "openShard" in str(invariants.check_history([order("PLACED", timeline=timeline)], [placed()]))
    assert "timeline" in str(invariants.check_history([order("PLACED", timeline=[], openShard="1")], [placed()]))


def test_an_accepted_order_is_there_and_an_idempotency_key_makes_one() -> None:
    first = Acceptance("a", "ada", "key")

    assert not invariants.check_acceptances(
        [first, first, Acceptance("b", "bob", "key"), Acceptance("c", "ada")], "abc"
    )
    assert "LOST: a" in str(invariants.check_acceptances([first], "b"))
    assert "2 orders" in str(invariants.check_acceptances([first, Acceptance("b", "ada", "key")], "ab"))


def test_a_mail_is_sent_once_but_for_the_excused() -> None:
    assert not invariants.check_duplicate_mails({"thanks": 2, "shipped": 1}, excused=1)
    assert "1 mails" in str(invariants.check_duplicate_mails({"thanks": 2, "shipped": 1}, excused=0))
