"""Orders as their operator sees them: read from the tables, whoever the customer is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

from boto3.dynamodb.types import TypeDeserializer
from botocore.exceptions import ClientError

from orderctl.exits import Exit, Stop
from orderctl.stack import prefixes
from orderctl.stack.target import Target
from orders.domain.order import OPEN_SHARDS

TABLES = ("OrdersTable", "FailuresTable")
BATCH_GET_QUOTA = 100  # DynamoDB, BatchGetItem

_deserializer = TypeDeserializer()


def plain(item: dict[str, Any]) -> dict[str, Any]:
    """Return a DynamoDB item as plain JSON values, whole numbers as int."""
    return {key: _plain_value(_deserializer.deserialize(value)) for key, value in item.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, dict):
        return {key: _plain_value(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain_value(inner) for inner in value]
    return value


def find_order(target: Target, order_id: str) -> dict[str, Any] | None:
    """Return an order by its id alone, through the index by-order-id; None if there is none."""
    dynamodb = target.client("dynamodb")
    table = target.output("OrdersTable")
    keys = dynamodb.query(
        TableName=table,
        IndexName="by-order-id",
        KeyConditionExpression="orderId = :id",
        ExpressionAttributeValues={":id": {"S": order_id}},
    )["Items"]
    if not keys:
        return None
    key = {name: keys[0][name] for name in ("customerId", "orderId")}
    found = dynamodb.get_item(TableName=table, Key=key, ConsistentRead=True).get("Item")
    return plain(found) if found else None


def require_order(target: Target, order_id: str) -> dict[str, Any]:
    """Return an order by its whole id; Stop(REFUSED) if there is none."""
    found = find_order(target, order_id)
    if found is None:
        look = f"List orders with: {target.command('orders')}"
        if len(order_id) >= prefixes.ORDER_ID_LENGTH:
            raise Stop(Exit.REFUSED, f"There is no order {order_id!r}.", look)
        raise Stop(
            Exit.REFUSED,
            f"There is no order {order_id!r} among those that are open or have a failure.",
            f"An order that has ended needs its whole id. {look}",
        )
    return found


def orders_of(target: Target, customer_id: str, limit: int) -> list[dict[str, Any]]:
    """Return a customer's newest `limit` orders, newest first."""
    keys = _query(
        target,
        limit,
        IndexName="newest-first",
        KeyConditionExpression="customerId = :customer",
        ExpressionAttributeValues={":customer": {"S": customer_id}},
        ScanIndexForward=False,
    )
    return _newest_first(_get_many(target, keys))


def open_orders(target: Target, limit: int) -> list[dict[str, Any]]:
    """Return the `limit` oldest orders that have not ended, oldest first: those that may be stuck."""
    keys: list[dict[str, Any]] = []
    for shard in range(OPEN_SHARDS):
        keys += _query(
            target,
            limit,
            IndexName="open-orders",
            KeyConditionExpression="openShard = :shard",
            ExpressionAttributeValues={":shard": {"S": f"{shard:02d}"}},
        )
    keys.sort(key=lambda key: str(key["placedAt"]["S"]))
    return _newest_first(_get_many(target, keys[:limit]))[::-1]


def count_open(target: Target) -> int:
    """Return how many orders have not ended."""
    return sum(_count(target, "open-orders", "openShard = :key", f"{shard:02d}") for shard in range(OPEN_SHARDS))


def count_of(target: Target, customer_id: str) -> int:
    """Return how many orders a customer has."""
    return _count(target, "newest-first", "customerId = :key", customer_id)


def _count(target: Target, index: str, condition: str, key: str) -> int:
    pages = (
        target.client("dynamodb")
        .get_paginator("query")
        .paginate(
            TableName=target.output("OrdersTable"),
            IndexName=index,
            KeyConditionExpression=condition,
            ExpressionAttributeValues={":key": {"S": key}},
            Select="COUNT",
        )
    )
    return sum(int(page["Count"]) for page in pages)


def open_order_ids(target: Target) -> Iterator[str]:
    """Yield the ids of all orders that have not ended, by the index open-orders."""
    for shard in range(OPEN_SHARDS):
        pages = (
            target.client("dynamodb")
            .get_paginator("query")
            .paginate(
                TableName=target.output("OrdersTable"),
                IndexName="open-orders",
                KeyConditionExpression="openShard = :key",
                ExpressionAttributeValues={":key": {"S": f"{shard:02d}"}},
            )
        )
        for page in pages:
            yield from (str(item["orderId"]["S"]) for item in page["Items"])


@contextmanager
def tables_named(target: Target) -> Iterator[None]:
    """Turn DynamoDB's "resource not found", which names no table, into a Stop that does."""
    try:
        yield
    except ClientError as error:
        if error.response["Error"]["Code"] != "ResourceNotFoundException":
            raise
        missing = [f"{target.outputs[output]} ({output})" for output in TABLES if _is_missing(target, output)]
        if not missing:
            raise
        raise Stop(
            Exit.NO_TARGET,
            f"The {target.name} has no table {', '.join(missing)}: {error.operation_name} found none.",
            "Restore it under the same name from its backup: DynamoDB keeps one of a deleted table for 35 days."
            if target.local is None
            else f"Start the local cloud anew: {target.command('down')}; {target.command('up --fresh')}",
        ) from error


def _is_missing(target: Target, output: str) -> bool:
    dynamodb = target.client("dynamodb")
    try:
        dynamodb.describe_table(TableName=target.output(output))
    except dynamodb.exceptions.ResourceNotFoundException:
        return True
    return False


def payment_of(target: Target, order_id: str) -> dict[str, Any] | None:
    """Return the simulated payment provider's entry for an order, whose id is the idempotency key."""
    return _get(target, "PaymentsTable", "idempotencyKey", order_id)


def product(target: Target, sku: str) -> dict[str, Any] | None:
    """Return a product with its stock: available, reserved, sold."""
    return _get(target, "CatalogueTable", "sku", sku)


def failures_of(target: Target, order_id: str) -> list[dict[str, Any]]:
    """Return the failure inbox's records about an order."""
    pages = (
        target.client("dynamodb")
        .get_paginator("query")
        .paginate(
            TableName=target.output("FailuresTable"),
            IndexName="by-order",
            KeyConditionExpression="orderId = :id",
            ExpressionAttributeValues={":id": {"S": order_id}},
        )
    )
    ids = [item["failureId"]["S"] for page in pages for item in page["Items"]]
    found = [_get(target, "FailuresTable", "failureId", each) for each in ids]
    return [record for record in found if record]


def _get(target: Target, output: str, key: str, value: str) -> dict[str, Any] | None:
    found = target.client("dynamodb").get_item(
        TableName=target.output(output), Key={key: {"S": value}}, ConsistentRead=True
    )
    return plain(found["Item"]) if "Item" in found else None


def _query(target: Target, limit: int, **query: Any) -> list[dict[str, Any]]:
    pages = (
        target.client("dynamodb")
        .get_paginator("query")
        .paginate(
            TableName=target.output("OrdersTable"),
            PaginationConfig={"MaxItems": limit, "PageSize": min(limit, 1000)},
            **query,
        )
    )
    return [item for page in pages for item in page["Items"]]


def _get_many(target: Target, keys: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    dynamodb = target.client("dynamodb")
    table = target.output("OrdersTable")
    wanted = [{name: key[name] for name in ("customerId", "orderId")} for key in keys]
    found: list[dict[str, Any]] = []
    while wanted:
        batch, wanted = wanted[:BATCH_GET_QUOTA], wanted[BATCH_GET_QUOTA:]
        answer = dynamodb.batch_get_item(RequestItems={table: {"Keys": batch}})
        found += [plain(item) for item in answer["Responses"].get(table, [])]
        wanted += answer.get("UnprocessedKeys", {}).get(table, {}).get("Keys", [])
    return found


def _newest_first(orders: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(orders, key=lambda order: str(order["placedAt"]), reverse=True)
