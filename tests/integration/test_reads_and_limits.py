"""What a write depends on is read consistently, and what grows has a limit."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from orders.api.paging import decode_cursor
from orders.api.problems import MAX_ERRORS_LOGGED, TITLES, Problem
from orders.api.validation import find_errors
from orders.domain.errors import Busy, OrderCancelled, OrderFailing
from orders.domain.order import GIVEN_UP_REASON, Order, Reason, Status, TimelineEntry, undoing_of
from orders.domain.request import OrderRequest
from orders.payments.simulated import SimulatedPaymentProvider
from tests.integration.world import World, an_order, function, invoke, sample

Reads = list[dict[str, Any]]


def reads_of(client: Any) -> Reads:
    """What a client asks GetItem from now on."""
    seen: Reads = []
    client.meta.events.register("provide-client-params.dynamodb.GetItem", lambda params, **_: seen.append(params))
    return seen


def cancel(world: World, order: Order) -> None:
    event = sample("query_orders/cancel-too-late")
    event["path"] = f"/orders/{order.order_id}/cancel"
    event["requestContext"]["authorizer"]["claims"]["sub"] = order.customer_id
    invoke("query_orders", event)


def validate(world: World, order: Order) -> None:
    given = {"customerId": order.customer_id, "orderId": order.order_id}
    world.put("CatalogueTable", sku=order.lines[0].sku, price=1, currency="EUR", available=9)
    world.put("CatalogueTable", sku=order.lines[1].sku, price=1, currency="EUR", available=9)
    invoke("validate_order", {"metadata": {"correlationId": "c"}, "data": given})


@pytest.mark.parametrize(
    ("name", "act"),
    [("query_orders", cancel), ("validate_order", validate)],
    ids=["a cancellation", "a workflow"],
)
def test_what_decides_over_an_order_is_read_consistently(
    world: World, name: str, act: Callable[[World, Order], None]
) -> None:
    order = world.store(an_order())
    reads = reads_of(function(name)._orders._client)

    act(world, order)

    assert reads
    assert all(read["ConsistentRead"] for read in reads)


def test_a_refund_and_a_note_look_at_the_ledgers_latest_state(world: World) -> None:
    order = world.store(an_order())
    reads = reads_of(world.dynamodb)

    SimulatedPaymentProvider(world.dynamodb, "PaymentsTable").refund(order.order_id)
    world.orders.note(order.customer_id, order.order_id, "PaymentRefunded", "all", once=True)

    assert len(reads) == 2
    assert all(read["ConsistentRead"] for read in reads)


def test_a_timeline_takes_a_hundred_entries_and_no_more(world: World) -> None:
    order = world.store(an_order(timeline=[TimelineEntry("t", "PLACED")] * 99))

    for _ in range(2):
        world.orders.note(order.customer_id, order.order_id, "PaymentAttemptFailed", "again")

    assert len(world.order(order).timeline) == 100


@pytest.mark.parametrize("code", ["TransactionConflict", "ProvisionedThroughputExceeded", "ThrottlingError"])
def test_a_transaction_that_may_succeed_the_next_time_is_told_so(
    world: World, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    order = world.store(an_order())
    refusal = world.dynamodb.exceptions.TransactionCanceledException(
        {"Error": {"Code": "TransactionCanceledException"}, "CancellationReasons": [{"Code": code}]},
        "TransactWriteItems",
    )

    def refuse(**_: Any) -> None:
        raise refusal

    monkeypatch.setattr(world.dynamodb, "transact_write_items", refuse)
    with pytest.raises(Busy):
        world.orders.cancel(order)


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        (Status.FAILING, OrderFailing, "the order was given up"),
        (Status.CANCELLED, OrderCancelled, "the order is CANCELLED"),
    ],
)
def test_who_charges_in_vain_learns_why(world: World, status: Status, error: type[Exception], said: str) -> None:
    order = world.store(an_order(status=status))

    with pytest.raises(error) as raised:
        world.orders.mark_paid(order.customer_id, order.order_id, "pay_1")

    assert str(raised.value) == said


def test_who_charges_for_an_order_that_is_gone_learns_why(world: World) -> None:
    with pytest.raises(OrderCancelled) as raised:
        world.orders.mark_paid("nobody", "nothing", "pay_1")

    assert str(raised.value) == "the order is gone"


def test_a_cursor_with_another_time_than_the_tables_is_refused() -> None:
    def cursor(*parts: str) -> str:
        return base64.urlsafe_b64encode(msgspec.json.encode(parts)).decode()

    order_id = an_order().order_id
    assert decode_cursor(cursor("2026-01-01T00:00:00.000Z", order_id)) == ("2026-01-01T00:00:00.000Z", order_id)
    for damaged in (cursor("yesterday", order_id), cursor("2026-01-01T00:00:00.000Z", "x")):
        with pytest.raises(Problem):
            decode_cursor(damaged)


def test_what_an_order_that_was_given_up_says() -> None:
    assert Reason("Discarded", "the order could not be carried out") == GIVEN_UP_REASON
    shipped = undoing_of(an_order(status=Status.FULFILLED))
    assert shipped == "the parcel had left already: the order is FULFILLED and stays charged"


def test_health_says_ok(world: World) -> None:
    event = {**sample("query_orders/get-order"), "path": "/health"}

    assert json.loads(invoke("query_orders", event)["body"]) == {"status": "ok"}


def test_every_title_is_the_words_of_its_status() -> None:
    assert TITLES == {
        400: "Bad request",
        404: "Not found",
        409: "Conflict",
        413: "Body too large",
        415: "Unsupported media type",
        422: "Unprocessable content",
    }


def test_a_quantity_beyond_its_range_is_logged_as_that() -> None:
    body = json.loads(sample("accept_order/accepted")["body"])
    body["lines"][0]["quantity"] = 1000
    body["lines"][0]["sku"] = "-"

    errors = list(find_errors(body, OrderRequest))

    assert [(error["pointer"], error["rule"]) for error in errors] == [
        ("/lines/0/sku", "pattern"),
        ("/lines/0/quantity", "range"),
    ]
    expected = "Expected a product code: up to 64 letters, digits, '.', '_' and '-', the first a letter or a digit"
    assert errors[0]["detail"] == expected


def test_of_many_errors_the_log_has_the_first() -> None:
    errors = [{"pointer": f"/{number}", "rule": "required", "detail": "required"} for number in range(50)]

    assert len(Problem(422, "no", errors).loggable_errors()) == MAX_ERRORS_LOGGED
