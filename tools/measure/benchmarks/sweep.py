"""`measure sweep`: how many open orders a sweep can look through within its minute.

The deployed handler runs in this process with its real AWS clients. In place of AWS, a stub answers from memory: with
pages of the index of open orders, cut at 1 MB as DynamoDB cuts them and without the entries that the query's filter
leaves out, and with pages of the failure inbox. So the CPU time is measured. AWS's time is assumed (`PAGE_S`,
`CALL_S`): the function's clock goes on by as much.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from rich.table import Table

from measure import report
from orderctl.exits import Exit, Stop
from orderctl.options import Json
from orders.domain.clock import timestamp_before
from orders.domain.order import Status
from orders.storage.dynamodb import to_item
from orders.storage.orders import open_shard_of, open_shards

PAGE_S = 0.15  # a page of 1 MB, read and filtered
CALL_S = 0.02  # any other call
TIMEOUT_S = 60  # the function's, in template.yaml
# The function has 512 MB; Lambda gives it a vCPU's share of 1,769 MB.
VCPU_S = 1_769 / 512
PAGE_BYTES = 1_000_000
# What an eventually consistent read unit reads, before the filter.
UNIT_BYTES = 8_192
SETTINGS = {
    "ORDERS_TABLE": "orders",
    "FAILURES_TABLE": "failures",
    "FAILED_PAYLOADS_BUCKET": "payloads",
    "FAILURES_QUEUE_URL": "https://sqs.us-east-1.amazonaws.com/123456789012/failures",
    "FULFILMENT_QUEUE_ARN": "arn:aws:sqs:us-east-1:123456789012:fulfilment",
    "STATE_MACHINE_ARN": "arn:aws:states:us-east-1:123456789012:stateMachine:order-express",
    "ORDER_PROMISE_SECONDS": "600",
    "WAREHOUSE_PROMISE_SECONDS": "1800",
    "RESERVATION_EXPIRY_SECONDS": "86400",
    "SWEEP_RESTARTS": "100",
    "BEHIND_ALARMS": "events-late,capture-late",
    "FULFILMENT_BEHIND_ALARM": "fulfilment-late",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "stub",
    "AWS_SECRET_ACCESS_KEY": "stub",
    "POWERTOOLS_TRACE_DISABLED": "true",
    "POWERTOOLS_METRICS_DISABLED": "true",
    "LOG_LEVEL": "CRITICAL",
}


@dataclass(frozen=True)
class Case:
    """Open orders: `paid` ones that the warehouse has had for a quarter of an hour, `idle` ones, and `in_inbox`."""

    paid: int = 0
    idle: int = 0
    in_inbox: int = 0


CASES = (
    Case(paid=2_000),
    Case(paid=20_000),
    Case(paid=200_000),
    Case(paid=199_000, idle=1_000),
    Case(paid=190_000, in_inbox=10_000),
    Case(paid=500_000),
)


class Aws:
    """Answers the sweep's calls from memory. `waited_s` is the time that AWS would have taken, as assumed."""

    def __init__(self, case: Case) -> None:
        self.waited_s = 0.0
        self.calls: Counter[str] = Counter()
        self.read_bytes = 0
        ids = random.Random(7)
        shards: dict[str, list[tuple[dict[str, Any], bool]]] = {shard: [] for shard in open_shards()}
        self._failures: list[dict[str, Any]] = []
        for number in range(case.paid + case.idle + case.in_inbox):
            healthy = number < case.paid
            entry = _entry(ids, healthy=healthy)
            shards[entry["openShard"]].append((to_item(entry), healthy))
            if number >= case.paid + case.idle:
                self._failures.append(to_item(_failure(entry, number)))
        self._open = {shard: list(_pages(entries)) for shard, entries in shards.items()}

    def answer(self, request: Any, **_: Any) -> AWSResponse:
        """Answer a request of botocore's, as its event `before-send` asks for."""
        operation = request.headers["X-Amz-Target"].decode().rpartition(".")[2]
        asked = json.loads(request.body)
        self.calls[operation] += 1
        self.waited_s += CALL_S
        body = b"{}"
        if operation == "Query":
            body = self._queried(asked)
        elif operation == "BatchGetItem":
            body = json.dumps({"Responses": {SETTINGS["ORDERS_TABLE"]: []}}).encode()
        elif operation == "DescribeAlarms":
            body = b'{"MetricAlarms": []}'
        return AWSResponse(request.url, 200, HTTPHeaders(), _Body(body))

    def _queried(self, asked: dict[str, Any]) -> bytes:
        if asked["IndexName"] == "by-status":
            new = asked["ExpressionAttributeValues"][":key"]["S"] == "NEW"
            first = int(asked.get("ExclusiveStartKey", {"number": {"N": "0"}})["number"]["N"])
            items = self._failures[first : first + 1_500] if new else []  # about 1 MB
            body: dict[str, Any] = {"Items": items}
            if first + len(items) < len(self._failures) and new:
                body["LastEvaluatedKey"] = {"number": {"N": str(first + len(items))}}
            self.waited_s += PAGE_S * bool(items)
            return json.dumps(body).encode()
        pages = self._open[asked["ExpressionAttributeValues"][":shard"]["S"]]
        number = int(asked.get("ExclusiveStartKey", {"number": {"N": "0"}})["number"]["N"])
        if number >= len(pages):
            return b'{"Items": []}'
        size, body_bytes = pages[number]
        self.read_bytes += size
        self.waited_s += PAGE_S * size / PAGE_BYTES
        return body_bytes


class _Body:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def stream(self, **_: Any) -> Iterator[bytes]:
        return iter([self._content])


class _Context:
    """Lambda's context, with the clock of `Aws`."""

    function_name = "sweep"
    memory_limit_in_mb = 512
    invoked_function_arn = "arn:aws:lambda:us-east-1:123456789012:function:sweep"
    aws_request_id = "stub"

    def __init__(self, aws: Aws) -> None:
        self._aws, self._began = aws, time.process_time()

    def get_remaining_time_in_millis(self) -> int:
        return int(1_000 * (TIMEOUT_S - self._aws.waited_s - VCPU_S * (time.process_time() - self._began)))


def _entry(ids: random.Random, *, healthy: bool) -> dict[str, Any]:
    order_id = str(uuid.UUID(int=ids.getrandbits(128), version=4))
    at = timestamp_before(900 if healthy else 3_600)
    return {
        "customerId": str(uuid.UUID(int=ids.getrandbits(128), version=4)),
        "orderId": order_id,
        "openShard": open_shard_of(order_id),
        "placedAt": timestamp_before(1_000 if healthy else 3_700),
        "updatedAt": at,
        "status": Status.PAID if healthy else Status.RESERVED,
        "correlationId": order_id,
    }


def _failure(entry: dict[str, Any], number: int) -> dict[str, Any]:
    return {
        "failureId": f"{number:020}",
        "kind": "execution",
        "component": "ProcessPayment",
        "resourceArn": SETTINGS["STATE_MACHINE_ARN"],
        "errorName": "PaymentProviderError",
        "errorMessage": "the provider answered 503",
        "occurrence": f"execution-{number}",
        "redrive": {"action": "resume"},
        "status": "NEW",
        "version": 1,
        "count": 1,
        "orderId": entry["orderId"],
        "customerId": entry["customerId"],
        "correlationId": entry["correlationId"],
        "firstSeenAt": entry["updatedAt"],
        "lastSeenAt": entry["updatedAt"],
    }


def _pages(entries: list[tuple[dict[str, Any], bool]]) -> Iterator[tuple[int, bytes]]:
    """Yield the pages of a shard: the bytes that DynamoDB reads, and the answer, which has only the idle orders."""
    size, kept, pages = 0, list[dict[str, Any]](), list[tuple[int, list[dict[str, Any]]]]()
    for item, healthy in entries:
        size += sum(len(name) + len(next(iter(value.values()))) for name, value in item.items())
        kept += [] if healthy else [item]
        if size >= PAGE_BYTES:
            pages.append((size, kept))
            size, kept = 0, []
    pages.append((size, kept))
    for number, (read, items) in enumerate(pages, 1):
        following = {"LastEvaluatedKey": {"number": {"N": str(number)}}} if number < len(pages) else {}
        yield read, json.dumps({"Items": items, **following}).encode()


@contextmanager
def _settings() -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(SETTINGS)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def measure(case: Case) -> dict[str, Any]:
    """Let the handler sweep over the orders of a case, with `Aws` answering from memory; returns the figures."""
    aws = Aws(case)
    with _settings():
        sweep = importlib.import_module("orders.functions.sweep_orders")
        clients = [sweep._dynamodb, sweep._workflows, sweep._sqs, sweep._cloudwatch()]
        for client in clients:
            client.meta.events.register("before-send", aws.answer)
        try:
            began = time.process_time()
            answer = sweep.handler({}, _Context(aws))
            cpu_s = time.process_time() - began
        finally:
            for client in clients:
                client.meta.events.unregister("before-send", aws.answer)
    seconds = VCPU_S * cpu_s + aws.waited_s
    return {
        "open": case.paid + case.idle + case.in_inbox,
        "idle": case.idle,
        "inInbox": case.in_inbox,
        "calls": dict(aws.calls),
        "readMb": round(aws.read_bytes / 1e6, 1),
        "readUnits": round(aws.read_bytes / UNIT_BYTES),
        "cpuSeconds": round(cpu_s, 2),
        "assumedAwsSeconds": round(aws.waited_s, 1),
        "seconds": round(seconds, 1),
        "restarted": answer["restarted"],
        "later": answer["later"],
        "lookedAtAll": seconds < TIMEOUT_S - sweep.RESERVE_MS / 1_000,
    }


def run() -> dict[str, Any]:
    """Measure every case."""
    measure(CASES[0])  # the first calls load what botocore loads late
    return {"assumedSecondsAPage": PAGE_S, "assumedSecondsACall": CALL_S, "cases": [measure(case) for case in CASES]}


def shown(figures: dict[str, Any]) -> Iterator[Table]:
    """Yield the table of `run`'s figures."""
    columns = ["open orders", "idle", "in the inbox", "index MB", "read units", "queries", "CPU s", "AWS s, assumed"]
    columns += ["in all s", "restarted", "left for later"]
    rows = [
        [
            *(f"{case[name]:,}" for name in ("open", "idle", "inInbox", "readMb", "readUnits")),
            case["calls"]["Query"],
            *(case[name] for name in ("cpuSeconds", "assumedAwsSeconds", "seconds", "restarted", "later")),
        ]
        for case in figures["cases"]
    ]
    title = (
        f"One sweep (a stub for AWS; assumed: {figures['assumedSecondsAPage'] * 1000:.0f} ms for a page of 1 MB, "
        f"{figures['assumedSecondsACall'] * 1000:.0f} ms for each call; in all: CPU at a function's share)"
    )
    yield report.table(title, columns, rows)


def command(*, as_json: Json = False) -> None:
    """Measure what a sweep over up to 500,000 open orders takes.

    The CPU time is measured, AWS's time assumed. Ends with exit code 5 if the sweep can't look at 200,000 orders in
    its minute.
    """
    figures = run()
    report.deliver("sweep", figures, shown(figures), as_json=as_json)
    if not all(case["lookedAtAll"] for case in figures["cases"] if case["open"] <= 200_000):
        raise Stop(Exit.NOT_AS_EXPECTED, "A sweep over 200,000 open orders takes longer than its minute.")
