"""What a smoke looks at besides its orders: that every function has run, was refused nothing, and writes metrics."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from typing import Any

from orderctl.stack import logs
from orderctl.stack.description import Description, alarms
from orderctl.stack.target import Target

POLL_S = 2.0
# How Lambda and botocore word a missing permission.
REFUSALS = ("AccessDenied", "is not authorized to perform")
# AWS writes these only when there is trouble.
ONLY_IN_TROUBLE = {
    "DeadLetterErrors",
    "DestinationDeliveryFailures",
    "FailedInvocations",
    "InvocationsFailedToBeSentToDlq",
    "InvocationsSentToDlq",
    "TargetErrorCount",
    "ThrottledRules",
}


def run_schedules(target: Target, description: Description) -> list[str]:
    """Invoke each scheduled function as its schedule does; returns a sentence for each that fails."""
    problems = []
    for name, physical in description.of_kind("AWS::Scheduler::Schedule").items():
        schedule = target.client("scheduler").get_schedule(Name=physical)["Target"]
        answer = target.client("lambda").invoke(
            FunctionName=schedule["Arn"], Payload=schedule.get("Input", "{}").encode()
        )
        said = answer["Payload"].read().decode(errors="replace")
        if answer.get("FunctionError"):
            problems.append(f"the function of {name} failed: {said[:300]}")
    return problems


def functions_that_ran(target: Target, description: Description, since_ms: int, timeout_s: float) -> list[str]:
    """Return a sentence for each function that has not run since, or that AWS refused something."""
    groups = _groups(target, description)
    silent = dict(groups)

    def look() -> bool:
        for function, group in list(silent.items()):
            if next(iter(logs.events(target, group, "", since_ms)), None):
                del silent[function]
        return not silent

    _until(look, timeout_s)
    problems = [f"{function} has not run: its log has no line since the smoke began" for function in silent]
    for function, group in groups.items():
        for phrase in REFUSALS:
            found = next(iter(logs.events(target, group, f'"{phrase}"', since_ms)), None)
            if found:
                problems.append(f"{function} lacks a permission: {found['message'].strip()[:300]}")
                break
    return problems


def _groups(target: Target, description: Description) -> dict[str, str]:
    """Return the log group of each function, by the function's logical id."""
    functions = target.client("lambda")
    found = {}
    for logical_id, name in description.of_kind("AWS::Lambda::Function").items():
        configuration = functions.get_function_configuration(FunctionName=name)
        found[logical_id] = configuration.get("LoggingConfig", {}).get("LogGroup") or f"/aws/lambda/{name}"
    return found


def metrics_of_alarms(
    target: Target, description: Description, since_ms: int, timeout_s: float
) -> tuple[list[str], list[str]]:
    """Return the alarms whose metric has no value since: as problems, and those for which that is no problem.

    A metric of our own without a value means that an alarm watches what nobody writes.
    """
    waiting = {each["AlarmName"]: each for each in alarms(target, description) if "MetricName" in each}
    names = {physical: logical for logical, physical in description.of_kind("AWS::CloudWatch::Alarm").items()}

    def look() -> bool:
        for name, alarm in list(waiting.items()):
            if _has_value(target, alarm, since_ms):
                del waiting[name]
        return not any(_must_have_value(target, alarm) for alarm in waiting.values())

    _until(look, timeout_s)
    problems: list[str] = []
    notes: list[str] = []
    for name, alarm in waiting.items():
        said = f"{names[name]} watches {alarm['Namespace']} {alarm['MetricName']}, which has no value yet"
        (problems if _must_have_value(target, alarm) else notes).append(said)
    return problems, notes


def _must_have_value(target: Target, alarm: dict[str, Any]) -> bool:
    # SQS begins to report a queue's metrics up to 15 minutes late; the local cloud has no metrics of some services.
    is_aws = alarm["Namespace"].startswith("AWS/")
    late = alarm["Namespace"] == "AWS/SQS" or (is_aws and target.local is not None)
    return not late and alarm["MetricName"] not in ONLY_IN_TROUBLE


def _has_value(target: Target, alarm: dict[str, Any], since_ms: int) -> bool:
    now = datetime.datetime.now(datetime.UTC)
    answer = target.client("cloudwatch").get_metric_statistics(
        Namespace=alarm["Namespace"],
        MetricName=alarm["MetricName"],
        Dimensions=alarm.get("Dimensions", []),
        StartTime=datetime.datetime.fromtimestamp(since_ms / 1000, datetime.UTC) - datetime.timedelta(minutes=1),
        EndTime=now + datetime.timedelta(minutes=1),
        Period=60,
        Statistics=["SampleCount"],
    )
    return bool(answer["Datapoints"])


def _until(done: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not done() and time.monotonic() < deadline:
        time.sleep(POLL_S)
