"""Remove what a smoke made, by the name of its run. A removal that was interrupted can be repeated.

The customer goes last: as long as the customer is there, everything else can be found.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from orderctl.smoke.orders import products
from orderctl.stack import records
from orderctl.stack.target import Target
from orderctl.stack.throwaway import address
from orders.domain.order import TERMINAL, Reason, Status
from orders.inbox.record import FailureStatus
from orders.storage.dynamodb import from_item, to_item

END_S = 90.0
POLL_S = 0.5
ENDED = Reason("SmokeEnded", "the smoke test that placed this order has ended")


@dataclass
class Removed:
    """How many items of each kind were removed, and what had to stay, each in a sentence."""

    counts: dict[str, int] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)

    def count(self, kind: str, number: int = 1) -> None:
        """Note that so many of a kind were removed."""
        if number:
            self.counts[kind] = self.counts.get(kind, 0) + number


def remove(target: Target, run: str, end_s: float = END_S) -> Removed:
    """Remove what a run made; orders that are open are given up first, and get `end_s` seconds to be undone.

    An order that somebody still works on then stays, with the customer, its payment and the products.
    """
    removed = Removed()
    customer_id = _customer_of(target, run)
    if customer_id is None:
        _remove_products(target, run, removed)
        return removed
    deadline = time.monotonic() + end_s
    _give_up(target, customer_id)
    while busy := _busy(target, customer_id):
        if time.monotonic() > deadline:
            break
        time.sleep(POLL_S)
    for order in _orders(target, customer_id):
        if order["orderId"] not in busy:
            _remove_order(target, customer_id, order["orderId"], removed)
    removed.left += [f"order {order_id} {why}, and stays with its customer" for order_id, why in busy.items()]
    if not removed.left:
        _remove_products(target, run, removed)
        target.client("cognito-idp").admin_delete_user(UserPoolId=target.output("UserPoolId"), Username=address(run))
        removed.count("customers")
    return removed


def _busy(target: Target, customer_id: str) -> dict[str, str]:
    """Return the orders that somebody still works on, and why, by order id."""
    busy = {}
    for order in _orders(target, customer_id):
        order_id, status = order["orderId"], order["status"]
        if status not in TERMINAL:
            busy[order_id] = f"is still {status}"
        elif status == Status.FULFILLED and not _has_receipt(target, customer_id, order_id):
            failures, _ = records.failures_of(target, order_id)
            # A failure that is NEW waits for somebody; any other may still write the receipt.
            if not any(each.status is FailureStatus.NEW for each in failures):
                busy[order_id] = "has no receipt yet"
    return busy


def _receipt(customer_id: str, order_id: str) -> str:
    return f"receipts/{customer_id}/{order_id}.json"


def _has_receipt(target: Target, customer_id: str, order_id: str) -> bool:
    found = target.client("s3").list_objects_v2(
        Bucket=target.output("ReceiptsBucket"), Prefix=_receipt(customer_id, order_id)
    )
    return bool(found.get("KeyCount"))


def _customer_of(target: Target, run: str) -> str | None:
    cognito = target.client("cognito-idp")
    try:
        user = cognito.admin_get_user(UserPoolId=target.output("UserPoolId"), Username=address(run))
    except cognito.exceptions.UserNotFoundException:
        return None
    return next(str(each["Value"]) for each in user["UserAttributes"] if each["Name"] == "sub")


def _orders(target: Target, customer_id: str) -> list[dict[str, Any]]:
    """Return order id and status of the customer's orders: from the table, because an index lags behind."""
    pages = (
        target.client("dynamodb")
        .get_paginator("query")
        .paginate(
            TableName=target.output("OrdersTable"),
            ConsistentRead=True,
            KeyConditionExpression="customerId = :customer",
            ExpressionAttributeValues={":customer": {"S": customer_id}},
            ProjectionExpression="orderId, #status",
            ExpressionAttributeNames={"#status": "status"},
        )
    )
    return [from_item(item) for page in pages for item in page["Items"]]


def _give_up(target: Target, customer_id: str) -> None:
    table = records.orders_table(target)
    for order in _orders(target, customer_id):
        if order["status"] not in TERMINAL | {Status.FAILING}:
            table.start_failing(customer_id, order["orderId"], ENDED)


def _remove_order(target: Target, customer_id: str, order_id: str, removed: Removed) -> None:
    _remove_failures(target, order_id, removed)
    if _has_receipt(target, customer_id, order_id):
        key = _receipt(customer_id, order_id)
        target.client("s3").delete_object(Bucket=target.output("ReceiptsBucket"), Key=key)
        removed.count("receipts")
    removed.count("payments", _delete(target, "PaymentsTable", {"idempotencyKey": order_id}))
    removed.count("shipments", _delete(target, "ShipmentsTable", {"orderId": order_id}))
    removed.count("orders", _delete(target, "OrdersTable", {"customerId": customer_id, "orderId": order_id}))


def _remove_failures(target: Target, order_id: str, removed: Removed) -> None:
    found, unreadable = records.failures_of(target, order_id)
    for failure in found:
        if failure.payload_key:
            bucket = target.output("FailedPayloadsBucket")
            target.client("s3").delete_object(Bucket=bucket, Key=failure.payload_key)
    for failure_id in [*(each.failure_id for each in found), *unreadable]:
        removed.count("failures", _delete(target, "FailuresTable", {"failureId": failure_id}))


def _remove_products(target: Target, run: str, removed: Removed) -> None:
    for sku in products(run):
        removed.count("products", _delete(target, "CatalogueTable", {"sku": sku}))


def _delete(target: Target, output: str, key: dict[str, str]) -> int:
    """Delete an item; returns how many there were, 0 or 1."""
    answer = target.client("dynamodb").delete_item(
        TableName=target.output(output), Key=to_item(key), ReturnValues="ALL_OLD"
    )
    return int("Attributes" in answer)
