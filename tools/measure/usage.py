"""Counts what an order uses of AWS, on the running local cloud, one order at a time.

Nothing is estimated here. API calls come from CloudTrail. Invocations, their duration and log bytes come from
CloudWatch Logs. What the workflow did comes from its log, which is at level ALL meanwhile. Write units come from the
images in the orders table's stream, and from the items that other calls wrote. One order at a time means batches of
one, the dearest case.
"""

from __future__ import annotations

import hashlib
import json
import re
import statistics
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import httpx

from measure import placing, template
from orderctl.demo import samples
from orderctl.exits import Exit, Stop
from orderctl.stack import rest, signin
from orderctl.stack.target import Target
from orders.domain.order import Status
from orders.inbox.parse import component_of

KB = 1024
LOG_EVENT_OVERHEAD = 26  # bytes that CloudWatch Logs adds to each event it bills (PutLogEvents)
QUIET_S = 0.8
END_TIMEOUT_S = 120.0
# Written by TransactWriteItems, which takes two units for each of a plain write's.
TRANSACTIONAL = {Status.RESERVED, Status.FULFILLED, Status.FAILED, Status.CANCELLED}
UNTOUCHED_BY_TRANSACTION = {"OrderFailed"}  # the state that writes FAILED by a plain UpdateItem
EXECUTION_DATA = ("input", "output", "parameters")  # in a log line only with IncludeExecutionData
_REPORT = re.compile(r"REPORT RequestId: \S+\tDuration: ([\d.]+) ms")


def item_bytes(item: dict[str, Any]) -> int:
    """Return an item's size as DynamoDB counts it: names and values, 3 bytes a list or map, 1 an element."""
    return sum(len(name.encode()) + _value_bytes(value) for name, value in item.items())


def _value_bytes(attribute: dict[str, Any]) -> int:
    ((kind, value),) = attribute.items()
    match kind:
        case "S":
            return len(value.encode())
        case "N":
            digits = len(str(value).lstrip("-").replace(".", "").strip("0"))
            return (digits + 1) // 2 + 1
        case "L":
            return 3 + sum(1 + _value_bytes(element) for element in value)
        case "M":
            return 3 + len(value) + item_bytes(value)
        case "B":
            return len(value)
    return 1


def write_units(size: int) -> int:
    """Return the write request units of an item of `size` bytes: one for each KB begun."""
    return max(1, -(-size // KB))


def read_units(size: int, *, consistent: bool) -> float:
    """Return the read request units of an item of `size` bytes: one for each 4 KB begun, half if not consistent."""
    return max(1, -(-size // (4 * KB))) * (1.0 if consistent else 0.5)


def order_write_units(before: dict[str, Any] | None, after: dict[str, Any], *, transactional: bool) -> dict[str, int]:
    """Return the write units of one change of an order item, for the table and for each index it touches."""
    size = max(item_bytes(before or {}), item_bytes(after))
    units = {"OrdersTable": write_units(size) * (2 if transactional else 1)}
    for name, index in template.indexes_of("OrdersTable").items():
        written = index_write_units(_entry(before or {}, index), _entry(after, index), index)
        if written:
            units[name] = written
    return units


def _entry(item: dict[str, Any], index: template.Index) -> dict[str, Any]:
    """Return an item's entry in an index: empty where the item lacks an attribute of the index's key."""
    if any(attribute not in item for attribute in index.key):
        return {}
    return {name: value for name, value in item.items() if index.projected is None or name in index.projected}


def index_write_units(before: dict[str, Any], after: dict[str, Any], index: template.Index) -> int:
    """Return the write units of an index entry's change; an entry that doesn't exist is empty.

    An entry whose key changes is removed and put anew. A transaction doesn't double the units.
    """
    if before == after:
        return 0
    if before and after and all(before[attribute] == after[attribute] for attribute in index.key):
        return write_units(max(item_bytes(before), item_bytes(after)))
    return sum(write_units(item_bytes(entry)) for entry in (before, after) if entry)


class Meter:
    """Counts on one target. Stop(USAGE) if the target isn't a local cloud."""

    def __init__(self, target: Target) -> None:
        if target.endpoint is None:
            raise Stop(Exit.USAGE, "Usage is counted on the local cloud only.", "Leave --stack out.")
        self._target = target
        self._api = rest.OrdersApi(target.api_url, signin.token_source(target, None, None))
        self._seen: set[str] = set()
        self._stream: str | None = None
        self._last_order_id = ""
        self._workflow_logs = ""
        self._functions: dict[str, dict[str, Any]] = {}
        self._keys: dict[str, str] = {}
        by_the_clock = template.runs_a_month()  # however many orders there are
        lambdas = target.client("lambda")
        for page in lambdas.get_paginator("list_functions").paginate():
            for function in page["Functions"]:
                name = _resource(function["FunctionName"])
                if f"{name}Function" in by_the_clock:
                    continue
                self._functions[name] = function
                versions = lambdas.list_versions_by_function(FunctionName=function["FunctionName"])["Versions"]
                for version in [function, *versions]:
                    # How MiniStack derives the key of a function's role.
                    digest = hashlib.sha256(f"{version['FunctionArn']}:{version['Role']}".encode()).hexdigest()
                    self._keys[f"ASIA{digest[:16].upper()}"] = name

    def measure(self, journeys: list[str], orders: int) -> dict[str, Any]:
        """Return the mean usage of `orders` orders of each sample order named, and of one read."""
        with self._recording():
            for _ in range(3):
                self._one(samples.read_order(journeys[0]))  # cold starts are no part of it
            counted = {
                journey: mean([self._one(samples.read_order(journey)) for _ in range(orders)]) for journey in journeys
            }
            read = mean([self._read() for _ in range(orders)])
        return {
            "measuredAt": datetime.now(UTC).date().isoformat(),
            "measuredOn": "the local cloud, one order at a time, warm",
            "ordersEach": orders,
            "journeys": counted,
            "read": read,
        }

    @contextmanager
    def _recording(self) -> Iterator[None]:
        """Have every API call in CloudTrail, and every event of the workflow in its log."""
        workflows, machine = self._target.client("stepfunctions"), self._target.output("StateMachineArn")
        logging = workflows.describe_state_machine(stateMachineArn=machine)["loggingConfiguration"]
        everything = {**logging, "level": "ALL", "includeExecutionData": True}

        def switch(on: str) -> None:
            url = f"{self._target.endpoint}/_ministack/config"
            httpx.post(url, json={"cloudtrail._recording_enabled": on}, trust_env=False).raise_for_status()

        workflows.update_state_machine(stateMachineArn=machine, loggingConfiguration=everything)
        arn = logging["destinations"][0]["cloudWatchLogsLogGroup"]["logGroupArn"]
        self._workflow_logs = arn.partition(":log-group:")[2].removesuffix(":*")
        switch("true")
        try:
            yield
        finally:
            switch("false")
            workflows.update_state_machine(stateMachineArn=machine, loggingConfiguration=logging)

    def _one(self, body: str | bytes) -> dict[str, Any]:
        """Place an order, wait until no function makes a call any more, and count."""
        self._stream_records()  # skips those of earlier orders
        began = time.time()
        answer = self._api.submit(body, str(uuid.uuid4()))
        rest.require_success(answer)
        order_id = answer.json()["orderId"]
        placing.wait_until_ended(self._target, order_id, END_TIMEOUT_S)
        self._last_order_id = order_id
        calls = self._settled_calls(began)
        usage = self._count(began, calls)
        if not usage["functions"]["AcceptOrder"]["calls"]:
            raise Stop(
                Exit.NOT_AS_EXPECTED,
                "CloudTrail has no call of accept_order.",
                "Does MiniStack derive the access key of a function's role in another way than measure/usage.py?",
            )
        usage["api"] = {"requests": 1, "responseBytes": len(answer.content) + len(str(answer.headers))}
        usage["workflow"] = self._workflow(began)
        self._add_order_writes(usage, order_id)
        for table, units in usage["workflow"].pop("writeUnits").items():
            usage["writeUnits"][table] = usage["writeUnits"].get(table, 0) + units
        usage["queues"] = {
            "FulfilmentQueue": usage["workflow"]["calls"].get("sqs:sendMessage", 0),
            "NotificationsQueue": self._deliveries(calls, self._target.output("NotificationsQueueUrl")),
        }
        return usage

    def _read(self) -> dict[str, Any]:
        for _ in range(2):  # the first may be a cold start, which is no part of the count
            began = time.time()
            self._api.order(self._last_order_id)
            calls = self._settled_calls(began)
        return self._count(began, calls)

    def _settled_calls(self, began: float) -> list[tuple[str, dict[str, Any]]]:
        """Return the functions' calls since `began`, once there has been no new call for QUIET_S."""
        found: dict[str, tuple[str, dict[str, Any]]] = {}
        last = time.monotonic()
        trail = self._target.client("cloudtrail")
        while time.monotonic() - last < QUIET_S:
            for key, function in self._keys.items():
                events = trail.lookup_events(
                    StartTime=int(began), LookupAttributes=[{"AttributeKey": "AccessKeyId", "AttributeValue": key}]
                )["Events"]
                for event in events:
                    if event["EventId"] not in self._seen:
                        self._seen.add(event["EventId"])
                        found[event["EventId"]] = (function, json.loads(event["CloudTrailEvent"]))
                        last = time.monotonic()
            time.sleep(0.1)
        return list(found.values())

    def _count(self, began: float, calls: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
        functions = self._invocations(began)
        usage: dict[str, Any] = {
            "functions": functions,
            "events": {"published": 0, "bytes": 0},
            "objects": {"puts": 0},
            "writeUnits": {},
            "readUnits": {},
        }
        for function, event in calls:
            service = event["eventSource"].partition(".")[0]
            name, request = event["eventName"], event["requestParameters"] or {}
            entry = functions.setdefault(function, {"invocations": 0, "calls": {}})
            entry["calls"][f"{service}:{name}"] = entry["calls"].get(f"{service}:{name}", 0) + 1
            if name == "PutEvents":
                usage["events"]["published"] += len(request["Entries"])
                usage["events"]["bytes"] += sum(len(item["Detail"].encode()) for item in request["Entries"])
            elif name == "PutObject":
                usage["objects"]["puts"] += 1
            elif service == "dynamodb":
                self._count_items(usage, name, request)
        return usage

    def _count_items(self, usage: dict[str, Any], name: str, request: dict[str, Any]) -> None:
        if name == "BatchGetItem":
            for table, wanted in request["RequestItems"].items():
                halves = len(wanted["Keys"]) * 0.5
                usage["readUnits"][_resource(table)] = usage["readUnits"].get(_resource(table), 0) + halves
            return
        if name == "TransactWriteItems":
            _count_transaction(usage, request)
            return
        table = _resource(request["TableName"])
        if table == "OrdersTable" and name != "GetItem":
            return  # counted from the stream, which has the item before and after
        item = request.get("Item")
        if item is None:
            found = self._target.client("dynamodb").get_item(
                TableName=request["TableName"], Key=request["Key"], ConsistentRead=True
            )
            item = found.get("Item", {})
        if name == "GetItem":
            units = read_units(item_bytes(item), consistent=bool(request.get("ConsistentRead")))
            usage["readUnits"][table] = usage["readUnits"].get(table, 0) + units
        else:
            usage["writeUnits"][table] = usage["writeUnits"].get(table, 0) + write_units(item_bytes(item))

    def _invocations(self, began: float) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        logs = self._target.client("logs")
        for name, function in self._functions.items():
            pages = logs.get_paginator("filter_log_events").paginate(
                logGroupName=function["LoggingConfig"]["LogGroup"], startTime=int(began * 1000)
            )
            messages = [event["message"] for page in pages for event in page["events"]]
            durations = [float(match[1]) for message in messages if (match := _REPORT.match(message))]
            if not durations:
                continue
            sizes: Counter[str] = Counter()
            for message in messages:
                kind = "metrics" if '"_aws"' in message else "application" if message[:1] == "{" else "platform"
                sizes[kind] += len(message.encode()) + LOG_EVENT_OVERHEAD
            found[name] = {
                "invocations": len(durations),
                "durationMs": sum(durations),
                "memoryMb": function["MemorySize"],
                "logBytes": dict(sizes),
                "calls": {},
            }
        return found

    def _workflow(self, began: float) -> dict[str, Any]:
        """Return what the workflow's executions since `began` did, by its log."""
        pages = (
            self._target.client("logs")
            .get_paginator("filter_log_events")
            .paginate(logGroupName=self._workflow_logs, startTime=int(began * 1000))
        )
        return workflow_usage([json.loads(event["message"]) for page in pages for event in page["events"]])

    def _add_order_writes(self, usage: dict[str, Any], order_id: str) -> None:
        plain_failure = UNTOUCHED_BY_TRANSACTION & usage["workflow"]["states"].keys()
        usage["stream"] = {"records": 0}
        for record in self._stream_records():
            change = record["dynamodb"]
            if change["Keys"]["orderId"]["S"] != order_id or "NewImage" not in change:
                continue
            usage["stream"]["records"] += 1
            before, after = change.get("OldImage"), change["NewImage"]
            moved = before is not None and before["status"] != after["status"]
            transactional = moved and after["status"]["S"] in TRANSACTIONAL and not plain_failure
            for table, units in order_write_units(before, after, transactional=transactional).items():
                usage["writeUnits"][table] = usage["writeUnits"].get(table, 0) + units
            usage["storage"] = {"orderBytes": item_bytes(after) + 100}  # 100: DynamoDB's overhead of an item

    def _stream_records(self) -> list[dict[str, Any]]:
        streams = self._target.client("dynamodbstreams")
        if self._stream is None:
            table = self._target.client("dynamodb").describe_table(TableName=self._target.output("OrdersTable"))
            arn = table["Table"]["LatestStreamArn"]
            shard = streams.describe_stream(StreamArn=arn)["StreamDescription"]["Shards"][-1]["ShardId"]
            self._stream = streams.get_shard_iterator(StreamArn=arn, ShardId=shard, ShardIteratorType="TRIM_HORIZON")[
                "ShardIterator"
            ]
        found: list[dict[str, Any]] = []
        while True:
            page = streams.get_records(ShardIterator=self._stream)
            self._stream = page["NextShardIterator"]
            found += page["Records"]
            if not page["Records"]:
                return found

    def _deliveries(self, calls: list[tuple[str, dict[str, Any]]], queue_url: str) -> int:
        """Return how many of the published events the bus's rules send to a queue."""
        events = self._target.client("events")
        bus, queue = self._target.output("EventBusName"), queue_url.rsplit("/", 1)[1]
        entries = [
            entry
            for _, event in calls
            if event["eventName"] == "PutEvents"
            for entry in event["requestParameters"]["Entries"]
        ]
        count = 0
        for rule in events.list_rules(EventBusName=bus)["Rules"]:
            targets = events.list_targets_by_rule(Rule=rule["Name"], EventBusName=bus)["Targets"]
            if not any(target["Arn"].endswith(f":{queue}") for target in targets):
                continue
            pattern = json.loads(rule["EventPattern"])
            count += sum(
                entry["Source"] in pattern.get("source", [entry["Source"]])
                and entry["DetailType"] in pattern.get("detail-type", [entry["DetailType"]])
                for entry in entries
            )
        return count


def workflow_usage(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what executions did, from all lines of their log.

    `transitions` are those that a Standard workflow would be billed for. `logBytes` are those of level ALL, without
    execution data. `seconds` are those of all executions together.
    """
    usage: dict[str, Any] = {
        "executions": 0,
        "transitions": 0,
        "states": {},
        "calls": {},
        "seconds": 0.0,
        "logBytes": 0,
        "writeUnits": {},
    }
    executions: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        executions.setdefault(line["execution_arn"], []).append(line)
    for events in executions.values():
        events.sort(key=lambda event: int(event["id"]))
        usage["executions"] += 1
        usage["seconds"] += (int(events[-1]["event_timestamp"]) - int(events[0]["event_timestamp"])) / 1000
        state = ""
        for event in events:
            usage["logBytes"] += len(json.dumps(_without_data(event), separators=(",", ":"))) + LOG_EVENT_OVERHEAD
            kind, details = event["type"], event["details"]
            if kind.endswith("StateEntered"):
                state = details["name"]
                usage["states"].setdefault(state, 0)
            if kind == "TaskScheduled":
                _count_task(usage, details)
            if kind == "TaskScheduled" or (kind.endswith("StateEntered") and kind != "TaskStateEntered"):
                # A retry is a transition too: it schedules the task once more.
                usage["states"][state] += 1
    usage["transitions"] = sum(usage["states"].values())
    return usage


def _without_data(event: dict[str, Any]) -> dict[str, Any]:
    hidden = {*EXECUTION_DATA, *(f"{name}Details" for name in EXECUTION_DATA)}
    return {**event, "details": {name: value for name, value in event["details"].items() if name not in hidden}}


def _count_task(usage: dict[str, Any], scheduled: dict[str, Any]) -> None:
    call = f"{scheduled['resourceType'].removeprefix('aws-sdk:')}:{scheduled['resource']}"
    usage["calls"][call] = usage["calls"].get(call, 0) + 1
    if scheduled["resource"] != "transactWriteItems":
        return
    _count_transaction(usage, json.loads(scheduled["parameters"]))


def _count_transaction(usage: dict[str, Any], request: dict[str, Any]) -> None:
    for item in request["TransactItems"]:
        ((_, write),) = item.items()
        table = _resource(write["TableName"])
        if table != "OrdersTable":  # counted from the stream
            usage["writeUnits"][table] = usage["writeUnits"].get(table, 0) + 2  # products are below 1 KB


def _resource(physical: str) -> str:
    """Return the name under which usage.json counts a function or table: the template's, without "Function"."""
    return component_of(physical).removesuffix("Function")


def mean(usages: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean of counts of the same shape; a key that one lacks counts as 0 there.

    Of durations it returns the median: one slow invocation on a busy laptop says nothing of the others.
    """
    result: dict[str, Any] = {}
    for key in dict.fromkeys(key for usage in usages for key in usage):
        values = [usage.get(key, 0) for usage in usages]
        if any(isinstance(value, dict) for value in values):
            result[key] = mean([value or {} for value in values])
        elif key in {"durationMs", "seconds"}:
            result[key] = round(statistics.median(values), 2)
        else:
            result[key] = round(statistics.fmean(values), 3)
    return result
