"""Which shards of a product's stock an order takes from."""

from __future__ import annotations

import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from orders.domain.order import PricedLine, Taken
from orders.domain.stock import Shard, Stock, choose, held_by, may_suffice, with_stock

SHARDS = st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=6).map(
    lambda figures: [Shard(number, available, closed) for number, (available, closed) in enumerate(figures)]
)


@given(SHARDS, st.integers(1, 30), st.randoms(use_true_random=False))
def test_the_fewest_open_shards_that_cover_a_line_are_chosen(
    shards: list[Shard], quantity: int, chance: random.Random
) -> None:
    chosen = choose(quantity, Stock(shards), chance.choice)

    usable = {shard.number: shard.available for shard in shards if not shard.closed}
    sizes = range(1, len(usable) + 1)
    groups = (group for size in sizes for group in itertools.combinations(usable.values(), size))
    fewest = next((len(group) for group in groups if sum(group) >= quantity), 0)
    assert len(chosen) == len({taken.shard for taken in chosen}) == fewest
    assert all(0 < taken.quantity <= usable[taken.shard] for taken in chosen)
    assert sum(taken.quantity for taken in chosen) == (quantity if fewest else 0)


def test_orders_spread_over_equally_good_shards() -> None:
    stock = Stock([Shard(0, 5), Shard(1, 5), Shard(2, 1)])

    assert {choose(2, stock, random.Random(seed).choice)[0].shard for seed in range(40)} == {0, 1}
    assert {choose(1, stock)[0].shard for _ in range(200)} == {0, 1, 2}


@given(
    st.lists(st.integers(0, 20), min_size=2, max_size=4).flatmap(
        lambda pieces: st.tuples(
            st.just(pieces),
            st.lists(st.tuples(*[st.integers(0, len(pieces) - 1)] * 2, st.integers(1, 9)), max_size=5),
            st.lists(st.integers(0, 5), min_size=len(pieces), max_size=len(pieces)),
        )
    ),
    st.integers(1, 80),
)
def test_pieces_that_are_moved_while_the_shards_are_read_are_counted_once(
    case: tuple[list[int], list[tuple[int, int, int]], list[int]], quantity: int
) -> None:
    # GIVEN moves between shards, of which each shard is read after as many as `seen` says
    pieces, moves, seen = case
    shards = []
    for number, available in enumerate(pieces):
        moved = sum(size * ((to == number) - (source == number)) for source, to, size in moves[: seen[number]])
        shards.append(Shard(number, available + moved, moved=moved))

    assert may_suffice(quantity, Stock(shards)) is (sum(pieces) >= quantity)


def test_a_line_that_the_products_own_item_covers_notes_no_shard() -> None:
    line = PricedLine("TEA", 3, 890)

    assert with_stock(line, [Taken(0, 3)]) == line
    assert held_by(with_stock(line, [Taken(0, 3)])) == [Taken(0, 3)]
    assert held_by(with_stock(line, [Taken(4, 3)])) == [Taken(4, 3)]
    assert held_by(with_stock(line, [Taken(0, 1), Taken(4, 2)])) == [Taken(0, 1), Taken(4, 2)]
    assert held_by(PricedLine("TEA", 3)) == []
