"""What an order costs on AWS: units counted on the local cloud (usage.json) times list prices (prices.json).

A laptop can't count everything. The rest is in `Assumptions`, each with a name, and is shown with the result.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from measure import template
from orderctl.exits import Exit, Stop

USAGE_FILE = Path(__file__).parent / "usage.json"
PRICES_FILE = Path(__file__).parent / "prices.json"
MILLION = 1_000_000
GB = 1024**3

Usage = dict[str, Any]
# The sample orders of each profile, with their shares.
PROFILES: dict[str, dict[str, float]] = {
    "clean": {"fulfilled": 1.0},
    "mixed": {"fulfilled": 0.93, "declined": 0.03, "out-of-stock": 0.03, "provider-down": 0.01},
}


@dataclass(frozen=True)
class Assumptions:
    """Figures that can't be counted on the local cloud."""

    # A function of 512 MB has 0.29 of a vCPU, a local function a whole one. But a local call to the emulator takes
    # longer than a call to DynamoDB. An execution of the workflow waits for its functions, so the factor is the same.
    duration_factor: float = 2.0
    cold_share: float = 0.01  # of all invocations
    cold_start_ms: float = 900.0
    traced_share: float = 0.05  # X-Ray's default sampling rule, beyond one request a second
    log_storage_months: float = 1.0
    storage_months: float = 1.0
    sqs_polls_per_queue: float = 5 * 30 * 86400 / 20  # idle: five pollers, long polling of 20 s, a month
    # A run of the sweep or the healer that finds nothing to do.
    idle_run_ms: float = 100.0
    idle_run_read_units: float = 8.0  # half a unit for each of 16 shards of the index of open orders
    idle_run_log_bytes: float = 600.0


@dataclass(frozen=True)
class Design:
    """The choices of the design that the what-ifs change."""

    workflow: Literal["express", "standard"] = "express"
    workflow_log: Literal["ERROR", "ALL"] = "ERROR"
    api: Literal["rest", "http"] = "rest"
    architecture: Literal["arm64", "x86_64"] = "arm64"
    log_level: Literal["INFO", "WARNING"] = "INFO"
    platform_logs: bool = True
    stream_batch: float = 1.0
    queue_batch: float = 1.0
    notified: Literal["rule", "all"] = "rule"
    receipts: Literal["s3", "table"] = "s3"


@dataclass(frozen=True)
class CostLine:
    """One line of the bill: `units` an order, each at `price` dollars."""

    service: str
    choice: str
    what: str
    units: float
    price: float

    @property
    def per_million(self) -> float:
        """Dollars for a million orders."""
        return self.units * self.price * MILLION


@dataclass(frozen=True)
class Prices:
    """The price table, in dollars a unit (a GB is 2**30 bytes)."""

    region: str
    as_of: str
    table: dict[str, dict[str, Any]] = field(repr=False)

    def unit(self, name: str) -> float:
        """Return dollars for one unit: a request, a GB-second, a byte, or a month of a resource."""
        entry = self.table[name]
        if "perMillion" in entry:
            return float(entry["perMillion"]) / MILLION
        if "perGb" in entry:
            return float(entry["perGb"]) / GB
        return float(entry.get("perGbSecond", entry.get("perMonth", 0.0)))


def load_prices(path: Path = PRICES_FILE) -> Prices:
    """Read the price table."""
    document = json.loads(path.read_text())
    return Prices(document["region"], document["asOf"], document["prices"])


def load_usage(path: Path = USAGE_FILE) -> dict[str, Any]:
    """Read the committed counts of the last measured run."""
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def of_profile(usage: dict[str, Any], profile: str) -> Usage:
    """Return the usage of an average order of a profile, or of the sample order of that name.

    Stop(USAGE) if nothing was counted for it.
    """
    weights = PROFILES.get(profile, {profile: 1.0})
    missing = weights.keys() - usage["journeys"].keys()
    if missing:
        known = sorted({*PROFILES, *usage["journeys"]})
        raise Stop(
            Exit.USAGE, f"Nothing was counted for {', '.join(sorted(missing))}.", f"Profiles: {', '.join(known)}."
        )
    result: Usage = {}
    for name, weight in weights.items():
        _add(result, usage["journeys"][name], weight)
    return result


def _add(total: Usage, part: Usage, weight: float) -> None:
    for key, value in part.items():
        if isinstance(value, dict):
            _add(total.setdefault(key, {}), value, weight)
        elif key == "memoryMb":
            total[key] = value
        else:
            total[key] = total.get(key, 0) + value * weight


def bill(usage: Usage, prices: Prices, design: Design, assumptions: Assumptions) -> list[CostLine]:
    """Return the lines of the bill for one order."""
    usage = redesigned(usage, design)
    unit = prices.unit
    lines = [
        CostLine(
            "API Gateway",
            "answer at once",
            f"{design.api.upper()} requests",
            usage["api"]["requests"],
            unit(f"apigateway.{design.api}"),
        ),
        CostLine("Data transfer", "answer at once", "bytes out", usage["api"]["responseBytes"], unit("transfer.out")),
    ]
    for name, function in usage["functions"].items():
        lines += _function(name, function, unit, design, assumptions)
    lines += _workflow(usage["workflow"], unit, design, assumptions)
    lines += _tables(usage, unit, assumptions)
    events = usage["events"]
    lines += [
        CostLine(
            "DynamoDB",
            "outbox and bus",
            "stream reads by Lambda",
            usage["stream"]["records"],
            unit("dynamodb.stream"),
        ),
        CostLine("EventBridge", "outbox and bus", "events", events["published"], unit("events.custom")),
        CostLine(
            "EventBridge",
            "outbox and bus",
            "bytes archived",
            events["bytes"] + 300 * events["published"],
            unit("events.archive"),
        ),
    ]
    for queue, messages in usage["queues"].items():
        choice = "mail" if queue == "NotificationsQueue" else "workflow"
        requests = messages * (1 + 2 / design.queue_batch)  # one send; a receive and a delete for each batch
        lines.append(CostLine("SQS", choice, f"{queue}: send, receive, delete", requests, unit("sqs.standard")))
    if usage["objects"]["puts"]:
        lines.append(CostLine("S3", "receipt", "PUT requests", usage["objects"]["puts"], unit("s3.put")))
    # A trace begins with a request or a stream's batch. Everything that these cause belongs to the trace.
    batches = usage["functions"].get("PublishEvents", {"invocations": 0})["invocations"]
    traces = (usage["api"]["requests"] + batches) * assumptions.traced_share
    lines.append(CostLine("X-Ray", "observability", "traces", traces, unit("xray.trace")))
    return [line for line in lines if line.units]


CHOICE_OF = {
    "AcceptOrder": "answer at once",
    "PublishEvents": "outbox and bus",
    "NotifyCustomer": "mail",
    "IssueReceipt": "receipt",
    "QueryOrders": "reads",
    "CaptureFailure": "failure inbox",
}


def _function(
    name: str, function: dict[str, Any], unit: Any, design: Design, assumptions: Assumptions
) -> Iterable[CostLine]:
    choice = CHOICE_OF.get(name, "workflow")
    seconds = function["durationMs"] / 1000 * assumptions.duration_factor
    cold = function["invocations"] * assumptions.cold_share * assumptions.cold_start_ms / 1000
    gb = function["memoryMb"] / 1024
    return [
        CostLine("Lambda", choice, f"{name}: requests", function["invocations"], unit("lambda.request")),
        CostLine(
            "Lambda", choice, f"{name}: GB-seconds", (seconds + cold) * gb, unit(f"lambda.{design.architecture}")
        ),
        *_logs(name, sum(function["logBytes"].values()), unit, assumptions),
    ]


def _logs(name: str, size: float, unit: Any, assumptions: Assumptions) -> Iterable[CostLine]:
    service, choice = "CloudWatch Logs", "observability"
    kept = size * 0.15 * assumptions.log_storage_months
    yield CostLine(service, choice, f"{name}: bytes", size, unit("logs.ingest"))
    yield CostLine(service, choice, f"{name}: bytes kept", kept, unit("logs.storage"))


def _workflow(workflow: dict[str, Any], unit: Any, design: Design, assumptions: Assumptions) -> Iterable[CostLine]:
    service, choice = "Step Functions", "workflow"
    if design.workflow == "standard":
        yield CostLine(service, choice, "state transitions", workflow["transitions"], unit("states.standard"))
    else:
        executions = workflow["executions"]
        # Each execution is billed in steps of 100 ms and 64 MB; its definition and data fit into 64 MB.
        mean_s = workflow["seconds"] / executions * assumptions.duration_factor if executions else 0
        billed_s = max(1, math.ceil(round(mean_s * 10, 6))) / 10 * executions
        yield CostLine(service, choice, "executions", executions, unit("states.express"))
        yield CostLine(service, choice, "GB-seconds", billed_s * 64 / 1024, unit("states.expressDuration"))
    if design.workflow_log == "ALL":
        yield from _logs("workflow", workflow["logBytes"], unit, assumptions)


TABLE_CHOICE = {
    "OrdersTable": "orders and their history",
    "newest-first": "orders and their history",
    "by-order-id": "operations",
    "open-by-shard": "operations",
    "CatalogueTable": "stock that never goes below zero",
    "IdempotencyTable": "mail",
    "PaymentsTable": "simulated payment provider and warehouse",
    "ShipmentsTable": "simulated payment provider and warehouse",
    "FailuresTable": "failure inbox",
    "ReceiptsTable": "receipt",
}


def _tables(usage: Usage, unit: Any, assumptions: Assumptions) -> Iterable[CostLine]:
    for table, units in usage["writeUnits"].items():
        yield CostLine(
            "DynamoDB", TABLE_CHOICE.get(table, table), f"{table}: write units", units, unit("dynamodb.write")
        )
    for table, units in usage["readUnits"].items():
        yield CostLine(
            "DynamoDB", TABLE_CHOICE.get(table, table), f"{table}: read units", units, unit("dynamodb.read")
        )
    size = usage.get("storage", {}).get("orderBytes", 0) + 2 * 260  # and an entry in each of two indexes
    for price, what in (("storage", "bytes kept"), ("pitr", "bytes of backups")):
        stored = size * assumptions.storage_months
        yield CostLine("DynamoDB", "orders and their history", what, stored, unit(f"dynamodb.{price}"))


def redesigned(usage: Usage, design: Design) -> Usage:
    """Return the usage that another design would have. The default design has the counted one."""
    usage = json.loads(json.dumps(usage))
    functions = usage["functions"]
    if design.notified == "all":
        extra = usage["events"]["published"] - usage["queues"]["NotificationsQueue"]
        _scale_invocations(
            functions["NotifyCustomer"], 1 + extra / max(1, functions["NotifyCustomer"]["invocations"])
        )
        usage["queues"]["NotificationsQueue"] += extra
    if design.receipts == "table" and usage["objects"]["puts"]:
        usage["writeUnits"]["ReceiptsTable"] = usage["objects"].pop("puts")
        usage["objects"]["puts"] = 0
    for name, batch in (
        ("PublishEvents", design.stream_batch),
        *((name, design.queue_batch) for name in ("NotifyCustomer", "ShipOrder")),
    ):
        if batch > 1 and name in functions:
            _scale_invocations(functions[name], 1 / batch)
    for function in functions.values():
        if design.log_level != "INFO":
            function["logBytes"].pop("application", None)
        if not design.platform_logs:
            function["logBytes"].pop("platform", None)
    return usage


def _scale_invocations(function: dict[str, Any], factor: float) -> None:
    function["invocations"] *= factor
    if "platform" in function["logBytes"]:
        function["logBytes"]["platform"] *= factor
    # The work for a record stays. It is half of a short invocation.
    function["durationMs"] *= 0.5 + 0.5 * factor


def total(lines: Iterable[CostLine]) -> float:
    """Return dollars for a million orders."""
    return sum(line.per_million for line in lines)


def split(lines: Iterable[CostLine], by: Literal["service", "choice"]) -> dict[str, float]:
    """Return dollars for a million orders by service or by design choice, the most expensive first."""
    sums: dict[str, float] = {}
    for line in lines:
        key = getattr(line, by)
        sums[key] = sums.get(key, 0.0) + line.per_million
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


WHAT_IFS: dict[str, Design] = {
    "x86_64 instead of arm64": Design(architecture="x86_64"),
    "HTTP API instead of REST": Design(api="http"),
    "log level WARNING": Design(log_level="WARNING"),
    "no START, END and REPORT lines": Design(platform_logs=False),
    "batches of 10 from the stream and the queues": Design(stream_batch=10, queue_batch=10),
    "batches of 100 from the stream, 10 from the queues": Design(stream_batch=100, queue_batch=10),
    "every event to the notifications queue": Design(notified="all"),
    "receipts in a table instead of S3": Design(receipts="table"),
    "workflow log at level ALL": Design(workflow_log="ALL"),
    "Standard workflow again": Design(workflow="standard"),
}


def fixed_monthly(prices: Prices, assumptions: Assumptions) -> dict[str, float]:
    """Return dollars a month that are due without any order, by what they are for."""
    unit = prices.unit
    queues = template.polled_queues()
    alarms = len(template.of_type("AWS::CloudWatch::Alarm"))
    composite = len(template.of_type("AWS::CloudWatch::CompositeAlarm"))
    dashboards = len(template.of_type("AWS::CloudWatch::Dashboard"))
    metrics = len(template.idle_metrics())
    seconds = assumptions.idle_run_ms / 1000 * assumptions.duration_factor
    run = (
        seconds * 0.5 * unit("lambda.arm64")
        + unit("lambda.request")
        + assumptions.idle_run_read_units * unit("dynamodb.read")
        + assumptions.idle_run_log_bytes * unit("logs.ingest")
    )
    runs = template.runs_a_month().items()
    return {
        **{f"{number:,} runs of {name.removesuffix('Function')}": number * run for name, number in runs},
        f"{metrics} custom metrics": metrics * unit("cloudwatch.metric"),
        f"{alarms} alarms": alarms * unit("cloudwatch.alarm"),
        **({f"{composite} composite alarms": composite * unit("cloudwatch.composite")} if composite else {}),
        **({f"{dashboards} dashboards": dashboards * unit("cloudwatch.dashboard")} if dashboards else {}),
        f"idle polling of {queues} queues": queues * assumptions.sqs_polls_per_queue * unit("sqs.standard"),
    }


def report(usage: dict[str, Any], prices: Prices, profile: str, orders_per_month: int | None) -> dict[str, Any]:
    """Return the figures of `measure cost`, in dollars for a million orders unless their names say otherwise.

    Stop(USAGE) if nothing was counted for the profile.
    """
    assumptions = Assumptions()
    average = of_profile(usage, profile)
    lines = bill(average, prices, Design(), assumptions)
    all_in = total(lines)
    fixed = fixed_monthly(prices, assumptions)
    reading = {**_nothing(), **usage["read"], "api": {"requests": 1, "responseBytes": 900}}
    answer: dict[str, Any] = {
        "profile": profile,
        "measuredAt": usage["measuredAt"],
        "measuredOn": usage["measuredOn"],
        "prices": {"region": prices.region, "asOf": prices.as_of},
        "perMillionOrders": round(all_in, 2),
        "perMillionReads": round(total(bill(reading, prices, Design(), replace(assumptions, storage_months=0))), 2),
        "byService": {name: round(dollars, 2) for name, dollars in split(lines, "service").items()},
        "byChoice": {name: round(dollars, 2) for name, dollars in split(lines, "choice").items()},
        "whatIf": {
            name: round(total(bill(average, prices, design, assumptions)), 2) for name, design in WHAT_IFS.items()
        },
        "fixedPerMonth": {name: round(dollars, 2) for name, dollars in fixed.items()},
        "assumptions": asdict(assumptions),
        "lines": [{**asdict(line), "perMillion": round(line.per_million, 3)} for line in lines],
        "counted": average,
    }
    if orders_per_month is not None:
        answer["ordersPerMonth"] = orders_per_month
        answer["perMonth"] = round(all_in * orders_per_month / MILLION + sum(fixed.values()), 2)
    return answer


def _nothing() -> Usage:
    return {
        "workflow": {"transitions": 0, "executions": 0, "seconds": 0},
        "stream": {"records": 0},
        "queues": {},
        "functions": {},
    }
