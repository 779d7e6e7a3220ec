"""The catalogue: what is sold, at what price, and how many are left."""

import os
from typing import TYPE_CHECKING, Any

import msgspec

from orders.attributes import from_item
from orders.model import Product

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient


def find_products(client: "DynamoDBClient", skus: set[str]) -> dict[str, Product]:
    """The products with these codes (at most 100, BatchGetItem's quota), by sku; unknown ones are left out."""
    table = os.environ["CATALOGUE_TABLE"]
    products: dict[str, Product] = {}
    pending: list[dict[str, Any]] = [{"sku": {"S": sku}} for sku in sorted(skus)]
    while pending:  # BatchGetItem hands back, without an error, what it didn't get to
        answer = client.batch_get_item(RequestItems={table: {"Keys": pending}})
        for item in answer["Responses"].get(table, []):
            product = msgspec.convert(from_item(item), Product)
            products[product.sku] = product
        unprocessed = answer.get("UnprocessedKeys", {}).get(table)
        pending = list(unprocessed["Keys"]) if unprocessed else []
    return products
