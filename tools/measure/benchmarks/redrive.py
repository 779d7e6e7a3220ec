"""How long it takes to redrive many failures; each order ends, none twice: `python -m measure.benchmarks.redrive`.

Needs a running local cloud (`orderctl up`). The rule that starts workflows loses its permission, orders are placed,
each event lands in the failure inbox; then the permission comes back and all are redriven, some of them by a second
operator at the same time, and all once more.
"""

# ruff: noqa: T201 - what a benchmark finds goes to stdout
from __future__ import annotations

import argparse
import json
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from measure import report
from measure.benchmarks.throughput import wait
from orderctl import redrive
from orderctl.cloud import lifecycle
from orderctl.cloud.state import Cloud
from orderctl.demo import samples
from orderctl.stack import records, rest, signin, target
from orders.inbox.record import FailureStatus

CLIENTS = 8
PRODUCTS = 20
POLICY = "start-workflow"


def place_all(there: target.Target, count: int) -> list[str]:
    """Place orders, as many as asked for; returns their ids."""
    tokens = signin.token_source(there, None, None)
    body = json.loads(samples.read_order("fulfilled"))
    local = threading.local()

    def place(number: int) -> str:
        if not hasattr(local, "api"):
            local.api = rest.OrdersApi(there.api_url, tokens)
        line = {"sku": f"BENCH-{number % PRODUCTS}", "quantity": 1}
        answer = local.api.submit(json.dumps({**body, "lines": [line]}), str(uuid.uuid4()))
        rest.require_success(answer)
        return str(answer.json()["orderId"])

    with ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(place, range(count)))


def seed(there: target.Target, count: int) -> None:
    """Put products on sale that are sold out by nobody else."""
    for number in range(PRODUCTS):
        product = {"name": f"Benchmark {number}", "price": 100, "available": count, "reserved": 0, "sold": 0}
        there.client("dynamodb").put_item(
            TableName=there.output("CatalogueTable"),
            Item={
                "sku": {"S": f"BENCH-{number}"},
                "currency": {"S": "EUR"},
                **{
                    name: {"S": value} if isinstance(value, str) else {"N": str(value)}
                    for name, value in product.items()
                },
            },
        )


def new_failures(there: target.Target, order_ids: set[str], count: int, timeout_s: float = 300) -> list[str]:
    """Return the ids of these orders' failures once so many are in the inbox; SystemExit if they don't come."""
    table = redrive.open_table(there)
    deadline = time.monotonic() + timeout_s
    while True:
        found = [each.failure_id for each in table.with_status(FailureStatus.NEW) if each.order_id in order_ids]
        if len(found) >= count:
            return found
        if time.monotonic() > deadline:
            raise SystemExit(f"Only {len(found)} of {count} failures are in the inbox.")
        time.sleep(1)


def run(there: target.Target, count: int, rate: float) -> dict[str, Any]:
    """Fail, redrive, and check; returns the figures."""
    seed(there, count)
    role = next(
        str(each["PhysicalResourceId"])
        for page in there.client("cloudformation")
        .get_paginator("list_stack_resources")
        .paginate(StackName=there.output("EventBusName").removesuffix("-orders"))
        for each in page["StackResourceSummaries"]
        if each["LogicalResourceId"] == "OrderPlacedRuleRole"
    )
    iam = there.client("iam")
    document = iam.get_role_policy(RoleName=role, PolicyName=POLICY)["PolicyDocument"]
    iam.delete_role_policy(RoleName=role, PolicyName=POLICY)
    try:
        began = time.monotonic()
        order_ids = place_all(there, count)
        placed_s = time.monotonic() - began
        failures = new_failures(there, set(order_ids), count)
        captured_s = time.monotonic() - began
    finally:
        iam.put_role_policy(RoleName=role, PolicyName=POLICY, PolicyDocument=json.dumps(document))
    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        everything = pool.submit(redrive.redrive_many, there, failures, "first", rate=rate)
        some = pool.submit(redrive.redrive_many, there, failures[: count // 10], "second", rate=rate)
        outcomes = everything.result().outcomes + some.result().outcomes
    redriven_s = time.monotonic() - began
    wait(there, order_ids, timeout_s=1200)
    ended_s = time.monotonic() - began
    again = redrive.redrive_many(there, failures, "first", rate=1000)
    charges = Counter(int((records.payment_of(there, order_id) or {}).get("charges", 0)) for order_id in order_ids)
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


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="default", help="which local cloud")
    parser.add_argument("--failures", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=200, help="redrives a second, at most")
    options = parser.parse_args()
    there = target.local_target(Cloud(options.name))
    lifecycle.seed_catalogue(there)
    found = run(there, options.failures, options.rate)
    report.table("Redriving on the local cloud", ["", ""], [[name, value] for name, value in found.items()])
    print(f"\n{report.save('redrive', found)}")
    if found["chargedOtherwise"] or found["sentWhenRedrivenAgain"] or found["sent"] != found["failures"]:
        raise SystemExit("Something was lost or happened twice.")


if __name__ == "__main__":
    main()
