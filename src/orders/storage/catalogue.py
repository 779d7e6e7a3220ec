"""The catalogue: products with their prices and stock."""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from orders.domain.pricing import Product
from orders.domain.stock import Shard, Stock, stock_key
from orders.storage.dynamodb import from_item, get_items

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient

BATCH_GET_QUOTA = 100


class ShardItem(msgspec.Struct, frozen=True):
    """The item of a shard other than shard 0. `epoch` is the product's when the shard was created."""

    sku: str
    available: int
    closed: bool = False
    moved: int = 0
    epoch: int = 0


def find_products(client: "DynamoDBClient", skus: set[str], *, consistent: bool = False) -> dict[str, Product]:
    """The products with these skus (at most 100, BatchGetItem's quota), by sku; unknown ones are left out."""
    table = os.environ["CATALOGUE_TABLE"]
    items = get_items(client, table, [{"sku": {"S": sku}} for sku in sorted(skus)], consistent=consistent)
    products = [msgspec.convert(from_item(item), Product) for item in items]
    return {product.sku: product for product in products}


def find_stock(
    client: "DynamoDBClient", products: Iterable[Product], *, consistent: bool = False
) -> dict[str, Stock]:
    """The stock of these products, by sku. Nothing is read for a product whose own item is its only shard.

    The shards are read after the products. Figures that decide that a product is sold out must be `consistent`, as
    must the products have been.
    """
    products = list(products)
    table = os.environ["CATALOGUE_TABLE"]
    keys = [stock_key(product.sku, number) for product in products for number in _other_shards(product)]
    found: dict[str, ShardItem] = {}
    for start in range(0, len(keys), BATCH_GET_QUOTA):
        batch = [{"sku": {"S": key}} for key in keys[start : start + BATCH_GET_QUOTA]]
        for item in get_items(client, table, batch, consistent=consistent):
            shard = msgspec.convert(from_item(item), ShardItem)
            found[shard.sku] = shard
    return {product.sku: _stock(product, found) for product in products}


def _other_shards(product: Product) -> list[int]:
    return [*range(1, product.shards), *product.closing]


def _stock(product: Product, found: dict[str, ShardItem]) -> Stock:
    """The stock of a product, of which its other shards are among those `found`."""
    shards, complete = [Shard(0, product.available, moved=product.moved)], True
    for number in _other_shards(product):
        item = found.get(stock_key(product.sku, number))
        # Removed, or removed and created again, after the product was read.
        if item is None or item.epoch > product.epoch:
            complete = False
        else:
            shards.append(Shard(number, item.available, item.closed, item.moved))
    return Stock(shards, complete)
