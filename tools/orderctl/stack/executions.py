"""The workflow's executions for one order: which ones there are, and what happened in each."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from orderctl.stack import logs
from orderctl.stack.records import StoredOrder
from orderctl.stack.target import Target
from orders.domain.clock import seconds_since
from orders.inbox.record import FailureRecord
from orders.workflow import FAILED_ATTEMPTS, order_of_execution, redrive_execution_names

# How many executions are searched for an order that has not noted its own yet.
MOST_EXECUTIONS = 200
START_WINDOW_S = 600
ENDS = {
    "ExecutionSucceeded": "",
    "ExecutionFailed": "executionFailedEventDetails",
    "ExecutionTimedOut": "executionTimedOutEventDetails",
    "ExecutionAborted": "executionAbortedEventDetails",
}


@dataclass
class HistoryLine:
    """An event in an order's life: its time (UTC, ISO 8601), its source, and a description."""

    at: str
    source: str
    what: str


@dataclass
class Attempts:
    """The present state of an execution and its failed attempts, each as (error, message).

    `waiting_since` is when the last attempt failed; "" while an attempt is under way.
    """

    state: str = ""
    entered_at: str = ""
    errors: list[tuple[str, str]] = field(default_factory=list)
    waiting_since: str = ""


@dataclass
class Execution:
    """A workflow execution of the order; `status` is Step Functions' word."""

    arn: str
    status: str
    lines: list[HistoryLine]
    attempts: Attempts


def noted(target: Target, order: StoredOrder, failures: list[FailureRecord]) -> list[str]:
    """Return the ARNs of the order's executions that can be known without its log lines, oldest first.

    The order notes the execution that reserved its stock; a failure notes the one that failed; the names of those
    that redrives started follow from the failure. For an order without a note, the newest executions are searched.
    """
    prefix = _prefix(target)
    arns = [order.execution_arn] if order.execution_arn else []
    for failure in failures:
        if "executionArn" in failure.source:
            arns.append(failure.source["executionArn"])
        arns += [f"{prefix}:{name}" for name in redrive_execution_names(failure)]
    if not order.execution_arn:
        arns += _search(target, order)
    return list(dict.fromkeys(arns))


def started_by_sweep(target: Target, order_id: str, logged: Iterable[logs.LogLine]) -> list[str]:
    """Return the ARNs of the order's executions that log lines name; the sweep logs each execution that it starts."""
    names = dict.fromkeys(str(line.fields.get("execution", "")) for line in logged)
    return [f"{_prefix(target)}:{name}" for name in names if order_of_execution(name) == order_id]


def _prefix(target: Target) -> str:
    return target.output("StateMachineArn").replace(":stateMachine:", ":execution:")


def _search(target: Target, order: StoredOrder) -> Iterator[str]:
    try:
        placed = datetime.datetime.fromisoformat(order.placed_at)
    except ValueError:
        return
    states = target.client("stepfunctions")
    pages = states.get_paginator("list_executions").paginate(
        stateMachineArn=target.output("StateMachineArn"),
        PaginationConfig={"MaxItems": MOST_EXECUTIONS * 5, "PageSize": 100},
    )
    looked_at = 0
    for page in pages:
        for execution in page["executions"]:
            started = execution["startDate"]
            if started < placed - datetime.timedelta(seconds=5) or looked_at == MOST_EXECUTIONS:
                return
            if started > placed + datetime.timedelta(seconds=START_WINDOW_S):
                continue
            looked_at += 1
            if order_of_execution(execution["name"]) == order.order_id:
                yield execution["executionArn"]
                continue
            given = states.describe_execution(executionArn=execution["executionArn"]).get("input", "")
            if order.order_id in given:
                yield execution["executionArn"]


def read(target: Target, arn: str) -> Execution | None:
    """Return an execution with its history; None if there is none, or if it ended more than 90 days ago."""
    states = target.client("stepfunctions")
    try:
        status = states.describe_execution(executionArn=arn)["status"]
        events = [
            event
            for page in states.get_paginator("get_execution_history").paginate(executionArn=arn)
            for event in page["events"]
        ]
    except states.exceptions.ExecutionDoesNotExist:
        return None
    lines: list[HistoryLine] = []
    at = Attempts()
    source = f"workflow {arn.rpartition(':')[2][-12:]}"
    for event in events:
        time, kind = logs.iso(event["timestamp"]), event["type"]
        text = ""
        if kind == "ExecutionStarted":
            text = "started" + _path_of(event["executionStartedEventDetails"].get("input", ""))
        elif kind.endswith("StateEntered"):
            at = Attempts(event["stateEnteredEventDetails"]["name"], time)
            text = f"{at.state}"
        elif kind in FAILED_ATTEMPTS:
            details = event.get(FAILED_ATTEMPTS[kind], {})
            at.errors.append((details.get("error", kind), message_of(details.get("cause", ""))))
            at.waiting_since = time
            text = f"{at.state}: attempt {len(at.errors)} failed: {': '.join(filter(None, at.errors[-1]))}"
        elif kind == "TaskScheduled":
            at.waiting_since = ""
        elif kind == "TaskSubmitted":
            text = f"{at.state}: message {_message_id(event)} sent"
        elif kind in ENDS:
            details = event.get(ENDS[kind], {})
            causes = (details.get("error"), message_of(details.get("cause", "")))
            text = ": ".join(filter(None, (kind.removeprefix("Execution").lower(), *causes)))
        if text:
            lines.append(HistoryLine(time, source, text))
    return Execution(arn, status, lines, at)


def _path_of(given: str) -> str:
    try:
        path = json.loads(given).get("path", "forward")
    except (ValueError, AttributeError):
        return ""
    return "" if path == "forward" else f" to {path}"


def _message_id(event: dict[str, Any]) -> str:
    try:
        return str(json.loads(event["taskSubmittedEventDetails"]["output"])["MessageId"])
    except (KeyError, ValueError, TypeError):
        return "?"


def message_of(cause: str) -> str:
    """Return the message in an error's cause: a Lambda error, the report of a stuck state, or plain text."""
    try:
        parsed = json.loads(cause)
    except (ValueError, RecursionError):
        return cause[:300]
    if isinstance(parsed, dict):
        if "state" in parsed and "cause" in parsed:
            return f"{parsed['state']}: {message_of(str(parsed['cause']))}"
        return str(parsed.get("errorMessage", cause))[:300]
    return cause[:300]


def next_attempt(target: Target, execution: Execution) -> str:
    """Return when the next attempt is due, such as "due within 4 s"; "" without a retrier for the error.

    With full jitter, Step Functions draws the moment; the definition limits only the longest wait.
    """
    at = execution.attempts
    machine = target.client("stepfunctions").describe_state_machine_for_execution(executionArn=execution.arn)
    definition = yaml.safe_load(machine["definition"])  # JSON on AWS; JSON is YAML, too
    error = at.errors[-1][0]
    for retrier in definition["States"].get(at.state, {}).get("Retry", []):
        if error in retrier["ErrorEquals"] or "States.ALL" in retrier["ErrorEquals"]:
            delay = retrier.get("IntervalSeconds", 1) * retrier.get("BackoffRate", 2) ** (len(at.errors) - 1)
            left = min(delay, retrier.get("MaxDelaySeconds", delay)) - seconds_since(at.waiting_since)
            return f"due within {max(1, round(left))} s" if left > 0 else "due now"
    return ""
