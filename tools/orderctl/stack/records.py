"""Orders, failures, stock and payments as an operator reads them: from the tables, of every customer.

An operator must be able to look at a damaged item, so no function in here fails because of one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
from botocore.exceptions import ClientError
from msgspec import Struct

from orderctl.exits import Exit, Stop
from orderctl.stack.stock import StockTable
from orderctl.stack.target import Target
from orders.domain.customer_view import OrderView
from orders.domain.order import Order
from orders.inbox.record import FailureRecord
from orders.inbox.store import FailuresTable
from orders.storage.dynamodb import from_attribute, from_item, get_items, to_item
from orders.storage.orders import OrdersTable, decode_order

TABLES = ("OrdersTable", "FailuresTable")
BATCH_GET_QUOTA = 100  # DynamoDB, BatchGetItem
PAGE = 100


@dataclass(frozen=True)
class DamagedOrder:
    """An item of the orders table that is no `Order`.

    `problem` says why. `fields` are the item's attributes under their stored names; an attribute that can't be read
    is kept in DynamoDB's own form.
    """

    customer_id: str
    order_id: str
    problem: str
    fields: dict[str, Any]

    @property
    def status(self) -> str:
        """The stored status; "" if there is none."""
        return str(self.fields.get("status", ""))

    @property
    def given_up(self) -> bool:
        """Whether the order has the mark by which release 1.0.0 gave orders up."""
        return "givenUp" in self.fields

    @property
    def placed_at(self) -> str:
        """The stored time of placing; "" if there is none."""
        return str(self.fields.get("placedAt", ""))


StoredOrder = Order | DamagedOrder
"""An item of the orders table."""


class Stock(Struct, frozen=True):
    """A product's stock in the catalogue table, in pieces."""

    available: int
    reserved: int
    sold: int = 0


class Payment(Struct, frozen=True):
    """An entry of the simulated payment provider's ledger; `amount` is in minor units.

    An entry without a status counts refused calls only: nothing was charged.
    """

    status: str = ""
    charges: int = 0
    amount: int | None = None


def as_json(order: StoredOrder | OrderView) -> dict[str, Any]:
    """Return an order's fields under their stored names; a damaged one's `unreadable` says why it is damaged."""
    if isinstance(order, DamagedOrder):
        return {**order.fields, "unreadable": order.problem}
    fields: dict[str, Any] = msgspec.to_builtins(order)
    return fields


def orders_table(target: Target) -> OrdersTable:
    """Return the stack's orders table."""
    return OrdersTable(target.client("dynamodb"), target.output("OrdersTable"), target.output("CatalogueTable"))


def failures_table(target: Target) -> FailuresTable:
    """Return the stack's failure inbox."""
    return FailuresTable(
        target.client("dynamodb"),
        target.client("s3"),
        target.output("FailuresTable"),
        target.output("FailedPayloadsBucket"),
    )


def stock_table(target: Target) -> StockTable:
    """Return the stack's stock."""
    return StockTable(target.client("dynamodb"), target.output("CatalogueTable"), target.command)


def find_order(target: Target, order_id: str) -> StoredOrder | None:
    """Return the order with this whole id, whoever the customer is; None if there is none."""
    table = orders_table(target)
    customer_id = table.customer_of(order_id)
    if customer_id is None:
        return None
    try:
        return table.get(customer_id, order_id, consistent=True)
    except ValueError:
        key = to_item({"customerId": customer_id, "orderId": order_id})
        found = target.client("dynamodb").get_item(
            TableName=target.output("OrdersTable"), Key=key, ConsistentRead=True
        )
        return _decode(found["Item"]) if "Item" in found else None


def _decode(item: dict[str, Any]) -> StoredOrder:
    try:
        return decode_order(item)
    except ValueError as error:
        fields = {name: _decode_attribute(attribute) for name, attribute in item.items()}
        return DamagedOrder(fields["customerId"], fields["orderId"], str(error), fields)


def _decode_attribute(attribute: dict[str, Any]) -> Any:
    try:
        return from_attribute(attribute)
    except ValueError:
        return attribute


def orders_of(target: Target, customer_id: str, limit: int) -> list[StoredOrder]:
    """Return a customer's newest `limit` orders, newest first."""
    table, found, place = orders_table(target), list[StoredOrder](), None
    while len(found) < limit:
        page = table.list_newest_first(customer_id, min(PAGE, limit - len(found)), place)
        damaged = (find_order(target, order_id) for order_id in page.unreadable)
        found += [*page.orders, *(order for order in damaged if order)]
        place = page.following
        if place is None:
            break
    return sorted(found, key=lambda order: order.placed_at, reverse=True)


def open_orders(target: Target, limit: int) -> tuple[list[StoredOrder], int]:
    """Return the `limit` oldest open orders, oldest first, and how many orders are open in all."""
    listed = sorted(orders_table(target).open_longest(), key=lambda order: order.placed_at)
    keys = [to_item({"customerId": each.customer_id, "orderId": each.order_id}) for each in listed[:limit]]
    items: list[dict[str, Any]] = []
    for start in range(0, len(keys), BATCH_GET_QUOTA):
        batch = keys[start : start + BATCH_GET_QUOTA]
        items += get_items(target.client("dynamodb"), target.output("OrdersTable"), batch)
    return sorted(map(_decode, items), key=lambda order: order.placed_at), len(listed)


def failures_of(target: Target, order_id: str) -> tuple[list[FailureRecord], list[str]]:
    """Return an order's failures, oldest first, and the ids of those that can't be read."""
    unreadable: list[str] = []
    return failures_table(target).of_order(order_id, unreadable=unreadable), unreadable


def payment_of(target: Target, order_id: str) -> Payment | None:
    """Return the ledger entry of an order, whose id is the idempotency key; None if there is none."""
    found = _get(target, "PaymentsTable", "idempotencyKey", order_id)
    return msgspec.convert(found, Payment) if found else None


def stock_of(target: Target, sku: str) -> Stock | None:
    """Return a product's stock, of all its shards; None if the catalogue has no such product."""
    if _get(target, "CatalogueTable", "sku", sku) is None:
        return None
    total = stock_table(target).read(sku).total
    return Stock(total.available, total.reserved, total.sold)


def _get(target: Target, output: str, key: str, value: str) -> dict[str, Any] | None:
    found = target.client("dynamodb").get_item(
        TableName=target.output(output), Key=to_item({key: value}), ConsistentRead=True
    )
    return from_item(found["Item"]) if "Item" in found else None


@contextmanager
def tables_named(target: Target) -> Iterator[None]:
    """Turn DynamoDB's ResourceNotFoundException, which names no table, into a Stop(NO_TARGET) that names it."""
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
