"""Step Functions: logs and metrics of executions."""

import json
import uuid
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from ministack.services import cloudwatch, cloudwatch_logs, stepfunctions

from localcloud.corrections.cloudwatch import append_events
from localcloud.corrections.stepfunctions import is_express, watchers
from localcloud.patching import Correction, internal, is_true, resource_handlers
from localcloud.settings import Settings

JsonObject = dict[str, Any]

LONGEST_PAYLOAD = 248 * 1024  # Step Functions developer guide, "Using CloudWatch Logs to log execution history"
BILLED_STEP_MS = 100
ENDS = {
    "ExecutionSucceeded": "ExecutionsSucceeded",
    "ExecutionFailed": "ExecutionsFailed",
    "ExecutionTimedOut": "ExecutionsTimedOut",
    "ExecutionAborted": "ExecutionsAborted",
}


# ---------------------------------------------------------------- logs


def is_logged(level: str, event_type: str) -> bool:
    """Whether a log of this level has events of a type; the developer guide has the table."""
    failed = event_type.endswith(("Failed", "TimedOut", "Aborted"))
    if level == "ERROR":
        return failed or event_type == "FailStateEntered"
    return level == "ALL" or (level == "FATAL" and failed and event_type.startswith("Execution"))


def log_line(execution_arn: str, event: JsonObject, *, with_data: bool) -> str:
    """Return an event of an execution's history as a line of a log; input and output need `with_data`."""
    details = next((dict(value) for name, value in event.items() if name.endswith("EventDetails")), {})
    for name in ("input", "output"):
        payload = details.pop(name, None)
        if with_data and payload is not None:
            details[name] = payload[:LONGEST_PAYLOAD]
            details[f"{name}Details"] = {"truncated": len(payload) > LONGEST_PAYLOAD}
    line = {
        "id": str(event["id"]),
        "type": event["type"],
        "details": details,
        "previous_event_id": str(event.get("previousEventId", 0)),
        "event_timestamp": str(internal(stepfunctions, "_iso_to_epoch_ms")(event["timestamp"])),
        "execution_arn": execution_arn,
        "redrive_count": "0",
    }
    return json.dumps(line, separators=(",", ":"))


@lru_cache(maxsize=1024)
def stream_of(machine_arn: str) -> str:
    """Return the log stream of a state machine in this server's life."""
    machine = machine_arn.rsplit(":", 1)[-1]
    return f"states/{machine}/{datetime.now(UTC):%Y-%m-%d-%H-%M}/{uuid.uuid4().hex[:8]}"


def log_event(machine: JsonObject, execution: JsonObject, event: JsonObject) -> None:
    """Write an event of an execution to its machine's log group, if the group exists."""
    configuration = machine.get("loggingConfiguration") or {}
    if not is_logged(configuration.get("level", "OFF"), event["type"]):
        return
    for destination in configuration.get("destinations") or []:
        arn = destination["cloudWatchLogsLogGroup"]["logGroupArn"]
        group = arn.partition(":log-group:")[2].removesuffix(":*")
        if group in internal(cloudwatch_logs, "_log_groups"):
            with_data = bool(configuration.get("includeExecutionData"))
            line = log_line(execution["executionArn"], event, with_data=with_data)
            append_events(group, stream_of(machine["stateMachineArn"]), [line])


def as_api(configuration: JsonObject) -> JsonObject:
    """Return a LoggingConfiguration of CloudFormation as the API has it."""
    groups = [item.get("CloudWatchLogsLogGroup") or {} for item in configuration.get("Destinations") or []]
    return {
        "level": configuration.get("Level", "OFF"),
        "includeExecutionData": is_true(configuration.get("IncludeExecutionData", False)),
        "destinations": [
            {"cloudWatchLogsLogGroup": {"logGroupArn": group.get("LogGroupArn", "")}} for group in groups
        ],
    }


def install_logs(_: Settings) -> None:
    """Log executions, and read the logging configuration of a template."""
    watchers.append(log_event)
    handlers = resource_handlers("AWS::StepFunctions::StateMachine")
    create, update = handlers["create"], handlers["update"]

    def with_logging(properties: JsonObject) -> JsonObject:
        configuration = properties.get("LoggingConfiguration")
        return {**properties, "LoggingConfiguration": as_api(configuration)} if configuration else properties

    def create_machine(logical_id: str, properties: JsonObject, stack_name: str) -> Any:
        return create(logical_id, with_logging(properties), stack_name)

    def update_machine(physical_id: str, old: JsonObject, new: JsonObject, *arguments: Any, **options: Any) -> Any:
        return update(physical_id, old, with_logging(new), *arguments, **options)

    handlers["create"], handlers["update"] = create_machine, update_machine


# ---------------------------------------------------------------- metrics


def duration_ms(execution: JsonObject) -> int:
    """Return how long an execution has run, in milliseconds; the execution must have ended."""
    epoch_ms = internal(stepfunctions, "_iso_to_epoch_ms")
    return int(epoch_ms(execution["stopDate"]) - epoch_ms(execution["startDate"]))


def billed_ms(execution: JsonObject) -> int:
    """Return the duration that an Express execution is billed for: its own, rounded up to 100 ms."""
    return max(-(-duration_ms(execution) // BILLED_STEP_MS), 1) * BILLED_STEP_MS


def count_event(machine: JsonObject, execution: JsonObject, event: JsonObject) -> None:
    """Count an execution's start or end."""
    record = internal(cloudwatch, "record_metric")
    dimensions = {"StateMachineArn": machine["stateMachineArn"]}
    if event["type"] == "ExecutionStarted":
        record("AWS/States", "ExecutionsStarted", 1, "Count", dimensions)
    elif event["type"] in ENDS:
        record("AWS/States", ENDS[event["type"]], 1, "Count", dimensions)
        record("AWS/States", "ExecutionTime", duration_ms(execution), "Milliseconds", dimensions)
        if is_express(execution["executionArn"]):
            billed = billed_ms(execution)
            record("AWS/States", "ExpressExecutionBilledDuration", billed, "Milliseconds", dimensions)


def install_metrics(_: Settings) -> None:
    """Count executions."""
    watchers.append(count_event)


CORRECTIONS = (
    Correction(
        name="stepfunctions-logs",
        service="Step Functions",
        aws=(
            "The history goes to the log group of the LoggingConfiguration, one JSON object an event: all events, "
            "those of errors, those of failed executions, or none, and input and output with IncludeExecutionData "
            "only. A LoggingConfiguration in a template is described as the API has it."
        ),
        ministack="Nothing is logged. The configuration is described in a template's spelling, which no SDK reads.",
        here="Executions are logged as documented, one log stream for each state machine.",
        install=install_logs,
    ),
    Correction(
        name="stepfunctions-metrics",
        service="CloudWatch",
        aws=(
            "AWS/States counts the executions of each state machine: started, succeeded, failed, timed out, aborted, "
            "their time and, for Express, the billed duration in steps of 100 ms."
        ),
        ministack="Executions report nothing.",
        here="These metrics are reported.",
        install=install_metrics,
    ),
)
