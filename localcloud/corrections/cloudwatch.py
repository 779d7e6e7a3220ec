"""What Lambda writes to CloudWatch: logs, and metrics.

AWS documents: an execution environment has one log stream, the one that its context names; START, END and
REPORT frame each invocation; a multi-line error is one event. Every invocation, whoever asked for it, counts
in AWS/Lambda. A log line in Embedded Metric Format becomes metrics.

MiniStack 1.5.33: makes a stream for each invocation and an event of each line, counts direct invocations only,
and takes no notice of embedded metrics.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from ministack.services import cloudwatch, cloudwatch_logs, lambda_svc

from localcloud.corrections.lambda_environments import current_log_stream
from localcloud.patching import Correction, internal, replace
from localcloud.settings import Settings

JsonObject = dict[str, Any]


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
    """Return a runtime's output as events; it writes a carriage return for a line break within an event."""
    return [line.replace("\r", "\n") for line in text.split("\n")] if text else []


def log_group(name: str) -> JsonObject:
    """Return a log group, made if it is missing."""
    groups = internal(cloudwatch_logs, "_log_groups")
    if name not in groups:
        internal(cloudwatch_logs, "_create_log_group")({"logGroupName": name})
    group: JsonObject = groups[name]
    return group


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
        stream_name = current_log_stream.get()
        group = log_group(group_name)
        if stream_name not in group["streams"]:
            internal(cloudwatch_logs, "_create_log_stream")(
                {"logGroupName": group_name, "logStreamName": stream_name}
            )
        now_ms = int(time.time() * 1000)
        billed = max(duration_ms, 1)
        messages = [
            f"START RequestId: {request_id} Version: {version}",
            *log_events(text),
            f"END RequestId: {request_id}",
            f"REPORT RequestId: {request_id}\tDuration: {duration_ms:.2f} ms\tBilled Duration: {billed} ms\t"
            f"Memory Size: {config.get('MemorySize', 128)} MB",
        ]
        events = [{"timestamp": now_ms, "message": message, "ingestionTime": now_ms} for message in messages]
        internal(cloudwatch_logs, "_append_log_events")(group["streams"][stream_name], events)
        internal(cloudwatch_logs, "_fanout_to_subscription_filters")(group_name, stream_name, events)

    replace(lambda_svc, "_emit_lambda_logs", emit_lambda_logs)


def install_metrics(_: Settings) -> None:
    """Count every invocation once, and extract embedded metrics."""
    record = internal(cloudwatch, "record_metric")
    emit_logs = internal(lambda_svc, "_emit_lambda_logs")

    def emit_lambda_logs(
        func: JsonObject, request_id: str, text: str, error: bool, duration_ms: int, **options: Any
    ) -> None:
        # All invocations pass here, whichever service asked for them.
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


CORRECTIONS = (
    Correction("lambda-logs", "One log stream for each environment, one event for each error", install_logs),
    Correction("cloudwatch-metrics", "Every invocation counts once; embedded metrics are extracted", install_metrics),
)
