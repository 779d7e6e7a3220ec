"""The domain: what may be ordered, what it costs, and which way an order may go."""

from __future__ import annotations

import itertools
import re
import uuid
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orders.domain.clock import TIMESTAMP, timestamp
from orders.domain.errors import (
    IllegalTransition,
    PaymentDeclined,
    PaymentError,
    PaymentProviderError,
    Unreadable,
    ValidationError,
)
from orders.domain.order import (
    CAN_FAIL,
    ORDER_ID,
    SCHEMA_VERSION,
    TERMINAL,
    TRANSITIONS,
    Order,
    PricedLine,
    Status,
    order_id_for,
    place,
    require_transition,
)
from orders.domain.pricing import Product, price_lines, total_of
from orders.domain.request import Address, Currency, Line, OrderRequest
from orders.storage.orders import open_shard_of, open_shards

SKUS = st.text("ABCabc019._-", max_size=10).map("A{}".format)
LINES = st.builds(Line, sku=SKUS, quantity=st.integers(1, 999))
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cf", "Zl", "Zp"]), max_size=19).map("A{}".format)
ADDRESSES = st.builds(
    Address,
    name=TEXT,
    line1=TEXT,
    city=TEXT,
    postal_code=TEXT,
    country=st.sampled_from(["AT", "DE", "GB"]),
    line2=st.none() | TEXT,
)
REQUESTS = st.builds(
    OrderRequest,
    currency=st.sampled_from(get_args(Currency)),
    lines=st.lists(LINES, min_size=1, max_size=8),
    shipping_address=ADDRESSES,
    payment_method=st.text("abcXYZ0_", min_size=1, max_size=60).map("tok_{}".format),
)
A_REQUEST = OrderRequest(
    currency="EUR",
    lines=[Line("TEA", 2)],
    shipping_address=Address("Ada", "Square 12", "London", "SW1Y", "GB"),
    payment_method="tok_visa",
)


def placed(request: OrderRequest, customer: str = "ada", key: str | None = "k") -> Order:
    return place(
        request,
        customer_id=customer,
        email=None,
        order_id=order_id_for(customer, key),
        correlation_id="c",
        request_hash="h",
    )


# ---- Status


def test_the_way_of_an_order() -> None:
    way = [Status.PLACED, Status.RESERVED, Status.PAID, Status.FULFILLED]
    for current, following in itertools.pairwise(way):
        require_transition(current, following)


@pytest.mark.parametrize("current", list(Status))
@pytest.mark.parametrize("following", list(Status))
def test_only_what_the_table_allows_is_allowed(current: Status, following: Status) -> None:
    if following in TRANSITIONS[current]:
        require_transition(current, following)
    else:
        with pytest.raises(IllegalTransition, match=f"{current} can't become {following}"):
            require_transition(current, following)


def test_an_ended_order_stays_as_it_is() -> None:
    assert {Status.FULFILLED, Status.FAILED, Status.CANCELLED} == TERMINAL


def test_an_order_can_be_given_up_until_it_has_ended_and_be_cancelled_until_it_is_paid() -> None:
    assert set(CAN_FAIL) == set(Status) - TERMINAL - {Status.FAILING}
    assert TRANSITIONS[Status.FAILING] == {Status.FAILED, Status.FULFILLED}
    assert {status for status in Status if Status.CANCELLED in TRANSITIONS[status]} == {
        Status.PLACED,
        Status.RESERVED,
    }


# ---- Identity


@given(
    customer=st.uuids().map(str),
    key=st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=255),
)
def test_the_same_key_is_the_same_order(customer: str, key: str) -> None:
    order_id = order_id_for(customer, key)

    assert order_id == order_id_for(customer, key)
    assert order_id != order_id_for(customer, key + "!")
    assert order_id != order_id_for(str(uuid.uuid4()), key)
    assert re.match(ORDER_ID, order_id)


def test_without_a_key_every_order_is_a_new_one() -> None:
    ids = {order_id_for("ada", None) for _ in range(100)}

    assert len(ids) == 100
    assert all(re.match(ORDER_ID, order_id) for order_id in ids)


def test_times_are_written_as_they_sort() -> None:
    times = [timestamp() for _ in range(50)]

    assert times == sorted(times)
    assert all(re.match(TIMESTAMP, time) for time in times)


# ---- Requests


@given(REQUESTS)
def test_a_request_is_read_as_it_was_written(request: OrderRequest) -> None:
    assert msgspec.json.decode(msgspec.json.encode(request), type=OrderRequest) == request


@given(REQUESTS)
def test_a_placed_order_says_what_was_asked_for(request: OrderRequest) -> None:
    order = placed(request)

    assert (order.status, order.version, order.total) == (Status.PLACED, 1, None)
    assert [(line.sku, line.quantity) for line in order.lines] == [
        (line.sku, line.quantity) for line in request.lines
    ]
    assert all(line.unit_price is None for line in order.lines)
    assert order.placed_at == order.updated_at == order.timeline[0].at


@given(REQUESTS)
def test_an_order_is_stored_with_its_schema_version(request: OrderRequest) -> None:
    assert msgspec.to_builtins(placed(request))["schemaVersion"] == SCHEMA_VERSION


# ---- Prices


def order_of(*lines: tuple[str, int], currency: str = "EUR") -> Order:
    order = placed(
        OrderRequest(
            currency="EUR",
            lines=[Line(sku, quantity) for sku, quantity in lines],
            shipping_address=Address("n", "l", "c", "p", "AT"),
            payment_method="tok_visa",
        )
    )
    return msgspec.structs.replace(order, currency=currency)


@given(
    quantities=st.lists(st.tuples(st.sampled_from(["A", "B", "C"]), st.integers(1, 999)), min_size=1, max_size=30),
    prices=st.fixed_dictionaries({sku: st.integers(0, 10**9) for sku in "ABC"}),
)
def test_lines_of_a_product_are_put_together_and_nothing_is_lost(
    quantities: list[tuple[str, int]], prices: dict[str, int]
) -> None:
    products = {sku: Product(sku, price, "EUR") for sku, price in prices.items()}

    lines = price_lines(order_of(*quantities), products)

    assert len({line.sku for line in lines}) == len(lines)
    assert {line.sku: line.quantity for line in lines} == {
        sku: sum(quantity for other, quantity in quantities if other == sku) for sku, _ in quantities
    }
    assert total_of(lines) == sum(quantity * prices[sku] for sku, quantity in quantities)


def test_every_product_that_isnt_sold_is_named() -> None:
    with pytest.raises(ValidationError, match="not in the catalogue: B, C"):
        price_lines(order_of(("C", 1), ("A", 1), ("B", 1), ("B", 1)), {"A": Product("A", 1, "EUR")})


def test_a_product_is_sold_in_its_own_currency_only() -> None:
    with pytest.raises(ValidationError, match="not sold in EUR: B"):
        price_lines(order_of(("A", 1), ("B", 1)), {"A": Product("A", 1, "EUR"), "B": Product("B", 1, "USD")})


def test_what_isnt_priced_costs_nothing() -> None:
    assert total_of([PricedLine("A", 3), PricedLine("B", 2, 5)]) == 10


# ---- Errors


def test_a_declined_payment_is_a_payment_error_and_an_outage_is_not() -> None:
    assert issubclass(PaymentDeclined, PaymentError)
    assert not issubclass(PaymentProviderError, PaymentError)


@pytest.mark.parametrize("error", [ValidationError, Unreadable])
def test_no_error_of_ours_is_taken_for_one_of_msgspecs(error: Any) -> None:
    assert not issubclass(error, msgspec.MsgspecError)
    assert not issubclass(msgspec.ValidationError, error)


@pytest.mark.parametrize("shards", [16, 64, 256])
def test_open_orders_spread_over_every_partition_of_their_index(monkeypatch: pytest.MonkeyPatch, shards: int) -> None:
    monkeypatch.setattr("orders.storage.orders.OPEN_SHARDS", shards)
    orders = (order_id_for("ada", str(number)) for number in range(shards * 20))

    assert {open_shard_of(order_id) for order_id in orders} == set(open_shards())
