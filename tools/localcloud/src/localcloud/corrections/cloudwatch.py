"""Logs and metrics of Lambda functions, and FilterLogEvents."""

import heapq
import json
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from ministack.core.responses import error_response_json, json_response
from ministack.services import cloudwatch, cloudwatch_logs, lambda_svc

from localcloud.corrections.lambda_environments import current_log_stream
from localcloud.patching import Correction, internal, replace
from localcloud.settings import Settings

JsonObject = dict[str, Any]

MAX_PAGE = 10_000

_append_lock = threading.Lock()


@dataclass(frozen=True)
class Metric:
    """One value of a metric."""

    namespace: str
    name: str
    value: float
    unit: str
    dimensions: dict[str, str]


def embedded_metrics(line: str) -> Iterator[Metric]:
    """Yield the metrics of a log line in Embedded Metric Format; nothing for any other line."""
    if '"_aws"' not in line:
        return
    try:
        document = json.loads(line)
        directives = document["_aws"]["CloudWatchMetrics"]
        for directive in directives:
            sets = directive.get("Dimensions") or [[]]
            for names, definition in product(sets, directive["Metrics"]):
                values = document[definition["Name"]]
                dimensions = {name: str(document[name]) for name in names}
                for value in values if isinstance(values, list) else [values]:
                    yield Metric(
                        directive["Namespace"],
                        definition["Name"],
                        float(value),
                        definition.get("Unit", "None"),
                        dimensions,
                    )
    except (KeyError, TypeError, ValueError):
        return  # CloudWatch keeps such a line as text


def log_events(text: str) -> list[str]:
    """Return a runtime's output as events. The runtime writes a carriage return for a line break within an event."""
    return [line.replace("\r", "\n") for line in text.split("\n")] if text else []


def append_events(group_name: str, stream_name: str, messages: list[str]) -> None:
    """Append messages to a stream of a log group; creates a missing stream. Raises KeyError without the group."""
    group = internal(cloudwatch_logs, "_log_groups")[group_name]
    # MiniStack copies a stream whose events come out of order.
    with _append_lock:
        if stream_name not in group["streams"]:
            internal(cloudwatch_logs, "_create_log_stream")(
                {"logGroupName": group_name, "logStreamName": stream_name}
            )
        now_ms = int(time.time() * 1000)
        events = [{"timestamp": now_ms, "message": message, "ingestionTime": now_ms} for message in messages]
        internal(cloudwatch_logs, "_append_log_events")(group["streams"][stream_name], events)
    internal(cloudwatch_logs, "_fanout_to_subscription_filters")(group_name, stream_name, events)


def install_logs(_: Settings) -> None:
    """Write an invocation's log to its environment's stream."""
    for name in ("_append_log_events", "_fanout_to_subscription_filters", "_create_log_group", "_create_log_stream"):
        internal(cloudwatch_logs, name)

    def emit_lambda_logs(
        func: JsonObject,
        request_id: str,
        text: str,
        error: bool,
        duration_ms: int,
        **_options: Any,
    ) -> None:
        config = func.get("config") or func
        function, version = config["FunctionName"], config.get("Version", "$LATEST")
        group_name = (config.get("LoggingConfig") or {}).get("LogGroup") or f"/aws/lambda/{function}"
        if group_name not in internal(cloudwatch_logs, "_log_groups"):
            internal(cloudwatch_logs, "_create_log_group")({"logGroupName": group_name})
        billed = max(duration_ms, 1)
        messages = [
            f"START RequestId: {request_id} Version: {version}",
            *log_events(text),
            f"END RequestId: {request_id}",
            f"REPORT RequestId: {request_id}\tDuration: {duration_ms:.2f} ms\tBilled Duration: {billed} ms\t"
            f"Memory Size: {config.get('MemorySize', 128)} MB",
        ]
        append_events(group_name, current_log_stream.get(), messages)

    replace(lambda_svc, "_emit_lambda_logs", emit_lambda_logs)


def install_metrics(_: Settings) -> None:
    """Count every invocation once, and extract embedded metrics."""
    record = internal(cloudwatch, "record_metric")
    emit_logs = internal(lambda_svc, "_emit_lambda_logs")

    def emit_lambda_logs(
        func: JsonObject, request_id: str, text: str, error: bool, duration_ms: int, **options: Any
    ) -> None:
        # Invocations of every service pass here.
        emit_logs(func, request_id, text, error, duration_ms, **options)
        dimensions = {"FunctionName": (func.get("config") or func)["FunctionName"]}
        record("AWS/Lambda", "Invocations", 1, "Count", dimensions)
        record("AWS/Lambda", "Errors", int(error), "Count", dimensions)
        record("AWS/Lambda", "Duration", duration_ms, "Milliseconds", dimensions)
        for line in text.split("\n"):
            for metric in embedded_metrics(line):
                record(metric.namespace, metric.name, metric.value, metric.unit, metric.dimensions)

    def emit_lambda_metrics(function_name: str, duration_ms: float, error: bool, throttle: bool) -> None:
        # Invoke reports a throttled request a second time, then with a duration.
        if throttle and not duration_ms:
            record("AWS/Lambda", "Throttles", 1, "Count", {"FunctionName": function_name})

    replace(lambda_svc, "_emit_lambda_logs", emit_lambda_logs)
    replace(lambda_svc, "_emit_lambda_metrics", emit_lambda_metrics)


@dataclass(frozen=True)
class Position:
    """The end of a page of a search: the time of its last event, and the number of events given with that time."""

    timestamp: int
    given: int

    @classmethod
    def of_token(cls, token: str) -> "Position":
        """Return the position that a nextToken stands for. Raises ValueError for any other text."""
        timestamp, _, given = token.partition("/")
        return cls(int(timestamp), int(given))

    def after(self, page: list[JsonObject]) -> str:
        """Return the nextToken of a page that begins at this position."""
        last = page[-1]["timestamp"]
        given = sum(event["timestamp"] == last for event in page)
        return f"{last}/{given + (self.given if last == self.timestamp else 0)}"


def _time(event: JsonObject) -> int:
    return int(event["timestamp"])


def _order(event: JsonObject) -> tuple[int, int]:
    return _time(event), int(event.get("ingestionTime", 0))


def events_of(group: JsonObject, names: list[str], start: int, end: int | None) -> Iterator[JsonObject]:
    """Return the events of a group's streams from `start` to `end`, both included, in the order of their times."""
    found = []
    with internal(cloudwatch_logs, "_log_events_lock"):
        for name in names:
            if name in group["streams"]:
                history = group["streams"][name]["events"]
                last = len(history) if end is None else bisect_right(history, end, key=_time)
                events = history[bisect_left(history, start, key=_time) : last]
                found.append([{**event, "logStreamName": name} for event in events])
    return heapq.merge(*found, key=_order)


def install_search(_: Settings) -> None:
    """Give each page of FilterLogEvents but the last a nextToken."""
    groups = internal(cloudwatch_logs, "_log_groups")
    name_of = internal(cloudwatch_logs, "_resolve_log_group_name")
    compile_pattern = internal(cloudwatch_logs, "_compile_filter_pattern")
    search = internal(cloudwatch_logs, "_filter_log_events")

    def filter_log_events(request: JsonObject) -> Any:
        name, token, start = name_of(request), request.get("nextToken"), request.get("startTime") or 0
        if name not in groups:
            return search(request)  # answers ResourceNotFoundException
        try:
            position = Position.of_token(token) if token else Position(start, 0)
        except ValueError:
            return error_response_json("InvalidParameterException", "The specified nextToken is invalid.", 400)
        matches = compile_pattern(request.get("filterPattern", ""))
        limit = min(request.get("limit") or MAX_PAGE, MAX_PAGE)
        names = request.get("logStreamNames") or list(groups[name]["streams"])
        page: list[JsonObject] = []
        answer: JsonObject = {"events": page, "searchedLogStreams": []}
        skip = position.given
        for event in events_of(groups[name], names, max(start, position.timestamp), request.get("endTime")):
            if not matches(event.get("message", "")):
                continue
            if skip and event["timestamp"] == position.timestamp:
                skip -= 1
            elif len(page) == limit:
                answer["nextToken"] = position.after(page)
                break
            else:
                page.append(event)
        return json_response(answer)

    replace(cloudwatch_logs, "_filter_log_events", filter_log_events)


CORRECTIONS = (
    Correction(
        name="logs-filter-pages",
        service="CloudWatch Logs",
        aws="A page of FilterLogEvents has up to 10,000 events, and a nextToken if more may follow.",
        ministack="The answer ends after 10,000 events, without a nextToken.",
        here="Each page but the last has a nextToken.",
        install=install_search,
    ),
    Correction(
        name="lambda-logs",
        service="CloudWatch Logs",
        aws=(
            "An environment has one log stream, the one that its context names. START, END and REPORT frame each "
            "invocation. A stack trace is one event."
        ),
        ministack="Each invocation has a stream of its own; each line is an event.",
        here="One log stream for each environment, one event for each error.",
        install=install_logs,
    ),
    Correction(
        name="cloudwatch-metrics",
        service="CloudWatch",
        aws=(
            "Every invocation counts in AWS/Lambda, whichever service asked for it. A log line in Embedded Metric "
            "Format becomes metrics."
        ),
        ministack="Only direct invocations count. Embedded metrics are ignored.",
        here="Every invocation counts once; embedded metrics are extracted.",
        install=install_metrics,
    ),
)
