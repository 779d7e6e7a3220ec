"""A product's stock, which can be kept in shards so that many orders of the product don't wait for each other."""

from orders.domain.order import PricedLine, Taken


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
