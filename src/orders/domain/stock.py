"""A product's stock, which can be kept in shards so that many orders of the product don't wait for each other."""

import random
from collections.abc import Callable, Sequence

from msgspec import Struct

from orders.domain.order import PricedLine, Taken

# A product and its 63 other shards fit into one transaction and into one BatchGetItem.
MAX_SHARDS = 64
# DynamoDB's TransactWriteItems quota is 100 items, and one is the order.
MAX_STOCK_ITEMS = 99
# Not `random.choice`, whose state a Lambda snapshot would copy: every copy would choose the same shards.
_PICK = random.SystemRandom().choice


class Shard(Struct, frozen=True):
    """A shard of a product's stock; orders can't take from a `closed` one, which is being merged away.

    `moved` is the number of pieces that moves between the shards brought, less those that they took away: over all
    shards of a product the sum is 0.
    """

    number: int
    available: int
    closed: bool = False
    moved: int = 0


class Stock(Struct, frozen=True):
    """The shards of a product as they were read, one after the other.

    `complete` is false if the reader has missed a shard, because the number of shards changed meanwhile.
    """

    shards: list[Shard]
    complete: bool = True


def stock_key(sku: str, shard: int) -> str:
    """The key of a shard in the catalogue; shard 0 is the product's own item. No sku contains a "#"."""
    return sku if shard == 0 else f"{sku}#{shard}"


def held_by(line: PricedLine) -> list[Taken]:
    """What a line of an open order holds of its product's stock.

    A line without a price holds nothing: price and stock are written in the same transaction.
    """
    if line.unit_price is None:
        return []
    return line.taken or [Taken(0, line.quantity)]


def choose(
    quantity: int,
    stock: Stock,
    pick: Callable[[Sequence[Shard]], Shard] = _PICK,
) -> list[Taken]:
    """The fewest open shards that cover a quantity (at least 1), and how much to take from each; [] if none do.

    `pick` chooses among equally good shards, so that the orders of a product spread over its shards.
    """
    left = [shard for shard in stock.shards if shard.available > 0 and not shard.closed]
    chosen: list[Taken] = []
    while quantity:
        if not left:
            return []
        most = max(shard.available for shard in left)
        shard = pick([shard for shard in left if shard.available >= min(quantity, most)])
        left.remove(shard)
        chosen.append(Taken(shard.number, min(quantity, shard.available)))
        quantity -= chosen[-1].quantity
    return chosen


def may_suffice(quantity: int, stock: Stock) -> bool:
    """Whether a product has this quantity, in any shard, as far as its `Stock` tells.

    Pieces that were moved while the shards were read are missing in the figures, or are counted twice. The sum of
    `moved` says how many.
    """
    pieces = sum(shard.available - shard.moved for shard in stock.shards)
    return pieces >= quantity or not stock.complete


def with_stock(line: PricedLine, taken: list[Taken]) -> PricedLine:
    """The line with what it takes; nothing is noted where the product's own item covers the line."""
    alone = [each.shard for each in taken] == [0]
    return PricedLine(line.sku, line.quantity, line.unit_price, None if alone else taken)
