"""One handler in a process of its own, for `measure warm`: `python -m measure.benchmarks.warm_worker HANDLER STUB`.

The worker reads numbers of events from stdin, one a line. It handles that many events and writes the CPU seconds that
they took. With PROFILE_CALLS in its environment, it writes a profile of that many events instead. It imports little:
memory that the handler doesn't need would slow the garbage collector, and so change the result.
"""

from __future__ import annotations

import cProfile
import importlib
import json
import os
import pstats
import sys
import time
from types import SimpleNamespace
from typing import IO, Any

HANDLERS = {
    "ours": "orders.functions.accept_order",
    "reference": "measure.benchmarks.warm_references.handler",
    "floor": "measure.benchmarks.warm_references.floor",
}
STUBS = {"http": "AWS stubbed at before-send", "client": "client stubbed"}


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
    from botocore.awsrequest import AWSResponse  # noqa: PLC0415 - not where the client is stubbed

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
    """For each number in `lines`, handle that many events and write the CPU seconds that they took.

    With a `profile` above 0, write the profile of that many events instead. SystemExit if the handler refuses one.
    """
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


if __name__ == "__main__":
    work(sys.argv[1], sys.argv[2], sys.stdin, int(os.environ.get("PROFILE_CALLS", "0")))
