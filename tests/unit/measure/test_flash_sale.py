"""What a flash sale orders, and what it calls wrong."""

from __future__ import annotations

from typing import Any

import pytest

from measure import flash_sale

SIDES = ["SIDE-0", "SIDE-1"]


def test_a_piece_that_a_cancellation_returns_can_still_be_sold() -> None:
    bodies, cancels = flash_sale.requests("FLASH", SIDES, 400, seed=1)

    assert (bodies, cancels) == flash_sale.requests("FLASH", SIDES, 400, seed=1)
    assert cancels
    assert max(cancels) < 200
    assert {body["lines"][0]["quantity"] for body in bodies[200:]} == {1}


def test_baskets_are_mixed_and_some_pay_slowly() -> None:
    bodies, _ = flash_sale.requests("FLASH", SIDES, 400, seed=1)

    assert {body["lines"][0]["sku"] for body in bodies} == {"FLASH"}
    assert {len(body["lines"]) for body in bodies} == {1, 2, 3}
    assert {body["paymentMethod"] for body in bodies} == {"tok_visa", "tok_slow_1"}


def found(**changes: Any) -> dict[str, Any]:
    """The findings of a sale of which everything is well."""
    well = {
        "pieces": 10,
        "sold": 10,
        "left": 0,
        "reserved": 0,
        "orders": 30,
        "accepted": 30,
        "ends": {"FULFILLED": 10, "CANCELLED": 2, "FAILED: OutOfStock": 18},
        "inbox": {"healing": {}, "forHumans": {}},
        "lost": {},
        "doubled": {},
    }
    return {**well, **changes}


def test_a_sale_of_each_piece_to_one_customer_is_well() -> None:
    assert flash_sale.verdict(found()) == []


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"sold": 11}, "11 of 10 pieces are sold"),
        ({"left": 1, "sold": 9}, "1 left"),
        ({"reserved": 1, "sold": 9}, "1 reserved"),
        ({"accepted": 29}, "29 of 30 orders were accepted"),
        ({"ends": {"FULFILLED": 10, "FAILED: PaymentDeclined": 1}}, "1 orders are FAILED: PaymentDeclined"),
        ({"ends": {"RESERVED": 1}}, "1 orders are RESERVED"),
        ({"inbox": {"healing": {"ProcessPayment: Busy": 1}, "forHumans": {}}}, "ProcessPayment: Busy"),
        ({"inbox": {"healing": {}, "forHumans": {"x: y": 1}}}, "x: y"),
        ({"lost": {"o1": "it isn't in the table"}}, "lost: o1"),
        ({"doubled": {"o1": "charged twice"}}, "doubled: o1"),
    ],
)
def test_each_thing_that_must_not_be_is_named(changes: dict[str, Any], wrong: str) -> None:
    (sentence,) = flash_sale.verdict(found(**changes))

    assert wrong in sentence
