"""ValidateOrder: prices, and the way that the workflow goes; a damaged item is no mistake of the customer's."""

from __future__ import annotations

from typing import Any

import pytest

from orders.domain.errors import Unreadable, ValidationError
from orders.domain.order import GIVEN_UP_REASON, PricedLine, Reason, Status
from tests.integration.world import World, an_order, invoke

LINES = [PricedLine("TEA", 2), PricedLine("CUP", 1), PricedLine("TEA", 3)]


@pytest.fixture
def catalogue(world: World) -> World:
    world.put("CatalogueTable", sku="TEA", name="Tea", price=890, currency="EUR", available=9, reserved=0, sold=0)
    world.put("CatalogueTable", sku="CUP", name="Cup", price=1600, currency="EUR", available=9, reserved=0, sold=0)
    world.put("CatalogueTable", sku="MUG", name="Mug", price=2400, currency="USD", available=9, reserved=0, sold=0)
    world.put("CatalogueTable", sku="GIFT", name="Gift", price=0, currency="EUR", available=9, reserved=0, sold=0)
    return world


def validate(**more: Any) -> dict[str, Any]:
    order = an_order()
    answer: dict[str, Any] = invoke(
        "validate_order",
        {
            "metadata": {"correlationId": order.correlation_id},
            "data": {"customerId": order.customer_id, "orderId": order.order_id},
            **more,
        },
    )
    return answer


def test_lines_are_priced_from_the_catalogue_and_put_together(catalogue: World) -> None:
    catalogue.store(an_order(lines=LINES))

    answer = validate()

    assert answer["lines"] == [
        {"sku": "TEA", "quantity": 5, "unitPrice": 890},
        {"sku": "CUP", "quantity": 1, "unitPrice": 1600},
    ]
    assert answer["total"] == 5 * 890 + 1600
    assert (answer["path"], answer["status"], answer["reserveFrom"]) == ("forward", "PLACED", "PLACED")


@pytest.mark.parametrize(
    ("skus", "message"),
    [
        (["TEA", "GONE", "LOST"], "not in the catalogue: GONE, LOST"),
        (["TEA", "MUG"], "not sold in EUR: MUG"),
        (["GIFT"], "the order has no price"),
    ],
)
def test_what_cant_be_carried_out_is_the_customers_to_know(catalogue: World, skus: list[str], message: str) -> None:
    catalogue.store(an_order(lines=[PricedLine(sku, 1) for sku in skus]))

    with pytest.raises(ValidationError, match=message):
        validate()


@pytest.mark.parametrize("damage", ["order", "product", "input"])
def test_damaged_data_is_not_taken_for_the_customers_mistake(catalogue: World, damage: str) -> None:
    # GIVEN something that isn't in the form that it must have
    order = catalogue.store(an_order(lines=LINES))
    more: dict[str, Any] = {}
    match damage:
        case "order":
            catalogue.put("OrdersTable", customerId=order.customer_id, orderId=order.order_id, status="PLACED")
        case "product":
            catalogue.put("CatalogueTable", sku="TEA", price="dear", currency="EUR")
        case "input":
            more = {"path": "sideways"}

    # THEN the error's name isn't the one that the workflow catches as a business "no"
    with pytest.raises(Unreadable):
        validate(**more)


def test_an_order_that_isnt_there_is_no_business_error(catalogue: World) -> None:
    with pytest.raises(LookupError):
        validate()


@pytest.mark.parametrize("path", ["forward", "resume"])
@pytest.mark.parametrize("given_up", [None, GIVEN_UP_REASON])
@pytest.mark.parametrize("status", list(Status))
def test_nothing_is_reserved_but_for_a_placed_order_on_its_way_forward(
    catalogue: World, status: Status, given_up: Reason | None, path: str
) -> None:
    catalogue.store(an_order(status=status, lines=[PricedLine("TEA", 2, 700)], total=1400, given_up=given_up))

    answer = validate(path=path)

    # An order that was given up is undone, whatever it was that started the workflow.
    assert answer["path"] == ("undo" if given_up else path)
    reserving = status is Status.PLACED and not given_up
    assert answer["reserveFrom"] == ("PLACED" if reserving else "-")
    # What was reserved keeps the price at which it was.
    assert answer["total"] == (1780 if reserving else 1400)


def test_an_order_is_given_up_though_its_products_are_gone(catalogue: World) -> None:
    catalogue.store(an_order(lines=[PricedLine("GONE", 2)], given_up=GIVEN_UP_REASON))

    answer = validate()

    assert answer["givenUp"] == {"code": "Discarded", "message": "the order could not be carried out"}
    assert answer["lines"] == [{"sku": "GONE", "quantity": 2, "unitPrice": 0}]
