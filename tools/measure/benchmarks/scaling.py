"""`measure scaling`: which quota is met first, what a best-seller does to the stock, and a provider that hangs.

The demands of an order are the units counted on the local cloud (tools/measure/usage.json). The quotas are AWS's
defaults for us-east-1; our own limits are template.yaml's parameters. Each formula of docs/scaling.md is checked
against a simulation with a fixed seed, so the same numbers come out everywhere.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from rich.table import Table

from measure import cost, report, template
from measure.benchmarks import best_seller, bulkheads
from orderctl.exits import Exit, Stop
from orderctl.options import Json
from orders.storage.orders import OPEN_SHARDS

RATES = (1, 100, 1_000, 2_500, 10_000)
FACTOR = cost.Assumptions().duration_factor
BEST_SELLER_RATES = {1: (1, 10, 20, 30), 10: (100,), 32: (300,), 64: (600,)}  # orders/s by shards
BEST_SELLER_ORDERS = 6_000
SALES = ((20, 1), (300, 8), (300, 32))  # orders/s, shards
BURSTS = ((1_000, 60), (6_000, 10), (10_000, 1))  # orders/s, minutes
BUCKET, REFILL = 6_000, 6_000  # StartExecution of Express workflows
HANGS = ((50, None), (50, 200))  # orders/s, PaymentConcurrency
LEAST_QUOTA = 2_500  # orders/s
MOST_RETRIES = 0.5  # an order, for 300 orders/s of one product on 32 shards
QUEUE_BATCH = 10
DOCS = "https://docs.aws.amazon.com/"


class Kind(StrEnum):
    """Whose limit it is."""

    AWS = "AWS"
    OURS = "ours"  # a parameter
    KEY = "one key"  # of a hot customer or product


@dataclass(frozen=True)
class Quota:
    """A quota: what it allows (a second, unless its name says otherwise) and what an order takes of it."""

    kind: Kind
    service: str
    name: str
    default: float
    an_order: float
    remedy: str
    source: str

    @property
    def orders_a_second(self) -> float:
        """Orders a second at which the quota is met."""
        return self.default / self.an_order if self.an_order else math.inf


def quotas(order: dict[str, Any]) -> list[Quota]:
    """Return the quotas that a journey meets, for the usage of one order."""
    functions, writes = order["functions"], order["writeUnits"]
    seconds = {name: function["durationMs"] / 1000 * FACTOR for name, function in functions.items()}
    # The stream's and the queues' batches fill with the load. Everything else is invoked for each order.
    batched = sum(functions[name]["invocations"] for name in ("PublishEvents", "NotifyCustomer", "ShipOrder"))
    single = sum(functions[name]["invocations"] for name in ("AcceptOrder", "ValidateOrder", "ProcessPayment"))
    deliveries = order["workflow"]["executions"] + order["queues"]["NotificationsQueue"] + order["objects"]["puts"]
    warm = f"{DOCS}amazondynamodb/latest/developerguide/on-demand-capacity-mode.html"
    tables = f"{DOCS}amazondynamodb/latest/developerguide/ServiceQuotas.html"
    partitions = f"{DOCS}amazondynamodb/latest/developerguide/bp-partition-key-design.html"
    buses = f"{DOCS}eventbridge/latest/userguide/eb-quota.html"
    lambdas = f"{DOCS}lambda/latest/dg/gettingstarted-limits.html"
    busiest = max(("OrdersTable", "CatalogueTable", "IdempotencyTable"), key=lambda name: writes[name])
    found = [
        (
            Kind.AWS,
            "Step Functions",
            f"StartExecution, Express: refill rate (bucket {BUCKET:,})",
            REFILL,
            order["workflow"]["executions"],
            "request an increase",
            f"{DOCS}step-functions/latest/dg/service-quotas.html",
        ),
        (
            Kind.OURS,
            "API Gateway",
            "throttling of the stage: RequestRate",
            template.default_of("RequestRate"),
            1,
            "parameter",
            "template.yaml",
        ),
        (
            Kind.AWS,
            "API Gateway",
            "throttle quota of the account",
            10_000,
            1,
            "request an increase",
            f"{DOCS}apigateway/latest/developerguide/limits.html",
        ),
        (
            Kind.AWS,
            "Lambda",
            "concurrent executions",
            1_000,
            sum(seconds.values()),
            "request an increase; PaymentConcurrency",
            lambdas,
        ),
        (
            Kind.AWS,
            "Lambda",
            "synchronous requests: 10 for each of the concurrency, batches of 10",
            10_000,
            single + batched / QUEUE_BATCH,
            "request concurrency",
            lambdas,
        ),
        (
            Kind.OURS,
            "Lambda",
            "ship_order at once: WarehouseConcurrency",
            template.default_of("WarehouseConcurrency"),
            seconds["ShipOrder"],
            "parameter; the queue holds the rest",
            "template.yaml",
        ),
        (
            Kind.OURS,
            "Lambda",
            "notify_customer at once: MailConcurrency",
            template.default_of("MailConcurrency"),
            seconds["NotifyCustomer"],
            "parameter; the queue holds the rest",
            "template.yaml",
        ),
        (
            Kind.AWS,
            "EventBridge",
            "PutEvents requests, batches of one",
            10_000,
            functions["PublishEvents"]["calls"]["events:PutEvents"],
            "none: batches make it 10 times as much",
            buses,
        ),
        (
            Kind.AWS,
            "EventBridge",
            "invocations",
            18_750,
            deliveries,
            "request an increase; more is delayed, not lost",
            buses,
        ),
        (
            Kind.OURS,
            "DynamoDB",
            f"first throughput of a new table, {busiest}: WarmWriteUnits",
            4_000,
            writes[busiest],
            "parameter",
            warm,
        ),
        *(
            (
                Kind.AWS,
                "DynamoDB",
                f"table-level write throughput, {name}",
                40_000,
                writes[name],
                "request an increase",
                tables,
            )
            for name in ("OrdersTable", "CatalogueTable")
        ),
        (
            Kind.AWS,
            "DynamoDB",
            f"index open-by-shard, {OPEN_SHARDS} x 1,000 units",
            OPEN_SHARDS * 1_000,
            writes["open-by-shard"],
            "more shards (OPEN_SHARDS)",
            partitions,
        ),
        (
            Kind.KEY,
            "DynamoDB",
            "one customer: a partition's 1,000 units",
            1_000,
            writes["OrdersTable"],
            "429 for that customer",
            partitions,
        ),
        (
            Kind.KEY,
            "DynamoDB",
            "one product in one item: a partition's 1,000 units",
            1_000,
            4,
            "orderctl stock split",
            partitions,
        ),
    ]
    return [Quota(*each) for each in found]


def concurrency(rate: float, mean_s: float, seconds: float = 60, seed: int = 1) -> tuple[float, float]:
    """Simulate invocations with log-normal durations; returns the mean and the 99.9th percentile of concurrency."""
    chance = random.Random(seed)
    sigma = 0.6
    mu = math.log(mean_s) - sigma**2 / 2
    changes: list[tuple[float, int]] = []
    clock = 0.0
    while clock < seconds:
        clock += chance.expovariate(rate)
        changes += [(clock, 1), (clock + chance.lognormvariate(mu, sigma), -1)]
    running, area, last = 0, 0.0, 0.0
    levels: dict[int, float] = {}
    for at, change in sorted(changes):
        levels[running] = levels.get(running, 0.0) + at - last
        area += running * (at - last)
        running, last = running + change, at
    seen = 0.0
    peak = 0
    for level in sorted(levels):
        seen += levels[level]
        peak = level
        if seen >= 0.999 * last:
            break
    return area / last, peak


def burst_delay(rate: float, minutes: float, bucket: float = BUCKET, refill: float = REFILL) -> float:
    """Simulate a token bucket second by second; returns the longest wait (seconds) of a burst's executions."""
    tokens, waiting, longest = bucket, 0.0, 0.0
    for second in range(int(minutes * 60) + 1):
        waiting += rate if second < minutes * 60 else 0
        started = min(waiting, tokens)
        waiting -= started
        tokens = min(bucket, tokens - started + refill)
        longest = max(longest, waiting / refill)
    return longest


def burst_formula(rate: float, minutes: float, bucket: float = BUCKET, refill: float = REFILL) -> float:
    """Return the longest wait of a burst, in seconds: the orders beyond bucket and refill, at the refill rate."""
    return max(0.0, (rate - refill) * minutes * 60 - bucket) / refill


def fullest_shard(orders: int, shards: int, seed: int = 1) -> float:
    """Simulate how evenly ids spread; returns the fullest shard as a multiple of the mean."""
    chance = random.Random(seed)
    counts = [0] * shards
    for _ in range(orders):
        counts[chance.getrandbits(128) % shards] += 1
    return max(counts) * shards / orders


def _require_close(what: str, simulated: float, formula: float, tolerance: float) -> None:
    """Stop(NOT_AS_EXPECTED) if a simulation and its formula differ by more than the tolerance, a share."""
    if not math.isclose(simulated, formula, rel_tol=tolerance, abs_tol=0.02):
        raise Stop(Exit.NOT_AS_EXPECTED, f"{what}: the simulation says {simulated:.3f}, the formula {formula:.3f}.")


def best_sellers() -> list[dict[str, float]]:
    """Simulate rates of orders of one product, by shards. Stop(NOT_AS_EXPECTED) where the formula is wrong."""
    found = []
    for shards, rates in BEST_SELLER_RATES.items():
        for rate in rates:
            outcome = best_seller.sell(rate, shards, BEST_SELLER_ORDERS)
            formula = best_seller.retries_formula(rate, shards)
            if formula < 2:
                _require_close(f"conflicts at {rate}/s", outcome.retries_an_order, formula, 0.2)
            found.append(
                {
                    "ordersASecond": rate,
                    "shards": shards,
                    "retriesAnOrder": outcome.retries_an_order,
                    "retriesByFormula": formula,
                    "stuckShare": outcome.stuck / outcome.orders,
                    "writeUnitsASecondAShard": 4 * rate / shards,
                }
            )
    return found


def sales(stock: int = 10_000, orders: int = 7_000) -> list[dict[str, float]]:
    """Simulate selling a stock out by orders of one to three pieces."""
    found = []
    for rate, shards in SALES:
        outcome = best_seller.sell(rate, shards, orders, stock=stock, most=3)
        _require_close(f"pieces sold from {shards} shards", outcome.sold_pieces, stock, 0)
        found.append(
            {
                "ordersASecond": rate,
                "shards": shards,
                "sold": outcome.sold_pieces,
                "retriesAnOrder": outcome.retries_an_order,
                "stuck": outcome.stuck,
            }
        )
    return found


def hangs() -> list[dict[str, Any]]:
    """Simulate a payment provider that hangs, without and with PaymentConcurrency."""
    found = []
    for rate, limit in HANGS:
        outcome = bulkheads.hang(rate, limit)
        share = outcome.answered_5xx / outcome.orders
        found.append({"ordersASecond": rate, "limit": limit, "peak": outcome.peak, "share5xx": share})
    return found


def lambda_concurrency(order: dict[str, Any]) -> list[dict[str, Any]]:
    """Return each function's concurrency by Little's law, rate x duration, checked against a simulation."""
    found = []
    for name, function in order["functions"].items():
        mean_s = function["durationMs"] / 1000 * FACTOR / function["invocations"]
        mean, peak = concurrency(100 * function["invocations"], mean_s)
        _require_close(f"concurrency of {name}", mean, 100 * function["invocations"] * mean_s, 0.1)
        needed = {str(rate): math.ceil(rate * function["invocations"] * mean_s) for rate in RATES}
        found.append({"function": name, "ms": mean_s * 1000, "meanAt100": mean, "p999At100": peak, "needed": needed})
    return found


def bursts() -> list[dict[str, float]]:
    """Return how long StartExecution makes bursts of orders wait."""
    found = []
    for rate, minutes in BURSTS:
        simulated, formula = burst_delay(rate, minutes), burst_formula(rate, minutes)
        _require_close(f"burst of {rate}/s", simulated, formula, 0.1)
        found.append({"ordersASecond": rate, "minutes": minutes, "longestWaitS": simulated, "byFormulaS": formula})
    return found


def run() -> dict[str, Any]:
    """Simulate everything; returns the figures. Stop(NOT_AS_EXPECTED) where a formula is wrong."""
    order = cost.of_profile(cost.load_usage(), "clean")
    by_rate = sorted(quotas(order), key=lambda quota: quota.orders_a_second)
    return {
        "quotas": [
            {
                "kind": quota.kind.value,
                "service": quota.service,
                "name": quota.name,
                "default": quota.default,
                "anOrder": quota.an_order,
                "ordersASecond": quota.orders_a_second,
                "remedy": quota.remedy,
            }
            for quota in by_rate
        ],
        "firstQuotaOfAws": min(quota.orders_a_second for quota in by_rate if quota.kind is Kind.AWS),
        "bestSeller": best_sellers(),
        "oneRetryAnOrderAt": {
            str(hold_s): next(rate for rate in range(1, 400) if best_seller.retries_formula(rate, hold_s=hold_s) > 1)
            for hold_s in (0.005, 0.010, 0.020)
        },
        "sales": sales(),
        "hangs": hangs(),
        "concurrency": lambda_concurrency(order),
        "bursts": bursts(),
        "fullestShard": {str(shards): fullest_shard(100_000, shards) for shards in (16, 64, 256)},
    }


def shown(figures: dict[str, Any]) -> Iterator[Table | str]:
    """Yield the tables of `run`'s figures."""
    yield report.table(
        "Share of each quota that a rate of orders takes",
        ["quota (default, us-east-1)", "whose", "met at orders/s", *(f"at {rate:,}/s" for rate in RATES)],
        [
            [
                f"{quota['service']}: {quota['name']}",
                quota["kind"],
                f"{quota['ordersASecond']:,.0f}",
                *(_share(rate / quota["ordersASecond"]) for rate in RATES),
            ]
            for quota in figures["quotas"]
        ],
    )
    yield f"The first quota of AWS is met at {figures['firstQuotaOfAws']:,.0f} orders/s."
    yield report.table(
        "A best-seller: transactions that hold an item for 10 ms",
        ["orders/s", "shards", "retries an order", "by formula", "stuck", "write units/s a shard"],
        [
            [
                f"{row['ordersASecond']:,}",
                row["shards"],
                f"{row['retriesAnOrder']:.2f}",
                f"{row['retriesByFormula']:.2f}",
                f"{row['stuckShare']:.1%}",
                f"{row['writeUnitsASecondAShard']:,.0f}",
            ]
            for row in figures["bestSeller"]
        ],
    )
    for hold_s, rate in figures["oneRetryAnOrderAt"].items():
        yield f"Held for {float(hold_s) * 1000:.0f} ms, one item has one retry an order at {rate} orders/s."
    yield report.table(
        "Selling out 10,000 pieces by orders of one to three",
        ["orders/s", "shards", "sold", "retries an order", "stuck"],
        [
            [
                row["ordersASecond"],
                row["shards"],
                row["sold"],
                f"{row['retriesAnOrder']:.2f}",
                row["stuck"],
            ]
            for row in figures["sales"]
        ],
    )
    yield report.table(
        "A payment provider that takes 10 s and fails, 50 orders/s for five minutes",
        ["PaymentConcurrency", "most executions at once, of 1,000", "POST /orders answered 5xx"],
        [[row["limit"] or "none", row["peak"], f"{row['share5xx']:.1%}"] for row in figures["hangs"]],
    )
    yield report.table(
        "Lambda concurrency (Little's law: rate x duration), simulated at 100 orders/s",
        ["", "ms", "mean at 100/s", "p99.9 at 100/s", *(f"{rate:,}/s" for rate in RATES)],
        [
            [
                row["function"],
                f"{row['ms']:.0f}",
                f"{row['meanAt100']:.1f}",
                f"{row['p999At100']:.0f}",
                *row["needed"].values(),
            ]
            for row in figures["concurrency"]
        ],
    )
    yield report.table(
        f"How long StartExecution ({REFILL:,}/s, bucket {BUCKET:,}) makes a burst wait",
        ["", "longest wait, s", "by formula"],
        [
            [
                f"{row['ordersASecond']:,} orders/s for {row['minutes']} min",
                f"{row['longestWaitS']:,.0f}",
                f"{row['byFormulaS']:,.0f}",
            ]
            for row in figures["bursts"]
        ],
    )
    for shards, ratio in figures["fullestShard"].items():
        yield f"The fullest of {shards} shards of open-by-shard has {ratio:.3f} of the mean."


def _share(share: float) -> str:
    return f"{share:.0%}" + ("!" if share > 1 else "")


def command(*, as_json: Json = False) -> None:
    """Show which quota a rate of orders meets first, and check the formulas of docs/scaling.md by simulation."""
    figures = run()
    report.deliver("scaling", figures, shown(figures), as_json=as_json)
