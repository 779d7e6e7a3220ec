"""Reads and cancellation over REST: own orders only, and right also when the workflow is at work on the order."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from botocore.stub import Stubber
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from orders.domain.errors import Busy
from orders.domain.order import Order, PricedLine, Status, StoredAddress
from tests.integration.world import World, an_order, function, invoke, sample

ADA = "ada"
OTHER_ID = "0b8f6a52-7d43-4c1f-8e2a-9a6d5c4b3e21"


def get(order_id: str, customer: str = ADA) -> dict[str, Any]:
    return call("query_orders/get-order", f"/orders/{order_id}", customer)


def listing(customer: str = ADA, **query: str) -> dict[str, Any]:
    return call("query_orders/list-orders", "/orders", customer, query)


def cancel(order: Order) -> dict[str, Any]:
    return call("query_orders/cancel-too-late", f"/orders/{order.order_id}/cancel", order.customer_id)


def call(name: str, path: str, customer: str, query: dict[str, str] | None = None) -> dict[str, Any]:
    event = sample(name)
    event["path"], event["requestContext"]["path"] = path, f"/v1{path}"
    event["queryStringParameters"] = query or None
    event["multiValueQueryStringParameters"] = {key: [value] for key, value in (query or {}).items()} or None
    event["requestContext"]["authorizer"]["claims"]["sub"] = customer
    answer: dict[str, Any] = invoke("query_orders", event)
    answer["json"] = json.loads(answer["body"])
    return answer


def stored(world: World, **changes: Any) -> Order:
    return world.store(an_order(customer_id=ADA, **changes))


def reserved(world: World, **changes: Any) -> Order:
    """An order that holds two of five teas."""
    world.put("CatalogueTable", sku="TEA", price=890, currency="EUR", available=3, reserved=2, sold=0)
    changes = {
        "status": Status.RESERVED,
        "version": 2,
        "lines": [PricedLine("TEA", 2, 890)],
        "total": 1780,
        **changes,
    }
    return stored(world, **changes)


def stock(world: World) -> tuple[int, int]:
    (product,) = world.items("CatalogueTable")
    return product["available"], product["reserved"]


def test_a_customer_sees_their_order(world: World) -> None:
    order = stored(world)

    answer = get(order.order_id)

    assert answer["statusCode"] == 200
    assert answer["json"]["status"] == "PLACED"
    assert answer["json"]["timeline"][0]["what"] == "PLACED"


def test_an_order_from_before_the_rules_were_tightened_is_shown(world: World) -> None:
    # GIVEN an order that would be refused today
    address = StoredAddress(" ", "Square\n12", "London", "SW1Y", "ZZ")
    order = stored(world, shipping_address=address)

    # THEN its customer still sees it, on its own and in the list
    assert get(order.order_id)["json"]["shippingAddress"]["country"] == "ZZ"
    assert len(listing()["json"]["orders"]) == 1


def test_what_is_ours_is_not_shown(world: World) -> None:
    shown = get(stored(world).order_id)["json"]

    hidden = {"customerId", "requestHash", "openShard", "schemaVersion", "paymentMethod", "version", "email"}
    assert not hidden & shown.keys()


@pytest.mark.parametrize("order_id", [OTHER_ID, "x", "x" * 3000, "..", an_order().order_id.upper()])
def test_an_unknown_order_is_404(world: World, order_id: str) -> None:
    stored(world)
    assert get(order_id)["statusCode"] == 404


@pytest.mark.parametrize("order_id", ["x", "x" * 3000, f"{OTHER_ID}x", OTHER_ID.upper()])
def test_a_malformed_order_id_never_reaches_dynamodb(
    world: World, monkeypatch: pytest.MonkeyPatch, order_id: str
) -> None:
    # GIVEN a DynamoDB that refuses an id, as it does one of more than 1024 bytes
    def refuse(**_: Any) -> Any:
        raise AssertionError("asked for a malformed id")

    monkeypatch.setattr(function("query_orders")._orders._client, "get_item", refuse)

    # WHEN somebody asks for the order, or cancels it
    answers = [get(order_id), call("query_orders/cancel-too-late", f"/orders/{order_id}/cancel", ADA)]

    # THEN there is no such order, and no error of ours
    assert [answer["statusCode"] for answer in answers] == [404, 404]


@pytest.mark.parametrize("path", ["/", "/nowhere", "/orders/a/b", "/orders/a/cancel/b", f"/orders/{OTHER_ID}/"])
def test_an_unknown_path_is_a_problem_document(world: World, path: str) -> None:
    answer = call("query_orders/get-order", path, ADA)

    assert (answer["statusCode"], answer["json"]["status"]) == (404, 404)
    assert answer["multiValueHeaders"]["Content-Type"] == ["application/problem+json"]
    assert answer["json"]["detail"]


def test_somebody_elses_order_is_404(world: World) -> None:
    order = stored(world)

    assert get(order.order_id, customer="eve")["statusCode"] == 404
    assert cancel(an_order(customer_id="eve"))["statusCode"] == 404
    assert world.order(order).status is Status.PLACED


def test_an_order_that_was_placed_a_moment_ago_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN a read that lags behind, as DynamoDB's do unless they are asked not to
    order = stored(world)
    table = function("query_orders")._orders
    read = table.get
    monkeypatch.setattr(
        table, "get", lambda *key, consistent=False: read(*key, consistent=True) if consistent else None
    )

    assert get(order.order_id)["statusCode"] == 200


def test_orders_are_listed_newest_first_page_by_page(world: World) -> None:
    # GIVEN five orders of Ada's and one of somebody else's
    ids = [f"00000000-0000-4000-8000-00000000000{n}" for n in range(5)]
    for n, order_id in enumerate(ids):
        stored(world, order_id=order_id, placed_at=f"2026-01-0{n + 1}T00:00:00.000Z")
    world.store(an_order(customer_id="eve", order_id=OTHER_ID))

    # WHEN she turns the pages
    seen, query = [], {"limit": "2"}
    while True:
        page = listing(**query)["json"]
        seen.append([order["orderId"] for order in page["orders"]])
        if "nextCursor" not in page:
            break
        query["cursor"] = page["nextCursor"]

    # THEN she has seen all of hers, once
    assert seen == [[ids[4], ids[3]], [ids[2], ids[1]], [ids[0]]]


def test_a_cursor_of_somebody_elses_shows_own_orders_only(world: World) -> None:
    for n in range(3):
        stored(world, order_id=f"00000000-0000-4000-8000-00000000000{n}", placed_at=f"2026-01-0{n + 1}T00:00:00.000Z")
    cursor = listing(limit="1")["json"]["nextCursor"]

    assert listing("eve", cursor=cursor)["json"] == {"orders": []}


def encoded(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


@pytest.mark.parametrize(
    "query",
    [
        {"limit": ""},
        {"limit": " "},
        {"limit": "0"},
        {"limit": "101"},
        {"limit": "-1"},
        {"limit": "1.5"},
        {"limit": "ten"},
        {"limit": "²"},
        {"cursor": ""},
        {"cursor": "!"},
        {"cursor": "é"},
        {"cursor": encoded({})},
        {"cursor": encoded(["", ""])},
        {"cursor": encoded(["2026-01-01T00:00:00.000Z", "x" * 2000])},
        {"cursor": encoded(["2026-01-01T00:00:00.000Z", OTHER_ID, "more"])},
        {"cursor": base64.urlsafe_b64encode(b"\xff").decode()},
        {"cursor": base64.urlsafe_b64encode(b"[" * 5000).decode()},
    ],
    ids=str,
)
def test_a_bad_page_is_refused(world: World, query: dict[str, str]) -> None:
    answer = listing(**query)

    assert answer["statusCode"] == 400
    assert next(iter(query)) in answer["json"]["detail"]


def test_batch_reads_ask_again_for_what_was_not_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN a DynamoDB that reads one item a call
    orders = [stored(world, order_id=f"00000000-0000-4000-8000-00000000000{n}") for n in range(3)]
    client = function("query_orders")._orders._client
    read = client.batch_get_item

    def one_at_a_time(RequestItems: Any) -> Any:  # noqa: N803
        ((table, request),) = RequestItems.items()
        first, *rest = request["Keys"]
        answer = read(RequestItems={table: {"Keys": [first]}})
        return answer | ({"UnprocessedKeys": {table: {"Keys": rest}}} if rest else {})

    monkeypatch.setattr(client, "batch_get_item", one_at_a_time)
    monkeypatch.setattr("orders.storage.dynamodb.time.sleep", lambda _: None)

    assert len(listing()["json"]["orders"]) == len(orders)

    # AND if it never reads the rest, that is an error, not a shorter list
    monkeypatch.setattr(
        client, "batch_get_item", lambda **request: {"Responses": {}, "UnprocessedKeys": request["RequestItems"]}
    )
    with pytest.raises(Busy):
        listing()


# ---- Cancellation


def test_a_placed_order_is_cancelled(world: World) -> None:
    order = stored(world)

    answer = cancel(order)

    after = world.order(order)
    assert (answer["statusCode"], answer["json"]["status"]) == (202, "CANCELLED")
    assert (after.status, after.version, after.open_shard) == (Status.CANCELLED, 2, None)
    assert [entry.what for entry in after.timeline] == ["PLACED", "CANCELLED"]


def test_cancelling_a_reserved_order_puts_its_stock_back_on_sale(world: World) -> None:
    order = reserved(world)

    assert cancel(order)["statusCode"] == 202
    assert stock(world) == (5, 0)


def test_cancelling_twice_is_the_same_as_once(world: World) -> None:
    order = reserved(world)

    assert [cancel(order)["statusCode"], cancel(order)["statusCode"]] == [202, 202]
    assert stock(world) == (5, 0)
    assert world.order(order).version == 3


@pytest.mark.parametrize("status", [Status.PAID, Status.FULFILLED, Status.FAILED])
def test_it_can_be_too_late_to_cancel(world: World, status: Status) -> None:
    order = reserved(world, status=status)

    answer = cancel(order)

    assert answer["statusCode"] == 409
    assert status in answer["json"]["detail"]
    assert world.order(order) == order
    assert stock(world) == (3, 2)


def test_an_order_with_a_status_of_newer_code_is_not_cancelled(world: World) -> None:
    # GIVEN an order whose status this version doesn't know, as after a rollback
    order = stored(world, status=Status("ON_HOLD"))

    # WHEN its customer cancels it, THEN that is refused, and is no error of ours
    assert cancel(order)["statusCode"] == 409


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    """Has something happen once, between the cancellation's read and its write."""
    monkeypatch.setattr(function("query_orders").time, "sleep", lambda _: None)

    def arrange(happens: Callable[[], Any]) -> None:
        table = function("query_orders")._orders
        write = table.cancel

        def later(order: Order) -> None:
            monkeypatch.setattr(table, "cancel", write)
            happens()
            write(order)

        monkeypatch.setattr(table, "cancel", later)

    return arrange


def test_an_order_that_is_reserved_meanwhile_is_cancelled_all_the_same(
    world: World, meanwhile: Callable[[Callable[[], Any]], None]
) -> None:
    order = stored(world)
    meanwhile(lambda: reserved(world))

    assert cancel(order)["statusCode"] == 202
    assert world.order(order).status is Status.CANCELLED
    assert stock(world) == (5, 0)


def test_an_order_that_is_paid_meanwhile_is_not_cancelled(
    world: World, meanwhile: Callable[[Callable[[], Any]], None]
) -> None:
    order = reserved(world)
    meanwhile(lambda: world.orders.mark_paid(ADA, order.order_id, "pay_1"))

    assert cancel(order)["statusCode"] == 409
    assert world.order(order).status is Status.PAID
    assert stock(world) == (3, 2)


def test_a_timeline_entry_meanwhile_does_not_keep_an_order_from_being_cancelled(
    world: World, meanwhile: Callable[[Callable[[], Any]], None]
) -> None:
    order = reserved(world)
    meanwhile(lambda: world.orders.note(ADA, order.order_id, "PaymentAttemptFailed", "attempt 1"))

    assert cancel(order)["statusCode"] == 202
    assert [entry.what for entry in world.order(order).timeline] == ["PLACED", "PaymentAttemptFailed", "CANCELLED"]


def conflict(code: str) -> dict[str, Any]:
    return {"CancellationReasons": [{"Code": "None"}, {"Code": code}]}


def test_a_transaction_that_runs_into_another_is_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN a DynamoDB that is at work on the same product for somebody else
    order = reserved(world)
    client = function("query_orders")._orders._client
    monkeypatch.setattr(function("query_orders").time, "sleep", lambda _: None)
    write = client.transact_write_items
    calls = []

    def busy_at_first(**request: Any) -> Any:
        calls.append(request)
        if len(calls) > 2:
            return write(**request)
        with Stubber(client) as stubber:
            stubber.add_client_error(
                "transact_write_items",
                "TransactionCanceledException",
                modeled_fields=conflict("TransactionConflict"),
            )
            return write(**request)

    monkeypatch.setattr(client, "transact_write_items", busy_at_first)
    monkeypatch.setattr(function("query_orders")._orders, "get", world.orders.get)

    # WHEN the order is cancelled, THEN it goes through in the end
    assert cancel(order)["statusCode"] == 202
    assert stock(world) == (5, 0)


def test_an_order_that_never_holds_still_is_a_409(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    order = stored(world)

    def busy(_: Order) -> None:
        raise Busy

    monkeypatch.setattr(function("query_orders")._orders, "cancel", busy)
    monkeypatch.setattr(function("query_orders").time, "sleep", lambda _: None)

    assert cancel(order)["statusCode"] == 409


# ---- Anything at all


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.text(max_size=60).map("/orders/{}".format) | st.sampled_from(["/orders", "/orders/", "/", "/health"]),
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"]),
    query=st.none() | st.dictionaries(st.sampled_from(["limit", "cursor", "other"]), st.text(max_size=30)),
)
@example(path=f"/orders/{'x' * 3000}/cancel", method="POST", query=None)
def test_nothing_a_client_sends_yields_a_5xx(
    world: World, path: str, method: str, query: dict[str, str] | None
) -> None:
    event = sample("query_orders/list-orders")
    event["path"], event["httpMethod"], event["queryStringParameters"] = path, method, query
    event["multiValueQueryStringParameters"] = {key: [value] for key, value in query.items()} if query else None

    assert invoke("query_orders", event)["statusCode"] < 500


def test_the_open_endpoints_need_no_customer(world: World) -> None:
    for path in ("/health", "/openapi.json"):
        event = sample("query_orders/list-orders")
        event["path"] = path
        del event["requestContext"]["authorizer"]
        assert invoke("query_orders", event)["statusCode"] == 200


def test_the_description_names_the_stage_that_the_api_is_at(world: World) -> None:
    # GIVEN an API that is deployed at the stage v1
    answer = call("query_orders/list-orders", "/openapi.json", ADA)

    # THEN a client that is made from the description calls paths that are there
    assert answer["json"]["servers"] == [{"url": "/v1"}]


MARK = "PLANTED"
PLANTED = [
    (f"/{MARK}", {}),
    (f"/orders/{MARK}", {}),
    (f"/orders/{MARK}/cancel", {}),
    (f"/orders/{MARK}{'x' * 5000}", {}),
    (f"/orders/{OTHER_ID}/{MARK}", {}),
    ("/orders", {"limit": MARK}),
    ("/orders", {"cursor": MARK}),
    ("/orders", {"cursor": encoded([MARK, MARK])}),
    ("/orders", {"limit": "0", MARK: MARK}),
]


@pytest.mark.parametrize("planted", PLANTED)
def test_nothing_of_a_refused_request_is_logged_or_given_back(
    world: World,
    logs: Callable[[], list[dict[str, Any]]],
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    planted: tuple[str, dict[str, str]],
) -> None:
    # GIVEN the level at which functions log, for Powertools' own lines too
    caplog.set_level("INFO")

    # WHEN a request with a marked value in its path or its parameters is refused
    path, query = planted
    name = "query_orders/cancel-too-late" if path.endswith("/cancel") else "query_orders/get-order"
    answer = call(name, path, ADA, query)

    # THEN neither a log line nor the answer has it
    assert answer["statusCode"] in {400, 404}
    assert MARK not in json.dumps(logs()) + caplog.text + capsys.readouterr().out + answer["body"]


def test_log_lines_carry_request_and_order(world: World, logs: Callable[[], list[dict[str, Any]]]) -> None:
    order = stored(world)

    cancel(order)

    lines = [line for line in logs() if line["message"] == "order cancelled"]
    assert [(line["order_id"], line["correlation_id"]) for line in lines] == [
        (order.order_id, "c6af9ac6-7b61-11e6-9a41-93e8deadbeef")
    ]
