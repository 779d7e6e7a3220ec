"""Invariants: what must be true of orders, stock, ledgers, events, receipts and mails.

Each function takes plain data and returns one sentence for each violation. An order, a product, a payment and a
shipment are mappings with the attributes of their table's item. The fault matrix, the stories and the load's
reckoning share these functions.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from orders.domain.order import TERMINAL, TRANSITIONS, Status

Item = Mapping[str, Any]

HOLDS_STOCK = frozenset({Status.RESERVED, Status.PAID})
# One mail when the order is accepted, one when it ends.
MAILS_PER_ORDER = 2


class OrderChange(NamedTuple):
    """A write to an order: the order's status and version after it and before it; None before the first write."""

    order_id: str
    status: str
    version: int
    status_before: str | None = None
    version_before: int | None = None
    given_up_before: bool = False


class Acceptance(NamedTuple):
    """An order that a client was told is accepted, and the Idempotency-Key that the client sent."""

    order_id: str
    customer: str
    key: str | None = None


def has_ended(order: Item) -> bool:
    """Whether an order has its last status."""
    return Status(order["status"]) in TERMINAL


# ---- At any moment -------------------------------------------------------------------------------------------


def check_stock(
    products: Iterable[Item], orders: Iterable[Item], supplied: Mapping[str, int] | None = None
) -> list[str]:
    """What products say is reserved and sold must be what all orders hold and took.

    `supplied` says how many of each product there were at first.
    """
    held: Counter[str] = Counter()
    sold: Counter[str] = Counter()
    for order in orders:
        count = sold if order["status"] == Status.FULFILLED else held if order["status"] in HOLDS_STOCK else Counter()
        for line in order["lines"]:
            count[line["sku"]] += line["quantity"]
    wrong = []
    for product in products:
        sku, available = product["sku"], product["available"]
        if min(available, product["reserved"], product["sold"]) < 0:
            wrong.append(f"stock of {sku} is negative: {available}, {product['reserved']}, {product['sold']}")
        total = available + product["reserved"] + product["sold"]
        if supplied is not None and total != supplied[sku]:
            wrong.append(f"stock of {sku} is {total} in all and was {supplied[sku]} at first")
        if product["reserved"] != held[sku]:
            wrong.append(f"{product['reserved']} of {sku} are reserved, but orders hold {held[sku]}")
        if product["sold"] != sold[sku]:
            wrong.append(f"{product['sold']} of {sku} are sold, but orders took {sold[sku]}")
    return wrong


def check_ledgers(order_id: str, payment: Item, shipment: Item) -> list[str]:
    """Nobody is charged, refunded or shipped to twice. A ledger without an entry is an empty mapping."""
    charged, refunded, shipped = _counts(payment, shipment)
    wrong = []
    if charged > 1 or refunded > charged:
        wrong.append(f"DOUBLED: {order_id} was charged {charged} times and refunded {refunded} times")
    if shipped > 1:
        wrong.append(f"DOUBLED: {order_id} was shipped {shipped} times")
    return wrong


def check_history(orders: Iterable[Item], changes: Iterable[OrderChange]) -> list[str]:
    """Versions count up, statuses follow legal transitions, and an order that was given up is only undone.

    `changes` are every write to the orders, oldest first.
    """
    wrong = []
    steps: dict[str, list[tuple[int, str]]] = {}
    for change in changes:
        order_id, status, before = change.order_id, change.status, change.status_before
        if status != before or change.version != change.version_before:
            steps.setdefault(order_id, []).append((change.version, status))
        if change.given_up_before and before != status and status in HOLDS_STOCK:
            wrong.append(f"{order_id} was given up and became {status}")
        if change.given_up_before and before != Status.PAID and status == Status.FULFILLED:
            wrong.append(f"{order_id} was given up as {before} and is FULFILLED")
    for order_id, history in steps.items():
        if [version for version, _ in history] != list(range(1, len(history) + 1)):
            wrong.append(f"the versions of {order_id} are {history}")
        for (_, earlier), (_, later) in itertools.pairwise(history):
            if Status(later) not in TRANSITIONS[Status(earlier)]:
                wrong.append(f"{order_id} became {later} after {earlier}")
    for order in orders:
        order_id = order["orderId"]
        told = [entry["what"] for entry in order["timeline"] if entry["what"] in Status.__members__]
        if told != [status for _, status in steps.get(order_id, [])]:
            wrong.append(f"the timeline of {order_id} says {told}, its stream {steps.get(order_id)}")
        if ("openShard" in order) == has_ended(order):
            wrong.append(f"{order_id} is {order['status']} and openShard is {order.get('openShard')}")
    return wrong


# ---- Of an order that has ended ------------------------------------------------------------------------------


def check_end(order: Item, payment: Item, shipment: Item, *, refund_dropped: bool = False) -> list[str]:
    """A FULFILLED order is paid and shipped once; another one that has ended is paid net zero and not shipped.

    Nothing is wrong with an order that has not ended. `refund_dropped`: an operator has discarded the refund of a
    cancelled order.
    """
    order_id, status = order["orderId"], order["status"]
    charged, refunded, shipped = _counts(payment, shipment)
    wrong = []
    if status == Status.FULFILLED:
        if (charged, refunded, shipped) != (1, 0, 1):
            wrong.append(f"{order_id} is FULFILLED: charged {charged}, refunded {refunded}, shipped {shipped}")
        if payment.get("amount") != order["total"]:
            wrong.append(f"{order_id} cost {order['total']} and {payment.get('amount')} was charged")
    elif has_ended(order):
        if shipped:
            wrong.append(f"{order_id} is {status} and was shipped")
        if charged != refunded and not (refund_dropped and status == Status.CANCELLED):
            wrong.append(f"{order_id} is {status}: charged {charged} times, refunded {refunded} times")
    return wrong


def check_effects(
    order: Item,
    *,
    receipts: int,
    events: Mapping[str, int] | None = None,
    mails: int | None = None,
    discarded: bool = False,
) -> list[str]:
    """An order that has ended has one receipt if it is FULFILLED, an event for each version, and its mails.

    `receipts` and `mails` count those of the order, `events` counts what the bus carried by event id; None where
    nobody counted. `discarded`: an operator has discarded failures of the order, so some of these may be missing.
    """
    order_id, status = order["orderId"], order["status"]
    wrong = []
    if receipts != (status == Status.FULFILLED) and not (discarded and not receipts):
        wrong.append(f"{order_id} is {status} and has {receipts} receipts")
    if events is not None and not discarded:
        ids = [f"{order_id}#{version}" for version in range(1, order["version"] + 1)]
        wrong += [f"LOST: event {event_id} was never published" for event_id in ids if not events.get(event_id)]
    if mails is not None and mails != MAILS_PER_ORDER and not (discarded and mails < MAILS_PER_ORDER):
        wrong.append(f"LOST: {order_id} is {status} and {mails} mails tell of it, not {MAILS_PER_ORDER}")
    return wrong


# ---- Of all orders together ----------------------------------------------------------------------------------


def check_acceptances(acceptances: Iterable[Acceptance], order_ids: Collection[str]) -> list[str]:
    """An accepted order is in the table, and a customer's Idempotency-Key makes one order."""
    wrong = []
    keys: dict[tuple[str, str], set[str]] = {}
    for each in acceptances:
        if each.order_id not in order_ids:
            wrong.append(f"LOST: {each.order_id} was answered with 202 and is not in the table")
        if each.key:
            keys.setdefault((each.customer, each.key), set()).add(each.order_id)
    return wrong + [f"DOUBLED: key {key} made {len(ids)} orders" for key, ids in keys.items() if len(ids) > 1]


def check_duplicate_mails(mails: Mapping[str, int], excused: int) -> list[str]:
    """Each mail (text: how often it was sent) is sent once; `excused` duplicates can't be avoided."""
    duplicates = sum(mails.values()) - len(mails)
    return [f"DOUBLED: {duplicates} mails were duplicates: {dict(mails)}"] if duplicates > excused else []


def _counts(payment: Item, shipment: Item) -> tuple[int, int, int]:
    return payment.get("charges", 0), payment.get("refunds", 0), shipment.get("shipments", 0)
