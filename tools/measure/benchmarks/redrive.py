"""`measure redrive`: how long it takes to redrive many failures. Each order ends, none happens twice.

The rule that starts workflows loses its permission. Orders are placed, and each one's event lands in the failure
inbox. Then the permission comes back and all failures are redriven. A second operator redrives some of them at the
same time. At last all are redriven once more, which must send nothing.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import typer
from rich.table import Table

from measure import placing, report
from orderctl.cloud.state import STACK_NAME, Cloud
from orderctl.defaults import DEFAULT_NAME
from orderctl.demo import samples
from orderctl.exits import Exit, Stop
from orderctl.options import Json, Name
from orderctl.redrive.many import redrive_many
from orderctl.stack.records import failures_table
from orderctl.stack.target import Target, local_target
from orderctl.ui import console
from orders.inbox.record import FailureStatus
from orders.storage.dynamodb import from_item, to_item

CLIENTS = 8
PRODUCTS = 20
RULE_ROLE = "OrderWorkRuleRole"
POLICY = "start-workflow"
CAPTURE_TIMEOUT_S = 300.0
END_TIMEOUT_S = 1200.0


def put_products(target: Target, count: int) -> None:
    """Put products on sale that only this benchmark orders, `count` pieces of each."""
    for number in range(PRODUCTS):
        product = {
            "sku": f"BENCH-{number}",
            "name": f"Benchmark {number}",
            "currency": "EUR",
            "price": 100,
            "available": count,
            "reserved": 0,
            "sold": 0,
        }
        target.client("dynamodb").put_item(TableName=target.output("CatalogueTable"), Item=to_item(product))


def place_all(target: Target, count: int) -> list[str]:
    """Place `count` orders; returns their ids."""
    customer = placing.Customer(target)
    body = json.loads(samples.read_order("fulfilled"))

    def place(number: int) -> str:
        line = {"sku": f"BENCH-{number % PRODUCTS}", "quantity": 1}
        return customer.place(json.dumps({**body, "lines": [line]}))

    with ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(place, range(count)))


def new_failures(target: Target, order_ids: set[str]) -> list[str]:
    """Return the ids of these orders' failures once each order has one. Stop(NOT_AS_EXPECTED) if that takes long."""
    table = failures_table(target)
    deadline = time.monotonic() + CAPTURE_TIMEOUT_S
    while True:
        found = [each.failure_id for each in table.with_status(FailureStatus.NEW) if each.order_id in order_ids]
        if len(found) >= len(order_ids):
            return found
        if time.monotonic() > deadline:
            raise Stop(Exit.NOT_AS_EXPECTED, f"Only {len(found)} of {len(order_ids)} failures are in the inbox.")
        time.sleep(1)


def charges_of(target: Target, order_ids: list[str]) -> Counter[int]:
    """Return how many orders were charged how often."""
    payments = target.client("dynamodb").get_paginator("scan").paginate(TableName=target.output("PaymentsTable"))
    entries = [from_item(item) for page in payments for item in page["Items"]]
    charges = {entry["idempotencyKey"]: int(entry.get("charges", 0)) for entry in entries}
    return Counter(charges.get(order_id, 0) for order_id in order_ids)


def run(target: Target, count: int, rate: float) -> dict[str, Any]:
    """Let `count` orders fail, redrive them at `rate` a second, and check the charges; returns the figures."""
    put_products(target, count)
    described = target.client("cloudformation").describe_stack_resource(
        StackName=STACK_NAME, LogicalResourceId=RULE_ROLE
    )
    role = described["StackResourceDetail"]["PhysicalResourceId"]
    iam = target.client("iam")
    document = iam.get_role_policy(RoleName=role, PolicyName=POLICY)["PolicyDocument"]
    iam.delete_role_policy(RoleName=role, PolicyName=POLICY)
    try:
        began = time.monotonic()
        order_ids = place_all(target, count)
        placed_s = time.monotonic() - began
        failures = new_failures(target, set(order_ids))
        captured_s = time.monotonic() - began
    finally:
        iam.put_role_policy(RoleName=role, PolicyName=POLICY, PolicyDocument=json.dumps(document))
    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(redrive_many, target, failures, "first", rate=rate)
        second = pool.submit(redrive_many, target, failures[: count // 10], "second", rate=rate)
        outcomes = first.result().outcomes + second.result().outcomes
    redriven_s = time.monotonic() - began
    placing.wait_until_fulfilled(target, order_ids, END_TIMEOUT_S)
    ended_s = time.monotonic() - began
    again = redrive_many(target, failures, "first", rate=1000)
    charges = charges_of(target, order_ids)
    return {
        "failures": len(failures),
        "secondsToPlace": round(placed_s, 1),
        "secondsUntilAllCaptured": round(captured_s, 1),
        "secondsToRedrive": round(redriven_s, 1),
        "redrivenASecond": round(count / redriven_s, 1),
        "secondsUntilAllFulfilled": round(ended_s, 1),
        "sent": sum(outcome.result == "redriven" for outcome in outcomes),
        "refusedToTheSecondOperator": sum(outcome.result == "refused" for outcome in outcomes),
        "failedToSend": sum(outcome.result == "failed" for outcome in outcomes),
        "sentWhenRedrivenAgain": again.count("redriven"),
        "chargedOnce": charges[1],
        "chargedOtherwise": count - charges[1],
    }


def shown(figures: dict[str, Any]) -> Iterator[Table]:
    """Yield the table of `run`'s figures."""
    yield report.table("Redriving on the local cloud", ["", ""], figures.items())


def command(
    *,
    failures: Annotated[int, typer.Option(min=1, help="How many failures.")] = 1000,
    rate: Annotated[float, typer.Option(min=0.1, help="Redrives a second, at most.")] = 200,
    name: Name = DEFAULT_NAME,
    as_json: Json = False,
) -> None:
    """Measure how fast failures are redriven on the running local cloud, and check that nothing happens twice.

    Ends with exit code 5 if a failure was not sent exactly once or an order was not charged exactly once.
    """
    with console.step(f"Letting {failures} orders fail and redriving them"):
        figures = run(local_target(Cloud(name)), failures, rate)
    report.deliver("redrive", figures, shown(figures), as_json=as_json)
    if figures["chargedOtherwise"] or figures["sentWhenRedrivenAgain"] or figures["sent"] != figures["failures"]:
        raise Stop(Exit.NOT_AS_EXPECTED, "Something was lost or happened twice.")
