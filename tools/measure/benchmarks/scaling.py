"""Which AWS quota is met first, and what a best-seller does to the stock: `python -m measure.benchmarks.scaling`.

The demands of an order are the units counted on the local cloud (tools/measure/usage.json); the quotas are AWS's
defaults for us-east-1. Each formula of docs/scaling.md is checked here against a simulation with a fixed
seed, so that the same numbers come out everywhere.
"""

# ruff: noqa: T201 - what a benchmark finds goes to stdout
from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass
from typing import Any

from measure import cost, report

RATES = (1, 100, 1_000, 10_000)
FACTOR = cost.Assumptions().duration_factor
DOCS = "https://docs.aws.amazon.com/"


@dataclass(frozen=True)
class Quota:
    """A quota, what it allows (a second unless it says otherwise) and what an order takes of it."""

    service: str
    name: str
    default: float
    an_order: float
    remedy: str
    source: str

    @property
    def orders_a_second(self) -> float:
        """Orders a second at which it is met."""
        return self.default / self.an_order if self.an_order else math.inf


def quotas(order: dict[str, Any]) -> list[Quota]:
    """Return the quotas that a journey meets, for the usage of one order."""
    functions, writes = order["functions"], order["writeUnits"]
    seconds = {name: function["durationMs"] / 1000 * FACTOR for name, function in functions.items()}
    rules = 1 + order["queues"]["NotificationsQueue"] + order["objects"]["puts"]
    at_once = "Step Functions"
    states = f"{DOCS}step-functions/latest/dg/service-quotas.html"
    tables = f"{DOCS}amazondynamodb/latest/developerguide/ServiceQuotas.html"
    return [
        Quota(at_once, "StartExecution refill rate (bucket 1,300)", 300, 1, "request an increase", states),
        Quota(at_once, "SendTaskSuccess refill rate (bucket 3,000)", 500, 1, "request an increase", states),
        Quota(at_once, "StateTransition refill rate", 5_000, order["workflow"]["transitions"], "request", states),
        Quota(at_once, "open executions, at 60 s an order", 1_000_000, 60, "request", states),
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
            "open-orders: 16 partitions of 1,000 units",
            16_000,
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

    A transaction holds the item for `hold_s`; another one that comes meanwhile is cancelled
    (TransactionConflict). The reservation comes again after 1 to 3 s, as ReserveAgain has it, at most 10 times;
    the last write after ship_order's pauses and, every fifth time, when its message does, which comes five times.
    """
    chance = random.Random(seed)
    free_at = [0.0] * shards
    queue: list[tuple[float, int, int]] = []  # when, which try, first or second transaction
    clock = 0.0
    while clock < seconds:
        clock += chance.expovariate(rate)
        heapq.heappush(queue, (clock, 0, 0))

    def pause_s(step: int, attempt: int) -> float:
        if step == 0:
            return chance.randint(1, 3) + chance.uniform(0, 0.2)
        receive, again = divmod(attempt, 5)
        return 0.05 * 2**again * chance.uniform(0.5, 1.5) if again < 4 else 2.0 ** (receive + 1)

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
            heapq.heappush(queue, (now + chance.uniform(0.3, 3), 0, 1))  # paid and shipped meanwhile
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

    A cancelled transaction holds nothing, so with u = 2 * rate * hold / shards of the time taken, a try
    meets a busy item with probability u.
    """
    busy = 2 * rate * hold_s / shards
    return 2 * busy / (1 - busy) if busy < 1 else math.inf


def concurrency(rate: float, mean_s: float, seconds: float = 60, seed: int = 1) -> tuple[float, float]:
    """Simulate invocations with log-normal durations; returns the mean and the 99.9th percentile at once."""
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
    """Return the wait that a burst builds up: what came beyond bucket and refill, at the refill rate."""
    return max(0.0, (rate - refill) * minutes * 60 - bucket) / refill


def fullest_shard(orders: int, shards: int, seed: int = 1) -> float:
    """Simulate how evenly ids spread: the fullest of the shards against the mean."""
    chance = random.Random(seed)
    counts = [0] * shards
    for _ in range(orders):
        counts[chance.getrandbits(128) % shards] += 1
    return max(counts) * shards / orders


def sharded_sale(stock: int, shards: int, seed: int = 1) -> dict[str, float]:
    """Simulate selling out a stock that is split into shards; a buyer tries another shard when one is empty."""
    chance = random.Random(seed)
    left = [stock // shards + (shard < stock % shards) for shard in range(shards)]
    tries = sold = 0
    while any(left):
        order = list(range(shards))
        chance.shuffle(order)
        for shard in order:
            tries += 1
            if left[shard]:
                left[shard] -= 1
                sold += 1
                break
    return {"sold": sold, "triesAnOrder": tries / sold}


def _at(rate: int, quota: Quota) -> str:
    share = rate / quota.orders_a_second
    return f"{share:.0%}" + ("!" if share > 1 else "")


def _print_quotas(found: list[Quota]) -> None:
    rows = [
        [f"{quota.service}: {quota.name}", f"{quota.orders_a_second:,.0f}", *(_at(rate, quota) for rate in RATES)]
        for quota in sorted(found, key=lambda quota: quota.orders_a_second)
    ]
    columns = ["quota (default, us-east-1)", "met at orders/s", *(f"at {rate:,}/s" for rate in RATES)]
    report.table("Share of each quota that a rate of orders takes", columns, rows)


def _check(what: str, simulated: float, formula: float, tolerance: float) -> None:
    if not math.isclose(simulated, formula, rel_tol=tolerance, abs_tol=0.02):
        raise SystemExit(f"{what}: the simulation says {simulated:.3f}, the formula {formula:.3f}")


def main() -> None:
    """Print the tables, check the formulas, save the figures."""
    order = cost.of_profile(cost.load_usage(), "clean")
    found = quotas(order)
    _print_quotas(found)

    rows: list[list[object]] = []
    held: dict[str, Any] = {}
    for shards, rates in ((1, (1, 5, 10, 20, 30, 40)), (10, (100, 300)), (32, (300, 1_000))):
        for rate in rates:
            result = conflicts(rate, 0.010, shards, seconds=max(100, 6_000 / rate))
            formula = retries_formula(rate, 0.010, shards)
            if formula < 2:
                _check(f"conflicts at {rate}/s", result["retriesAnOrder"], formula, 0.15)
            transitions = result["reservationRetriesAnOrder"] * 3 * 25
            label = f"{rate:,} orders/s on one product, stock in {shards} item{'s' if shards > 1 else ''}"
            rows.append(
                [
                    label,
                    f"{result['retriesAnOrder']:.2f}",
                    f"{formula:.2f}",
                    f"{result['stuckShare']:.1%}",
                    f"{transitions:.0f}",
                    f"{4 * rate / shards:,.0f}",
                ]
            )
            held[label] = result
    report.table(
        "A best-seller: conflicts of transactions that hold an item for 10 ms",
        ["", "retries an order", "by formula", "stuck", "$ a million", "write units/s an item"],
        rows,
    )

    for hold in (0.005, 0.010, 0.020):
        limit = next(rate for rate in range(1, 400) if retries_formula(rate, hold) > 1)
        print(f"Held for {hold * 1000:.0f} ms, one retry an order is reached at {limit} orders/s a stock item.")

    sale = {shards: sharded_sale(10_000, shards) for shards in (1, 10, 32)}
    report.table(
        "Selling out a stock of 10,000 that is split into shards",
        ["shards", "sold", "tries an order"],
        [[shards, f"{result['sold']:.0f}", f"{result['triesAnOrder']:.2f}"] for shards, result in sale.items()],
    )

    rows = []
    for name, function in order["functions"].items():
        mean_s = function["durationMs"] / 1000 * FACTOR / function["invocations"]
        mean, peak = concurrency(100 * function["invocations"], mean_s)
        _check(f"concurrency of {name}", mean, 100 * function["invocations"] * mean_s, 0.1)
        needed = [math.ceil(rate * function["invocations"] * mean_s) for rate in RATES]
        rows.append([name, f"{mean_s * 1000:.0f}", f"{mean:.1f}", f"{peak:.0f}", *needed])
    report.table(
        "Lambda concurrency (Little's law: rate x duration), simulated at 100 orders/s",
        ["", "ms", "mean at 100/s", "p99.9 at 100/s", *(f"{rate:,}/s" for rate in RATES)],
        rows,
    )

    rows = []
    for rate, minutes in ((300, 60), (500, 5), (1_000, 1), (1_000, 10), (10_000, 1)):
        simulated, formula = burst_delay(rate, minutes), burst_formula(rate, minutes)
        _check(f"burst of {rate}/s", simulated, formula, 0.1)
        rows.append([f"{rate:,} orders/s for {minutes} min", f"{simulated:,.0f}", f"{formula:,.0f}"])
    report.table(
        "How long StartExecution (300/s, bucket 1,300) makes a burst wait; EventBridge tries again for 12 h",
        ["", "longest wait, s", "by formula"],
        rows,
    )

    spread = {shards: fullest_shard(100_000, shards) for shards in (16, 64)}
    for shards, ratio in spread.items():
        print(f"\nThe fullest of {shards} shards of open-orders has {ratio:.3f} of the mean.", end="")
    figures = {
        "quotas": [{"service": q.service, "name": q.name, "ordersASecond": q.orders_a_second} for q in found],
        "bestSeller": held,
        "sale": {str(shards): result for shards, result in sale.items()},
    }
    print(f"\n\n{report.save('scaling', figures)}")


if __name__ == "__main__":
    main()
