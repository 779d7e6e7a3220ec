"""`measure scaling`: which AWS quota is met first, and what a best-seller does to the stock.

The demands of an order are the units counted on the local cloud (tools/measure/usage.json). The quotas are AWS's
defaults for us-east-1. Each formula of docs/scaling.md is checked against a simulation with a fixed seed, so the same
numbers come out everywhere.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from measure import cost, report
from orderctl.exits import Exit, Stop
from orderctl.options import Json
from orders.storage.orders import OPEN_SHARDS

RATES = (1, 100, 1_000, 10_000)
FACTOR = cost.Assumptions().duration_factor
HOLD_S = 0.010  # how long a transaction holds a stock item
BEST_SELLER_RATES = {1: (1, 5, 10, 20, 30, 40), 10: (100, 300), 32: (300, 1_000)}  # orders/s by stock items
BURSTS = ((300, 60), (500, 5), (1_000, 1), (1_000, 10), (10_000, 1))  # orders/s, minutes
DOCS = "https://docs.aws.amazon.com/"


@dataclass(frozen=True)
class Quota:
    """A quota: what it allows (a second, unless its name says otherwise) and what an order takes of it."""

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
    rules = 1 + order["queues"]["NotificationsQueue"] + order["objects"]["puts"]
    states = f"{DOCS}step-functions/latest/dg/service-quotas.html"
    tables = f"{DOCS}amazondynamodb/latest/developerguide/ServiceQuotas.html"
    return [
        Quota("Step Functions", "StartExecution refill rate (bucket 1,300)", 300, 1, "request an increase", states),
        Quota("Step Functions", "SendTaskSuccess refill rate (bucket 3,000)", 500, 1, "request an increase", states),
        Quota(
            "Step Functions",
            "StateTransition refill rate",
            5_000,
            order["workflow"]["transitions"],
            "request",
            states,
        ),
        Quota("Step Functions", "open executions, at 60 s an order", 1_000_000, 60, "request", states),
        Quota(
            "API Gateway",
            "ThrottlingRateLimit of the stage, our own",
            1_000,
            1,
            "template.yaml",
            "template.yaml",
        ),
        Quota(
            "API Gateway",
            "Throttle quota per account, per Region",
            10_000,
            1,
            "request",
            f"{DOCS}apigateway/latest/developerguide/limits.html",
        ),
        Quota(
            "Lambda",
            "Concurrent executions",
            1_000,
            sum(seconds.values()),
            "request; reserve some for accept_order",
            f"{DOCS}lambda/latest/dg/gettingstarted-limits.html",
        ),
        Quota(
            "Lambda",
            "ship_order: MaximumConcurrency 50, our own",
            50,
            seconds["ShipOrder"],
            "template.yaml; the queue holds the rest",
            "template.yaml",
        ),
        Quota(
            "Lambda",
            "notify_customer: MaximumConcurrency 50, our own",
            50,
            seconds["NotifyCustomer"],
            "template.yaml; the queue holds the rest",
            "template.yaml",
        ),
        Quota(
            "EventBridge",
            "PutEvents throttle limit, requests",
            10_000,
            functions["PublishEvents"]["calls"]["events:PutEvents"],
            "batches make it 10 times as much",
            f"{DOCS}eventbridge/latest/userguide/eb-quota.html",
        ),
        Quota(
            "EventBridge",
            "Invocations throttle limit",
            18_750,
            rules,
            "request; more is delayed, not lost",
            f"{DOCS}eventbridge/latest/userguide/eb-quota.html",
        ),
        Quota(
            "DynamoDB",
            "orders: a new on-demand table's first throughput",
            4_000,
            writes["OrdersTable"],
            "set WarmThroughput",
            f"{DOCS}amazondynamodb/latest/developerguide/on-demand-capacity-mode.html",
        ),
        Quota("DynamoDB", "orders: table-level write throughput", 40_000, writes["OrdersTable"], "request", tables),
        Quota(
            "DynamoDB", "catalogue: table-level write throughput", 40_000, writes["CatalogueTable"], "request", tables
        ),
        Quota(
            "DynamoDB",
            f"open-orders: {OPEN_SHARDS} partitions of 1,000 units",
            OPEN_SHARDS * 1_000,
            writes["open-orders"],
            "more shards (OPEN_SHARDS)",
            f"{DOCS}amazondynamodb/latest/developerguide/bp-partition-key-design.html",
        ),
        Quota(
            "DynamoDB",
            "one customer: a partition's 1,000 units",
            1_000,
            writes["OrdersTable"],
            "429 for that customer",
            f"{DOCS}amazondynamodb/latest/developerguide/bp-partition-key-design.html",
        ),
        Quota(
            "DynamoDB",
            "one product: a partition's 1,000 units",
            1_000,
            4,
            "shard the stock",
            f"{DOCS}amazondynamodb/latest/developerguide/bp-partition-key-design.html",
        ),
    ]


def conflicts(rate: float, hold_s: float, shards: int = 1, seconds: float = 600, seed: int = 1) -> dict[str, float]:
    """Simulate orders of one product: two transactions each on its item, one at a time.

    A transaction holds the item for `hold_s`. Another transaction in that time is cancelled (TransactionConflict).
    The reservation is retried after 1 to 3 s, at most 10 times (ReserveAgain). The last write is retried after
    ship_order's pauses, five attempts for each of the five times that its message is received.

    Returns the retries an order, those of reservations alone, and the share of orders that end in the inbox.
    """
    chance = random.Random(seed)
    free_at = [0.0] * shards
    queue: list[tuple[float, int, int]] = []  # when, which attempt, first or second transaction
    clock = 0.0
    while clock < seconds:
        clock += chance.expovariate(rate)
        heapq.heappush(queue, (clock, 0, 0))

    def pause_s(step: int, attempt: int) -> float:
        if step == 0:
            return chance.randint(1, 3) + chance.uniform(0, 0.2)
        receive, retry = divmod(attempt, 5)
        return 0.05 * 2**retry * chance.uniform(0.5, 1.5) if retry < 4 else 2.0 ** (receive + 1)

    most = (10, 24)
    cancelled = [0, 0]
    stuck = done = 0
    while queue:
        now, attempt, step = heapq.heappop(queue)
        shard = chance.randrange(shards)
        if free_at[shard] > now:
            cancelled[step] += 1
            if attempt == most[step]:
                stuck += 1
            else:
                heapq.heappush(queue, (now + pause_s(step, attempt), attempt + 1, step))
            continue
        free_at[shard] = now + hold_s
        if step == 0:
            heapq.heappush(queue, (now + chance.uniform(0.3, 3), 0, 1))  # between them it is paid and shipped
        else:
            done += 1
    orders = done + stuck
    return {
        "retriesAnOrder": sum(cancelled) / orders,
        "reservationRetriesAnOrder": cancelled[0] / orders,
        "stuckShare": stuck / orders,
    }


def retries_formula(rate: float, hold_s: float, shards: int = 1) -> float:
    """Return the retries an order: two transactions, each cancelled u/(1-u) times where the item is busy u.

    A cancelled transaction holds nothing. The item is held for u = 2 * rate * hold / shards of the time, so an
    attempt meets a busy item with probability u.
    """
    busy = 2 * rate * hold_s / shards
    return 2 * busy / (1 - busy) if busy < 1 else math.inf


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


def burst_delay(rate: float, minutes: float, bucket: float = 1_300, refill: float = 300) -> float:
    """Simulate a token bucket second by second; returns the longest wait (seconds) of a burst's executions."""
    tokens, waiting, longest = bucket, 0.0, 0.0
    for second in range(int(minutes * 60) + 1):
        waiting += rate if second < minutes * 60 else 0
        started = min(waiting, tokens)
        waiting -= started
        tokens = min(bucket, tokens - started + refill)
        longest = max(longest, waiting / refill)
    return longest


def burst_formula(rate: float, minutes: float, bucket: float = 1_300, refill: float = 300) -> float:
    """Return the longest wait of a burst, in seconds: the orders beyond bucket and refill, at the refill rate."""
    return max(0.0, (rate - refill) * minutes * 60 - bucket) / refill


def fullest_shard(orders: int, shards: int, seed: int = 1) -> float:
    """Simulate how evenly ids spread; returns the fullest shard as a multiple of the mean."""
    chance = random.Random(seed)
    counts = [0] * shards
    for _ in range(orders):
        counts[chance.getrandbits(128) % shards] += 1
    return max(counts) * shards / orders


def sharded_sale(stock: int, shards: int, seed: int = 1) -> dict[str, float]:
    """Simulate selling out a stock that is split into shards. An order that meets an empty one takes another."""
    chance = random.Random(seed)
    left = [stock // shards + (shard < stock % shards) for shard in range(shards)]
    attempts = sold = 0
    while any(left):
        order = list(range(shards))
        chance.shuffle(order)
        for shard in order:
            attempts += 1
            if left[shard]:
                left[shard] -= 1
                sold += 1
                break
    return {"sold": sold, "attemptsAnOrder": attempts / sold}


def _require_close(what: str, simulated: float, formula: float, tolerance: float) -> None:
    """Stop(NOT_AS_EXPECTED) if a simulation and its formula differ by more than the tolerance, a share."""
    if not math.isclose(simulated, formula, rel_tol=tolerance, abs_tol=0.02):
        raise Stop(Exit.NOT_AS_EXPECTED, f"{what}: the simulation says {simulated:.3f}, the formula {formula:.3f}.")


def best_seller() -> list[dict[str, float]]:
    """Simulate rates of orders of one product whose stock is in one item or in shards, held for 10 ms each."""
    found = []
    for shards, rates in BEST_SELLER_RATES.items():
        for rate in rates:
            result = conflicts(rate, HOLD_S, shards, seconds=max(100, 6_000 / rate))
            formula = retries_formula(rate, HOLD_S, shards)
            if formula < 2:
                _require_close(f"conflicts at {rate}/s", result["retriesAnOrder"], formula, 0.15)
            found.append(
                {
                    "ordersASecond": rate,
                    "shards": shards,
                    **result,
                    "retriesByFormula": formula,
                    # ReserveAgain takes three state transitions, $25 a million each.
                    "dollarsAMillion": result["reservationRetriesAnOrder"] * 3 * 25,
                    "writeUnitsASecondAnItem": 4 * rate / shards,
                }
            )
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
            {"service": quota.service, "name": quota.name, "ordersASecond": quota.orders_a_second}
            for quota in by_rate
        ],
        "bestSeller": best_seller(),
        "oneRetryAnOrderAt": {
            str(hold_s): next(rate for rate in range(1, 400) if retries_formula(rate, hold_s) > 1)
            for hold_s in (0.005, 0.010, 0.020)
        },
        "sale": [{"shards": shards, **sharded_sale(10_000, shards)} for shards in (1, 10, 32)],
        "concurrency": lambda_concurrency(order),
        "bursts": bursts(),
        "fullestShard": {str(shards): fullest_shard(100_000, shards) for shards in (16, 64, 256)},
    }


def shown(figures: dict[str, Any]) -> Iterator[Table | str]:
    """Yield the tables of `run`'s figures."""
    yield report.table(
        "Share of each quota that a rate of orders takes",
        ["quota (default, us-east-1)", "met at orders/s", *(f"at {rate:,}/s" for rate in RATES)],
        [
            [
                f"{quota['service']}: {quota['name']}",
                f"{quota['ordersASecond']:,.0f}",
                *(_share(rate / quota["ordersASecond"]) for rate in RATES),
            ]
            for quota in figures["quotas"]
        ],
    )
    yield report.table(
        "A best-seller: conflicts of transactions that hold an item for 10 ms",
        [
            "orders/s",
            "stock items",
            "retries an order",
            "by formula",
            "stuck",
            "$ a million",
            "write units/s an item",
        ],
        [
            [
                f"{row['ordersASecond']:,}",
                row["shards"],
                f"{row['retriesAnOrder']:.2f}",
                f"{row['retriesByFormula']:.2f}",
                f"{row['stuckShare']:.1%}",
                f"{row['dollarsAMillion']:.0f}",
                f"{row['writeUnitsASecondAnItem']:,.0f}",
            ]
            for row in figures["bestSeller"]
        ],
    )
    for hold_s, rate in figures["oneRetryAnOrderAt"].items():
        yield f"Held for {float(hold_s) * 1000:.0f} ms, a stock item has one retry an order at {rate} orders/s."
    yield report.table(
        "Selling out a stock of 10,000 that is split into shards",
        ["shards", "sold", "attempts an order"],
        [[row["shards"], f"{row['sold']:.0f}", f"{row['attemptsAnOrder']:.2f}"] for row in figures["sale"]],
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
        "How long StartExecution (300/s, bucket 1,300) makes a burst wait; EventBridge retries for 12 h",
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
        yield f"The fullest of {shards} shards of open-orders has {ratio:.3f} of the mean."


def _share(share: float) -> str:
    return f"{share:.0%}" + ("!" if share > 1 else "")


def command(*, as_json: Json = False) -> None:
    """Show which AWS quota a rate of orders meets first, and check the formulas of docs/scaling.md by simulation."""
    figures = run()
    report.deliver("scaling", figures, shown(figures), as_json=as_json)
