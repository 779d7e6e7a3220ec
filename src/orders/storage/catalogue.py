"""The catalogue: products with their prices and stock."""

import os
from typing import TYPE_CHECKING

import msgspec

from orders.domain.pricing import Product
from orders.storage.dynamodb import from_item, get_items

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient


def find_products(client: "DynamoDBClient", skus: set[str]) -> dict[str, Product]:
    """The products with these skus (at most 100, BatchGetItem's quota), by sku; unknown ones are left out."""
    table = os.environ["CATALOGUE_TABLE"]
    items = get_items(client, table, [{"sku": {"S": sku}} for sku in sorted(skus)])
    products = [msgspec.convert(from_item(item), Product) for item in items]
    return {product.sku: product for product in products}
