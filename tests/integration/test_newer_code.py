"""After a rollback, older code meets what newer code has stored: nothing may become unreadable by that."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from orders.domain.errors import IllegalTransition
from orders.domain.order import Status, require_transition
from orders.domain.request import Address
from orders.storage.dynamodb import to_item
from orders.storage.orders import decode_order
from tests.integration.world import World, an_order, invoke, sample


def newer(**changes: Any) -> dict[str, Any]:
    """An order as code of the future might store it."""
    stored: dict[str, Any] = msgspec.to_builtins(an_order())
    stored["giftWrap"] = {"paper": "red"}
    stored["shippingAddress"]["doorCode"] = "1234"
    stored["lines"][0]["colour"] = "green"
    return {**stored, "schemaVersion": 2, **changes}


@pytest.mark.parametrize("changes", [{}, {"status": "PACKING"}], ids=["fields", "a status"])
def test_an_order_that_newer_code_stored_can_be_read(changes: dict[str, Any]) -> None:
    order = decode_order(to_item(newer(**changes)))

    assert order.status == changes.get("status", "PLACED")
    assert msgspec.to_builtins(order)["status"] == order.status


def test_a_request_with_an_unknown_field_in_its_address_is_still_refused() -> None:
    address = {"name": "A", "line1": "B", "city": "C", "postalCode": "1", "country": "DE", "doorCode": "1234"}

    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(address, Address)


def get(world: World, name: str) -> dict[str, Any]:
    answer: dict[str, Any] = invoke("query_orders", sample(name))
    return msgspec.json.decode(answer["body"])  # type: ignore[no-any-return]


def test_its_customer_sees_it_and_the_others_in_the_list(world: World) -> None:
    order = an_order()
    world.put("OrdersTable", **newer(status="PACKING"))
    world.store(an_order(order_id="11111111-8218-51d2-a18e-3e00fd0aa7a7"))

    assert get(world, "query_orders/get-order")["status"] == "PACKING"
    assert {each["orderId"] for each in get(world, "query_orders/list-orders")["orders"]} == {
        order.order_id,
        "11111111-8218-51d2-a18e-3e00fd0aa7a7",
    }


def test_a_damaged_order_does_not_hide_its_customers_other_orders(world: World) -> None:
    order = world.store(an_order())
    world.put("OrdersTable", customerId=order.customer_id, orderId="damaged", placedAt="2026-01-01T00:00:00.000Z")

    listed = get(world, "query_orders/list-orders")["orders"]

    assert [each["orderId"] for each in listed] == [order.order_id]


@pytest.mark.parametrize("current", [Status.PLACED, Status("PACKING")])
def test_nobody_moves_an_order_from_or_to_a_status_that_is_not_known(current: Status) -> None:
    with pytest.raises(IllegalTransition):
        require_transition(current, Status("PACKED"))
