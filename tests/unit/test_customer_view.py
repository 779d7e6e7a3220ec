from __future__ import annotations

import msgspec

from orders.domain.customer_view import OrderView, view_of
from orders.domain.order import Order, place
from tests.unit.test_order import A_REQUEST

PUBLIC = {
    "correlationId",
    "currency",
    "lines",
    "orderId",
    "paymentId",
    "placedAt",
    "reason",
    "shipmentId",
    "shippingAddress",
    "status",
    "timeline",
    "total",
    "updatedAt",
}


def an_order(kind: type[Order] = Order) -> Order:
    placed = place(
        A_REQUEST, customer_id="ada", email="a@example.com", order_id="1" * 36, correlation_id="c", request_hash="h"
    )
    return kind(**msgspec.structs.asdict(placed))


def test_a_customer_sees_what_the_view_names_and_nothing_else() -> None:
    assert {field.encode_name for field in msgspec.structs.fields(OrderView)} == PUBLIC
    assert msgspec.to_builtins(view_of(an_order())).keys() <= PUBLIC


def test_a_new_field_of_an_order_is_private() -> None:
    class NewerOrder(Order, kw_only=True, rename="camel"):
        internal_note: str = "margin 40 %"

    assert "internalNote" not in msgspec.to_builtins(view_of(an_order(NewerOrder)))
