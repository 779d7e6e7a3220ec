"""BatchGetItem, whole: by itself it hands back, without an error, what it didn't get to."""

import random
import time
from typing import TYPE_CHECKING, Any

from orders.model import Busy

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient

ATTEMPTS = 8


def get_items(client: "DynamoDBClient", table: str, keys: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items with these keys (at most 100, the call's quota), in no order; those that don't exist are left out.

    Raises `Busy` if DynamoDB keeps handing keys back.
    """
    items: list[dict[str, Any]] = []
    for attempt in range(ATTEMPTS):
        if not keys:
            return items
        if attempt:
            time.sleep(random.uniform(0, 0.025 * 2**attempt))
        answer = client.batch_get_item(RequestItems={table: {"Keys": keys}})
        items += answer["Responses"].get(table, [])
        unprocessed = answer.get("UnprocessedKeys", {}).get(table)
        keys = list(unprocessed["Keys"]) if unprocessed else []
    if keys:
        raise Busy(f"{len(keys)} items of {table} could not be read")
    return items
