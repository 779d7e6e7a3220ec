"""The workflow's executions for one order, and what happened in each, as far as logs tell.

Step Functions keeps no history of an Express execution. The workflow's log has every event at level ALL, and failures
only at level ERROR. At any level, the log of ValidateOrder tells which execution took which order up.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

import yaml

from orderctl.stack.logs import LogLine, execution_of
from orderctl.stack.target import Target
from orders.domain.clock import seconds_since
from orders.inbox.record import FailureRecord

# Step Functions ends an Express execution after this time.
LONGEST_S = 300
ENDS = {"ExecutionFailed": "failed", "ExecutionTimedOut": "timed out", "ExecutionAborted": "aborted"}


@dataclass
class HistoryLine:
    """An event in an order's life: its time (UTC, ISO 8601), its source, and a description."""

    at: str
    source: str
    what: str


@dataclass
class Attempts:
    """An execution's present state and its failed attempts, each as (error, message).

    `state` is "" and the attempts are those of all states if the log has failures only. `waiting_since` is when the
    last attempt failed; "" while an attempt is under way.
    """

    state: str = ""
    entered_at: str = ""
    errors: list[tuple[str, str]] = field(default_factory=list)
    waiting_since: str = ""


@dataclass
class Execution:
    """A workflow execution of the order: the first time that is known of it, and its end as far as known."""

    execution_id: str
    lines: list[HistoryLine]
    begun_at: str
    ended: bool = False
    failed: bool = False
    attempts: Attempts = field(default_factory=Attempts)

    @property
    def may_run(self) -> bool:
        """Whether the execution can still be at work."""
        return not self.ended and seconds_since(self.begun_at) < LONGEST_S


def ids_in(failures: Iterable[FailureRecord]) -> set[str]:
    """Return the executions that failures name."""
    return {execution_of(failure.source.get("executionArn", "")) for failure in failures} - {""}


def read(order_id: str, logged: Iterable[LogLine], failures: Iterable[FailureRecord]) -> list[Execution]:
    """Return the executions that an order's log lines tell of, oldest first. One that a failure names has ended."""
    by_id: dict[str, list[LogLine]] = {}
    for line in logged:
        if line.execution:
            by_id.setdefault(line.execution, []).append(line)
    stuck = ids_in(failures)
    found = [_read_one(order_id, each, lines) for each, lines in by_id.items()]
    for execution in found:
        if execution.execution_id in stuck:
            execution.ended = execution.failed = True
    return sorted(found, key=lambda execution: execution.begun_at)


def _read_one(order_id: str, execution_id: str, logged: list[LogLine]) -> Execution:
    logged = sorted(logged, key=lambda line: (line.at, line.event_id))
    execution = Execution(execution_id, [], logged[0].at)
    _machine, _, name_and_number = execution_id.partition(":")
    name = name_and_number.partition(":")[0].removeprefix(f"{order_id}-")
    for line in logged:
        text = _event(execution, line) if line.event else f"took the order up, {line.fields.get('status', '?')}"
        if text:
            execution.lines.append(HistoryLine(line.at, f"workflow {name[-12:]}", text))
    return execution


def _event(execution: Execution, line: LogLine) -> str:
    """Bring an execution up to an event; returns the event in words, "" if no reader needs it."""
    event, details, at = line.event, line.fields.get("details") or {}, execution.attempts
    text = ""
    if event == "ExecutionStarted":
        text = "started"
    elif event.startswith("Execution"):
        execution.ended = True
        if event != "ExecutionSucceeded":
            causes = (details.get("error"), message_of(details.get("cause", "")))
            text = ": ".join(filter(None, (ENDS.get(event, event), *causes)))
            execution.failed = True
    elif event.endswith("StateEntered"):
        execution.attempts = Attempts(str(details.get("name", "")), line.at)
        if event.startswith(("Task", "Wait", "Succeed")):  # a choice shows in the state that follows
            text = execution.attempts.state
    elif line.level == "ERROR":
        at.errors.append((str(details.get("error", event)), message_of(str(details.get("cause", "")))))
        at.waiting_since = line.at
        state = f"{at.state}: attempt {len(at.errors)}" if at.state else "an attempt"
        text = f"{state} failed: {': '.join(filter(None, at.errors[-1]))}"
    elif event == "TaskScheduled":
        at.waiting_since = ""
    return text


def message_of(cause: str) -> str:
    """Return the message in an error's cause: a Lambda error, the cause of OrderStuck, or plain text."""
    try:
        parsed = json.loads(cause)
    except (ValueError, RecursionError):
        return cause[:300]
    if isinstance(parsed, dict):
        if "state" in parsed and "cause" in parsed:
            return f"{parsed['state']}: {message_of(str(parsed['cause']))}"
        return str(parsed.get("errorMessage", cause))[:300]
    return cause[:300]


def next_attempt(target: Target, at: Attempts) -> str:
    """Return when the next attempt is due, such as "due within 4 s"; "" without a retrier for the error.

    With full jitter, Step Functions draws the moment; the definition limits only the longest wait.
    """
    machine = target.client("stepfunctions").describe_state_machine(stateMachineArn=target.output("StateMachineArn"))
    definition = yaml.safe_load(machine["definition"])  # JSON on AWS; JSON is YAML, too
    error = at.errors[-1][0]
    for retrier in definition["States"].get(at.state, {}).get("Retry", []):
        if error in retrier["ErrorEquals"] or "States.ALL" in retrier["ErrorEquals"]:
            delay = retrier.get("IntervalSeconds", 1) * retrier.get("BackoffRate", 2) ** (len(at.errors) - 1)
            left = min(delay, retrier.get("MaxDelaySeconds", delay)) - seconds_since(at.waiting_since)
            return f"due within {max(1, round(left))} s" if left > 0 else "due now"
    return ""
