"""How long and how much each field of an order may be: what just fits is taken, what doesn't is refused."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from orders.domain.clock import seconds_since, timestamp, timestamp_before
from orders.domain.errors import ValidationError
from orders.domain.order import Order, PricedLine, Reason, Status, TimelineEntry, order_id_for
from orders.domain.pricing import Product, price_lines
from orders.domain.request import OrderRequest
from orders.storage import dynamodb
from orders.storage.orders import open_shard_of
from tests.unit.test_order import A_REQUEST, placed


def with_value(pointer: str, value: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(msgspec.json.encode(A_REQUEST))
    place: Any = body
    *parents, name = pointer.split("/")
    for parent in parents:
        place = place[int(parent)] if isinstance(place, list) else place[parent]
    place[name] = value
    return body


def taken(pointer: str, value: Any) -> bool:
    try:
        msgspec.convert(with_value(pointer, value), OrderRequest)
    except msgspec.ValidationError:
        return False
    return True


@pytest.mark.parametrize(
    ("field", "shortest", "longest"),
    [
        ("shippingAddress/name", "x", "x" * 100),
        ("shippingAddress/line1", "x", "x" * 200),
        ("shippingAddress/city", "x", "x" * 100),
        ("shippingAddress/postalCode", "x", "x" * 20),
        ("lines/0/sku", "x", "x" * 64),
        ("paymentMethod", "tok_x", "tok_" + "x" * 60),
    ],
)
def test_a_text_may_be_so_long_and_no_longer(field: str, shortest: str, longest: str) -> None:
    assert taken(field, shortest)
    assert taken(field, longest)
    assert not taken(field, longest + "x")
    assert not taken(field, shortest[:-1])


@pytest.mark.parametrize(
    ("country", "fits"), [("DE", True), ("D", False), ("DEU", False), ("de", False), ("DE\n", False)]
)
def test_a_country_is_two_capital_letters(country: str, fits: bool) -> None:
    assert taken("shippingAddress/country", country) is fits


@pytest.mark.parametrize(("quantity", "fits"), [(0, False), (1, True), (999, True), (1000, False), (1.5, False)])
def test_a_quantity_is_a_whole_number_up_to_999(quantity: float, fits: bool) -> None:
    assert taken("lines/0/quantity", quantity) is fits


@pytest.mark.parametrize(("number", "fits"), [(0, False), (1, True), (99, True), (100, False)])
def test_an_order_has_at_most_99_products(number: int, fits: bool) -> None:
    assert taken("lines", [{"sku": f"P-{n}", "quantity": 1} for n in range(number)]) is fits


@pytest.mark.parametrize(("number", "fits"), [(100, True), (101, False)])
def test_an_order_has_at_most_100_lines(number: int, fits: bool) -> None:
    assert taken("lines", [{"sku": "P", "quantity": 1}] * number) is fits


@pytest.mark.parametrize("field", ["unknown", "shippingAddress/unknown", "lines/0/unknown", "lines/0/unitPrice"])
def test_what_nobody_asked_for_is_refused(field: str) -> None:
    assert not taken(field, 1)


@pytest.mark.parametrize("code", ["EUR", "USD", "GBP", "CHF", "JPY"])
def test_a_currency_is_one_that_there_is(code: str) -> None:
    assert taken("currency", code)
    assert not taken("currency", code.lower())


# ---- What is stored


def test_an_order_is_stored_in_these_words() -> None:
    order = placed(A_REQUEST)
    order.open_shard = open_shard_of(order.order_id)

    # What is in the table already is read by these names.
    assert msgspec.to_builtins(order) == {
        "customerId": "ada",
        "orderId": order.order_id,
        "status": "PLACED",
        "version": 1,
        "placedAt": order.placed_at,
        "updatedAt": order.placed_at,
        "currency": "EUR",
        "lines": [{"sku": "TEA", "quantity": 2}],
        "shippingAddress": {
            "name": "Ada",
            "line1": "Square 12",
            "city": "London",
            "postalCode": "SW1Y",
            "country": "GB",
        },
        "paymentMethod": "tok_visa",
        "correlationId": "c",
        "requestHash": "h",
        "openShard": f"{int(order.order_id[-1], 16):02d}",
        "timeline": [{"at": order.placed_at, "what": "PLACED"}],
        "schemaVersion": 1,
    }


def test_the_rest_of_an_order_is_stored_in_these_words() -> None:
    order = msgspec.structs.replace(
        placed(A_REQUEST),
        email="ada@example.com",
        total=5,
        reason=Reason("Code", "why"),
        payment_id="p",
        shipment_id="s",
        lines=[PricedLine("TEA", 2, 5)],
        timeline=[TimelineEntry("now", "What", "why")],
    )
    stored = msgspec.to_builtins(order)

    assert (stored["email"], stored["total"], stored["paymentId"], stored["shipmentId"]) == (
        "ada@example.com",
        5,
        "p",
        "s",
    )
    assert stored["reason"] == {"code": "Code", "message": "why"}
    assert stored["lines"] == [{"sku": "TEA", "quantity": 2, "unitPrice": 5}]
    assert stored["timeline"] == [{"at": "now", "what": "What", "detail": "why"}]
    assert msgspec.convert(stored, Order) == order


def test_the_same_key_is_the_same_order_tomorrow_too() -> None:
    # Another id would make a second order of a retry that comes after a release.
    assert order_id_for("ada", "key-1") == "5a36eae6-8a84-564a-ad14-dde538ca7813"


def test_statuses_are_called_so() -> None:
    names = "PLACED RESERVED PAID FAILING FULFILLED FAILED CANCELLED"
    assert [str(status) for status in Status] == names.split()


def test_a_time_ago_is_in_the_form_of_a_time() -> None:
    assert timestamp_before(-1) > timestamp() > timestamp_before(1)
    assert len(timestamp_before(1)) == len(timestamp()) == len("2026-01-31T12:00:00.000Z")
    assert 59 < seconds_since(timestamp_before(60)) < 61


def test_products_are_named_in_order_each_once() -> None:
    order = msgspec.structs.replace(placed(A_REQUEST), lines=[PricedLine(sku, 1) for sku in ("B", "A", "B")])
    with pytest.raises(ValidationError, match=r"^not in the catalogue: A, B$"):
        price_lines(order, {})
    dollars = {sku: Product(sku, 1, "USD") for sku in "AB"}
    with pytest.raises(ValidationError, match=r"^not sold in EUR: A, B$"):
        price_lines(order, dollars)


# ---- DynamoDB's values


def test_values_are_written_as_dynamodb_has_them() -> None:
    value = {"s": "x", "n": 3, "t": True, "l": ["x", 1], "m": {"a": None}, "status": Status.PAID}

    assert dynamodb.to_item(value) == {
        "s": {"S": "x"},
        "n": {"N": "3"},
        "t": {"BOOL": True},
        "l": {"L": [{"S": "x"}, {"N": "1"}]},
        "m": {"M": {"a": {"NULL": True}}},
        "status": {"S": "PAID"},
    }
    assert type(dynamodb.to_item(value)["status"]["S"]) is str


def test_what_no_item_holds_is_refused() -> None:
    with pytest.raises(TypeError, match="float"):
        dynamodb.to_attribute(1.5)
    with pytest.raises(ValueError, match="unexpected attribute type B"):
        dynamodb.from_attribute({"B": b""})
