"""DynamoDB's items to plain Python and back, and BatchGetItem with retries of unprocessed keys.

boto3's own serializer turns every number into a Decimal and costs import time on the acceptance path.
"""

import random
import time
from typing import TYPE_CHECKING, Any

from orders.domain.errors import Busy

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient

ATTEMPTS = 8


def to_attribute(value: Any) -> dict[str, Any]:
    """One attribute value, such as `{"N": "3"}`. Raises `TypeError` for a type that no item of this project holds."""
    match value:
        case str():
            return {"S": str(value)}
        case bool():
            return {"BOOL": value}
        case int():
            return {"N": str(value)}
        case list():
            return {"L": [to_attribute(element) for element in value]}
        case dict():
            return {"M": to_item(value)}
        case None:
            return {"NULL": True}
    raise TypeError(f"no attribute value for {type(value).__name__}")


def to_item(fields: dict[str, Any]) -> dict[str, Any]:
    """The item that holds these fields."""
    return {name: to_attribute(value) for name, value in fields.items()}


def from_attribute(attribute: dict[str, Any]) -> Any:
    """The plain value of one attribute. Raises `ValueError` for a type that no item of this project holds."""
    ((kind, value),) = attribute.items()
    match kind:
        case "S" | "BOOL":
            return value
        case "N":
            return int(value)
        case "L":
            return [from_attribute(element) for element in value]
        case "M":
            return from_item(value)
        case "NULL":
            return None
    raise ValueError(f"unexpected attribute type {kind}")


def from_item(item: dict[str, Any]) -> dict[str, Any]:
    """The plain fields of an item."""
    return {name: from_attribute(attribute) for name, attribute in item.items()}


def get_items(
    client: "DynamoDBClient", table: str, keys: list[dict[str, Any]], *, consistent: bool = False
) -> list[dict[str, Any]]:
    """The items with these keys (at most 100, BatchGetItem's quota), in no order; missing items are left out.

    `consistent` reads each item as it is now. Raises `Busy` if DynamoDB keeps returning unprocessed keys.
    """
    items: list[dict[str, Any]] = []
    for attempt in range(ATTEMPTS):
        if not keys:
            return items
        if attempt:
            time.sleep(random.uniform(0, 0.025 * 2**attempt))
        answer = client.batch_get_item(RequestItems={table: {"Keys": keys, "ConsistentRead": consistent}})
        items += answer["Responses"].get(table, [])
        unprocessed = answer.get("UnprocessedKeys", {}).get(table)
        keys = list(unprocessed["Keys"]) if unprocessed else []
    if keys:
        raise Busy(f"{len(keys)} items of {table} could not be read")
    return items
