"""Prices: the catalogue's, never the customer's. Amounts are integers in minor units of the currency (cents)."""

from msgspec import Struct

from orders.domain.errors import ValidationError
from orders.domain.order import Order, PricedLine


class Product(Struct, frozen=True, rename="camel"):
    """A product of the catalogue: `price` in minor units of `currency`.

    Its item is shard 0 of its stock, too: `available` and `moved` are those of `Shard`. `shards` is the number of
    open shards, `closing` lists those that are being merged away, and `epoch` counts those that were removed.
    """

    sku: str
    price: int
    currency: str
    available: int = 0
    moved: int = 0
    shards: int = 1
    closing: list[int] = []
    epoch: int = 0


def price_lines(order: Order, products: dict[str, Product]) -> list[PricedLine]:
    """The order's lines with prices; lines of the same product become one line.

    `products` holds the catalogue's products by sku. Raises `ValidationError`, naming every product that isn't in
    the catalogue or isn't sold in the order's currency.
    """
    unknown = sorted({line.sku for line in order.lines if line.sku not in products})
    if unknown:
        raise ValidationError(f"not in the catalogue: {', '.join(unknown)}")
    foreign = sorted({line.sku for line in order.lines if products[line.sku].currency != order.currency})
    if foreign:
        raise ValidationError(f"not sold in {order.currency}: {', '.join(foreign)}")
    quantities: dict[str, int] = {}
    for line in order.lines:
        quantities[line.sku] = quantities.get(line.sku, 0) + line.quantity
    return [PricedLine(sku, quantity, products[sku].price) for sku, quantity in quantities.items()]


def total_of(lines: list[PricedLine]) -> int:
    """The sum of priced lines, in minor units."""
    return sum(line.quantity * (line.unit_price or 0) for line in lines)
