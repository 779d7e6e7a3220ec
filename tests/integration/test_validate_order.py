"""ValidateOrder: prices, and the stock to take; a damaged item is no mistake of the customer's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from orders.domain.errors import Busy, OutOfStock, TooManyStockItems, Unreadable, ValidationError
from orders.domain.order import GIVEN_UP_REASON, PricedLine, Reason, Status, Taken
from orders.storage.dynamodb import from_attribute
from tests.integration.world import World, an_order, function, invoke

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
    assert from_attribute({"L": answer["storedLines"]}) == answer["lines"]
    assert answer["stock"] == [{"key": "TEA", "quantity": 5}, {"key": "CUP", "quantity": 1}]
    assert (answer["status"], answer["total"]) == ("PLACED", 5 * 890 + 1600)
    assert "reason" not in answer


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
            more = {"again": "perhaps"}

    # THEN the error's name isn't the one that the workflow catches as a business "no"
    with pytest.raises(Unreadable):
        validate(**more)


def test_an_order_that_isnt_there_is_no_business_error(catalogue: World) -> None:
    with pytest.raises(LookupError):
        validate()


@pytest.mark.parametrize("status", [Status.RESERVED, Status.PAID, Status.FAILING])
def test_an_open_order_keeps_its_price_and_the_stock_that_it_holds(catalogue: World, status: Status) -> None:
    held = [PricedLine("TEA", 3, 700, [Taken(0, 1), Taken(4, 2)]), PricedLine("GONE", 1, 100)]
    reason = Reason("Expired", "too late") if status is Status.FAILING else None
    catalogue.store(an_order(status=status, lines=held, total=2200, reason=reason))

    answer = validate(again=True)

    assert (answer["status"], answer["total"]) == (status, 2200)
    assert answer["lines"][0] == {
        "sku": "TEA",
        "quantity": 3,
        "unitPrice": 700,
        "taken": [{"shard": 0, "quantity": 1}, {"shard": 4, "quantity": 2}],
    }
    assert from_attribute({"L": answer["storedLines"]}) == answer["lines"]
    assert answer["stock"] == [
        {"key": "TEA", "quantity": 1},
        {"key": "TEA#4", "quantity": 2},
        {"key": "GONE", "quantity": 1},
    ]
    assert answer.get("reason") == ({"code": "Expired", "message": "too late"} if reason else None)


@pytest.mark.parametrize("status", [Status.FULFILLED, Status.FAILED, Status.CANCELLED])
@pytest.mark.parametrize("given_up", [None, GIVEN_UP_REASON])
def test_an_order_that_has_ended_holds_nothing(catalogue: World, status: Status, given_up: Reason | None) -> None:
    catalogue.store(an_order(status=status, lines=[PricedLine("TEA", 2, 700)], given_up=given_up))

    answer = validate()

    assert (answer["status"], answer["stock"]) == (status, [])


@pytest.mark.parametrize("status", [Status.PLACED, Status.RESERVED, Status.PAID])
def test_an_order_that_release_1_0_0_gave_up_becomes_failing(catalogue: World, status: Status) -> None:
    # GIVEN a mark of release 1.0.0 in an order whose product is gone
    price = None if status is Status.PLACED else 700
    order = catalogue.store(an_order(status=status, lines=[PricedLine("GONE", 2, price)], given_up=GIVEN_UP_REASON))

    answer = validate()

    assert answer["status"] == catalogue.order(order).status == Status.FAILING
    assert answer["reason"] == {"code": "Discarded", "message": "the order could not be carried out"}
    assert answer["stock"] == ([{"key": "GONE", "quantity": 2}] if price else [])


# ---- Shards


def shards(world: World, *available: int, closing: int = 0, **product: Any) -> None:
    """TEA in shards with so many pieces each, of which the last `closing` are being merged away."""
    last = len(available) - closing
    world.put(
        "CatalogueTable",
        sku="TEA",
        name="Tea",
        price=890,
        currency="EUR",
        reserved=0,
        sold=0,
        **{"available": available[0], "shards": last, "closing": [*range(last, len(available))], **product},
    )
    for number, pieces in enumerate(available[1:], start=1):
        closed = {"closed": True} if number >= last else {}
        world.put("CatalogueTable", sku=f"TEA#{number}", available=pieces, reserved=0, sold=0, **closed)


def reads(
    monkeypatch: pytest.MonkeyPatch, before: Callable[[list[str]], None] = lambda _: None
) -> list[tuple[bool, list[str]]]:
    """Record the reads of the catalogue, consistent or not; call `before` with the keys of each."""
    client = function("validate_order")._dynamodb
    read, seen = client.batch_get_item, list[tuple[bool, list[str]]]()

    def batch_get_item(*, RequestItems: dict[str, Any]) -> Any:  # noqa: N803
        (asked,) = RequestItems.values()
        seen.append((asked["ConsistentRead"], [key["sku"]["S"] for key in asked["Keys"]]))
        before(seen[-1][1])
        return read(RequestItems=RequestItems)

    monkeypatch.setattr(client, "batch_get_item", batch_get_item)
    return seen


def test_an_order_of_unsharded_products_costs_one_read_of_the_catalogue(
    catalogue: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue.store(an_order(lines=LINES))
    seen = reads(monkeypatch)

    validate()
    validate(again=True)

    assert seen == [(False, ["CUP", "TEA"]), (True, ["CUP", "TEA"])]


def test_a_line_takes_from_the_shards_that_cover_it(catalogue: World, monkeypatch: pytest.MonkeyPatch) -> None:
    shards(catalogue, 2, 6, 3)
    catalogue.store(an_order(lines=[PricedLine("TEA", 8), PricedLine("CUP", 1)]))
    seen = reads(monkeypatch)

    answer = validate()

    assert answer["stock"] == [
        {"key": "TEA#1", "quantity": 6},
        *[
            each
            for each in answer["stock"]
            if each in ({"key": "TEA", "quantity": 2}, {"key": "TEA#2", "quantity": 2})
        ],
        {"key": "CUP", "quantity": 1},
    ]
    assert sum(each["quantity"] for each in answer["lines"][0]["taken"]) == 8
    assert seen == [(False, ["CUP", "TEA"]), (False, ["TEA#1", "TEA#2"])]


def test_out_of_stock_is_said_of_consistent_figures_only(catalogue: World, monkeypatch: pytest.MonkeyPatch) -> None:
    shards(catalogue, 1, 1, 0)
    catalogue.store(an_order(lines=[PricedLine("TEA", 3), PricedLine("CUP", 10)]))
    seen = reads(monkeypatch)

    with pytest.raises(OutOfStock, match=r"^there are not enough of: CUP, TEA$"):
        validate()

    assert [consistent for consistent, _ in seen] == [False, False, True, True]


def test_stale_figures_refuse_nobody(catalogue: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN figures that are restocked after the first read
    shards(catalogue, 0, 0)
    catalogue.store(an_order(lines=[PricedLine("TEA", 3)]))

    def restock(_: list[str]) -> None:
        if len(seen) == 3:
            shards(catalogue, 0, 5)

    seen = reads(monkeypatch, restock)

    assert validate()["stock"] == [{"key": "TEA#1", "quantity": 3}]


def test_a_closed_shard_is_not_taken_from_but_its_pieces_are_not_sold_out(catalogue: World) -> None:
    shards(catalogue, 2, 1, 9, closing=1)

    catalogue.store(an_order(lines=[PricedLine("TEA", 3)]))
    assert {each["key"] for each in validate()["stock"]} == {"TEA", "TEA#1"}

    catalogue.store(an_order(lines=[PricedLine("TEA", 12)]))
    with pytest.raises(Busy, match="TEA"):
        validate()

    catalogue.store(an_order(lines=[PricedLine("TEA", 13)]))
    with pytest.raises(OutOfStock):
        validate()


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param({"available": 0, "moved": -9}, id="its pieces were moved away"),
        pytest.param({"available": 0, "epoch": 1}, id="it was merged away and created again"),
        pytest.param(None, id="it was merged away"),
    ],
)
def test_a_shard_that_changes_after_its_product_was_read_is_no_proof_of_out_of_stock(
    catalogue: World, seen: dict[str, Any] | None
) -> None:
    # GIVEN a product as it was read, and its shard after its 9 pieces went to the product's own item
    shards(catalogue, 0, 0)
    catalogue.dynamodb.delete_item(TableName="CatalogueTable", Key={"sku": {"S": "TEA#1"}})
    if seen:
        catalogue.put("CatalogueTable", sku="TEA#1", reserved=0, sold=0, **seen)
    catalogue.store(an_order(lines=[PricedLine("TEA", 9)]))

    with pytest.raises(Busy):
        validate()


def test_an_order_takes_from_at_most_99_items(catalogue: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN a product of which a line takes two shards, and 98 others
    skus = [f"P{number:02}" for number in range(98)]
    for sku in skus:
        catalogue.put("CatalogueTable", sku=sku, price=1, currency="EUR", available=9, reserved=0, sold=0)
    shards(catalogue, 2, 2)

    catalogue.store(an_order(lines=[PricedLine(sku, 1) for sku in skus[:97]] + [PricedLine("TEA", 3)]))
    assert len(validate()["stock"]) == 99

    catalogue.store(an_order(lines=[PricedLine(sku, 1) for sku in skus] + [PricedLine("TEA", 3)]))
    seen = reads(monkeypatch)
    with pytest.raises(TooManyStockItems, match="order less at a time"):
        validate()
    assert [consistent for consistent, _ in seen] == [False, False, True, True]
