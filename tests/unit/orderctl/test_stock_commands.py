"""Stock commands: splitting, merging and restocking lose and invent nothing, whatever orders do meanwhile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orderctl.exits import Exit, Stop
from orderctl.stack.stock import Move, Step, StockTable, levelling
from orderctl.stack.target import Target
from orders.domain.errors import Busy
from orders.domain.order import Taken
from orders.domain.stock import choose, may_suffice, stock_key
from orders.storage.catalogue import find_products, find_stock
from orders.storage.dynamodb import to_item
from tests.integration.world import World
from tests.unit.orderctl.conftest import Run


class Shop:
    """A catalogue whose one product, TEA, has 20 pieces, and orders that reserve, release and sell them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.table = StockTable(world.dynamodb, "CatalogueTable")
        self.held: list[Taken] = []
        self.pieces = 20
        product = {"sku": "TEA", "name": "Tea", "price": 890, "currency": "EUR"}
        world.put("CatalogueTable", **product, available=20, reserved=0, sold=0)

    def write(self, taken: Taken, expression: str, condition: str) -> bool:
        try:
            self.world.dynamodb.update_item(
                TableName="CatalogueTable",
                Key=to_item({"sku": stock_key("TEA", taken.shard)}),
                UpdateExpression=expression,
                ConditionExpression=condition,
                ExpressionAttributeValues=to_item({":quantity": taken.quantity}),
            )
        except self.world.dynamodb.exceptions.ConditionalCheckFailedException:
            return False
        return True

    def reserve(self, quantity: int, *, meanwhile: Iterator[Step] | None = None) -> None:
        """Validate and reserve as the workflow does; the operator takes steps between the two reads."""
        products = find_products(self.world.dynamodb, {"TEA"}, consistent=True)
        for _ in range(quantity):
            step(meanwhile)
        stock = find_stock(self.world.dynamodb, products.values(), consistent=True)["TEA"]
        available = self.table.read("TEA").total.available
        assert may_suffice(quantity, stock) >= (available >= quantity), "out of stock is said too early"
        for taken in choose(quantity, stock):
            self.hold(taken)

    def hold(self, taken: Taken) -> None:
        """Reserve pieces, unless they are gone or their shard is closed."""
        if self.write(
            taken,
            "SET available = available - :quantity, reserved = reserved + :quantity",
            "available >= :quantity AND attribute_not_exists(closed)",
        ):
            self.held.append(taken)

    def end(self, *, sold: bool) -> None:
        """End the oldest reservation as sale and release do."""
        if self.held:
            more = "ADD sold :quantity" if sold else ", available = available + :quantity"
            written = self.write(
                self.held.pop(0), f"SET reserved = reserved - :quantity {more}", "reserved >= :quantity"
            )
            assert written, "a reservation was lost"

    def check(self) -> None:
        items = self.world.items("CatalogueTable")
        figures = [item[name] for item in items for name in ("available", "reserved", "sold")]
        assert min(figures) >= 0
        assert sum(figures) == self.pieces, "a piece was lost or invented"
        assert sum(item.get("moved", 0) for item in items) == 0
        assert sum(item["reserved"] for item in items) == sum(taken.quantity for taken in self.held)


def step(changes: Iterator[Step] | None) -> bool:
    """Take the next step of an operator's command; False if it has ended, in whatever way."""
    try:
        return changes is not None and next(changes, None) is not None
    except (Stop, Busy):
        return False


def run_all(changes: Iterator[Step]) -> None:
    """Take all steps."""
    for _ in changes:
        pass


@pytest.fixture
def shop(world: World, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setenv("CATALOGUE_TABLE", "CatalogueTable")
    return Shop(world)


SHARDS = st.integers(1, 5)
ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("split"), SHARDS),
        st.tuples(st.just("merge"), SHARDS),
        st.tuples(st.just("add"), st.integers(1, 9)),
        st.tuples(st.just("reserve"), st.integers(1, 8)),
        st.tuples(st.just("release"), st.just(0)),
        st.tuples(st.just("sell"), st.just(0)),
        st.tuples(st.just("step"), st.integers(0, 1)),
        st.tuples(st.just("step"), st.integers(0, 1)),
    ),
    max_size=24,
)


@given(ACTS)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_is_lost_or_invented_while_orders_run(shop: Shop, acts: list[tuple[str, int]]) -> None:
    # GIVEN two operators, each of whom may stop half-way, and orders between their steps
    for item in shop.world.items("CatalogueTable"):
        shop.world.dynamodb.delete_item(TableName="CatalogueTable", Key=to_item({"sku": item["sku"]}))
    shop.__init__(shop.world)  # type: ignore[misc]
    run_all(shop.table.split("TEA", 3))
    operators: list[Iterator[Step]] = [iter(()), iter(())]
    for act, number in acts:
        match act:
            case "split":
                operators = [operators[1], shop.table.split("TEA", number)]
            case "merge":
                operators = [operators[1], shop.table.merge("TEA", number)]
            case "add":
                shop.table.add("TEA", number)
                shop.pieces += number
            case "reserve":
                shop.reserve(number, meanwhile=operators[number % 2])
            case "step":
                step(operators[number])
            case end:
                shop.end(sold=end == "sell")
        shop.check()

    # WHEN the orders end and the shards are merged
    while shop.held:
        shop.end(sold=True)
    for _ in islice(shop.table.merge("TEA", 1), 100):
        shop.check()

    # THEN the product's own item has it all
    (item,) = shop.world.items("CatalogueTable")
    assert (item.get("shards", 1), item.get("closing", []), item.get("moved", 0)) == (1, [], 0)
    assert item["available"] + item["sold"] == shop.pieces


def test_closing_moves_emptying_and_removing_are_steps_of_their_own(shop: Shop) -> None:
    run_all(shop.table.split("TEA", 3))
    shop.hold(Taken(2, 6))
    steps = [each.says for each in islice(shop.table.merge("TEA", 1), 5)]

    assert steps == [
        "TEA has 2 shards",
        "TEA has 1 shards",
        "emptying shards 1, 2",
        "emptying shards 1, 2",
        "waiting for orders that hold pieces in shard 2",
    ]


def test_a_move_takes_only_what_is_there_and_fills_no_closed_shard(shop: Shop) -> None:
    # GIVEN a plan of moves that was made before orders and another operator came
    run_all(shop.table.split("TEA", 3))
    next(shop.table.merge("TEA", 2))
    before = shop.world.items("CatalogueTable")

    for move in (Move(0, 1, 8), Move(0, 2, 1), Move(0, 3, 1)):
        assert not shop.table._move("TEA", move)

    assert shop.world.items("CatalogueTable") == before


@pytest.mark.parametrize("change", ["split", "merge"])
def test_a_change_that_another_operator_has_overtaken_is_refused(shop: Shop, change: str) -> None:
    run_all(shop.table.split("TEA", 3))
    stale = shop.table.layout("TEA")
    next(shop.table.merge("TEA", 2))
    before = shop.world.items("CatalogueTable")

    with pytest.raises(Busy):
        shop.table._open(stale, 5) if change == "split" else shop.table._close(stale)

    assert shop.world.items("CatalogueTable") == before


@pytest.mark.parametrize("late", ["reserved", "available", "sold", "moved"])
def test_a_closed_shard_that_changes_at_the_last_moment_is_not_removed(shop: Shop, late: str) -> None:
    run_all(shop.table.split("TEA", 2))
    list(islice(shop.table.merge("TEA", 1), 2))
    stock = shop.table.read("TEA")
    shop.world.dynamodb.update_item(
        TableName="CatalogueTable",
        Key=to_item({"sku": "TEA#1"}),
        UpdateExpression=f"ADD {late} :one",
        ExpressionAttributeValues=to_item({":one": 1}),
    )
    before = shop.world.items("CatalogueTable")

    shop.table._remove(stock.layout, 1, stock.shards[1])

    assert shop.world.items("CatalogueTable") == before


@given(st.dictionaries(st.integers(0, 63), st.integers(0, 50), min_size=1, max_size=9))
def test_levelling_leaves_a_difference_of_one_piece(available: dict[int, int]) -> None:
    moves = levelling(available)

    left = dict(available)
    for move in moves:
        left[move.source] -= move.quantity
        left[move.target] += move.quantity
    assert all(move.quantity > 0 for move in moves)
    assert len(moves) < len(available)
    assert max(left.values()) - min(left.values()) <= 1
    assert sum(left.values()) == sum(available.values())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """No waiting; the pauses made."""
    pauses: list[float] = []
    monkeypatch.setattr("orderctl.commands.stock.time.sleep", pauses.append)
    return pauses


def shown(run: Run, *arguments: str) -> Any:
    code, out, said = run("stock", *arguments, "--json")
    assert code == 0, said
    return json.loads(out)


def test_stock_is_split_restocked_and_merged(shop: Shop, target: Target, run: Run) -> None:
    split = shown(run, "split", "TEA", "--shards", "3")
    assert [each["available"] for each in split["shards"]] == [7, 7, 6]

    added = shown(run, "add", "TEA", "11")
    assert [each["available"] for each in added["shards"]] == [11, 10, 10]

    merged = shown(run, "merge", "TEA", "--shards", "2")
    assert merged == {
        "sku": "TEA",
        "available": 31,
        "reserved": 0,
        "sold": 0,
        "shards": [
            {"shard": 0, "available": 16, "reserved": 0, "sold": 0},
            {"shard": 1, "available": 15, "reserved": 0, "sold": 0},
        ],
    }
    assert shown(run, "show") == shown(run, "show", "TEA") == [merged]


def test_a_merge_waits_for_reservations_and_a_second_run_goes_on(
    shop: Shop, target: Target, run: Run, quick: list[float]
) -> None:
    # GIVEN a piece that an order holds in the last shard
    shown(run, "split", "TEA", "--shards", "2")
    shop.hold(Taken(1, 2))

    code, out, said = run("stock", "merge", "TEA", "--shards", "1", "--timeout", "0")
    assert code == Exit.NOT_AS_EXPECTED
    assert "closing" in out
    assert "orderctl stock merge TEA --shards 1 --stack orders-test" in said
    assert shown(run, "show", "TEA")[0]["shards"][1] == {
        "shard": 1,
        "available": 0,
        "reserved": 2,
        "sold": 0,
        "closed": True,
    }
    assert run("stock", "split", "TEA", "--shards", "4")[0] == Exit.REFUSED

    shop.end(sold=True)
    merged = shown(run, "merge", "TEA", "--shards", "1")
    assert [(each["available"], each["sold"]) for each in merged["shards"]] == [(18, 2)]


@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [
        (["show", "GONE"], (Exit.REFUSED, "no product 'GONE'")),
        (["add", "GONE", "1"], (Exit.REFUSED, "no product 'GONE'")),
        (["add", "TEA", "-1"], (Exit.USAGE, "Error")),
        (["add", "TEA", "0"], (Exit.USAGE, "Error")),
        (["split", "TEA", "--shards", "65"], (Exit.USAGE, "Error")),
        (["split", "TEA", "--shards", "1"], (Exit.REFUSED, "split into 2 to 64")),
        (["split", "TEA#1", "--shards", "3"], (Exit.REFUSED, "no product 'TEA#1'")),
        (["merge", "TEA", "--shards", "3"], (Exit.REFUSED, "merged into 1 to 2")),
    ],
)
def test_what_cant_be_done_is_refused_and_changes_nothing(
    shop: Shop, target: Target, run: Run, arguments: list[str], refusal: tuple[Exit, str]
) -> None:
    shown(run, "split", "TEA", "--shards", "2")
    before = shop.world.items("CatalogueTable")

    code, _, said = run("stock", *arguments)

    assert code == refusal[0]
    assert refusal[1] in said
    assert shop.world.items("CatalogueTable") == before


def test_conflicts_with_orders_are_tried_again_and_then_named(
    shop: Shop, target: Target, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = target.client("dynamodb")
    write, left = client.transact_write_items, iter(range(2))
    monkeypatch.setattr("orderctl.stack.stock.time.sleep", lambda _: None)

    def conflict(**request: Any) -> Any:
        if next(left, None) is None:
            return write(**request)
        error = {
            "Error": {"Code": "TransactionCanceledException"},
            "CancellationReasons": [{"Code": "None"}, {"Code": "TransactionConflict"}],
        }
        raise client.exceptions.TransactionCanceledException(error, "TransactWriteItems")

    monkeypatch.setattr(client, "transact_write_items", conflict)
    assert shown(run, "split", "TEA", "--shards", "2")["shards"][1]["available"] == 10

    left = iter(range(99))
    code, _, said = run("stock", "add", "TEA", "1")
    assert code == Exit.NOT_AS_EXPECTED
    assert "orderctl stock add TEA 1" in said
    assert shown(run, "show", "TEA")[0]["available"] == 20


def test_a_table_names_products_and_shards(shop: Shop, target: Target, run: Run) -> None:
    shown(run, "split", "TEA", "--shards", "2")

    out = run("stock", "show")[1]
    assert [line.split() for line in out.splitlines()] == [
        ["Product", "Name", "Shards", "Available", "Reserved", "Sold"],
        ["TEA", "Tea", "2", "20", "0", "0"],
    ]
    assert len(run("stock", "show", "--shards")[1].splitlines()) == 4
