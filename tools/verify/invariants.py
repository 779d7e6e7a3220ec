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

import msgspec

from orders.domain.order import TERMINAL, TRANSITIONS, PricedLine, Status
from orders.domain.stock import held_by, stock_key

Item = Mapping[str, Any]

# An order that is FAILING holds what it has reserved until that is released.
HOLDS_STOCK = frozenset({Status.RESERVED, Status.PAID, Status.FAILING})
# One mail when the order is accepted, one when it ends.
MAILS_PER_ORDER = 2


class OrderChange(NamedTuple):
    """A write to an order: the order's status and version after it and before it; None before the first write."""

    order_id: str
    status: str
    version: int
    status_before: str | None = None
    version_before: int | None = None


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
    """What each shard of a product says is reserved, and what all say is sold, must be what orders hold and took.

    `supplied` says how many of each product there were in all.
    """
    held: Counter[str] = Counter()
    took: Counter[str] = Counter()
    for order in orders:
        lines = msgspec.convert(order["lines"], list[PricedLine])
        for line in lines if order["status"] in HOLDS_STOCK else []:
            for taken in held_by(line):
                held[stock_key(line.sku, taken.shard)] += taken.quantity
        for line in lines if order["status"] == Status.FULFILLED else []:
            took[line.sku] += line.quantity
    wrong = []
    total: Counter[str] = Counter()
    moved: Counter[str] = Counter()
    sold: Counter[str] = Counter()
    for shard in products:
        key, counts = shard["sku"], [shard.get(name, 0) for name in ("available", "reserved", "sold")]
        product = key.partition("#")[0]
        total[product] += sum(counts)
        sold[product] += counts[2]
        moved[product] += shard.get("moved", 0)
        if min(counts) < 0:
            wrong.append(f"stock of {key} is negative: {counts}")
        if counts[1] != held[key]:
            wrong.append(f"{counts[1]} of {key} are reserved, but orders hold {held[key]}")
        del held[key]
    wrong += [f"orders hold {quantity} of {key}, which is gone" for key, quantity in held.items()]
    for product, count in total.items():
        if supplied is not None and count != supplied[product]:
            wrong.append(f"stock of {product} is {count} in all and was {supplied[product]} at first")
        if moved[product]:
            wrong.append(f"{moved[product]} of the stock of {product} were moved and did not arrive")
        if sold[product] != took[product]:
            wrong.append(f"{sold[product]} of {product} are sold, but orders took {took[product]}")
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
    """Versions count up, statuses follow legal transitions, and only an order that was paid is fulfilled.

    `changes` are every write to the orders, oldest first.
    """
    wrong = []
    steps: dict[str, list[tuple[int, str]]] = {}
    for change in changes:
        order_id, status = change.order_id, change.status
        if status != change.status_before or change.version != change.version_before:
            steps.setdefault(order_id, []).append((change.version, status))
    for order_id, history in steps.items():
        if [version for version, _ in history] != list(range(1, len(history) + 1)):
            wrong.append(f"the versions of {order_id} are {history}")
        for (_, earlier), (_, later) in itertools.pairwise(history):
            if Status(later) not in TRANSITIONS[Status(earlier)]:
                wrong.append(f"{order_id} became {later} after {earlier}")
        passed = [status for _, status in history]
        if Status.FULFILLED in passed and Status.PAID not in passed:
            wrong.append(f"{order_id} became FULFILLED and was never PAID")
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
