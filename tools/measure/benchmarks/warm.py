"""What an accepted order costs in CPU once the function is warm: `python -m measure.benchmarks.warm`.

Our `accept_order` and a reference handler run in processes of their own, block by block in turn, each block
in another order, so that a busy machine slows both alike: the ratio is the result, the microseconds are for
orientation. AWS is left out in two places: at botocore's `before-send`, so that all of the SDK but the socket
is counted, and at the client's `put_item`, so that only the code in front of the SDK is.

`python -m measure.benchmarks.warm --profile` shows where the time of our handler goes.
"""

# ruff: noqa: T201 - what a benchmark finds goes to stdout
from __future__ import annotations

import argparse
import cProfile
import importlib
import json
import os
import pstats
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[3]
HANDLERS = {
    "ours": "orders.functions.accept_order",
    "reference": "measure.benchmarks.warm_references.handler",
    "floor": "measure.benchmarks.warm_references.floor",
}
STUBS = {"http": "AWS stubbed at before-send", "client": "client stubbed"}
GOALS = {"http": 1000, "client": 220}
GOAL_RATIO = 0.75
TRACE = "Root=1-67891233-abcdef012345678912345678;Parent=53995c3f42cd8ad8;Sampled="


def event() -> dict[str, Any]:
    """API Gateway's proxy event for a REST POST /orders with three lines, as it comes from AWS."""
    body = {
        "currency": "EUR",
        "lines": [
            {"sku": "TEA-ASSAM-250", "quantity": 2},
            {"sku": "CUP-STONEWARE", "quantity": 1},
            {"sku": "TEA-DARJEELING-100", "quantity": 3},
        ],
        "shippingAddress": {
            "name": "Ada Lovelace",
            "line1": "12 St James's Square",
            "city": "London",
            "postalCode": "SW1Y 4JH",
            "country": "GB",
        },
        "paymentMethod": "tok_visa",
    }
    headers = {
        "Accept": "*/*",
        "Accept-Encoding": "gzip, deflate",
        "Authorization": "Bearer " + "e" * 900,
        "Content-Type": "application/json",
        "Host": "abcdefghij.execute-api.us-east-1.amazonaws.com",
        "Idempotency-Key": "5f0c9a5e-30c5-4f1c-9d5c-3a1f0f6f9b11",
        "User-Agent": "python-httpx/0.28.1",
        "X-Amzn-Trace-Id": "Root=1-67891233-abcdef012345678912345678",
        "X-Forwarded-For": "203.0.113.7",
        "X-Forwarded-Port": "443",
        "X-Forwarded-Proto": "https",
    }
    return {
        "resource": "/orders",
        "path": "/orders",
        "httpMethod": "POST",
        "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "queryStringParameters": None,
        "multiValueQueryStringParameters": None,
        "pathParameters": None,
        "stageVariables": None,
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "abcdefghij",
            "authorizer": {"claims": {"sub": "a1b2c3d4-0000-4000-8000-000000000001", "email": "ada@example.com"}},
            "httpMethod": "POST",
            "identity": {"sourceIp": "203.0.113.7", "userAgent": "python-httpx/0.28.1"},
            "path": "/v1/orders",
            "protocol": "HTTP/1.1",
            "requestId": "c6af9ac6-7b61-11e6-9a41-93e8deadbeef",
            "resourcePath": "/orders",
            "stage": "v1",
        },
        "body": json.dumps(body),
        "isBase64Encoded": False,
    }


def environment(sampled: bool) -> dict[str, str]:
    """A function's environment; nothing answers at any address in it."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tools")]),
        "PYTHONHASHSEED": "0",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_SESSION_TOKEN": "t" * 600,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_LAMBDA_FUNCTION_NAME": "orders-AcceptOrderFunction-AbCdEfGhIjKl",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
        "AWS_LAMBDA_LOG_GROUP_NAME": "orders-AcceptOrderLogs-AbCdEfGhIjKl",
        "AWS_XRAY_DAEMON_ADDRESS": "127.0.0.1:2000",
        "LAMBDA_TASK_ROOT": str(ROOT / "src"),
        "_X_AMZN_TRACE_ID": f"{TRACE}{int(sampled)}",
        "LOG_LEVEL": "INFO",
        "POWERTOOLS_SERVICE_NAME": "orders",
        "POWERTOOLS_METRICS_NAMESPACE": "OrderPipeline",
        "ORDERS_TABLE": "orders-OrdersTable-AbCdEfGhIjKl",
        "CATALOGUE_TABLE": "orders-CatalogueTable-AbCdEfGhIjKl",
    }


def context() -> Any:
    """A function's context, as far as Powertools reads it."""
    return SimpleNamespace(
        function_name="orders-AcceptOrderFunction-AbCdEfGhIjKl",
        function_version="$LATEST",
        memory_limit_in_mb=512,
        invoked_function_arn="arn:aws:lambda:us-east-1:123456789012:function:orders-AcceptOrderFunction",
        aws_request_id="8f5a5f4e-7c0b-4b7e-9a41-93e8deadbeef",
        log_group_name="orders-AcceptOrderLogs-AbCdEfGhIjKl",
        log_stream_name="2026/01/01/[$LATEST]abcdef",
        get_remaining_time_in_millis=lambda: 10_000,
    )


def stub_http(client: Any) -> None:
    """Answer every request of a client as DynamoDB answers a PutItem, without a socket."""
    from botocore.awsrequest import AWSResponse  # noqa: PLC0415 - the worker's import, not the parent's

    class Raw:
        def stream(self, **_: Any) -> Any:
            yield b"{}"

    headers: Any = {
        "Server": "Server",
        "Content-Type": "application/x-amz-json-1.0",
        "Content-Length": "2",
        "x-amzn-RequestId": "UB1KMNV2HHHV3Q8VVCKA0S7RNBVV4KQNSO5AEMVJF66Q9ASUAAJG",
        "x-amz-crc32": "2745614147",
    }

    def answer(request: Any, **_: Any) -> Any:
        return AWSResponse(request.url, 200, headers, Raw())

    client.meta.events.register("before-send.dynamodb.PutItem", answer)


def work(handler: str, stub: str, lines: IO[str], profile: int) -> None:
    """A worker: for each number read, handle so many events and write the CPU seconds that they took."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # where the function's log goes
    module = importlib.import_module(HANDLERS[handler])
    if handler != "floor":
        client = module._orders._client if handler == "ours" else module.dynamodb
        if stub == "http":
            stub_http(client)
        else:
            client.put_item = lambda **_: {}
    handle, trigger, where = module.handler, event(), context()
    if handle(trigger, where)["statusCode"] != 202:
        raise SystemExit(f"{handler}: the order was not accepted")
    if profile:
        profiler = cProfile.Profile()
        profiler.runcall(lambda: [handle(trigger, where) for _ in range(profile)])
        pstats.Stats(profiler, stream=answers).sort_stats("cumtime").print_stats(60)
        answers.flush()
        return
    for line in lines:
        began = time.process_time()
        for _ in range(int(line)):
            handle(trigger, where)
        print(time.process_time() - began, file=answers, flush=True)


class Worker:
    """One handler in a process of its own."""

    def __init__(self, handler: str, stub: str, sampled: bool) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "measure.benchmarks.warm", "--worker", handler, "--stub", stub],
            env=environment(sampled),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.block_us: list[float] = []

    def run(self, calls: int) -> float:
        """Handle so many events; returns microseconds of CPU an event."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the worker has no pipes")
        print(calls, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a worker ended early")
        return float(line) / calls * 1e6

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(timeout=10)


def measure(rounds: int, calls: int, sampled: bool) -> dict[str, Any]:
    """Measure every handler with every stub, in turn; medians over `rounds` blocks of `calls` events."""
    workers = {(handler, stub): Worker(handler, stub, sampled) for stub in STUBS for handler in ("ours", "reference")}
    workers["floor", "client"] = Worker("floor", "client", sampled)
    try:
        for worker in workers.values():
            worker.run(100)
        order = list(workers)
        for _ in range(rounds):
            random.shuffle(order)
            for key in order:
                workers[key].block_us.append(workers[key].run(calls))
    finally:
        for worker in workers.values():
            worker.close()
    figures: dict[str, Any] = {"rounds": rounds, "calls": calls, "sampledTrace": sampled}
    for stub in STUBS:
        ours, reference = (workers[handler, stub].block_us for handler in ("ours", "reference"))
        figures[stub] = {
            "oursUs": round(statistics.median(ours), 1),
            "oursMinUs": round(min(ours), 1),
            "referenceUs": round(statistics.median(reference), 1),
            "ratio": round(statistics.median(a / b for a, b in zip(ours, reference, strict=True)), 3),
            "ratioOfMinima": round(min(ours) / min(reference), 3),
            "goalUs": GOALS[stub],
        }
    figures["floorUs"] = round(statistics.median(workers["floor", "client"].block_us), 1)
    figures["goalRatio"] = GOAL_RATIO
    return figures


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=200, help="events a block")
    parser.add_argument("--profile", action="store_true", help="profile our handler instead")
    parser.add_argument("--worker", choices=HANDLERS, help=argparse.SUPPRESS)
    parser.add_argument("--stub", choices=STUBS, default="http")
    options = parser.parse_args()
    if options.worker:
        profile = int(os.environ.get("PROFILE_CALLS", "0"))
        work(options.worker, options.stub, sys.stdin, profile)
        return
    if options.profile:
        command = [sys.executable, "-m", "measure.benchmarks.warm", "--worker", "ours", "--stub", options.stub]
        subprocess.run(command, env={**environment(True), "PROFILE_CALLS": "2000"}, cwd=ROOT, check=True)
        return
    from measure import report  # noqa: PLC0415 - a worker doesn't need it

    measured = {
        name: measure(options.rounds, options.calls, sampled)
        for name, sampled in (("sampled", True), ("notSampled", False))
    }
    rows = [
        [
            f"{STUBS[stub]}, trace {'sampled' if name == 'sampled' else 'not sampled'}",
            *(measured[name][stub][key] for key in ("oursUs", "oursMinUs", "referenceUs", "ratio", "ratioOfMinima")),
            f"<= {GOALS[stub]} us" + (f", <= {GOAL_RATIO}" if stub == "http" else ""),
        ]
        for name in measured
        for stub in STUBS
    ]
    rows += [
        [f"Logger, Tracer and Metrics alone, trace {words}", measured[name]["floorUs"], "", "", "", "", ""]
        for name, words in (("sampled", "sampled"), ("notSampled", "not sampled"))
    ]
    report.table(
        "CPU of an accepted order, warm (microseconds, median of blocks)",
        ["", "ours", "ours min", "reference", "ratio", "of minima", "goal"],
        rows,
    )
    print(f"\n{report.save('warm', measured)}")


if __name__ == "__main__":
    main()
