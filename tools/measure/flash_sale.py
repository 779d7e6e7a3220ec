"""A flash sale: many more orders than pieces, from shards of the stock, with conflicts and cancellations.

The local cloud runs transactions one by one, so it is asked to cancel as many as would conflict on AWS.
"""

from __future__ import annotations

import random
from collections import Counter
from contextlib import closing
from typing import Any

from measure import reconcile
from measure.load import Chaos, Load, inject, local_target, send
from orderctl.cloud.state import Cloud
from orderctl.demo import samples
from orderctl.stack.stock import StockTable
from orderctl.stack.target import Target
from orderctl.ui import console
from orders.storage.dynamodb import from_item, to_item

SIDE_PRODUCTS = 5
ENDLESS = 10**6
MIXED_SHARE = 0.3
SLOW_SHARE = 0.1
CANCELLED_SHARE = 0.1


def basket(sku: str, sides: list[str], chance: random.Random, *, at_most: int) -> dict[str, Any]:
    """Return the body of an order of 1 to `at_most` pieces; some order other products, too, some pay slowly."""
    body = samples.sample("fulfilled")
    body["lines"] = [{"sku": sku, "quantity": chance.randint(1, at_most)}]
    if chance.random() < MIXED_SHARE:
        others = chance.sample(sides, chance.randint(1, 2))
        body["lines"] += [{"sku": other, "quantity": chance.randint(1, 3)} for other in others]
    body["paymentMethod"] = "tok_slow_1" if chance.random() < SLOW_SHARE else "tok_visa"
    return body


def requests(sku: str, sides: list[str], orders: int, seed: int) -> tuple[list[dict[str, Any]], frozenset[int]]:
    """Return the bodies of all orders, and the numbers of those that their customers cancel.

    The last half orders one piece each and cancels nothing, so a piece that a cancellation returns is sold, too.
    """
    chance = random.Random(seed)
    bodies = [basket(sku, sides, chance, at_most=2 if number < orders / 2 else 1) for number in range(orders)]
    cancels = {number for number in range(orders // 2) if chance.random() < CANCELLED_SHARE}
    return bodies, frozenset(cancels)


def put_products(target: Target, sku: str, sides: list[str], pieces: int, shards: int) -> None:
    """Put the product on sale in so many shards, and others without end."""
    client, table = target.client("dynamodb"), target.output("CatalogueTable")
    for each in [sku, *sides]:
        stock = {"available": pieces if each == sku else ENDLESS, "reserved": 0, "sold": 0}
        product = {"sku": each, "name": each, "currency": "EUR", "price": 100, **stock}
        client.put_item(TableName=table, Item=to_item(product))
    for _ in StockTable(client, table, target.command).split(sku, shards):
        pass


def run(
    cloud: Cloud, *, orders: int, rate: float, pieces: int, shards: int, conflicts: float, seed: int, timeout_s: float
) -> dict[str, Any]:
    """Sell out; returns the findings, in which `wrong` lists what must not be."""
    target = local_target(cloud, frozenset())
    load = Load(target, orders, rate, frozenset(), seed)
    sku = f"FLASH-{load.run_id}"
    sides = [f"SIDE-{load.run_id}-{number}" for number in range(SIDE_PRODUCTS)]
    load.bodies, load.cancels = requests(sku, sides, orders, seed)
    with console.step(f"Putting {pieces} pieces into {shards} shards"):
        put_products(target, sku, sides, pieces, shards)
    with closing(reconcile.EventLog(load)) as log:
        chaos = Chaos(load, cloud)
        inject(target, transactionConflicts={target.output("CatalogueTable"): conflicts})
        try:
            send(load, chaos)
        finally:
            chaos.end()
        try:
            first = reconcile.settle(load, timeout_s)
        finally:
            inject(target)
    last = reconcile.reckon(load, log, final=True)
    stock = [item for item in _items(target, "CatalogueTable") if item["sku"].partition("#")[0] == sku]
    ends = Counter(_end_of(order) for order in _items(target, "OrdersTable") if _orders(order, sku))
    found = {
        "pieces": pieces,
        "shards": {item["sku"].partition("#")[2] or "0": item.get("sold", 0) for item in stock},
        "sold": sum(item.get("sold", 0) for item in stock),
        "left": sum(item["available"] for item in stock),
        "reserved": sum(item["reserved"] for item in stock),
        "conflictShare": conflicts,
        "ends": dict(ends),
        **reconcile.report(load, first, last),
    }
    found["wrong"] = verdict(found)
    return found


def verdict(found: dict[str, Any]) -> list[str]:
    """Return a sentence for each thing that must not be after a flash sale."""
    wrong = []
    if (found["sold"], found["left"], found["reserved"]) != (found["pieces"], 0, 0):
        counts = f"{found['sold']} of {found['pieces']}"
        wrong.append(f"{counts} pieces are sold, {found['left']} left, {found['reserved']} reserved")
    for end, number in found["ends"].items():
        if end not in {"FULFILLED", "CANCELLED", "FAILED: OutOfStock"}:
            wrong.append(f"{number} orders are {end}")
    if found["accepted"] != found["orders"]:
        wrong.append(f"{found['accepted']} of {found['orders']} orders were accepted")
    inbox = found["inbox"]
    if inbox["healing"] or inbox["forHumans"]:
        wrong.append(f"the inbox holds {inbox['healing'] | inbox['forHumans']}")
    wrong += [f"lost: {name}: {why}" for name, why in found["lost"].items()]
    return wrong + [f"doubled: {name}: {why}" for name, why in found["doubled"].items()]


def _items(target: Target, output: str) -> list[dict[str, Any]]:
    pages = target.client("dynamodb").get_paginator("scan").paginate(TableName=target.output(output))
    return [from_item(item) for page in pages for item in page["Items"]]


def _orders(order: dict[str, Any], sku: str) -> bool:
    return any(line["sku"] == sku for line in order["lines"])


def _end_of(order: dict[str, Any]) -> str:
    return f"{order['status']}: {order['reason']['code']}" if order.get("reason") else str(order["status"])
