"""Orders over REST, through the deployed stack, to the end that each story must have."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from orderctl.demo import samples, stories
from orderctl.demo.stories import Journey
from orderctl.stack import records
from orderctl.stack.records import Payment
from orderctl.stack.rest import OrdersApi
from orderctl.stack.target import Target
from orders.domain.customer_view import OrderView
from tests.support import eventually


def changed(sample: str, **fields: Any) -> str:
    return json.dumps({**samples.sample(sample), **fields})


def statuses(order: OrderView) -> list[str]:
    return [entry.what for entry in order.timeline]


def end_of(journey: Journey) -> OrderView:
    """The order at its end."""
    assert journey.order is not None
    return journey.order


@pytest.mark.parametrize("story", stories.STORIES, ids=lambda story: story.sample)
def test_each_story_ends_where_it_should(journeys: dict[str, Journey], story: stories.Story) -> None:
    # GIVEN the story's order, submitted over REST and followed to its end
    journey = journeys[story.sample]

    # THEN status, reason, payment, stock and inbox are what the story says
    assert (journey.status, journey.problems) == (story.status, [])


def test_a_fulfilled_order_shows_every_step_in_order(journeys: dict[str, Journey]) -> None:
    assert statuses(end_of(journeys["fulfilled"])) == ["PLACED", "RESERVED", "PAID", "FULFILLED"]


def test_a_failed_order_tells_its_customer_why(journeys: dict[str, Journey]) -> None:
    reason = end_of(journeys["declined"]).reason
    assert reason is not None
    assert reason.code == "PaymentDeclined"
    assert reason.message


def test_the_total_comes_from_the_catalogue(journeys: dict[str, Journey]) -> None:
    # GIVEN the prices of the seeded catalogue
    prices = {product["sku"]: product["price"] for product in samples.catalogue()}

    # THEN the order costs what its lines cost
    journey = journeys["fulfilled"]
    expected = sum(prices[line["sku"]] * line["quantity"] for line in journey.request["lines"])
    assert end_of(journey).total == expected


def test_the_same_key_with_another_order_is_refused(cloud: Target, api: OrdersApi) -> None:
    # GIVEN an accepted order
    key = str(uuid.uuid4())
    first = api.submit(changed("fulfilled"), key)
    assert first.status_code == 202

    # WHEN another order comes with the same key
    second = api.submit(changed("fulfilled", paymentMethod="tok_declined"), key)

    # THEN it is refused, and the customer still has one order
    assert second.status_code == 422
    assert [order.order_id for order in api.orders(10)] == [first.json()["orderId"]]


def test_a_customer_sees_only_their_own_orders(
    cloud: Target, api: OrdersApi, new_customer: Callable[[], Any], journeys: dict[str, Journey]
) -> None:
    # GIVEN somebody else's order
    theirs = journeys["fulfilled"].order_id

    # THEN it does not exist for this customer, neither to read nor to cancel
    assert api.request("GET", f"/orders/{theirs}").status_code == 404
    assert api.cancel(theirs).status_code == 404
    assert api.orders(10) == []


def test_an_order_can_be_cancelled_until_it_is_paid(cloud: Target, api: OrdersApi) -> None:
    # GIVEN an order whose payment does not come through for a while
    request = {**samples.sample("fulfilled"), "paymentMethod": "tok_provider_down_4"}
    request["lines"] = [{"sku": "MUG-TRAVEL-USD", "quantity": 1}]
    request["currency"] = "USD"
    before = records.stock_of(cloud, "MUG-TRAVEL-USD")
    order_id = api.submit(json.dumps(request), str(uuid.uuid4())).json()["orderId"]
    eventually(lambda: "PaymentAttemptFailed" in statuses(api.order(order_id)))

    # WHEN the customer cancels it, twice
    answers = [api.cancel(order_id).status_code for _ in range(2)]

    # THEN it is cancelled, what was reserved is available again, and no money is kept
    assert answers == [202, 202]
    assert api.order(order_id).status == "CANCELLED"
    eventually(lambda: records.stock_of(cloud, "MUG-TRAVEL-USD") == before)
    eventually(lambda: records.payment_of(cloud, order_id) == Payment("VOIDED"))


def test_a_fulfilled_order_can_no_longer_be_cancelled(cloud: Target, api: OrdersApi) -> None:
    # GIVEN an order that has been fulfilled
    order_id = api.submit(changed("fulfilled"), str(uuid.uuid4())).json()["orderId"]
    eventually(lambda: api.order(order_id).status == "FULFILLED")

    # WHEN its customer cancels it
    answer = api.cancel(order_id)

    # THEN it is too late
    assert answer.status_code == 409
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert api.order(order_id).status == "FULFILLED"


def test_orders_are_listed_newest_first_page_by_page(cloud: Target, api: OrdersApi) -> None:
    # GIVEN three orders, one after the other
    placed = [api.submit(changed("out-of-stock"), str(uuid.uuid4())).json()["orderId"] for _ in range(3)]

    # WHEN they are listed two at a time
    first = api.request("GET", "/orders", params={"limit": 2}).json()
    second = api.request("GET", "/orders", params={"limit": 2, "cursor": first["nextCursor"]}).json()

    # THEN the pages together hold all of them, newest first, and the last page says that it is the last
    listed = [order["orderId"] for page in (first, second) for order in page["orders"]]
    assert listed == placed[::-1]
    assert "nextCursor" not in second


def test_an_operator_finds_any_order_by_its_id(cloud: Target, journeys: dict[str, Journey]) -> None:
    found = records.find_order(cloud, journeys["fulfilled"].order_id)
    assert found is not None
    assert found.status == "FULFILLED"
    assert records.find_order(cloud, str(uuid.uuid4())) is None


def test_orders_under_way_are_listed_as_open_until_they_end(cloud: Target, api: OrdersApi) -> None:
    # GIVEN an order that takes a while
    order_id = api.submit(
        changed(
            "out-of-stock", paymentMethod="tok_provider_down_2", lines=[{"sku": "TEA-SENCHA-100", "quantity": 1}]
        ),
        str(uuid.uuid4()),
    ).json()["orderId"]

    # THEN it is listed as open, and no longer when it has ended
    assert order_id in {order.order_id for order in records.open_orders(cloud, 1000)[0]}
    eventually(lambda: api.order(order_id).status == "FULFILLED")
    assert order_id not in {order.order_id for order in records.open_orders(cloud, 1000)[0]}
